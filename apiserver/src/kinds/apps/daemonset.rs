//! Daemon sets.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::validation::{self, SELECTOR};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::{fill, first_generation, next_generation, same, text};
use crate::kinds::validate::selector::{invalid as invalid_selector, is_empty, label_selector, matches};
use crate::kinds::validate::{immutable, numbers};
use crate::registry::strategy::{Context, Strategy};

/// Rules of daemon sets.
pub struct DaemonSet;

/// Counts changes of the template, for clients of the first version of the kind.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(d: &api::DaemonSet) -> i64 {
    let written = d.metadata.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION));
    written.and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn set_template_generation(d: &mut api::DaemonSet, n: i64) {
    d.metadata
        .annotations
        .get_or_insert_with(Default::default)
        .insert(TEMPLATE_GENERATION.to_owned(), n.to_string());
}

impl Strategy for DaemonSet {
    type Object = api::DaemonSet;

    fn default(&self, d: &mut api::DaemonSet) {
        let spec = d.spec.get_or_insert_with(Default::default);
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_with(Default::default);
        fill(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(Default::default);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        default_template(&mut spec.template);
        d.status.get_or_insert_with(Default::default);
        // There from the start, so that it belongs to who creates the object.
        set_template_generation(d, template_generation(d));
    }

    fn prepare_create(&self, _cx: &mut Context, d: &mut api::DaemonSet) {
        d.status = Some(Default::default());
        first_generation(&mut d.metadata);
        if template_generation(d) < 1 {
            set_template_generation(d, 1);
        }
    }

    fn prepare_update(&self, cx: &mut Context, d: &mut api::DaemonSet, old: &api::DaemonSet) {
        if cx.is_status() {
            d.spec = old.spec.clone();
        } else {
            d.status = old.status.clone();
        }
        let template = |d: &api::DaemonSet| d.spec.as_ref().map(|s| s.template.clone());
        let moved = !same(&template(d), &template(old));
        set_template_generation(d, template_generation(old) + i64::from(moved));
        let changed = !same(&d.spec, &old.spec);
        next_generation(&mut d.metadata, &old.metadata, changed);
    }

    fn optional(&self) -> &'static [&'static str] {
        &[SELECTOR]
    }

    fn validate(&self, cx: &mut Context, d: &api::DaemonSet) -> ErrorList {
        // Of an update it is told first what changed, see there.
        if cx.updating { ErrorList::new() } else { whole(cx, d) }
    }

    fn validate_update(&self, cx: &mut Context, d: &api::DaemonSet, old: &api::DaemonSet) -> ErrorList {
        match (&d.spec, &old.spec) {
            (Some(n), Some(o)) if !cx.is_status() => {
                let mut errors = immutable(&n.selector, &o.selector, &Path::new("spec").child("selector"));
                errors.extend(whole(cx, d));
                errors
            }
            _ => ErrorList::new(),
        }
    }
}

/// Everything wrong with the spec.
fn whole(cx: &mut Context, d: &api::DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &d.spec else { return errors };
    let path = Path::new("spec");
    let selector = validation::given(cx, &s.selector);
    let wrong = selector.map(|l| label_selector(Some(l), &path.child("selector"))).unwrap_or_default();
    let well_formed = wrong.is_empty();
    errors.extend(wrong);
    let at = path.child("template");
    let labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if well_formed && selector.is_none_or(|l| !is_empty(l) && !matches(l, labels)) {
        errors.push(Error::invalid(
            &at.child("metadata").child("labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    if let Some(l) = selector.filter(|l| is_empty(l)) {
        let why = "empty selector is invalid for daemonset";
        errors.push(invalid_selector(l, &path.child("selector"), why));
    }
    errors.extend(crate::kinds::podspec::validate::template(&s.template, &at));
    validation::always_restarts(&s.template, "DaemonSet", &at, &mut errors);
    errors.extend(numbers::non_negative_opt(s.min_ready_seconds, &path.child("minReadySeconds")));
    if let Some(u) = &s.update_strategy {
        strategy(u, &path.child("updateStrategy"), &mut errors);
    }
    errors.extend(numbers::non_negative_opt(s.revision_history_limit, &path.child("revisionHistoryLimit")));
    validation::template_warnings(cx, &d.metadata, &s.template, &at);
    errors
}

fn strategy(s: &api::DaemonSetUpdateStrategy, path: &Path, errors: &mut ErrorList) {
    let at = path.child("rollingUpdate");
    match text(&s.type_) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let Some(r) = &s.rolling_update else {
                errors.push(Error::required(&at, ""));
                return;
            };
            validation::rolling(r.max_unavailable.as_ref(), r.max_surge.as_ref(), &at, errors);
            let some = |v: &Option<IntOrString>| v.as_ref().is_some_and(|v| numbers::plain_value(v) != 0);
            match (some(&r.max_unavailable), some(&r.max_surge)) {
                (true, true) => errors.push(Error::invalid(
                    &at.child("maxSurge"),
                    &r.max_surge,
                    "may not be set when maxUnavailable is non-zero",
                )),
                (false, false) => errors
                    .push(Error::required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")),
                _ => {}
            }
            for (field, v) in [("maxUnavailable", &r.max_unavailable), ("maxSurge", &r.max_surge)] {
                if let Some(v) = v {
                    errors.extend(numbers::not_more_than_100_percent(v, &at.child(field)));
                }
            }
        }
        other => {
            // Upstream shows its internal form of the whole strategy.
            let mut e = Error::not_supported(path, "", &["RollingUpdate", "OnDelete"]);
            let r = s.rolling_update.as_ref().map(|r| (r.max_unavailable.as_ref(), r.max_surge.as_ref()));
            e.value = validation::shown_strategy(other, r);
            errors.push(e);
        }
    }
}
