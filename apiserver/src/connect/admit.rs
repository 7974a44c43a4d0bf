//! Admission of connections: the options that the query carries are the object (`PodExecOptions` and the like).

use serde_json::{Map, Value};

use crate::admission::{Attributes, Operation};
use crate::app::App;
use crate::http::query::Query;
use crate::http::router::Call;
use crate::registry::resource::{Resource, api_version};
use crate::registry::write::WriteCx;
use crate::status::{ApiError, ApiResult};

/// Lets admission change or refuse a connection.
pub async fn admit(app: &App, call: &mut Call<'_>, r: &Resource) -> ApiResult<()> {
    let Some(sub) = r.subresource(&call.info.subresource) else { return Ok(()) };
    let version = if sub.kind.version.is_empty() { r.version } else { sub.kind.version };
    let asked = options(call);
    let mut o = asked.clone();
    o.insert("kind".to_owned(), sub.kind.kind.into());
    o.insert("apiVersion".to_owned(), api_version(sub.kind.group, version).into());
    let mut o = Value::Object(o);
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: &call.info.subresource,
        dry_run: false,
        internal: false,
        applied: false,
        options: Default::default(),
        warnings: Vec::new(),
    };
    let namespace = if r.namespaced { call.info.namespace.as_str() } else { "" };
    let attrs = app.registry.attributes(r, &cx, namespace, &call.info.name, Operation::Connect, None);
    let attrs = Attributes { kind: sub.kind.kind, ..attrs };
    app.admission.admit(&attrs, Some(&mut o)).await?;
    app.admission.validate(&attrs, Some(&o)).await?;
    if let Some(changed) = o.as_object_mut() {
        changed.remove("kind");
        changed.remove("apiVersion");
        if *changed != asked {
            call.query = query(changed)?;
        }
    }
    Ok(())
}

/// The options of a request.
fn options(call: &Call<'_>) -> Map<String, Value> {
    let mut m = Map::new();
    let q = &call.query;
    match call.info.subresource.as_str() {
        "portforward" => {
            let ports: Vec<Value> = q
                .all("ports")
                .flat_map(|p| p.split(','))
                .filter_map(|p| p.parse::<i64>().ok())
                .map(Value::from)
                .collect();
            if !ports.is_empty() {
                m.insert("ports".to_owned(), ports.into());
            }
        }
        "proxy" => {
            let path = call.info.parts.get(3..).unwrap_or_default().join("/");
            if !path.is_empty() {
                m.insert("path".to_owned(), format!("/{path}").into());
            }
        }
        _ => {
            for f in ["stdin", "stdout", "stderr", "tty"] {
                if q.flag(f) {
                    m.insert(f.to_owned(), true.into());
                }
            }
            if let Some(c) = q.get("container").filter(|c| !c.is_empty()) {
                m.insert("container".to_owned(), c.into());
            }
            let command: Vec<Value> = q.all("command").map(Value::from).collect();
            if !command.is_empty() {
                m.insert("command".to_owned(), command.into());
            }
        }
    }
    m
}

/// The query that asks for what admission made of the options.
fn query(options: &Map<String, Value>) -> ApiResult<Query> {
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for (k, v) in options {
        match v {
            Value::Array(list) => {
                for v in list {
                    out.append_pair(k, v.as_str().unwrap_or(&v.to_string()));
                }
            }
            Value::String(_) if k == "path" => {
                return Err(ApiError::internal("admission may not change the path of a proxied request"));
            }
            Value::String(s) => {
                out.append_pair(k, s);
            }
            other => {
                out.append_pair(k, &other.to_string());
            }
        }
    }
    Ok(Query::parse(Some(&out.finish())))
}
