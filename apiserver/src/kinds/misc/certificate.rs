//! Certificate signing requests: they carry who asked, as the server saw it, and are decided by conditions.

use k8s_openapi::api::certificates::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;
use crate::kinds::validate::text;
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

/// What is to be signed.
const REQUEST: &str = "/spec/request";

impl Strategy for CertificateSigningRequest {
    type Object = api::CertificateSigningRequest;

    fn optional(&self) -> &'static [&'static str] {
        &[REQUEST]
    }

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
        // The spec of a request never changes.
        if cx.updating {
            return errors;
        }
        let path = Path::new("spec");
        let s = &csr.spec;
        if let Err(why) = request(&s.request.0) {
            let shown = Some(&s.request).filter(|_| !cx.lacks(REQUEST));
            errors.push(Error::invalid(&path.child("request"), shown, why));
        }
        let usages = items(&s.usages);
        if usages.is_empty() {
            errors.push(Error::required(&path.child("usages"), ""));
        }
        for (i, u) in usages.iter().enumerate().filter(|(_, u)| !USAGES.contains(&u.as_str())) {
            errors.push(Error::not_supported(&path.child("usages").index(i), u, &USAGES));
        }
        for (i, u) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
            errors.push(Error::duplicate(&path.child("usages").index(i), u));
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

    fn validate_update(&self, cx: &mut Context, csr: &Self::Object, old: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let blank = api::CertificateSigningRequestStatus::default();
        let (new, before) = (csr.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
        let (list, stood) = (items(&new.conditions), items(&before.conditions));
        let path = Path::new("status").child("conditions");
        conditions(list, stood, &path, &mut errors);
        let (pem, kept) = (new.certificate.as_ref(), before.certificate.as_ref());
        if pem != kept
            && let Err(why) = certificate(pem.map_or(&[], |c| &c.0))
        {
            let at = Path::new("status").child("certificate");
            errors.push(Error::invalid(&at, "<certificate data>", why));
        }
        let of = |list: &[Condition], kind: &str| -> Vec<Condition> {
            list.iter().filter(|c| c.type_ == kind).cloned().collect()
        };
        for kind in ["Approved", "Denied", "Failed"] {
            if of(list, kind).len() < of(stood, kind).len() {
                let why = format!("updates may not remove a condition of type \"{kind}\"");
                errors.push(Error::forbidden(&path, why));
            }
        }
        for kind in ["Approved", "Denied"].into_iter().filter(|_| cx.subresource != "approval") {
            if of(list, kind).len() > of(stood, kind).len() {
                let why = format!("updates may not add a condition of type \"{kind}\"");
                errors.push(Error::forbidden(&path, why));
            }
        }
        if pem != kept {
            let at = Path::new("status").child("certificate");
            if !cx.is_status() {
                errors.push(Error::forbidden(&at, "updates may not set certificate content"));
            } else if kept.is_some_and(|k| !k.0.is_empty()) {
                errors.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
            }
        }
        errors
    }
}

type Condition = api::CertificateSigningRequestCondition;

/// Conditions are typed, decided one way, and said once; faults that the stored ones (`old`) have are borne.
fn conditions(list: &[Condition], old: &[Condition], path: &Path, errors: &mut ErrorList) {
    let has = |list: &[Condition], kind: &str| list.iter().any(|c| c.type_ == kind);
    let repeats = |list: &[Condition], i: usize| list[..i].iter().any(|c| c.type_ == list[i].type_);
    let both_stood = has(old, "Approved") && has(old, "Denied");
    let repeats_stood = (0..old.len()).any(|i| repeats(old, i));
    for (i, c) in list.iter().enumerate() {
        let at = path.index(i);
        if c.type_.is_empty() && !has(old, "") {
            errors.push(Error::required(&at.child("type"), ""));
        }
        let decided = matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed");
        let allowed: &[&str] = if decided { &["True"] } else { &["False", "True", "Unknown"] };
        if c.status.is_empty() {
            errors.push(Error::required(&at.child("status"), ""));
        } else if !allowed.contains(&c.status.as_str()) {
            errors.push(Error::not_supported(&at.child("status"), &c.status, allowed));
        }
        let other = match c.type_.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && !both_stood && has(&list[..i], other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(Error::invalid(path, &c.type_, why));
        }
        if repeats(list, i) && !repeats_stood {
            errors.push(Error::duplicate(&at.child("type"), &c.type_));
        }
    }
}

/// PEM blocks that are certificates without headers, at least one.
fn certificate(pem: &[u8]) -> Result<(), String> {
    use x509_parser::prelude::FromDer;
    if pem.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem).filter_map(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        blocks += 1;
        let mut rest = &block.contents[..];
        if rest.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        while !rest.is_empty() {
            rest = x509_parser::certificate::X509Certificate::from_der(rest)
                .map_err(|_| "x509: malformed certificate".to_owned())?
                .0;
        }
    }
    if blocks == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
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
    if block.label != "CERTIFICATE REQUEST" {
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
    if domain.len() > 253 {
        errors.push(Error::too_long(path, 253));
    }
    first_wrong(domain, text::dns1123_label, path, errors);
    if !domain.contains('.') {
        errors.push(Error::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    first_wrong(rest, text::dns1123_subdomain, path, errors);
    if name.len() > 571 {
        errors.push(Error::too_long(path, 571));
    }
}

/// Tells of the first of the labels between dots that breaks the rule.
fn first_wrong(part: &str, rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut ErrorList) {
    let Some((label, wrong)) = part.split('.').map(|l| (l, rule(l))).find(|(_, w)| !w.is_empty()) else {
        return;
    };
    for why in wrong {
        errors.push(Error::invalid(path, part, format!("validating label {label:?}: {why}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(conditions: serde_json::Value) -> api::CertificateSigningRequest {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "c"},
            "spec": {"request": "", "signerName": "a.b/c"}, "status": {"conditions": conditions}}))
        .expect("a request")
    }

    #[test]
    fn a_request_is_decided_once_and_stays_so() {
        let condition = |kind: &str| serde_json::json!({"type": kind, "status": "True"});
        let approved = with(serde_json::json!([condition("Approved")]));
        let mut cx = Context { subresource: "approval".to_owned(), updating: true, ..Context::default() };
        let mut told = |new: &api::CertificateSigningRequest, old: &api::CertificateSigningRequest| {
            CertificateSigningRequest.validate_update(&mut cx, new, old).aggregate()
        };
        assert_eq!(told(&approved, &with(serde_json::json!([]))), "[]");
        let both = with(serde_json::json!([condition("Approved"), condition("Denied")]));
        assert!(told(&both, &approved).contains("mutually exclusive"));
        assert!(told(&with(serde_json::json!([])), &approved).contains("may not remove"));
        let doubt = with(serde_json::json!([{"type": "Approved", "status": "Unknown"}]));
        assert!(told(&doubt, &approved).contains("supported values: \"True\""));
    }

    #[test]
    fn signers_are_a_domain_and_a_path() {
        let told = |name: &str| {
            let mut errors = ErrorList::new();
            signer(name, &Path::new("signerName"), &mut errors);
            errors.aggregate()
        };
        assert_eq!(told("a.b/c.d"), "[]");
        assert!(told("../x").starts_with("signerName: Invalid value: \"..\": validating label \"\": "));
        assert!(told("a/b").contains("at least two segments"));
    }
}
