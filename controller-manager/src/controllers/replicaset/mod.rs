//! ReplicaSets and ReplicationControllers: keep the number of pods that was asked for.
//!
//! Reads pods and sets; writes pods (create, delete, owner references) and the sets' status. [`plan`] decides,
//! [`kind`] hides which of the two kinds it is, this file watches and writes. Expectations keep a lagging watch from
//! making pods twice; after a crash nothing is expected, but the first sync waits for the complete list of pods.

mod kind;
mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::expectations::Expectations;
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::WorkQueue;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::PostParams;
use kube::{Api, Client};

use self::kind::{Failure, Replicated};
use self::plan::Scale;
use crate::context::{Context, synced};
use crate::util::pod_control::{PodControl, batches, from_template};
use crate::util::selector::Selector;
use crate::util::{claim, errors, meta, pods};

/// Sets up the controller of ReplicaSets.
pub fn start_replica_sets(ctx: &Context) -> anyhow::Result<()> {
    start::<ReplicaSet>(ctx, ctx.flags.concurrent_replicaset_syncs)
}

/// Sets up the controller of ReplicationControllers.
pub fn start_replication_controllers(ctx: &Context) -> anyhow::Result<()> {
    start::<ReplicationController>(ctx, ctx.flags.concurrent_rc_syncs)
}

struct Controller<K> {
    client: Client,
    pod_control: PodControl,
    sets: Store<K>,
    pods: Store<Pod>,
    expectations: Expectations,
    queue: WorkQueue<String>,
}

fn start<K: Replicated>(ctx: &Context, workers: u16) -> anyhow::Result<()> {
    let client = ctx.client(K::NAME)?;
    let events: EventRecorder = ctx.events.for_component(K::NAME);
    let sets = ctx.informers.of::<K>();
    let all_pods = ctx.informers.of::<Pod>();
    all_pods.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    sets.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        pod_control: PodControl::new(client.clone(), events),
        client,
        sets: sets.store(),
        pods: all_pods.store(),
        expectations: Expectations::new(),
        queue: WorkQueue::default(),
    });
    let queue = c.queue.clone();
    let this = c.clone();
    sets.on_change(move |d| {
        let key = key_of(d.object().as_ref());
        if d.is_deleted() {
            this.expectations.forget(&key);
        }
        this.queue.add(key);
    });
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    ctx.work(K::QUEUE, &queue, workers, vec![synced(&sets), synced(&all_pods)], move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl<K: Replicated> Controller<K> {
    /// The set that controls the pod, if it is one of ours and still the same object.
    fn owner(&self, pod: &Pod) -> Option<Arc<K>> {
        meta::controller_in(&self.sets, &pod.metadata)
    }

    fn pod_changed(&self, d: &Delta<Pod>) {
        let pod = d.object();
        let pod_key = key_of(pod.as_ref());
        let going = d.is_deleted() || pod.metadata.deletion_timestamp.is_some();
        if let Some(set) = self.owner(pod) {
            let key = key_of(set.as_ref());
            match d {
                _ if going => self.expectations.deletion_observed(&key, &pod_key),
                Delta::Added(_) => self.expectations.creation_observed(&key),
                _ => {}
            }
            if let Some(old) = d.old()
                && set.min_ready() > 0
                && !pods::is_ready(old)
                && pods::is_ready(pod)
            {
                // Looks again when the pod has been ready for long enough; a second more for clocks.
                let wait = Duration::from_secs(u64::from(set.min_ready().unsigned_abs()) + 1);
                self.queue.add_after(key.clone(), wait);
            }
            self.queue.add(key);
        }
        match d.old() {
            Some(old) if !d.is_deleted() => {
                if meta::controller_of(&old.metadata) != meta::controller_of(&pod.metadata)
                    && let Some(before) = self.owner(old)
                {
                    self.queue.add(key_of(before.as_ref()));
                }
                let relabelled = old.metadata.labels != pod.metadata.labels
                    || meta::controller_of(&old.metadata) != meta::controller_of(&pod.metadata);
                if relabelled && meta::controller_of(&pod.metadata).is_none() && !going {
                    self.wake_matching(pod);
                }
            }
            _ if !going && meta::controller_of(&pod.metadata).is_none() => self.wake_matching(pod),
            _ => {}
        }
    }

    /// An orphan may be adopted by any set that selects it.
    fn wake_matching(&self, pod: &Pod) {
        if pod.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            return;
        }
        for set in self.sets.in_namespace(meta::namespace(&pod.metadata)) {
            if let Ok(Some(selector)) = set.selector()
                && !selector.is_empty()
                && selector.matches(pod.metadata.labels.as_ref())
            {
                self.queue.add(key_of(set.as_ref()));
            }
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(());
        };
        let may_act = self.expectations.satisfied(key, Instant::now());
        let Some(selector) = set.selector().with_context(|| format!("selector of {key}"))? else {
            return Ok(());
        };
        let uid = meta::uid(set.meta());
        let namespace = meta::namespace(set.meta());
        let mut related = self.pods.by_index(meta::BY_CONTROLLER, uid);
        related.extend(self.pods.by_index(meta::BY_CONTROLLER, &meta::orphans_of(namespace)));
        let candidates = related.iter().filter(|p| pods::is_active(p)).cloned().collect();
        let active = claim::take(&self.client, set.as_ref(), &selector, candidates, None).await?;
        let terminating = related
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some() && !pods::is_terminal(p))
            .filter(|p| meta::is_controlled_by(&p.metadata, uid))
            .count();

        let failed = match may_act && set.meta().deletion_timestamp.is_none() {
            true => self.manage(key, &set, &active).await.err(),
            false => None,
        };
        let now = Timestamp::now();
        let template = set.template();
        let labels = Selector::from_map(template.metadata.as_ref().and_then(|m| m.labels.as_ref()));
        let counts = plan::count(&active, terminating, &labels, set.min_ready(), now);
        let failure: Option<Failure> = failed.as_ref().map(|e| {
            let reason = if counts.replicas < set.replicas() { "FailedCreate" } else { "FailedDelete" };
            (reason, errors::message(e))
        });
        if let Some(updated) = set.with_status(counts, failure, now) {
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            match api.replace_status(meta::name(set.meta()), &PostParams::default(), &updated).await {
                Err(e) if errors::not_found(&e) => {}
                other => {
                    other.with_context(|| format!("updating the status of {key}"))?;
                }
            }
        }
        if let Some(e) = failed {
            return Err(anyhow::Error::from(e).context(format!("bringing {key} to {} pods", set.replicas())));
        }
        if set.min_ready() > 0 && counts.ready != counts.available {
            let wait = plan::next_available(&active, set.min_ready(), now)
                .and_then(|d| Duration::try_from(d).ok())
                .unwrap_or(Duration::from_secs(set.min_ready().unsigned_abs().into()));
            self.queue.add_after(key.to_owned(), wait);
        }
        Ok(())
    }

    async fn manage(&self, key: &str, set: &Arc<K>, active: &[Arc<Pod>]) -> kube::Result<()> {
        let owner = meta::reference(set.as_ref());
        let namespace = meta::namespace(set.meta());
        match plan::scale(active.len(), set.replicas()) {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => {
                self.expectations.expect(key, count, [], Instant::now());
                let pod = from_template(
                    &set.template(),
                    meta::name(set.meta()),
                    meta::controller_ref(set.as_ref()),
                );
                let mut tried = 0;
                for batch in batches(count) {
                    tried += batch;
                    let made =
                        join_all((0..batch).map(|_| self.pod_control.create(namespace, &pod, &owner))).await;
                    let absent = made.iter().filter(|m| !matches!(m, Ok(Some(_)))).count();
                    self.expectations.lower_adds(key, absent);
                    if let Some(error) = made.into_iter().find_map(Result::err) {
                        self.expectations.lower_adds(key, count - tried);
                        return Err(error);
                    }
                }
                Ok(())
            }
            Scale::Delete(count) => {
                let related = self.pods_of_siblings(set);
                let victims = plan::victims(active.to_vec(), &related, count, Timestamp::now());
                let keys = victims.iter().map(|p| key_of(p.as_ref()));
                self.expectations.expect(key, 0, keys, Instant::now());
                let deletions = victims.iter().map(|p| async {
                    let done = self.pod_control.delete(namespace, meta::name(&p.metadata), &owner).await;
                    if !matches!(done, Ok(true)) {
                        self.expectations.deletion_observed(key, &key_of(p.as_ref()));
                    }
                    done
                });
                join_all(deletions).await.into_iter().find_map(Result::err).map_or(Ok(()), Err)
            }
        }
    }

    /// Pods of all sets that have the same owner as this one: a deployment's revisions.
    fn pods_of_siblings(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = match meta::controller_of(set.meta()) {
            Some(owner) => self.sets.by_index(meta::BY_CONTROLLER, &owner.uid),
            None => Vec::new(),
        };
        let mut uids: Vec<&str> = siblings.iter().map(|s| meta::uid(s.meta())).collect();
        if uids.is_empty() {
            uids.push(meta::uid(set.meta()));
        }
        uids.iter().flat_map(|uid| self.pods.by_index(meta::BY_CONTROLLER, uid)).collect()
    }
}
