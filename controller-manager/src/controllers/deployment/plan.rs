//! Pure part of the deployment controller: one look at a deployment, its replica sets and pods, and what follows.
//!
//! [`plan`] works on copies and writes down what must be done; nothing here talks to anybody. The order of actions
//! matters and must be kept; when one fails, the rest is dropped and a later look decides anew.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::model::{
    self, HASH, REVISION, ROLLBACK_TO, max_surge, max_unavailable, replicas, rs_actual, rs_replicas,
    rs_surely_available,
};
use super::status;
use crate::util::{hash, meta};

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make a replica set; if its name is taken by something else, count a collision.
    Create(Box<ReplicaSet>),
    /// Write a replica set back.
    Update(Box<ReplicaSet>),
    /// Delete a replica set by name.
    Delete(String),
    /// Write the deployment itself back (a rollback).
    UpdateDeployment(Box<Deployment>),
    /// Tell about it.
    Event { warning: bool, reason: &'static str, message: String },
}

/// What follows from one look.
#[derive(Debug)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The deployment with new status (and revision annotation), if those changed.
    pub status: Option<Box<Deployment>>,
    /// Look again after this time even if nothing changes.
    pub again: Option<SignedDuration>,
}

/// Number of pods that are not over, by the uid of their replica set.
pub type LivePods = BTreeMap<String, usize>;

pub(super) struct Rollout {
    pub(super) d: Deployment,
    pub(super) sets: Vec<ReplicaSet>,
    pub(super) new: Option<usize>,
    now: Timestamp,
    actions: Vec<Action>,
}

/// Decides what to do. `sets` are the replica sets the deployment controls; `live` is read for Recreate only.
pub fn plan(deployment: &Deployment, sets: Vec<ReplicaSet>, live: &LivePods, now: Timestamp) -> Plan {
    let mut r = Rollout { new: None, d: deployment.clone(), sets, now, actions: Vec::new() };
    r.new = model::find_new(&r.d, &r.sets);
    let status = r.run(live);
    let again = status::check_after(&r.d, &status, now);
    r.d.status = Some(status);
    let changed =
        r.d.status != deployment.status || r.d.metadata.annotations != deployment.metadata.annotations;
    // A rollback writes the whole object; its status is for the next look.
    let rolled_back = r.actions.iter().any(|a| matches!(a, Action::UpdateDeployment(_)));
    Plan { actions: r.actions, status: (changed && !rolled_back).then(|| Box::new(r.d)), again }
}

impl Rollout {
    fn run(&mut self, live: &LivePods) -> DeploymentStatus {
        if self.d.metadata.deletion_timestamp.is_some() {
            return self.status_only();
        }
        status::check_paused(&mut self.d, self.now);
        if model::paused(&self.d) {
            return self.resize();
        }
        if let Some(to) = meta::annotation(&self.d.metadata, ROLLBACK_TO).and_then(|r| r.parse::<i64>().ok())
        {
            self.roll_back(to);
            return self.status_only();
        }
        if self.was_resized() {
            return self.resize();
        }
        if model::is_recreate(&self.d) {
            self.recreate(live)
        } else {
            self.roll()
        }
        status::rollout(&self.d, &self.sets, self.new, self.now)
    }

    fn status_only(&self) -> DeploymentStatus {
        status::calculate(&self.d, &self.sets, self.new, self.now)
    }

    fn resize(&mut self) -> DeploymentStatus {
        self.sync_revision(false);
        self.scale_in_proportion();
        if model::paused(&self.d) {
            self.clean_history();
        }
        self.status_only()
    }

    fn is_old(&self, i: usize) -> bool {
        Some(i) != self.new
    }

    pub(super) fn by_age(&self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.sets.len()).collect();
        all.sort_by_key(|&i| model::age_key(&self.sets[i]));
        all
    }

    fn total(&self, f: fn(&ReplicaSet) -> i32) -> i32 {
        self.sets.iter().map(f).sum()
    }

    /// Gives the current template its replica set (if `create`) and both their revision.
    fn sync_revision(&mut self, create: bool) {
        let highest_old = (0..self.sets.len())
            .filter(|&i| self.is_old(i))
            .map(|i| model::revision(&self.sets[i]))
            .max()
            .unwrap_or(0);
        let revision = highest_old + 1;
        if let Some(i) = self.new {
            let mut rs = self.sets[i].clone();
            let mut changed = model::annotate_new(&self.d, &mut rs, revision, true);
            let wanted = model::min_ready(&self.d);
            if let Some(spec) = rs.spec.as_mut()
                && spec.min_ready_seconds.filter(|s| *s != 0) != wanted
            {
                spec.min_ready_seconds = wanted;
                changed = true;
            }
            if changed {
                self.actions.push(Action::Update(Box::new(rs.clone())));
                self.sets[i] = rs;
            }
            // A revision not noted yet means a rollout that nobody has timed: its set was made before a crash, or is
            // an old one rolled back to.
            let begun = self.take_revision(i);
            let timed = self.d.status.as_ref().and_then(|s| status::get(s, status::PROGRESSING)).is_some();
            if model::progress_deadline(&self.d).is_some() && !model::paused(&self.d) && (begun || !timed) {
                let message = format!("Found new replica set \"{}\"", meta::name(&self.sets[i].metadata));
                status::set_progress(&mut self.d, "True", "FoundNewReplicaSet", message, self.now);
            }
            return;
        }
        if create {
            self.create_set(revision);
        }
    }

    /// Notes the revision on the deployment. Says whether it is another than before.
    fn take_revision(&mut self, i: usize) -> bool {
        let Some(r) = meta::annotation(&self.sets[i].metadata, REVISION).map(str::to_owned) else {
            return false;
        };
        let noted = self.d.metadata.annotations.get_or_insert_default();
        noted.insert(REVISION.into(), r.clone()).as_ref() != Some(&r)
    }

    fn create_set(&mut self, revision: i64) {
        let Some(spec) = self.d.spec.clone() else { return };
        let collisions = self.d.status.as_ref().and_then(|s| s.collision_count);
        let hash = hash::of_object(&spec.template, collisions);
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
        let mut rs = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", meta::name(&self.d.metadata))),
                namespace: self.d.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![meta::controller_ref(&self.d)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: model::min_ready(&self.d),
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let size = self.room_for(&rs);
        if let Some(spec) = rs.spec.as_mut() {
            spec.replicas = Some(size);
        }
        model::annotate_new(&self.d, &mut rs, revision, false);
        self.actions.push(Action::Create(Box::new(rs.clone())));
        let name = meta::name(&rs.metadata).to_owned();
        if size > 0 {
            self.tell("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {size}"));
        }
        self.sets.push(rs);
        self.new = Some(self.sets.len() - 1);
        self.take_revision(self.sets.len() - 1);
        if model::progress_deadline(&self.d).is_some() {
            let message = format!("Created new replica set \"{name}\"");
            status::set_progress(&mut self.d, "True", "NewReplicaSetCreated", message, self.now);
        }
    }

    /// How large the new replica set may be now.
    fn room_for(&self, rs: &ReplicaSet) -> i32 {
        let wanted = replicas(&self.d);
        if model::is_recreate(&self.d) {
            return wanted;
        }
        let size = rs_replicas(rs);
        let room = wanted + max_surge(&self.d) - self.total(rs_replicas);
        if room <= 0 { size } else { size + room.min(wanted - size) }
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::Event { warning: false, reason, message });
    }

    pub(super) fn delete_set(&mut self, name: String) {
        self.actions.push(Action::Delete(name));
    }

    /// Sets the size of a replica set and notes the deployment's on it. Says whether the size changed.
    pub(super) fn scale_set(&mut self, i: usize, size: i32) -> bool {
        let before = rs_replicas(&self.sets[i]);
        let mut rs = self.sets[i].clone();
        let noted = model::annotate_size(&mut rs, replicas(&self.d), replicas(&self.d) + max_surge(&self.d));
        if before == size && !noted {
            return false;
        }
        if let Some(spec) = rs.spec.as_mut() {
            spec.replicas = Some(size);
        }
        self.actions.push(Action::Update(Box::new(rs.clone())));
        let name = meta::name(&rs.metadata).to_owned();
        self.sets[i] = rs;
        if before != size {
            let way = if size > before { "up" } else { "down" };
            self.tell(
                "ScalingReplicaSet",
                format!("Scaled {way} replica set {name} from {before} to {size}"),
            );
        }
        before != size
    }

    fn roll(&mut self) {
        self.sync_revision(true);
        let Some(new) = self.new else { return };
        let (wanted, size) = (replicas(&self.d), rs_replicas(&self.sets[new]));
        let target = if size > wanted { wanted } else { self.room_for(&self.sets[new]) };
        if size != wanted && self.scale_set(new, target) {
            return;
        }
        if self.shrink_old(new) {
            return;
        }
        if self.d.status.as_ref().is_some_and(|s| status::complete(&self.d, s)) {
            self.clean_history();
        }
    }

    /// Takes pods from old replica sets: broken ones first, then as many as availability allows.
    fn shrink_old(&mut self, new: usize) -> bool {
        let old: Vec<usize> =
            self.by_age().into_iter().filter(|&i| self.is_old(i) && rs_replicas(&self.sets[i]) > 0).collect();
        if old.is_empty() {
            return false;
        }
        let floor = replicas(&self.d) - max_unavailable(&self.d);
        let new_unavailable = rs_replicas(&self.sets[new]) - rs_surely_available(&self.sets[new]);
        let mut limit = self.total(rs_replicas) - floor - new_unavailable;
        if limit <= 0 {
            return false;
        }
        let mut shrunk = false;
        for &i in &old {
            let (size, available) = (rs_replicas(&self.sets[i]), rs_surely_available(&self.sets[i]));
            let broken = (size - available).min(limit);
            if broken > 0 {
                limit -= broken;
                shrunk |= self.scale_set(i, size - broken);
            }
        }
        let mut spare = self.total(rs_surely_available) - floor;
        for &i in &old {
            let size = rs_replicas(&self.sets[i]);
            let take = size.min(spare);
            if take > 0 {
                spare -= take;
                shrunk |= self.scale_set(i, size - take);
            }
        }
        shrunk
    }

    fn recreate(&mut self, live: &LivePods) {
        self.sync_revision(false);
        let (mut shrunk, new) = (false, self.new);
        for i in self.by_age().into_iter().filter(|&i| Some(i) != new) {
            if rs_replicas(&self.sets[i]) > 0 {
                shrunk |= self.scale_set(i, 0);
            }
        }
        if shrunk || self.old_pods_live(live) {
            return;
        }
        self.sync_revision(true);
        if let Some(new) = self.new {
            self.scale_set(new, replicas(&self.d));
        }
        if self.d.status.as_ref().is_some_and(|s| status::complete(&self.d, s)) {
            self.clean_history();
        }
    }

    fn old_pods_live(&self, live: &LivePods) -> bool {
        if (0..self.sets.len()).any(|i| self.is_old(i) && rs_actual(&self.sets[i]) > 0) {
            return true;
        }
        let new = self.new.map(|i| meta::uid(&self.sets[i].metadata)).unwrap_or_default();
        live.iter().any(|(uid, n)| uid != new && *n > 0)
    }

    /// Restores an earlier template; revision 0 is the one before the current.
    fn roll_back(&mut self, to: i64) {
        let target = if to == 0 { self.revision_before() } else { Some(to) };
        let found = target.and_then(|t| self.sets.iter().find(|rs| model::revision(rs) == t).cloned());
        let mut restored = self.d.clone();
        if let Some(annotations) = restored.metadata.annotations.as_mut() {
            annotations.remove(ROLLBACK_TO);
        }
        let name = meta::name(&self.d.metadata).to_owned();
        let (warning, reason, message) = match (target, found) {
            (None, _) => {
                (true, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.".to_owned())
            }
            (_, None) => (
                true,
                "DeploymentRollbackRevisionNotFound",
                "Unable to find the revision to rollback to.".to_owned(),
            ),
            (Some(revision), Some(rs)) => {
                let template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
                if model::same_template(&template, &model::template(&self.d)) {
                    let message = format!(
                        "The rollback revision contains the same template as current deployment \"{name}\""
                    );
                    (true, "DeploymentRollbackTemplateUnchanged", message)
                } else {
                    model::restore(&mut restored, &rs);
                    if let Some(annotations) = restored.metadata.annotations.as_mut() {
                        annotations.remove(ROLLBACK_TO);
                    }
                    (
                        false,
                        "DeploymentRollback",
                        format!("Rolled back deployment \"{name}\" to revision {revision}"),
                    )
                }
            }
        };
        self.actions.push(Action::UpdateDeployment(Box::new(restored)));
        self.actions.push(Action::Event { warning, reason, message });
    }

    fn revision_before(&self) -> Option<i64> {
        let mut revisions: Vec<i64> = self.sets.iter().map(model::revision).filter(|r| *r > 0).collect();
        revisions.sort_unstable();
        revisions.pop();
        revisions.pop()
    }
}
