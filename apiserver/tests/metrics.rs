//! Names, types and labels of `/metrics` against what a lightly used v1.36 server shows (`data/metrics.json`).

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::TestServer;
use serde_json::{Value, json};

/// Upstream's metrics that this server does not have, and why.
const MISSING: &[(&str, &str)] = &[
    ("aggregator_discovery_", "no discovery is merged from peers of other versions"),
    ("aggregator_unavailable_apiservice", "counted by the aggregation layer where it is"),
    ("apiextensions_apiserver_validation_ratcheting_seconds", "ratcheting is not a step of its own"),
    (
        "apiserver_admission_step_admission_duration_seconds_summary",
        "the histogram says the same; the client library has no summaries",
    ),
    ("apiserver_cel_", "counted by the expression engine where it is"),
    ("apiserver_client_certificate_expiration_seconds", "counted by authentication where it is"),
    ("apiserver_envelope_encryption_dek_cache_fill_percent", "data keys are not cached in a bounded cache"),
    (
        "apiserver_kube_aggregator_x509_",
        "certificates signed with SHA-1 or without names are refused by the TLS library, not counted",
    ),
    ("apiserver_webhooks_x509_", "as above"),
    (
        "apiserver_nodeport_repair_reconcile_errors_total",
        "node ports are repaired at start, and a failure ends the start",
    ),
    ("apiserver_request_timestamp_comparison_time", "the store is in the process: no clocks are compared"),
    ("apiserver_selfrequest_total", "the server does not call itself over HTTP"),
    ("apiserver_storage_data_key_generation_", "counted by encryption at rest where it is"),
    (
        "apiserver_storage_envelope_transformation_cache_misses_total",
        "counted by encryption at rest where it is",
    ),
    ("apiserver_validation_", "there is one validation, not a hand-written and a declarative one to compare"),
    ("apiserver_watch_cache_consistent_read_total", "a consistent read never falls back to the store"),
    ("apiserver_watch_cache_read_wait_seconds", "reads wait for the in-process feed, which is not counted"),
    ("authentication_token_cache_", "tokens are checked by signature, without a cache of answers"),
    ("cardinality_enforcement_unexpected_categorizations_total", "about upstream's metrics library"),
    ("disabled_metrics_total", "about upstream's metrics library"),
    ("hidden_metrics_total", "about upstream's metrics library"),
    ("registered_metrics_total", "about upstream's metrics library"),
    ("etcd_bookmark_total", "the embedded store has no bookmarks of its own"),
    ("etcd_lease_object_counts", "the embedded store expires objects one by one, without leases"),
    ("grpc_client_", "the embedded store is not asked over gRPC"),
    (
        "kube_apiserver_clusterip_allocator_allocation_duration_seconds",
        "an allocation is one write, counted among the writes",
    ),
    (
        "kube_apiserver_pod_logs_backend_tls_failure_total",
        "a failed connection to a kubelet is an answer with code 500",
    ),
    (
        "kubernetes_feature_enabled",
        "behaviour is that of the default gates, which cannot be changed one by one",
    ),
    ("node_authorizer_graph_actions_duration_seconds", "only shown once nodes have pods or volumes"),
    ("kube_apiserver_pod_logs_insecure_backend_total", "only shown once logs were read"),
    ("apiserver_websocket_streaming_requests_total", "only shown once a container was entered"),
    ("pod_security_exemptions_total", "there are no exemptions without an admission configuration"),
    ("rest_client_", "the server is no client of its own API"),
    ("workqueue_", "no queue of a controller is in this process"),
];

/// Type and labels of every metric in a scrape; buckets, sums and counts belong to their histogram.
fn scrape(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut out: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let old = out.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert!(old.is_none(), "{name} is there twice");
        }
    }
    let names: Vec<String> = out.keys().cloned().collect();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let end = line.find(['{', ' ']).expect("a series");
        let series = &line[..end];
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|s| series.strip_suffix(s));
        let name = if out.contains_key(series) { series } else { bare.unwrap_or(series) };
        let entry = out.get_mut(name).unwrap_or_else(|| panic!("{line} has no type: {names:?}"));
        seen.insert(name.to_owned());
        if let Some(rest) = line[end..].strip_prefix('{') {
            // Values hold no commas or quotes in these names.
            let labels = &rest[..rest.rfind('}').expect("an end")];
            for pair in labels.split("\",") {
                let (key, _) = pair.split_once("=\"").expect("a label");
                if key != "le" {
                    entry.1.insert(key.to_owned());
                }
            }
        }
    }
    // A family without members tells nothing of its labels.
    out.retain(|n, _| seen.contains(n));
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_types_and_labels() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    // Some use, so that there is something to show.
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = c.post(maps, &json!({"metadata": {"name": "a"}})).await.expect(201);
    c.get(&format!("{maps}/a")).await.expect(200);
    c.get(&format!("{maps}?limit=1")).await.expect(200);
    let at = made["metadata"]["resourceVersion"].as_str().expect("a version");
    c.get(&format!("{maps}?limit=1&resourceVersion={at}&resourceVersionMatch=Exact")).await.expect(200);
    let mut watch = c
        .watch(&format!(
            "{maps}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        ))
        .await;
    watch.step().await;
    watch.step().await;
    c.delete(&format!("{maps}/a")).await.expect(200);
    watch.step().await;
    s.user("eve", &[]).get(maps).await;
    c.get("/api/v1/namespaces/default/endpoints").await;
    c.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    c.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let queued = s.user("bob", &["system:authenticated"]);
    queued.get("/version").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;

    let answer = c.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let ours = scrape(&text);
    let upstream: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("data/metrics.json")).expect("the data");
    let mut wrong = Vec::new();
    let mut excused = BTreeSet::new();
    for (name, wanted) in &upstream {
        let excuse = MISSING.iter().find(|(p, _)| name.starts_with(p));
        let Some((kind, labels)) = ours.get(name) else {
            match excuse {
                Some((p, _)) => {
                    excused.insert(*p);
                }
                None => wrong.push(format!("{name} is missing")),
            }
            continue;
        };
        if *kind != wanted["type"] {
            wrong.push(format!("{name} is a {kind}, not a {}", wanted["type"]));
        }
        // Labels that only some distributions of upstream have stay empty, which is as if they were not there.
        let theirs: BTreeSet<String> = wanted["labels"]
            .as_array()
            .expect("labels")
            .iter()
            .filter_map(|l| l.as_str())
            .filter(|l| *l != "ocp_namespace")
            .map(str::to_owned)
            .collect();
        if *labels != theirs {
            wrong.push(format!("{name} has the labels {labels:?}, not {theirs:?}"));
        }
    }
    for (p, why) in MISSING {
        let shown = upstream.keys().filter(|n| n.starts_with(p)).all(|n| ours.contains_key(n));
        if shown && !why.starts_with("only shown") {
            wrong.push(format!("{p} is there after all"));
        }
    }
    assert!(wrong.is_empty(), "{}\n", wrong.join("\n"));
    for (name, value) in [("apiserver_storage_size_bytes", 0.0), ("apiserver_resource_objects", -1.0)] {
        let line = text.lines().find(|l| l.starts_with(&format!("{name}{{"))).expect(name);
        let n: f64 = line.rsplit(' ').next().expect("a value").parse().expect("a number");
        assert!(n > value, "{line}");
    }
}
