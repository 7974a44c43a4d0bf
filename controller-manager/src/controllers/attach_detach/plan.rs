//! What has to be attached to a node, what detached, and what the node is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// After this long a volume is detached from a node that is not ready, though it may still be mounted there.
pub const PATIENCE: Duration = Duration::from_secs(360);

/// A CSI volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    pub driver: String,
    pub handle: String,
}

impl Volume {
    /// The name by which node statuses call it.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// The name of its VolumeAttachment on a node; drivers and older releases rely on this form.
    pub fn attachment_name(&self, node: &str) -> String {
        let digest = Sha256::digest(format!("{}{}{node}", self.handle, self.driver));
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        format!("csi-{hex}")
    }
}

/// A volume that pods of the node use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub volume: Volume,
    pub persistent_volume: String,
    /// It can be attached to one node at a time only.
    pub exclusive: bool,
    /// Other nodes that it is attached to, or may be.
    pub elsewhere: Vec<String>,
}

/// An attachment to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub volume: Volume,
    pub attached: bool,
    /// It was told to end, and its driver works on it.
    pub detaching: bool,
    /// Since when nobody uses it.
    pub unwanted_for: Duration,
}

/// What is known of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub exists: bool,
    pub ready: bool,
    pub out_of_service: bool,
    /// Volumes that its kubelet may have mounted.
    pub in_use: BTreeSet<String>,
    /// Volumes that its kubelet was told are attached.
    pub told: BTreeSet<String>,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tell the kubelet that these are attached, and no others; nothing if it knows.
    pub tell: Option<BTreeSet<String>>,
    /// Newly attached.
    pub done: Vec<Wanted>,
    pub attach: Vec<Wanted>,
    pub busy: Vec<Wanted>,
    pub detach: Vec<Volume>,
    /// Look again after this time.
    pub again: Option<Duration>,
}

/// Decides for one node. `force`: whether patience ever ends.
pub fn plan(node: &Node, wanted: &[Wanted], attachments: &[Attachment], force: bool) -> Plan {
    let mut plan = Plan::default();
    let by_volume: BTreeMap<&Volume, &Attachment> = attachments.iter().map(|a| (&a.volume, a)).collect();
    let mut tell = BTreeSet::new();
    for w in wanted {
        match by_volume.get(&w.volume) {
            Some(a) if a.attached && !a.detaching => {
                let name = w.volume.unique_name();
                if !node.told.contains(&name) {
                    plan.done.push(w.clone());
                }
                tell.insert(name);
            }
            Some(_) => {}
            None if w.exclusive && !w.elsewhere.is_empty() => plan.busy.push(w.clone()),
            None if node.exists => plan.attach.push(w.clone()),
            None => {}
        }
    }
    for a in attachments {
        if a.detaching || wanted.iter().any(|w| w.volume == a.volume) {
            continue;
        }
        let name = a.volume.unique_name();
        let mounted = node.in_use.contains(&name);
        let patience_ends = force && !node.ready && a.unwanted_for >= PATIENCE;
        if !node.exists || !mounted || node.out_of_service || patience_ends {
            plan.detach.push(a.volume.clone());
            continue;
        }
        // The kubelet still unmounts it.
        tell.extend(node.told.contains(&name).then_some(name));
        if force && !node.ready {
            let left = PATIENCE.saturating_sub(a.unwanted_for);
            plan.again = Some(plan.again.map_or(left, |known| known.min(left)));
        }
    }
    plan.tell = (node.exists && tell != node.told).then_some(tell);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(handle: &str) -> Volume {
        Volume { driver: "d.example.com".into(), handle: handle.into() }
    }

    fn wanted(handle: &str, elsewhere: &[&str]) -> Wanted {
        Wanted {
            volume: volume(handle),
            persistent_volume: format!("pv-{handle}"),
            exclusive: true,
            elsewhere: elsewhere.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    fn attachment(handle: &str, attached: bool) -> Attachment {
        Attachment { volume: volume(handle), attached, detaching: false, unwanted_for: Duration::ZERO }
    }

    fn node() -> Node {
        Node { exists: true, ready: true, ..Node::default() }
    }

    fn names(handles: &[&str]) -> BTreeSet<String> {
        handles.iter().map(|h| volume(h).unique_name()).collect()
    }

    #[test]
    fn attached_then_told() {
        let w = [wanted("a", &[])];
        assert_eq!(plan(&node(), &w, &[], true).attach, w);
        assert_eq!(
            plan(&node(), &w, &[attachment("a", false)], true),
            Plan::default(),
            "the driver works on it"
        );
        let p = plan(&node(), &w, &[attachment("a", true)], true);
        assert_eq!((p.tell, p.done), (Some(names(&["a"])), w.to_vec()));
        let told = Node { told: names(&["a"]), ..node() };
        assert_eq!(plan(&told, &w, &[attachment("a", true)], true), Plan::default());
    }

    #[test]
    fn exclusive_volumes_are_on_one_node() {
        let mut w = wanted("a", &["other"]);
        assert_eq!(plan(&node(), std::slice::from_ref(&w), &[], true).busy, [w.clone()]);
        w.exclusive = false;
        assert_eq!(plan(&node(), std::slice::from_ref(&w), &[], true).attach, [w]);
    }

    #[test]
    fn detached_when_unmounted_and_the_kubelet_is_told_first() {
        let mut n = Node { told: names(&["a"]), in_use: names(&["a"]), ..node() };
        let a = [attachment("a", true)];
        assert_eq!(plan(&n, &[], &a, true), Plan::default(), "still mounted");
        n.in_use.clear();
        let p = plan(&n, &[], &a, true);
        assert_eq!((p.tell, p.detach), (Some(names(&[])), vec![volume("a")]));
    }

    #[test]
    fn nodes_that_do_not_answer_lose_their_volumes_in_the_end() {
        let n = Node { ready: false, told: names(&["a"]), in_use: names(&["a"]), ..node() };
        let mut a = attachment("a", true);
        assert_eq!(plan(&n, &[], std::slice::from_ref(&a), true).again, Some(PATIENCE));
        a.unwanted_for = PATIENCE;
        assert_eq!(plan(&n, &[], std::slice::from_ref(&a), true).detach, [volume("a")]);
        assert_eq!(plan(&n, &[], std::slice::from_ref(&a), false), Plan::default(), "switched off");
        let ready = Node { ready: true, ..n.clone() };
        assert_eq!(plan(&ready, &[], std::slice::from_ref(&a), true), Plan::default());
        let out = Node { out_of_service: true, ..n };
        a.unwanted_for = Duration::ZERO;
        assert_eq!(plan(&out, &[], std::slice::from_ref(&a), true).detach, [volume("a")]);
        assert_eq!(plan(&Node::default(), &[], &[a], true).detach, [volume("a")], "the node is gone");
    }

    #[test]
    fn names_are_those_that_drivers_know() {
        let v = Volume { driver: "d".into(), handle: "h".into() };
        assert_eq!(v.unique_name(), "kubernetes.io/csi/d^h");
        // sha256 of "hdn"
        let name = v.attachment_name("n");
        assert!(name.starts_with("csi-") && name.len() == 68, "{name}");
    }
}
