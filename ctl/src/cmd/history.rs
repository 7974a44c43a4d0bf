//! `ctl history`: what an object was at each revision that the store keeps, newest first, and who changed which field.
//! Asks the ordinary API for lists at exact revisions, so it shows what its user may list, on any API server.

use std::collections::BTreeSet;

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::args::{namespace_of, targets};
use super::moment::Moment;
use crate::api::resources::{Catalog, Resource, array, text};
use crate::api::rest::{ApiError, Media, Rest, query};
use crate::print::format::items;
use crate::print::table::Table;

/// Paths shown in a row of the table.
const SHOWN: usize = 4;

#[derive(Debug, clap::Args)]
pub struct History {
    /// TYPE NAME, or TYPE/NAME
    #[arg(required = true)]
    words: Vec<String>,
    /// Begin at this revision (a resourceVersion) or time (RFC 3339, or like "5m ago") in place of now: for objects that
    /// were deleted
    #[arg(long, value_name = "REVISION|TIME")]
    at: Option<Moment>,
    /// Show at most so many revisions
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Output format: json has the whole objects
    #[arg(short, long)]
    output: Option<String>,
}

/// The list of at most one object as it was at a revision.
///
/// # Errors
/// [`ApiError`], as for an object that is not there where it was not.
pub async fn at(
    rest: &Rest,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    revision: u64,
    media: Media<'_>,
) -> anyhow::Result<Value> {
    let selector = query(&format!("metadata.name={name}"));
    let path = format!(
        "{}?fieldSelector={selector}&resourceVersion={revision}&resourceVersionMatch=Exact",
        resource.path(namespace, None)
    );
    let list = rest.call(Method::GET, &path, media, None).await?;
    if array(&list["items"]).is_empty() && array(&list["rows"]).is_empty() {
        let message = format!("{} \"{name}\" not found at revision {revision}", resource.qualified());
        return Err(ApiError::Status { reason: "NotFound".to_owned(), message, code: 404 }.into());
    }
    Ok(list)
}

/// One revision of an object, and what came about with it.
struct Step {
    revision: u64,
    object: Value,
    /// The fields that differ from the revision before; none where that is not kept.
    changed: Option<Vec<String>>,
    who: Vec<String>,
    time: String,
}

impl History {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        if !matches!(self.output.as_deref(), None | Some("json")) {
            bail!("unable to match a printer suitable for the output format, allowed formats are: json");
        }
        let catalog = Catalog::fetch(rest).await?;
        let wanted = targets(&catalog, &self.words)?;
        let [target] = wanted.as_slice() else { bail!("the history of one object at a time can be shown") };
        let Some(name) = &target.name else {
            bail!("usage: ctl history TYPE NAME, as in ctl history pod web-0")
        };
        let namespace = namespace_of(rest, &target.resource, None);
        let (steps, complete) = self.steps(rest, &target.resource, namespace.as_deref(), name).await?;
        if self.output.is_some() {
            let steps: Vec<Value> = steps.iter().map(Step::value).collect();
            println!("{}", serde_json::to_string_pretty(&json!({"history": steps, "complete": complete}))?);
            return Ok(());
        }
        let table = Table {
            header: ["REVISION", "TIME", "BY", "CHANGED"].map(str::to_owned).to_vec(),
            rows: steps.iter().map(Step::row).collect(),
        };
        print!("{}", table.render(true));
        if !complete {
            eprintln!(
                "older revisions are not kept (kube-apiserver --store-history-retention), or not shown (--limit)"
            );
        }
        Ok(())
    }

    /// The revisions, newest first, and whether the last is the first there was.
    async fn steps(
        &self,
        rest: &Rest,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> anyhow::Result<(Vec<Step>, bool)> {
        let newest = match self.at {
            Some(moment) => first(
                &at(rest, resource, namespace, name, moment.revision(rest).await?, Media::default()).await?,
            ),
            None => rest.get(&resource.path(namespace, Some(name))).await?,
        };
        let mut steps: Vec<Step> = Vec::new();
        let mut object = newest;
        loop {
            let revision = revision(&object)?;
            let enough = steps.len() + 1 >= self.limit.max(1);
            // What was there just before: its own revision says when it came about.
            let before = if revision > 1 && !enough {
                at(rest, resource, namespace, name, revision - 1, Media::default()).await
            } else {
                Err(ApiError::Status { reason: "Expired".to_owned(), message: String::new(), code: 410 }
                    .into())
            };
            match before {
                Ok(list) => {
                    let earlier = first(&list);
                    if self::revision(&earlier)? >= revision {
                        bail!("the server answered revision {} with a newer object", revision - 1);
                    }
                    steps.push(Step::new(revision, object, Some(&earlier)));
                    object = earlier;
                }
                Err(e) if ApiError::is_not_found(&e) => {
                    steps.push(Step::new(revision, object, Some(&Value::Null)));
                    return Ok((steps, true));
                }
                Err(e) if ApiError::is_expired(&e) => {
                    steps.push(Step::new(revision, object, None));
                    return Ok((steps, false));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn first(list: &Value) -> Value {
    items(list).into_iter().next().unwrap_or_default()
}

fn revision(object: &Value) -> anyhow::Result<u64> {
    let text = text(&object["metadata"]["resourceVersion"]);
    text.parse().map_err(|_| anyhow::anyhow!("the server's resourceVersion {text:?} is no revision"))
}

impl Step {
    fn new(revision: u64, object: Value, before: Option<&Value>) -> Step {
        let nothing = Value::Null;
        let then = before.unwrap_or(&nothing);
        let who = before.map(|_| writers(then, &object)).unwrap_or_default();
        let time = who.iter().map(|(_, time)| time.clone()).max().unwrap_or_default();
        let changed = before.map(|b| match b {
            Value::Null => vec!["created".to_owned()],
            b => changes(b, &object),
        });
        Step { revision, changed, who: who.into_iter().map(|(w, _)| w).collect(), time, object }
    }

    fn row(&self) -> Vec<String> {
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let changed = match &self.changed {
            None => "<not kept>".to_owned(),
            Some(all) if all.len() > SHOWN => {
                format!("{}, and {} more", all[..SHOWN].join(", "), all.len() - SHOWN)
            }
            Some(all) => or(all.join(", "), "<nothing>"),
        };
        let time = or(self.time.clone(), "<unknown>");
        vec![self.revision.to_string(), time, or(self.who.join(","), "<unknown>"), changed]
    }

    fn value(&self) -> Value {
        json!({
            "revision": self.revision, "time": self.time, "managers": self.who, "changed": self.changed,
            "object": self.object,
        })
    }
}

/// The field managers whose entries are new or different, and the time they give.
fn writers(before: &Value, after: &Value) -> Vec<(String, String)> {
    let old = array(&before["metadata"]["managedFields"]);
    let new = array(&after["metadata"]["managedFields"]).iter().filter(|e| !old.contains(e));
    let writer = |e: &Value| {
        let name = match text(&e["subresource"]).as_str() {
            "" => text(&e["manager"]),
            sub => format!("{}/{sub}", text(&e["manager"])),
        };
        (name, text(&e["time"]))
    };
    new.map(writer).collect()
}

/// Paths at which two versions differ, without what differs in any case.
fn changes(before: &Value, after: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    differ(before, after, &mut String::new(), &mut found);
    let noise = |p: &String| {
        p == "metadata.resourceVersion"
            || p == "metadata.generation"
            || p.starts_with("metadata.managedFields")
    };
    found.into_iter().filter(|p| !noise(p)).collect()
}

/// What tells the items of a list apart.
fn item_key(item: &Value) -> Option<String> {
    ["name", "type", "key", "uid", "ip", "containerPort"]
        .iter()
        .find_map(|k| item.get(*k).filter(|v| !v.is_object() && !v.is_array()).map(|v| format!("{k}={v}")))
}

fn differ(a: &Value, b: &Value, path: &mut String, found: &mut BTreeSet<String>) {
    if a == b {
        return;
    }
    let length = path.len();
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
                let plain = key.chars().all(|c| c.is_ascii_alphanumeric());
                match (plain, path.is_empty()) {
                    (true, true) => path.push_str(key),
                    (true, false) => path.push_str(&format!(".{key}")),
                    (false, _) => path.push_str(&format!("[{key}]")),
                }
                let at = |o: &serde_json::Map<String, Value>| o.get(key).cloned().unwrap_or_default();
                differ(&at(x), &at(y), path, found);
                path.truncate(length);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.iter().chain(y).all(|i| item_key(i).is_some()) => {
            let by = |list: &[Value], key: &Option<String>| {
                list.iter().find(|i| item_key(i) == *key).cloned().unwrap_or_default()
            };
            for key in x.iter().chain(y).map(item_key).collect::<BTreeSet<_>>() {
                path.push_str(&format!("[{}]", key.as_deref().unwrap_or_default()));
                differ(&by(x, &key), &by(y, &key), path, found);
                path.truncate(length);
            }
        }
        _ => {
            found.insert(path.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_and_by_whom() {
        let entry = |manager: &str, sub: &str, time: &str| json!({"manager": manager, "subresource": sub, "time": time});
        let before = json!({
            "metadata": {"resourceVersion": "7", "labels": {"a/b": "1"}, "managedFields": [entry("ctl", "", "t1")]},
            "spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}], "args": ["a"]},
        });
        let after = json!({
            "metadata": {
                "resourceVersion": "9", "labels": {"a/b": "2"},
                "managedFields": [entry("ctl", "", "t1"), entry("kubelet", "status", "t2")],
            },
            "spec": {"containers": [{"name": "x", "image": "i:2"}, {"name": "y", "image": "j"}], "args": ["a", "b"]},
            "status": {"phase": "Running"},
        });
        let step = Step::new(9, after.clone(), Some(&before));
        let expected = ["metadata.labels[a/b]", "spec.args", "spec.containers[name=\"x\"].image", "status"]
            .map(str::to_owned);
        assert_eq!(step.changed.as_deref(), Some(&expected[..]));
        assert_eq!((step.who, step.time), (vec!["kubelet/status".to_owned()], "t2".to_owned()));
        assert_eq!(Step::new(9, after.clone(), None).row()[3], "<not kept>");
        assert_eq!(Step::new(9, after.clone(), Some(&Value::Null)).row()[3], "created");
        assert_eq!(Step::new(9, after.clone(), Some(&after)).row()[3], "<nothing>");
    }
}
