//! Profiles: which plugins take part for pods of one `schedulerName`, in which order and with which weights.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Plugin;
use crate::config::{PluginSet, ProfileConfig};
use crate::plugins;
use crate::preempt::Limits;

/// A profile ready for use.
pub struct Profile {
    pub name: String,
    /// Share of nodes to look at before scoring; 0 adapts to the cluster's size.
    pub percentage: i64,
    all: Vec<Box<dyn Plugin>>,
    pre_enqueue: Vec<usize>,
    filter: Vec<usize>,
    score: Vec<(usize, i64)>,
    /// DefaultPreemption is on.
    pub preempts: bool,
    /// How much DefaultPreemption compares.
    pub preemption: Limits,
    /// How long volumes may take to be bound.
    pub bind_timeout: Duration,
    /// How long devices may take to get ready.
    pub device_timeout: Duration,
}

/// Extension points a configuration can address; the last has no plugin that could be taken out alone.
struct Points {
    pre_enqueue: Vec<(String, i64)>,
    filter: Vec<(String, i64)>,
    score: Vec<(String, i64)>,
    post_filter: Vec<(String, i64)>,
    bind: Vec<(String, i64)>,
    queue_sort: Vec<(String, i64)>,
}

/// The defaults with a custom set merged in: what is disabled goes, what is enabled again takes its place and
/// weight, the rest is appended.
fn merge(base: &[(String, i64)], set: &PluginSet) -> Vec<(String, i64)> {
    let off: HashSet<&str> = set.disabled.iter().map(|p| p.name.as_str()).collect();
    let mut out: Vec<(String, i64)> = if off.contains("*") {
        Vec::new()
    } else {
        base.iter().filter(|(n, _)| !off.contains(n.as_str())).cloned().collect()
    };
    for p in &set.enabled {
        let weight = p.weight.unwrap_or(0);
        match out.iter_mut().find(|(n, _)| *n == p.name) {
            Some(x) => x.1 = weight,
            None => out.push((p.name.clone(), weight)),
        }
    }
    out
}

impl Profile {
    /// Builds a profile from its configuration.
    ///
    /// # Errors
    /// Unknown plugins, bad arguments, or no way to sort or bind pods.
    pub fn new(c: &ProfileConfig, percentage: i64) -> Result<Self, String> {
        let name = c.scheduler_name.clone().unwrap_or_default();
        let of = |e: String| format!("profile {name}: {e}");
        let defaults: Vec<(String, i64)> =
            plugins::DEFAULTS.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect();
        let p = &c.plugins;
        let multi = merge(&defaults, &p.multi_point);
        // A plugin takes part in filtering unless it is off at either of the two points.
        let filter = merge(&merge(&multi, &p.pre_filter), &p.filter);
        let points = Points {
            pre_enqueue: merge(&multi, &p.pre_enqueue),
            filter,
            score: merge(&merge(&multi, &p.pre_score), &p.score),
            post_filter: merge(&multi, &p.post_filter),
            bind: merge(&multi, &p.bind),
            queue_sort: merge(&multi, &p.queue_sort),
        };
        let has = |list: &[(String, i64)], n: &str| list.iter().any(|x| x.0 == n);
        if !has(&points.queue_sort, "PrioritySort") {
            return Err(of("at least one queue sort plugin is needed: enable PrioritySort".into()));
        }
        if !has(&points.bind, "DefaultBinder") {
            return Err(of("at least one bind plugin is needed: enable DefaultBinder".into()));
        }
        let mut args: HashMap<&str, serde_json::Value> =
            c.plugin_config.iter().map(|a| (a.name.as_str(), a.args.clone())).collect();
        let preemption = plugins::preemption_limits(args.get("DefaultPreemption").cloned()).map_err(of)?;
        let bind_timeout = plugins::bind_timeout(args.get("VolumeBinding").cloned()).map_err(of)?;
        let devices = args.get(plugins::dynamic_resources::NAME).cloned();
        let device_timeout = plugins::device_timeout(devices).map_err(of)?;
        let mut all: Vec<Box<dyn Plugin>> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        let lists = [&points.pre_enqueue, &points.filter, &points.score, &points.post_filter];
        let names: Vec<&String> = lists.iter().flat_map(|l| l.iter().map(|x| &x.0)).collect();
        let unused = [&p.reserve, &p.permit, &p.pre_bind, &p.post_bind, &p.bind, &p.queue_sort];
        let others = unused.iter().flat_map(|s| s.enabled.iter().map(|x| &x.name));
        let mut seen = HashSet::new();
        for n in names.into_iter().chain(others) {
            if !seen.insert(n.clone()) {
                continue;
            }
            if let Some(plugin) = plugins::make(n, args.remove(n.as_str())).map_err(of)? {
                index.insert(n.clone(), all.len());
                all.push(plugin);
            }
        }
        for (n, v) in args {
            plugins::make(n, Some(v)).map_err(of)?;
        }
        let at = |l: &[(String, i64)]| l.iter().filter_map(|x| index.get(&x.0).copied()).collect::<Vec<_>>();
        Ok(Self {
            percentage: c.percentage_of_nodes_to_score.unwrap_or(percentage),
            pre_enqueue: at(&points.pre_enqueue),
            filter: at(&points.filter),
            score: points
                .score
                .iter()
                .filter_map(|(n, w)| Some((*index.get(n)?, if *w == 0 { 1 } else { *w })))
                .collect(),
            preemption,
            bind_timeout,
            device_timeout,
            preempts: has(&points.post_filter, "DefaultPreemption"),
            name,
            all,
        })
    }

    /// Plugins that may hold a pod back.
    pub fn pre_enqueue(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.pre_enqueue.iter().map(|i| self.all[*i].as_ref())
    }

    /// Plugins that check nodes, in order.
    pub fn filters(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.filter.iter().map(|i| self.all[*i].as_ref())
    }

    /// Plugins that score nodes, with weights.
    pub fn scores(&self) -> impl Iterator<Item = (&dyn Plugin, i64)> {
        self.score.iter().map(|(i, w)| (self.all[*i].as_ref(), *w))
    }

    /// A plugin of this profile by name.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<&dyn Plugin> {
        self.all.iter().find(|p| p.name() == name).map(AsRef::as_ref)
    }
}
