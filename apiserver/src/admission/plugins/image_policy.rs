//! `ImagePolicyWebhook`: asks a service whether the images of a pod may run. Its answers are kept for a while; when it
//! cannot be asked, the configuration decides.
//!
//! Source: Kubernetes documentation, "Admission Control", ImagePolicyWebhook; `imagepolicy.k8s.io/v1alpha1`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::audit;
use crate::lookup::{items, text};
use crate::remote::Remote;
use crate::status::ApiResult;
use crate::ttl_cache::TtlCache;

const NAME: &str = "ImagePolicyWebhook";
const API_VERSION: &str = "imagepolicy.k8s.io/v1alpha1";
const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// Annotations of pods that the service is shown have this in their keys.
const OWN_ANNOTATIONS: &str = ".image-policy.k8s.io/";
const TIMEOUT: Duration = Duration::from_secs(30);
const REMEMBER_MAX: usize = 1024;

/// `imagePolicy` of the plugin's configuration. Durations are in the units that upstream has: seconds, and milliseconds
/// for `retryBackoff`; zero is the default, -1 turns off.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settings {
    kube_config_file: PathBuf,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    retry_backoff: i64,
    default_allow: bool,
}

/// A configuration that can be used: the service, and what to do with its answers.
pub struct Configuration {
    remote: Remote,
    allow_ttl: Duration,
    deny_ttl: Duration,
    default_allow: bool,
}

impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configuration").field("default_allow", &self.default_allow).finish_non_exhaustive()
    }
}

/// One duration within its bounds.
fn duration(value: i64, unit: Duration, most: Duration, default: Duration) -> Result<Duration, String> {
    match value {
        -1 => Ok(Duration::ZERO),
        0 => Ok(default),
        n => {
            u32::try_from(n).ok().and_then(|n| unit.checked_mul(n)).filter(|d| *d <= most).ok_or_else(|| {
                format!("valid value is between {unit:?} and {most:?}, got {n} times {unit:?}")
            })
        }
    }
}

impl Configuration {
    /// Reads the plugin's configuration; a relative kubeconfig file is one of `folder`.
    ///
    /// # Errors
    /// A value out of bounds, or a kubeconfig that cannot be used.
    pub fn read(v: &Value, folder: &Path) -> Result<Self, String> {
        let settings = v.get("imagePolicy").cloned().unwrap_or_default();
        let s: Settings = if settings.is_null() {
            Settings::default()
        } else {
            serde_json::from_value(settings).map_err(|e| e.to_string())?
        };
        let (second, half_hour) = (Duration::from_secs(1), Duration::from_secs(30 * 60));
        let pause = duration(
            s.retry_backoff,
            Duration::from_millis(1),
            Duration::from_secs(5 * 60),
            Duration::from_millis(500),
        )?;
        Ok(Self {
            allow_ttl: duration(s.allow_ttl, second, half_hour, Duration::from_secs(5 * 60))?,
            deny_ttl: duration(s.deny_ttl, second, half_hour, Duration::from_secs(30))?,
            default_allow: s.default_allow,
            remote: Remote::from_kubeconfig(&folder.join(s.kube_config_file), TIMEOUT)?.with_pause(pause),
        })
    }
}

/// What the service said of a pod's images.
#[derive(Debug, Clone)]
struct Verdict {
    allowed: bool,
    reason: String,
    annotations: Vec<(String, String)>,
}

impl Verdict {
    fn of(review: &Value) -> Self {
        let annotations = review.pointer("/status/auditAnnotations").and_then(Value::as_object);
        Self {
            allowed: review.pointer("/status/allowed") == Some(&Value::Bool(true)),
            reason: text(review, "/status/reason").to_owned(),
            annotations: annotations
                .into_iter()
                .flatten()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect(),
        }
    }

    fn refusal(&self) -> Option<String> {
        if self.allowed {
            return None;
        }
        Some(match self.reason.as_str() {
            "" => "one or more images rejected by webhook backend".to_owned(),
            why => format!("image policy webhook backend denied one or more images: {why}"),
        })
    }
}

struct ImagePolicy {
    /// None where nothing is configured; the chain does not start with such a plugin.
    configs: Arc<crate::admission::config::Configs>,
    known: TtlCache<String, Verdict>,
}

/// The plugin.
pub fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(ImagePolicy { configs: env.configs.clone(), known: TtlCache::new(REMEMBER_MAX) })
}

/// What the service is asked about: the images that this write brings.
fn spec(pod: &Value, namespace: &str, subresource: &str) -> Value {
    let lists: &[&str] = match subresource {
        "" => &["/spec/containers", "/spec/initContainers"],
        _ => &["/spec/ephemeralContainers"],
    };
    let containers: Vec<Value> = lists
        .iter()
        .flat_map(|l| items(pod, l))
        .map(|c| match text(c, "/image") {
            "" => json!({}),
            image => json!({"image": image}),
        })
        .collect();
    let annotations: Map<String, Value> = pod
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(k, _)| k.contains(OWN_ANNOTATIONS))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let mut spec = json!({});
    if !containers.is_empty() {
        spec["containers"] = containers.into();
    }
    if !annotations.is_empty() {
        spec["annotations"] = annotations.into();
    }
    if !namespace.is_empty() {
        spec["namespace"] = namespace.into();
    }
    spec
}

impl ImagePolicy {
    /// Why the images may not run, if so.
    async fn refusal(&self, c: &Configuration, spec: Value) -> Option<String> {
        let key = spec.to_string();
        let verdict = match self.known.get(&key, Instant::now()) {
            Some(v) => v,
            None => {
                let review = json!({
                    "kind": "ImageReview", "apiVersion": API_VERSION, "metadata": {"creationTimestamp": null},
                    "spec": spec, "status": {"allowed": false},
                });
                let answer = match c.remote.post(&review, |_, _| {}).await {
                    Ok(a) => a,
                    Err(e) if c.default_allow => {
                        tracing::warn!(error = %e, "images are let in although the image policy webhook failed");
                        audit::annotate(&format!("{AUDIT}failed-open"), || "true");
                        return None;
                    }
                    Err(e) => return Some(e.to_string()),
                };
                let verdict = Verdict::of(&answer);
                let ttl = if verdict.allowed { c.allow_ttl } else { c.deny_ttl };
                self.known.put(key, verdict.clone(), Instant::now(), ttl);
                verdict
            }
        };
        for (k, v) in &verdict.annotations {
            audit::annotate(&format!("{AUDIT}{k}"), || v.as_str());
        }
        verdict.refusal()
    }
}

#[async_trait]
impl Plugin for ImagePolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let ours = attrs.is("", "pods", "") || attrs.is("", "pods", "ephemeralcontainers");
        let (true, Some(pod), Some(c)) = (ours, object, self.configs.image_policy.as_ref()) else {
            return Ok(());
        };
        match self.refusal(c, spec(pod, attrs.namespace, attrs.subresource)).await {
            Some(why) => Err(attrs.forbidden(object, why)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        let pod = json!({
            "metadata": {"annotations": {"a": "b", "x.image-policy.k8s.io/ticket": "5"}},
            "spec": {"containers": [{"image": "a"}], "initContainers": [{"image": "b"}],
                "ephemeralContainers": [{"image": "c"}]},
        });
        assert_eq!(
            spec(&pod, "ns", ""),
            json!({"containers": [{"image": "a"}, {"image": "b"}], "namespace": "ns",
                "annotations": {"x.image-policy.k8s.io/ticket": "5"}})
        );
        assert_eq!(spec(&pod, "ns", "ephemeralcontainers")["containers"], json!([{"image": "c"}]));
    }

    #[test]
    fn verdicts() {
        let of = |status: Value| Verdict::of(&json!({"status": status})).refusal();
        assert_eq!(of(json!({"allowed": true})), None);
        assert_eq!(of(json!({})).as_deref(), Some("one or more images rejected by webhook backend"));
        let why = "image policy webhook backend denied one or more images: no";
        assert_eq!(of(json!({"allowed": false, "reason": "no"})).as_deref(), Some(why));
    }

    #[test]
    fn durations() {
        let of = |n| duration(n, Duration::from_secs(1), Duration::from_secs(1800), Duration::from_secs(30));
        assert_eq!(of(-1), Ok(Duration::ZERO));
        assert_eq!((of(0), of(5)), (Ok(Duration::from_secs(30)), Ok(Duration::from_secs(5))));
        assert!(of(1801).is_err() && of(-5).is_err() && of(i64::MAX).is_err());
    }
}
