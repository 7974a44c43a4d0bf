//! Flow schemas and priority levels.

mod rules;

use k8s_openapi::api::flowcontrol::v1 as api;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{fill_zero, items, spec_and_status};
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// The level and the schema of those who wait for nobody.
const EXEMPT: &str = "exempt";
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

/// The spec of an object that the server itself relies on, and which cannot be changed therefore.
fn fixed<S: DeserializeOwned + Serialize>(section: &str, name: &str) -> Option<serde_json::Value> {
    if !matches!(name, EXEMPT | "catch-all") {
        return None;
    }
    // Through the type, so that both are written in the same way.
    let spec: S = serde_json::from_value(crate::bootstrap::data::spec_of(section, name)?).ok()?;
    serde_json::to_value(spec).ok()
}

/// Rules of flow schemas.
pub struct FlowSchema;

/// Rules of priority levels.
pub struct PriorityLevelConfiguration;

impl Strategy for FlowSchema {
    type Object = api::FlowSchema;

    fn default(&self, s: &mut Self::Object) {
        fill_zero(&mut s.spec.get_or_insert_with(Default::default).matching_precedence, 1000);
        s.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));

    fn validate(&self, cx: &mut Context, f: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &f.spec else { return errors };
        let path = Path::new("spec");
        let at = path.child("matchingPrecedence");
        match s.matching_precedence.unwrap_or(0) {
            n if n <= 0 => {
                errors.push(Error::invalid(&at, n, "must be a positive value"));
            }
            n if n > 10_000 => {
                errors.push(Error::invalid(&at, n, "must not be greater than 10000"));
            }
            1 if cx.name != EXEMPT => {
                let why = "only the schema named 'exempt' may have matchingPrecedence 1";
                errors.push(Error::invalid(&at, 1, why));
            }
            _ => {}
        }
        if let Some(m) = &s.distinguisher_method
            && !["ByNamespace", "ByUser"].contains(&m.type_.as_str())
        {
            let at = path.child("distinguisherMethod").child("type");
            let mut e = Error::not_supported(&at, "", &["ByNamespace", "ByUser"]);
            e.value = format!("{{\"Type\":{:?}}}", m.type_);
            errors.push(e);
        }
        let name = &s.priority_level_configuration.name;
        let at = path.child("priorityLevelConfiguration").child("name");
        if name.is_empty() {
            errors.push(Error::required(&at, "must reference a priority level"));
        } else {
            errors.extend(invalid_each(&at, name, text::dns1123_subdomain(name)));
        }
        for (i, r) in items(&s.rules).iter().enumerate() {
            rules::rule(r, &path.child("rules").index(i), &mut errors);
        }
        if let Some(fixed) = fixed::<api::FlowSchemaSpec>("flowschemas", &cx.name)
            && serde_json::to_value(s).ok().as_ref() != Some(&fixed)
        {
            errors.push(Error::invalid(
                &path,
                s,
                format!("spec of '{}' must equal the fixed value", cx.name),
            ));
        }
        errors
    }
}

impl Strategy for PriorityLevelConfiguration {
    type Object = api::PriorityLevelConfiguration;

    fn default(&self, p: &mut Self::Object) {
        let spec = p.spec.get_or_insert_with(Default::default);
        if let Some(e) = &mut spec.exempt {
            e.nominal_concurrency_shares.get_or_insert(0);
            e.lendable_percent.get_or_insert(0);
        }
        if let Some(l) = &mut spec.limited {
            l.nominal_concurrency_shares.get_or_insert(30);
            l.lendable_percent.get_or_insert(0);
            let response = l.limit_response.get_or_insert_with(Default::default);
            if let Some(q) = &mut response.queuing {
                fill_zero(&mut q.hand_size, 8);
                fill_zero(&mut q.queues, 64);
                fill_zero(&mut q.queue_length_limit, 50);
            }
        }
        p.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));

    fn validate(&self, cx: &mut Context, p: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &p.spec else { return errors };
        if p.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(PRESERVE_ZERO)) {
            let at = Path::new("metadata").child("annotations");
            errors.push(Error::forbidden(&at, format!("annotation '{PRESERVE_ZERO}' is forbidden")));
        }
        let path = Path::new("spec");
        if (cx.name == EXEMPT) != (s.type_ == "Exempt") {
            let why = "must be 'Exempt' if and only if `name` is 'exempt'";
            errors.push(Error::invalid(&path.child("type"), &s.type_, why));
        }
        match s.type_.as_str() {
            "Exempt" => {
                if s.limited.is_some() {
                    errors.push(Error::forbidden(
                        &path.child("limited"),
                        "must be nil if the type is not Limited",
                    ));
                }
            }
            "Limited" => {
                if s.exempt.is_some() {
                    errors
                        .push(Error::forbidden(&path.child("exempt"), "must be nil if the type is Limited"));
                }
                let at = path.child("limited");
                match &s.limited {
                    None => errors.push(Error::required(&at, "must not be empty when type is Limited")),
                    Some(l) => limited(l, &at, &mut errors),
                }
            }
            other => errors.push(Error::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
        }
        if let Some(e) = &s.exempt {
            let at = path.child("exempt");
            shares(e.nominal_concurrency_shares, e.lendable_percent, &at, &mut errors);
        }
        let section = "prioritylevelconfigurations";
        if let Some(mut fixed) = fixed::<api::PriorityLevelConfigurationSpec>(section, &cx.name) {
            let mut own = serde_json::to_value(s).unwrap_or_default();
            let mut what = String::new();
            if cx.name == EXEMPT {
                // How much others may borrow from it is the administrator's choice.
                what = " except the 'spec.exempt' field".to_owned();
                for v in [&mut own, &mut fixed] {
                    v["exempt"].take();
                }
            }
            if own != fixed {
                let why = format!("spec of '{}'{what} must equal the fixed value", cx.name);
                errors.push(Error::invalid(&path, s, why));
            }
        }
        errors
    }
}

fn shares(nominal: Option<i32>, lendable: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = nominal.filter(|n| *n < 0) {
        let at = path.child("nominalConcurrencyShares");
        errors.push(Error::invalid(&at, n, "must be a non-negative integer"));
    }
    if let Some(n) = lendable.filter(|n| !(0..=100).contains(n)) {
        let at = path.child("lendablePercent");
        errors.push(Error::invalid(&at, n, "must be between 0 and 100, inclusive"));
    }
}

fn limited(l: &api::LimitedPriorityLevelConfiguration, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = l.nominal_concurrency_shares.filter(|n| *n < 0) {
        errors.push(Error::invalid(
            &path.child("nominalConcurrencyShares"),
            n,
            "must be a non-negative integer",
        ));
    }
    limit_response(l, path, errors);
    shares(None, l.lendable_percent, path, errors);
    if let Some(n) = l.borrowing_limit_percent.filter(|n| *n < 0) {
        let at = path.child("borrowingLimitPercent");
        errors.push(Error::invalid(&at, n, "if specified, must be a non-negative integer"));
    }
}

fn limit_response(l: &api::LimitedPriorityLevelConfiguration, path: &Path, errors: &mut ErrorList) {
    let at = path.child("limitResponse");
    let blank = Default::default();
    let r = l.limit_response.as_ref().unwrap_or(&blank);
    match (r.type_.as_str(), &r.queuing) {
        ("Reject", Some(_)) => errors.push(Error::forbidden(
            &at.child("queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        ("Reject", None) => {}
        ("Queue", None) => errors.push(Error::required(
            &at.child("queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        ("Queue", Some(q)) => queuing(q, &at.child("queuing"), errors),
        (other, _) => {
            errors.push(Error::not_supported(&at.child("type"), other, &["Queue", "Reject"]));
        }
    }
}

/// Bits of a flow's hash, from which its hand of queues is dealt.
const HASH_BITS: u32 = 60;

fn queuing(q: &api::QueuingConfiguration, path: &Path, errors: &mut ErrorList) {
    let (queues, hand, limit) =
        (q.queues.unwrap_or(0), q.hand_size.unwrap_or(0), q.queue_length_limit.unwrap_or(0));
    for (field, n) in [("queueLengthLimit", limit), ("queues", queues)] {
        if n <= 0 {
            errors.push(Error::invalid(&path.child(field), n, "must be positive"));
        }
    }
    if queues > 10_000_000 {
        errors.push(Error::invalid(&path.child("queues"), queues, "must not be greater than 10000000"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.push(Error::invalid(&at, hand, "must be positive"));
    } else if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.push(Error::invalid(&at, hand, why));
    } else if (f64::from(queues).log2() * f64::from(hand)).ceil() > f64::from(HASH_BITS) {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(Error::invalid(&at, hand, why));
    }
}
