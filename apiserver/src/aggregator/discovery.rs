//! Discovery of aggregated servers: their documents are fetched in the background and merged with this server's own.
//! A server that cannot be asked is not left out; what it serves is marked as stale, so that clients know that they do
//! not know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::Aggregator;
use super::proxy;
use super::service::{Backend, Service};
use super::table::Table;
use crate::lookup::{items, text};
use crate::registry::resource::api_version;

/// How old a document gets before it is fetched again.
const REFRESH: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);
const LIMIT: usize = 32 << 20;
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Group and version.
type GroupVersion = (String, String);

/// What is known of one group and version, as in `APIVersionDiscovery`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    pub resources: Vec<Value>,
    pub stale: bool,
}

/// All that discovery documents are made from beside the table of resources.
#[derive(Clone)]
pub struct View {
    pub services: Arc<Table>,
    pub known: Arc<BTreeMap<GroupVersion, Known>>,
}

impl View {
    /// Whether the same documents come of both.
    pub fn same(a: Option<&Self>, b: Option<&Self>) -> bool {
        match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.services, &b.services) && Arc::ptr_eq(&a.known, &b.known),
            _ => false,
        }
    }
}

/// What the aggregated servers serve.
#[derive(Default)]
pub struct Remote {
    known: ArcSwap<BTreeMap<GroupVersion, Known>>,
}

impl Remote {
    /// What is known now; another allocation after every change.
    pub fn known(&self) -> Arc<BTreeMap<GroupVersion, Known>> {
        self.known.load_full()
    }
}

/// One aggregated server.
#[derive(Default)]
struct Server {
    /// API services by it, with whether they are available.
    services: Vec<Arc<Service>>,
    etag: Option<HeaderValue>,
    documents: BTreeMap<GroupVersion, Vec<Value>>,
    failed: bool,
    running: bool,
    /// The services changed while a fetch was under way.
    dirty: bool,
    due: Option<Instant>,
    pause: Duration,
}

/// Outcome of a fetch: what is served, with its tag; none where nothing changed.
type Fetched = Result<Option<(BTreeMap<GroupVersion, Vec<Value>>, Option<HeaderValue>)>, String>;

/// Keeps the documents fresh until `stop`.
pub async fn run(aggregator: Arc<Aggregator>, stop: CancellationToken) {
    let mut changed = aggregator.subscribe();
    let mut servers: HashMap<Backend, Server> = HashMap::new();
    let mut running: FuturesUnordered<BoxFuture<'static, (Backend, Fetched)>> = FuturesUnordered::new();
    loop {
        adopt(&mut servers, &aggregator.table(), Instant::now());
        for (backend, s) in &mut servers {
            if s.is_due(Instant::now()) {
                s.running = true;
                running.push(Box::pin(fetch(backend.clone(), s.services.clone(), s.etag.clone())));
            }
        }
        publish(&aggregator.discovery, &servers);
        let next = servers.values().filter(|s| !s.running).filter_map(|s| s.due).min();
        let wait = async {
            match next {
                Some(t) => tokio::time::sleep_until(t.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            more = changed.changed() => if more.is_err() { return },
            Some((backend, fetched)) = running.next() => {
                if let Some(s) = servers.get_mut(&backend) {
                    s.take(&backend, fetched, Instant::now());
                }
            }
            () = wait => {}
        }
    }
}

/// Brings the list of servers in line with the API services.
fn adopt(servers: &mut HashMap<Backend, Server>, table: &Table, now: Instant) {
    let mut by_backend: HashMap<Backend, Vec<Arc<Service>>> = HashMap::new();
    for s in table.remote() {
        if let Some(b) = &s.backend {
            by_backend.entry(b.clone()).or_default().push(Arc::clone(s));
        }
    }
    servers.retain(|b, _| by_backend.contains_key(b));
    for (backend, mut services) in by_backend {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let s = servers.entry(backend).or_default();
        let same =
            |a: &Arc<Service>, b: &Arc<Service>| a.generation == b.generation && a.available == b.available;
        let unchanged =
            s.services.len() == services.len() && s.services.iter().zip(&services).all(|(a, b)| same(a, b));
        s.services = services;
        if !unchanged {
            s.dirty = s.running;
            s.due = Some(now);
            s.pause = FIRST_PAUSE;
        }
    }
}

impl Server {
    fn is_due(&self, now: Instant) -> bool {
        !self.running && self.due.is_some_and(|t| t <= now)
    }

    fn take(&mut self, backend: &Backend, fetched: Fetched, now: Instant) {
        self.running = false;
        let wait = match fetched {
            Ok(document) => {
                if let Some((documents, etag)) = document {
                    self.documents = documents;
                    self.etag = etag;
                }
                self.failed = false;
                self.pause = FIRST_PAUSE;
                REFRESH
            }
            Err(e) => {
                tracing::debug!(service = backend.name, namespace = backend.namespace, error = %e, "discovery of an aggregated server failed");
                self.failed = true;
                self.etag = None;
                self.documents.clear();
                self.pause = (self.pause * 2).min(REFRESH);
                self.pause
            }
        };
        self.due = Some(if std::mem::take(&mut self.dirty) { now } else { now + wait });
    }
}

fn publish(remote: &Remote, servers: &HashMap<Backend, Server>) {
    let mut all = BTreeMap::new();
    for server in servers.values() {
        for s in &server.services {
            let gv = (s.group.clone(), s.version.clone());
            let resources = server.documents.get(&gv).cloned().unwrap_or_default();
            // Nothing fetched yet is no knowledge either.
            let stale = server.failed || server.documents.is_empty();
            all.insert(gv, Known { resources, stale });
        }
    }
    if **remote.known.load() != all {
        remote.known.store(Arc::new(all));
    }
}

async fn fetch(
    backend: Backend,
    services: Vec<Arc<Service>>,
    etag: Option<HeaderValue>,
) -> (Backend, Fetched) {
    let fetched = fetch_all(&services, etag).await;
    (backend, fetched)
}

async fn fetch_all(services: &[Arc<Service>], etag: Option<HeaderValue>) -> Fetched {
    let Some(one) = services.iter().find(|s| s.available) else {
        return Err("service unavailable".to_owned());
    };
    let mut headers: Vec<(HeaderName, HeaderValue)> =
        vec![(header::ACCEPT, HeaderValue::from_static(ACCEPT))];
    if let Some(tag) = etag {
        headers.push((header::IF_NONE_MATCH, tag));
    }
    let answer = proxy::get(one, "/apis", &headers, &["system:masters"], TIMEOUT, LIMIT).await?;
    match answer.status().as_u16() {
        304 => return Ok(None),
        503 => return Err("the server is unavailable".to_owned()),
        _ => {}
    }
    let media = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if answer.status().is_success() && media.contains("as=APIGroupDiscoveryList") {
        let tag = answer.headers().get(header::ETAG).cloned();
        let list: Value = serde_json::from_slice(answer.body()).map_err(|e| e.to_string())?;
        return Ok(Some((of_aggregated(&list), tag)));
    }
    // An older server: version by version.
    let mut all = BTreeMap::new();
    let accept = [(header::ACCEPT, HeaderValue::from_static("application/json"))];
    for s in services.iter().filter(|s| s.available) {
        let answer = proxy::get(s, &s.path(), &accept, &["system:masters"], TIMEOUT, LIMIT).await?;
        if !answer.status().is_success() {
            return Err(format!("failed to download legacy discovery for {}: {}", s.path(), answer.status()));
        }
        let list: Value = serde_json::from_slice(answer.body()).map_err(|e| e.to_string())?;
        all.insert((s.group.clone(), s.version.clone()), of_legacy(&list, &s.group, &s.version));
    }
    Ok(Some((all, None)))
}

/// Reads an `APIGroupDiscoveryList`.
fn of_aggregated(list: &Value) -> BTreeMap<GroupVersion, Vec<Value>> {
    let mut all = BTreeMap::new();
    for g in items(list, "/items") {
        for v in items(g, "/versions") {
            let mut resources = items(v, "/resources").to_vec();
            for r in &mut resources {
                // Clients of v0.26 fall over a missing kind.
                fill_kind(r);
                if let Some(subs) = r.get_mut("subresources").and_then(Value::as_array_mut) {
                    subs.iter_mut().for_each(fill_kind);
                }
            }
            all.insert((text(g, "/metadata/name").to_owned(), text(v, "/version").to_owned()), resources);
        }
    }
    all
}

fn fill_kind(r: &mut Value) {
    if let Some(m) = r.as_object_mut()
        && m.get("responseKind").is_none_or(Value::is_null)
    {
        m.insert("responseKind".to_owned(), json!({"group": "", "version": "", "kind": ""}));
    }
}

/// Turns an `APIResourceList` into the aggregated form.
fn of_legacy(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let mut out: Vec<Map<String, Value>> = Vec::new();
    let kind = |r: &Value| {
        let or = |v: &str, default: &str| if v.is_empty() { default.to_owned() } else { v.to_owned() };
        json!({
            "group": or(text(r, "/group"), group), "version": or(text(r, "/version"), version),
            "kind": text(r, "/kind"),
        })
    };
    let copy = |r: &Value, m: &mut Map<String, Value>, fields: &[&str]| {
        for f in fields {
            if let Some(v) = r.get(*f).filter(|v| !v.is_null()) {
                m.insert((*f).to_owned(), v.clone());
            }
        }
    };
    // Parents first: nothing says that the list is sorted.
    for r in items(list, "/resources").iter().filter(|r| !text(r, "/name").contains('/')) {
        let mut m = Map::new();
        m.insert("resource".to_owned(), text(r, "/name").into());
        m.insert("responseKind".to_owned(), kind(r));
        let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
        m.insert("scope".to_owned(), scope.into());
        m.insert("singularResource".to_owned(), text(r, "/singularName").into());
        copy(r, &mut m, &["verbs", "shortNames", "categories"]);
        out.push(m);
    }
    for r in items(list, "/resources") {
        let Some((parent, sub)) = text(r, "/name").split_once('/') else { continue };
        let mut m = Map::new();
        m.insert("subresource".to_owned(), sub.into());
        m.insert("responseKind".to_owned(), kind(r));
        copy(r, &mut m, &["verbs"]);
        let parent = out.iter_mut().find(|p| p.get("resource").and_then(Value::as_str) == Some(parent));
        if let Some(Value::Array(list)) = parent.map(|p| p.entry("subresources").or_insert_with(|| json!([])))
        {
            list.push(m.into());
        }
    }
    out.into_iter().map(Value::Object).collect()
}

/// Sorts groups by their priority, equal ones as they were. `name` reads a group's name.
fn sort_groups(list: &mut [Value], table: &Table, name: fn(&Value) -> &str) {
    let unknown = i64::MAX;
    list.sort_by_key(|g| match name(g) {
        // It is good to be king: the group that says who serves what is always the first.
        super::GROUP => std::cmp::Reverse(unknown),
        n => std::cmp::Reverse(table.group_priority(n).unwrap_or(unknown - 1)),
    });
}

/// Adds the aggregated servers' groups to an `APIGroupList`.
pub fn merge_groups(list: &mut Value, table: &Table) {
    if table.has_no_remote() {
        return;
    }
    let Some(groups) = list.get_mut("groups").and_then(Value::as_array_mut) else { return };
    let mut names: Vec<&str> = table.remote().map(|s| s.group.as_str()).filter(|g| !g.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let at = groups.iter().position(|g| text(g, "/name") == name);
        let merged = merge_group(at.map(|i| &groups[i]), name, table);
        match at {
            Some(i) => groups[i] = merged,
            None => groups.push(merged),
        }
    }
    sort_groups(groups, table, |g| text(g, "/name"));
}

/// The entry of a group that other servers serve, wholly or in part.
fn merge_group(local: Option<&Value>, name: &str, table: &Table) -> Value {
    let entry = |version: &str| json!({"groupVersion": api_version(name, version), "version": version});
    let mut versions: Vec<String> = table.versions(name).iter().map(|s| s.version.clone()).collect();
    for v in local.map(|l| items(l, "/versions")).unwrap_or_default() {
        let v = text(v, "/version");
        if !versions.iter().any(|x| x == v) {
            versions.push(v.to_owned());
        }
    }
    let mut merged = local.cloned().unwrap_or_else(|| json!({"name": name}));
    merged["versions"] = versions.iter().map(|v| entry(v)).collect();
    if let Some(first) = versions.first() {
        merged["preferredVersion"] = entry(first);
    }
    merged
}

/// `APIGroup` of a group that other servers serve; none where none does.
pub fn group(local: Option<&Value>, name: &str, table: &Table) -> Option<Value> {
    table.remote().any(|s| s.group == name).then(|| {
        let mut g = merge_group(local, name, table);
        g["kind"] = "APIGroup".into();
        g["apiVersion"] = "v1".into();
        g
    })
}

/// Adds the aggregated servers' groups to an `APIGroupDiscoveryList` of `/apis`.
pub fn merge_aggregated(list: &mut Value, table: &Table, known: &BTreeMap<GroupVersion, Known>) {
    if table.has_no_remote() {
        return;
    }
    let Some(groups) = list.get_mut("items").and_then(Value::as_array_mut) else { return };
    for s in table.remote().filter(|s| !s.group.is_empty()) {
        let at = groups.iter().position(|g| text(g, "/metadata/name") == s.group);
        let at = at.unwrap_or_else(|| {
            groups.push(json!({"metadata": {"name": s.group}, "versions": []}));
            groups.len() - 1
        });
        let Some(versions) = groups[at].get_mut("versions").and_then(Value::as_array_mut) else { continue };
        let unknown = Known { stale: true, ..Known::default() };
        let k = known.get(&(s.group.clone(), s.version.clone())).unwrap_or(&unknown);
        let mut new = json!({"version": s.version});
        if !k.resources.is_empty() {
            new["resources"] = k.resources.clone().into();
        }
        new["freshness"] = if k.stale { "Stale" } else { "Current" }.into();
        match versions.iter().position(|v| text(v, "/version") == s.version) {
            Some(i) => versions[i] = new,
            None => versions.push(new),
        }
        versions.sort_by(|a, b| {
            let (a, b) = (text(a, "/version"), text(b, "/version"));
            let priority = |v: &str| std::cmp::Reverse(table.version_priority(&s.group, v));
            priority(a).cmp(&priority(b)).then_with(|| crate::registry::table::compare_versions(a, b))
        });
    }
    sort_groups(groups, table, |g| text(g, "/metadata/name"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_lists() {
        let list = json!({"resources": [
            {"name": "flunders/status", "kind": "Flunder", "namespaced": true, "verbs": ["get"]},
            {"name": "flunders", "singularName": "flunder", "kind": "Flunder", "namespaced": true,
             "verbs": ["create", "get"], "shortNames": ["fl"]},
            {"name": "flunders/scale", "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get"]},
        ]});
        assert_eq!(
            Value::from(of_legacy(&list, "wardle.example.com", "v1")),
            json!([{
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "responseKind": {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"},
                "verbs": ["create", "get"], "shortNames": ["fl"],
                "subresources": [
                    {"subresource": "status", "verbs": ["get"],
                     "responseKind": {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}},
                    {"subresource": "scale", "verbs": ["get"],
                     "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
                ],
            }])
        );
    }

    #[test]
    fn aggregated_lists() {
        let list = json!({"items": [{"metadata": {"name": "g"}, "versions": [{"version": "v1", "resources": [
            {"resource": "a", "responseKind": {"kind": "A"}}, {"resource": "b", "subresources": [{"subresource": "s"}]}]}]}]});
        let all = of_aggregated(&list);
        let r = &all[&("g".to_owned(), "v1".to_owned())];
        assert_eq!(r[0]["responseKind"], json!({"kind": "A"}));
        assert_eq!(r[1]["responseKind"]["kind"], "");
        assert_eq!(r[1]["subresources"][0]["responseKind"]["kind"], "");
    }
}
