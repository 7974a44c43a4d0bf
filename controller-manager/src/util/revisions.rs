//! ControllerRevisions: the pod templates that a StatefulSet or DaemonSet has had.
//!
//! A revision holds the template as the strategic merge patch upstream writes, so either implementation reads the
//! other's. Templates are compared by meaning, not by bytes.

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::claim::Object;
use super::selector::Selector;
use super::{claim, errors, hash, meta};
use component_base::controller::informer::Store;

/// Label of revisions and, in daemon sets, of pods; in stateful sets the pods' names their revision.
pub const POD_HASH: &str = "controller-revision-hash";

/// The patch that puts a template back.
pub fn data_of(template: &PodTemplateSpec) -> RawExtension {
    let mut value = json!({"spec": {"template": template}});
    value["spec"]["template"]["$patch"] = json!("replace");
    RawExtension(value)
}

/// The template of a revision; `None` where it holds something else.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Whether two templates mean the same.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn plain(t: &PodTemplateSpec) -> PodTemplateSpec {
        let mut t = t.clone();
        let m = t.metadata.get_or_insert_default();
        m.labels = m.labels.take().filter(|l| !l.is_empty());
        m.annotations = m.annotations.take().filter(|a| !a.is_empty());
        m.creation_timestamp = None;
        t
    }
    a == b || plain(a) == plain(b)
}

/// Sorts from old to new.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions
        .sort_by_cached_key(|r| (r.revision, meta::created(&r.metadata), meta::name(&r.metadata).to_owned()));
}

/// What the newest revision is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This one, as it is.
    Keep(usize),
    /// This one, with a new number: the template was put back.
    Bump(usize, i64),
    /// None has the template: a new one of that number.
    New(i64),
}

/// Finds the revision of `template` among sorted ones.
pub fn next(revisions: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Next {
    let is_it = |r: &ControllerRevision| template_of(r).is_some_and(|t| same_template(&t, template));
    let found = revisions.iter().rposition(|r| is_it(r));
    let newest = revisions.last().map_or(0, |r| r.revision);
    match found {
        Some(i) if i + 1 == revisions.len() => Next::Keep(i),
        Some(i) => Next::Bump(i, newest + 1),
        None => Next::New(newest + 1),
    }
}

/// The part of a new revision that is the same for all kinds; its name and hash label depend on `collisions`.
pub fn make<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    collisions: i32,
    hash_label: &str,
) -> ControllerRevision {
    let data = data_of(template);
    let json = serde_json::to_vec(&data.0).unwrap_or_default();
    let hash = hash::safe(hash::fnv32(json.into_iter().chain(collisions.to_string().into_bytes())));
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash.clone());
    let prefix: String = meta::name(owner.meta()).chars().take(223).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![meta::controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        revision: number,
    }
}

/// The names of revisions beyond `limit`, oldest first. `live` ones stay; whether they fill up the limit is
/// `count_live`.
pub fn surplus(
    old: &[Arc<ControllerRevision>],
    live: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
    count_live: bool,
) -> Vec<&ControllerRevision> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let idle: Vec<&ControllerRevision> = old.iter().map(Arc::as_ref).filter(|r| !live(r)).collect();
    let total = if count_live { old.len() } else { idle.len() };
    idle.into_iter().take(total.saturating_sub(limit)).collect()
}

/// The revisions of one kind of owner.
#[derive(Clone)]
pub struct Revisions {
    pub client: Client,
    pub store: Store<ControllerRevision>,
    /// Label that holds the hash.
    pub hash_label: &'static str,
}

impl Revisions {
    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// All revisions of the owner, sorted, after adopting orphans.
    pub async fn of<O: Object>(
        &self,
        owner: &O,
        selector: &Selector,
    ) -> anyhow::Result<Vec<Arc<ControllerRevision>>> {
        let mut all = self.store.by_index(meta::BY_CONTROLLER, meta::uid(owner.meta()));
        all.extend(
            self.store.by_index(meta::BY_CONTROLLER, &meta::orphans_of(meta::namespace(owner.meta()))),
        );
        let mut mine = claim::take(&self.client, owner, selector, all, None).await?;
        sort(&mut mine);
        Ok(mine)
    }

    /// The revision of `template`, made or renumbered if need be; it is put into `revisions`, which are sorted.
    /// `collisions` counts names that were taken.
    pub async fn current<O: Object>(
        &self,
        owner: &O,
        revisions: &mut Vec<Arc<ControllerRevision>>,
        template: &PodTemplateSpec,
        collisions: &mut i32,
    ) -> anyhow::Result<Arc<ControllerRevision>> {
        let current = match next(revisions, template) {
            Next::Keep(i) => return Ok(revisions[i].clone()),
            Next::Bump(i, number) => {
                let mut bumped = revisions.remove(i).as_ref().clone();
                bumped.revision = number;
                let (namespace, name) = (meta::namespace(&bumped.metadata), meta::name(&bumped.metadata));
                self.api(namespace)
                    .replace(name, &PostParams::default(), &bumped)
                    .await
                    .with_context(|| format!("renumbering controller revision {name}"))?
            }
            Next::New(number) => self.create(owner, template, number, collisions).await?,
        };
        let current = Arc::new(current);
        revisions.push(current.clone());
        Ok(current)
    }

    async fn create<O: Object>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        number: i64,
        collisions: &mut i32,
    ) -> anyhow::Result<ControllerRevision> {
        let api = self.api(meta::namespace(owner.meta()));
        loop {
            let new = make(owner, template, number, *collisions, self.hash_label);
            let name = meta::name(&new.metadata);
            match api.create(&PostParams::default(), &new).await {
                Err(kube::Error::Api(s)) if s.code == 409 => {}
                other => return other.with_context(|| format!("creating controller revision {name}")),
            }
            let there = api.get(name).await.with_context(|| format!("reading controller revision {name}"))?;
            let ours = meta::is_controlled_by(&there.metadata, meta::uid(owner.meta()));
            if ours && template_of(&there).is_some_and(|t| same_template(&t, template)) {
                // Ours, from before: the cache has not seen it yet.
                return Ok(there);
            }
            *collisions += 1;
        }
    }

    /// Deletes a revision.
    pub async fn delete(&self, revision: &ControllerRevision) -> anyhow::Result<()> {
        let name = meta::name(&revision.metadata);
        let uid = revision.metadata.uid.clone();
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.api(meta::namespace(&revision.metadata)).delete(name, &params).await {
            Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("deleting controller revision {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    fn template(image: &str) -> PodTemplateSpec {
        let c = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
        PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![c], ..PodSpec::default() }) }
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let mut owner = StatefulSet::default();
        owner.metadata.name = Some("web".into());
        Arc::new(make(&owner, &template(image), number, 0, "hash"))
    }

    #[test]
    fn templates_are_found_again() {
        let all = [revision("a", 1), revision("b", 2)];
        assert_eq!(next(&[], &template("a")), Next::New(1));
        assert_eq!(next(&all, &template("b")), Next::Keep(1));
        assert_eq!(next(&all, &template("a")), Next::Bump(0, 3));
        assert_eq!(next(&all, &template("c")), Next::New(3));
        assert_eq!(template_of(&all[0]), Some(template("a")));
        let mut upstream = all[1].as_ref().clone();
        upstream.data = Some(RawExtension(json!({"spec": {"template": {"$patch": "replace",
            "metadata": {"creationTimestamp": null, "labels": {}},
            "spec": {"containers": [{"name": "c", "image": "b"}]}}}})));
        assert_eq!(next(&[Arc::new(upstream)], &template("b")), Next::Keep(0), "as older releases wrote it");
        let odd = ControllerRevision { data: Some(RawExtension(json!({"spec": 1}))), ..Default::default() };
        assert_eq!(template_of(&odd), None);
    }

    #[test]
    fn names_differ_by_template_and_collisions() {
        let mut owner = StatefulSet::default();
        owner.metadata.name = Some("w".repeat(300));
        let name = |image, collisions| {
            make(&owner, &template(image), 1, collisions, "hash").metadata.name.unwrap_or_default()
        };
        assert_ne!(name("a", 0), name("b", 0));
        assert_ne!(name("a", 0), name("a", 1));
        assert!(name("a", 0).len() <= 234);
    }

    #[test]
    fn old_revisions_beyond_the_limit_go() {
        let all: Vec<_> = (1..=5).map(|n| revision(&n.to_string(), n)).collect();
        let gone = |live: &[i64], limit, count| -> Vec<i64> {
            surplus(&all, |r| live.contains(&r.revision), limit, count).iter().map(|r| r.revision).collect()
        };
        assert_eq!(gone(&[], 2, false), [1, 2, 3]);
        assert_eq!(gone(&[1, 4], 2, false), [2]);
        assert_eq!(gone(&[1, 4], 2, true), [2, 3, 5]);
        assert_eq!(gone(&[], 9, true), [0; 0]);
        assert_eq!(gone(&[], -1, true), [0; 0]);
    }
}
