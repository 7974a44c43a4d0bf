//! Network policies.

use k8s_openapi::api::networking::v1 as api;

use super::validation;
use crate::field::ErrorList;
use crate::kinds::semantic::{first_generation, items, next_generation, same};
use crate::kinds::validate::address;
use crate::registry::strategy::{Context, Strategy};

/// Rules of network policies.
pub struct NetworkPolicy;

fn default_ports(ports: &mut Option<Vec<api::NetworkPolicyPort>>) {
    for p in ports.iter_mut().flatten() {
        p.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

fn judged(cx: &mut Context, n: &api::NetworkPolicy, old: Option<&api::NetworkPolicySpec>) -> ErrorList {
    let Some(s) = &n.spec else { return ErrorList::new() };
    let errors = validation::network_policy(s, old);
    if errors.is_empty() {
        for (cidr, at) in validation::policy_networks(s) {
            cx.warnings.extend(address::cidr_warnings(cidr, &at));
        }
    }
    errors
}

impl Strategy for NetworkPolicy {
    type Object = api::NetworkPolicy;

    fn default(&self, n: &mut api::NetworkPolicy) {
        let spec = n.spec.get_or_insert_with(Default::default);
        spec.pod_selector.get_or_insert_with(Default::default);
        if items(&spec.policy_types).is_empty() {
            let mut types = vec!["Ingress".to_owned()];
            if !items(&spec.egress).is_empty() {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
        spec.ingress.iter_mut().flatten().for_each(|r| default_ports(&mut r.ports));
        spec.egress.iter_mut().flatten().for_each(|r| default_ports(&mut r.ports));
    }

    fn prepare_create(&self, _cx: &mut Context, n: &mut api::NetworkPolicy) {
        first_generation(&mut n.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, n: &mut api::NetworkPolicy, old: &api::NetworkPolicy) {
        let changed = !same(&n.spec, &old.spec);
        next_generation(&mut n.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, n: &api::NetworkPolicy) -> ErrorList {
        if cx.updating { ErrorList::new() } else { judged(cx, n, None) }
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        n: &api::NetworkPolicy,
        old: &api::NetworkPolicy,
    ) -> ErrorList {
        judged(cx, n, old.spec.as_ref())
    }
}
