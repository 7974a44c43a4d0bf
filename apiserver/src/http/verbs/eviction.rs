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
use crate::registry::write::WriteCx;
use crate::registry::{codec, labels, object, render};
use crate::status::{ApiError, ApiResult, Cause};

/// A budget that remembers more evictions than this waits for its controller.
const MAX_DISRUPTED: usize = 2000;

/// POST of an `Eviction`.
pub async fn create(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(Offer::Plain)?;
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
        raw: false,
        applied: false,
        options: RequestOptions::Write(&options, WriteKind::Create),
        warnings: Vec::new(),
    };
    let attrs = app.registry.attributes(r, &cx, namespace, name, Operation::Create, None);
    app.admission.admit(&attrs, Some(&mut eviction)).await?;
    app.admission.validate(&attrs, Some(&eviction)).await?;
    let warnings = attrs.warnings.take();
    let pod = render::value(r, &app.registry.get(r, namespace, name).await?)?;
    if !object::is_deleting(&pod) && needs_budget(&pod) {
        spend_budget(app, namespace, &pod, delete.dry_run).await?;
    }
    let cx = WriteCx { dry_run: delete.dry_run, ..WriteCx::internal(&LOOPBACK) };
    app.registry.delete(r, &cx, namespace, name, &delete).await?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    let mut answer = respond::meta_object(201, wanted, "v1", "Status", &status);
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

/// Pods that do not run, or run no more, cost no budget.
fn needs_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the budget that covers the pod.
async fn spend_budget(app: &App, namespace: &str, pod: &Value, dry_run: bool) -> ApiResult<()> {
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
        [] => Ok(()),
        [budget] => take(app, r, namespace, budget, pod, dry_run).await,
        _ => Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

async fn take(
    app: &App,
    r: &Resource,
    namespace: &str,
    budget: &Value,
    pod: &Value,
    dry_run: bool,
) -> ApiResult<()> {
    let unhealthy_free = !is_ready(pod) && {
        let text = |p: &str| budget.pointer(p).and_then(Value::as_i64).unwrap_or(0);
        let always =
            budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str) == Some("AlwaysAllow");
        always
            || (text("/status/currentHealthy") >= text("/status/desiredHealthy")
                && text("/status/desiredHealthy") > 0)
    };
    if unhealthy_free {
        return Ok(());
    }
    let mut cx = WriteCx { subresource: "status", dry_run, raw: true, ..WriteCx::internal(&LOOPBACK) };
    let name = object::name(budget).to_owned();
    let pod_name = object::name(pod).to_owned();
    let mut change = |old: Option<&Value>| -> ApiResult<Value> {
        let Some(old) = old else { return Err(ApiError::not_found(r.group, r.resource, &name)) };
        disrupt(old, &name, &pod_name)
    };
    app.registry.update(r, &mut cx, namespace, object::name(budget), false, &mut change).await.map(|_| ())
}

/// The budget after one more disruption, or why there is none to give.
fn disrupt(budget: &Value, name: &str, pod: &str) -> ApiResult<Value> {
    let number = |p: &str| budget.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let cause =
        |message: String| Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            10,
        )
        .with_causes(vec![cause(format!(
            "The disruption budget {name} is still being processed by the server."
        ))]));
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
        return Err(ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            0,
        )
        .with_causes(vec![cause(format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        ))]));
    }
    let mut new = budget.clone();
    let status = object::child_mut(object::root_mut(&mut new), "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    object::child_mut(status, "disruptedPods").insert(pod.to_owned(), json!(object::now()));
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let b = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        let after = disrupt(&b, "b", "p").expect("allowed");
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert!(after["status"]["disruptedPods"]["p"].is_string());
        let e = disrupt(&after, "b", "q").expect_err("spent");
        assert_eq!(
            (e.code, e.message.as_str()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        let behind = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1}});
        assert_eq!(disrupt(&behind, "b", "p").expect_err("behind").code, 429);
    }
}
