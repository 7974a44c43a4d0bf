//! Stateful sets.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};

use super::validation::{self, SELECTOR};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::core::claim_validation;
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::podspec::volume_defaults::default_claim_spec;
use crate::kinds::semantic::{fill, first_generation, items, next_generation, same, text};
use crate::kinds::validate::printed::{json, object};
use crate::kinds::validate::{invalid_each, numbers, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of stateful sets.
pub struct StatefulSet;

fn blank_status() -> Option<api::StatefulSetStatus> {
    Some(api::StatefulSetStatus { available_replicas: Some(0), ..Default::default() })
}

impl Strategy for StatefulSet {
    type Object = api::StatefulSet;

    fn default(&self, s: &mut api::StatefulSet) {
        let spec = s.spec.get_or_insert_with(Default::default);
        fill(&mut spec.pod_management_policy, "OrderedReady");
        let update = spec.update_strategy.get_or_insert_with(Default::default);
        if text(&update.type_).is_empty() {
            update.type_ = Some("RollingUpdate".to_owned());
            update.rolling_update.get_or_insert_with(Default::default);
        }
        if let ("RollingUpdate", Some(rolling)) = (text(&update.type_), &mut update.rolling_update) {
            rolling.partition.get_or_insert(0);
        }
        let keep = spec.persistent_volume_claim_retention_policy.get_or_insert_with(Default::default);
        fill(&mut keep.when_deleted, "Retain");
        fill(&mut keep.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            default_claim_spec(claim.spec.get_or_insert_with(Default::default));
            fill(&mut claim.status.get_or_insert_with(Default::default).phase, "Pending");
        }
        default_template(&mut spec.template);
        let status = s.status.get_or_insert_with(Default::default);
        status.available_replicas.get_or_insert(0);
    }

    fn prepare_create(&self, _cx: &mut Context, set: &mut api::StatefulSet) {
        set.status = blank_status();
        first_generation(&mut set.metadata);
        gate_max_unavailable(set, None);
    }

    fn prepare_update(&self, cx: &mut Context, set: &mut api::StatefulSet, old: &api::StatefulSet) {
        if cx.is_status() {
            set.spec = old.spec.clone();
        } else {
            set.status = old.status.clone();
            gate_max_unavailable(set, Some(old));
        }
        let changed = !same(&set.spec, &old.spec);
        next_generation(&mut set.metadata, &old.metadata, changed);
    }

    fn optional(&self) -> &'static [&'static str] {
        &[SELECTOR]
    }

    fn validate(&self, cx: &mut Context, set: &api::StatefulSet) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &set.spec else { return errors };
        let path = Path::new("spec");
        policies(s, &path, &mut errors);
        if !cx.updating {
            for (i, claim) in items(&s.volume_claim_templates).iter().enumerate() {
                let at = path.child("volumeClaimTemplates").index(i).child("spec");
                errors.extend(claim_validation::spec(&claim.spec.clone().unwrap_or_default(), &at));
            }
        }
        errors.extend(numbers::non_negative_opt(s.replicas, &path.child("replicas")));
        errors.extend(numbers::non_negative_opt(s.min_ready_seconds, &path.child("minReadySeconds")));
        if let Some(o) = &s.ordinals {
            let at = path.child("ordinals").child("start");
            errors.extend(numbers::non_negative_opt(o.start, &at));
        }
        let service = text(&s.service_name);
        if !cx.updating && !service.is_empty() {
            errors.extend(invalid_each(&path.child("serviceName"), service, rules::dns1123_label(service)));
        }
        let selector = validation::given(cx, &s.selector);
        let at = path.child("template");
        if validation::label_selector(selector, "statefulset", &path.child("selector"), &mut errors) {
            validation::template(&as_pods_have_it(s), selector, "StatefulSet", &at, &mut errors);
        }
        validation::template_warnings(cx, &set.metadata, &s.template, &at);
        if !cx.is_status() && s.revision_history_limit.is_some_and(|n| n < 0) {
            cx.warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is \
                 recommended"
                    .to_owned(),
            );
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, set: &api::StatefulSet, old: &api::StatefulSet) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.is_status() {
            status(set, &mut errors);
            return errors;
        }
        let (Some(n), Some(o)) = (&set.spec, &old.spec) else { return errors };
        // What may change is put back; nothing else may differ.
        let fixed = api::StatefulSetSpec {
            replicas: o.replicas,
            ordinals: o.ordinals.clone(),
            template: o.template.clone(),
            update_strategy: o.update_strategy.clone(),
            revision_history_limit: o.revision_history_limit,
            persistent_volume_claim_retention_policy: o.persistent_volume_claim_retention_policy.clone(),
            min_ready_seconds: o.min_ready_seconds,
            ..n.clone()
        };
        if !same(&fixed, o) {
            errors.push(Error::forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            ));
        }
        errors
    }
}

/// The template with what the controller puts into each pod: a volume per claim, and the pod's own name.
fn as_pods_have_it(s: &api::StatefulSetSpec) -> PodTemplateSpec {
    let mut template = s.template.clone();
    let Some(spec) = template.spec.as_mut() else { return template };
    (spec.subdomain, spec.hostname) = (None, None);
    let of_claim = |claim: &PersistentVolumeClaim| {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let source = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: None };
        Volume { name, persistent_volume_claim: Some(source), ..Volume::default() }
    };
    let mut volumes: Vec<Volume> = Vec::new();
    for volume in s.volume_claim_templates.iter().flatten().map(of_claim) {
        if !volumes.iter().any(|v| v.name == volume.name) {
            volumes.push(volume);
        }
    }
    if !volumes.is_empty() {
        let own = spec.volumes.take().unwrap_or_default();
        let others: Vec<Volume> =
            own.into_iter().filter(|v| !volumes.iter().any(|claim| claim.name == v.name)).collect();
        volumes.extend(others);
        spec.volumes = Some(volumes);
    }
    template
}

/// `maxUnavailable` is behind the gate `MaxUnavailableStatefulSet`, off by default: nobody can begin to use it.
fn gate_max_unavailable(set: &mut api::StatefulSet, old: Option<&api::StatefulSet>) {
    let in_use = |set: &api::StatefulSet| {
        let update = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        update.and_then(|u| u.rolling_update.as_ref()).is_some_and(|r| r.max_unavailable.is_some())
    };
    if old.is_some_and(in_use) {
        return;
    }
    let update = set.spec.as_mut().and_then(|s| s.update_strategy.as_mut());
    if let Some(rolling) = update.and_then(|u| u.rolling_update.as_mut()) {
        rolling.max_unavailable = None;
    }
}

fn status(set: &api::StatefulSet, errors: &mut ErrorList) {
    let Some(s) = &set.status else { return };
    let path = Path::new("status");
    let parts = [
        ("readyReplicas", s.ready_replicas),
        ("currentReplicas", s.current_replicas),
        ("updatedReplicas", s.updated_replicas),
        ("availableReplicas", s.available_replicas),
    ];
    validation::status_counts(s.observed_generation, Some(s.replicas), &parts, &path, errors);
    if let Some(n) = s.available_replicas.filter(|n| *n > s.ready_replicas.unwrap_or(0)) {
        let at = path.child("availableReplicas");
        errors.push(Error::invalid(&at, n, "cannot be greater than status.readyReplicas"));
    }
}

/// In upstream's internal form, as its messages show it.
fn shown_rolling(r: &api::RollingUpdateStatefulSetStrategy) -> String {
    let partition = json(&r.partition.unwrap_or(0));
    object(&[("Partition", partition), ("MaxUnavailable", json(&r.max_unavailable))])
}

fn policies(s: &api::StatefulSetSpec, path: &Path, errors: &mut ErrorList) {
    let at = path.child("podManagementPolicy");
    match text(&s.pod_management_policy) {
        "" => errors.push(Error::required(&at, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(Error::invalid(&at, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    let at = path.child("updateStrategy");
    let blank = Default::default();
    let update = s.update_strategy.as_ref().unwrap_or(&blank);
    match (text(&update.type_), &update.rolling_update) {
        ("", _) => errors.push(Error::required(&at, "")),
        ("OnDelete", Some(r)) => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            let mut e = Error::invalid(&at.child("rollingUpdate"), "", why);
            e.value = shown_rolling(r);
            errors.push(e);
        }
        ("OnDelete", None) => {}
        ("RollingUpdate", r) => {
            let partition = r.as_ref().and_then(|r| r.partition);
            let at = at.child("rollingUpdate").child("partition");
            errors.extend(numbers::non_negative_opt(partition, &at));
        }
        (other, r) => {
            let mut e = Error::invalid(&at, "", "must be 'RollingUpdate' or 'OnDelete'");
            let r = r.as_ref().map_or("null".to_owned(), shown_rolling);
            e.value = object(&[("Type", json(other)), ("RollingUpdate", r)]);
            errors.push(e);
        }
    }
    if let Some(p) = &s.persistent_volume_claim_retention_policy {
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, v) in [("whenDeleted", &p.when_deleted), ("whenScaled", &p.when_scaled)] {
            let v = text(v);
            if !matches!(v, "Retain" | "Delete") {
                errors.push(Error::not_supported(&at.child(field), v, &["Retain", "Delete"]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    #[test]
    fn claims_are_volumes_of_the_pods() {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("data".into());
        let named = |name: &str| Volume { name: name.into(), ..Volume::default() };
        let pod = PodSpec {
            hostname: Some("any".into()),
            volumes: Some(vec![named("data"), named("tmp")]),
            ..PodSpec::default()
        };
        let template = PodTemplateSpec { spec: Some(pod), ..PodTemplateSpec::default() };
        let with = |claims| {
            let volume_claim_templates = Some(claims);
            let spec = api::StatefulSetSpec {
                template: template.clone(),
                volume_claim_templates,
                ..Default::default()
            };
            as_pods_have_it(&spec).spec.unwrap_or_default()
        };
        let spec = with(vec![claim]);
        let names = |s: &PodSpec| s.volumes.iter().flatten().map(|v| v.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&spec), ["data", "tmp"]);
        let of_claim = spec.volumes.iter().flatten().filter(|v| v.persistent_volume_claim.is_some());
        assert_eq!(of_claim.count(), 1);
        assert_eq!(spec.hostname, None);
        assert_eq!(names(&with(Vec::new())), ["data", "tmp"]);
    }
}
