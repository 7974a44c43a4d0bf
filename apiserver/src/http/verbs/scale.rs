//! The `scale` subresource: an `autoscaling/v1` `Scale` as a view of the workload's replicas.

use proto::schema::TypeRef;
use serde_json::{Value, json};

use super::{answer_virtual, manager};
use crate::admission::RequestOptions;
use crate::app::App;
use crate::crd::schema::{ScalePaths, follow};
use crate::field::{Error, ErrorList, Path};
use crate::http::negotiate::{self, Shape};
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::patch::PatchType;
use crate::patch::view::Shared;
use crate::registry::options::{WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::write::WriteCx;
use crate::registry::{codec, managed, method_not_allowed, object, patching, render};
use crate::status::{ApiError, ApiResult};
use crate::table::{self, Include};

const GVK: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

/// Stands for replicas that are not there, which a change must set.
const UNSET: i64 = i32::MIN as i64;

/// Where a resource has what a `Scale` shows.
enum Places<'r> {
    /// A workload: `spec.replicas`, `status.replicas`, `spec.selector`.
    Workload,
    /// Where the definition of a custom resource says.
    Paths(&'r ScalePaths),
}

impl<'r> Places<'r> {
    fn of(r: &'r Resource) -> Self {
        match r.custom.as_ref().and_then(|c| c.version().scale.as_ref()) {
            Some(p) => Self::Paths(p),
            None => Self::Workload,
        }
    }

    /// The view of an object; [`UNSET`] where it has no replicas in its spec.
    fn view(&self, o: &Value) -> ApiResult<Value> {
        let Self::Paths(p) = self else { return Ok(view(o)) };
        let find = |path: &str| follow(o, path).map_err(ApiError::internal);
        let replicas = |path: &str| match find(path)? {
            None => Ok(None),
            Some(v) => v.as_i64().map(Some).ok_or_else(|| {
                ApiError::internal(format!("{path} accessor error: {v} is not of the type int64"))
            }),
        };
        let selector = match p.label_selector.as_str() {
            "" => "",
            path => find(path)?.and_then(Value::as_str).unwrap_or_default(),
        };
        let (spec, status) = (replicas(&p.spec_replicas)?, replicas(&p.status_replicas)?);
        Ok(scale(o, spec.unwrap_or(UNSET), status.unwrap_or(0), selector))
    }

    /// The view as it is answered.
    fn shown(&self, o: &Value) -> ApiResult<Value> {
        let scale = self.view(o)?;
        match self {
            Self::Paths(p) if scale["spec"]["replicas"] == UNSET => {
                let path = &p.spec_replicas;
                Err(ApiError::internal(format!("the spec replicas field {path:?} does not exist")))
            }
            _ => Ok(scale),
        }
    }

    /// Where the replicas are, as managed fields name it.
    fn path(&self) -> Vec<String> {
        let path = match self {
            Self::Workload => ".spec.replicas",
            Self::Paths(p) => p.spec_replicas.as_str(),
        };
        path.strip_prefix('.').unwrap_or(path).split('.').map(|f| format!("f:{f}")).collect()
    }

    fn set(&self, o: &mut Value, replicas: i64) -> ApiResult<()> {
        let path = match self {
            Self::Workload => ".spec.replicas",
            Self::Paths(p) if replicas == UNSET => {
                let path = &p.spec_replicas;
                return Err(ApiError::bad_request(format!(
                    "the spec replicas field {path:?} cannot be empty"
                )));
            }
            Self::Paths(p) => p.spec_replicas.as_str(),
        };
        let mut fields: Vec<&str> = path.strip_prefix('.').unwrap_or(path).split('.').collect();
        let Some(last) = fields.pop() else { return Ok(()) };
        let mut at = object::root_mut(o);
        for f in fields {
            at = object::child_mut(at, f);
        }
        at.insert(last.to_owned(), replicas.into());
        Ok(())
    }
}

/// The `Scale` that shows an object, in the version that handlers work on.
pub fn of_object(r: &Resource, o: &Value) -> ApiResult<Value> {
    Places::of(r).view(o)
}

/// Brings the replicas of a `Scale` into the object that it shows.
pub fn into_object(r: &Resource, o: &mut Value, scale: &Value) -> ApiResult<()> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    Places::of(r).set(o, replicas)
}

/// The view of a workload.
fn view(o: &Value) -> Value {
    let replicas = |p: &str| o.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let selector = selector_text(o.pointer("/spec/selector"));
    scale(o, replicas("/spec/replicas"), replicas("/status/replicas"), &selector)
}

fn scale(o: &Value, spec: i64, status: i64, selector: &str) -> Value {
    let mut meta = serde_json::Map::new();
    for f in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = object::meta(o).get(f) {
            meta.insert(f.to_owned(), v.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": spec},
        "status": {"replicas": status},
    });
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A selector in its text form: a plain map (replication controllers) or a `LabelSelector`.
fn selector_text(s: Option<&Value>) -> String {
    let Some(s) = s.and_then(Value::as_object) else { return String::new() };
    let typed = s.contains_key("matchLabels") || s.contains_key("matchExpressions");
    let labels = if typed { s.get("matchLabels").and_then(Value::as_object) } else { Some(s) };
    let mut parts: Vec<(String, String)> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    let expressions = s.get("matchExpressions").and_then(Value::as_array).filter(|_| typed);
    for e in expressions.into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match e["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), text));
    }
    // Those of one key stay as they came.
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(",")
}

/// GET, PUT and PATCH.
pub async fn answer(app: &App, mut call: Call<'_>, r: &Resource, verb: &str) -> ApiResult<Response> {
    let schema = proto::schema::by_gvk(GVK.0, GVK.1, GVK.2)
        .ok_or_else(|| ApiError::internal("the type table has no Scale"))?;
    let wanted = call.wanted(super::offer(r, ""))?;
    let include = Include::parse(&call.query, wanted)?;
    let given = |scale: &Value, warnings: &[String]| match wanted.shape {
        Shape::Table { beta } => {
            let table = table::of_scale(scale, r.custom.is_some(), beta, include);
            let mut answer = respond::json(200, wanted, &table);
            respond::warn(&mut answer, warnings);
            Ok(answer)
        }
        _ => answer_virtual(schema, "autoscaling/v1", "Scale", 200, wanted, scale, warnings),
    };
    let namespace = if r.namespaced { call.info.namespace.clone() } else { String::new() };
    let name = call.info.name.clone();
    let places = Places::of(r);
    if verb == "get" {
        let stored = app.registry.get(r, &namespace, &name).await?;
        let scale = places.shown(&render::value(r, &stored)?)?;
        return given(&scale, &[]);
    }
    let (sent, patch, options, write_kind) = match verb {
        "update" => {
            let options = WriteOptions::parse(&call.query, WriteKind::Update)?;
            let format = negotiate::content_type(&call.parts.headers)?;
            let body = call.read_body().await?;
            let o =
                codec::decode_as(schema, GVK, &body, format, options.field_validation, &mut call.warnings)?;
            if object::name(&o) != name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({name})",
                    object::name(&o)
                )));
            }
            (Some(o), None, options, WriteKind::Update)
        }
        "patch" => {
            let kind = patching::kind_of(&call.parts.headers)?;
            let apply = kind == PatchType::Apply;
            let write_kind = WriteKind::Patch { apply };
            let options = WriteOptions::parse(&call.query, write_kind)?;
            let body = call.read_body().await?;
            let patch = patching::Patch::parse_as(TypeRef::Static(schema), GVK, kind, body, &options)?;
            (None, Some(patch), options, write_kind)
        }
        _ => return Err(method_not_allowed()),
    };
    let manager = manager(&call, &options);
    let mut cx = WriteCx {
        user: &call.user,
        manager: &manager,
        subresource: "scale",
        dry_run: options.dry_run,
        internal: false,
        // Who owns what is carried over from the view.
        applied: true,
        options: RequestOptions::Write(&options, write_kind),
        warnings: std::mem::take(&mut call.warnings),
    };
    let applied = patch.as_ref().is_some_and(|p| p.kind == PatchType::Apply);
    let mut told = Vec::new();
    let mut change = |old: Option<&Value>| -> ApiResult<Value> {
        let Some(old) = old else { return Err(ApiError::not_found(r.group, r.resource, &name)) };
        let mut current = places.view(old)?;
        let path = places.path();
        let api_version = r.api_version();
        let shared = Shared {
            path: &path,
            shown: &["f:spec".to_owned(), "f:replicas".to_owned()],
            api_version: &api_version,
            view_version: "autoscaling/v1",
        };
        shared.show(old, &mut current);
        told.clear();
        let mut scale = match (&sent, &patch) {
            (Some(s), _) => s.clone(),
            (None, Some(p)) => p.apply_to_view(&current, (&manager, "scale"), &mut told)?,
            (None, None) => current.clone(),
        };
        if !applied {
            managed::on_view(schema, "autoscaling/v1", ("scale", &manager), Some(&current), &mut scale);
        }
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 && replicas != UNSET {
            let mut e = ErrorList::new();
            let p = Path::new("spec").child("replicas");
            e.push(Error::invalid(&p, replicas, "must be greater than or equal to 0"));
            return Err(ApiError::invalid(GVK.0, GVK.2, &name, &e));
        }
        let mut new = old.clone();
        places.set(&mut new, replicas)?;
        shared.carry_back(&mut new, &scale);
        let version = object::resource_version(&scale).to_owned();
        object::set_meta(&mut new, "resourceVersion", &version);
        if !object::uid(&scale).is_empty() {
            let uid = object::uid(&scale).to_owned();
            object::set_meta(&mut new, "uid", &uid);
        }
        Ok(new)
    };
    let done = app.registry.update(r, &mut cx, &namespace, &call.info.name, false, &mut change).await?;
    let mut warnings = cx.warnings;
    warnings.append(&mut told);
    let scale = places.shown(&render::value(r, &done.stored)?)?;
    given(&scale, &warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_replicas_and_selector() {
        let d = json!({
            "metadata": {"name": "d", "resourceVersion": "4", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["z", "y"]}, {"key": "d", "operator": "Exists"}]}},
            "status": {"replicas": 2},
        });
        let s = view(&d);
        assert_eq!(s["status"], json!({"replicas": 2, "selector": "a=1,b=2,c in (y,z),d"}));
        assert_eq!(s["metadata"], json!({"name": "d", "resourceVersion": "4"}));
        assert_eq!(selector_text(Some(&json!({"app": "x"}))), "app=x");
    }
}
