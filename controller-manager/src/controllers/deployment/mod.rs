//! Deployments: move pods from one template to the next through replica sets.
//!
//! Reads deployments, replica sets and (for Recreate) pods; writes replica sets (create, size, annotations, delete)
//! and the deployment's status. [`plan`] decides, with [`model`], [`scaling`] and [`status`]; this file watches and
//! writes. All state is in the objects, so a crash between two writes leaves nothing to repair but by looking again.

mod model;
mod plan;
mod scaling;
mod status;

#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use self::plan::{Action, LivePods};
use crate::context::{Context, synced};
use crate::util::selector::Selector;
use crate::util::{claim, errors, meta, pods};

const NAME: &str = "deployment-controller";

struct Controller {
    client: Client,
    events: EventRecorder,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    queue: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let deployments = ctx.informers.of::<Deployment>();
    let sets = ctx.informers.of::<ReplicaSet>();
    let all_pods = ctx.informers.of::<Pod>();
    sets.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    all_pods.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        client: ctx.client(NAME)?,
        events: ctx.events.for_component(NAME),
        deployments: deployments.store(),
        sets: sets.store(),
        pods: all_pods.store(),
        queue: WorkQueue::default(),
    });
    let queue = c.queue.clone();
    let q = queue.clone();
    deployments.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let this = c.clone();
    sets.on_change(move |d| this.set_changed(d));
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    let ready = vec![synced(&deployments), synced(&sets), synced(&all_pods)];
    ctx.work("deployment", &queue, ctx.flags.concurrent_deployment_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn owner(&self, rs: &ReplicaSet) -> Option<Arc<Deployment>> {
        meta::controller_in(&self.deployments, &rs.metadata)
    }

    fn set_changed(&self, d: &Delta<ReplicaSet>) {
        for rs in d.old().into_iter().chain([d.object()]) {
            if let Some(owner) = self.owner(rs) {
                self.queue.add(key_of(owner.as_ref()));
            }
        }
        let rs = d.object();
        if !d.is_deleted() && meta::controller_of(&rs.metadata).is_none() {
            for deployment in self.deployments.in_namespace(meta::namespace(&rs.metadata)) {
                let selector = deployment.spec.as_ref().and_then(|s| Selector::new(&s.selector).ok());
                if selector.is_some_and(|s| !s.is_empty() && s.matches(rs.metadata.labels.as_ref())) {
                    self.queue.add(key_of(deployment.as_ref()));
                }
            }
        }
    }

    /// A Recreate rollout goes on when the last old pod is gone.
    fn pod_changed(&self, d: &Delta<Pod>) {
        let ended = d.is_deleted()
            || (pods::is_terminal(d.object()) && d.old().is_some_and(|o| !pods::is_terminal(o)));
        if !ended {
            return;
        }
        let pod = d.object();
        let Some(owner) = meta::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet") else {
            return;
        };
        let Some(rs) = self.sets.find(meta::namespace(&pod.metadata), &owner.name) else { return };
        if let Some(deployment) = self.owner(&rs)
            && model::is_recreate(&deployment)
        {
            self.queue.add(key_of(deployment.as_ref()));
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(d) = self.deployments.get(key) else { return Ok(()) };
        let Some(spec) = d.spec.as_ref() else { return Ok(()) };
        let selector = Selector::new(&spec.selector).with_context(|| format!("selector of {key}"))?;
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&meta::reference(d.as_ref()), "SelectingAll", message);
            return Ok(());
        }
        let sets = self.claim(&d, &selector).await?;
        let live = self.live_pods(&sets);
        let plan = plan::plan(&d, sets, &live, Timestamp::now());
        for action in plan.actions {
            self.act(&d, action).await?;
        }
        if let Some(updated) = plan.status {
            let name = meta::name(&d.metadata);
            match self.api(&d).replace_status(name, &PostParams::default(), &updated).await {
                Err(e) if errors::not_found(&e) => {}
                other => {
                    other.with_context(|| format!("updating the status of deployment {key}"))?;
                }
            }
        }
        if let Some(again) = plan.again.and_then(|d| Duration::try_from(d).ok()) {
            self.queue.add_after(key.to_owned(), again);
        }
        Ok(())
    }

    fn api(&self, d: &Deployment) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), meta::namespace(&d.metadata))
    }

    fn sets_api(&self, d: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), meta::namespace(&d.metadata))
    }

    fn live_pods(&self, sets: &[ReplicaSet]) -> LivePods {
        let live = |rs: &ReplicaSet| {
            let uid = meta::uid(&rs.metadata);
            let pods = self.pods.by_index(meta::BY_CONTROLLER, uid);
            (uid.to_owned(), pods.iter().filter(|p| !pods::is_terminal(p)).count())
        };
        sets.iter().map(live).collect()
    }

    /// The replica sets of the deployment, after adopting and releasing.
    async fn claim(&self, d: &Arc<Deployment>, selector: &Selector) -> anyhow::Result<Vec<ReplicaSet>> {
        let namespace = meta::namespace(&d.metadata);
        let mut all = self.sets.by_index(meta::BY_CONTROLLER, meta::uid(&d.metadata));
        all.extend(self.sets.by_index(meta::BY_CONTROLLER, &meta::orphans_of(namespace)));
        let mine = claim::take(&self.client, d.as_ref(), selector, all, None).await?;
        Ok(mine.iter().map(|rs| rs.as_ref().clone()).collect())
    }

    async fn act(&self, d: &Arc<Deployment>, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Event { warning, reason, message } => {
                let object = meta::reference(d.as_ref());
                if warning {
                    self.events.warning(&object, reason, message);
                } else {
                    self.events.normal(&object, reason, message);
                }
                Ok(())
            }
            Action::Create(rs) => self.create(d, &rs).await,
            Action::Update(rs) => {
                let name = meta::name(&rs.metadata);
                self.sets_api(d)
                    .replace(name, &PostParams::default(), &rs)
                    .await
                    .map(|_| ())
                    .with_context(|| format!("updating replica set {name}"))
            }
            Action::Delete(name) => match self.delete(d, &name).await {
                Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
                other => other.with_context(|| format!("deleting old replica set {name}")),
            },
            Action::UpdateDeployment(new) => self
                .api(d)
                .replace(meta::name(&d.metadata), &PostParams::default(), &new)
                .await
                .map(|_| ())
                .context("writing the deployment back after a rollback"),
        }
    }

    async fn delete(&self, d: &Deployment, name: &str) -> kube::Result<()> {
        let uid = self.sets.find(meta::namespace(&d.metadata), name).and_then(|rs| rs.metadata.uid.clone());
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        self.sets_api(d).delete(name, &params).await.map(|_| ())
    }

    async fn create(&self, d: &Arc<Deployment>, rs: &ReplicaSet) -> anyhow::Result<()> {
        let name = meta::name(&rs.metadata);
        match self.sets_api(d).create(&PostParams::default(), rs).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(()),
            Err(kube::Error::Api(s)) if s.code == 409 => self.name_is_taken(d, rs).await,
            Err(e) => {
                let message = format!("Failed to create new replica set \"{name}\": {}", errors::message(&e));
                self.events.warning(&meta::reference(d.as_ref()), "ReplicaSetCreateError", message.clone());
                if model::progress_deadline(d).is_some() {
                    let mut failed = d.as_ref().clone();
                    status::set_progress(
                        &mut failed,
                        "False",
                        "ReplicaSetCreateError",
                        message,
                        Timestamp::now(),
                    );
                    if failed.status != d.status {
                        self.api(d)
                            .replace_status(meta::name(&d.metadata), &PostParams::default(), &failed)
                            .await?;
                    }
                }
                Err(anyhow::Error::from(e).context(format!("creating replica set {name}")))
            }
        }
    }

    /// The name exists: either an earlier try of ours that the cache has not seen, or another template of equal hash.
    async fn name_is_taken(&self, d: &Arc<Deployment>, rs: &ReplicaSet) -> anyhow::Result<()> {
        let name = meta::name(&rs.metadata);
        let there =
            self.sets_api(d).get(name).await.with_context(|| format!("reading replica set {name}"))?;
        let template =
            |rs: &ReplicaSet| rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        let ours = meta::is_controlled_by(&there.metadata, meta::uid(&d.metadata));
        if ours && model::same_template(&template(&there), &template(rs)) {
            bail!("replica set {name} exists already and the cache has not seen it yet");
        }
        let mut counted = d.as_ref().clone();
        let status = counted.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.api(d)
            .replace_status(meta::name(&d.metadata), &PostParams::default(), &counted)
            .await
            .context("counting a name collision")?;
        bail!("the name {name} is taken by another replica set; trying another hash")
    }
}
