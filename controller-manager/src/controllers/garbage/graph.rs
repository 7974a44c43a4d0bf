//! The graph of owners and dependents, kept from metadata watches. Pure: it takes changes and answers with the uids
//! that must be looked at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Finalizer of an object that waits for its dependents to be deleted.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents must be set free before it goes.
pub const ORPHAN: &str = "orphan";

/// Uid of an object.
pub type Uid = Arc<str>;

/// Where an object is: kind (an index into the table of watched kinds), namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub kind: usize,
    pub namespace: Option<Box<str>>,
    pub name: Box<str>,
}

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: Uid,
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub blocks: bool,
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub owners: Box<[Owner]>,
    pub being_deleted: bool,
    /// It waits for its dependents to be deleted.
    pub foreground: bool,
}

/// Uids to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// These may have to be deleted, or let go.
    pub check: Vec<Uid>,
    /// The dependents of these must be orphaned.
    pub orphan: Vec<Uid>,
}

/// All observed objects, and who depends on whom.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    /// By owner's uid; the owner itself need not have been observed.
    dependents: HashMap<Uid, HashSet<Uid>>,
}

fn owners(meta: &ObjectMeta) -> Box<[Owner]> {
    let refs = meta.owner_references.iter().flatten();
    refs.map(|r| Owner {
        uid: r.uid.as_str().into(),
        api_version: r.api_version.as_str().into(),
        kind: r.kind.as_str().into(),
        name: r.name.as_str().into(),
        blocks: r.block_owner_deletion == Some(true),
    })
    .collect()
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == name))
}

impl Graph {
    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// An observed object.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Uids of the objects that name this one as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Uid> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Dependents that keep an owner in foreground deletion from going.
    pub fn blocking_dependents(&self, uid: &str) -> Vec<Uid> {
        let blocks = |d: &&Uid| {
            self.nodes.get(*d).is_some_and(|n| n.owners.iter().any(|o| &*o.uid == uid && o.blocks))
        };
        self.dependents(uid).filter(blocks).cloned().collect()
    }

    /// Whether all owners of a node are observed where it says they are, and none of them waits for it to go: then
    /// nothing needs to be asked.
    pub fn surely_owned(&self, node: &Node, kinds: impl Fn(&Owner) -> Option<(usize, bool)>) -> bool {
        !node.owners.is_empty()
            && node.owners.iter().all(|o| {
                let Some((kind, namespaced)) = kinds(o) else { return false };
                self.nodes.get(&o.uid).is_some_and(|n| {
                    !n.foreground
                        && n.place.kind == kind
                        && n.place.name == o.name
                        && (!namespaced || n.place.namespace == node.place.namespace)
                })
            })
    }

    /// An object was added or changed.
    pub fn observe(&mut self, kind: usize, meta: &ObjectMeta) -> Wake {
        let mut wake = Wake::default();
        let Some(uid) = meta.uid.as_deref() else { return wake };
        let uid: Uid = uid.into();
        let being_deleted = meta.deletion_timestamp.is_some();
        let node = Node {
            place: Place {
                kind,
                namespace: meta.namespace.as_deref().map(Into::into),
                name: meta.name.as_deref().unwrap_or_default().into(),
            },
            owners: owners(meta),
            being_deleted,
            foreground: being_deleted && has_finalizer(meta, FOREGROUND),
        };
        let old = self.nodes.get(&uid);
        let was_foreground = old.is_some_and(|o| o.foreground);
        let first = old.is_none();
        let old_owners: Box<[Owner]> = old.map(|o| o.owners.clone()).unwrap_or_default();

        for gone in old_owners.iter().filter(|o| !node.owners.iter().any(|n| n.uid == o.uid)) {
            self.unlink(&gone.uid, &uid);
            // An owner that waited for this one may go now.
            if gone.blocks {
                wake.check.push(gone.uid.clone());
            }
        }
        for changed in old_owners.iter().filter(|o| o.blocks) {
            if node.owners.iter().any(|n| n.uid == changed.uid && !n.blocks) {
                wake.check.push(changed.uid.clone());
            }
        }
        let mut doubtful = false;
        for owner in &node.owners {
            if !old_owners.contains(owner) {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
                doubtful = true;
            }
        }
        if doubtful {
            wake.check.push(uid.clone());
        }
        if first {
            // Dependents may have named this uid with another name or namespace: they deserve a second look.
            wake.check.extend(self.dependents(&uid).filter(|d| !self.agrees(d, &uid, &node.place)).cloned());
        }
        if node.foreground && !was_foreground {
            wake.check.extend(self.dependents(&uid).cloned());
            wake.check.push(uid.clone());
        }
        if being_deleted && has_finalizer(meta, ORPHAN) {
            wake.orphan.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        wake
    }

    /// Whether a dependent names its owner by the name and namespace that the owner has.
    fn agrees(&self, dependent: &Uid, owner: &Uid, place: &Place) -> bool {
        self.nodes.get(dependent).is_none_or(|d| {
            d.owners.iter().any(|o| o.uid == *owner && o.name == place.name)
                && (place.namespace.is_none() || place.namespace == d.place.namespace)
        })
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Wake {
        let mut wake = Wake::default();
        let Some((uid, node)) = self.nodes.remove_entry(uid) else { return wake };
        wake.check.extend(self.dependents(&uid).cloned());
        for owner in &node.owners {
            self.unlink(&owner.uid, &uid);
            if self.nodes.get(&owner.uid).is_some_and(|n| n.foreground) {
                wake.check.push(owner.uid.clone());
            }
        }
        wake
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// After a complete list of a kind: what was known of it and is not in `seen`.
    pub fn missing(&self, kind: usize, seen: &HashSet<Uid>) -> Vec<Uid> {
        let gone = self.nodes.iter().filter(|(uid, n)| n.place.kind == kind && !seen.contains(*uid));
        gone.map(|(uid, _)| uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn meta(uid: &str, owner: Option<(&str, bool)>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(format!("n-{uid}")),
            namespace: Some("ns".into()),
            owner_references: owner.map(|(o, block)| {
                vec![OwnerReference {
                    uid: o.into(),
                    name: format!("n-{o}"),
                    api_version: "v1".into(),
                    kind: "K".into(),
                    block_owner_deletion: Some(block),
                    ..OwnerReference::default()
                }]
            }),
            ..ObjectMeta::default()
        }
    }

    fn deleting(mut m: ObjectMeta, finalizer: &str) -> ObjectMeta {
        m.deletion_timestamp = Some(crate::util::meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        m.finalizers = Some(vec![finalizer.into()]);
        m
    }

    fn names(list: &[Uid]) -> Vec<&str> {
        let mut v: Vec<&str> = list.iter().map(|u| &**u).collect();
        v.sort_unstable();
        v
    }

    #[test]
    fn a_deleted_owner_wakes_its_dependents() {
        let mut g = Graph::default();
        assert_eq!(g.observe(0, &meta("o", None)), Wake::default());
        assert_eq!(names(&g.observe(1, &meta("d", Some(("o", true)))).check), ["d"]);
        assert!(g.surely_owned(&g.get("d").cloned().expect("known"), |_| Some((0, true))));
        assert_eq!(names(&g.remove("o").check), ["d"]);
        assert!(!g.surely_owned(&g.get("d").cloned().expect("known"), |_| Some((0, true))));
        assert!(g.remove("nobody").check.is_empty());
    }

    #[test]
    fn foreground_waits_for_blocking_dependents() {
        let mut g = Graph::default();
        g.observe(0, &meta("o", None));
        g.observe(1, &meta("a", Some(("o", true))));
        g.observe(1, &meta("b", Some(("o", false))));
        let wake = g.observe(0, &deleting(meta("o", None), FOREGROUND));
        assert_eq!(names(&wake.check), ["a", "b", "o"]);
        assert_eq!(names(&g.blocking_dependents("o")), ["a"]);
        assert_eq!(
            names(&g.observe(1, &meta("a", Some(("o", false)))).check),
            ["a", "o"],
            "it blocks no more"
        );
        assert_eq!(names(&g.remove("a").check), ["o"]);
        assert!(g.blocking_dependents("o").is_empty());
    }

    #[test]
    fn orphaning_is_asked_for() {
        let mut g = Graph::default();
        g.observe(0, &meta("o", None));
        assert_eq!(names(&g.observe(0, &deleting(meta("o", None), ORPHAN)).orphan), ["o"]);
    }

    #[test]
    fn an_owner_seen_late_wakes_those_who_misname_it() {
        let mut g = Graph::default();
        g.observe(1, &meta("good", Some(("o", true))));
        let mut bad = meta("bad", Some(("o", true)));
        bad.namespace = Some("elsewhere".into());
        g.observe(1, &bad);
        assert_eq!(names(&g.observe(0, &meta("o", None)).check), ["bad"]);
    }

    #[test]
    fn a_new_list_tells_what_is_gone() {
        let mut g = Graph::default();
        g.observe(0, &meta("a", None));
        g.observe(0, &meta("b", None));
        g.observe(1, &meta("c", None));
        assert_eq!(names(&g.missing(0, &HashSet::from([Uid::from("a")]))), ["b"]);
        assert_eq!(g.len(), 3);
    }

    #[test]
    fn links_leave_nothing_behind() {
        let mut g = Graph::default();
        g.observe(1, &meta("d", Some(("o", true))));
        g.observe(1, &meta("d", Some(("p", true))));
        g.remove("d");
        assert!(g.dependents.is_empty() && g.nodes.is_empty());
    }
}
