//! Horizontal pod autoscaling: sets the number of replicas of anything with a scale subresource, so that metrics stay
//! near their targets.
//!
//! Every `--horizontal-pod-autoscaler-sync-period` an autoscaler's target is read, [`metrics`] are asked, [`usage`]
//! says what each asks for, and [`behavior`] how far and how fast to go there; the highest wins.
//!
//! Source: the API `autoscaling/v2`; KEP-853 (behavior), KEP-4951 (tolerance), KEP-1610 (container resources).

mod behavior;
mod metrics;
mod propose;
mod status;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use parking_lot::Mutex;

use self::behavior::{Bounds, History};
use self::metrics::Metrics;
use self::propose::{Failure, Proposed};
use crate::context::{Context, synced};
use crate::util::discovery::Cached;
use crate::util::selector::Selector;
use crate::util::{errors, meta};

/// Writes of a scale that others change at the same time.
const ATTEMPTS: usize = 5;

struct Controller {
    client: Client,
    metrics: Metrics,
    kinds: Cached,
    autoscalers: Store<HorizontalPodAutoscaler>,
    pods: Store<Pod>,
    events: EventRecorder,
    settings: Settings,
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Memory {
    history: History,
    /// Of the pods of its target, once known.
    selector: Option<Selector>,
}

/// The flags.
#[derive(Debug, Clone, Copy)]
struct Settings {
    tolerance: f64,
    stabilization: SignedDuration,
    cpu_initialization: SignedDuration,
    readiness_delay: SignedDuration,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let autoscalers = ctx.informers.of::<HorizontalPodAutoscaler>();
    let pods = ctx.informers.of::<Pod>();
    let period = ctx.flags.horizontal_pod_autoscaler_sync_period.0.max(Duration::from_millis(100));
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    autoscalers.on_change(move |d| {
        let key = key_of(d.object().as_ref());
        if d.is_deleted() { q.add(key) } else { q.add_after(key, period) }
    });
    let span = |d: Duration, flag: &str| {
        SignedDuration::try_from(d).with_context(|| format!("--horizontal-pod-autoscaler-{flag} is too long"))
    };
    let flags = &ctx.flags;
    let settings = Settings {
        tolerance: flags.horizontal_pod_autoscaler_tolerance,
        stabilization: span(
            flags.horizontal_pod_autoscaler_downscale_stabilization.0,
            "downscale-stabilization",
        )?,
        cpu_initialization: span(
            flags.horizontal_pod_autoscaler_cpu_initialization_period.0,
            "cpu-initialization-period",
        )?,
        readiness_delay: span(
            flags.horizontal_pod_autoscaler_initial_readiness_delay.0,
            "initial-readiness-delay",
        )?,
    };
    let client = ctx.client("horizontal-pod-autoscaler")?;
    let c = Arc::new(Controller {
        metrics: Metrics { client: client.clone() },
        kinds: Cached::new(client.clone()),
        client,
        autoscalers: autoscalers.store(),
        pods: pods.store(),
        events: ctx.events.for_component("horizontal-pod-autoscaler"),
        settings,
        memory: Mutex::default(),
    });
    let workers = flags.concurrent_horizontal_pod_autoscaler_syncs;
    let (q, ready) = (queue.clone(), vec![synced(&autoscalers), synced(&pods)]);
    ctx.work("horizontalpodautoscaler", &queue, workers, ready, move |key| {
        let (c, q) = (c.clone(), q.clone());
        async move {
            let Some(hpa) = c.autoscalers.get(&key) else {
                c.memory.lock().remove(&key);
                return Ok(());
            };
            if let Err(error) = c.sync(&key, &hpa).await {
                // Tried again as often as if it had gone well: metrics come when they come.
                tracing::debug!(autoscaler = key, error = format!("{error:#}"), "autoscaling failed");
            }
            q.add_after(key, period);
            Ok(())
        }
    });
    Ok(())
}

/// The scale of an autoscaler's target, and where it is.
struct Found {
    api: Api<DynamicObject>,
    scale: Scale,
}

/// What to do about the number of replicas before metrics are asked.
#[derive(Debug, PartialEq)]
enum Start {
    /// Somebody set it to none, which switches autoscaling off.
    Disabled,
    /// Out of bounds: to this number, for this reason.
    Set(i32, &'static str),
    AskMetrics,
}

fn start_of(spec: &HorizontalPodAutoscalerSpec, current: i32) -> Start {
    let min = spec.min_replicas.unwrap_or(1);
    match current {
        0 => Start::Disabled,
        n if n > spec.max_replicas => {
            Start::Set(spec.max_replicas, "Current number of replicas above Spec.MaxReplicas")
        }
        n if n < min => Start::Set(min, "Current number of replicas below Spec.MinReplicas"),
        _ => Start::AskMetrics,
    }
}

/// What the metrics ask for together.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// So many, because of this metric.
    Replicas(i32, String),
    /// Too little is known: the first failure, and the error of all.
    Failed(Failure, String),
}

/// The highest proposal, unless a metric that failed might have asked for more.
fn combine(results: &[Result<Proposed, Failure>], current: i32) -> Verdict {
    let failed: Vec<&Failure> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    let mut best: Option<&Proposed> = None;
    for p in results.iter().filter_map(|r| r.as_ref().ok()) {
        if best.is_none_or(|b| p.replicas > b.replicas) {
            best = Some(p);
        }
    }
    match (best, failed.first()) {
        (Some(best), None) => Verdict::Replicas(best.replicas, best.metric.clone()),
        (Some(best), Some(_)) if best.replicas >= current => {
            Verdict::Replicas(best.replicas, best.metric.clone())
        }
        (_, Some(first)) => {
            let all = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                failed.len(),
                results.len(),
                first.error
            );
            Verdict::Failed((*first).clone(), all)
        }
        // The API lets no autoscaler be without metrics.
        (None, None) => Verdict::Replicas(current, String::new()),
    }
}

impl Controller {
    async fn sync(&self, key: &str, cached: &HorizontalPodAutoscaler) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let mut hpa = cached.clone();
        let spec = cached.spec.clone();
        let found = match self.find_scale(&hpa, &spec).await {
            Ok(found) => found,
            Err(error) => {
                self.warn(&hpa, "FailedGetScale", error.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {error}");
                status::set(&mut hpa, "AbleToScale", false, "FailedGetScale", message, now);
                self.write_status(cached, &hpa).await?;
                anyhow::bail!("failed to query scale subresource: {error}");
            }
        };
        let got = "the HPA controller was able to get the target's current scale";
        status::set(&mut hpa, "AbleToScale", true, "SucceededGetScale", got, now);
        let current = found.scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        self.memory.lock().entry(key.to_owned()).or_default().history.begin(current, now);
        let mut shown = Vec::new();
        let (desired, why) = match start_of(&spec, current) {
            Start::Disabled => {
                let message = "scaling is disabled since the replica count of the target is zero";
                status::set(&mut hpa, "ScalingActive", false, "ScalingDisabled", message, now);
                status::remove(&mut hpa, "ScaledToZero");
                (current, String::new())
            }
            Start::Set(desired, why) => (desired, why.to_owned()),
            Start::AskMetrics => match self.ask(key, &mut hpa, &spec, &found.scale, &mut shown, now).await {
                Ok(wanted) => self.settle(key, &mut hpa, &spec, current, wanted, now),
                Err(error) => {
                    note_numbers(&mut hpa, current, None, shown, None);
                    self.write_status(cached, &hpa).await?;
                    self.warn(&hpa, "FailedComputeMetricsReplicas", error.clone());
                    anyhow::bail!("failed to compute desired number of replicas: {error}");
                }
            },
        };
        let mut scaled_at = None;
        if desired != current {
            if let Err(error) = self.rescale(&found, &spec, desired).await {
                let error = errors::message(&error);
                self.warn(
                    &hpa,
                    "FailedRescale",
                    format!("New size: {desired}; reason: {why}; error: {error}"),
                );
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                status::set(&mut hpa, "AbleToScale", false, "FailedUpdateScale", message, now);
                note_numbers(&mut hpa, current, None, shown, None);
                self.write_status(cached, &hpa).await?;
                anyhow::bail!("failed to rescale: {error}");
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            status::set(&mut hpa, "AbleToScale", true, "SucceededRescale", message, now);
            self.events.normal(
                &meta::reference(&hpa),
                "SuccessfulRescale",
                format!("New size: {desired}; reason: {why}"),
            );
            tracing::info!(autoscaler = key, from = current, to = desired, reason = why, "rescaled");
            let mut memory = self.memory.lock();
            let history = &mut memory.entry(key.to_owned()).or_default().history;
            history.changed(spec.behavior.as_ref(), current, desired, now);
            drop(memory);
            status::remove(&mut hpa, "ScaledToZero");
            scaled_at = Some(now);
        }
        note_numbers(&mut hpa, current, Some(desired), shown, scaled_at);
        self.write_status(cached, &hpa).await
    }

    /// The number that the metrics ask for, and the name of the metric that does.
    async fn ask(
        &self,
        key: &str,
        hpa: &mut HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        shown: &mut Vec<MetricStatus>,
        now: Timestamp,
    ) -> Result<(i32, String), String> {
        let text = scale.status.as_ref().and_then(|s| s.selector.as_deref()).unwrap_or_default();
        let pods = self.target_pods(key, hpa, text, now)?;
        let replicas = propose::Replicas {
            spec: scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
            status: scale.status.as_ref().map_or(0, |s| s.replicas),
        };
        let ask = propose::Ask {
            metrics: &self.metrics,
            kinds: &self.kinds,
            settings: self.settings,
            behavior: spec.behavior.as_ref(),
            namespace: meta::namespace(&hpa.metadata),
            selector: text,
            pods: &pods,
            replicas,
            now,
        };
        let mut results = Vec::new();
        for metric in spec.metrics.iter().flatten() {
            let result = ask.metric(metric).await;
            if let Ok(proposed) = &result {
                shown.push(proposed.status.clone());
            }
            results.push(result);
        }
        for failure in results.iter().filter_map(|r| r.as_ref().err()) {
            self.warn(hpa, failure.reason, failure.detail.clone());
        }
        match combine(&results, replicas.spec) {
            Verdict::Replicas(n, metric) => {
                let message =
                    format!("the HPA was able to successfully calculate a replica count from {metric}");
                status::set(hpa, "ScalingActive", true, "ValidMetricFound", message, now);
                Ok((n, metric))
            }
            Verdict::Failed(first, all) => {
                let message = format!("the HPA was unable to compute the replica count: {}", first.detail);
                status::set(hpa, "ScalingActive", false, first.reason, message, now);
                Err(all)
            }
        }
    }

    /// The pods that the target's selector selects, if no other autoscaler's does.
    fn target_pods(
        &self,
        key: &str,
        hpa: &mut HorizontalPodAutoscaler,
        text: &str,
        now: Timestamp,
    ) -> Result<Vec<Arc<Pod>>, String> {
        let namespace = meta::namespace(&hpa.metadata).to_owned();
        let mut refuse = |reason: &'static str, event: &'static str, error: &str, message: String| {
            self.warn(hpa, event, error.to_owned());
            status::set(hpa, "ScalingActive", false, reason, message, now);
            Err(error.to_owned())
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return refuse("InvalidSelector", "SelectorRequired", "selector is required", message);
        }
        let selector = match Selector::parse(text) {
            Ok(selector) => selector,
            Err(e) => {
                let error =
                    format!("couldn't convert selector into a corresponding internal selector object: {e}");
                return refuse("InvalidSelector", "InvalidSelector", &error, error.clone());
            }
        };
        let mut pods = self.pods.in_namespace(&namespace);
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        let mut memory = self.memory.lock();
        memory.entry(key.to_owned()).or_default().selector = Some(selector);
        let mut rivals: Vec<&str> = memory
            .iter()
            .filter(|(k, _)| split_key(k).0 == Some(namespace.as_str()))
            .filter(|(_, m)| {
                let selects =
                    |p: &Arc<Pod>| m.selector.as_ref().is_some_and(|s| s.matches(p.metadata.labels.as_ref()));
                pods.iter().any(selects)
            })
            .map(|(k, _)| split_key(k).1)
            .collect();
        if rivals.len() > 1 {
            rivals.sort_unstable();
            let list: Vec<String> = rivals.iter().map(|name| format!("{{{name} {namespace}}}")).collect();
            let error =
                format!("pods by selector {text} are controlled by multiple HPAs: [{}]", list.join(" "));
            drop(memory);
            return refuse("AmbiguousSelector", "AmbiguousSelector", &error, error.clone());
        }
        Ok(pods)
    }

    /// The number to set, and why.
    fn settle(
        &self,
        key: &str,
        hpa: &mut HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        (wanted, metric): (i32, String),
        now: Timestamp,
    ) -> (i32, String) {
        let bounds = Bounds {
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
            behavior: spec.behavior.as_ref(),
            stabilization: self.settings.stabilization,
        };
        let mut memory = self.memory.lock();
        let history = &mut memory.entry(key.to_owned()).or_default().history;
        let decision = history.decide(current, wanted, &bounds, now);
        drop(memory);
        for (type_, verdict) in [("AbleToScale", decision.able), ("ScalingLimited", decision.limited)] {
            status::set(hpa, type_, verdict.status, verdict.reason, verdict.message, now);
        }
        let why = match wanted.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{metric} above target"),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        (decision.replicas, why)
    }

    async fn find_scale(
        &self,
        hpa: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Result<Found, String> {
        let target = &spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or_default();
        let group = match api_version.matches('/').count() {
            0 => "",
            1 => api_version.split('/').next().unwrap_or_default(),
            _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
        };
        let of_target =
            |k: &crate::util::discovery::Kind| k.resource.group == group && k.resource.kind == target.kind;
        let kind = self.kinds.find(of_target).await.map_err(|e| errors::message(&e))?.ok_or_else(|| {
            if group.is_empty() {
                format!("no matches for kind {:?} in group \"\"", target.kind)
            } else {
                format!("no matches for kind {:?} in group {group:?}", target.kind)
            }
        })?;
        let api = kind.api(self.client.clone(), Some(meta::namespace(&hpa.metadata)));
        let scale = api.get_scale(&target.name).await.map_err(|e| errors::message(&e))?;
        Ok(Found { api, scale })
    }

    async fn rescale(
        &self,
        found: &Found,
        spec: &HorizontalPodAutoscalerSpec,
        desired: i32,
    ) -> kube::Result<()> {
        let name = &spec.scale_target_ref.name;
        let mut scale = found.scale.clone();
        let mut attempt = 1;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(desired);
            match found.api.replace_scale(name, &PostParams::default(), &scale).await {
                Ok(_) => return Ok(()),
                Err(e) if errors::code(&e) == Some(409) && attempt < ATTEMPTS => {
                    attempt += 1;
                    scale = found.api.get_scale(name).await?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn write_status(
        &self,
        old: &HorizontalPodAutoscaler,
        new: &HorizontalPodAutoscaler,
    ) -> anyhow::Result<()> {
        if old.status == new.status {
            return Ok(());
        }
        let (namespace, name) = (meta::namespace(&new.metadata), meta::name(&new.metadata));
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), namespace);
        match api.replace_status(name, &PostParams::default(), new).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            Err(e) => {
                self.warn(new, "FailedUpdateStatus", errors::message(&e));
                Err(e).with_context(|| format!("failed to update status for {name}"))
            }
            Ok(_) => Ok(()),
        }
    }

    fn warn(&self, hpa: &HorizontalPodAutoscaler, reason: &'static str, message: String) {
        self.events.warning(&meta::reference(hpa), reason, message);
    }
}

/// Writes what was found into the status. Without `desired`, what was desired before stands.
fn note_numbers(
    hpa: &mut HorizontalPodAutoscaler,
    current: i32,
    desired: Option<i32>,
    shown: Vec<MetricStatus>,
    scaled_at: Option<Timestamp>,
) {
    let status = hpa.status.get_or_insert_with(status::empty);
    status.current_replicas = Some(current);
    if let Some(desired) = desired {
        status.desired_replicas = desired;
    }
    status.current_metrics = (!shown.is_empty()).then_some(shown);
    if let Some(at) = scaled_at {
        status.last_scale_time = Some(meta::api_time(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(replicas: i32) -> Result<Proposed, Failure> {
        Ok(Proposed { replicas, metric: format!("m{replicas}"), status: MetricStatus::default() })
    }

    fn failed() -> Result<Proposed, Failure> {
        Err(Failure { reason: "FailedGetPodsMetric", detail: "d".into(), error: "e".into() })
    }

    #[test]
    fn the_highest_wins_and_nothing_is_scaled_down_on_half_the_knowledge() {
        let replicas = |n: i32| Verdict::Replicas(n, format!("m{n}"));
        assert_eq!(combine(&[proposed(3), proposed(5), proposed(4)], 4), replicas(5));
        assert_eq!(combine(&[failed(), proposed(5)], 4), replicas(5));
        let Verdict::Failed(first, all) = combine(&[proposed(3), failed()], 4) else { panic!() };
        assert_eq!(
            (first.detail.as_str(), all.as_str()),
            ("d", "invalid metrics (1 invalid out of 2), first error is: e")
        );
        assert!(matches!(combine(&[failed()], 4), Verdict::Failed(..)));
    }

    #[test]
    fn bounds_come_first() {
        let spec = HorizontalPodAutoscalerSpec { max_replicas: 5, ..HorizontalPodAutoscalerSpec::default() };
        assert_eq!(start_of(&spec, 0), Start::Disabled);
        assert!(matches!(start_of(&spec, 9), Start::Set(5, _)));
        assert_eq!(start_of(&spec, 5), Start::AskMetrics);
        let spec = HorizontalPodAutoscalerSpec { min_replicas: Some(2), ..spec };
        assert!(matches!(start_of(&spec, 1), Start::Set(2, _)));
    }
}
