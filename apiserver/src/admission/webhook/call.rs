//! One call of one webhook: the question, the answer, and what a failure means.

use std::time::Instant;

use serde_json::Value;

use super::forms::View;
use super::hook::Hook;
use super::metrics::Observed;
use super::review::{self, Answer, Question};
use super::{Webhooks, matching, rules};
use crate::admission::Attributes;
use crate::status::ApiError;
use crate::webhook::client::Call;

/// How a call ended that did not let the request pass.
#[derive(Debug)]
pub enum Failure {
    /// The webhook could not be asked, or did not answer properly: its failure policy decides.
    Calling { why: String, code: u16 },
    /// It refused.
    Refused(ApiError),
    /// This server could not do its part.
    Internal(ApiError),
}

impl Failure {
    fn code(&self) -> u16 {
        match self {
            Self::Calling { code, .. } => *code,
            Self::Refused(e) => e.code,
            Self::Internal(_) => 0,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Calling { .. } => "calling_webhook_error",
            Self::Refused(_) => "no_error",
            Self::Internal(_) => "apiserver_internal_error",
        }
    }
}

/// What a webhook is asked about.
pub struct Subject<'a> {
    pub hook: &'a Hook,
    pub attrs: &'a Attributes<'a>,
    /// The request's own view, and the one in which this webhook is asked.
    pub requested: &'a View,
    pub view: &'a View,
    /// As the webhook sees them.
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub mutating: bool,
}

impl Subject<'_> {
    /// The phase as metrics name it.
    pub fn phase(&self) -> &'static str {
        if self.mutating { "admit" } else { "validating" }
    }

    fn calling(&self, why: impl std::fmt::Display, code: u16) -> Failure {
        Failure::Calling { why: format!("failed calling webhook {:?}: {why}", self.hook.name), code }
    }
}

/// Asks. Warnings reach the client whatever the answer is.
///
/// # Errors
/// Everything but leave to go on.
pub async fn ask(webhooks: &Webhooks, s: &Subject<'_>) -> Result<Answer, Failure> {
    let (hook, attrs) = (s.hook, s.attrs);
    if attrs.dry_run && !hook.dry_run {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Internal(ApiError::bad_request(why)));
    }
    let Some(version) = hook.review else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(s.calling(why, 400));
    };
    let client = webhooks.client(&hook.client, s.mutating).map_err(|e| {
        let code = e.code();
        s.calling(format!("could not get REST client: {e}"), code)
    })?;
    let uid = uuid::Uuid::new_v4().to_string();
    let options = attrs.options.to_value();
    let namespace = matching::namespace_of(attrs, s.object);
    let question = Question {
        uid: &uid,
        kind: &s.view.kind,
        resource: &s.view.resource,
        request_kind: &s.requested.kind,
        request_resource: &s.requested.resource,
        subresource: attrs.subresource,
        name: attrs.object_name(s.object),
        namespace: &namespace,
        operation: rules::operation(attrs.operation),
        user: attrs.user,
        object: s.object,
        old: s.old,
        dry_run: attrs.dry_run,
        options: options.as_ref(),
    };
    let body = review::encode(version, &question)
        .map_err(|e| s.calling(format!("could not create admission objects: {e}"), 400))?;
    let mut call = Call::new(body, hook.timeout);
    call.tell_deadline = true;
    let answer = client.post(call).await.map_err(|e| {
        let code = e.code();
        s.calling(format!("failed to call webhook: {e}"), code)
    })?;
    let answer = review::decode(version, &uid, s.mutating, &answer)
        .map_err(|e| s.calling(format!("failed to call webhook: {e}"), 503))?
        .map_err(|e| s.calling(format!("received invalid webhook response: {e}"), 503))?;
    for (key, value) in &answer.annotations {
        crate::audit::annotate(&format!("{}/{key}", hook.name), || value.clone());
    }
    for w in &answer.warnings {
        attrs.warnings.add(w.as_str());
    }
    if !answer.allowed {
        let refusal = review::refusal(&hook.name, answer.result);
        return Err(Failure::Refused(ApiError::verbatim(refusal)));
    }
    Ok(answer)
}

/// Counts the call and applies the failure policy. None: the request goes on as if there were no such webhook.
pub fn settle<T>(
    webhooks: &Webhooks,
    s: &Subject<'_>,
    started: Instant,
    outcome: Result<T, Failure>,
) -> Result<Option<T>, ApiError> {
    let operation = rules::operation(s.attrs.operation);
    let name = s.hook.name.as_str();
    let open = s.hook.fail_open && matches!(outcome, Err(Failure::Calling { .. }));
    let code = match &outcome {
        Ok(_) => 200,
        Err(e) => e.code(),
    };
    let rejected = outcome.is_err() && !open;
    webhooks.metrics.observe(&Observed {
        hook: name,
        phase: s.phase(),
        operation,
        took: started.elapsed(),
        code,
        rejected,
    });
    let failure = match outcome {
        Ok(v) => return Ok(Some(v)),
        Err(f) => f,
    };
    if open {
        webhooks.metrics.fail_open(name, s.phase());
        if let Failure::Calling { why, .. } = &failure {
            tracing::warn!(webhook = name, error = %why, "failed calling webhook, failing open");
        }
        return Ok(None);
    }
    webhooks.metrics.reject(name, s.phase(), operation, failure.kind(), code);
    Err(match failure {
        Failure::Calling { why, .. } => {
            tracing::warn!(webhook = name, error = %why, "failed calling webhook, failing closed");
            ApiError::internal(why)
        }
        Failure::Refused(e) | Failure::Internal(e) => e,
    })
}
