//! HTTP extenders: other services that filter and score nodes, have a say in preemption, and bind pods.
//!
//! They are asked after the plugins, outside of the loop: a slow extender holds up its own pods and no others. So
//! the cluster may have changed when the answer comes, and the node is checked once more before the pod is bound.

mod preemption;

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, NamedAuthInfo};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tracing::{debug, info};

use crate::config::extender::Extender as Config;
use crate::framework::MAX_SCORE;
use crate::model::{PodInfo, Str};

pub use self::preemption::{Offer, Proposal, preempt};

/// The largest score an extender gives.
const MAX_EXTENDER_SCORE: i64 = 10;
/// How long a call may take when the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An extender ready to be asked. Clones share the connection.
#[derive(Clone)]
pub struct Extender {
    config: Config,
    client: Client,
}

/// What the extenders make of the nodes the plugins left.
#[derive(Debug, Default)]
pub struct Answer {
    /// Nodes that remain, with their scores.
    pub nodes: Vec<(Str, i64)>,
    /// Nodes that were refused: name, reason, and whether evicting pods could help.
    pub refused: Vec<(Str, String, bool)>,
}

impl Extender {
    /// A client for an extender.
    ///
    /// # Errors
    /// A URL or TLS setting that cannot be used.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        let of = || format!("extender {}", config.url_prefix);
        let client = client(config).await.with_context(of)?;
        Ok(Self { config: config.clone(), client })
    }

    /// Whether it wants to hear of a pod.
    #[must_use]
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let managed = &self.config.managed_resources;
        managed.is_empty() || managed.iter().any(|r| pod.requests.asked.get(&r.name) > 0)
    }

    /// Whether it binds pods itself.
    #[must_use]
    pub fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    /// Whether it has a say in whom to evict.
    #[must_use]
    pub fn preempts(&self) -> bool {
        !self.config.preempt_verb.is_empty()
    }

    async fn send(&self, verb: &str, body: &Value) -> anyhow::Result<Value> {
        // The client puts the prefix of the URL in front.
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(body)?)?;
        let call = self.client.request::<Value>(request);
        let timeout = self.config.http_timeout.map_or(TIMEOUT, |t| t.0);
        let answer = tokio::time::timeout(timeout, call)
            .await
            .with_context(|| {
                format!("{verb} of extender {} took more than {timeout:?}", self.config.url_prefix)
            })?
            .with_context(|| format!("{verb} of extender {}", self.config.url_prefix))?;
        Ok(lower_case(answer))
    }

    /// Tells the extender to bind a pod. `None` if it failed and may be passed over.
    ///
    /// # Errors
    /// What it answered.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> anyhow::Result<Option<()>> {
        let args = json!({"PodName": pod.name.as_ref(), "PodNamespace": pod.namespace.as_ref(),
            "PodUID": pod.uid.as_ref(), "Node": node});
        let answer = match self.send(&self.config.bind_verb, &args).await {
            Err(e) if self.config.ignorable => {
                info!("skipping an extender that may be ignored: {e:#}");
                return Ok(None);
            }
            answer => answer?,
        };
        match answer["error"].as_str() {
            None | Some("") => Ok(Some(())),
            Some(e) => bail!("extender {}: {e}", self.config.url_prefix),
        }
    }
}

/// Asks all extenders that are interested in a pod about nodes, which come with the scores of the plugins.
///
/// # Errors
/// An extender failed that may not be ignored.
pub async fn ask(
    api: &Client,
    extenders: &[Extender],
    pod: &PodInfo,
    nodes: Vec<(Str, i64)>,
) -> anyhow::Result<Answer> {
    let pods: Api<Pod> = Api::namespaced(api.clone(), &pod.namespace);
    let object =
        serde_json::to_value(pods.get(&pod.name).await.context("reading the pod for its extenders")?)?;
    let mut out = Answer { nodes, refused: Vec::new() };
    let interested: Vec<&Extender> = extenders.iter().filter(|e| e.is_interested(pod)).collect();
    let mut objects = Vec::new();
    if interested.iter().any(|e| !e.config.node_cache_capable) {
        let all: Api<Node> = Api::all(api.clone());
        objects = all.list(&ListParams::default()).await.context("reading nodes for an extender")?.items;
    }
    for e in interested.iter().filter(|e| !e.config.filter_verb.is_empty()) {
        if out.nodes.is_empty() {
            break;
        }
        match e
            .send(&e.config.filter_verb, &arguments(e, &object, &out, &objects)?)
            .await
            .and_then(|a| filtered(&out, &a))
        {
            Ok((left, refused)) => {
                out.nodes = left;
                out.refused.extend(refused);
            }
            Err(error) if e.config.ignorable => info!("skipping an extender that may be ignored: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    for e in interested.iter().filter(|e| !e.config.prioritize_verb.is_empty()) {
        match e.send(&e.config.prioritize_verb, &arguments(e, &object, &out, &objects)?).await {
            Ok(scores) => add_scores(&mut out, &scores, e.config.weight),
            // Upstream goes on without the score, too.
            Err(error) => debug!("no scores of an extender: {error:#}"),
        }
    }
    Ok(out)
}

/// `ExtenderArgs`.
fn arguments(e: &Extender, pod: &Value, a: &Answer, objects: &[Node]) -> anyhow::Result<Value> {
    let names: Vec<&str> = a.nodes.iter().map(|n| n.0.as_ref()).collect();
    if e.config.node_cache_capable {
        return Ok(json!({"Pod": pod, "Nodes": null, "NodeNames": names}));
    }
    let wanted = |n: &&Node| n.metadata.name.as_deref().is_some_and(|n| names.contains(&n));
    let items: Vec<&Node> = objects.iter().filter(wanted).collect();
    Ok(json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null}))
}

type Filtered = (Vec<(Str, i64)>, Vec<(Str, String, bool)>);

/// `ExtenderFilterResult` with keys in lower case.
fn filtered(before: &Answer, a: &Value) -> anyhow::Result<Filtered> {
    if let Some(e) = a["error"].as_str().filter(|e| !e.is_empty()) {
        bail!("{e}");
    }
    let names: Vec<&str> = match (a["nodenames"].as_array(), a["nodes"]["items"].as_array()) {
        (Some(names), _) => names.iter().filter_map(Value::as_str).collect(),
        (None, Some(items)) => items.iter().filter_map(|n| n["metadata"]["name"].as_str()).collect(),
        (None, None) => Vec::new(),
    };
    let mut left = Vec::with_capacity(names.len());
    for name in names {
        let known = before.nodes.iter().find(|n| n.0.as_ref() == name);
        let Some(n) = known else {
            bail!("it claims a filtered node {name:?} which is not found in the input node list")
        };
        left.push(n.clone());
    }
    let failed = |key: &str, resolvable: bool| {
        let map = a[key].as_object().into_iter().flatten();
        map.map(move |(n, r)| (Str::from(n.as_str()), r.as_str().unwrap_or_default().to_owned(), resolvable))
            .collect::<Vec<_>>()
    };
    let hopeless = failed("failedandunresolvablenodes", false);
    let mut refused = failed("failednodes", true);
    refused.retain(|(n, ..)| hopeless.iter().all(|h| h.0 != *n));
    refused.extend(hopeless);
    Ok((left, refused))
}

/// `HostPriorityList`, brought to the range of plugins' scores.
fn add_scores(a: &mut Answer, list: &Value, weight: i64) {
    for s in list.as_array().into_iter().flatten() {
        let score = s["score"].as_i64().unwrap_or(0).clamp(0, MAX_EXTENDER_SCORE);
        if let Some(n) = a.nodes.iter_mut().find(|n| Some(n.0.as_ref()) == s["host"].as_str()) {
            n.1 = n
                .1
                .saturating_add(score.saturating_mul(weight).saturating_mul(MAX_SCORE / MAX_EXTENDER_SCORE));
        }
    }
}

/// Extenders spell keys as they like; upstream takes any case. Names of nodes are values or keys below the first
/// level, and stay.
fn lower_case(v: Value) -> Value {
    let keys = |m: Map<String, Value>| m.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect();
    match v {
        Value::Object(m) => Value::Object(keys(m)),
        Value::Array(a) => Value::Array(
            a.into_iter()
                .map(|v| match v {
                    Value::Object(m) => Value::Object(keys(m)),
                    v => v,
                })
                .collect(),
        ),
        v => v,
    }
}

/// A client made the way those of kubeconfig files are: the extender's TLS settings are the same.
async fn client(c: &Config) -> anyhow::Result<Client> {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let tls = c.tls_config.clone().unwrap_or_default();
    let url =
        if c.enable_https { c.url_prefix.replacen("http://", "https://", 1) } else { c.url_prefix.clone() };
    let verified = !tls.ca_file.is_empty() || !tls.ca_data.is_empty();
    let cluster = kube::config::Cluster {
        server: Some(url.trim_end_matches('/').to_owned()),
        insecure_skip_tls_verify: Some(tls.insecure || (c.enable_https && !verified)),
        certificate_authority: some(&tls.ca_file),
        certificate_authority_data: some(&tls.ca_data),
        tls_server_name: some(&tls.server_name),
        ..kube::config::Cluster::default()
    };
    let user = AuthInfo {
        client_certificate: some(&tls.cert_file),
        client_certificate_data: some(&tls.cert_data),
        client_key: some(&tls.key_file),
        client_key_data: some(&tls.key_data).map(Into::into),
        ..AuthInfo::default()
    };
    let name = "extender".to_owned();
    let file = Kubeconfig {
        clusters: vec![kube::config::NamedCluster {
            name: name.clone(),
            cluster: Some(cluster),
            ..Default::default()
        }],
        auth_infos: vec![NamedAuthInfo { name: name.clone(), auth_info: Some(user), ..Default::default() }],
        contexts: vec![kube::config::NamedContext {
            name: name.clone(),
            context: Some(kube::config::Context {
                cluster: name.clone(),
                user: Some(name.clone()),
                ..kube::config::Context::default()
            }),
            ..Default::default()
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    };
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before() -> Answer {
        Answer { nodes: vec![("a".into(), 10), ("b".into(), 20), ("c".into(), 0)], refused: Vec::new() }
    }

    #[test]
    fn answers_are_taken_in_any_case_and_with_names_or_objects() {
        let a = lower_case(json!({"NodeNames": ["b"], "failedNodes": {"A": "no"},
            "FailedAndUnresolvableNodes": {"c": "never"}}));
        let (left, refused) = filtered(&before(), &a).expect("an answer");
        assert_eq!(left, [("b".into(), 20)]);
        assert_eq!(refused, [("A".into(), "no".into(), true), ("c".into(), "never".into(), false)]);
        let objects = lower_case(json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}}));
        assert_eq!(filtered(&before(), &objects).expect("an answer").0, [("a".into(), 10)]);
    }

    #[test]
    fn an_unknown_node_or_an_error_is_a_failure() {
        let unknown = lower_case(json!({"nodeNames": ["z"]}));
        assert!(
            filtered(&before(), &unknown)
                .expect_err("z")
                .to_string()
                .contains("not found in the input node list")
        );
        assert_eq!(filtered(&before(), &json!({"error": "down"})).expect_err("down").to_string(), "down");
    }

    #[test]
    fn scores_are_scaled_weighted_and_bounded() {
        let mut a = before();
        let scores = lower_case(
            json!([{"Host": "a", "Score": 3}, {"Host": "c", "Score": 99}, {"Host": "z", "Score": 1}]),
        );
        add_scores(&mut a, &scores, 2);
        assert_eq!(a.nodes.iter().map(|n| n.1).collect::<Vec<_>>(), [10 + 3 * 2 * 10, 20, 10 * 2 * 10]);
    }
}
