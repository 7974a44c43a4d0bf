//! Rows of jobs and cron jobs.

use serde_json::{Value, json};

use super::age::human_duration;
use super::cells::{Row, containers, or, seconds_between, selector_or_none, text};

fn completions(row: &Row<'_>) -> String {
    let done = row.int("/status/succeeded");
    match (row.at("/spec/completions").as_i64(), row.int("/spec/parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn run_time(row: &Row<'_>) -> String {
    let (start, end) = (row.text("/status/startTime"), row.text("/status/completionTime"));
    match (start, end) {
        ("", _) => String::new(),
        (start, "") => row.since(start),
        (start, end) => seconds_between(start, end).map(human_duration).unwrap_or_default(),
    }
}

fn state(row: &Row<'_>) -> &'static str {
    let has = |kind: &str| {
        row.list("/status/conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if row.is_deleted() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub fn job(row: &Row<'_>) -> Vec<Value> {
    let (names, images) = containers(row.at("/spec/template/spec"));
    vec![
        row.name(),
        json!(state(row)),
        json!(completions(row)),
        json!(run_time(row)),
        row.age(),
        names,
        images,
        json!(selector_or_none(row.at("/spec/selector"))),
    ]
}

pub fn cron_job(row: &Row<'_>) -> Vec<Value> {
    let (names, images) = containers(row.at("/spec/jobTemplate/spec/template/spec"));
    let suspend = match row.at("/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match row.text("/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        t => row.since(t),
    };
    vec![
        row.name(),
        json!(row.text("/spec/schedule")),
        json!(or(row.text("/spec/timeZone"), "<none>")),
        json!(suspend),
        json!(row.count("/status/active")),
        json!(last),
        row.age(),
        names,
        images,
        json!(selector_or_none(row.at("/spec/jobTemplate/spec/selector"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_job() {
        let j = json!({"metadata": {"name": "j"}, "spec": {"completions": 3}, "status": {"succeeded": 3,
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:03:20Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
        let c = job(&Row { object: &j, now: jiff::Timestamp::UNIX_EPOCH });
        assert_eq!((&c[1], &c[2], &c[3]), (&json!("Complete"), &json!("3/3"), &json!("3m20s")));
    }
}
