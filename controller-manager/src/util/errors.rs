//! What an API error means for a controller.

use kube::core::Status;

/// The namespace is being deleted, so nothing can be created in it: not a failure.
pub fn namespace_terminating(status: &Status) -> bool {
    status.code == 403
        && status
            .details
            .as_ref()
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

/// Whether the object was not there.
pub fn not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// HTTP status code of an answer by the server.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The server's message, as events show it.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
