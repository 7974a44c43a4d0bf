//! Who belongs to the store, and how they are.

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::Output;
use crate::api::resources::{array, text};
use crate::api::rest::{ApiError, Media, Rest};
use crate::print::table::Table;

/// A request to `/store/v1/…`.
async fn call(rest: &Rest, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    let body = body.map(|b| b.to_string().into_bytes());
    let answer = rest.call(method, &format!("/store/v1/{path}"), Media::default(), body).await;
    match answer {
        Err(e) if ApiError::is_not_found(&e) => {
            bail!("{} has no /store/v1/: it is no API server with a store inside", rest.server)
        }
        answer => answer,
    }
}

/// A path segment.
fn segment(name: &str) -> anyhow::Result<&str> {
    if name.is_empty() || name.contains(['/', '?', '#', '%']) {
        bail!("{name:?} is no name of a member");
    }
    Ok(name)
}

impl Output {
    /// Prints a value, as a table made from it where no format is asked for.
    pub fn print(&self, value: &Value, table: impl FnOnce(&Value) -> Table) -> anyhow::Result<()> {
        match self.output.as_deref() {
            None | Some("" | "wide") => print!("{}", table(value).render(true)),
            Some("json") => println!("{}", serde_json::to_string_pretty(value)?),
            Some("yaml") => print!("{}", component_base::yaml::to_string(value)),
            Some(other) => bail!(
                "unable to match a printer suitable for the output format \"{other}\", allowed formats are: json,yaml"
            ),
        }
        Ok(())
    }
}

fn or_dash(v: &Value) -> String {
    match v {
        Value::String(s) if !s.is_empty() => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "-".to_owned(),
    }
}

fn role(m: &Value) -> &'static str {
    match (m["learner"].as_bool(), m["leader"].as_bool()) {
        (Some(true), _) => "learner",
        (_, Some(true)) => "leader",
        (_, Some(false)) => "follower",
        _ => "voter",
    }
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn member_table(value: &Value) -> Table {
    let row = |m: &Value| {
        let role = if m["learner"] == true { "learner" } else { "voter" };
        vec![or_dash(&m["name"]), text(&m["id"]), or_dash(&m["address"]), role.to_owned()]
    };
    Table {
        header: columns(&["NAME", "ID", "ADDRESS", "ROLE"]),
        rows: array(&value["members"]).iter().map(row).collect(),
    }
}

fn status_table(value: &Value) -> Table {
    let row = |m: &Value| {
        let mut cells = vec![or_dash(&m["name"]), or_dash(&m["address"])];
        if m["error"].is_string() {
            cells.push(if m["learner"] == true { "learner" } else { "voter" }.to_owned());
            cells.extend(["-", "-", "-", "-", "-"].map(str::to_owned));
            cells.push(text(&m["error"]));
            return cells;
        }
        let alarms: Vec<String> = array(&m["alarms"]).iter().map(text).collect();
        cells.push(role(m).to_owned());
        cells.extend(["revision", "applied", "term"].map(|f| or_dash(&m[f])));
        cells.push(m["size"].as_u64().map_or_else(|| "-".to_owned(), size));
        cells.push(text(&m["version"]));
        cells.push(if alarms.is_empty() { "ok".to_owned() } else { alarms.join(",") });
        cells
    };
    Table {
        header: columns(&[
            "NAME", "ADDRESS", "ROLE", "REVISION", "APPLIED", "TERM", "SIZE", "VERSION", "STATUS",
        ]),
        rows: array(&value["members"]).iter().map(row).collect(),
    }
}

/// Bytes in the units of Kubernetes' quantities.
pub fn size(bytes: u64) -> String {
    let units = ["Ki", "Mi", "Gi", "Ti"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes}") } else { format!("{value:.1}{unit}") }
}

pub async fn status(rest: &Rest, output: &Output) -> anyhow::Result<()> {
    output.print(&call(rest, Method::GET, "status", None).await?, status_table)
}

pub async fn list(rest: &Rest, output: &Output) -> anyhow::Result<()> {
    output.print(&call(rest, Method::GET, "members", None).await?, member_table)
}

pub async fn add(rest: &Rest, name: &str, address: &str, output: &Output) -> anyhow::Result<()> {
    let body = json!({"name": name, "address": address});
    let value = call(rest, Method::POST, "members", Some(body)).await?;
    output.print(&value, member_table)?;
    if output.output.is_none() {
        let all: Vec<String> = array(&value["members"])
            .iter()
            .map(|m| format!("{}={}", text(&m["name"]), text(&m["address"])))
            .collect();
        eprintln!(
            "\nStart its API server with an empty --data-dir, the store's --store-peer-*-file flags, and\n  \
             --store-name={name} --store-initial-cluster-state=existing --store-initial-cluster={}\nthen let it vote: \
             ctl store promote {name}",
            all.join(",")
        );
    }
    Ok(())
}

pub async fn promote(rest: &Rest, name: &str, output: &Output) -> anyhow::Result<()> {
    let path = format!("members/{}/promote", segment(name)?);
    output.print(&call(rest, Method::POST, &path, None).await?, member_table)
}

pub async fn remove(rest: &Rest, name: &str, output: &Output) -> anyhow::Result<()> {
    let path = format!("members/{}", segment(name)?);
    output.print(&call(rest, Method::DELETE, &path, None).await?, member_table)
}

pub async fn transfer_leader(rest: &Rest, name: &str) -> anyhow::Result<()> {
    call(rest, Method::POST, "leader", Some(json!({"name": name}))).await?;
    println!("{name} leads");
    Ok(())
}

pub async fn compact(rest: &Rest, revision: Option<u64>) -> anyhow::Result<()> {
    let body = revision.map_or_else(|| json!({}), |r| json!({"revision": r}));
    let value = call(rest, Method::POST, "compact", Some(body)).await?;
    println!("compacted at revision {}", value["compacted"]);
    Ok(())
}

fn defragmented_table(value: &Value) -> Table {
    let bytes = |v: &Value| v.as_u64().map_or_else(|| "-".to_owned(), size);
    let row = |m: &Value| {
        let status = if m["error"].is_string() { text(&m["error"]) } else { "ok".to_owned() };
        vec![text(&m["member"]), bytes(&m["before"]), bytes(&m["after"]), status]
    };
    Table {
        header: columns(&["MEMBER", "BEFORE", "AFTER", "STATUS"]),
        rows: array(&value["members"]).iter().map(row).collect(),
    }
}

/// Whom to ask, in which order: one member, or all of them, whoever leads last.
fn defragment_order(members: &Value, name: Option<&str>) -> Vec<String> {
    let key = |m: &&Value| m["leader"] == true;
    let mut all: Vec<&Value> = array(&members["members"]).iter().collect();
    all.sort_by_key(key);
    let called = |m: &Value| if text(&m["name"]).is_empty() { text(&m["id"]) } else { text(&m["name"]) };
    match name {
        Some(name) => vec![name.to_owned()],
        None => all.into_iter().map(called).collect(),
    }
}

/// One member after the other, so that a disk shared by several needs room for one copy. What one cannot do does not
/// keep the next from doing it.
pub async fn defragment(rest: &Rest, name: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let members = match name {
        Some(_) => Value::Null,
        None => call(rest, Method::GET, "status", None).await?,
    };
    let (mut done, mut failed) = (Vec::new(), 0);
    for member in defragment_order(&members, name) {
        let path = format!("members/{}/defragment", segment(&member)?);
        done.push(match call(rest, Method::POST, &path, None).await {
            Ok(value) => value,
            Err(e) => {
                failed += 1;
                json!({"member": member, "error": e.to_string()})
            }
        });
    }
    output.print(&json!({"members": done}), defragmented_table)?;
    match failed {
        0 => Ok(()),
        n => bail!("{n} of {} members could not be defragmented", done.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_answer_and_members_that_do_not() {
        let value = json!({"members": [
            {"id": "01", "name": "a", "address": "10.0.0.1:2380", "learner": false, "leader": true, "revision": 7,
             "applied": 9, "term": 2, "size": 3_145_728, "version": "0.1.0", "alarms": []},
            {"id": "02", "name": "b", "address": "10.0.0.2:2380", "learner": true, "error": "no answer"},
        ]});
        let table = status_table(&value).render(false);
        let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["a", "10.0.0.1:2380", "leader", "7", "9", "2", "3.0Mi", "0.1.0", "ok"]);
        assert_eq!(lines[1], ["b", "10.0.0.2:2380", "learner", "-", "-", "-", "-", "-", "no", "answer"]);
        assert_eq!(size(17), "17");
        assert!(segment("a/../b").is_err());
        assert_eq!(defragment_order(&value, None), ["b", "a"]);
        assert_eq!(defragment_order(&value, Some("c")), ["c"]);
        assert_eq!(defragment_order(&json!({"members": [{"id": "01", "name": ""}]}), None), ["01"]);
        let value = json!({"members": [{"member": "a", "before": 4096, "after": 1024}, {"member": "b", "error": "no"}]});
        let table = defragmented_table(&value).render(false);
        let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["a", "4.0Ki", "1.0Ki", "ok"], vec!["b", "-", "-", "no"]]);
    }
}
