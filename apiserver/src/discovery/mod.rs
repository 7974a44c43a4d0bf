//! Discovery: which groups, versions and resources there are, in the legacy and the aggregated form. The documents
//! are built once; what a client already has is not sent again (`ETag`).

pub mod documents;
pub mod paths;

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use crate::http::negotiate::Wanted;
use crate::http::{Body, Response, respond};
use crate::registry::resource::Table;

/// One document in all its forms.
pub struct Document {
    json: Bytes,
    etag: HeaderValue,
    /// `apiVersion` and kind for the wire form.
    api_version: &'static str,
    kind: &'static str,
    value: Value,
}

impl Document {
    fn new(value: Value, api_version: &'static str, kind: &'static str) -> Self {
        let json = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
        let digest: String = Sha512::digest(&json).iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{digest}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { json, etag, api_version, kind, value }
    }

    /// The answer in the wanted format.
    fn answer(&self, wanted: Wanted) -> Response {
        if wanted.format == crate::http::negotiate::Format::Protobuf {
            return respond::meta_object(200, wanted, self.api_version, self.kind, &self.value);
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

/// All discovery documents.
pub struct Discovery {
    /// `/api`
    versions: Document,
    /// `/apis`
    groups: Document,
    /// `/apis/GROUP`
    group: HashMap<&'static str, Document>,
    /// `/api/v1`, `/apis/GROUP/VERSION`
    resources: HashMap<String, Document>,
    /// Aggregated form of `/api` and `/apis`, v2 and v2beta1.
    aggregated: [[Document; 2]; 2],
}

impl Discovery {
    /// `address` is where clients reach this server, as `HOST:PORT`.
    pub fn new(table: &Table, address: &str) -> Self {
        let mut group = HashMap::new();
        let mut resources = HashMap::new();
        for g in &table.groups {
            if !g.name.is_empty() {
                group.insert(g.name, Document::new(documents::group(g), "v1", "APIGroup"));
            }
            for v in &g.versions {
                let path = documents::path(g.name, v.name);
                resources.insert(path, Document::new(documents::resources(g, v), "v1", "APIResourceList"));
            }
        }
        let aggregated = |legacy: bool| {
            ["v2", "v2beta1"].map(|v| {
                Document::new(documents::aggregated(table, legacy, v), "v1", "APIGroupDiscoveryList")
            })
        };
        Self {
            versions: Document::new(documents::versions(address), "v1", "APIVersions"),
            groups: Document::new(documents::groups(table), "v1", "APIGroupList"),
            group,
            resources,
            aggregated: [aggregated(true), aggregated(false)],
        }
    }

    /// Answers a discovery path, if it is one.
    pub fn answer(&self, path: &str, headers: &HeaderMap, wanted: Wanted) -> Option<Response> {
        let path = path.strip_suffix('/').unwrap_or(path);
        match path {
            "/api" => Some(self.root(&self.versions, &self.aggregated[0], headers, wanted)),
            "/apis" => Some(self.root(&self.groups, &self.aggregated[1], headers, wanted)),
            _ => {
                if let Some(d) = self.resources.get(path) {
                    return Some(d.answer(wanted));
                }
                let name = path.strip_prefix("/apis/")?;
                self.group.get(name).map(|d| d.answer(wanted))
            }
        }
    }

    fn root(
        &self,
        legacy: &Document,
        aggregated: &[Document; 2],
        headers: &HeaderMap,
        wanted: Wanted,
    ) -> Response {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            if parts.next() != Some("application/json") {
                continue;
            }
            let params: Vec<&str> = parts.collect();
            if !params.contains(&"as=APIGroupDiscoveryList") {
                break;
            }
            if !params.contains(&"g=apidiscovery.k8s.io") {
                continue;
            }
            if params.contains(&"v=v2") {
                let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                return aggregated[0].tagged(headers, media);
            }
            if params.contains(&"v=v2beta1") {
                let media = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
                return aggregated[1].tagged(headers, media);
            }
        }
        let mut r = legacy.answer(wanted);
        r.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        r
    }
}
