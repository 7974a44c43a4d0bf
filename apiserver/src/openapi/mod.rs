//! OpenAPI: v3 has one document per group and version, v2 all in one. They are made from the schema table when they
//! are asked for, and nothing of them is kept. Clients keep what they fetched as long as the hash in its address
//! stays the same.

mod descriptions;
mod gnostic;
mod gnostic_v3;
mod operations;
mod parameters;
mod schemas;
mod v2;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::discovery::documents;
use crate::http::query::Query;
use crate::http::{Body, Response, negotiate, respond};
use crate::registry::resource::Resource;
use crate::registry::table::{Group, Table, Version};
use descriptions::Descriptions;

const JSON: &str = "application/json";
/// The v2 document in protobuf, and the name that it had first.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// The same of v3 documents.
const V3_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];

/// Answers `/openapi/v2` and what is below `/openapi/v3`.
pub fn answer(table: &Table, path: &str, query: &Query, headers: &HeaderMap) -> Option<Response> {
    if path == "/openapi/v2" {
        return Some(second(table, headers));
    }
    let rest = path.strip_prefix("/openapi/v3")?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
    let offers: &[&str] = if rest.is_empty() { &[JSON] } else { &[JSON, V3_PROTOBUF[0], V3_PROTOBUF[1]] };
    let Some(chosen) = negotiate::choose(headers, offers) else {
        return Some(respond::text(406, Body::Empty));
    };
    if rest.is_empty() {
        let text = serde_json::to_vec(&index(table)).unwrap_or_default();
        let tag: String = Sha256::digest(&text).iter().map(|b| format!("{b:02X}")).collect();
        return Some(tagged(headers, &tag, JSON, || text));
    }
    let part = parts(table).into_iter().find(|p| p.relative() == rest)?;
    let hash = part.hash();
    if let Some(other) = query.get("hash").filter(|h| *h != hash) {
        // Another content of that document: the client is told where the present one is.
        tracing::debug!(path, other, "an outdated OpenAPI document was asked for");
        let mut r = respond::bytes(301, JSON, Body::Empty);
        let to = HeaderValue::from_str(&format!("{path}?hash={hash}")).ok()?;
        r.headers_mut().insert(header::LOCATION, to);
        return Some(r);
    }
    let (media, wire) = if chosen == 0 { (JSON, false) } else { (V3_PROTOBUF[0], true) };
    let mut r = tagged(headers, &hash, media, || {
        let document = part.document(true, &Descriptions::load());
        if wire { gnostic_v3::document(&document) } else { serde_json::to_vec(&document).unwrap_or_default() }
    });
    if query.has("hash") {
        // The address names the content: it can be kept for ever.
        let h = r.headers_mut();
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_hours(24 * 365));
        let year = year.map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        if let Some(Ok(v)) = year.ok().map(|y| HeaderValue::from_str(&y)) {
            h.insert(header::EXPIRES, v);
        }
    }
    Some(r)
}

/// The v2 document.
fn second(table: &Table, headers: &HeaderMap) -> Response {
    let offers = [JSON, V2_PROTOBUF[0], V2_PROTOBUF[1]];
    let Some(chosen) = negotiate::choose(headers, &offers) else {
        return respond::text(406, Body::Empty);
    };
    let about = Descriptions::load;
    let version = component_base::version::GIT_VERSION;
    let all = |about: Descriptions| parts(table).into_iter().map(move |p| p.document(false, &about));
    if chosen == 0 {
        return tagged(headers, &hash("v2", table.iter()), JSON, || v2::json(all(about()), version));
    }
    let media = V2_PROTOBUF[0];
    tagged(headers, &hash("v2.protobuf", table.iter()), media, || v2::protobuf(all(about()), version))
}

/// The answer with a tag, without its content where the client has it.
fn tagged(
    headers: &HeaderMap,
    tag: &str,
    media: &'static str,
    content: impl FnOnce() -> Vec<u8>,
) -> Response {
    let quoted = format!("\"{tag}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut r = if known.is_some_and(|k| k.split(',').any(|k| k.trim() == quoted)) {
        let mut r = respond::bytes(304, media, Body::Empty);
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        respond::bytes(200, media, Bytes::from(content()))
    };
    let h = r.headers_mut();
    if let Ok(v) = HeaderValue::from_str(&quoted) {
        h.insert(header::ETAG, v);
    }
    h.insert(header::VARY, HeaderValue::from_static("Accept"));
    r
}

/// What one v3 document is about.
enum Part<'a> {
    Resources(&'a Group, &'a Version),
    Group(&'a Group),
    /// A path of its own with what it answers.
    Single(&'static Single),
}

/// A path that is no resource.
struct Single {
    path: &'static str,
    operation: &'static str,
    about: &'static str,
    tag: &'static str,
    /// The type of the answer; empty for text.
    answer: &'static str,
    media: &'static [&'static str],
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const SINGLES: [Single; 5] = [
    Single {
        path: "/.well-known/openid-configuration",
        operation: "getServiceAccountIssuerOpenIDConfiguration",
        about: "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
        tag: "WellKnown",
        answer: "",
        media: &[JSON],
    },
    Single {
        path: "/api",
        operation: "getCoreAPIVersions",
        about: "get available API versions",
        tag: "core",
        answer: "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
        media: &operations::MEDIA,
    },
    Single {
        path: "/apis",
        operation: "getAPIVersions",
        about: "get available API versions",
        tag: "apis",
        answer: "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
        media: &operations::MEDIA,
    },
    Single {
        path: "/openid/v1/jwks",
        operation: "getServiceAccountIssuerOpenIDKeyset",
        about: "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        tag: "openid",
        answer: "",
        media: &["application/jwk-set+json"],
    },
    Single {
        path: "/version",
        operation: "getCodeVersion",
        about: "get the version information for this server",
        tag: "version",
        answer: "io.k8s.apimachinery.pkg.version.Info",
        media: &[JSON],
    },
];

/// All documents.
fn parts(table: &Table) -> Vec<Part<'_>> {
    let mut out: Vec<Part<'_>> = SINGLES.iter().map(Part::Single).collect();
    for g in &table.groups {
        // What only definitions brought has no document of the group.
        let built_in = g.versions.iter().flat_map(|v| &v.resources).any(|r| r.custom.is_none());
        if !g.name.is_empty() && built_in {
            out.push(Part::Group(g));
        }
        out.extend(g.versions.iter().map(|v| Part::Resources(g, v)));
    }
    out
}

impl Part<'_> {
    /// `api/v1`, `apis/apps/v1`, `version`.
    fn relative(&self) -> String {
        match self {
            Self::Resources(g, v) => documents::path(g.name, v.name).trim_start_matches('/').to_owned(),
            Self::Group(g) => format!("apis/{}", g.name),
            Self::Single(s) => s.path.trim_start_matches('/').to_owned(),
        }
    }

    fn hash(&self) -> String {
        match self {
            Self::Resources(_, v) => hash(&self.relative(), v.resources.iter()),
            _ => hash(&self.relative(), std::iter::empty()),
        }
    }

    /// The document. Types that every group has name the kinds of this one only where it is `scoped`.
    fn document(&self, scoped: bool, about: &Descriptions) -> Value {
        let mut schemas = match self {
            Self::Resources(g, v) if scoped => schemas::Schemas::of(g.name, v.name),
            _ if scoped => schemas::Schemas::of("", "v1"),
            _ => schemas::Schemas::default(),
        };
        let mut paths = Map::new();
        let path = format!("/{}/", self.relative());
        let mut reference = |name: &str| match proto::schema::by_name(name) {
            Some(def) => schemas.reference(def),
            None if name.ends_with(".version.Info") => schemas.version(),
            None => json!({"type": "string"}),
        };
        match self {
            Self::Resources(g, v) => {
                let name = operations::group_name(g.name);
                let answer = reference(&format!("{META}APIResourceList"));
                let mut version = v.name.to_owned();
                if let Some(first) = version.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                let id = format!("get{name}{version}APIResources");
                let tag = format!("{}_{}", operations::tag(g.name), v.name);
                let about = "get available resources";
                let get = operations::plain(&id, about, &tag, &answer, &operations::MEDIA);
                paths.insert(path, get);
                for r in &v.resources {
                    operations::add(r, &mut paths, &mut schemas);
                }
            }
            Self::Group(g) => {
                let id = format!("get{}APIGroup", operations::group_name(g.name));
                let answer = reference(&format!("{META}APIGroup"));
                let (about, tag) = ("get information of a group", operations::tag(g.name));
                paths.insert(path, operations::plain(&id, about, &tag, &answer, &operations::MEDIA));
            }
            Self::Single(s) => {
                let answer = reference(s.answer);
                paths.insert(path, operations::plain(s.operation, s.about, s.tag, &answer, s.media));
            }
        }
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": component_base::version::GIT_VERSION},
            "paths": paths,
            "components": {"schemas": schemas.finish(about), "securitySchemes": security()},
        })
    }
}

fn security() -> Value {
    json!({"BearerToken": {
        "type": "apiKey", "in": "header", "name": "authorization",
        "description": "Bearer Token authentication",
    }})
}

/// Stands for the content of a document: what is served follows from the release, the path, and the definitions of the
/// custom resources in it.
fn hash<'r>(relative: &str, resources: impl Iterator<Item = &'r Arc<Resource>>) -> String {
    let mut h = Sha256::new();
    h.update(format!("{}/{relative}", component_base::version::GIT_VERSION));
    for c in resources.filter_map(|r| r.custom.as_ref()) {
        h.update(c.definition.digest);
        h.update(c.version().name);
    }
    h.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

fn index(table: &Table) -> Value {
    let mut paths = Map::new();
    for part in parts(table) {
        let p = part.relative();
        let url = format!("/openapi/v3/{p}?hash={}", part.hash());
        paths.insert(p, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}
