//! API services for the groups of custom resources: one per served version, made and removed as the definitions come
//! and go. They are local; they exist so that discovery has priorities and that others see who serves what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::follow::{self, Change, follow};
use crate::lookup::{self, ObjectWriter, items, text};
use crate::registry::Registry;
use crate::status::ApiResult;

/// Label of the API services that this server looks after.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Groups of custom resources come after all built-in ones.
const GROUP_PRIORITY: i64 = 1000;
const VERSION_PRIORITY: i64 = 100;
/// Before trying again what failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Group and version.
type GroupVersion = (String, String);

/// Runs until `stop`.
pub async fn run(registry: Arc<Registry>, writer: Arc<dyn ObjectWriter>, stop: CancellationToken) {
    let table = registry.table();
    let storage = |g: &str, r: &str| table.any_version(g, r).and_then(|r| r.storage.clone());
    let (Some(definitions), Some(services)) =
        (storage("apiextensions.k8s.io", "customresourcedefinitions"), storage(super::GROUP, "apiservices"))
    else {
        return;
    };
    drop(table);
    let (wanted_tx, mut wanted) = tokio::sync::watch::channel(None);
    let (touched_tx, mut touched) = tokio::sync::watch::channel(());
    let s = Arc::clone(&definitions);
    let mut served: BTreeMap<String, Vec<GroupVersion>> = BTreeMap::new();
    let mut complete = false;
    tokio::spawn(follow(definitions, stop.clone(), move |change| {
        match change {
            Change::Reset => {
                served.clear();
                complete = false;
            }
            Change::Set(o) => {
                if let Ok(v) = follow::decode(&s, o) {
                    served.insert(follow::name(&s, &o.key).to_owned(), versions(&v));
                }
            }
            Change::Gone(o) => {
                served.remove(follow::name(&s, &o.key));
            }
            Change::Synced => complete = true,
        }
        if complete {
            let all: BTreeSet<GroupVersion> = served.values().flatten().cloned().collect();
            wanted_tx.send_if_modified(|old| {
                let differs = old.as_ref() != Some(&all);
                if differs {
                    *old = Some(all);
                }
                differs
            });
        }
    }));
    // Somebody may take one of them away or change it.
    tokio::spawn(follow(services, stop.clone(), move |change| {
        if !matches!(change, Change::Reset) {
            touched_tx.send_replace(());
        }
    }));
    loop {
        let all = wanted.borrow_and_update().clone();
        let failed = match all {
            Some(all) => reconcile(&*writer, &all).await.is_err(),
            None => false,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            more = wanted.changed() => if more.is_err() { return },
            more = touched.changed() => if more.is_err() { return },
            () = tokio::time::sleep(PAUSE), if failed => {}
        }
    }
}

/// The served versions of a definition.
fn versions(definition: &Value) -> Vec<GroupVersion> {
    let group = text(definition, "/spec/group");
    items(definition, "/spec/versions")
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| (group.to_owned(), text(v, "/name").to_owned()))
        .collect()
}

fn object(group: &str, version: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: "true"}},
        "spec": {
            "group": group, "version": version,
            "groupPriorityMinimum": GROUP_PRIORITY, "versionPriority": VERSION_PRIORITY,
        },
    })
}

/// Brings the API services in line with what is wanted. Those that somebody else made are left alone.
async fn reconcile(writer: &dyn ObjectWriter, wanted: &BTreeSet<GroupVersion>) -> ApiResult<()> {
    let existing = writer.list(lookup::API_SERVICES, "").await?;
    let mut result = Ok(());
    for old in &existing {
        let gv = (text(old, "/spec/group").to_owned(), text(old, "/spec/version").to_owned());
        if text(old, &format!("/metadata/labels/{}", MANAGED.replace('/', "~1"))) != "true" {
            continue;
        }
        let name = text(old, "/metadata/name");
        if !wanted.contains(&gv) {
            let uid = text(old, "/metadata/uid");
            match writer.delete(lookup::API_SERVICES, "", name, Some(uid)).await {
                Err(e) if e.code != 404 => result = Err(e),
                _ => {}
            }
            continue;
        }
        let new = object(&gv.0, &gv.1);
        if old["spec"] != new["spec"] {
            let mut o = (**old).clone();
            o["spec"] = new["spec"].clone();
            if let Err(e) = writer.update(lookup::API_SERVICES, "", o).await {
                result = Err(e);
            }
        }
    }
    for (group, version) in wanted {
        let name = format!("{version}.{group}");
        if existing.iter().any(|o| text(o, "/metadata/name") == name) {
            continue;
        }
        match writer.create(lookup::API_SERVICES, "", object(group, version)).await {
            Err(e) if e.reason != "AlreadyExists" => result = Err(e),
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ObjectLookup as _;
    use crate::lookup::testing::Objects;

    #[tokio::test]
    async fn come_and_go_with_definitions() {
        let crd = json!({"spec": {"group": "example.com", "versions": [
            {"name": "v1", "served": true}, {"name": "v1beta1", "served": false}]}});
        let wanted: BTreeSet<GroupVersion> = versions(&crd).into_iter().collect();
        assert_eq!(wanted.len(), 1);
        let foreign =
            json!({"metadata": {"name": "v2.other.com"}, "spec": {"group": "other.com", "version": "v2"}});
        let store = Objects::with([(lookup::API_SERVICES, foreign)]);
        reconcile(&store, &wanted).await.unwrap();
        assert_eq!(store.names(lookup::API_SERVICES), ["v1.example.com", "v2.other.com"]);
        let made = store.get(lookup::API_SERVICES, "", "v1.example.com").await.unwrap().unwrap();
        assert_eq!(made["spec"]["groupPriorityMinimum"], 1000);
        let mut changed = (*made).clone();
        changed["spec"]["versionPriority"] = json!(1);
        store.put(lookup::API_SERVICES, changed);
        reconcile(&store, &wanted).await.unwrap();
        let back = store.get(lookup::API_SERVICES, "", "v1.example.com").await.unwrap().unwrap();
        assert_eq!(back["spec"]["versionPriority"], 100);
        reconcile(&store, &BTreeSet::new()).await.unwrap();
        assert_eq!(store.names(lookup::API_SERVICES), ["v2.other.com"], "others' are left alone");
    }
}
