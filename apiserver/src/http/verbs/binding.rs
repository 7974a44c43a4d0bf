//! `pods/binding` and `bindings`: the scheduler's decision where a pod runs.

use serde_json::{Map, Value, json};

use crate::admission::{Operation, RequestOptions};
use crate::app::App;
use crate::field::{Error, ErrorList, Path};
use crate::http::negotiate::{self, Offer};
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::registry::options::{WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::touch::Fields;
use crate::registry::write::WriteCx;
use crate::registry::{codec, object};
use crate::status::{ApiError, ApiResult};

/// What a binding is about.
const BOUND: Fields = Fields {
    read: &["metadata.uid", "metadata.deletionTimestamp", "spec.schedulingGates"],
    changed: &[
        "metadata.labels",
        "metadata.annotations",
        "spec.nodeName",
        "status.conditions",
        "status.nominatedNodeName",
    ],
};

/// POST of a `Binding`.
pub async fn create(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(Offer::Metadata)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Create)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let gvk = ("", "v1", "Binding");
    let schema = proto::schema::by_gvk(gvk.0, gvk.1, gvk.2)
        .ok_or_else(|| ApiError::internal("the type table has no Binding"))?;
    let body = call.read_body().await?;
    let mut binding =
        codec::decode_as(schema, gvk, &body, format, options.field_validation, &mut call.warnings)?;
    let namespace = call.info.namespace.as_str();
    let sent = object::namespace(&binding);
    if !sent.is_empty() && sent != namespace {
        return Err(ApiError::bad_request("namespace in URL didn't match namespace in binding"));
    }
    let name = if r.resource == "pods" { call.info.name.clone() } else { object::name(&binding).to_owned() };
    if object::name(&binding) != name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    object::set_meta(&mut binding, "name", &name);
    object::set_meta(&mut binding, "namespace", namespace);
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: if r.resource == "pods" { "binding" } else { "" },
        dry_run: options.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Write(&options, WriteKind::Create),
        warnings: Vec::new(),
    };
    let attrs = app.registry.attributes(r, &cx, namespace, &name, Operation::Create, None);
    app.admission.admit(&attrs, Some(&mut binding)).await?;
    validate(&binding, &name)?;
    app.admission.validate(&attrs, Some(&binding)).await?;
    assign(app, namespace, &name, &binding, options.dry_run).await?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    let mut answer = respond::meta_object(201, wanted, "v1", "Status", &status);
    respond::warn(&mut answer, &attrs.warnings.take());
    Ok(answer)
}

fn validate(binding: &Value, name: &str) -> ApiResult<()> {
    let mut e = ErrorList::new();
    let target = Path::new("target");
    let text = |f: &str| binding.pointer(&format!("/target/{f}")).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("kind"), "" | "Node") {
        e.push(Error::not_supported(&target.child("kind"), text("kind"), &["Node", "<empty>"]));
    }
    if text("name").is_empty() {
        e.push(Error::required(&target.child("name"), ""));
    }
    if e.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Binding", name, &e)) }
}

/// Puts the node into the pod, if the pod has none yet.
async fn assign(app: &App, namespace: &str, name: &str, binding: &Value, dry_run: bool) -> ApiResult<()> {
    let table = app.registry.table();
    let pods = table.get("", "v1", "pods").ok_or_else(|| ApiError::internal("pods are not served"))?;
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
    let refuse = |why: String| ApiError::conflict("", "pods/binding", name, why);
    let mut change = |pod: &mut Value| -> ApiResult<()> {
        let preconditions = [
            ("UID", object::uid(binding), object::uid(pod)),
            ("ResourceVersion", object::resource_version(binding), object::resource_version(pod)),
        ];
        for (what, wanted, there) in preconditions {
            if !wanted.is_empty() && wanted != there {
                return Err(refuse(format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {there}"
                )));
            }
        }
        if object::is_deleting(pod) {
            return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let assigned = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if !assigned.is_empty() {
            return Err(refuse(format!("pod {name} is already assigned to node \"{assigned}\"")));
        }
        let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
        if gates.is_some_and(|g| !g.is_empty()) {
            return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        put_on(pod, node, object::meta(binding));
        Ok(())
    };
    app.registry.touch(pods, (namespace, name), &BOUND, dry_run, &mut change).await.map(|_| ())
}

/// Gives a pod its node, and the labels and annotations that the binding has for it. What was a hint before is over.
fn put_on(pod: &mut Value, node: &str, binding: &Map<String, Value>) {
    object::child_mut(object::root_mut(pod), "spec").insert("nodeName".to_owned(), json!(node));
    for name in ["labels", "annotations"] {
        if let Some(extra) = binding.get(name).and_then(Value::as_object) {
            let own = object::child_mut(object::meta_mut(pod), name);
            own.extend(extra.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    object::child_mut(object::root_mut(pod), "status").remove("nominatedNodeName");
    mark_scheduled(pod);
}

/// Sets the condition `PodScheduled`.
fn mark_scheduled(pod: &mut Value) {
    let status = object::child_mut(object::root_mut(pod), "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let at = list.iter().position(|c| c["type"] == "PodScheduled");
    let fresh = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": object::now()});
    match at {
        Some(i) if list[i]["status"] == "True" => {}
        Some(i) => list[i] = fresh,
        None => list.push(fresh),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_has_what_its_binding_says_and_no_hint() {
        let mut pod = json!({"metadata": {"name": "p", "labels": {"zone": "old", "app": "a"}},
            "status": {"nominatedNodeName": "n0", "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        let binding = json!({"labels": {"zone": "z"}, "annotations": {"by": "me"}});
        put_on(&mut pod, "n1", binding.as_object().expect("an object"));
        let conditions = pod["status"]["conditions"].take();
        assert_eq!(
            pod,
            json!({"metadata": {"name": "p", "labels": {"zone": "z", "app": "a"}, "annotations": {"by": "me"}},
                "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", "conditions": null}})
        );
        assert_eq!((&conditions[0]["status"], &conditions[0]["reason"]), (&json!("True"), &Value::Null));
    }
}
