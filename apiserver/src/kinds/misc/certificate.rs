//! Certificate signing requests: they carry who asked, as the server saw it, and are decided by conditions.

use k8s_openapi::api::certificates::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::kinds::semantic::items;
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
}
