//! The `restricted` checks, on top of `baseline`: current hardening practice.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{good_seccomp, proc_mount, profile_type};
use super::checks::{Check, Finding, finding, named, plural, quote, setters};
use super::{bad_containers, has_own_users, is_windows, pod_context, security_context};
use crate::lookup::{items, text};

/// In the order of their names, as findings are listed.
pub const CHECKS: &[Check] = &[
    Check { since: 8, id: "allowPrivilegeEscalation", overrides: "", find: privilege_escalation },
    Check {
        since: 22,
        id: "capabilities_restricted",
        overrides: "capabilities_baseline",
        find: capabilities,
    },
    Check { since: 35, id: "procMount_restricted", overrides: "procMount", find: proc_mount },
    Check { since: 0, id: "restrictedVolumes", overrides: "hostPathVolumes", find: volumes },
    Check { since: 0, id: "runAsNonRoot", overrides: "", find: run_as_non_root },
    Check { since: 23, id: "runAsUser", overrides: "", find: run_as_user },
    Check { since: 19, id: "seccompProfile_restricted", overrides: "seccompProfile_baseline", find: seccomp },
];

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn privilege_escalation(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad =
        bad_containers(pod, |c| security_context(c)["allowPrivilegeEscalation"].as_bool() != Some(false));
    if bad.is_empty() {
        return None;
    }
    finding(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", named("container", &bad)),
    )
}

fn capabilities(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let keeping =
        bad_containers(pod, |c| !items(c, "/securityContext/capabilities/drop").iter().any(|d| d == "ALL"));
    let mut added: BTreeSet<String> = BTreeSet::new();
    let adding = bad_containers(pod, |c| {
        let mut bad = false;
        for cap in items(c, "/securityContext/capabilities/add").iter().filter_map(Value::as_str) {
            if cap != "NET_BIND_SERVICE" {
                added.insert(cap.to_owned());
                bad = true;
            }
        }
        bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named("container", &keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &adding),
            quote(&added)
        ));
    }
    if details.is_empty() { None } else { finding("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Value, _minor: u32) -> Option<Finding> {
    let mut names: Vec<String> = Vec::new();
    let mut types: BTreeSet<String> = BTreeSet::new();
    for v in items(pod, "/spec/volumes") {
        let source = v
            .as_object()
            .and_then(|o| o.iter().find(|(k, x)| *k != "name" && !x.is_null()))
            .map_or("unknown", |(k, _)| k.as_str());
        if !ALLOWED_VOLUMES.contains(&source) {
            names.push(text(v, "/name").to_owned());
            types.insert(source.to_owned());
        }
    }
    if names.is_empty() {
        return None;
    }
    finding(
        "restricted volume types",
        format!(
            "{} {} {} {}",
            named("volume", &names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", types.len()),
            quote(&types)
        ),
    )
}

fn run_as_non_root(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let set = |context: &Value| context["runAsNonRoot"].as_bool();
    let on_pod = set(pod_context(pod));
    let explicit = bad_containers(pod, |c| set(security_context(c)) == Some(false));
    if let Some(who) = setters(on_pod == Some(false), &explicit) {
        return finding(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let implicit = bad_containers(pod, |c| set(security_context(c)).is_none() && on_pod != Some(true));
    if implicit.is_empty() {
        return None;
    }
    finding(
        "runAsNonRoot != true",
        format!("pod or {} must set securityContext.runAsNonRoot=true", named("container", &implicit)),
    )
}

fn run_as_user(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let root = |context: &Value| context["runAsUser"].as_i64() == Some(0);
    let on_containers = bad_containers(pod, |c| root(security_context(c)));
    let who = setters(root(pod_context(pod)), &on_containers)?;
    finding("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let kind = |context: &Value| profile_type(context, "seccompProfile").map(str::to_owned);
    let mut values: BTreeSet<String> = BTreeSet::new();
    let on_pod = kind(pod_context(pod));
    let mut bad = |k: &Option<String>| match k {
        Some(k) if !good_seccomp(k) => {
            values.insert(k.clone());
            true
        }
        _ => false,
    };
    let pod_bad = bad(&on_pod);
    let explicit = bad_containers(pod, |c| bad(&kind(security_context(c))));
    if let Some(who) = setters(pod_bad, &explicit) {
        return finding(
            "seccompProfile",
            format!("{who} must not set securityContext.seccompProfile.type to {}", quote(&values)),
        );
    }
    let implicit = bad_containers(pod, |c| kind(security_context(c)).is_none() && on_pod.is_none());
    if implicit.is_empty() {
        return None;
    }
    finding(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named("container", &implicit)
        ),
    )
}
