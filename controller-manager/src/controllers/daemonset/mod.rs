//! Daemon sets: a pod on every node that fits.
//!
//! Reads sets, nodes, pods and controller revisions; writes pods, revisions and the sets' status. [`fit`] judges nodes,
//! [`plan`] decides, with [`model`]; [`failed`] keeps a kubelet that refuses pods from being asked in a loop. This file
//! watches and writes. A change of a node wakes the sets to which it makes a difference.

mod failed;
mod fit;
mod model;
mod plan;

#[cfg(test)]
mod simulation;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::controller::events::{EventRecorder, EventType};
use component_base::controller::expectations::Expectations;
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::WorkQueue;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, Client};

use self::failed::FailedPods;
use self::fit::Conditions;
use self::plan::{Plan, Seen};
use crate::context::{Context, synced};
use crate::util::pod_control::{PodControl, batches};
use crate::util::revisions::{self, POD_HASH, Revisions};
use crate::util::selector::Selector;
use crate::util::{claim, errors, meta};

/// Service account.
const NAME: &str = "daemon-set-controller";
/// Source of events.
const EVENTS: &str = "daemonset-controller";

struct Controller {
    client: Client,
    pod_control: PodControl,
    events: EventRecorder,
    sets: Store<DaemonSet>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    revisions: Revisions,
    failed: FailedPods,
    expectations: Expectations,
    queue: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let client = ctx.client(NAME)?;
    let events = ctx.events.for_component(EVENTS);
    let sets = ctx.informers.of::<DaemonSet>();
    let nodes = ctx.informers.of::<Node>();
    let all_pods = ctx.informers.of::<Pod>();
    let revisions = ctx.informers.of::<ControllerRevision>();
    all_pods.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    revisions.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        pod_control: PodControl::new(client.clone(), events.clone()),
        events,
        sets: sets.store(),
        nodes: nodes.store(),
        pods: all_pods.store(),
        revisions: Revisions { client: client.clone(), store: revisions.store(), hash_label: POD_HASH },
        client,
        failed: FailedPods::default(),
        expectations: Expectations::new(),
        queue: WorkQueue::default(),
    });
    let this = c.clone();
    sets.on_change(move |d| this.set_changed(d));
    let this = c.clone();
    nodes.on_change(move |d| this.node_changed(d));
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    let ready = vec![synced(&sets), synced(&nodes), synced(&all_pods), synced(&revisions)];
    let queue = c.queue.clone();
    ctx.work("daemonset", &queue, ctx.flags.concurrent_daemonset_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await.with_context(|| format!("daemon set {key}")) }
    });
    Ok(())
}

impl Controller {
    fn set_changed(&self, d: &Delta<DaemonSet>) {
        let ds = d.object();
        let key = key_of(ds.as_ref());
        if d.is_deleted() {
            self.expectations.forget(&key);
        }
        if d.is_deleted() || d.old().is_some_and(|o| o.metadata.generation != ds.metadata.generation) {
            self.failed.forget(meta::uid(&ds.metadata));
        }
        self.queue.add(key);
    }

    fn node_changed(&self, d: &Delta<Node>) {
        if let Delta::Updated(old, new) = d
            && old.metadata.labels == new.metadata.labels
            && old.spec.as_ref().and_then(|s| s.taints.as_ref())
                == new.spec.as_ref().and_then(|s| s.taints.as_ref())
        {
            return;
        }
        for ds in self.sets.list() {
            let conditions = Conditions::of(&ds);
            let now = conditions.judge(d.object());
            let matters = match d {
                Delta::Updated(old, _) => {
                    conditions.judge(old) != now
                        || ds.status.as_ref().is_some_and(|s| s.number_misscheduled > 0)
                }
                Delta::Added(_) | Delta::Deleted(_) => now.run || now.stay,
            };
            if matters {
                self.queue.add(key_of(ds.as_ref()));
            }
        }
    }

    fn owner(&self, pod: &Pod) -> Option<Arc<DaemonSet>> {
        meta::controller_in(&self.sets, &pod.metadata)
    }

    fn pod_changed(&self, d: &Delta<Pod>) {
        let pod = d.object();
        let going = d.is_deleted() || pod.metadata.deletion_timestamp.is_some();
        if let Some(old) = d.old()
            && meta::controller_of(&old.metadata) != meta::controller_of(&pod.metadata)
            && let Some(before) = self.owner(old)
        {
            self.queue.add(key_of(before.as_ref()));
        }
        if let Some(ds) = self.owner(pod) {
            let key = key_of(ds.as_ref());
            if going {
                self.expectations.deletion_observed(&key, &key_of(pod.as_ref()));
            } else if matches!(d, Delta::Added(_)) {
                self.expectations.creation_observed(&key);
            }
            self.queue.add(key);
        } else if !going && meta::controller_of(&pod.metadata).is_none() {
            for ds in self.sets.in_namespace(meta::namespace(&pod.metadata)) {
                let selector = ds.spec.as_ref().and_then(|s| Selector::new(&s.selector).ok());
                if selector.is_some_and(|s| !s.is_empty() && s.matches(pod.metadata.labels.as_ref())) {
                    self.queue.add(key_of(ds.as_ref()));
                }
            }
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(ds) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(());
        };
        let Some(spec) = ds.spec.as_ref() else { return Ok(()) };
        let selector = Selector::new(&spec.selector).context("selector")?;
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&meta::reference(ds.as_ref()), "SelectingAll", message);
            return Ok(());
        }
        if ds.metadata.deletion_timestamp.is_some() {
            // Its revisions may be gone already: nothing sure can be said about its pods.
            return Ok(());
        }
        let mut history = self.revisions.of(ds.as_ref(), &selector).await?;
        let before = ds.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let mut collisions = before;
        let current =
            self.revisions.current(ds.as_ref(), &mut history, &spec.template, &mut collisions).await?;
        let hash = hash_of(&current).to_owned();
        let caught_up = self.expectations.satisfied(key, Instant::now());
        let related = self.related(&ds);
        let mine = claim::take(&self.client, ds.as_ref(), &selector, related, None).await?;
        let nodes = self.nodes.list();
        let seen = Seen {
            ds: &ds,
            nodes: &nodes,
            pods: &mine,
            hash: &hash,
            failed: &self.failed,
            now: Timestamp::now(),
        };
        let mut again = plan::next_available(&seen);
        let mut failure = None;
        if caught_up {
            let plan = plan::plan(&seen);
            again = [again, plan.again].into_iter().flatten().min();
            failure = self.carry_out(key, &ds, &hash, plan, seen.now).await.err();
        }
        let status = plan::status(&seen, collisions, caught_up);
        if Some(&status) != ds.status.as_ref() {
            let updated = DaemonSet { status: Some(status), ..ds.as_ref().clone() };
            let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), meta::namespace(&ds.metadata));
            match api.replace_status(meta::name(&ds.metadata), &PostParams::default(), &updated).await {
                Err(e) if errors::not_found(&e) => {}
                Err(e) if failure.is_none() => {
                    return Err(anyhow::Error::from(e).context("updating the status"));
                }
                _ => {}
            }
        }
        if let Some(e) = failure {
            return Err(anyhow::Error::from(e).context("making or deleting pods"));
        }
        if let Some(again) = again.and_then(|d| Duration::try_from(d).ok()) {
            self.queue.add_after(key.to_owned(), again);
        }
        if caught_up {
            history.retain(|r| r.metadata.uid != current.metadata.uid);
            let live: HashSet<&str> = mine.iter().filter_map(|p| label(&p.metadata.labels)).collect();
            let is_live = |r: &ControllerRevision| live.contains(hash_of(r));
            let limit = spec.revision_history_limit.unwrap_or(10);
            for old in revisions::surplus(&history, is_live, limit, true) {
                self.revisions.delete(old).await?;
            }
        }
        Ok(())
    }

    fn related(&self, ds: &DaemonSet) -> Vec<Arc<Pod>> {
        let mut related = self.pods.by_index(meta::BY_CONTROLLER, meta::uid(&ds.metadata));
        let orphans = meta::orphans_of(meta::namespace(&ds.metadata));
        related.extend(self.pods.by_index(meta::BY_CONTROLLER, &orphans));
        related
    }

    async fn carry_out(
        &self,
        key: &str,
        ds: &DaemonSet,
        hash: &str,
        plan: Plan,
        now: Timestamp,
    ) -> kube::Result<()> {
        let (owner, namespace) = (meta::reference(ds), meta::namespace(&ds.metadata));
        for (warning, reason, message) in plan.events {
            let type_ = if warning { EventType::Warning } else { EventType::Normal };
            self.events.event(&owner, type_, reason, message);
        }
        for node in &plan.failed_on {
            self.failed.note(meta::uid(&ds.metadata), node, now);
        }
        let going = plan.delete.iter().map(|p| key_of(p.as_ref()));
        self.expectations.expect(key, plan.create.len(), going, Instant::now());
        let template = model::pod_template(ds, hash);
        let mut failure = None;
        let mut left = plan.create.as_slice();
        for size in batches(plan.create.len()) {
            let (batch, rest) = left.split_at(size);
            left = rest;
            let made = join_all(batch.iter().map(|node| async {
                let pod = model::pod(ds, &template, node);
                self.pod_control.create(namespace, &pod, &owner).await
            }));
            let made = made.await;
            let absent = made.iter().filter(|m| !matches!(m, Ok(Some(_)))).count();
            self.expectations.lower_adds(key, absent);
            failure = made.into_iter().find_map(Result::err);
            if failure.is_some() {
                self.expectations.lower_adds(key, left.len());
                break;
            }
        }
        let deletions = plan.delete.iter().map(|p| async {
            let done = self.pod_control.delete(namespace, meta::name(&p.metadata), &owner).await;
            if !matches!(done, Ok(true)) {
                self.expectations.deletion_observed(key, &key_of(p.as_ref()));
            }
            done
        });
        let failed = join_all(deletions).await.into_iter().find_map(Result::err);
        failure.or(failed).map_or(Ok(()), Err)
    }
}

fn label(labels: &Option<meta::Map>) -> Option<&str> {
    labels.as_ref()?.get(POD_HASH).map(String::as_str)
}

/// The hash that pods of the revision carry; revisions of old releases have none but their name.
fn hash_of(revision: &ControllerRevision) -> &str {
    label(&revision.metadata.labels).unwrap_or(meta::name(&revision.metadata))
}
