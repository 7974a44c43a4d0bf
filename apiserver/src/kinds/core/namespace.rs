//! Namespaces: born active, with a finalizer that the namespace controller takes away once all content is gone.

use k8s_openapi::api::core::v1 as api;

use crate::kinds::semantic::fill;
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
}
