//! Deletes certificate signing requests some time after they were decided, or were left undecided.

use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ACCOUNT, certificate};
use crate::context::{Context, synced};
use crate::util::{errors, meta};

/// Requests that were answered are kept so long for people to see.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Requests that were not answered are kept so long.
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// When the request may be deleted; `None` if not as long as nothing about it changes.
fn due(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |at: Timestamp, keep: SignedDuration| at.checked_add(keep).ok();
    let conditions: Vec<_> = csr.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect();
    if conditions.is_empty() {
        return after(csr.metadata.creation_timestamp.as_ref()?.0, WAITING);
    }
    let issued = certificate(csr);
    let of_condition = conditions.iter().filter_map(|c| {
        let at = c.last_update_time.as_ref()?.0;
        match c.type_.as_str() {
            "Denied" | "Failed" => after(at, DECIDED),
            "Approved" => after(at, if issued.is_empty() { WAITING } else { DECIDED }),
            _ => None,
        }
    });
    let approved = conditions.iter().any(|c| c.type_ == "Approved");
    let expired = approved.then(|| expiry(issued)).flatten();
    of_condition.chain(expired).min()
}

/// When the certificate ends.
fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    Timestamp::from_second(cert.validity().not_after.timestamp()).ok()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let requests = ctx.informers.of::<CertificateSigningRequest>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    requests.on_change(move |d| {
        if !d.is_deleted() {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let (client, store, q) = (ctx.client(ACCOUNT)?, requests.store(), queue.clone());
    ctx.work("csrcleaner", &queue, 1, vec![synced(&requests)], move |name| {
        let (client, store, queue) = (client.clone(), store.clone(), q.clone());
        async move {
            let Some(csr) = store.get(&name) else { return Ok(()) };
            let Some(at) = due(&csr) else { return Ok(()) };
            let left = at.duration_since(Timestamp::now());
            if left.is_positive() {
                queue.add_after(name, Duration::try_from(left).unwrap_or_default());
                return Ok(());
            }
            let api: Api<CertificateSigningRequest> = Api::all(client);
            let same = Preconditions { uid: csr.metadata.uid.clone(), resource_version: None };
            tracing::info!(csr = name, "deleting an old certificate signing request");
            match api.delete(&name, &DeleteParams::default().preconditions(same)).await {
                Err(e) if errors::not_found(&e) => Ok(()),
                other => other.map(|_| ()).with_context(|| format!("unable to delete CSR {name:?}")),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    fn request(conditions: &[&str], certificate: &str) -> CertificateSigningRequest {
        let mut csr = CertificateSigningRequest::default();
        csr.metadata.creation_timestamp = Some(meta::api_time(Timestamp::UNIX_EPOCH));
        let status = csr.status.get_or_insert_default();
        status.conditions = Some(
            conditions
                .iter()
                .map(|type_| CertificateSigningRequestCondition {
                    type_: (*type_).into(),
                    last_update_time: Some(meta::api_time(Timestamp::UNIX_EPOCH)),
                    ..CertificateSigningRequestCondition::default()
                })
                .collect(),
        );
        status.certificate = Some(ByteString(certificate.as_bytes().to_vec()));
        csr
    }

    #[test]
    fn decided_requests_go_soon_and_others_after_a_day() {
        let hours = |csr: &CertificateSigningRequest| due(csr).map(|t| t.as_second() / 3600);
        assert_eq!(hours(&request(&[], "")), Some(24));
        assert_eq!(hours(&request(&["Denied"], "")), Some(1));
        assert_eq!(hours(&request(&["Approved", "Failed"], "")), Some(1));
        assert_eq!(hours(&request(&["Approved"], "")), Some(24), "nobody has signed it yet");
        assert_eq!(hours(&request(&["Approved"], "a certificate")), Some(1));
        assert_eq!(hours(&request(&["Other"], "")), None);
    }
}
