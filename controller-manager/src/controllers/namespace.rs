//! Namespace deletion: empties a namespace that is being deleted, then lets go of it.
//!
//! What there is to delete comes from discovery, so custom resources are covered. Pods go first, for other objects
//! may be needed while they shut down. What still stands in the way is told in the namespace's conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::queue::{Backoff, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use crate::context::{Context, synced};
use crate::util::discovery::{self, Kind};
use crate::util::{errors, meta};

const FINALIZER: &str = "kubernetes";
/// Lets every API server learn that the namespace is terminating before its content is listed.
const SETTLE: Duration = Duration::from_secs(1);

/// What one pass over the namespace found.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    discovery_failures: Vec<String>,
    content_failures: Vec<String>,
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Objects left that wait for a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Seconds the pods left may still take.
    grace: i64,
}

impl Findings {
    fn is_empty(&self) -> bool {
        self.discovery_failures.is_empty() && self.content_failures.is_empty() && self.remaining.is_empty()
    }
}

/// Brings the namespace's conditions in line with `findings`; says whether anything changed.
fn set_conditions(ns: &mut Namespace, findings: &Findings, now: Timestamp) -> bool {
    let counts = |map: &BTreeMap<String, usize>, unit: &str| {
        map.iter().map(|(k, n)| format!("{k}{unit} {n}")).collect::<Vec<_>>()
    };
    let remaining =
        findings.remaining.iter().map(|(k, n)| format!("{k} has {n} resource instances")).collect::<Vec<_>>();
    let finalizers = counts(&findings.finalizers, " in")
        .into_iter()
        .map(|s| s + " resource instances")
        .collect::<Vec<_>>();
    let failed =
        |list: &[String], prefix: &str| (!list.is_empty()).then(|| format!("{prefix}{}", list.join(", ")));
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "DiscoveryFailed",
            "ResourcesDiscovered",
            failed(&findings.discovery_failures, "Discovery failed for some groups, "),
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            None,
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeletionFailed",
            "ContentDeleted",
            failed(&findings.content_failures, "Failed to delete all resource types, "),
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            "SomeResourcesRemain",
            "ContentRemoved",
            failed(&remaining, "Some resources are remaining: "),
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            failed(&finalizers, "Some content in the namespace has finalizers remaining: "),
            "All content-preserving finalizers finished",
        ),
    ];
    let conditions = ns.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for (type_, bad, good, problem, all_well) in wanted {
        let (status, reason) = if problem.is_some() { ("True", bad) } else { ("False", good) };
        let message = problem.unwrap_or_else(|| all_well.to_owned());
        let new = NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(meta::api_time(now)),
        };
        match conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(c) if c.status == new.status && c.reason == new.reason && c.message == new.message => {}
            Some(c) => {
                let since = if c.status == new.status {
                    c.last_transition_time.clone()
                } else {
                    new.last_transition_time.clone()
                };
                *c = NamespaceCondition { last_transition_time: since, ..new };
                changed = true;
            }
            None => {
                conditions.push(new);
                changed = true;
            }
        }
    }
    changed
}

/// How long to wait before looking again.
fn pause(findings: &Findings) -> Duration {
    if findings.grace > 0 {
        return Duration::from_secs(findings.grace.unsigned_abs() / 2 + 1);
    }
    Duration::from_secs(1)
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let queue: WorkQueue<String> =
        WorkQueue::new(Backoff { base: Duration::from_millis(100), max: Duration::from_secs(60) });
    let namespaces = ctx.informers.of::<Namespace>();
    let q = queue.clone();
    namespaces.on_change(move |d| {
        let ns = d.object();
        if !d.is_deleted() && ns.metadata.deletion_timestamp.is_some() {
            // Our own status updates must not bring the namespace back at once.
            q.add_after(meta::name(&ns.metadata).to_owned(), SETTLE);
        }
    });
    let (pods, all, q) = (ctx.informers.of::<Pod>(), namespaces.store(), queue.clone());
    let left = pods.store();
    pods.on_change(move |d| {
        let ns = meta::namespace(&d.object().metadata);
        // The last pod is gone: what had to wait for it can go now.
        if d.is_deleted()
            && all.get(ns).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
            && left.in_namespace(ns).is_empty()
        {
            q.add(ns.to_owned());
        }
    });
    let client = ctx.client("namespace-controller")?;
    let (store, q) = (namespaces.store(), queue.clone());
    ctx.work(
        "namespace",
        &queue,
        ctx.flags.concurrent_namespace_syncs,
        vec![synced(&namespaces)],
        move |name| {
            let (client, store, queue) = (client.clone(), store.clone(), q.clone());
            async move {
                let deleting = store.get(&name).is_some_and(|ns| ns.metadata.deletion_timestamp.is_some());
                if deleting && let Some(again) = sync(&client, &name).await? {
                    queue.add_after(name, again);
                }
                Ok(())
            }
        },
    );
    Ok(())
}

/// One pass; says when to look again if something is left.
async fn sync(client: &Client, name: &str) -> anyhow::Result<Option<Duration>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(mut ns) = api.get_opt(name).await.with_context(|| format!("reading namespace {name}"))? else {
        return Ok(None);
    };
    let finalizers = ns.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if ns.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let status = ns.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Terminating") {
        status.phase = Some("Terminating".into());
        ns = api.replace_status(name, &PostParams::default(), &ns).await.context("setting the phase")?;
    }
    let findings = empty(client, name).await?;
    if set_conditions(&mut ns, &findings, Timestamp::now()) {
        ns = api.replace_status(name, &PostParams::default(), &ns).await.context("updating conditions")?;
    }
    if !findings.is_empty() {
        return Ok(Some(pause(&findings)));
    }
    if let Some(spec) = ns.spec.as_mut() {
        spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
    }
    match api.replace_subresource("finalize", name, &PostParams::default(), &ns).await {
        Ok(_) => Ok(None),
        Err(e) if errors::not_found(&e) => Ok(None),
        Err(e) => Err(anyhow::Error::from(e).context(format!("finalizing namespace {name}"))),
    }
}

/// Deletes what there is, pods first, and looks what is left.
async fn empty(client: &Client, namespace: &str) -> anyhow::Result<Findings> {
    let found = discovery::run(client).await.context("discovering what a namespace may hold")?;
    let mut findings = Findings { discovery_failures: found.stale, ..Findings::default() };
    let (pods, others): (Vec<Kind>, Vec<Kind>) = found
        .kinds
        .into_iter()
        .filter(|k| k.namespaced && k.supports(&["delete"]))
        .partition(|k| k.group_resource() == "pods");
    for kind in pods.iter().chain(&others) {
        if kind.group_resource() != "pods" && findings.remaining.contains_key("pods.") {
            break;
        }
        if let Err(e) = empty_kind(client, namespace, kind, &mut findings).await {
            let known = matches!(errors::code(&e), Some(404 | 405));
            if !known {
                findings.content_failures.push(format!("{}: {}", kind.group_resource(), errors::message(&e)));
            }
        }
    }
    if findings.remaining.contains_key("pods.") {
        findings.grace = grace_of_pods(client, namespace).await.unwrap_or(0);
    }
    Ok(findings)
}

async fn empty_kind(
    client: &Client,
    namespace: &str,
    kind: &Kind,
    findings: &mut Findings,
) -> kube::Result<()> {
    let api = kind.api(client.clone(), Some(namespace));
    let gone = DeleteParams::background();
    let listable = kind.supports(&["list"]);
    if listable && api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
        return Ok(());
    }
    if kind.supports(&["deletecollection"]) {
        api.delete_collection(&gone, &ListParams::default()).await?;
    } else if listable {
        for object in api.list_metadata(&ListParams::default()).await?.items {
            match api.delete(meta::name(&object.metadata), &gone).await {
                Err(e) if errors::not_found(&e) => {}
                other => {
                    other?;
                }
            }
        }
    }
    if !listable {
        return Ok(());
    }
    let left = api.list_metadata(&ListParams::default()).await?.items;
    if left.is_empty() {
        return Ok(());
    }
    // Upstream's messages name resources as `pods.` and `deployments.apps`.
    let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
    findings.remaining.insert(name, left.len());
    for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
        *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(())
}

/// The longest time that one of the pods left may take to stop.
async fn grace_of_pods(client: &Client, namespace: &str) -> kube::Result<i64> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    let grace = |p: &Pod| {
        let ended = crate::util::pods::is_terminal(p);
        let seconds = p.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(0);
        let seconds = p.metadata.deletion_grace_period_seconds.map_or(seconds, |d| d.min(seconds));
        if ended { 0 } else { seconds }
    };
    Ok(pods.items.iter().map(grace).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left_and_keep_their_times() {
        let mut ns = Namespace::default();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        findings.finalizers.insert("example.com/x".into(), 1);
        let early = Timestamp::UNIX_EPOCH;
        assert!(set_conditions(&mut ns, &findings, early));
        assert!(!set_conditions(&mut ns, &findings, early + Duration::from_secs(9)), "nothing new");
        let get = |ns: &Namespace, t: &str| {
            ns.status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .find(|c| c.type_ == t)
                .cloned()
                .unwrap_or_default()
        };
        let c = get(&ns, "NamespaceContentRemaining");
        assert_eq!((c.status.as_str(), c.reason.as_deref()), ("True", Some("SomeResourcesRemain")));
        assert_eq!(
            c.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        let f = get(&ns, "NamespaceFinalizersRemaining");
        assert_eq!(
            f.message.as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
            )
        );
        assert!(set_conditions(&mut ns, &Findings::default(), early + Duration::from_secs(9)));
        assert_eq!(get(&ns, "NamespaceContentRemaining").status, "False");
        let d = get(&ns, "NamespaceDeletionDiscoveryFailure");
        assert_eq!(d.last_transition_time, Some(meta::api_time(early)), "it did not change");
    }
}
