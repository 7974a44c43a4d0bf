//! How many replicas a metric asks for. Pure: pods and samples come in, a proposal goes out.
//!
//! The ratio of what is used to what is wanted decides. Pods without a sample, and pods that are not ready yet, are
//! assumed to use what makes the change smaller, so that nothing is scaled on account of what is not known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use component_base::quantity::amount;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::util::{meta, pods};

/// One value of a metric of a pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: Timestamp,
    /// Over how long it was measured.
    pub window: SignedDuration,
    /// In thousandths.
    pub milli: i64,
}

/// Samples by pod.
pub type Samples = HashMap<String, Sample>;

/// How far the ratio may be from one before anything is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn within(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What the pods of the target are to use on average.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Percent of what they request of the resource: of one container, or all (empty).
    Utilization { percent: i32, resource: &'a str, container: &'a str },
    /// A value in thousandths.
    Average(i64),
}

/// What is known of the target's pods.
pub struct Frame<'a> {
    pub pods: &'a [Arc<Pod>],
    /// The resource that is measured; empty for other metrics.
    pub resource: &'a str,
    /// CPU samples of pods younger than this count only while the pod is ready.
    pub cpu_initialization: SignedDuration,
    /// A pod that has not been ready within this time after its start is not becoming ready yet.
    pub readiness_delay: SignedDuration,
    pub tolerances: Tolerances,
    /// Replicas now.
    pub current: i32,
    pub now: Timestamp,
}

/// A number of replicas, and what the metric is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proposal {
    pub replicas: i32,
    /// Average value of a pod in thousandths.
    pub average: i64,
    /// Percent of requests, where that is what counts.
    pub utilization: Option<i32>,
}

#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: HashSet<String>,
    missing: HashSet<String>,
    ignored: HashSet<String>,
}

impl Frame<'_> {
    fn groups(&self, samples: &Samples) -> Groups {
        let mut out = Groups::default();
        for pod in self.pods {
            let name = meta::name(&pod.metadata).to_owned();
            if pod.metadata.deletion_timestamp.is_some() || pods::phase(pod) == "Failed" {
                out.ignored.insert(name);
            } else if pods::phase(pod) == "Pending" {
                out.unready.insert(name);
            } else if let Some(sample) = samples.get(&name) {
                if self.resource == "cpu" && self.is_unready(pod, sample) {
                    out.unready.insert(name);
                } else {
                    out.ready += 1;
                }
            } else {
                out.missing.insert(name);
            }
        }
        out
    }

    /// Whether a CPU sample of the pod is likely to show its start rather than its work.
    fn is_unready(&self, pod: &Pod, sample: &Sample) -> bool {
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let Some((ready, started)) = pods::condition(pod, "Ready").zip(started) else { return true };
        let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
        let not_ready = ready.status == "False";
        let after = |at: Timestamp, d: SignedDuration| at.checked_add(d).unwrap_or(Timestamp::MAX);
        if after(started, self.cpu_initialization) > self.now {
            not_ready || sample.at < after(changed, sample.window)
        } else {
            not_ready && after(started, self.readiness_delay) > changed
        }
    }

    /// The replicas that a metric of the pods asks for.
    ///
    /// # Errors
    /// There is nothing to calculate with; worded as upstream does.
    pub fn of_pods(&self, mut samples: Samples, target: Target<'_>) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let groups = self.groups(&samples);
        samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let requests = match target {
            Target::Utilization { resource, container, .. } => self.requests(resource, container)?,
            Target::Average(_) => HashMap::new(),
        };
        let (ratio, average, utilization) = measure(&samples, &requests, target)?;
        let proposal = |replicas| Proposal { replicas, average, utilization };
        let with_unready = !groups.unready.is_empty() && ratio > 1.0;
        if !with_unready && groups.missing.is_empty() {
            let same = self.tolerances.within(ratio);
            return Ok(proposal(if same { self.current } else { ceil(ratio * groups.ready as f64) }));
        }
        let mut assume = |pod: &String, milli: i64| {
            samples.insert(pod.clone(), Sample { at: self.now, window: SignedDuration::ZERO, milli });
        };
        for pod in &groups.missing {
            if ratio > 1.0 {
                assume(pod, 0);
            } else if ratio < 1.0 {
                assume(
                    pod,
                    match target {
                        Target::Average(milli) => milli,
                        Target::Utilization { percent, .. } => {
                            let request = requests.get(pod).copied().unwrap_or(0);
                            request.saturating_mul(i64::from(percent.max(100))) / 100
                        }
                    },
                );
            }
        }
        if with_unready {
            groups.unready.iter().for_each(|pod| assume(pod, 0));
        }
        let (new, _, _) = measure(&samples, &requests, target)?;
        if self.tolerances.within(new) || (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0) {
            return Ok(proposal(self.current));
        }
        let replicas = ceil(new * samples.len() as f64);
        let wrong_way = (new < 1.0 && replicas > self.current) || (new > 1.0 && replicas < self.current);
        Ok(proposal(if wrong_way { self.current } else { replicas }))
    }

    /// The replicas that one value for all pods together asks for, and the value.
    ///
    /// # Errors
    /// There are no pods.
    pub fn of_total(&self, usage: i64, target: i64) -> Result<i32, String> {
        let ratio = usage as f64 / target as f64;
        if self.current == 0 {
            return Ok(ceil(ratio));
        }
        if self.tolerances.within(ratio) {
            return Ok(self.current);
        }
        if self.pods.is_empty() {
            return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
        }
        let ready = self.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
        Ok(ceil(ratio * ready as f64))
    }

    /// The replicas among which a value is to be shared so that each gets `target`, and what each gets now.
    pub fn of_share(&self, usage: i64, target: i64) -> (i32, i64) {
        let ratio = usage as f64 / (target as f64 * f64::from(self.current));
        let replicas =
            if self.tolerances.within(ratio) { self.current } else { ceil(usage as f64 / target as f64) };
        (replicas, (usage as f64 / f64::from(self.current.max(1))).ceil() as i64)
    }

    /// What each pod requests, in thousandths.
    fn requests(&self, resource: &str, container: &str) -> Result<HashMap<String, i64>, String> {
        let mut out = HashMap::new();
        for pod in self.pods {
            let name = meta::name(&pod.metadata);
            let spec = pod.spec.as_ref();
            let of_pod = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
            let of_pod = of_pod.filter(|r| {
                container.is_empty()
                    && r.keys().any(|k| matches!(k.as_str(), "cpu" | "memory") || k.starts_with("hugepages-"))
            });
            let milli = match of_pod {
                Some(requests) if requests.contains_key(resource) => {
                    let overhead = spec.and_then(|s| s.overhead.as_ref()).and_then(|o| o.get(resource));
                    amount(&requests[resource]).milli() + overhead.map_or(0, |o| amount(o).milli())
                }
                _ => of_containers(pod, resource, container)?,
            };
            out.insert(name.to_owned(), milli);
        }
        Ok(out)
    }
}

fn of_containers(pod: &Pod, resource: &str, container: &str) -> Result<i64, String> {
    let name = meta::name(&pod.metadata);
    let spec = pod.spec.as_ref();
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let containers = spec.into_iter().flat_map(|s| &s.containers);
    let sidecars = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).filter(sidecar);
    let mut total = 0_i64;
    let mut found = container.is_empty();
    for c in containers.chain(sidecars).filter(|c| container.is_empty() || c.name == container) {
        found = true;
        let request = c.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
        let Some(request) = request else {
            return Err(format!("missing request for {resource} in container {} of Pod {name}", c.name));
        };
        total = total.saturating_add(amount(request).milli());
    }
    if found { Ok(total) } else { Err(format!("container {container} not found in Pod {name}")) }
}

/// The ratio of use to target; the average; and the use in percent of requests, if that is the target.
fn measure(
    samples: &Samples,
    requests: &HashMap<String, i64>,
    target: Target<'_>,
) -> Result<(f64, i64, Option<i32>), String> {
    match target {
        Target::Average(milli) => {
            let total: i128 = samples.values().map(|s| i128::from(s.milli)).sum();
            let average = clamp(total / samples.len().max(1) as i128);
            Ok((average as f64 / milli as f64, average, None))
        }
        Target::Utilization { percent, .. } => {
            let known = samples.iter().filter_map(|(pod, s)| Some((s.milli, *requests.get(pod)?)));
            let (mut used, mut requested, mut n) = (0_i128, 0_i128, 0_i128);
            for (milli, request) in known {
                used += i128::from(milli);
                requested += i128::from(request);
                n += 1;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(percent), clamp(used / n), Some(utilization)))
        }
    }
}

fn clamp(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

/// Casts of floats saturate.
fn ceil(v: f64) -> i32 {
    v.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let started = "1970-01-01T00:00:00Z";
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": started, "conditions": [
                    {"type": "Ready", "status": if ready {"True"} else {"False"}, "lastTransitionTime": started}]}
            }))
            .unwrap(),
        )
    }

    fn samples(milli: &[i64]) -> Samples {
        let at = Timestamp::from_second(3600).unwrap();
        milli
            .iter()
            .enumerate()
            .map(|(i, m)| (format!("p{i}"), Sample { at, window: SignedDuration::from_secs(60), milli: *m }))
            .collect()
    }

    fn frame(pods: &[Arc<Pod>]) -> Frame<'_> {
        Frame {
            pods,
            resource: "cpu",
            cpu_initialization: SignedDuration::from_mins(5),
            readiness_delay: SignedDuration::from_secs(30),
            tolerances: Tolerances { down: 0.1, up: 0.1 },
            current: pods.len() as i32,
            now: Timestamp::from_second(3600).unwrap(),
        }
    }

    const HALF: Target<'static> = Target::Utilization { percent: 50, resource: "cpu", container: "" };

    fn running(n: usize) -> Vec<Arc<Pod>> {
        (0..n).map(|i| pod(&format!("p{i}"), "Running", true)).collect()
    }

    #[test]
    fn replicas_follow_the_ratio() {
        let pods = running(3);
        let of = |milli: &[i64]| frame(&pods).of_pods(samples(milli), HALF).unwrap();
        assert_eq!(of(&[1000, 1000, 1000]), Proposal { replicas: 6, average: 1000, utilization: Some(100) });
        assert_eq!(of(&[100, 100, 100]).replicas, 1);
        assert_eq!(of(&[540, 540, 540]).replicas, 3, "within the tolerance");
        let raw = frame(&pods).of_pods(samples(&[300, 600, 900]), Target::Average(300)).unwrap();
        assert_eq!(raw, Proposal { replicas: 6, average: 600, utilization: None });
    }

    #[test]
    fn what_is_not_known_makes_changes_smaller() {
        let pods = running(4);
        // Three use all: eight would be wanted; the fourth is assumed to use nothing.
        let up = frame(&pods).of_pods(samples(&[1000, 1000, 1000]), HALF).unwrap();
        assert_eq!(up.replicas, 6);
        // Three use little; the fourth is assumed to use all it requested.
        let down = frame(&pods).of_pods(samples(&[50, 50, 50]), HALF).unwrap();
        assert_eq!(down.replicas, 3);
    }

    #[test]
    fn pods_that_start_count_as_idle_when_scaling_up_and_not_at_all_when_scaling_down() {
        let mut pods = running(2);
        pods.push(pod("p2", "Pending", false));
        let up = frame(&pods).of_pods(samples(&[1000, 1000]), HALF).unwrap();
        assert_eq!(up.replicas, 4);
        let down = frame(&pods).of_pods(samples(&[100, 100]), HALF).unwrap();
        assert_eq!(down.replicas, 1);
        // A sample of the time before the pod became ready does not count.
        let mut young = running(1);
        let now = Timestamp::from_second(30).unwrap();
        let early = Samples::from([(
            "p0".to_owned(),
            Sample { at: now, window: SignedDuration::from_secs(60), milli: 5000 },
        )]);
        let f = Frame { now, ..frame(&young) };
        assert!(f.of_pods(early, HALF).unwrap_err().contains("pods might be unready"));
        young.clear();
        assert!(frame(&young).of_pods(samples(&[1]), HALF).unwrap_err().contains("no pods returned"));
    }

    #[test]
    fn requests_must_be_there() {
        let bare: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p0"}, "spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}
        }))
        .unwrap();
        let pods = [Arc::new(bare)];
        let f = Frame { resource: "memory", ..frame(&pods) };
        let target = |container| Target::Utilization { percent: 50, resource: "memory", container };
        assert_eq!(
            f.of_pods(samples(&[1]), target("")).unwrap_err(),
            "missing request for memory in container a of Pod p0"
        );
        assert_eq!(f.of_pods(samples(&[1]), target("b")).unwrap_err(), "container b not found in Pod p0");
    }

    #[test]
    fn values_of_other_things() {
        let pods = running(3);
        assert_eq!(frame(&pods).of_total(40_000, 10_000), Ok(12));
        assert_eq!(frame(&pods).of_total(10_500, 10_000), Ok(3));
        assert_eq!(frame(&pods).of_share(40_000, 10_000), (4, 13_334));
        assert_eq!(frame(&pods).of_share(31_000, 10_000), (3, 10_334));
        assert!(Frame { current: 3, ..frame(&[]) }.of_total(40_000, 10_000).is_err());
        assert_eq!(frame(&pods).of_total(i64::MAX, 1), Ok(i32::MAX));
    }
}
