//! Why an object that was deleted is still there: its finalizers, and who uses or depends on it.

use serde_json::Value;

use super::{deleting, finalizers, key};
use crate::api::resources::{array, text};
use crate::api::rest::Rest;
use crate::print::format::items;

/// What keeps an object.
pub async fn explain(rest: &Rest, o: &Value) -> anyhow::Result<Vec<String>> {
    if !deleting(o) {
        let mut out = vec!["it is not being deleted".to_owned()];
        if text(&o["kind"]) == "PersistentVolumeClaim" && text(&o["status"]["phase"]) == "Pending" {
            out.push("it is not bound to a volume; ctl describe shows what the provisioner says".into());
        }
        return Ok(out);
    }
    let mut out = vec![format!("deletion was asked for at {}", text(&o["metadata"]["deletionTimestamp"]))];
    out.extend(finalizers::lines(o));
    match text(&o["kind"]).as_str() {
        "PersistentVolumeClaim" => out.extend(users_of_claim(rest, o).await?),
        "PersistentVolume" => out.extend(users_of_volume(rest, o).await?),
        "Pod" => out.extend(pod(o)),
        _ => {}
    }
    if out.len() == 1 {
        out.push("nothing blocks it any more: it should be gone in a moment".into());
    }
    Ok(out)
}

fn finished(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]).as_str(), "Succeeded" | "Failed")
}

/// Whether a pod mounts a claim by its name.
fn uses(pod: &Value, claim: &str) -> bool {
    let name = text(&pod["metadata"]["name"]);
    array(&pod["spec"]["volumes"]).iter().any(|v| {
        v["persistentVolumeClaim"]["claimName"].as_str() == Some(claim)
            || (v["ephemeral"].is_object() && format!("{name}-{}", text(&v["name"])) == claim)
    })
}

async fn users_of_claim(rest: &Rest, claim: &Value) -> anyhow::Result<Vec<String>> {
    let (ns, name) = (text(&claim["metadata"]["namespace"]), text(&claim["metadata"]["name"]));
    let pods = items(&rest.get(&format!("/api/v1/namespaces/{ns}/pods")).await?);
    let users = pods.iter().filter(|p| uses(p, &name) && !finished(p));
    Ok(users
        .map(|p| {
            let owner = array(&p["metadata"]["ownerReferences"]).iter().find(|r| r["controller"] == true);
            let by = owner.map(|r| format!(", which {} {} keeps", text(&r["kind"]), text(&r["name"])));
            format!("used by pod {}{}", key(p), by.unwrap_or_default())
        })
        .collect())
}

async fn users_of_volume(rest: &Rest, volume: &Value) -> anyhow::Result<Vec<String>> {
    let name = text(&volume["metadata"]["name"]);
    let mut out = Vec::new();
    let claim = &volume["spec"]["claimRef"];
    if claim.is_object() {
        let (ns, n) = (text(&claim["namespace"]), text(&claim["name"]));
        let pvcs = items(&rest.get(&format!("/api/v1/namespaces/{ns}/persistentvolumeclaims")).await?);
        out.push(match pvcs.iter().find(|c| text(&c["metadata"]["name"]) == n) {
            Some(c) if deleting(c) => {
                format!("bound to claim {ns}/{n}, which is being deleted: ctl why pvc {n} -n {ns}")
            }
            Some(_) => format!("bound to claim {ns}/{n}: delete the claim first"),
            None => format!(
                "released by claim {ns}/{n}, which is gone (reclaim policy {})",
                text(&volume["spec"]["persistentVolumeReclaimPolicy"])
            ),
        });
    }
    let attached = items(&rest.get("/apis/storage.k8s.io/v1/volumeattachments").await?);
    for a in attached.iter().filter(|a| text(&a["spec"]["source"]["persistentVolumeName"]) == name) {
        let node = text(&a["spec"]["nodeName"]);
        out.push(format!("attached to node {node} (volumeattachment {})", text(&a["metadata"]["name"])));
    }
    Ok(out)
}

fn pod(o: &Value) -> Vec<String> {
    let node = text(&o["spec"]["nodeName"]);
    if node.is_empty() || finished(o) {
        return Vec::new();
    }
    let grace = o["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    vec![format!(
        "the kubelet of node {node} has to stop its containers ({grace} s of grace) and to confirm; if the node is \
         lost for good, ctl delete pod {} --force --grace-period=0",
        text(&o["metadata"]["name"])
    )]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_used_by_name_and_by_ephemeral_volumes() {
        let p = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}]}});
        assert!(uses(&p, "data") && uses(&p, "p-b"));
        assert!(!uses(&p, "p-a") && !uses(&p, ""));
    }
}
