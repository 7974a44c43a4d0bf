//! Discovery: which groups, versions and resources there are, in the legacy and the aggregated form. The documents
//! of a group are built once for each set of its resources; what a client already has is not sent again (`ETag`).

pub mod documents;
pub mod paths;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use crate::aggregator::discovery::{self as remote, View};
use crate::http::negotiate::{Format, Wanted};
use crate::http::{Body, Response, respond};
use crate::registry::table::{Group, Table};

/// One document in all its forms.
pub struct Document {
    json: Bytes,
    etag: HeaderValue,
    /// `apiVersion` and kind for the wire form.
    api_version: &'static str,
    kind: &'static str,
}

impl Document {
    fn new(value: &Value, api_version: &'static str, kind: &'static str) -> Self {
        let json = Bytes::from(serde_json::to_vec(value).unwrap_or_default());
        let digest: String = Sha512::digest(&json).iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{digest}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { json, etag, api_version, kind }
    }

    /// The answer in the wanted format.
    fn answer(&self, wanted: Wanted) -> Response {
        if wanted.format == Format::Protobuf {
            let value = serde_json::from_slice(&self.json).unwrap_or_default();
            return respond::meta_object(200, wanted, self.api_version, self.kind, &value);
        }
        respond::json_text(200, wanted, self.json.clone())
    }

    /// The answer with the document's tag; empty when the client has it.
    fn tagged(&self, headers: &HeaderMap, content_type: &'static str) -> Response {
        let mut r = if headers.get(header::IF_NONE_MATCH) == Some(&self.etag) {
            let mut r = respond::bytes(304, content_type, Body::Empty);
            *r.status_mut() = StatusCode::NOT_MODIFIED;
            r
        } else {
            respond::bytes(200, content_type, self.json.clone())
        };
        let h = r.headers_mut();
        h.insert(header::ETAG, self.etag.clone());
        h.insert(header::VARY, HeaderValue::from_static("Accept"));
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        r
    }
}

/// Documents of one group, made when they are first asked for.
struct GroupDocuments {
    group: Arc<Group>,
    /// `/apis/GROUP`
    document: OnceLock<Document>,
    /// `/api/v1`, `/apis/GROUP/VERSION`, in the order of the group's versions.
    versions: Vec<OnceLock<Document>>,
}

impl GroupDocuments {
    fn new(group: &Arc<Group>) -> Arc<Self> {
        let versions = group.versions.iter().map(|_| OnceLock::new()).collect();
        Arc::new(Self { group: Arc::clone(group), document: OnceLock::new(), versions })
    }
}

/// The documents of one table.
struct Documents {
    table: Arc<Table>,
    /// What other servers serve.
    remote: Option<View>,
    /// `/apis`
    groups: OnceLock<Document>,
    group: HashMap<&'static str, Arc<GroupDocuments>>,
    /// Aggregated form of `/api` and `/apis`, v2 and v2beta1.
    aggregated: [[OnceLock<Document>; 2]; 2],
}

impl Documents {
    /// Takes from `before` what is still true.
    fn new(table: &Arc<Table>, remote: Option<View>, before: Option<&Self>) -> Self {
        let group = table.groups.iter().map(|g| {
            let known = before.and_then(|b| b.group.get(g.name)).filter(|d| Arc::ptr_eq(&d.group, g));
            (g.name, known.map_or_else(|| GroupDocuments::new(g), Arc::clone))
        });
        Self {
            table: Arc::clone(table),
            remote,
            groups: OnceLock::new(),
            group: group.collect(),
            aggregated: Default::default(),
        }
    }

    fn aggregated(&self, legacy: bool, beta: bool) -> &Document {
        self.aggregated[usize::from(!legacy)][usize::from(beta)].get_or_init(|| {
            let version = if beta { "v2beta1" } else { "v2" };
            let mut list = documents::aggregated(&self.table, legacy, version);
            if let Some(r) = self.remote.as_ref().filter(|_| !legacy) {
                remote::merge_aggregated(&mut list, &r.services, &r.known);
            }
            Document::new(&list, "v1", "APIGroupDiscoveryList")
        })
    }

    fn groups(&self) -> &Document {
        self.groups.get_or_init(|| {
            let mut list = documents::groups(&self.table);
            if let Some(r) = &self.remote {
                remote::merge_groups(&mut list, &r.services);
            }
            Document::new(&list, "v1", "APIGroupList")
        })
    }

    /// `/apis/GROUP` where other servers have a part in the group. Made anew each time: few ask.
    fn shared_group(&self, name: &str) -> Option<Document> {
        let r = self.remote.as_ref()?;
        let local = self.group.get(name).map(|g| documents::group(&g.group));
        remote::group(local.as_ref(), name, &r.services).map(|g| Document::new(&g, "v1", "APIGroup"))
    }
}

/// All discovery documents.
pub struct Discovery {
    /// `/api`
    versions: Document,
    current: ArcSwapOption<Documents>,
}

impl Discovery {
    /// `address` is where clients reach this server, as `HOST:PORT`.
    pub fn new(address: &str) -> Self {
        let versions = Document::new(&documents::versions(address), "v1", "APIVersions");
        Self { versions, current: ArcSwapOption::empty() }
    }

    /// The documents of `table` and of other servers. Two requests that see a new table at once may both make them; one set is kept.
    fn of(&self, table: &Arc<Table>, remote: Option<View>) -> Arc<Documents> {
        let known = self.current.load_full();
        match known {
            Some(d) if Arc::ptr_eq(&d.table, table) && View::same(d.remote.as_ref(), remote.as_ref()) => d,
            before => {
                let new = Arc::new(Documents::new(table, remote, before.as_deref()));
                self.current.store(Some(Arc::clone(&new)));
                new
            }
        }
    }

    /// Answers a discovery path, if it is one.
    pub fn answer(
        &self,
        table: &Arc<Table>,
        remote: impl FnOnce() -> Option<View>,
        path: &str,
        headers: &HeaderMap,
        wanted: Wanted,
    ) -> Option<Response> {
        let path = path.strip_suffix('/').unwrap_or(path);
        match path {
            "/api" => {
                let d = self.of(table, remote());
                Some(root(&self.versions, &d, true, headers, wanted))
            }
            "/apis" => {
                let d = self.of(table, remote());
                Some(root(d.groups(), &d, false, headers, wanted))
            }
            _ => {
                let (name, version) = match path.strip_prefix("/api/") {
                    Some(v) => ("", Some(v)),
                    None => match path.strip_prefix("/apis/")?.split_once('/') {
                        Some(("", _)) => return None,
                        Some((g, v)) => (g, Some(v)),
                        None => (path.strip_prefix("/apis/")?, None),
                    },
                };
                let d = self.of(table, remote());
                if version.is_none()
                    && let Some(g) = d.shared_group(name)
                {
                    return Some(g.answer(wanted));
                }
                let known = d.group.get(name).filter(|_| !(name.is_empty() && version.is_none()))?;
                let g = &known.group;
                let Some(version) = version else {
                    let make = || Document::new(&documents::group(g), "v1", "APIGroup");
                    return Some(known.document.get_or_init(make).answer(wanted));
                };
                let at = g.versions.iter().position(|v| v.name == version)?;
                let make =
                    || Document::new(&documents::resources(g, &g.versions[at]), "v1", "APIResourceList");
                Some(known.versions[at].get_or_init(make).answer(wanted))
            }
        }
    }
}

/// Which form of the aggregated document the client asks for first, if any: the beta one or not.
fn aggregated_form(headers: &HeaderMap) -> Option<bool> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let params: Vec<&str> = parts.collect();
        if !params.contains(&"as=APIGroupDiscoveryList") {
            return None;
        }
        if !params.contains(&"g=apidiscovery.k8s.io") {
            continue;
        }
        if params.contains(&"v=v2") {
            return Some(false);
        }
        if params.contains(&"v=v2beta1") {
            return Some(true);
        }
    }
    None
}

/// Whether the client asks for an aggregated document, which no other format or shape stands in for.
fn asks_for_all(headers: &HeaderMap) -> bool {
    aggregated_form(headers).is_some()
}

fn root(legacy: &Document, all: &Documents, core: bool, headers: &HeaderMap, wanted: Wanted) -> Response {
    if let Some(beta) = aggregated_form(headers) {
        let media = match beta {
            false => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            true => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        return all.aggregated(core, beta).tagged(headers, media);
    }
    legacy.answer(wanted)
}
