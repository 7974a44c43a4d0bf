//! Events, in the form of the core group and in the newer one. Both are stored as the former, and these are the
//! rules of both: the newer API asks for more.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::text;
use crate::kinds::validate::{invalid_each, printed, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of events.
pub struct Event;

/// Bytes that the instance, the action and the reason of an event may have.
const SHORT: usize = 128;
/// Bytes that its message may have.
const NOTE: usize = 1024;

fn is_newer_api(cx: &Context) -> bool {
    cx.group == "events.k8s.io"
}

impl Strategy for Event {
    type Object = api::Event;

    fn default(&self, e: &mut api::Event) {
        e.source.get_or_insert_with(Default::default);
        e.reporting_component.get_or_insert_with(String::new);
        e.reporting_instance.get_or_insert_with(String::new);
    }

    fn validate(&self, cx: &mut Context, e: &api::Event) -> ErrorList {
        let mut errors = common(cx, e);
        if is_newer_api(cx) && !cx.updating {
            errors.extend(fresh(e));
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, e: &api::Event, old: &api::Event) -> ErrorList {
        if is_newer_api(cx) { changed(e, old) } else { ErrorList::new() }
    }
}

/// What is asked of every event. One with an event time is of the newer sort.
fn common(cx: &Context, e: &api::Event) -> ErrorList {
    let mut errors = ErrorList::new();
    let own = text(&e.metadata.namespace);
    let about = text(&e.involved_object.namespace);
    let strange = if e.event_time.is_none() {
        if about.is_empty() { !matches!(own, "" | "default") } else { about != own }
    } else {
        about.is_empty() && !matches!(own, "default" | "kube-system")
    };
    if strange {
        let at = Path::new("involvedObject").child("namespace");
        errors.push(Error::invalid(&at, about, "does not match event.namespace"));
    }
    if e.event_time.is_none() {
        return errors;
    }
    let reporter = if is_newer_api(cx) { "reportingController" } else { "reportingComponent" };
    let controller = text(&e.reporting_component);
    let at = Path::new(reporter);
    if controller.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    errors.extend(invalid_each(&at, controller, rules::qualified_name(controller)));
    for (field, value) in
        [("reportingInstance", &e.reporting_instance), ("action", &e.action), ("reason", &e.reason)]
    {
        if text(value).is_empty() {
            errors.push(Error::required(&Path::new(field), ""));
        }
        at_most(SHORT, text(value), field, &mut errors);
    }
    at_most(NOTE, text(&e.message), "message", &mut errors);
    errors
}

fn at_most(max: usize, value: &str, field: &str, errors: &mut ErrorList) {
    if value.len() > max {
        errors.push(Error::invalid(&Path::new(field), "", format!("can have at most {max} characters")));
    }
}

/// What the newer API asks of new events.
fn fresh(e: &api::Event) -> ErrorList {
    let mut errors = series(e);
    if e.event_time.is_none() {
        errors.push(Error::required(&Path::new("eventTime"), ""));
    }
    let kind = text(&e.type_);
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let source =
        e.source.as_ref().is_some_and(|s| !text(&s.component).is_empty() || !text(&s.host).is_empty());
    for (field, given) in [
        ("firstTimestamp", e.first_timestamp.is_some()),
        ("lastTimestamp", e.last_timestamp.is_some()),
        ("count", e.count.unwrap_or(0) != 0),
        ("source", source),
    ] {
        if given {
            errors.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
        }
    }
    errors
}

fn series(e: &api::Event) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &e.series else { return errors };
    let path = Path::new("series");
    if s.count.unwrap_or(0) < 2 {
        errors.push(Error::invalid(&path.child("count"), "", "should be at least 2"));
    }
    if s.last_observed_time.is_none() {
        errors.push(Error::required(&path.child("lastObservedTime"), ""));
    }
    errors
}

/// Through the newer API only the series of an event, and its metadata, may change.
fn changed(e: &api::Event, old: &api::Event) -> ErrorList {
    let mut errors = if e.series == old.series { ErrorList::new() } else { series(e) };
    let mut fixed = |field: &str, same: bool, shown: String| {
        if !same {
            let mut e = Error::invalid(&Path::new(field), "", "field is immutable");
            e.value = shown;
            errors.push(e);
        }
    };
    let about = &e.involved_object;
    fixed("involvedObject", *about == old.involved_object, printed::object_reference(about));
    let string = |s: &Option<String>| printed::json(text(s));
    let same = |a: &Option<String>, b: &Option<String>| text(a) == text(b);
    fixed("reason", same(&e.reason, &old.reason), string(&e.reason));
    fixed("message", same(&e.message, &old.message), string(&e.message));
    let source = e.source.clone().unwrap_or_default();
    let shown = [("Component", string(&source.component)), ("Host", string(&source.host))];
    fixed("source", source == old.source.clone().unwrap_or_default(), printed::object(&shown));
    let time = |t: &Option<_>| printed::json(t);
    fixed("firstTimestamp", e.first_timestamp == old.first_timestamp, time(&e.first_timestamp));
    fixed("lastTimestamp", e.last_timestamp == old.last_timestamp, time(&e.last_timestamp));
    let count = e.count.unwrap_or(0);
    fixed("count", count == old.count.unwrap_or(0), printed::json(&count));
    fixed("reason", same(&e.reason, &old.reason), string(&e.reason));
    fixed("type", same(&e.type_, &old.type_), string(&e.type_));
    let micros = |e: &api::Event| e.event_time.as_ref().map(|t| Timestamp::as_microsecond(t.0));
    fixed("eventTime", micros(e) == micros(old), printed::json(&e.event_time));
    fixed("action", same(&e.action, &old.action), string(&e.action));
    let related = e.related.as_ref().map_or("null".to_owned(), printed::object_reference);
    fixed("related", e.related == old.related, related);
    let controller = &e.reporting_component;
    fixed("reportingController", same(controller, &old.reporting_component), string(controller));
    let instance = &e.reporting_instance;
    fixed("reportingInstance", same(instance, &old.reporting_instance), string(instance));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(v: serde_json::Value) -> api::Event {
        serde_json::from_value(v).expect("an event")
    }

    fn new_style() -> api::Event {
        event(serde_json::json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "a.b/c", "reportingInstance": "i",
            "action": "A", "reason": "R", "type": "Normal"}))
    }

    #[test]
    fn the_newer_api_asks_for_more() {
        let old_style = event(serde_json::json!({"metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"namespace": "default"}, "count": 2}));
        let mut cx = Context::default();
        assert!(Event.validate(&mut cx, &old_style).is_empty());
        cx.group = "events.k8s.io";
        let told = Event.validate(&mut cx, &old_style).aggregate();
        assert!(
            told.contains("eventTime: Required value") && told.contains("count: Invalid value"),
            "{told}"
        );
        assert!(Event.validate(&mut cx, &new_style()).is_empty());
        cx.updating = true;
        let mut moved = new_style();
        moved.reason = Some("other".into());
        let told = Event.validate_update(&mut cx, &moved, &new_style()).aggregate();
        assert_eq!(told, "reason: Invalid value: \"other\": field is immutable");
    }

    #[test]
    fn events_live_where_their_object_does() {
        let e = event(serde_json::json!({"metadata": {"name": "e", "namespace": "a"},
            "involvedObject": {"namespace": "b"}}));
        let told = Event.validate(&mut Context::default(), &e).aggregate();
        assert_eq!(told, "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace");
    }
}
