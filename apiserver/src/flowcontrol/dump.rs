//! The tables of `/debug/api_priority_and_fairness/`, as upstream prints them: columns separated by a comma and
//! aligned by spaces.

use std::sync::Arc;
use std::time::Duration;

use super::Controller;
use super::Time;
use super::config::LevelView;
use super::queueset::RequestDump;
use crate::request::{RequestInfo, UserInfo};

const DISTINGUISHER_END: char = '\0';

/// What the tables need of a request: the flow's distinguisher, then the columns of the details.
pub fn details(distinguisher: &str, info: &RequestInfo, user: &UserInfo) -> Box<str> {
    let parts = [
        user.name.as_str(),
        &info.verb,
        &info.path,
        &info.namespace,
        &info.name,
        &info.api_group,
        &info.api_version,
        &info.resource,
        &info.subresource,
    ];
    let size = distinguisher.len() + 24 + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut s = String::with_capacity(size);
    s.push_str(distinguisher);
    s.push(DISTINGUISHER_END);
    for (i, p) in parts.iter().enumerate() {
        s.push_str(p);
        match i {
            5 if p.is_empty() => {}
            5 => s.push('/'),
            8 => {}
            _ => s.push_str(",\t"),
        }
    }
    s.into_boxed_str()
}

/// Aligns rows whose cells end with a tab: cells of neighbouring rows in the same column get the same width, at
/// least eight.
fn align(rows: &[String]) -> String {
    let cells: Vec<Vec<&str>> = rows.iter().map(|r| r.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &cells {
        for (i, c) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            if widths.len() <= i {
                widths.push(8);
            }
            widths[i] = widths[i].max(c.chars().count() + 1);
        }
    }
    let mut out = String::new();
    for row in &cells {
        for (i, c) in row.iter().enumerate() {
            out.push_str(c);
            if i + 1 < row.len() {
                let pad = widths[i].saturating_sub(c.chars().count());
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.push('\n');
    }
    out
}

fn row(columns: &[&str]) -> String {
    columns.join(",\t")
}

/// A row per level.
pub fn priority_levels(c: &Controller) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for v in c.views() {
        let q = v.level.queues.lock();
        let active = q.dump_queues().iter().filter(|d| d.pending > 0).count();
        let t = q.totals;
        rows.push(row(&[
            &v.level.name,
            &active.to_string(),
            &q.is_idle().to_string(),
            &v.quiescing.to_string(),
            &q.waiting().to_string(),
            &q.executing().to_string(),
            &t.dispatched.to_string(),
            &t.rejected.to_string(),
            &t.timed_out.to_string(),
            &t.cancelled.to_string(),
        ]));
    }
    align(&rows)
}

fn seat_seconds(x: f64) -> String {
    format!("{x:.8}ss")
}

/// A row per queue.
pub fn queues(c: &Controller) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for v in c.views() {
        let dumped = v.level.queues.lock().dump_queues();
        for (i, d) in dumped.iter().enumerate() {
            rows.push(row(&[
                &v.level.name,
                &i.to_string(),
                &d.pending.to_string(),
                &d.executing.to_string(),
                &d.seats.to_string(),
                &seat_seconds(d.next_r),
                &d.initial_sum.to_string(),
                &d.seats_sum.to_string(),
                &seat_seconds(d.work_sum),
            ]));
        }
    }
    align(&rows)
}

/// A row per waiting or running request.
pub fn requests(c: &Controller, with_details: bool) -> String {
    let mut head = row(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if with_details {
        head.push_str(",\t");
        head.push_str(&row(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![head];
    for v in c.views() {
        let dumped = v.level.queues.lock().dump_requests();
        rows.extend(dumped.iter().map(|d| request(c, &v, d, with_details)));
    }
    align(&rows)
}

fn request(c: &Controller, v: &LevelView, d: &RequestDump, with_details: bool) -> String {
    let index = |i: Option<usize>| i.map_or_else(|| "-1".to_owned(), |i| i.to_string());
    let (distinguisher, details) = d.details.split_once(DISTINGUISHER_END).unwrap_or(("", &d.details));
    let extra = component_base::duration::GoDuration(Duration::from_nanos(d.work.extra)).to_string();
    let mut s = row(&[
        &v.level.name,
        &d.schema,
        &index(d.queue),
        &index(d.place),
        distinguisher,
        &c.clock(d.arrived),
        &d.work.initial.to_string(),
        &d.work.last.to_string(),
        &extra,
        &d.started.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| c.clock(t)),
    ]);
    if with_details {
        s.push_str(",\t");
        s.push_str(details);
    }
    s
}

impl Controller {
    pub(super) fn views(&self) -> Vec<LevelView> {
        self.levels.lock().views()
    }

    /// A moment as RFC 3339 with nanoseconds.
    fn clock(&self, t: Time) -> String {
        let at = self.started_at + Duration::from_nanos(t);
        jiff::Timestamp::try_from(at).map(|t| t.to_string()).unwrap_or_default()
    }
}

/// Answers a path below `/debug/api_priority_and_fairness/`.
pub fn answer(c: &Arc<Controller>, name: &str, with_details: bool) -> Option<String> {
    match name {
        "dump_priority_levels" => Some(priority_levels(c)),
        "dump_queues" => Some(queues(c)),
        "dump_requests" => Some(requests(c, with_details)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = ["a,\tbb,\tc".to_owned(), "longer than eight,\tb,\tc".to_owned()];
        assert_eq!(align(&rows), "a,                 bb,     c\nlonger than eight, b,      c\n");
    }

    #[test]
    fn details_are_one_row() {
        let info = RequestInfo {
            verb: "get".into(),
            path: "/api/v1/pods".into(),
            api_version: "v1".into(),
            resource: "pods".into(),
            ..RequestInfo::default()
        };
        let user = UserInfo { name: "eve".into(), ..UserInfo::default() };
        assert_eq!(&*details("eve", &info, &user), "eve\0eve,\tget,\t/api/v1/pods,\t,\t,\tv1,\tpods,\t");
    }
}
