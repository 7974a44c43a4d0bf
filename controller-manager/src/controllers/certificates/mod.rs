//! Certificate signing requests: approved for kubelets ([`approving`]), signed with the cluster's authorities
//! ([`signing`], [`authority`]), and removed when nobody needs them any more ([`cleaning`]). [`request`] reads them.

pub mod approving;
mod authority;
pub mod cleaning;
mod request;
pub mod signing;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// The service account that all three write with.
const ACCOUNT: &str = "certificate-controller";

/// Whether the request has a condition that holds.
fn has(csr: &CertificateSigningRequest, condition: &str) -> bool {
    csr.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == condition && matches!(c.status.as_str(), "True" | ""))
}

/// The certificate issued; empty if none.
fn certificate(csr: &CertificateSigningRequest) -> &[u8] {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).map_or(&[], |c| c.0.as_slice())
}
