//! A pod's filters, compiled once per decision.

use std::collections::BTreeSet;

use crate::cache::{Cache, NodeInfo};
use crate::framework::{Check, Cycle, Filter, Profile, Rejection};
use crate::model::{PodInfo, Str};

/// Compiled checks of a pod.
pub struct Compiled<'a> {
    cx: Cycle<'a>,
    /// Checks that depend on nothing but the node and the pods on it.
    local: Vec<Check<'a>>,
    /// Checks that look at other nodes or objects, too.
    global: Vec<Check<'a>>,
    /// Local checks come before global ones, so that the first objection is the same if they are run apart.
    pub splits: bool,
    /// The only nodes that can do, when the pod restricts itself.
    pub only: Option<BTreeSet<Str>>,
}

/// Compiles the filters of a profile for a pod.
///
/// # Errors
/// A plugin refuses the pod on any node.
pub fn compile<'a>(profile: &'a Profile, cx: Cycle<'a>) -> Result<Compiled<'a>, Rejection> {
    let mut out = Compiled { cx, local: Vec::new(), global: Vec::new(), splits: true, only: None };
    for p in profile.filters() {
        let check = match p.filter(cx)? {
            Filter::Skip => continue,
            Filter::Check(c) => c,
            Filter::Narrow(names, c) => {
                out.only = Some(match out.only.take() {
                    Some(old) => old.intersection(&names).cloned().collect(),
                    None => names,
                });
                c
            }
        };
        if p.is_local() && out.global.is_empty() {
            out.local.push(check);
        } else {
            out.splits &= !p.is_local();
            out.global.push(check);
        }
    }
    Ok(out)
}

impl Compiled<'_> {
    /// Whether only the node itself decides.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.global.is_empty()
    }

    /// The first objection to a node as it is, and as it will be when pods of at least the same priority that wait
    /// for room on it have arrived.
    ///
    /// # Errors
    /// The objection.
    pub fn check(&self, n: &NodeInfo) -> Result<(), Rejection> {
        self.both(n, |c, n| c.local.iter().chain(&c.global).try_for_each(|x| x(n)))
    }

    /// [`Self::check`] with the local checks alone.
    ///
    /// # Errors
    /// The objection.
    pub fn check_local(&self, n: &NodeInfo) -> Result<(), Rejection> {
        self.both(n, |c, n| c.local.iter().try_for_each(|x| x(n)))
    }

    /// [`Self::check`] with the other checks alone.
    ///
    /// # Errors
    /// The objection.
    pub fn check_global(&self, n: &NodeInfo) -> Result<(), Rejection> {
        self.both(n, |c, n| c.global.iter().try_for_each(|x| x(n)))
    }

    fn both(
        &self,
        n: &NodeInfo,
        checks: impl Fn(&Self, &NodeInfo) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        if let Some(later) = with_nominated(self.cx.cache, self.cx.pod, n) {
            checks(self, &later)?;
        }
        checks(self, n)
    }
}

/// The node with the pods that wait for room on it; `None` if none does whom `pod` must make way for.
fn with_nominated(cache: &Cache, pod: &PodInfo, n: &NodeInfo) -> Option<NodeInfo> {
    if cache.no_nominations() {
        return None;
    }
    let mut later: Option<NodeInfo> = None;
    for p in cache.nominated(&n.name).iter().filter(|p| p.priority >= pod.priority && p.uid != pod.uid) {
        later.get_or_insert_with(|| n.clone()).add(p.clone());
    }
    later
}
