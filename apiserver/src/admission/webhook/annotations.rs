//! What the audit event of a request says of the webhooks that were asked: whether each changed the object and by which
//! patch, and which failed without that ending the request.
//!
//! Source: Kubernetes documentation, "Mutating webhook auditing annotations".

use serde::Serialize;

use super::hook::Hook;
use crate::audit::{self, Level};

/// What annotations of mutating webhooks begin with.
pub const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
/// What annotations of validating webhooks begin with.
pub const VALIDATING: &str = "validating.webhook.admission.k8s.io/";

#[derive(Serialize)]
struct Mutation<'a> {
    configuration: &'a str,
    webhook: &'a str,
    mutated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'a> {
    configuration: &'a str,
    webhook: &'a str,
    patch: &'a json_patch::Patch,
    patch_type: &'static str,
}

/// Which call of the request is meant: the round, and the place among all webhooks.
pub fn place(second: bool, index: usize) -> String {
    format!("round_{}_index_{index}", u8::from(second))
}

fn text(v: &impl Serialize) -> String {
    // Strings, booleans and JSON: nothing that could fail.
    serde_json::to_string(v).unwrap_or_default()
}

/// Whether a webhook that was asked changed the object.
pub fn mutation(place: &str, hook: &Hook, mutated: bool) {
    audit::annotate(&format!("{MUTATION}{place}"), || {
        text(&Mutation { configuration: &hook.configuration, webhook: &hook.name, mutated })
    });
}

/// The patch that a webhook answered with, for events that hold requests.
pub fn patch(place: &str, hook: &Hook, patch: &json_patch::Patch) {
    audit::annotate_at(Level::Request, &format!("patch.webhook.admission.k8s.io/{place}"), || {
        text(&Patch {
            configuration: &hook.configuration,
            webhook: &hook.name,
            patch,
            patch_type: "JSONPatch",
        })
    });
}

/// A webhook failed, and the request goes on. `kind` is [`MUTATION`] or [`VALIDATING`].
pub fn failed_open(kind: &str, place: &str, hook: &Hook) {
    audit::annotate(&format!("failed-open.{kind}{place}"), || hook.name.as_str());
}
