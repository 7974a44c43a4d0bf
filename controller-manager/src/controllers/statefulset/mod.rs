//! Stateful sets: pods with names that last, each with its own claims.
//!
//! Reads sets, pods, claims and controller revisions; writes pods, claims (create, owners), revisions and the sets'
//! status. [`plan`] decides with [`model`] and [`claims`]; this file watches and writes. A set is looked at only when the
//! cache shows what was done to its pods before: otherwise a second pod could go while the first is still going.

mod claims;
mod model;
mod plan;

#[cfg(test)]
mod simulation;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use component_base::controller::events::EventRecorder;
use component_base::controller::expectations::Expectations;
use component_base::controller::informer::{Delta, Store, key, key_of};
use component_base::controller::queue::WorkQueue;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use self::model::Wanted;
use self::plan::{Action, Plan, Seen, Task};
use crate::context::{Context, synced};
use crate::util::pod_control::batches;
use crate::util::revisions::{self, Revisions};
use crate::util::selector::Selector;
use crate::util::{claim, errors, meta};

const NAME: &str = "statefulset-controller";
/// Label of a revision's hash.
const HASH: &str = "controller.kubernetes.io/hash";

struct Controller {
    client: Client,
    events: EventRecorder,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Revisions,
    expectations: Expectations,
    queue: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let client = ctx.client(NAME)?;
    let sets = ctx.informers.of::<StatefulSet>();
    let all_pods = ctx.informers.of::<Pod>();
    let claims = ctx.informers.of::<PersistentVolumeClaim>();
    let revisions = ctx.informers.of::<ControllerRevision>();
    all_pods.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    revisions.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        events: ctx.events.for_component(NAME),
        sets: sets.store(),
        pods: all_pods.store(),
        claims: claims.store(),
        revisions: Revisions { client: client.clone(), store: revisions.store(), hash_label: HASH },
        client,
        expectations: Expectations::new(),
        queue: WorkQueue::default(),
    });
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
    let ready = vec![synced(&sets), synced(&all_pods), synced(&claims), synced(&revisions)];
    let queue = c.queue.clone();
    ctx.work("statefulset", &queue, ctx.flags.concurrent_statefulset_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await.with_context(|| format!("stateful set {key}")) }
    });
    Ok(())
}

impl Controller {
    fn owner(&self, pod: &Pod) -> Option<Arc<StatefulSet>> {
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
        if let Some(set) = self.owner(pod) {
            let key = key_of(set.as_ref());
            if going {
                self.expectations.deletion_observed(&key, meta::uid(&pod.metadata));
            } else if matches!(d, Delta::Added(_)) {
                self.expectations.creation_observed(&key);
            }
            self.queue.add(key);
        } else if !going && meta::controller_of(&pod.metadata).is_none() {
            self.wake_matching(pod);
        }
    }

    /// An orphan may be adopted by the set that its name and labels fit.
    fn wake_matching(&self, pod: &Pod) {
        let Some((parent, _)) = meta::name(&pod.metadata).rsplit_once('-') else { return };
        let key = key(pod.metadata.namespace.as_deref(), parent);
        if self.sets.get(&key).is_some() {
            self.queue.add(key);
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(());
        };
        if !self.expectations.satisfied(key, Instant::now()) {
            // The pods that are missed wake the set when they come.
            return Ok(());
        }
        let Some(spec) = set.spec.as_ref() else { return Ok(()) };
        let Ok(selector) = Selector::new(&spec.selector) else { return Ok(()) };
        let mut history = self.revisions.of(set.as_ref(), &selector).await?;
        let pods = self.claim(&set, &selector).await?;
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let known = history.clone();
        let update = match set.metadata.deletion_timestamp {
            // No new revision for what is going away.
            Some(_) => match history.last() {
                Some(last) => last.clone(),
                None => return Ok(()),
            },
            None => {
                self.revisions.current(set.as_ref(), &mut history, &spec.template, &mut collisions).await?
            }
        };
        let noted = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = known.iter().find(|r| r.metadata.name.as_deref() == noted);
        let current = current.cloned().unwrap_or_else(|| update.clone());
        let namespace = meta::namespace(&set.metadata);
        let claim = |name: &str| self.claims.find(namespace, name);
        let seen = Seen {
            set: &set,
            pods: &pods,
            claim: &claim,
            current: &current,
            update: &update,
            collisions,
            now: Timestamp::now(),
        };
        let plan = plan::plan(&seen);
        let again = plan.again;
        self.carry_out(key, &set, plan).await?;
        if let Some(again) = again.and_then(|d| Duration::try_from(d).ok()) {
            self.queue.add_after(key.to_owned(), again);
        }
        let mut live: HashSet<&str> = pods.iter().map(|p| model::revision_of(p)).collect();
        live.extend([meta::name(&current.metadata), meta::name(&update.metadata)]);
        let is_live = |r: &ControllerRevision| live.contains(meta::name(&r.metadata));
        for old in revisions::surplus(&history, is_live, spec.revision_history_limit.unwrap_or(10), false) {
            self.revisions.delete(old).await?;
        }
        Ok(())
    }

    /// The pods of the set, after adopting and releasing.
    async fn claim(&self, set: &Arc<StatefulSet>, selector: &Selector) -> anyhow::Result<Vec<Arc<Pod>>> {
        let wanted = Wanted::new(set);
        let mut related = self.pods.by_index(meta::BY_CONTROLLER, meta::uid(&set.metadata));
        let orphans = meta::orphans_of(meta::namespace(&set.metadata));
        let by_name = self.pods.by_index(meta::BY_CONTROLLER, &orphans);
        related.extend(by_name.into_iter().filter(|p| wanted.ordinal(p).is_some()));
        claim::take(&self.client, set.as_ref(), selector, related, None).await
    }

    /// Runs the tasks, then writes the status, whatever came of them.
    async fn carry_out(&self, key: &str, set: &StatefulSet, plan: Plan) -> anyhow::Result<()> {
        let Plan { mut status, tasks, updating, .. } = plan;
        let actions = tasks.iter().flatten();
        let made = actions.clone().filter(|a| matches!(a, Action::CreatePod(_))).count();
        let gone = actions.filter_map(|a| match a {
            Action::DeletePod(pod) => Some(meta::uid(&pod.metadata).to_owned()),
            _ => None,
        });
        self.expectations.expect(key, made, gone, Instant::now());
        let mut failure = None;
        let mut left = tasks.as_slice();
        for size in batches(tasks.len()) {
            let (batch, rest) = left.split_at(size);
            left = rest;
            let results = join_all(batch.iter().map(|t| self.perform(key, set, t))).await;
            failure = results.into_iter().find_map(Result::err);
            if failure.is_some() {
                break;
            }
        }
        for action in left.iter().flatten() {
            self.not_coming(key, action);
        }
        if failure.is_some() {
            status.current_replicas = Some(status.current_replicas.unwrap_or(0) + updating);
        }
        let old = set.status.clone().unwrap_or_default();
        if status != old {
            let updated = StatefulSet { status: Some(status), ..set.clone() };
            let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), meta::namespace(&set.metadata));
            match api.replace_status(meta::name(&set.metadata), &PostParams::default(), &updated).await {
                Err(e) if errors::not_found(&e) => {}
                Err(e) if failure.is_none() => {
                    return Err(anyhow::Error::from(e).context("updating the status"));
                }
                _ => {}
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// What was expected of an action will not come.
    fn not_coming(&self, key: &str, action: &Action) {
        match action {
            Action::CreatePod(_) => self.expectations.lower_adds(key, 1),
            Action::DeletePod(pod) => self.expectations.deletion_observed(key, meta::uid(&pod.metadata)),
            _ => {}
        }
    }

    async fn perform(&self, key: &str, set: &StatefulSet, task: &Task) -> anyhow::Result<()> {
        for (n, action) in task.iter().enumerate() {
            if let Err(e) = self.act(key, set, action).await {
                for rest in &task[n..] {
                    self.not_coming(key, rest);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    async fn act(&self, key: &str, set: &StatefulSet, action: &Action) -> anyhow::Result<()> {
        let namespace = meta::namespace(&set.metadata);
        let (post, pods_api) =
            (PostParams::default(), Api::<Pod>::namespaced(self.client.clone(), namespace));
        let claims_api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        match action {
            Action::CreateClaim { claim, pod } => {
                let done = claims_api.create(&post, claim).await;
                if matches!(&done, Err(e) if errors::code(e) == Some(409)) {
                    return Ok(());
                }
                self.tell_claim(set, meta::name(&claim.metadata), pod, done.as_ref().err());
                done.map(|_| ()).with_context(|| format!("creating a claim for pod {pod}"))
            }
            Action::OwnClaim { claim, owners } => {
                let name = meta::name(&claim.metadata);
                let mut owned = claim.as_ref().clone();
                owned.metadata.owner_references = Some(owners.clone()).filter(|o| !o.is_empty());
                let done = claims_api.replace(name, &post, &owned).await;
                done.map(|_| ()).with_context(|| format!("setting the owners of claim {name}"))
            }
            Action::CreatePod(pod) => {
                let name = meta::name(&pod.metadata);
                match pods_api.create(&post, pod).await {
                    Err(e) if errors::code(&e) == Some(409) => {
                        bail!("pod {name} exists already: another's, or the cache has not seen it yet")
                    }
                    Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => {
                        self.not_coming(key, action);
                        Ok(())
                    }
                    done => {
                        self.tell(set, "Create", name, done.as_ref().err().map(errors::message));
                        done.map(|_| ()).with_context(|| format!("creating pod {name}"))
                    }
                }
            }
            Action::DeletePod(pod) => {
                let name = meta::name(&pod.metadata);
                let preconditions =
                    Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                match pods_api.delete(name, &params).await {
                    // Gone, or a newer one of that name: either will show.
                    Err(e) if matches!(errors::code(&e), Some(404 | 409)) => {
                        self.not_coming(key, action);
                        Ok(())
                    }
                    done => {
                        self.tell(set, "Delete", name, done.as_ref().err().map(errors::message));
                        done.map(|_| ()).with_context(|| format!("deleting pod {name}"))
                    }
                }
            }
            Action::Identify(pod, ordinal) => {
                let name = meta::name(&pod.metadata);
                let labels: meta::Map = model::identity(name, *ordinal).into();
                let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
                let done = pods_api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                self.tell(set, "Update", name, done.as_ref().err().map(errors::message));
                done.map(|_| ()).with_context(|| format!("labelling pod {name}"))
            }
            Action::Warn { reason, message } => {
                self.events.warning(&meta::reference(set), *reason, message.clone());
                Ok(())
            }
            Action::Blocked { pod, why } => {
                self.tell(set, "Create", pod, Some(why.clone()));
                bail!("creating pod {pod}: {why}")
            }
        }
    }

    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, error: Option<String>) {
        let (object, name) = (meta::reference(set), meta::name(&set.metadata));
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {name} successful");
                self.events.normal(&object, format!("Successful{verb}"), message);
            }
            Some(error) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {name} failed error: {error}");
                self.events.warning(&object, format!("Failed{verb}"), message);
            }
        }
    }

    fn tell_claim(&self, set: &StatefulSet, claim: &str, pod: &str, error: Option<&kube::Error>) {
        let (object, name) = (meta::reference(set), meta::name(&set.metadata));
        match error {
            None => {
                let message = format!("Create Claim {claim} Pod {pod} in StatefulSet {name} success");
                self.events.normal(&object, "SuccessfulCreate", message);
            }
            Some(e) => {
                let e = errors::message(e);
                let message =
                    format!("Create Claim {claim} for Pod {pod} in StatefulSet {name} failed error: {e}");
                self.events.warning(&object, "FailedCreate", message);
            }
        }
    }
}
