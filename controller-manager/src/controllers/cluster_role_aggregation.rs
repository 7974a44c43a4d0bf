//! Cluster roles with an aggregation rule hold the union of the rules of the roles it selects.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::informer::Store;
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::PostParams;

use crate::context::{Context, synced};
use crate::util::meta;
use crate::util::selector::Selector;

/// The rules that `role` must have, or `None` if it has them or does not aggregate.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> anyhow::Result<Option<Vec<PolicyRule>>> {
    let Some(selectors) = role.aggregation_rule.as_ref().and_then(|r| r.cluster_role_selectors.as_ref())
    else {
        return Ok(None);
    };
    let mut sorted: Vec<&Arc<ClusterRole>> =
        all.iter().filter(|r| r.metadata.name != role.metadata.name).collect();
    sorted.sort_by_key(|r| r.metadata.name.as_deref());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = Selector::new(selector).context("aggregation rule")?;
        for rule in sorted
            .iter()
            .filter(|r| selector.matches(r.metadata.labels.as_ref()))
            .flat_map(|r| r.rules.iter().flatten())
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok((role.rules.as_deref().unwrap_or_default() != rules).then_some(rules))
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let roles = ctx.informers.of::<ClusterRole>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let store: Store<ClusterRole> = roles.store();
    store.add_index("aggregated", |r| {
        r.aggregation_rule.as_ref().map(|_| String::new()).into_iter().collect()
    });
    let (q, s) = (queue.clone(), store.clone());
    roles.on_change(move |d| {
        // Any role may be part of any aggregate, and aggregates are few.
        if d.old().is_some_and(|o| {
            !d.is_deleted()
                && o.rules == d.object().rules
                && o.metadata.labels == d.object().metadata.labels
                && o.aggregation_rule == d.object().aggregation_rule
        }) {
            return;
        }
        s.by_index("aggregated", "").iter().for_each(|r| q.add(meta::name(&r.metadata).to_owned()));
    });
    let client = ctx.client("clusterrole-aggregation-controller")?;
    ctx.work("ClusterRoleAggregator", &queue, 5, vec![synced(&roles)], move |name| {
        let (client, store) = (client.clone(), store.clone());
        async move {
            let Some(role) = store.get(&name) else { return Ok(()) };
            let Some(rules) = aggregate(&role, &store.list())? else { return Ok(()) };
            let mut updated = role.as_ref().clone();
            updated.rules = Some(rules);
            let api: Api<ClusterRole> = Api::all(client);
            api.replace(&name, &PostParams::default(), &updated)
                .await
                .map(|_| ())
                .with_context(|| format!("updating the rules of cluster role {name}"))
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    fn role(name: &str, label: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let mut r = ClusterRole::default();
        r.metadata.name = Some(name.into());
        r.metadata.labels = Some([("to".to_owned(), label.to_owned())].into());
        r.rules = Some(
            verbs
                .iter()
                .map(|v| PolicyRule { verbs: vec![(*v).to_owned()], ..PolicyRule::default() })
                .collect(),
        );
        Arc::new(r)
    }

    #[test]
    fn rules_are_united_in_order_of_names() {
        let selector = LabelSelector {
            match_labels: Some([("to".to_owned(), "edit".to_owned())].into()),
            match_expressions: None,
        };
        let mut target = ClusterRole {
            aggregation_rule: Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) }),
            ..ClusterRole::default()
        };
        let all = [
            role("b", "edit", &["get", "list"]),
            role("a", "edit", &["list"]),
            role("c", "view", &["watch"]),
        ];
        let rules = aggregate(&target, &all).ok().flatten().unwrap_or_default();
        let verbs: Vec<_> = rules.iter().map(|r| r.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["list", "get"]);
        target.rules = Some(rules);
        assert_eq!(aggregate(&target, &all).ok().flatten(), None);
    }
}
