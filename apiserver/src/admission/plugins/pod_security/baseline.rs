//! The `baseline` checks: no known way from the pod to its node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Check, Finding, finding, named, plural, quote, setters};
use super::{bad_containers, has_own_users, pod_context, security_context};
use crate::authz::graph::containers;
use crate::lookup::{items, text};

const fn check(id: &'static str, find: fn(&Value, u32) -> Option<Finding>) -> Check {
    Check { since: 0, id, overrides: "", find }
}

/// In the order of their names, as findings are listed.
pub const CHECKS: &[Check] = &[
    check("appArmorProfile", app_armor),
    check("capabilities_baseline", capabilities),
    check("hostNamespaces", host_namespaces),
    check("hostPathVolumes", host_path),
    check("hostPorts", host_ports),
    Check { since: 34, id: "hostProbesAndHostLifecycle", overrides: "", find: probe_hosts },
    check("privileged", privileged),
    check("procMount", proc_mount_baseline),
    check("seLinuxOptions", selinux),
    check("seccompProfile_baseline", seccomp),
    check("sysctls", sysctls),
    check("windowsHostProcess", host_process),
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Allowed kernel parameters and the release since which they are.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

/// A type field of a profile, where it is set.
pub(super) fn profile_type<'a>(context: &'a Value, profile: &str) -> Option<&'a str> {
    context.get(profile).filter(|p| !p.is_null()).map(|p| text(p, "/type"))
}

fn annotations(pod: &Value) -> impl Iterator<Item = (&String, &str)> {
    pod.pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k, v.as_str()?)))
}

fn app_armor(pod: &Value, _minor: u32) -> Option<Finding> {
    let mut values: BTreeSet<String> = BTreeSet::new();
    let mut bad = |context: &Value| match profile_type(context, "appArmorProfile") {
        None | Some("RuntimeDefault" | "Localhost") => false,
        Some(other) => {
            values.insert(other.to_owned());
            true
        }
    };
    let on_pod = bad(pod_context(pod));
    let on_containers = bad_containers(pod, |c| bad(security_context(c)));
    let mut who: Vec<String> = setters(on_pod, &on_containers).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    let annotated: BTreeSet<String> = annotations(pod)
        .filter(|(k, v)| {
            k.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/"))
        })
        .map(|(k, v)| format!("{k}=\"{v}\""))
        .collect();
    if !annotated.is_empty() {
        who.push(plural("annotation", "annotations", annotated.len()).to_owned());
        values.extend(annotated);
    }
    if who.is_empty() {
        return None;
    }
    finding(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quote(&values)),
    )
}

fn capabilities(pod: &Value, _minor: u32) -> Option<Finding> {
    let mut added: BTreeSet<String> = BTreeSet::new();
    let bad = bad_containers(pod, |c| {
        let mut bad = false;
        for cap in items(c, "/securityContext/capabilities/add").iter().filter_map(Value::as_str) {
            if !CAPABILITIES.contains(&cap) {
                added.insert(cap.to_owned());
                bad = true;
            }
        }
        bad
    });
    if bad.is_empty() {
        return None;
    }
    finding(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &bad),
            quote(&added)
        ),
    )
}

fn host_namespaces(pod: &Value, _minor: u32) -> Option<Finding> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| pod["spec"][**f].as_bool() == Some(true))
        .map(|f| format!("{f}=true"))
        .collect();
    if used.is_empty() { None } else { finding("host namespaces", used.join(", ")) }
}

fn host_path(pod: &Value, _minor: u32) -> Option<Finding> {
    let volumes: Vec<String> = items(pod, "/spec/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some_and(|h| !h.is_null()))
        .map(|v| text(v, "/name").to_owned())
        .collect();
    if volumes.is_empty() { None } else { finding("hostPath volumes", named("volume", &volumes)) }
}

fn host_ports(pod: &Value, _minor: u32) -> Option<Finding> {
    let mut ports: BTreeSet<String> = BTreeSet::new();
    let bad = bad_containers(pod, |c| {
        let mut bad = false;
        for p in items(c, "/ports").iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0) {
            ports.insert(p.to_string());
            bad = true;
        }
        bad
    });
    if bad.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.into_iter().collect();
    finding(
        "hostPort",
        format!(
            "{} {} {} {}",
            named("container", &bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    )
}

fn probe_hosts(pod: &Value, _minor: u32) -> Option<Finding> {
    let (mut names, mut hosts): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    for c in containers(pod) {
        for handler in [
            "/livenessProbe",
            "/readinessProbe",
            "/startupProbe",
            "/lifecycle/postStart",
            "/lifecycle/preStop",
        ] {
            for action in ["httpGet", "tcpSocket"] {
                let host = text(c, &format!("{handler}/{action}/host"));
                if !host.is_empty() {
                    names.insert(text(c, "/name").to_owned());
                    hosts.insert(host.to_owned());
                }
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<String> = names.into_iter().collect();
    finding(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            named("container", &names),
            plural("uses", "use", names.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quote(&hosts)
        ),
    )
}

fn privileged(pod: &Value, _minor: u32) -> Option<Finding> {
    let bad = bad_containers(pod, |c| security_context(c)["privileged"].as_bool() == Some(true));
    if bad.is_empty() {
        return None;
    }
    finding(
        "privileged",
        format!("{} must not set securityContext.privileged=true", named("container", &bad)),
    )
}

fn proc_mount_baseline(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    proc_mount(pod, minor)
}

pub(super) fn proc_mount(pod: &Value, _minor: u32) -> Option<Finding> {
    let mut types: BTreeSet<String> = BTreeSet::new();
    let bad = bad_containers(pod, |c| match security_context(c)["procMount"].as_str() {
        None | Some("Default") => false,
        Some(other) => {
            types.insert(other.to_owned());
            true
        }
    });
    if bad.is_empty() {
        return None;
    }
    finding(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named("container", &bad), quote(&types)),
    )
}

fn selinux(pod: &Value, minor: u32) -> Option<Finding> {
    let mut types: BTreeSet<String> = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |context: &Value| {
        let Some(options) = context.get("seLinuxOptions").filter(|o| !o.is_null()) else { return false };
        let kind = text(options, "/type");
        let allowed = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t");
        if !allowed {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!text(options, "/user").is_empty(), !text(options, "/role").is_empty());
        user |= sets_user;
        role |= sets_role;
        !allowed || sets_user || sets_role
    };
    let on_pod = bad(pod_context(pod));
    let on_containers = bad_containers(pod, |c| bad(security_context(c)));
    let who = setters(on_pod, &on_containers)?;
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quote(&types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    finding(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}

pub(super) fn good_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

fn seccomp(pod: &Value, minor: u32) -> Option<Finding> {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    let mut values: BTreeSet<String> = BTreeSet::new();
    let mut bad = |context: &Value| match profile_type(context, "seccompProfile") {
        Some(kind) if !good_seccomp(kind) => {
            values.insert(kind.to_owned());
            true
        }
        _ => false,
    };
    let on_pod = bad(pod_context(pod));
    let on_containers = bad_containers(pod, |c| bad(security_context(c)));
    let who = setters(on_pod, &on_containers)?;
    finding(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quote(&values)),
    )
}

fn seccomp_annotations(pod: &Value) -> Option<Finding> {
    let names: Vec<&str> = containers(pod).map(|c| text(c, "/name")).collect();
    let bad: BTreeSet<String> = annotations(pod)
        .filter(|(k, v)| {
            let ours = *k == "seccomp.security.alpha.kubernetes.io/pod"
                || k.strip_prefix("container.seccomp.security.alpha.kubernetes.io/")
                    .is_some_and(|name| names.contains(&name));
            ours && !(*v == "runtime/default" || *v == "docker/default" || v.starts_with("localhost/"))
        })
        .map(|(k, v)| format!("{k}=\"{v}\""))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let list: Vec<String> = bad.into_iter().collect();
    finding(
        "seccompProfile",
        format!("forbidden {} {}", plural("annotation", "annotations", list.len()), list.join(", ")),
    )
}

fn sysctls(pod: &Value, minor: u32) -> Option<Finding> {
    let bad: Vec<&str> = items(pod_context(pod), "/sysctls")
        .iter()
        .map(|s| text(s, "/name"))
        .filter(|name| !SYSCTLS.iter().any(|(ok, since)| ok == name && *since <= minor))
        .collect();
    if bad.is_empty() { None } else { finding("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Value, _minor: u32) -> Option<Finding> {
    let set = |context: &Value| context.pointer("/windowsOptions/hostProcess") == Some(&Value::Bool(true));
    let on_containers = bad_containers(pod, |c| set(security_context(c)));
    let who = setters(set(pod_context(pod)), &on_containers)?;
    finding("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
