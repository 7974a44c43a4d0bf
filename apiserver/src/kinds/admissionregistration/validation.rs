//! Checks that webhooks and policies share: what they match, and how they are reached.

use k8s_openapi::api::admissionregistration::v1 as api;

use super::expressions;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::semantic::items;
use crate::kinds::validate::{invalid_each, selector, text as rules, url};

/// Which requests are matched.
pub struct Rule<'a> {
    pub operations: &'a [String],
    pub groups: &'a [String],
    pub versions: &'a [String],
    pub resources: &'a [String],
    pub scope: &'a Option<String>,
}

/// Wildcards stand alone. `what` the list is of.
fn wildcard(list: &[String], what: &str, path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    } else if list.len() > 1 && list.iter().any(|v| v == "*") {
        errors.push(Error::invalid(path, list, format!("if '*' is present, must not specify other {what}")));
    }
}

/// Resources with subresources: what a wildcard covers may not be named beside it.
fn resources(list: &[String], path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let (mut any_sub, mut any_resource): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut plain = false;
    for (i, r) in list.iter().enumerate() {
        if r.is_empty() {
            errors.push(Error::required(&path.index(i), ""));
            continue;
        }
        let Some((resource, sub)) = r.split_once('/') else {
            // As upstream: the last one decides.
            plain = r != "*";
            continue;
        };
        if any_sub.contains(&resource) {
            let why = format!("if '{resource}/*' is present, must not specify {r}");
            errors.push(Error::invalid(&path.index(i), r, why));
        }
        if any_resource.contains(&sub) {
            let why = format!("if '*/{sub}' is present, must not specify {r}");
            errors.push(Error::invalid(&path.index(i), r, why));
        }
        if sub == "*" {
            any_sub.push(resource);
        }
        if resource == "*" {
            any_resource.push(sub);
        }
    }
    if list.len() > 1 && list.iter().any(|r| r == "*/*") {
        errors.push(Error::invalid(path, list, "if '*/*' is present, must not specify other resources"));
    }
    if plain && list.iter().any(|r| r == "*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path, list, why));
    }
}

fn empty_entries(list: &[String], path: &Path, errors: &mut ErrorList) {
    for (i, _) in list.iter().enumerate().filter(|(_, v)| v.is_empty()) {
        errors.push(Error::required(&path.index(i), ""));
    }
}

/// One rule of a webhook or a policy.
pub fn rule(r: &Rule<'_>, path: &Path, errors: &mut ErrorList) {
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let at = path.child("operations");
    wildcard(r.operations, "operations", &at, errors);
    for (i, o) in r.operations.iter().enumerate().filter(|(_, o)| !operations.contains(&o.as_str())) {
        errors.push(Error::not_supported(&at.index(i), o, &operations));
    }
    wildcard(r.groups, "API groups", &path.child("apiGroups"), errors);
    wildcard(r.versions, "API versions", &path.child("apiVersions"), errors);
    empty_entries(r.versions, &path.child("apiVersions"), errors);
    resources(r.resources, &path.child("resources"), errors);
    one_of_if_given(r.scope, &["*", "Cluster", "Namespaced"], &path.child("scope"), errors);
}

/// What a policy or a binding matches.
pub fn match_resources(m: &api::MatchResources, path: &Path, errors: &mut ErrorList) {
    one_of_if_given(&m.match_policy, &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    for (field, s) in [("namespaceSelector", &m.namespace_selector), ("objectSelector", &m.object_selector)] {
        errors.extend(selector::label_selector(s.as_ref(), &path.child(field)));
    }
    for (field, list) in
        [("resourceRules", &m.resource_rules), ("excludeResourceRules", &m.exclude_resource_rules)]
    {
        for (i, r) in items(list).iter().enumerate() {
            let at = path.child(field).index(i).child("resourceNames");
            resource_names(items(&r.resource_names), &at, errors);
            let r = Rule {
                operations: items(&r.operations),
                groups: items(&r.api_groups),
                versions: items(&r.api_versions),
                resources: items(&r.resources),
                scope: &r.scope,
            };
            rule(&r, &path.child(field).index(i), errors);
        }
    }
}

/// The names of objects that a rule is about.
fn resource_names(names: &[String], path: &Path, errors: &mut ErrorList) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, n) in names.iter().enumerate() {
        errors.extend(invalid_each(&path.index(i), n, rules::path_segment(n, false)));
        if !seen.insert(n) {
            errors.push(Error::duplicate(&path.index(i), n));
        }
    }
}

/// A webhook of either kind.
pub struct Webhook<'a> {
    pub name: &'a str,
    pub client: &'a api::WebhookClientConfig,
    pub rules: &'a [api::RuleWithOperations],
    pub failure: &'a Option<String>,
    pub matching: &'a Option<String>,
    /// None where the client left it out.
    pub side_effects: Option<&'a str>,
    pub timeout: Option<i32>,
    pub namespaces: &'a Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    pub objects: &'a Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    pub reviews: &'a [String],
    pub conditions: &'a [api::MatchCondition],
    /// Only mutating webhooks may be asked again.
    pub reinvocation: &'a Option<String>,
}

fn qualified_domain(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let wrong = rules::dns1123_subdomain(name);
    if !wrong.is_empty() {
        errors.extend(invalid_each(path, name, wrong));
    } else if name.split('.').count() < 3 {
        errors.push(Error::invalid(
            path,
            name,
            "should be a domain with at least three segments separated by dots",
        ));
    }
}

/// One webhook, in upstream's order.
pub fn webhook(w: &Webhook<'_>, path: &Path, errors: &mut ErrorList) {
    qualified_domain(w.name, &path.child("name"), errors);
    for (i, r) in w.rules.iter().enumerate() {
        let r = Rule {
            operations: items(&r.operations),
            groups: items(&r.api_groups),
            versions: items(&r.api_versions),
            resources: items(&r.resources),
            scope: &r.scope,
        };
        rule(&r, &path.child("rules").index(i), errors);
    }
    one_of_if_given(w.failure, &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
    one_of_if_given(w.matching, &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    let side_effects = w.side_effects.unwrap_or_default();
    if !["None", "NoneOnDryRun"].contains(&side_effects) {
        let at = path.child("sideEffects");
        errors.push(if w.side_effects.is_none() {
            Error::required(&at, "must specify one of None, NoneOnDryRun")
        } else {
            Error::not_supported(&at, side_effects, &["None", "NoneOnDryRun"])
        });
    }
    if let Some(n) = w.timeout.filter(|n| !(1..=30).contains(n)) {
        errors.push(Error::invalid(
            &path.child("timeoutSeconds"),
            n,
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    errors.extend(selector::label_selector(w.namespaces.as_ref(), &path.child("namespaceSelector")));
    errors.extend(selector::label_selector(w.objects.as_ref(), &path.child("objectSelector")));
    client(w.client, &path.child("clientConfig"), errors);
    expressions::match_conditions(w.conditions, false, &path.child("matchConditions"), errors);
    one_of_if_given(w.reinvocation, &["IfNeeded", "Never"], &path.child("reinvocationPolicy"), errors);
    reviews(w.reviews, &path.child("admissionReviewVersions"), errors);
}

fn client(c: &api::WebhookClientConfig, path: &Path, errors: &mut ErrorList) {
    match (&c.url, &c.service) {
        (Some(url), None) => webhook_url(url, &path.child("url"), errors),
        (None, Some(s)) => {
            let at = path.child("service");
            // Upstream takes the two for each other.
            if s.namespace.is_empty() {
                errors.push(Error::required(&at.child("name"), ""));
            }
            if s.name.is_empty() {
                errors.push(Error::required(&at.child("namespace"), ""));
            }
            if let Some(p) = s.port.filter(|p| !(1..=65535).contains(p)) {
                let why = format!("port is not valid: {}", rules::between(1, 65535));
                errors.push(Error::invalid(&at.child("port"), p, why));
            }
            service_path(s.path.as_deref().unwrap_or_default(), &at.child("path"), errors);
        }
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
}

/// The path of a service: segments are names.
fn service_path(given: &str, path: &Path, errors: &mut ErrorList) {
    if given.is_empty() || given == "/" {
        return;
    }
    if given == "//" {
        errors.push(Error::invalid(path, given, "segment[0] may not be empty"));
        return;
    }
    if !given.starts_with('/') {
        errors.push(Error::invalid(path, given, "must start with a '/'"));
    }
    let mut rest = given.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(path, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for why in rules::dns1123_subdomain(step) {
            errors.push(Error::invalid(path, given, format!("segment[{i}]: {why}")));
        }
    }
}

/// Where a webhook is, if by URL.
pub(crate) fn webhook_url(given: &str, path: &Path, errors: &mut ErrorList) {
    let form = "; desired format: https://host[/path]";
    let parsed = match url::parse(given) {
        Ok(u) => u,
        Err(e) => {
            errors.push(Error::required(path, format!("url must be a valid URL: {e}{form}")));
            return;
        }
    };
    if parsed.scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{form}");
        errors.push(Error::invalid(path, parsed.scheme, why));
    }
    if parsed.host.is_empty() {
        errors.push(Error::invalid(path, "", format!("host must be specified{form}")));
    }
    if let Some(u) = parsed.user {
        errors.push(Error::invalid(path, u, "user information is not permitted in the URL"));
    }
    for (part, why) in [
        (parsed.fragment, "fragments are not permitted in the URL"),
        (parsed.query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(Error::invalid(path, part, why));
        }
    }
}

fn reviews(list: &[String], path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        errors.push(Error::required(path, "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, v) in list.iter().enumerate() {
        if !seen.insert(v) {
            errors.push(Error::invalid(&path.index(i), v, "duplicate version"));
            continue;
        }
        errors.extend(invalid_each(&path.index(i), v, rules::dns1035_label(v)));
    }
    if !list.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.push(Error::invalid(path, list, "must include at least one of v1, v1beta1"));
    }
}
