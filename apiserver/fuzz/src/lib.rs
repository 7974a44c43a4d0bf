//! What clients can make the server read, each as a function from bytes that may do anything but panic, hang or take
//! memory without bound. Where an input is taken, what comes out of it must be taken again.

use apiserver::cel::{self, DeclType, Env};
use apiserver::crd::jsonpath;
use apiserver::crd::schema::meta::Malformed;
use apiserver::crd::schema::{Schema, SchemaOptions, ValidationCx};
use apiserver::http::negotiate::Format;
use apiserver::http::query::Query;
use apiserver::kinds;
use apiserver::patch::{self, PatchType};
use apiserver::registry::options::{DeleteOptions, FieldValidation, ListOptions, WriteKind, WriteOptions};
use apiserver::registry::strategy::Context;
use apiserver::registry::{codec, continue_token, fields, labels};
use component_base::streaming::{Streams, spdy, translate};
use proto::json::Strictness;
use proto::schema::TypeDef;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// An entry by the name of its target.
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Entry] = &[
    ("json", json),
    ("yaml", yaml),
    ("protobuf", protobuf),
    ("objects", objects),
    ("patch", patch),
    ("apply", apply),
    ("selectors", selectors),
    ("continue_token", continue_token),
    ("quantity", quantity),
    ("cel", cel),
    ("schema", schema),
    ("jsonpath", jsonpath),
    ("spdy", spdy),
    ("websocket", websocket),
];

const KINDS: [(&str, &str, &str); 4] = [
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("authorization.k8s.io", "v1", "SubjectAccessReview"),
];

fn def((group, version, kind): (&str, &str, &str)) -> &'static TypeDef {
    match proto::schema::by_gvk(group, version, kind) {
        Some(d) => d,
        None => unreachable!("the type table has every kind named here"),
    }
}

fn body(data: &[u8], format: Format) {
    for gvk in KINDS {
        let schema = def(gvk);
        for validation in [FieldValidation::Strict, FieldValidation::Warn] {
            let mut warnings = Vec::new();
            let Ok(o) = codec::decode_as(schema, gvk, data, format, validation, &mut warnings) else {
                continue;
            };
            // What was taken can be stored, and read again.
            if let Ok(bytes) = codec::encode_stored(schema, gvk.1, gvk.2, &o) {
                assert!(codec::decode_stored(schema, &bytes).is_ok(), "{o} cannot be read again");
            }
            let text = o.to_string();
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text} cannot be read again");
        }
    }
}

/// Bodies in JSON.
pub fn json(data: &[u8]) {
    body(data, Format::Json);
}

/// Bodies in YAML.
pub fn yaml(data: &[u8]) {
    body(data, Format::Yaml);
}

/// Bodies in protobuf.
pub fn protobuf(data: &[u8]) {
    body(data, Format::Protobuf);
    let _ = proto::envelope::decode(data);
    let mut enveloped = proto::envelope::wrap("v1", "Pod", data);
    body(&enveloped, Format::Protobuf);
    enveloped.truncate(enveloped.len() / 2);
    body(&enveloped, Format::Protobuf);
}

/// Defaults and rules of the kind that the object says it is.
pub fn objects(data: &[u8]) {
    let Ok((api_version, kind)) = proto::json::interpret(data) else { return };
    let (group, version) = proto::resources::split_api_version(&api_version);
    let Some(r) = proto::resources::resource_of_kind(group, version, &kind) else { return };
    let (Some(schema), Some(rules)) = (r.type_def(), kinds::strategy(r.group, r.resource)) else { return };
    let gvk = (r.group, r.version, r.kind);
    let mut warnings = Vec::new();
    let decoded = codec::decode_as(schema, gvk, data, Format::Json, FieldValidation::Ignore, &mut warnings);
    let Ok(mut o) = decoded else { return };
    let mut cx = Context { namespace: "default".to_owned(), name: "x".to_owned(), ..Context::default() };
    if rules.default(&mut o).is_err() || rules.prepare_create(&mut cx, &mut o).is_err() {
        return;
    }
    let _ = rules.validate(&mut cx, &o);
    let mut old = o.clone();
    for subresource in ["", "status"] {
        let mut cx = Context { updating: true, subresource: subresource.to_owned(), ..cx.clone() };
        let mut new = old.clone();
        let _ = rules.update(&mut cx, &mut new, &mut old, &mut |_, _, _| {});
    }
    let _ = kinds::selectable_fields(r.group, r.resource, &o);
}

/// A live object to be patched.
fn live() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default", "labels": {"a": "b"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}], "env": [{"name": "e"}]}]}}},
    })
}

/// Patches of all kinds but applies.
pub fn patch(data: &[u8]) {
    let live = live();
    let schema = def(KINDS[1]);
    for (kind, schema) in [
        (PatchType::Json, None),
        (PatchType::Json, Some(schema)),
        (PatchType::Merge, Some(schema)),
        (PatchType::Strategic, Some(schema)),
    ] {
        if let Ok(done) = patch::patched(kind, &live, data, schema, Strictness::Strict) {
            let text = done.value.to_string();
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text} cannot be read again");
        }
    }
}

/// Bodies of server-side applies.
pub fn apply(data: &[u8]) {
    let Ok((applied, _)) = patch::apply::parse(data) else { return };
    let reset = patch::fields::Set::of(&[]);
    let writer = patch::apply::Writer {
        def: Some(def(KINDS[1])),
        manager: "fuzz",
        api_version: "apps/v1",
        subresource: "",
        reset: &reset,
        now: "2026-01-01T00:00:00Z",
    };
    let live = live();
    for force in [false, true] {
        if let Ok(o) = patch::apply::apply(Some(&live), &applied, &writer, force) {
            let _ = patch::apply::apply(Some(&o), &applied, &writer, force);
        }
    }
    let _ = patch::apply::apply(None, &applied, &writer, false);
    let mut new = applied;
    patch::apply::track_update(Some(&live), &mut new, &writer);
}

/// What stands in a URL: selectors and options.
pub fn selectors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(s) = labels::Selector::parse(&text) {
        let _ = s.matches(|_| Some("x"));
    }
    if let Ok(s) = fields::Selector::parse(&text) {
        let _ = s.matches(|_| Some("x"));
    }
    let query = Query::parse(Some(&text));
    let _ = ListOptions::parse(&query, false);
    let _ = ListOptions::parse(&query, true);
    for kind in [WriteKind::Create, WriteKind::Update] {
        let _ = WriteOptions::parse(&query, kind);
    }
    let _ = DeleteOptions::from_query(&query);
}

/// Tokens of lists that go on: none leads out of what is listed.
pub fn continue_token(data: &[u8]) {
    let prefix = "/registry/pods/";
    if let Ok(c) = continue_token::decode(&String::from_utf8_lossy(data), prefix) {
        assert!(c.start.starts_with(prefix) && !c.start.contains("/../"), "{c:?}");
    }
    let relative = String::from_utf8_lossy(data);
    let token = continue_token::encode(&format!("{prefix}{relative}"), prefix, 1);
    if let Ok(c) = continue_token::decode(&token, prefix) {
        assert_eq!(c.start, format!("{prefix}{relative}\0"));
    }
}

/// Quantities.
pub fn quantity(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(canonical) = proto::quantity::canonical(&text) else { return };
    // Numbers beyond 64 bits are rounded anew each time they are read.
    if text.len() < 19 {
        assert!(proto::quantity::canonical(&canonical).is_ok_and(|c| c == canonical), "{text}");
    }
    if let Ok(q) = text.parse::<proto::quantity::Quantity>() {
        let _ = (q.value(), q.millis(), q.sign(), q.scaled(-9));
    }
}

/// Expressions of policies and rules: compiled, estimated and run.
pub fn cel(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let env = Env::default().variable("object", DeclType::DYN).with_mutations();
    let Ok(compiled) = cel::compile(&text, &env) else { return };
    let _ = compiled.cost(&DeclType::DYN);
    let Ok(program) = compiled.program() else { return };
    let object = json!({"a": [1, "x", {"a": null}], "x": 1.5, "s": "text"});
    let variables = [("object", cel::Value::from_untyped(&object))];
    if let Ok(v) = program.run(&variables).0 {
        let _ = v.to_json();
    }
}

/// Schemas of custom resources (the first line) and objects of theirs (the second).
pub fn schema(data: &[u8]) {
    let mut lines = data.splitn(2, |b| *b == b'\n');
    let parse = |l: Option<&[u8]>| l.and_then(|l| proto::json::decode_any(l, Strictness::Ignore).ok());
    let Some(props) = parse(lines.next()) else { return };
    let options = SchemaOptions { group: "g.io", version: "v1", kind: "K", preserve_unknown_fields: false };
    let Ok(schema) = Schema::compile(&props.value, options) else { return };
    let _ = (schema.openapi_v2(), schema.openapi_v3(), schema.type_def());
    let Some(o) = parse(lines.next()) else { return };
    let mut o = o.value;
    if schema.decode(&mut o, Malformed::Drop, true).is_err() {
        return;
    }
    schema.default(&mut o);
    let _ = schema.validate(&ValidationCx::default(), &o, None);
    let _ = schema.validate(&ValidationCx::default(), &o, Some(&o.clone()));
}

/// Paths of columns and selectable fields.
pub fn jsonpath(data: &[u8]) {
    if let Ok(p) = jsonpath::Path::parse(&String::from_utf8_lossy(data)) {
        let _ = p.find(&live());
    }
}

/// What a runtime's streaming server sends.
pub fn spdy(data: &[u8]) {
    let mut input = bytes::BytesMut::from(data);
    while let Ok(Some(_)) = spdy::read(&mut input) {}
}

/// What a client sends on a WebSocket (the first half) while the runtime sends SPDY (the second).
pub fn websocket(data: &[u8]) {
    let (client, far) = data.split_at(data.len() / 2);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        let io = tokio::io::join(client, tokio::io::sink());
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        let _ = translate::shuttle(socket, tokio::io::join(far, tokio::io::sink()), streams).await;
    });
}
