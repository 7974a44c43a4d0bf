//! The conditions of a definition, as pure functions of it.

use serde_json::{Value, json};

use super::definition::Names;
use super::naming::{self, Taken};
use crate::lookup::{items, text};
use crate::registry::object;

/// Holds a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Grants the use of a protected group.
const APPROVED: &str = "api-approved.kubernetes.io";

/// One condition; when it last changed is added when it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn new(
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

/// The condition of that type.
pub fn find<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    items(crd, "/status/conditions").iter().find(|c| text(c, "/type") == kind)
}

/// Whether the condition is there and true.
pub fn is_true(crd: &Value, kind: &str) -> bool {
    find(crd, kind).is_some_and(|c| text(c, "/status") == "True")
}

fn list(crd: &mut Value) -> &mut Vec<Value> {
    let status = object::child_mut(object::root_mut(crd), "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    match list {
        Value::Array(a) => a,
        _ => unreachable!("made a list above"),
    }
}

/// Sets a condition. The time of the last transition changes with its status only.
pub fn set(crd: &mut Value, c: &Condition, now: &str) {
    let all = list(crd);
    let mut new = json!({
        "type": c.kind, "status": c.status, "lastTransitionTime": now, "reason": c.reason, "message": c.message,
    });
    match all.iter_mut().find(|x| text(x, "/type") == c.kind) {
        Some(old) => {
            if let Some(t) = old.get("lastTransitionTime").filter(|t| t.is_string())
                && text(old, "/status") == c.status
            {
                new["lastTransitionTime"] = t.clone();
            }
            *old = new;
        }
        None => all.push(new),
    }
}

fn remove(crd: &mut Value, kind: &str) {
    list(crd).retain(|c| text(c, "/type") != kind);
}

/// Whether objects of the definition can be asked for.
pub fn is_served(crd: &Value) -> bool {
    is_true(crd, "NamesAccepted") || is_true(crd, "Established")
}

/// Whether the definition is being deleted and waits for its objects.
pub fn is_finalizing(crd: &Value) -> bool {
    object::is_deleting(crd) && object::finalizers(crd).any(|f| f == FINALIZER)
}

/// Marks a definition for deletion: it stays until all its objects are gone.
pub fn begin_deletion(crd: &mut Value, now: &str) {
    object::set_meta(crd, "deletionTimestamp", now);
    if !object::finalizers(crd).any(|f| f == FINALIZER) {
        let meta = object::meta_mut(crd);
        match meta.get_mut("finalizers").and_then(Value::as_array_mut) {
            Some(list) => list.push(FINALIZER.into()),
            None => {
                meta.insert("finalizers".to_owned(), json!([FINALIZER]));
            }
        }
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set(crd, &Condition::new("Terminating", "True", "InstanceDeletionPending", message), now);
}

/// Brings names and conditions up to date with the spec. `taken` are the names that others in the group hold.
/// True where something changed.
pub fn reconcile(crd: &mut Value, taken: &Taken, now: &str) -> bool {
    let before = crd.get("status").cloned();
    names(crd, taken, now);
    establish(crd, now);
    approval(crd, now);
    structure(crd, now);
    crd.get("status") != before.as_ref()
}

fn names(crd: &mut Value, taken: &Taken, now: &str) {
    let asked = Names::read(crd.pointer("/spec/names"));
    let accepted = Names::read(crd.pointer("/status/acceptedNames"));
    if asked == accepted {
        return;
    }
    let (names, condition) = naming::accept(&asked, &accepted, taken);
    let status = object::child_mut(object::root_mut(crd), "status");
    status.insert("acceptedNames".to_owned(), names.to_value());
    let good = condition.status == "True";
    set(crd, &condition, now);
    if is_true(crd, "Established") {
        return;
    }
    let (reason, message) = match good {
        true => ("Installing", "the initial names have been accepted"),
        false => ("NotAccepted", "not all names are accepted"),
    };
    if good || find(crd, "Established").is_none() {
        set(crd, &Condition::new("Established", "False", reason, message), now);
    }
}

/// Upstream waits some seconds in clusters of several API servers, lest a client creates at one what another does
/// not serve yet. Here each server puts the resource in place before it says so, and the others follow by watch.
fn establish(crd: &mut Value, now: &str) {
    if !is_true(crd, "NamesAccepted") || is_true(crd, "Established") {
        return;
    }
    let bundle = text(crd, "/spec/conversion/webhook/clientConfig/caBundle");
    let condition = match valid_bundle(bundle) {
        true => Condition::new(
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
        false => Condition::new(
            "Established",
            "False",
            "InvalidCABundle",
            "The conversion webhook CABundle is invalid",
        ),
    };
    set(crd, &condition, now);
}

/// Whether a bundle (base64) is none at all or holds certificates.
fn valid_bundle(encoded: &str) -> bool {
    use base64::Engine as _;
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(encoded) else { return false };
    let certificate = |c: CertificateDer<'_>| x509_parser::parse_x509_certificate(&c).is_ok();
    pem.is_empty() || CertificateDer::pem_slice_iter(&pem).any(|c| c.is_ok_and(certificate))
}

/// Groups of the Kubernetes community need its approval.
fn approval(crd: &mut Value, now: &str) {
    let group = text(crd, "/spec/group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group.strip_suffix(d).is_some_and(|g| g.is_empty() || g.ends_with('.')));
    if !protected {
        return;
    }
    let said = object::meta(crd)
        .get("annotations")
        .and_then(|a| a.get(APPROVED))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url = url::Url::parse(said).is_ok_and(|u| u.host_str().is_some_and(|h| !h.is_empty()));
    let (status, reason, message) = if said.is_empty() {
        let message = format!("protected groups must have approval annotation {APPROVED:?}, {see}");
        ("False", "MissingAnnotation", message)
    } else if said.starts_with("unapproved") {
        ("False", "UnapprovedAnnotation", format!("not approved: {said:?}"))
    } else if is_url {
        ("True", "ApprovedAnnotation", format!("approved in {said}"))
    } else {
        let message = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
        );
        ("False", "InvalidAnnotation", message)
    };
    set(crd, &Condition::new("KubernetesAPIApprovalPolicyConformant", status, reason, message), now);
}

/// Definitions of before `v1` may keep unknown fields, which no structural schema allows.
fn structure(crd: &mut Value, now: &str) {
    let kind = "NonStructuralSchema";
    if crd.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool) == Some(true) {
        let message = "spec.preserveUnknownFields: Invalid value: true: must be false";
        set(crd, &Condition::new(kind, "True", "Violations", message), now);
    } else if find(crd, kind).is_some() {
        remove(crd, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(group: &str) -> Value {
        json!({
            "metadata": {"name": format!("foos.{group}")},
            "spec": {"group": group, "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"}},
            "status": {"acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]},
        })
    }

    fn said(crd: &Value, kind: &str) -> (String, String) {
        let c = find(crd, kind).cloned().unwrap_or_default();
        (text(&c, "/status").to_owned(), text(&c, "/reason").to_owned())
    }

    #[test]
    fn a_new_definition_is_established() {
        let mut c = crd("example.com");
        assert!(reconcile(&mut c, &Taken::default(), "t1"));
        assert_eq!(said(&c, "NamesAccepted"), ("True".into(), "NoConflicts".into()));
        assert_eq!(said(&c, "Established"), ("True".into(), "InitialNamesAccepted".into()));
        assert_eq!(c["status"]["acceptedNames"], c["spec"]["names"]);
        assert!(is_served(&c) && find(&c, "KubernetesAPIApprovalPolicyConformant").is_none());
        assert!(!reconcile(&mut c, &Taken::default(), "t2"), "what is in place is left alone");
    }

    #[test]
    fn taken_names_keep_it_from_being_established() {
        let mut taken = Taken::default();
        taken.kinds.insert("Foo".into());
        let mut c = crd("example.com");
        assert!(reconcile(&mut c, &taken, "t1"));
        assert_eq!(said(&c, "NamesAccepted"), ("False".into(), "KindConflict".into()));
        assert_eq!(said(&c, "Established"), ("False".into(), "NotAccepted".into()));
        assert_eq!(c["status"]["acceptedNames"]["plural"], "foos");
        assert!(!is_served(&c));
        assert!(reconcile(&mut c, &Taken::default(), "t2"));
        assert_eq!(said(&c, "Established").0, "True", "the name became free");
    }

    #[test]
    fn protected_groups_need_approval() {
        let reason = |annotation: &str| {
            let mut c = crd("x.k8s.io");
            c["metadata"]["annotations"] = json!({APPROVED: annotation});
            reconcile(&mut c, &Taken::default(), "t");
            said(&c, "KubernetesAPIApprovalPolicyConformant").1
        };
        assert_eq!(reason(""), "MissingAnnotation");
        assert_eq!(reason("unapproved, test"), "UnapprovedAnnotation");
        assert_eq!(reason("https://example.com/approved"), "ApprovedAnnotation");
        assert_eq!(reason("yes"), "InvalidAnnotation");
    }

    #[test]
    fn broken_bundles_and_kept_fields_are_told() {
        let mut c = crd("example.com");
        c["spec"]["preserveUnknownFields"] = json!(true);
        c["spec"]["conversion"] = json!({"webhook": {"clientConfig": {"caBundle": "bm9wZQ=="}}});
        reconcile(&mut c, &Taken::default(), "t");
        assert_eq!(said(&c, "Established"), ("False".into(), "InvalidCABundle".into()));
        assert_eq!(said(&c, "NonStructuralSchema"), ("True".into(), "Violations".into()));
        c["spec"]["preserveUnknownFields"] = json!(false);
        c["spec"]["conversion"] = json!({"strategy": "None"});
        reconcile(&mut c, &Taken::default(), "t");
        assert_eq!(said(&c, "Established").0, "True");
        assert!(find(&c, "NonStructuralSchema").is_none());
    }
}
