//! Checks of what parametrizes policies.

use k8s_openapi::api::admissionregistration::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::{invalid_each, selector, text};

/// `paramKind` of a policy.
pub fn kind(k: &api::ParamKind, path: &Path, errors: &mut ErrorList) {
    let api_version = k.api_version.as_deref().unwrap_or_default();
    let at = path.child("apiVersion");
    match (api_version, api_version.matches('/').count()) {
        ("", _) => errors.push(Error::required(&at, "")),
        (_, 0 | 1) => {
            let (group, version) = match api_version {
                "/" => ("", ""),
                v => v.split_once('/').unwrap_or(("", v)),
            };
            let group_problems = text::dns1123_subdomain(group);
            if !group.is_empty() && !group_problems.is_empty() {
                errors.push(Error::invalid(&at, group, group_problems.join(",")));
            }
            let version_problems = text::dns1035_label(version);
            if version.is_empty() {
                errors.push(Error::invalid(&at, api_version, "version must be specified"));
            } else if !version_problems.is_empty() {
                errors.push(Error::invalid(&at, version, version_problems.join(",")));
            }
        }
        _ => {
            let why = format!("unexpected GroupVersion string: {api_version}");
            errors.push(Error::invalid(&at, api_version, why));
        }
    }
    let at = path.child("kind");
    let kind = k.kind.as_deref().unwrap_or_default();
    let problems = text::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !problems.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(Error::invalid(&at, kind, why));
    }
}

/// `paramRef` of a binding.
pub fn reference(r: &api::ParamRef, path: &Path, errors: &mut ErrorList) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = r.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        errors.extend(invalid_each(&path.child("name"), name, text::path_segment(name, false)));
        if r.selector.is_some() {
            errors.push(Error::forbidden(&path.child("name"), EXCLUSIVE));
        }
    }
    if r.selector.is_some() {
        errors.extend(selector::label_selector(r.selector.as_ref(), &path.child("selector")));
        if !name.is_empty() {
            errors.push(Error::forbidden(&path.child("selector"), EXCLUSIVE));
        }
    } else if name.is_empty() {
        errors.push(Error::required(path, "one of name or selector must be specified"));
    }
    let at = path.child("parameterNotFoundAction");
    match r.parameter_not_found_action.as_deref() {
        None | Some("") => errors.push(Error::required(&at, "")),
        Some("Allow" | "Deny") => {}
        Some(other) => errors.push(Error::not_supported(&at, other, &["Deny", "Allow"])),
    }
}
