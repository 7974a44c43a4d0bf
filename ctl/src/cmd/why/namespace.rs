//! Why a deleted namespace is still there: what is left in it, and what holds each of those objects.

use serde_json::Value;

use super::{deleting, finalizers};
use crate::api::resources::{Catalog, array, text};
use crate::api::rest::Rest;
use crate::print::format::items;

/// Objects of one kind named at most.
const NAMED: usize = 5;

/// What keeps a namespace.
pub async fn explain(rest: &Rest, catalog: &Catalog, ns: &Value) -> anyhow::Result<Vec<String>> {
    if !deleting(ns) {
        return Ok(vec!["it is not being deleted".into()]);
    }
    let mut out = vec![format!("deletion was asked for at {}", text(&ns["metadata"]["deletionTimestamp"]))];
    let conditions = array(&ns["status"]["conditions"]).iter().filter(|c| c["status"] == "True");
    out.extend(conditions.map(|c| format!("{}: {}", text(&c["type"]), text(&c["message"]))));
    let name = text(&ns["metadata"]["name"]);
    let mut left = 0;
    for r in catalog.0.iter().filter(|r| r.namespaced && r.verbs.iter().any(|v| v == "list")) {
        // Events go with the namespace and block nothing; a kind whose server is away is told by a condition.
        if r.kind == "Event" {
            continue;
        }
        let Ok(list) = rest.get(&r.path(Some(&name), None)).await else {
            out.push(format!("{} cannot be listed: is the server behind it up?", r.qualified()));
            continue;
        };
        let found = items(&list);
        left += found.len();
        for o in found.iter().take(NAMED) {
            let state = if deleting(o) { "being deleted" } else { "not deleted yet" };
            out.push(format!("{} is left, {state}", r.display(&text(&o["metadata"]["name"]))));
            out.extend(finalizers::lines(o).into_iter().map(|l| format!("  {l}")));
        }
        if found.len() > NAMED {
            out.push(format!("{} more of {}", found.len() - NAMED, r.qualified()));
        }
    }
    if left == 0 {
        let own = array(&ns["spec"]["finalizers"]).iter().map(text).collect::<Vec<_>>();
        out.push(match own.as_slice() {
            [] => "nothing is left: it should be gone in a moment".into(),
            own => format!(
                "it is empty: finalizers {} of the namespace itself are to be removed by their controllers \
                 (kubernetes: kube-controller-manager's namespace controller; does it run?)",
                own.join(", ")
            ),
        });
    }
    out.extend(finalizers::lines(ns));
    Ok(out)
}
