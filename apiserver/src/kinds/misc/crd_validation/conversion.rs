//! How objects are converted between versions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;

use super::{Options, rules};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::admissionregistration::validation::webhook_url;

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What is wrong with the conversion; `prunes` is false for old definitions that keep unknown fields.
pub fn validate(
    c: &api::CustomResourceConversion,
    prunes: bool,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    if c.strategy != "None" && !prunes {
        let why = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(&path.child("strategy"), &c.strategy, why));
    }
    match c.strategy.as_str() {
        "" => errors.push(Error::required(&path.child("strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(Error::not_supported(&path.child("strategy"), other, &["None", "Webhook"])),
    }
    let client = c.webhook.as_ref().and_then(|w| w.client_config.as_ref());
    let reviews = c.webhook.as_ref().map_or(&[][..], |w| &w.conversion_review_versions);
    let (client_at, reviews_at) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if c.strategy == "Webhook" {
        match client {
            None => errors.push(Error::required(&client_at, "required when strategy is set to Webhook")),
            Some(cc) => client_config(cc, options, &client_at, errors),
        }
        review_versions(reviews, options, &reviews_at, errors);
        return;
    }
    let why = "should not be set when strategy is not set to Webhook";
    if client.is_some() {
        errors.push(Error::forbidden(&client_at, why));
    }
    if !reviews.is_empty() {
        errors.push(Error::forbidden(&reviews_at, why));
    }
}

fn client_config(c: &api::WebhookClientConfig, options: &Options, path: &Path, errors: &mut ErrorList) {
    match (&c.url, &c.service) {
        (Some(url), None) => webhook_url(url, &path.child("url"), errors),
        (None, Some(s)) => service(s, &path.child("service"), errors),
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
    if let Some(bundle) = &c.ca_bundle
        && !options.allow_invalid_ca
        && !has_certificate(&bundle.0)
    {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.push(Error::invalid(&path.child("caBundle"), bundle, why));
    }
}

fn service(s: &api::ServiceReference, path: &Path, errors: &mut ErrorList) {
    // Upstream takes the one for the other.
    if s.namespace.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if s.name.is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    }
    if let Some(p) = s.port.filter(|p| !(1..=65535).contains(p)) {
        let why = format!("port is not valid: {}", rules::between(1, 65535));
        errors.push(Error::invalid(&path.child("port"), p, why));
    }
    let Some(p) = s.path.as_deref().filter(|p| !matches!(*p, "" | "/")) else { return };
    let mut wrong = |why: String| errors.push(Error::invalid(&path.child("path"), p, why));
    if p == "//" {
        return wrong("segment[0] may not be empty".into());
    }
    if !p.starts_with('/') {
        wrong("must start with a '/'".into());
    }
    let mut chars = p.chars();
    chars.next();
    let steps = chars.as_str();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in rules::dns1123_subdomain(step) {
            wrong(format!("segment[{i}]: {why}"));
        }
    }
}

fn review_versions(list: &[String], options: &Options, path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        return errors.push(Error::required(path, ""));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, v) in list.iter().enumerate() {
        if !seen.insert(v) {
            errors.push(Error::invalid(&path.index(i), v, "duplicate version"));
            continue;
        }
        for why in rules::dns1035_label(v) {
            errors.push(Error::invalid(&path.index(i), v, why));
        }
    }
    if options.require_known_review_version && !known(list) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(Error::invalid(path, list, why));
    }
}

fn known(list: &[String]) -> bool {
    list.iter().any(|v| REVIEWS.contains(&v.as_str()))
}

/// True unless a stored definition names only review versions that this server does not know.
pub fn knows_review_version(c: Option<&api::CustomResourceConversion>) -> bool {
    let reviews = c.and_then(|c| c.webhook.as_ref()).map_or(&[][..], |w| &w.conversion_review_versions);
    reviews.is_empty() || known(reviews)
}

/// True if a stored definition has a bundle without certificates.
pub fn has_invalid_ca(c: Option<&api::CustomResourceConversion>) -> bool {
    let client = c.and_then(|c| c.webhook.as_ref()).and_then(|w| w.client_config.as_ref());
    let bundle = client.and_then(|c| c.ca_bundle.as_ref()).map_or(&[][..], |b| &b.0);
    !bundle.is_empty() && !has_certificate(bundle)
}

fn has_certificate(bundle: &[u8]) -> bool {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut any = false;
    for cert in CertificateDer::pem_slice_iter(bundle) {
        let parsed = cert.is_ok_and(|c| x509_parser::parse_x509_certificate(&c).is_ok());
        if !parsed {
            return false;
        }
        any = true;
    }
    any
}
