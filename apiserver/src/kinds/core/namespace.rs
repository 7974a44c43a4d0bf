//! Namespaces: born active, with a finalizer that the namespace controller takes away once all content is gone.

use k8s_openapi::api::core::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{fill, items};
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Label that always repeats the namespace's name, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Rules of namespaces.
pub struct Namespace;

fn label_with_name(ns: &mut api::Namespace) {
    if let Some(name) = ns.metadata.name.clone().filter(|n| !n.is_empty()) {
        ns.metadata.labels.get_or_insert_with(Default::default).insert(NAME_LABEL.to_owned(), name);
    }
}

impl Strategy for Namespace {
    type Object = api::Namespace;

    fn default(&self, ns: &mut api::Namespace) {
        label_with_name(ns);
        ns.spec.get_or_insert_with(Default::default);
        fill(&mut ns.status.get_or_insert_with(Default::default).phase, "Active");
    }

    fn prepare_create(&self, _cx: &mut Context, ns: &mut api::Namespace) {
        label_with_name(ns);
        ns.status = Some(api::NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
        let spec = ns.spec.get_or_insert_with(Default::default);
        let finalizers = spec.finalizers.get_or_insert_with(Vec::new);
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".to_owned());
        }
    }

    fn prepare_update(&self, cx: &mut Context, ns: &mut api::Namespace, old: &api::Namespace) {
        label_with_name(ns);
        match cx.subresource.as_str() {
            "status" => ns.spec = old.spec.clone(),
            "finalize" => ns.status = old.status.clone(),
            _ => {
                ns.spec = old.spec.clone();
                ns.status = old.status.clone();
            }
        }
    }

    fn validate(&self, cx: &mut Context, ns: &api::Namespace) -> ErrorList {
        let mut errors = ErrorList::new();
        if !cx.updating {
            let path = Path::new("spec").child("finalizers");
            finalizers(ns, |_| path.clone(), &mut errors);
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, ns: &api::Namespace, _old: &api::Namespace) -> ErrorList {
        let mut errors = ErrorList::new();
        match cx.subresource.as_str() {
            "finalize" => {
                let path = Path::new("spec").child("finalizers");
                finalizers(ns, |i| path.index(i), &mut errors);
            }
            "status" => {
                let phase = ns.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
                let (expected, why) = if ns.metadata.deletion_timestamp.is_none() {
                    ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
                } else {
                    ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
                };
                if phase != expected {
                    errors.push(Error::invalid(&Path::new("status").child("Phase"), phase, why));
                }
            }
            _ => {}
        }
        errors
    }
}

/// Finalizers are qualified, or the ones that every cluster knows.
fn finalizers(ns: &api::Namespace, at: impl Fn(usize) -> Path, errors: &mut ErrorList) {
    let list = ns.spec.as_ref().map(|s| items(&s.finalizers)).unwrap_or_default();
    for (i, f) in list.iter().enumerate() {
        errors.extend(invalid_each(&at(i), f, text::qualified_name(f)));
        if !f.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&f.as_str()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&at(i), f, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_known_or_qualified() {
        let told = |f: &str| {
            let ns = serde_json::json!({"metadata": {"name": "n"}, "spec": {"finalizers": [f]}});
            let ns = serde_json::from_value(ns).expect("a namespace");
            Namespace.validate(&mut Context::default(), &ns).len()
        };
        assert_eq!((told("kubernetes"), told("a.b/c"), told("other"), told("")), (0, 0, 1, 3));
    }
}
