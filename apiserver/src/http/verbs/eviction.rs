//! `pods/eviction`: a delete that disruption budgets may refuse.

use serde_json::{Value, json};

use crate::admission::{Operation, RequestOptions};
use crate::app::App;
use crate::http::negotiate::{self, Offer};
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::registry::objects::LOOPBACK;
use crate::registry::options::{DeleteOptions, ListOptions, WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::select::Filter;
use crate::registry::touch::Fields;
use crate::registry::write::WriteCx;
use crate::registry::{codec, labels, object, render};
use crate::status::{ApiError, ApiResult, Cause};

/// A budget that remembers more evictions than this waits for its controller.
const MAX_DISRUPTED: usize = 2000;

/// What is said of a pod that is evicted.
const DISRUPTED: Fields = Fields { read: &["metadata.uid"], changed: &["status.conditions"] };

/// What an eviction costs a budget.
const SPENT: Fields = Fields {
    read: &[
        "metadata.generation",
        "status.observedGeneration",
        "status.currentHealthy",
        "status.desiredHealthy",
    ],
    changed: &["status.disruptionsAllowed", "status.disruptedPods"],
};

/// How often an eviction that needs no budget is tried again when others write the pod.
const ATTEMPTS: usize = 20;

/// POST of an `Eviction`.
pub async fn create(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(Offer::Metadata)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Create)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let gvk = ("policy", "v1", "Eviction");
    let schema = proto::schema::by_gvk(gvk.0, gvk.1, gvk.2)
        .ok_or_else(|| ApiError::internal("the type table has no Eviction"))?;
    let body = call.read_body().await?;
    let mut eviction =
        codec::decode_as(schema, gvk, &body, format, options.field_validation, &mut call.warnings)?;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    if object::name(&eviction) != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete = match eviction.get("deleteOptions") {
        Some(v) if !v.is_null() => DeleteOptions::from_value(v)?,
        _ => DeleteOptions::default(),
    };
    delete.dry_run |= options.dry_run;
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: "eviction",
        dry_run: delete.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Write(&options, WriteKind::Create),
        warnings: Vec::new(),
    };
    let attrs = app.registry.attributes(r, &cx, namespace, name, Operation::Create, None);
    app.admission.admit(&attrs, Some(&mut eviction)).await?;
    app.admission.validate(&attrs, Some(&eviction)).await?;
    let warnings = attrs.warnings.take();
    evict(app, r, namespace, name, &delete).await?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    let mut answer = respond::meta_object(201, wanted, "v1", "Status", &status);
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

/// Deletes the pod, if its budget lets it.
async fn evict(
    app: &App,
    r: &Resource,
    namespace: &str,
    name: &str,
    delete: &DeleteOptions,
) -> ApiResult<()> {
    let pinned = delete.resource_version.is_some();
    let mut attempts = 1;
    let pod = loop {
        let pod = render::value(r, &app.registry.get(r, namespace, name).await?)?;
        if needs_budget(&pod) {
            break pod;
        }
        let mut options = delete.clone();
        if !pinned && !is_over(&pod) {
            // It must not become a running pod, which would need a budget, before it is deleted.
            options.resource_version = Some(object::resource_version(&pod).to_owned());
        }
        match disrupt_and_delete(app, r, namespace, name, options).await {
            Err(e) if e.code == 409 && !pinned && attempts < ATTEMPTS => attempts += 1,
            done => return done,
        }
    };
    let unhealthy = spend_budget(app, namespace, &pod, delete.dry_run).await?;
    let mut options = delete.clone();
    if unhealthy.is_some() {
        // It must not become healthy, which would cost budget, before it is deleted.
        options.resource_version = Some(object::resource_version(&pod).to_owned());
    }
    match (disrupt_and_delete(app, r, namespace, name, options).await, unhealthy) {
        (Err(e), Some(budget)) if e.code == 409 && !pinned => Err(still_processed(&budget)),
        (done, _) => done,
    }
}

/// Says on the pod why it goes, which the controllers that count failures look at, and deletes it.
async fn disrupt_and_delete(
    app: &App,
    r: &Resource,
    namespace: &str,
    name: &str,
    mut options: DeleteOptions,
) -> ApiResult<()> {
    if !options.dry_run {
        let mut change = |pod: &mut Value| -> ApiResult<()> {
            check_preconditions(&options, name, pod)?;
            mark_disrupted(pod);
            Ok(())
        };
        let revision = app.registry.touch(r, (namespace, name), &DISRUPTED, false, &mut change).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(revision.to_string());
        }
    }
    let cx = WriteCx { dry_run: options.dry_run, ..WriteCx::internal(&LOOPBACK) };
    app.registry.delete(r, &cx, namespace, name, &options).await.map(|_| ())
}

fn check_preconditions(options: &DeleteOptions, name: &str, pod: &Value) -> ApiResult<()> {
    let check = |what: &str, wanted: &Option<String>, actual: &str, so: &str| match wanted.as_deref() {
        Some(w) if !w.is_empty() && w != actual => Err(ApiError::conflict(
            "",
            "Pod",
            name,
            format!(
                "the {what} in the precondition ({w}) does not match the {what} in record ({actual}). {so}"
            ),
        )),
        _ => Ok(()),
    };
    let recreated = "The object might have been deleted and then recreated";
    check("UID", &options.uid, object::uid(pod), recreated)?;
    let modified = "The object might have been modified";
    check("ResourceVersion", &options.resource_version, object::resource_version(pod), modified)
}

/// Sets the condition `DisruptionTarget`.
fn mark_disrupted(pod: &mut Value) {
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": object::now(),
    });
    let status = object::child_mut(object::root_mut(pod), "status");
    let conditions = status.entry("conditions").and_modify(or_list).or_insert_with(|| json!([]));
    let Value::Array(all) = conditions else { return };
    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(c) => {
            if c["status"] == condition["status"] {
                condition["lastTransitionTime"] = c["lastTransitionTime"].take();
            }
            *c = condition;
        }
        None => all.push(condition),
    }
}

fn or_list(v: &mut Value) {
    if !v.is_array() {
        *v = json!([]);
    }
}

fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

/// Pods that do not run, or run no more, cost no budget.
fn needs_budget(pod: &Value) -> bool {
    !is_over(pod) && phase(pod) != "Pending"
}

/// The pod will not run again.
fn is_over(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the budget that covers the pod. Returns the budget's name where the pod costs nothing as
/// it is not healthy.
async fn spend_budget(app: &App, namespace: &str, pod: &Value, dry_run: bool) -> ApiResult<Option<String>> {
    let table = app.registry.table();
    let r = table
        .get("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| ApiError::internal("poddisruptionbudgets are not served"))?;
    let page = app.registry.list(r, namespace, &ListOptions::default(), &Filter::default()).await?;
    let pod_labels = object::meta(pod).get("labels").and_then(Value::as_object);
    let mut covering = Vec::new();
    for s in &page.items {
        let budget = render::value(r, s)?;
        let selector = budget.pointer("/spec/selector").and_then(labels::Selector::from_value);
        if selector.is_some_and(|s| s.matches(|k| pod_labels.and_then(|l| l.get(k)).and_then(Value::as_str)))
        {
            covering.push(budget);
        }
    }
    match covering.as_slice() {
        [] => Ok(None),
        [budget] if is_free(budget, pod) => Ok(Some(object::name(budget).to_owned())),
        [budget] => take(app, r, namespace, budget, pod, dry_run).await.map(|()| None),
        _ => Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

/// Whether the pod is no loss: it is not ready, and the budget says that such pods go freely, always or while enough
/// others are healthy.
fn is_free(budget: &Value, pod: &Value) -> bool {
    let number = |p: &str| budget.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let always =
        budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str) == Some("AlwaysAllow");
    let (current, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    !is_ready(pod) && (always || (current >= desired && desired > 0))
}

async fn take(
    app: &App,
    r: &Resource,
    namespace: &str,
    budget: &Value,
    pod: &Value,
    dry_run: bool,
) -> ApiResult<()> {
    let (name, pod) = (object::name(budget), object::name(pod));
    let mut change = |budget: &mut Value| disrupt(budget, name, pod);
    app.registry.touch(r, (namespace, name), &SPENT, dry_run, &mut change).await.map(|_| ())
}

fn refused(retry_after_seconds: u32, message: String) -> ApiError {
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
    let what = "Cannot evict pod as it would violate the pod's disruption budget.";
    ApiError::too_many_requests(what, retry_after_seconds).with_causes(vec![cause])
}

fn still_processed(budget: &str) -> ApiError {
    refused(10, format!("The disruption budget {budget} is still being processed by the server."))
}

/// Takes one more disruption from the budget, or says why there is none to give.
fn disrupt(budget: &mut Value, name: &str, pod: &str) -> ApiResult<()> {
    let number = |p: &str| budget.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(still_processed(name));
    }
    let allowed = number("/status/disruptionsAllowed");
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |m| m.len());
    if allowed < 0 || disrupted > MAX_DISRUPTED {
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudgets",
            name,
            "pdb disruptions allowed is negative or DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let healthy = number("/status/currentHealthy");
        let desired = number("/status/desiredHealthy");
        let why =
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(refused(0, why));
    }
    let status = object::child_mut(object::root_mut(budget), "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    object::child_mut(status, "disruptedPods").insert(pod.to_owned(), json!(object::now()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_say_why_they_go() {
        let mut pod = json!({"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        mark_disrupted(&mut pod);
        let c = pod["status"]["conditions"][1].clone();
        assert_eq!((&c["type"], &c["reason"]), (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI")));
        pod["status"]["conditions"][1]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        mark_disrupted(&mut pod);
        let conditions = pod["status"]["conditions"].as_array().expect("conditions");
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions[1]["lastTransitionTime"], "2020-01-01T00:00:00Z", "it was so before");
        let mut fresh = json!({"metadata": {"name": "p"}});
        mark_disrupted(&mut fresh);
        assert_eq!(fresh["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn preconditions_hold_before_the_pod_is_touched() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}});
        let with = |uid: &str, version: &str| DeleteOptions {
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..DeleteOptions::default()
        };
        assert!(check_preconditions(&with("u", "7"), "p", &pod).is_ok());
        let e = check_preconditions(&with("v", "7"), "p", &pod).expect_err("other uid");
        assert_eq!(
            e.message,
            "Operation cannot be fulfilled on Pod \"p\": the UID in the precondition (v) does not match the UID in \
             record (u). The object might have been deleted and then recreated"
        );
        assert_eq!(check_preconditions(&with("u", "6"), "p", &pod).expect_err("old").code, 409);
    }

    #[test]
    fn unhealthy_pods_are_free() {
        let pod = json!({"status": {"phase": "Running"}});
        let budget = |policy: &str, current: i64| {
            json!({"spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"currentHealthy": current, "desiredHealthy": 2}})
        };
        assert!(is_free(&budget("AlwaysAllow", 0), &pod));
        assert!(
            is_free(&budget("IfHealthyBudget", 2), &pod) && !is_free(&budget("IfHealthyBudget", 1), &pod)
        );
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!is_free(&budget("AlwaysAllow", 0), &ready));
    }

    #[test]
    fn budgets() {
        let mut b = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        disrupt(&mut b, "b", "p").expect("allowed");
        assert_eq!(b["status"]["disruptionsAllowed"], 0);
        assert!(b["status"]["disruptedPods"]["p"].is_string());
        let e = disrupt(&mut b, "b", "q").expect_err("spent");
        assert_eq!(
            (e.code, e.message.as_str()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        let mut behind = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1}});
        assert_eq!(disrupt(&mut behind, "b", "p").expect_err("behind").code, 429);
    }
}
