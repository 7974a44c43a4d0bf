//! Security contexts: pod and container settings merged into what the runtime takes. Pure.

use std::path::Path;

use k8s_cri::v1::{
    self as cri, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    SecurityProfile, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions, SeccompProfile};

use super::spec;

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the node contributes.
pub struct NodePolicy<'a> {
    pub seccomp_default: bool,
    pub seccomp_root: &'a Path,
    pub apparmor: bool,
}

/// The user that the image runs as.
#[derive(Clone, Debug, Default)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let s = spec::spec(pod);
    let mode = |host: Option<bool>, other: NamespaceMode| {
        (if host == Some(true) { NamespaceMode::Node } else { other }) as i32
    };
    let pid =
        if s.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: mode(s.host_network, NamespaceMode::Pod),
        ipc: mode(s.host_ipc, NamespaceMode::Pod),
        pid: mode(s.host_pid, pid),
        ..NamespaceOption::default()
    }
}

fn int(v: i64) -> cri::Int64Value {
    cri::Int64Value { value: v }
}

fn selinux(o: Option<&SELinuxOptions>) -> Option<cri::SeLinuxOption> {
    o.map(|o| cri::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn profile(kind: ProfileType, localhost: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind as i32, localhost_ref: localhost }
}

fn seccomp(p: Option<&SeccompProfile>, node: &NodePolicy<'_>) -> SecurityProfile {
    match p.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref().unwrap_or_default())) {
        Some(("RuntimeDefault", _)) => profile(ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", file)) => {
            profile(ProfileType::Localhost, node.seccomp_root.join(file).to_string_lossy().into_owned())
        }
        None if node.seccomp_default => profile(ProfileType::RuntimeDefault, String::new()),
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}

fn group_policy(text: Option<&str>) -> i32 {
    (if text == Some("Strict") {
        cri::SupplementalGroupsPolicy::Strict
    } else {
        cri::SupplementalGroupsPolicy::Merge
    }) as i32
}

fn groups(pod: &Pod) -> Vec<i64> {
    let Some(sc) = &spec::spec(pod).security_context else { return Vec::new() };
    let mut all: Vec<i64> = sc.fs_group.into_iter().collect();
    all.extend(sc.supplemental_groups.iter().flatten().copied());
    all
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod, node: &NodePolicy<'_>) -> LinuxSandboxSecurityContext {
    let s = spec::spec(pod);
    let sc = s.security_context.as_ref();
    let privileged = s
        .containers
        .iter()
        .chain(s.init_containers.iter().flatten())
        .any(|c| c.security_context.as_ref().and_then(|x| x.privileged) == Some(true));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux(sc.and_then(|x| x.se_linux_options.as_ref())),
        run_as_user: sc.and_then(|x| x.run_as_user).map(int),
        run_as_group: sc
            .and_then(|x| x.run_as_group)
            .filter(|_| sc.and_then(|x| x.run_as_user).is_some())
            .map(int),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: group_policy(sc.and_then(|x| x.supplemental_groups_policy.as_deref())),
        privileged,
        seccomp: Some(if privileged {
            profile(ProfileType::Unconfined, String::new())
        } else {
            // The pause process gets the runtime's default unless the pod says otherwise.
            match sc.and_then(|x| x.seccomp_profile.as_ref()) {
                Some(p) => seccomp(Some(p), node),
                None => profile(ProfileType::RuntimeDefault, String::new()),
            }
        }),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's security context; `target` is the container whose process namespace an ephemeral one joins.
pub fn container(
    pod: &Pod,
    c: &Container,
    image: &ImageUser,
    node: &NodePolicy<'_>,
    target: Option<&str>,
) -> LinuxContainerSecurityContext {
    let psc = spec::spec(pod).security_context.as_ref();
    let csc = c.security_context.as_ref();
    let privileged = csc.and_then(|x| x.privileged) == Some(true);
    let user = csc.and_then(|x| x.run_as_user).or(psc.and_then(|x| x.run_as_user));
    let group = csc.and_then(|x| x.run_as_group).or(psc.and_then(|x| x.run_as_group));
    let mut ns = namespaces(pod);
    if let Some(id) = target {
        ns.pid = NamespaceMode::Target as i32;
        ns.target_id = id.to_owned();
    }
    let unmasked = csc.and_then(|x| x.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked || privileged { Vec::new() } else { list.iter().map(|s| (*s).to_owned()).collect() }
    };
    let apparmor =
        csc.and_then(|x| x.app_armor_profile.as_ref()).or(psc.and_then(|x| x.app_armor_profile.as_ref()));
    LinuxContainerSecurityContext {
        capabilities: csc.and_then(|x| x.capabilities.as_ref()).map(|caps| cri::Capability {
            add_capabilities: caps.add.clone().unwrap_or_default(),
            drop_capabilities: caps.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(ns),
        selinux_options: selinux(
            csc.and_then(|x| x.se_linux_options.as_ref()).or(psc.and_then(|x| x.se_linux_options.as_ref())),
        ),
        run_as_user: user.or(image.uid).map(int),
        run_as_username: if user.is_none() && image.uid.is_none() {
            image.name.clone()
        } else {
            String::new()
        },
        run_as_group: group.filter(|_| user.or(image.uid).is_some() || !image.name.is_empty()).map(int),
        readonly_rootfs: csc.and_then(|x| x.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: group_policy(psc.and_then(|x| x.supplemental_groups_policy.as_deref())),
        no_new_privs: csc.and_then(|x| x.allow_privilege_escalation) == Some(false) && !privileged,
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(if privileged {
            profile(ProfileType::Unconfined, String::new())
        } else {
            seccomp(
                csc.and_then(|x| x.seccomp_profile.as_ref()).or(psc.and_then(|x| x.seccomp_profile.as_ref())),
                node,
            )
        }),
        apparmor: (node.apparmor && !privileged).then(|| {
            match apparmor.map(|a| (a.type_.as_str(), a.localhost_profile.clone().unwrap_or_default())) {
                Some(("Unconfined", _)) => profile(ProfileType::Unconfined, String::new()),
                Some(("Localhost", name)) => profile(ProfileType::Localhost, name),
                _ => profile(ProfileType::RuntimeDefault, String::new()),
            }
        }),
        ..LinuxContainerSecurityContext::default()
    }
}

/// `runAsNonRoot`: refuses containers that would run as root, with upstream's messages.
pub fn verify_non_root(pod: &Pod, c: &Container, image: &ImageUser) -> Result<(), String> {
    let psc = spec::spec(pod).security_context.as_ref();
    let csc = c.security_context.as_ref();
    let wanted = csc.and_then(|x| x.run_as_non_root).or(psc.and_then(|x| x.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let id = format!("(pod: \"{}\", container: {})", spec::full_name(pod), c.name);
    match csc.and_then(|x| x.run_as_user).or(psc.and_then(|x| x.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {id}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match image.uid {
        Some(0) => Err(format!("container has runAsNonRoot and image will run as root {id}")),
        None if !image.name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {id}",
            image.name
        )),
        _ => Ok(()),
    }
}

/// Sysctls outside the safe set need the node's permission.
pub fn forbidden_sysctl(pod: &Pod, allowed: &[String]) -> Option<String> {
    const SAFE: &[&str] = &[
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    let s = spec::spec(pod);
    for sysctl in s.security_context.iter().flat_map(|x| x.sysctls.iter().flatten()) {
        let name = sysctl.name.replace('/', ".");
        let permitted = SAFE.contains(&name.as_str())
            || allowed.iter().any(|a| match a.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *a == name,
            });
        let host = (name.starts_with("net.") && s.host_network == Some(true))
            || (!name.starts_with("net.") && s.host_ipc == Some(true));
        if !permitted || host {
            return Some(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(v: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": v}),
        )
        .unwrap()
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let p = pod(
            serde_json::json!({"hostPID": true, "securityContext": {"runAsUser": 1, "fsGroup": 9, "supplementalGroups": [7]},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 2, "runAsGroup": 3, "allowPrivilegeEscalation": false,
                "seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}}}]}),
        );
        let node =
            NodePolicy { seccomp_default: false, seccomp_root: Path::new("/k/seccomp"), apparmor: false };
        let c = &p.spec.as_ref().unwrap().containers[0];
        let s = container(&p, c, &ImageUser::default(), &node, None);
        assert_eq!(s.run_as_user, Some(int(2)));
        assert_eq!(s.run_as_group, Some(int(3)));
        assert!(s.no_new_privs);
        assert_eq!(s.supplemental_groups, [9, 7]);
        assert_eq!(s.seccomp.unwrap().localhost_ref, "/k/seccomp/x.json");
        assert_eq!(s.namespace_options.unwrap().pid, NamespaceMode::Node as i32);
        assert!(!s.masked_paths.is_empty());
    }

    #[test]
    fn non_root_and_sysctls() {
        let p = pod(
            serde_json::json!({"securityContext": {"runAsNonRoot": true, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
            "containers": [{"name": "c"}]}),
        );
        let c = &p.spec.as_ref().unwrap().containers[0];
        let check = |uid, name: &str| verify_non_root(&p, c, &ImageUser { uid, name: name.into() });
        assert!(
            check(Some(0), "")
                .unwrap_err()
                .contains("image will run as root (pod: \"p_n(u)\", container: c)")
        );
        assert!(check(None, "web").unwrap_err().contains("non-numeric user (web)"));
        check(Some(5), "").unwrap();
        assert!(forbidden_sysctl(&p, &[]).is_none());
        let p = pod(
            serde_json::json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}, "containers": []}),
        );
        assert!(forbidden_sysctl(&p, &[]).is_some());
        assert!(forbidden_sysctl(&p, &["kernel.msg*".into()]).is_none());
    }
}
