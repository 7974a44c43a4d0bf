//! The paths of a resource with their operations. Clients are generated from the names of operations, and the kinds
//! and actions at them tell kubectl what it can ask for.

use serde_json::{Map, Value, json};

use super::parameters::{
    self, DELETE, DELETE_COLLECTION, LIST, LOG, PATCH, PRETTY, Parameter, WRITE, in_path,
};
use super::schemas::Schemas;
use crate::discovery::documents;
use crate::registry::resource::Resource;

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Formats of answers.
pub const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const ANY: [&str; 1] = ["*/*"];

/// `rbac.authorization.k8s.io` as `RbacAuthorization`, the core group as `Core`.
pub fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    group.strip_suffix(".k8s.io").unwrap_or(group).split('.').map(capital).collect()
}

fn capital(s: &str) -> String {
    let mut c = s.chars();
    c.next().map(|f| f.to_ascii_uppercase().to_string() + c.as_str()).unwrap_or_default()
}

/// The tag of a group's operations: `rbacAuthorization`.
pub fn tag(group: &str) -> String {
    let name = group_name(group);
    let mut c = name.chars();
    c.next().map(|f| f.to_ascii_lowercase().to_string() + c.as_str()).unwrap_or_default()
}

/// `a Pod`, `an Event`, `Endpoints`.
fn with_article(kind: &str) -> String {
    if kind.ends_with('s') && !kind.ends_with("ss") {
        kind.to_owned()
    } else if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        format!("an {kind}")
    } else {
        format!("a {kind}")
    }
}

/// One operation before it is written down.
struct Operation {
    id: String,
    about: String,
    action: &'static str,
    gvk: Value,
    query: Vec<Parameter>,
    body: Option<Value>,
    /// Codes of success, all with the same answer.
    codes: &'static [u16],
    answer: Value,
    media: Vec<&'static str>,
}

impl Operation {
    fn to_json(&self, tag: &str) -> Value {
        let mut responses = Map::new();
        for code in self.codes {
            let about = match code {
                200 => "OK",
                201 => "Created",
                _ => "Accepted",
            };
            let answer = json!({"description": about, "content": content(&self.answer, &self.media)});
            responses.insert(code.to_string(), answer);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let mut o = json!({
            "operationId": self.id,
            "description": self.about,
            "tags": [tag],
            "parameters": self.query.iter().map(Parameter::in_query).collect::<Vec<_>>(),
            "responses": responses,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        if let Some(b) = &self.body {
            o["requestBody"] = b.clone();
        }
        o
    }
}

/// A schema under each media type.
pub fn content(schema: &Value, media: &[&str]) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn body(schema: &Value, media: &[&str], required: bool) -> Option<Value> {
    let mut b = json!({"content": content(schema, media)});
    if required {
        b["required"] = true.into();
    }
    Some(b)
}

/// What the operations of one resource have in common.
struct Names<'a> {
    r: &'a Resource,
    tag: String,
    /// `CoreV1`.
    version: String,
    gvk: Value,
}

impl<'a> Names<'a> {
    fn new(r: &'a Resource) -> Self {
        Self {
            r,
            tag: format!("{}_{}", tag(r.group), r.version),
            version: format!("{}{}", group_name(r.group), capital(r.version)),
            gvk: json!({"group": r.group, "version": r.version, "kind": r.kind}),
        }
    }

    /// `readCoreV1NamespacedPodStatus` and the like.
    fn id(&self, verb: &str, before: &str, namespaced: bool, after: &str) -> String {
        let scope = if namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{before}{scope}{}{after}", self.version, self.r.kind)
    }

    /// Formats of answers; custom resources have no wire form.
    fn media(&self) -> Vec<&'static str> {
        let custom = self.r.custom.is_some();
        MEDIA.iter().copied().filter(|m| !(custom && m.ends_with("protobuf"))).collect()
    }

    fn patches(&self) -> Vec<&'static str> {
        let custom = self.r.custom.is_some();
        PATCHES.iter().copied().filter(|m| !(custom && m.contains("strategic"))).collect()
    }

    fn namespace(&self) -> Vec<Value> {
        if self.r.namespaced {
            vec![in_path("namespace", "object name and auth scope, such as for teams and projects")]
        } else {
            Vec::new()
        }
    }

    fn named(&self, kind: &str) -> Vec<Value> {
        let mut path = self.namespace();
        path.insert(0, in_path("name", &format!("name of the {kind}")));
        path
    }
}

/// Puts the operations of one path into the document. Parameters that all of them have stand at the path.
fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    tag: &str,
    in_path: &[Value],
    operations: Vec<(&'static str, Operation)>,
) {
    if operations.is_empty() {
        return;
    }
    let mut shared: Vec<Value> = Vec::new();
    if let Some(((_, first), rest)) = operations.split_first() {
        let everywhere = |q: &&Parameter| rest.iter().all(|(_, o)| o.query.contains(q));
        shared.extend(first.query.iter().filter(everywhere).map(Parameter::in_query));
    }
    let hoisted: Vec<String> =
        shared.iter().map(|p| p["name"].as_str().unwrap_or_default().to_owned()).collect();
    shared.extend_from_slice(in_path);
    shared
        .sort_by(|a, b| (a["name"].as_str(), a["in"].as_str()).cmp(&(b["name"].as_str(), b["in"].as_str())));
    let mut item = Map::new();
    for (method, mut o) in operations {
        o.query.retain(|q| !hoisted.iter().any(|n| n == q.name));
        let mut o = o.to_json(tag);
        if o["parameters"].as_array().is_some_and(Vec::is_empty)
            && let Some(m) = o.as_object_mut()
        {
            m.remove("parameters");
        }
        item.insert(method.into(), o);
    }
    if !shared.is_empty() {
        item.insert("parameters".into(), shared.into());
    }
    paths.insert(path, item.into());
}

fn with_pretty(list: &[Parameter]) -> Vec<Parameter> {
    list.iter().copied().chain([PRETTY]).collect()
}

/// Adds everything below the resource's path.
pub fn add(r: &Resource, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
    let n = Names::new(r);
    let one = schemas.object(r);
    let base = documents::path(r.group, r.version);
    let place = if r.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let collection = format!("{place}/{}", r.resource);
    let many = r.has_verb("list").then(|| schemas.list(r));

    let operations = on_collection(&n, &one, many.as_ref(), schemas);
    insert(paths, collection.clone(), &n.tag, &n.namespace(), operations);
    if let Some(many) = many.as_ref().filter(|_| r.namespaced) {
        let list = list(&n, many, n.id("list", "", false, "ForAllNamespaces"));
        insert(paths, format!("{base}/{}", r.resource), &n.tag, &[], vec![("get", list)]);
    }
    let named = format!("{collection}/{{name}}");
    insert(paths, named.clone(), &n.tag, &n.named(r.kind), on_object(&n, &one, schemas));
    for s in r.subresources.iter() {
        subresource(&n, s, &named, paths, schemas);
    }
    // Paths that are deprecated upstream: custom resources are younger.
    if r.has_verb("watch") && r.custom.is_none() {
        watches(&n, paths, schemas);
    }
}

fn list(n: &Names<'_>, many: &Value, id: String) -> Operation {
    let what = if n.r.has_verb("watch") { "list or watch" } else { "list" };
    Operation {
        id,
        about: format!("{what} objects of kind {}", n.r.kind),
        action: "list",
        gvk: n.gvk.clone(),
        query: with_pretty(&LIST),
        body: None,
        codes: &[200],
        answer: many.clone(),
        media: if n.r.custom.is_some() { n.media() } else { STREAMS.to_vec() },
    }
}

fn meta(schemas: &mut Schemas, kind: &str) -> Value {
    match proto::schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")) {
        Some(d) => schemas.reference(d),
        None => json!({"type": "object"}),
    }
}

fn on_collection(
    n: &Names<'_>,
    one: &Value,
    many: Option<&Value>,
    schemas: &mut Schemas,
) -> Vec<(&'static str, Operation)> {
    let (r, kind) = (n.r, n.r.kind);
    let mut out = Vec::new();
    if let Some(many) = many {
        out.push(("get", list(n, many, n.id("list", "", r.namespaced, ""))));
    }
    if r.has_verb("create") {
        out.push((
            "post",
            Operation {
                id: n.id("create", "", r.namespaced, ""),
                about: format!("create {}", with_article(kind)),
                action: "post",
                gvk: n.gvk.clone(),
                query: with_pretty(&WRITE),
                body: body(one, &ANY, true),
                codes: &[200, 201, 202],
                answer: one.clone(),
                media: n.media(),
            },
        ));
    }
    if r.has_verb("deletecollection") {
        out.push((
            "delete",
            Operation {
                id: n.id("delete", "Collection", r.namespaced, ""),
                about: format!("delete collection of {kind}"),
                action: "deletecollection",
                gvk: n.gvk.clone(),
                query: with_pretty(&DELETE_COLLECTION),
                body: body(&meta(schemas, "DeleteOptions"), &ANY, false),
                codes: &[200],
                answer: meta(schemas, "Status"),
                media: n.media(),
            },
        ));
    }
    out
}

fn on_object(n: &Names<'_>, one: &Value, schemas: &mut Schemas) -> Vec<(&'static str, Operation)> {
    let mut out = Vec::new();
    for verb in n.r.verbs {
        match *verb {
            "get" => out.push(("get", read(n, one, &n.gvk, "", ""))),
            "update" => out.push(("put", replace(n, one, &n.gvk, "", ""))),
            "patch" => out.push(("patch", patch(n, one, &n.gvk, "", "", schemas))),
            "delete" => {
                // Namespaces go slowly: that they still are there is told in the status.
                let object = n.r.rules.returns_deleted && n.r.resource != "namespaces";
                let answer = if object { one.clone() } else { meta(schemas, "Status") };
                out.push((
                    "delete",
                    Operation {
                        id: n.id("delete", "", n.r.namespaced, ""),
                        about: format!("delete {}", with_article(n.r.kind)),
                        action: "delete",
                        gvk: n.gvk.clone(),
                        query: with_pretty(&DELETE),
                        body: body(&meta(schemas, "DeleteOptions"), &ANY, false),
                        codes: &[200, 202],
                        answer,
                        media: n.media(),
                    },
                ));
            }
            _ => {}
        }
    }
    out
}

/// `sub` is a subresource's name as part of an operation's, `of` as part of its description.
fn read(n: &Names<'_>, one: &Value, gvk: &Value, sub: &str, of: &str) -> Operation {
    Operation {
        id: n.id("read", "", n.r.namespaced, sub),
        about: format!("read {of}the specified {}", n.r.kind),
        action: "get",
        gvk: gvk.clone(),
        query: vec![PRETTY],
        body: None,
        codes: &[200],
        answer: one.clone(),
        media: n.media(),
    }
}

fn replace(n: &Names<'_>, one: &Value, gvk: &Value, sub: &str, of: &str) -> Operation {
    Operation {
        id: n.id("replace", "", n.r.namespaced, sub),
        about: format!("replace {of}the specified {}", n.r.kind),
        action: "put",
        gvk: gvk.clone(),
        query: with_pretty(&WRITE),
        body: body(one, &ANY, true),
        codes: &[200, 201],
        answer: one.clone(),
        media: n.media(),
    }
}

fn patch(n: &Names<'_>, one: &Value, gvk: &Value, sub: &str, of: &str, schemas: &mut Schemas) -> Operation {
    Operation {
        id: n.id("patch", "", n.r.namespaced, sub),
        about: format!("partially update {of}the specified {}", n.r.kind),
        action: "patch",
        gvk: gvk.clone(),
        query: with_pretty(&PATCH),
        body: body(&schemas.patch(), &n.patches(), true),
        codes: &[200, 201],
        answer: one.clone(),
        media: n.media(),
    }
}

fn subresource(
    n: &Names<'_>,
    s: &proto::Subresource,
    named: &str,
    paths: &mut Map<String, Value>,
    schemas: &mut Schemas,
) {
    let path = format!("{named}/{}", s.name);
    if crate::connect::is_connecting(s.name) && s.name != "log" {
        return connect(n, s, path, paths);
    }
    let r = n.r;
    let (group, version) =
        if s.kind.version.is_empty() { (r.group, r.version) } else { (s.kind.group, s.kind.version) };
    let gvk = json!({"group": group, "version": version, "kind": s.kind.kind});
    let schema = match proto::schema::by_gvk(group, version, s.kind.kind) {
        _ if s.name == "log" => json!({"type": "string"}),
        _ if r.custom.is_some() && s.kind.kind == r.kind => schemas.object(r),
        Some(d) => schemas.reference(d),
        None => json!({"type": "string"}),
    };
    let (sub, of) = (capital(s.name), format!("{} of ", s.name));
    let mut out = Vec::new();
    for verb in s.verbs {
        match *verb {
            "get" => {
                let mut o = read(n, &schema, &gvk, &sub, &of);
                if s.name == "log" {
                    o.query = with_pretty(&LOG);
                    o.media.insert(0, "text/plain");
                }
                out.push(("get", o));
            }
            "create" => out.push((
                "post",
                Operation {
                    id: n.id("create", "", r.namespaced, &sub),
                    about: format!("create {of}{}", with_article(r.kind)),
                    action: "post",
                    gvk: gvk.clone(),
                    query: with_pretty(&WRITE),
                    body: body(&schema, &ANY, true),
                    codes: &[200, 201, 202],
                    answer: schema.clone(),
                    media: n.media(),
                },
            )),
            "update" => out.push(("put", replace(n, &schema, &gvk, &sub, &of))),
            "patch" => out.push(("patch", patch(n, &schema, &gvk, &sub, &of, schemas))),
            _ => {}
        }
    }
    let kind = if s.kind.kind == r.kind { r.kind } else { s.kind.kind };
    insert(paths, path, &n.tag, &n.named(kind), out);
}

/// Subresources that hand the connection on.
fn connect(n: &Names<'_>, s: &proto::Subresource, path: String, paths: &mut Map<String, Value>) {
    let methods: &[&'static str] = if s.name == "proxy" {
        &["delete", "get", "head", "options", "patch", "post", "put"]
    } else {
        &["get", "post"]
    };
    let gvk = json!({"group": n.r.group, "version": n.r.version, "kind": s.kind.kind});
    let forms: &[(&str, &str)] =
        if s.name == "proxy" { &[("", ""), ("/{path}", "WithPath")] } else { &[("", "")] };
    for (below, suffix) in forms {
        let operations = methods.iter().map(|m| {
            let verb = format!("connect{}{}", n.version, capital(m));
            let scope = if n.r.namespaced { "Namespaced" } else { "" };
            let o = Operation {
                id: format!("{verb}{scope}{}{}{suffix}", n.r.kind, capital(s.name)),
                about: format!("connect {} requests to {} of {}", m.to_uppercase(), s.name, n.r.kind),
                action: "connect",
                gvk: gvk.clone(),
                query: parameters::of_connection(s.kind.kind).to_vec(),
                body: None,
                codes: &[200],
                answer: json!({"type": "string"}),
                media: ANY.to_vec(),
            };
            (*m, o)
        });
        let mut place = n.named(s.kind.kind);
        if !below.is_empty() {
            place.push(in_path("path", "path to the resource"));
        }
        insert(paths, format!("{path}{below}"), &n.tag, &place, operations.collect());
    }
}

/// The older paths of watches.
fn watches(n: &Names<'_>, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
    let r = n.r;
    let event = meta(schemas, "WatchEvent");
    let base = format!("{}/watch", documents::path(r.group, r.version));
    let watch = |id: String, action, what: String| Operation {
        id,
        about: what,
        action,
        gvk: n.gvk.clone(),
        query: with_pretty(&LIST),
        body: None,
        codes: &[200],
        answer: event.clone(),
        media: if n.r.custom.is_some() { n.media() } else { STREAMS.to_vec() },
    };
    let many = format!(
        "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
        r.kind
    );
    let one = format!(
        "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.",
        r.kind
    );
    let place = if r.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    if r.namespaced {
        let o = watch(n.id("watch", "", false, "ListForAllNamespaces"), "watchlist", many.clone());
        insert(paths, format!("{base}/{}", r.resource), &n.tag, &[], vec![("get", o)]);
    }
    let o = watch(n.id("watch", "", r.namespaced, "List"), "watchlist", many);
    let collection = format!("{place}/{}", r.resource);
    insert(paths, collection.clone(), &n.tag, &n.namespace(), vec![("get", o)]);
    if r.has_verb("get") {
        let o = watch(n.id("watch", "", r.namespaced, ""), "watch", one);
        insert(paths, format!("{collection}/{{name}}"), &n.tag, &n.named(r.kind), vec![("get", o)]);
    }
}

/// An operation that only reads a document of discovery or the like.
pub fn plain(id: &str, about: &str, tag: &str, answer: &Value, media: &[&str]) -> Value {
    json!({"get": {
        "operationId": id,
        "description": about,
        "tags": [tag],
        "responses": {
            "200": {"description": "OK", "content": content(answer, media)},
            "401": {"description": "Unauthorized"},
        },
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(group_name(""), "Core");
        assert_eq!(group_name("rbac.authorization.k8s.io"), "RbacAuthorization");
        assert_eq!(tag("flowcontrol.apiserver.k8s.io"), "flowcontrolApiserver");
        assert_eq!(with_article("Pod"), "a Pod");
        assert_eq!(with_article("APIService"), "an APIService");
        assert_eq!(with_article("Endpoints"), "Endpoints");
        assert_eq!(with_article("StorageClass"), "a StorageClass");
    }
}
