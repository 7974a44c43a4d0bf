//! Resources that upstream has deprecated: their clients are warned, counted and marked in the audit log.

use crate::request::RequestInfo;

/// One deprecated resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecated {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    /// The sentence for clients.
    pub warning: &'static str,
    /// It is only ever read: other methods lead nowhere.
    pub read_only: bool,
    /// The release without it, `1.40`; empty where none is planned.
    pub removed_release: &'static str,
}

const ALL: &[Deprecated] = &[
    Deprecated {
        group: "",
        version: "v1",
        resource: "componentstatuses",
        warning: "v1 ComponentStatus is deprecated in v1.19+",
        read_only: true,
        removed_release: "",
    },
    Deprecated {
        group: "",
        version: "v1",
        resource: "endpoints",
        warning: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        read_only: false,
        removed_release: "",
    },
];

/// What there is to say about what the request is for.
pub fn of(info: &RequestInfo) -> Option<&'static Deprecated> {
    if !info.is_resource {
        return None;
    }
    let reads = matches!(info.verb.as_str(), "get" | "list" | "watch");
    ALL.iter().find(|d| {
        d.resource == info.resource
            && d.group == info.api_group
            && d.version == info.api_version
            && (reads || !d.read_only)
    })
}
