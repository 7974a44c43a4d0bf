//! Reads metrics: `metrics.k8s.io` of pods, `custom.metrics.k8s.io` of pods and other objects, and
//! `external.metrics.k8s.io`. Add-ons serve them; without one, the error says so.

use component_base::duration::GoDuration;
use component_base::quantity::Amount;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::usage::{Sample, Samples};
use crate::util::errors;

/// What a metrics server measures over, unless it says something else.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);
/// Versions of the custom metrics API, the best first.
const CUSTOM: [&str; 2] = ["v1beta2", "v1beta1"];

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Name,
    timestamp: Timestamp,
    window: GoDuration,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Name,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: String,
}

fn milli(text: &str) -> i64 {
    Amount::parse(text).map_or(0, Amount::milli)
}

impl PodMetrics {
    /// The use of a resource by a container, or by all (empty); `None` if it is not known.
    fn sample(&self, resource: &str, container: &str) -> Option<Sample> {
        let of = |c: &ContainerMetrics| c.usage.get(resource).map(|v| milli(v));
        let milli = if container.is_empty() {
            let values: Option<Vec<i64>> = self.containers.iter().map(of).collect();
            values.filter(|v| !v.is_empty())?.into_iter().fold(0, i64::saturating_add)
        } else {
            of(self.containers.iter().find(|c| c.name == container)?)?
        };
        let window = SignedDuration::try_from(self.window.0).unwrap_or(SignedDuration::MAX);
        Some(Sample { at: self.timestamp, window, milli })
    }
}

/// Asks the metrics APIs.
pub struct Metrics {
    pub client: Client,
}

impl Metrics {
    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> kube::Result<T> {
        let query = query
            .iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| format!("{k}={}", escaped(v)))
            .collect::<Vec<_>>()
            .join("&");
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = http::Request::get(uri).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// The use of a resource by pods.
    ///
    /// # Errors
    /// The API does not answer, or knows none of the pods.
    pub async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<Samples, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
        let list: List<PodMetrics> =
            self.get(&path, &[("labelSelector", selector)]).await.map_err(|e| unable("resource", &e))?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".into());
        }
        Ok(list
            .items
            .iter()
            .filter_map(|p| Some((p.metadata.name.clone(), p.sample(resource, container)?)))
            .collect())
    }

    async fn custom(&self, rest: &str, query: &[(&str, &str)]) -> Result<List<MetricValue>, String> {
        let mut last = String::new();
        for version in CUSTOM {
            match self.get(&format!("/apis/custom.metrics.k8s.io/{version}/{rest}"), query).await {
                Ok(list) => return Ok(list),
                Err(e) => {
                    // The first error is the better one, unless the version does not exist.
                    let missing = errors::not_found(&e);
                    if last.is_empty() || !missing {
                        last = unable("custom", &e);
                    }
                    if !missing {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// A custom metric of pods.
    ///
    /// # Errors
    /// The API does not answer, or knows none of the pods.
    pub async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<Samples, String> {
        let query = [("labelSelector", selector), ("metricLabelSelector", metric_selector)];
        let list = self.custom(&format!("namespaces/{namespace}/pods/*/{}", escaped(metric)), &query).await?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        let sample = |v: &MetricValue| Sample {
            at: v.timestamp,
            window: v.window_seconds.map_or(WINDOW, SignedDuration::from_secs),
            milli: milli(&v.value),
        };
        Ok(list.items.iter().map(|v| (v.described_object.name.clone(), sample(v))).collect())
    }

    /// A custom metric of an object, in thousandths. `resource` is its resource with group (`ingresses.networking.k8s.io`).
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn object(
        &self,
        namespace: &str,
        resource: &str,
        name: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, String> {
        let metric = escaped(metric);
        let path = if resource == "namespaces" {
            // Its own namespace, whatever name was given: metrics of others are none of its business.
            format!("namespaces/{namespace}/metrics/{metric}")
        } else {
            format!("namespaces/{namespace}/{resource}/{}/{metric}", escaped(name))
        };
        let list = self.custom(&path, &[("metricLabelSelector", metric_selector)]).await?;
        match list.items.as_slice() {
            [value] => Ok(milli(&value.value)),
            items => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results when we asked for exactly one",
                items.len()
            )),
        }
    }

    /// The sum of an external metric, in thousandths.
    ///
    /// # Errors
    /// The API does not answer, or has no value.
    pub async fn external(
        &self,
        namespace: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, String> {
        let path =
            format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", escaped(metric));
        let list: List<ExternalValue> = self
            .get(&path, &[("labelSelector", metric_selector)])
            .await
            .map_err(|e| unable("external", &e))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".into());
        }
        Ok(list.items.iter().map(|v| milli(&v.value)).fold(0, i64::saturating_add))
    }
}

fn unable(api: &str, error: &kube::Error) -> String {
    format!("unable to fetch metrics from {api} metrics API: {}", errors::message(error))
}

/// Escapes what may not stand in a path segment or a query's value.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            _ => {
                // Writing into a string does not fail.
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_count_only_if_all_containers_are_known() {
        let pod: PodMetrics = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
            "containers": [{"name": "a", "usage": {"cpu": "100m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "1"}}]
        }))
        .unwrap();
        let cpu = pod.sample("cpu", "").unwrap();
        assert_eq!((cpu.milli, cpu.window.as_secs()), (1100, 30));
        assert_eq!(pod.sample("cpu", "b").unwrap().milli, 1000);
        assert_eq!(pod.sample("memory", ""), None);
        assert_eq!(pod.sample("cpu", "c"), None);
    }

    fn server(answers: &'static [(&'static str, u16, &'static str)]) -> Metrics {
        let service = tower::service_fn(move |r: http::Request<kube::client::Body>| {
            let asked = r.uri().to_string();
            let found = answers.iter().find(|(path, _, _)| asked.contains(path));
            let (code, body) = found.map_or(
                (404, r#"{"kind":"Status","status":"Failure","message":"not here","code":404}"#),
                |f| (f.1, f.2),
            );
            let body = kube::client::Body::from(body.as_bytes().to_vec());
            async move {
                Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(body).unwrap())
            }
        });
        Metrics { client: Client::new(service, "default") }
    }

    #[tokio::test]
    async fn an_older_custom_metrics_api_will_do() {
        let m = server(&[
            (
                "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/pods/%2A/requests?labelSelector=a%3Db",
                200,
                "{}",
            ),
            (
                "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/pods/*/requests?labelSelector=a%3Db",
                200,
                r#"{"items":[{"describedObject":{"name":"p"},"metricName":"requests","timestamp":"2026-01-01T00:00:00Z","value":"500m"}]}"#,
            ),
        ]);
        let samples = m.pods("ns", "a=b", "requests", "").await.unwrap();
        assert_eq!((samples["p"].milli, samples["p"].window), (500, WINDOW));
    }

    #[tokio::test]
    async fn without_the_api_the_error_says_so() {
        let m = server(&[]);
        let e = m.resource("ns", "a=b", "cpu", "").await.unwrap_err();
        assert_eq!(e, "unable to fetch metrics from resource metrics API: not here");
        let e = m.object("ns", "pods", "p", "x", "").await.unwrap_err();
        assert_eq!(e, "unable to fetch metrics from custom metrics API: not here");
    }

    #[tokio::test]
    async fn external_values_are_summed() {
        let m = server(&[(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=q%20in%20%28a%2Cb%29",
            200,
            r#"{"items":[{"value":"1"},{"value":"2500m"}]}"#,
        )]);
        assert_eq!(m.external("ns", "queue", "q in (a,b)").await, Ok(3500));
    }
}
