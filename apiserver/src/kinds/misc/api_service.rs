//! API services: who serves which version of which group.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of API services.
pub struct ApiService;

impl Strategy for ApiService {
    type Object = api::APIService;

    fn default(&self, s: &mut api::APIService) {
        if let Some(svc) = s.spec.as_mut().and_then(|s| s.service.as_mut()) {
            svc.port.get_or_insert(443);
        }
        s.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, cx: &mut Context, s: &mut api::APIService) {
        let local = s.spec.as_ref().is_none_or(|s| s.service.is_none());
        let now = cx.now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        s.status = Some(api::APIServiceStatus {
            conditions: local.then(|| {
                vec![api::APIServiceCondition {
                    type_: "Available".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("Local".to_owned()),
                    message: Some("Local APIServices are always available".to_owned()),
                    last_transition_time: Some(Time(now)),
                }]
            }),
        });
    }

    fn prepare_update(&self, cx: &mut Context, s: &mut api::APIService, old: &api::APIService) {
        if cx.is_status() {
            s.spec = old.spec.clone();
        } else {
            s.status = old.status.clone();
        }
    }

    fn validate(&self, cx: &mut Context, s: &api::APIService) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(spec) = &s.spec else { return errors };
        let path = Path::new("spec");
        let name = s.metadata.name.as_deref().unwrap_or_default();
        let (group, version) =
            (spec.group.as_deref().unwrap_or_default(), spec.version.as_deref().unwrap_or_default());
        // A name that is none at all was told already.
        let named = !name.is_empty() && text::path_segment(name, false).is_empty();
        if named && !cx.updating && name != format!("{version}.{group}") {
            errors.push(Error::invalid(
                &Path::new("metadata").child("name"),
                name,
                format!("must be `spec.version+\".\"+spec.group`: \"{version}.{group}\""),
            ));
        }
        if group.is_empty() {
            if version != "v1" {
                errors.push(Error::required(
                    &path.child("group"),
                    "only v1 may have an empty group and it better be legacy kube",
                ));
            }
        } else {
            errors.extend(invalid_each(&path.child("group"), group, text::dns1123_subdomain(group)));
        }
        errors.extend(invalid_each(&path.child("version"), version, text::dns1035_label(version)));
        for (field, n, max) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1000),
        ] {
            if n <= 0 || n > max {
                errors.push(Error::invalid(
                    &path.child(field),
                    n,
                    format!("must be positive and less than {}", if max == 1000 { "1000" } else { "20000" }),
                ));
            }
        }
        let verifies = spec.ca_bundle.as_ref().is_some_and(|b| !b.0.is_empty());
        let skips = spec.insecure_skip_tls_verify == Some(true);
        match &spec.service {
            None => {
                if verifies {
                    errors.push(Error::invalid(
                        &path.child("caBundle"),
                        format!("{} bytes", spec.ca_bundle.as_ref().map_or(0, |b| b.0.len())),
                        "local APIServices may not have a caBundle",
                    ));
                }
                if skips {
                    errors.push(Error::invalid(
                        &path.child("insecureSkipTLSVerify"),
                        true,
                        "local APIServices may not have insecureSkipTLSVerify",
                    ));
                }
            }
            Some(svc) => {
                let at = path.child("service");
                for (field, v) in [("namespace", &svc.namespace), ("name", &svc.name)] {
                    if v.as_deref().unwrap_or_default().is_empty() {
                        errors.push(Error::required(&at.child(field), ""));
                    }
                }
                if let Some(p) = svc.port.filter(|p| !(1..=65535).contains(p)) {
                    let why = format!("port is not valid: {}", text::between(1, 65535));
                    errors.push(Error::invalid(&at.child("port"), p, why));
                }
                if verifies && skips {
                    errors.push(Error::invalid(
                        &path.child("insecureSkipTLSVerify"),
                        true,
                        "may not be true if caBundle is present",
                    ));
                }
            }
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, s: &api::APIService, _old: &api::APIService) -> ErrorList {
        let mut errors = ErrorList::new();
        let conditions = s.status.iter().flat_map(|s| items(&s.conditions));
        for (i, c) in conditions.enumerate().filter(|_| cx.is_status()) {
            let path = Path::new("status").child("conditions").index(i).child("status");
            let known = ["True", "False", "Unknown"];
            if !known.contains(&c.status.as_str()) {
                errors.push(Error::not_supported(&path, &c.status, &known));
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_once() {
        let told = |name: &str| {
            let s = serde_json::json!({"metadata": {"name": name}, "spec": {"group": "x.io", "version": "v1",
                "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "a", "name": "b", "port": 0}}});
            let s = serde_json::from_value(s).expect("a service");
            ApiService.validate(&mut Context::default(), &s).aggregate()
        };
        assert!(told("v1.x.io").starts_with("spec.service.port: Invalid value: 0: port is not valid"));
        assert!(told("other").starts_with("[metadata.name"));
        assert!(!told("").contains("metadata.name") && !told("a/b").contains("metadata.name"));
    }
}
