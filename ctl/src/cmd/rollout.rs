//! `ctl rollout`: the course of a deployment, daemon set or stateful set.

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::args::{Files, Found, Select, find};
use super::write::FIELD_MANAGER;
use crate::api::resources::{Catalog, array, text};
use crate::api::rest::{Rest, query};
use crate::print::format::items;

#[derive(Debug, clap::Args)]
pub struct Rollout {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// TYPE NAME, or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Follow a rollout to its end
    Status {
        #[command(flatten)]
        which: Which,
        /// Follow it, or just say how it stands
        #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
        watch: bool,
        /// How long to wait; 0 is for ever
        #[arg(long, default_value = "0")]
        timeout: component_base::duration::GoDuration,
    },
    /// Show earlier revisions
    History {
        #[command(flatten)]
        which: Which,
        /// Show this revision's pod template
        #[arg(long)]
        revision: Option<i64>,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        which: Which,
        /// The revision; by default the one before
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Stop rolling out changes
    Pause(Which),
    /// Roll out changes again
    Resume(Which),
    /// Replace every pod by a new one
    Restart(Which),
}

/// Annotation that holds a revision's number.
const REVISION: &str = "deployment.kubernetes.io/revision";

impl Rollout {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let which = match &self.what {
            What::Status { which, .. } | What::History { which, .. } | What::Undo { which, .. } => which,
            What::Pause(w) | What::Resume(w) | What::Restart(w) => w,
        };
        let select = Select { selector: which.selector.clone(), ..Select::default() };
        let found = find(rest, &catalog, &which.files, &which.words, &select, false).await?;
        for f in found {
            match &self.what {
                What::Status { watch, timeout, .. } => status(rest, f, *watch, timeout.0).await?,
                What::History { revision, .. } => history(rest, &f, *revision).await?,
                What::Undo { to_revision, .. } => undo(rest, &f, *to_revision).await?,
                What::Pause(_) => pause(rest, &f, true).await?,
                What::Resume(_) => pause(rest, &f, false).await?,
                What::Restart(_) => restart(rest, &f).await?,
            }
        }
        Ok(())
    }
}

/// How a rollout stands, in kubectl's words; `true` when it is done.
fn progress(kind: &str, name: &str, o: &Value) -> anyhow::Result<(String, bool)> {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    let (spec, status) = (&o["spec"], &o["status"]);
    if n(&o["metadata"]["generation"]) > n(&status["observedGeneration"]) {
        return Ok((
            format!("Waiting for {} spec update to be observed...", kind.to_ascii_lowercase()),
            false,
        ));
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    Ok(match kind {
        "Deployment" => {
            let stuck = array(&status["conditions"])
                .iter()
                .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
            if stuck {
                bail!("deployment \"{name}\" exceeded its progress deadline");
            }
            let (updated, all, available) =
                (n(&status["updatedReplicas"]), n(&status["replicas"]), n(&status["availableReplicas"]));
            if updated < wanted {
                (
                    format!(
                        "Waiting for deployment \"{name}\" rollout to finish: {updated} out of {wanted} new replicas have been updated..."
                    ),
                    false,
                )
            } else if all > updated {
                (
                    format!(
                        "Waiting for deployment \"{name}\" rollout to finish: {} old replicas are pending termination...",
                        all - updated
                    ),
                    false,
                )
            } else if available < updated {
                (
                    format!(
                        "Waiting for deployment \"{name}\" rollout to finish: {available} of {updated} updated replicas are available..."
                    ),
                    false,
                )
            } else {
                (format!("deployment \"{name}\" successfully rolled out"), true)
            }
        }
        "DaemonSet" => {
            let (updated, wanted, available) = (
                n(&status["updatedNumberScheduled"]),
                n(&status["desiredNumberScheduled"]),
                n(&status["numberAvailable"]),
            );
            if updated < wanted {
                (
                    format!(
                        "Waiting for daemon set \"{name}\" rollout to finish: {updated} out of {wanted} new pods have been updated..."
                    ),
                    false,
                )
            } else if available < wanted {
                (
                    format!(
                        "Waiting for daemon set \"{name}\" rollout to finish: {available} of {wanted} updated pods are available..."
                    ),
                    false,
                )
            } else {
                (format!("daemon set \"{name}\" successfully rolled out"), true)
            }
        }
        "StatefulSet" => {
            let (ready, updated) = (n(&status["readyReplicas"]), n(&status["updatedReplicas"]));
            if ready < wanted {
                (format!("Waiting for {} pods to be ready...", wanted - ready), false)
            } else if status["updateRevision"] != status["currentRevision"] {
                (
                    format!(
                        "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                        text(&status["updateRevision"])
                    ),
                    false,
                )
            } else {
                (
                    format!(
                        "statefulset rolling update complete {} pods at revision {}...",
                        n(&status["currentReplicas"]),
                        text(&status["currentRevision"])
                    ),
                    true,
                )
            }
        }
        other => bail!("no status viewer has been implemented for {other}"),
    })
}

async fn status(rest: &Rest, f: Found, watch: bool, timeout: std::time::Duration) -> anyhow::Result<()> {
    use futures::{StreamExt, pin_mut};
    let (text_now, mut done) = progress(&f.resource.kind, &f.name, &f.object)?;
    println!("{text_now}");
    if done || !watch {
        return Ok(());
    }
    let follow = async {
        let version = text(&f.object["metadata"]["resourceVersion"]);
        let path = f.resource.path(f.namespace.as_deref(), None);
        let selector = query(&format!("metadata.name={}", f.name));
        let lines = rest
            .lines(
                &format!("{path}?watch=true&fieldSelector={selector}&resourceVersion={version}"),
                Default::default(),
            )
            .await?;
        pin_mut!(lines);
        let mut last = text_now;
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_slice(&line?)?;
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => {}
                Some("DELETED") => bail!("object has been deleted"),
                Some("ERROR") => bail!("{}", text(&event["object"]["message"])),
                _ => continue,
            }
            let (now, finished) = progress(&f.resource.kind, &f.name, &event["object"])?;
            if now != last {
                println!("{now}");
                last = now;
            }
            if finished {
                done = true;
                return Ok(());
            }
        }
        bail!("the watch ended before the rollout did; run the command again")
    };
    if timeout.is_zero() {
        return follow.await;
    }
    tokio::time::timeout(timeout, follow).await.context("timed out waiting for the condition")?
}

/// Revisions of a deployment (replica sets), daemon set or stateful set (controller revisions): number and object.
async fn revisions(rest: &Rest, f: &Found) -> anyhow::Result<Vec<(i64, Value)>> {
    let resource = if f.resource.kind == "Deployment" { "replicasets" } else { "controllerrevisions" };
    if !matches!(f.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
        bail!("no history viewer has been implemented for {}", f.resource.kind);
    }
    let namespace = f.namespace.as_deref().unwrap_or_default();
    let selector = crate::print::table::labels(&f.object["spec"]["selector"]["matchLabels"]);
    let filter =
        if selector == "<none>" { String::new() } else { format!("?labelSelector={}", query(&selector)) };
    let list = rest.get(&format!("/apis/apps/v1/namespaces/{namespace}/{resource}{filter}")).await?;
    let uid = &f.object["metadata"]["uid"];
    let mut out: Vec<(i64, Value)> = items(&list)
        .into_iter()
        .filter(|o| array(&o["metadata"]["ownerReferences"]).iter().any(|r| r["uid"] == *uid))
        .map(|o| {
            let number = if f.resource.kind == "Deployment" {
                text(&o["metadata"]["annotations"][REVISION]).parse().unwrap_or(0)
            } else {
                o["revision"].as_i64().unwrap_or(0)
            };
            (number, o)
        })
        .collect();
    out.sort_by_key(|(n, _)| *n);
    Ok(out)
}

async fn history(rest: &Rest, f: &Found, revision: Option<i64>) -> anyhow::Result<()> {
    let all = revisions(rest, f).await?;
    let cause = |o: &Value| {
        let c = text(&o["metadata"]["annotations"]["kubernetes.io/change-cause"]);
        if c.is_empty() { "<none>".to_owned() } else { c }
    };
    if let Some(wanted) = revision {
        let (_, o) =
            all.iter().find(|(n, _)| *n == wanted).context("unable to find the specified revision")?;
        let template = if o["spec"]["template"].is_object() {
            &o["spec"]["template"]
        } else {
            &o["data"]["spec"]["template"]
        };
        println!("{} with revision #{wanted}", f.display());
        print!("{}", component_base::yaml::to_string(&json!({"Pod Template": template})));
        return Ok(());
    }
    println!("{} ", f.display());
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    rows.extend(all.iter().map(|(n, o)| vec![n.to_string(), cause(o)]));
    println!("{}", crate::print::table::align(&rows, 2));
    Ok(())
}

async fn undo(rest: &Rest, f: &Found, to: i64) -> anyhow::Result<()> {
    if f.object["spec"]["paused"] == true {
        bail!("cannot rollback a paused deployment; resume it first with 'ctl rollout resume' and try again");
    }
    let all = revisions(rest, f).await?;
    let target = if to > 0 {
        all.iter()
            .find(|(n, _)| *n == to)
            .with_context(|| format!("unable to find specified revision {to} in history"))?
    } else {
        all.len().checked_sub(2).and_then(|i| all.get(i)).context("no rollout history found")?
    };
    if all.last().is_some_and(|(n, _)| *n == target.0) {
        println!("{} skipped rollback (current template already matches revision {})", f.display(), target.0);
        return Ok(());
    }
    if f.resource.kind == "Deployment" {
        let mut template = target.1["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
        rest.patch(&format!("{}?fieldManager={FIELD_MANAGER}", f.path()), "json", &patch).await?;
    } else {
        // A controller revision's data is itself a strategic merge patch of the template.
        rest.patch(
            &format!("{}?fieldManager={FIELD_MANAGER}", f.path()),
            "strategic-merge",
            &target.1["data"],
        )
        .await?;
    }
    println!("{} rolled back", f.display());
    Ok(())
}

async fn pause(rest: &Rest, f: &Found, pause: bool) -> anyhow::Result<()> {
    if f.resource.kind != "Deployment" {
        bail!("{} {} is not supported", f.display(), if pause { "pausing" } else { "resuming" });
    }
    if f.object["spec"]["paused"].as_bool().unwrap_or(false) == pause {
        bail!("{} is {}", f.display(), if pause { "already paused" } else { "not paused" });
    }
    rest.patch(
        &format!("{}?fieldManager={FIELD_MANAGER}", f.path()),
        "merge",
        &json!({"spec": {"paused": pause}}),
    )
    .await?;
    println!("{} {}", f.display(), if pause { "paused" } else { "resumed" });
    Ok(())
}

async fn restart(rest: &Rest, f: &Found) -> anyhow::Result<()> {
    if f.object["spec"]["paused"] == true {
        bail!("can't restart paused deployment (run rollout resume first)");
    }
    if !f.object["spec"]["template"].is_object() {
        bail!("{} restarting is not supported", f.display());
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    rest.patch(&format!("{}?fieldManager={FIELD_MANAGER}", f.path()), "strategic-merge", &patch).await?;
    println!("{} restarted", f.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_done_when_all_new_pods_are_available() {
        let d = |updated: i64, all: i64, available: i64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}})
        };
        for (o, words, done) in [
            (d(1, 3, 3), "1 out of 3 new replicas have been updated", false),
            (d(3, 4, 3), "1 old replicas are pending termination", false),
            (d(3, 3, 2), "2 of 3 updated replicas are available", false),
            (d(3, 3, 3), "successfully rolled out", true),
        ] {
            let (text, finished) = progress("Deployment", "x", &o).unwrap();
            assert!(text.contains(words), "{text}");
            assert_eq!(finished, done);
        }
    }
}
