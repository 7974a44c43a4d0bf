//! Security contexts of pods and containers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl};

use super::mounts::descending;
use super::one_of_if_given;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::numbers;
use crate::kinds::validate::printed::{json, object};

/// Ids are 32-bit and not negative.
const ID_MAX: i64 = i32::MAX as i64;

fn id(value: Option<i64>, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = value {
        errors.extend(numbers::in_range(n, 0, ID_MAX, path));
    }
}

/// The context of the pod.
pub fn pod(s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(c) = &s.security_context else { return };
    id(c.fs_group, &path.child("fsGroup"), errors);
    id(c.run_as_user, &path.child("runAsUser"), errors);
    id(c.run_as_group, &path.child("runAsGroup"), errors);
    for (i, g) in items(&c.supplemental_groups).iter().enumerate() {
        id(Some(*g), &path.child("supplementalGroups").index(i), errors);
    }
    if s.share_process_namespace == Some(true) && s.host_pid == Some(true) {
        errors.push(Error::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    sysctls(items(&c.sysctls), &path.child("sysctls"), errors);
    one_of_if_given(
        &c.fs_group_change_policy,
        &["Always", "OnRootMismatch"],
        &path.child("fsGroupChangePolicy"),
        errors,
    );
    if let Some(p) = &c.seccomp_profile {
        seccomp(p, &path.child("seccompProfile"), errors);
    }
    if let Some(p) = &c.app_armor_profile {
        app_armor(p, &path.child("appArmorProfile"), errors);
    }
    one_of_if_given(
        &c.supplemental_groups_policy,
        &["Merge", "Strict"],
        &path.child("supplementalGroupsPolicy"),
        errors,
    );
    one_of_if_given(
        &c.se_linux_change_policy,
        &["MountOption", "Recursive"],
        &path.child("seLinuxChangePolicy"),
        errors,
    );
}

fn is_sysctl_name(name: &str) -> bool {
    let segment = |s: &str| {
        let b = s.as_bytes();
        let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        b.first().is_some_and(edge)
            && b.last().is_some_and(edge)
            && b.iter().all(|c| edge(c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(list: &[Sysctl], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, s) in list.iter().enumerate() {
        let at = path.index(i).child("name");
        if s.name.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !is_sysctl_name(&s.name) {
            errors.push(Error::invalid(
                &at,
                &s.name,
                "must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if names.contains(&s.name) {
            errors.push(Error::duplicate(&at, &s.name));
        }
        names.insert(&s.name);
    }
}

fn seccomp(p: &SeccompProfile, path: &Path, errors: &mut ErrorList) {
    let valid = ["Localhost", "RuntimeDefault", "Unconfined"];
    let at = path.child("type");
    if p.type_.is_empty() {
        errors.push(Error::required(&at, "type is required when seccompProfile is set"));
    } else if !valid.contains(&p.type_.as_str()) {
        errors.push(Error::not_supported(&at, &p.type_, &valid));
    }
    let at = path.child("localhostProfile");
    match (p.type_.as_str(), &p.localhost_profile) {
        ("Localhost", None) => {
            errors.push(Error::required(&at, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => descending(file, &at, errors),
        (_, Some(_)) => {
            errors.push(Error::invalid(&at, p, "can only be set when seccomp type is Localhost"));
        }
        (_, None) => {}
    }
}

fn app_armor(p: &AppArmorProfile, path: &Path, errors: &mut ErrorList) {
    let valid = ["Localhost", "RuntimeDefault", "Unconfined"];
    let profile = text(&p.localhost_profile);
    let at = path.child("localhostProfile");
    match p.type_.as_str() {
        "" => {
            errors.push(Error::required(&path.child("type"), "type is required when appArmorProfile is set"))
        }
        "Localhost" => {
            if profile.trim().is_empty() {
                errors.push(Error::required(&at, "must be set when AppArmor type is Localhost"));
            } else if profile.trim() != profile {
                errors.push(Error::invalid(&at, profile, "must not be padded with whitespace"));
            }
            if profile.len() > 4095 {
                errors.push(Error::too_long(&at, 4095));
            }
        }
        other => {
            if !valid.contains(&other) {
                errors.push(Error::not_supported(&path.child("type"), other, &valid));
            }
            if p.localhost_profile.is_some() {
                errors.push(Error::invalid(&at, profile, "can only be set when AppArmor type is Localhost"));
            }
        }
    }
}

/// Whether containers may be privileged: a property of the whole server (`--allow-privileged`), set once at start.
static ALLOW_PRIVILEGED: AtomicBool = AtomicBool::new(true);

/// Sets whether containers may be privileged.
pub fn allow_privileged(allow: bool) {
    ALLOW_PRIVILEGED.store(allow, Ordering::Relaxed);
}

/// That a context is invalid as a whole. Upstream shows its internal form of it.
fn internal(c: &SecurityContext, path: &Path, why: &str) -> Error {
    fn part<T>(v: &Option<T>, show: impl FnOnce(&T) -> String) -> String {
        v.as_ref().map_or("null".to_owned(), show)
    }
    let string = |v: &Option<String>| json(text(v));
    let profile =
        |kind: &str, file: &Option<String>| object(&[("Type", json(kind)), ("LocalhostProfile", json(file))]);
    let mut e = Error::invalid(path, "", why);
    e.value = object(&[
        (
            "Capabilities",
            part(&c.capabilities, |c| object(&[("Add", json(&c.add)), ("Drop", json(&c.drop))])),
        ),
        ("Privileged", json(&c.privileged)),
        (
            "SELinuxOptions",
            part(&c.se_linux_options, |o| {
                object(&[
                    ("User", string(&o.user)),
                    ("Role", string(&o.role)),
                    ("Type", string(&o.type_)),
                    ("Level", string(&o.level)),
                ])
            }),
        ),
        (
            "WindowsOptions",
            part(&c.windows_options, |o| {
                object(&[
                    ("GMSACredentialSpecName", json(&o.gmsa_credential_spec_name)),
                    ("GMSACredentialSpec", json(&o.gmsa_credential_spec)),
                    ("RunAsUserName", json(&o.run_as_user_name)),
                    ("HostProcess", json(&o.host_process)),
                ])
            }),
        ),
        ("RunAsUser", json(&c.run_as_user)),
        ("RunAsGroup", json(&c.run_as_group)),
        ("RunAsNonRoot", json(&c.run_as_non_root)),
        ("ReadOnlyRootFilesystem", json(&c.read_only_root_filesystem)),
        ("AllowPrivilegeEscalation", json(&c.allow_privilege_escalation)),
        ("ProcMount", json(&c.proc_mount)),
        ("SeccompProfile", part(&c.seccomp_profile, |p| profile(&p.type_, &p.localhost_profile))),
        ("AppArmorProfile", part(&c.app_armor_profile, |p| profile(&p.type_, &p.localhost_profile))),
    ]);
    e
}

/// The context of one container.
pub fn container(c: &SecurityContext, host_users: bool, path: &Path, errors: &mut ErrorList) {
    if c.privileged == Some(true) && !ALLOW_PRIVILEGED.load(Ordering::Relaxed) {
        errors.push(Error::forbidden(&path.child("privileged"), "disallowed by cluster policy"));
    }
    id(c.run_as_user, &path.child("runAsUser"), errors);
    id(c.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(p) = &c.proc_mount {
        let at = path.child("procMount");
        one_of_if_given(&c.proc_mount, &["Default", "Unmasked"], &at, errors);
        if host_users && p == "Unmasked" {
            errors.push(Error::invalid(&at, p, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    if let Some(p) = &c.seccomp_profile {
        seccomp(p, &path.child("seccompProfile"), errors);
    }
    if c.allow_privilege_escalation == Some(false) {
        if c.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(internal(c, path, why));
        }
        let added = c.capabilities.as_ref().map(|c| items(&c.add)).unwrap_or_default();
        for _ in added.iter().filter(|a| *a == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(internal(c, path, why));
        }
    }
    if let Some(p) = &c.app_armor_profile {
        app_armor(p, &path.child("appArmorProfile"), errors);
    }
}
