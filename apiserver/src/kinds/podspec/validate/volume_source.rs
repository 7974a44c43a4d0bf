//! The sources that a volume may have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;

use super::env::{field_ref, resource_ref};
use super::mounts::{descending, no_backsteps, non_reserved};
use super::one_of_if_given;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, meta, selector, text as rules};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Fields of the pod that files may show.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn required(fields: &[(&str, &str)], path: &Path, errors: &mut ErrorList) {
    for (field, value) in fields {
        if value.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
}

fn mode(value: Option<i32>, field: &str, path: &Path, errors: &mut ErrorList) {
    if let Some(m) = value.filter(|m| !(0..=0o777).contains(m)) {
        errors.push(Error::invalid(&path.child(field), m, MODE));
    }
}

/// Sources whose drivers are gone: kept as they are, checked by nobody.
pub fn anything<T>(_source: &T, _path: &Path, _errors: &mut ErrorList) {}

/// A directory, file or socket of the host.
pub fn host_path(s: &api::HostPathVolumeSource, path: &Path, errors: &mut ErrorList) {
    if s.path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(&s.path, &path.child("path"), errors);
    let valid =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    one_of_if_given(&s.type_, &valid, &path.child("type"), errors);
}

pub fn git_repo(s: &api::GitRepoVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("repository", &s.repository)], path, errors);
    descending(text(&s.directory), &path.child("directory"), errors);
}

pub fn gce_disk(s: &api::GCEPersistentDiskVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("pdName", &s.pd_name)], path, errors);
}

pub fn aws_disk(s: &api::AWSElasticBlockStoreVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("volumeID", &s.volume_id)], path, errors);
}

pub fn secret(s: &api::SecretVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("secretName", text(&s.secret_name))], path, errors);
    mode(s.default_mode, "defaultMode", path, errors);
    keys(items(&s.items), &path.child("items"), errors);
}

pub fn config_map(s: &api::ConfigMapVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("name", &s.name)], path, errors);
    mode(s.default_mode, "defaultMode", path, errors);
    keys(items(&s.items), &path.child("items"), errors);
}

fn keys(list: &[api::KeyToPath], path: &Path, errors: &mut ErrorList) {
    for (i, k) in list.iter().enumerate() {
        key(k, &path.index(i), errors);
    }
}

fn key(k: &api::KeyToPath, path: &Path, errors: &mut ErrorList) {
    required(&[("key", &k.key), ("path", &k.path)], path, errors);
    non_reserved(&k.path, &path.child("path"), errors);
    mode(k.mode, "mode", path, errors);
}

pub fn nfs(s: &api::NFSVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("server", &s.server), ("path", &s.path)], path, errors);
    if !s.path.starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), &s.path, "must be an absolute path"));
    }
}

pub fn iscsi(s: &api::ISCSIVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("targetPortal", &s.target_portal), ("iqn", &s.iqn)], path, errors);
    if !s.iqn.is_empty() {
        iscsi_name(&s.iqn, &path.child("iqn"), errors);
    }
    if !(0..=255).contains(&s.lun) {
        errors.push(Error::invalid(&path.child("lun"), s.lun, rules::between(0, 255)));
    }
    let authenticates = s.chap_auth_discovery == Some(true) || s.chap_auth_session == Some(true);
    if authenticates && s.secret_ref.is_none() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if let Some(name) = &s.initiator_name {
        iscsi_name(name, &path.child("initiatorname"), errors);
    }
}

/// A name of an iSCSI node: iqn, eui or naa (RFC 3720, RFC 3980).
fn iscsi_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let fixed = |rest: &str, len: usize| {
        let mut rest = rest.chars();
        rest.next().is_some() && rest.clone().count() == len && rest.all(|c| c.is_ascii_alphanumeric())
    };
    let valid = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => fixed(&name[3..], 16),
        Some("naa") => fixed(&name[3..], 32),
        _ => {
            errors.push(Error::invalid(path, name, "must be valid format starting with iqn, eui, or naa"));
            return;
        }
    };
    if !valid {
        errors.push(Error::invalid(path, name, "must be valid format"));
    }
}

/// `iqn.2001-04.com.example:storage.disk1`: a month, a reversed domain, and what the owner of the domain chose.
fn is_iqn(name: &str) -> bool {
    let Some((authority, chosen)) = name.strip_prefix("iqn.").and_then(|s| s.split_once(':')) else {
        return false;
    };
    let Some((date, domain)) = authority.split_once('.') else { return false };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && !domain.is_empty()
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !chosen.is_empty()
        && !chosen.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r', '\x0c'])
}

pub fn fc(s: &api::FCVolumeSource, path: &Path, errors: &mut ErrorList) {
    let (targets, wwids) = (items(&s.target_wwns), items(&s.wwids));
    let at = path.child("targetWWNs");
    if targets.is_empty() && wwids.is_empty() {
        errors.push(Error::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if targets.is_empty() {
        return;
    }
    if !wwids.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(&at, targets, why));
    }
    match s.lun {
        None => {
            errors.push(Error::required(&path.child("lun"), "lun is required if targetWWNs is specified"))
        }
        Some(n) if !(0..=255).contains(&n) => {
            errors.push(Error::invalid(&path.child("lun"), n, rules::between(0, 255)));
        }
        Some(_) => {}
    }
}

pub fn glusterfs(s: &api::GlusterfsVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("endpoints", &s.endpoints), ("path", &s.path)], path, errors);
}

pub fn claim(s: &api::PersistentVolumeClaimVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("claimName", &s.claim_name)], path, errors);
}

pub fn rbd(s: &api::RBDVolumeSource, path: &Path, errors: &mut ErrorList) {
    if s.monitors.is_empty() {
        errors.push(Error::required(&path.child("monitors"), ""));
    }
    required(&[("image", &s.image)], path, errors);
}

pub fn cinder(s: &api::CinderVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("volumeID", &s.volume_id)], path, errors);
}

pub fn cephfs(s: &api::CephFSVolumeSource, path: &Path, errors: &mut ErrorList) {
    if s.monitors.is_empty() {
        errors.push(Error::required(&path.child("monitors"), ""));
    }
}

pub fn flex(s: &api::FlexVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("driver", &s.driver)], path, errors);
}

pub fn azure_file(s: &api::AzureFileVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("secretName", &s.secret_name), ("shareName", &s.share_name)], path, errors);
}

pub fn vsphere(s: &api::VsphereVirtualDiskVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("volumePath", &s.volume_path)], path, errors);
}

pub fn portworx(s: &api::PortworxVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("volumeID", &s.volume_id)], path, errors);
}

/// Name of a CSI driver.
pub fn driver_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    errors.extend(invalid_each(path, name, rules::dns1123_subdomain(&name.to_lowercase())));
}

pub fn csi(s: &api::CSIVolumeSource, path: &Path, errors: &mut ErrorList) {
    driver_name(&s.driver, &path.child("driver"), errors);
    if let Some(r) = &s.node_publish_secret_ref {
        let at = path.child("nodePublishSecretRef").child("name");
        if r.name.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            errors.extend(invalid_each(&at, &r.name, rules::dns1123_subdomain(&r.name)));
        }
    }
}

pub fn image(s: &api::ImageVolumeSource, path: &Path, errors: &mut ErrorList) {
    required(&[("reference", text(&s.reference))], path, errors);
    super::one_of(
        text(&s.pull_policy),
        &["Always", "IfNotPresent", "Never"],
        &path.child("pullPolicy"),
        errors,
    );
}

pub fn ephemeral(s: &api::EphemeralVolumeSource, path: &Path, errors: &mut ErrorList) {
    let path = path.child("volumeClaimTemplate");
    let Some(t) = &s.volume_claim_template else {
        errors.push(Error::required(&path, ""));
        return;
    };
    if let Some(m) = &t.metadata {
        errors.extend(selector::labels(m.labels.as_ref(), &path.child("metadata").child("labels")));
        errors.extend(meta::annotations(m, &path.child("metadata").child("annotations")));
    }
    errors.extend(crate::kinds::core::claim_validation::spec(&t.spec, &path.child("spec")));
}

pub fn downward_api(s: &api::DownwardAPIVolumeSource, path: &Path, errors: &mut ErrorList) {
    mode(s.default_mode, "defaultMode", path, errors);
    for f in items(&s.items) {
        downward_file(f, path, errors);
    }
}

fn downward_file(f: &api::DownwardAPIVolumeFile, path: &Path, errors: &mut ErrorList) {
    required(&[("path", &f.path)], path, errors);
    non_reserved(&f.path, &path.child("path"), errors);
    match (&f.field_ref, &f.resource_field_ref) {
        (Some(r), other) => {
            field_ref(r, &FILE_FIELDS, &path.child("fieldRef"), errors);
            if other.is_some() {
                errors.push(Error::invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
        }
        (None, Some(r)) => resource_ref(r, true, &path.child("resourceFieldRef"), errors),
        (None, None) => {
            errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(f.mode, "mode", path, errors);
}

/// Several sources in one directory: no path twice.
pub fn projected(s: &api::ProjectedVolumeSource, path: &Path, errors: &mut ErrorList) {
    mode(s.default_mode, "defaultMode", path, errors);
    let mut paths = BTreeSet::new();
    for (i, p) in items(&s.sources).iter().enumerate() {
        let at = path.child("sources").index(i);
        projection(p, &at, path, &mut paths, errors);
    }
}

fn projection<'a>(
    p: &'a api::VolumeProjection,
    at: &Path,
    volume: &Path,
    paths: &mut BTreeSet<&'a str>,
    errors: &mut ErrorList,
) {
    let mut count = 0;
    let mut named = |name: &str, list: &'a [api::KeyToPath], at: &Path, errors: &mut ErrorList| {
        required(&[("name", name)], at, errors);
        for (i, k) in list.iter().enumerate() {
            key(k, &at.child("items").index(i), errors);
            if !k.path.is_empty() && !paths.insert(&k.path) {
                errors.push(Error::invalid(volume, name, "conflicting duplicate paths"));
            }
        }
    };
    if let Some(s) = &p.secret {
        count += 1;
        named(&s.name, items(&s.items), &at.child("secret"), errors);
    }
    if let Some(s) = &p.config_map {
        count += 1;
        named(&s.name, items(&s.items), &at.child("configMap"), errors);
    }
    if let Some(s) = &p.downward_api {
        count += 1;
        for f in items(&s.items) {
            downward_file(f, &at.child("downwardAPI"), errors);
            if !f.path.is_empty() && !paths.insert(&f.path) {
                errors.push(Error::invalid(volume, &f.path, "conflicting duplicate paths"));
            }
        }
    }
    if let Some(s) = &p.service_account_token {
        count += 1;
        let at = at.child("serviceAccountToken").child("expirationSeconds");
        let n = s.expiration_seconds.unwrap_or(0);
        if n < 600 {
            errors.push(Error::invalid(&at, n, "may not specify a duration less than 10 minutes"));
        }
        if n > 1 << 32 {
            errors.push(Error::invalid(&at, n, "may not specify a duration larger than 2^32 seconds"));
        }
        if s.path.is_empty() {
            errors.push(Error::required(&volume.child("path"), ""));
        } else {
            non_reserved(&s.path, &volume.child("path"), errors);
        }
    }
    if let Some(s) = &p.cluster_trust_bundle {
        count += 1;
        let at = at.child("clusterTrustBundle");
        match (&s.name, &s.signer_name) {
            (Some(_), Some(_)) => {
                errors.push(Error::invalid(&at, s, "only one of name and signerName may be used"));
            }
            (None, None) => {
                errors.push(Error::required(&at, "either name or signerName must be specified"));
            }
            _ => {}
        }
        required(&[("path", &s.path)], &at, errors);
        non_reserved(&s.path, &at.child("path"), errors);
        if !paths.insert(&s.path) {
            errors.push(Error::invalid(volume, &s.path, "conflicting duplicate paths"));
        }
    }
    count += usize::from(p.pod_certificate.is_some());
    if count > 1 {
        errors.push(Error::forbidden(at, "may not specify more than 1 volume type per source"));
    }
}
