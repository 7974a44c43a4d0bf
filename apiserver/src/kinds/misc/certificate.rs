//! Certificate signing requests: they carry who asked, as the server saw it, and are decided by conditions.

use k8s_openapi::api::certificates::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of certificate signing requests.
pub struct CertificateSigningRequest;

/// Dates the conditions that the client left undated.
fn date_conditions(
    csr: &mut api::CertificateSigningRequest,
    old: &api::CertificateSigningRequest,
    now: jiff::Timestamp,
) {
    let now = Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before = old.status.as_ref().map(|s| items(&s.conditions)).unwrap_or_default();
    let Some(status) = &mut csr.status else { return };
    for c in status.conditions.iter_mut().flatten() {
        c.last_update_time.get_or_insert_with(|| now.clone());
        if c.last_transition_time.is_none() {
            let same = before.iter().find(|b| b.type_ == c.type_ && b.status == c.status);
            let kept = same.and_then(|b| b.last_transition_time.clone());
            c.last_transition_time = Some(kept.unwrap_or_else(|| now.clone()));
        }
    }
}

fn is_decision(c: &api::CertificateSigningRequestCondition) -> bool {
    matches!(c.type_.as_str(), "Approved" | "Denied")
}

impl Strategy for CertificateSigningRequest {
    type Object = api::CertificateSigningRequest;

    fn default(&self, csr: &mut Self::Object) {
        csr.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, cx: &mut Context, csr: &mut Self::Object) {
        let user = &cx.user;
        csr.spec.username = Some(user.name.clone()).filter(|s| !s.is_empty());
        csr.spec.uid = Some(user.uid.clone()).filter(|s| !s.is_empty());
        csr.spec.groups = Some(user.groups.clone()).filter(|g| !g.is_empty());
        csr.spec.extra = Some(user.extra.clone()).filter(|e| !e.is_empty());
        csr.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, csr: &mut Self::Object, old: &Self::Object) {
        csr.spec = old.spec.clone();
        match cx.subresource.as_str() {
            "status" => {
                // Decisions are the approval endpoint's alone: what stands is kept, where the client dropped it.
                let stood = old.status.as_ref().map(|s| items(&s.conditions)).unwrap_or_default();
                let kept: Vec<_> = stood.iter().filter(|c| is_decision(c)).cloned().collect();
                let status = csr.status.get_or_insert_with(Default::default);
                let mut conditions: Vec<_> =
                    items(&status.conditions).iter().filter(|c| !is_decision(c)).cloned().collect();
                conditions.splice(0..0, kept);
                status.conditions = Some(conditions).filter(|c| !c.is_empty());
                date_conditions(csr, old, cx.now());
            }
            "approval" => {
                let conditions = csr.status.take().and_then(|s| s.conditions);
                let mut status = old.status.clone().unwrap_or_default();
                status.conditions = conditions;
                csr.status = Some(status);
                date_conditions(csr, old, cx.now());
            }
            _ => csr.status = old.status.clone(),
        }
    }

    fn validate(&self, cx: &mut Context, csr: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "approval" {
            return errors;
        }
        let path = Path::new("spec");
        let s = &csr.spec;
        if let Err(why) = request(&s.request.0) {
            errors.push(Error::invalid(&path.child("request"), &s.request, why));
        }
        let usages = items(&s.usages);
        if usages.is_empty() {
            errors.push(Error::required(&path.child("usages"), ""));
        }
        for (i, u) in usages.iter().enumerate().filter(|(_, u)| !USAGES.contains(&u.as_str())) {
            errors.push(Error::not_supported(&path.child("usages").index(i), u, &USAGES));
        }
        signer(&s.signer_name, &path.child("signerName"), &mut errors);
        if let Some(n) = s.expiration_seconds.filter(|n| *n < 600) {
            errors.push(Error::invalid(
                &path.child("expirationSeconds"),
                n,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, csr: &Self::Object, _old: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.is_main() {
            return errors;
        }
        let list = csr.status.as_ref().map(|s| items(&s.conditions)).unwrap_or_default();
        let path = Path::new("status").child("conditions");
        for (i, c) in list.iter().enumerate() {
            if c.type_.is_empty() {
                errors.push(Error::required(&path.index(i).child("type"), ""));
            }
            if !["False", "True", "Unknown"].contains(&c.status.as_str()) {
                let at = path.index(i).child("status");
                errors.push(Error::not_supported(&at, &c.status, &["False", "True", "Unknown"]));
            }
        }
        let has = |kind: &str| list.iter().any(|c| c.type_ == kind);
        if has("Approved") && has("Denied") {
            errors.push(Error::invalid(
                &path,
                "Approved",
                "Approved and Denied conditions are mutually exclusive",
            ));
        }
        errors
    }
}

/// What a certificate may be used for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A PEM block with a certificate request in it.
fn request(pem: &[u8]) -> Result<(), String> {
    use x509_parser::prelude::FromDer;
    let refused = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| refused())?;
    if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
        return Err(refused());
    }
    x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
        .map(|_| ())
        .map_err(|e| format!("asn1: structure error: {e}"))
}

/// `domain/path` of whoever signs.
fn signer(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, r)| !r.contains('/')) else {
        errors.push(Error::invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
        return;
    };
    errors.extend(invalid_each(path, domain, text::dns1123_subdomain(domain)));
    if !domain.contains('.') {
        errors.push(Error::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for part in rest.split('.') {
        errors.extend(invalid_each(path, rest, text::dns1123_label(&part.to_lowercase())));
    }
    if name.len() > 571 {
        errors.push(Error::too_long(path, 571));
    }
}
