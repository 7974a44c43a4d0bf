//! Approves the requests of kubelets for client certificates, if their authors may make such requests: for themselves
//! (`certificatesigningrequests/selfnodeclient`) or for any node (`…/nodeclient`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::Store;
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client};

use super::request::{self, Request};
use super::{ACCOUNT, certificate, has};
use crate::context::{Context, synced};
use crate::util::{errors, meta};

const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// A right whose holders' requests are approved.
#[derive(Debug, PartialEq)]
struct Right {
    subresource: &'static str,
    /// Of the condition.
    message: &'static str,
}

const OWN: Right = Right {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Right = Right {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The rights of which one is enough to have the request approved; none if it is not for us to approve.
fn rights(csr: &CertificateSigningRequest) -> anyhow::Result<Vec<Right>> {
    if !certificate(csr).is_empty() || has(csr, "Approved") || has(csr, "Denied") {
        return Ok(Vec::new());
    }
    let request = Request::parse(&csr.spec.request.0)
        .map_err(|e| anyhow::anyhow!("unable to parse csr {:?}: {e}", meta::name(&csr.metadata)))?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != KUBELET_CLIENT || request::check_kubelet_client(&request, usages).is_err() {
        return Ok(Vec::new());
    }
    let own = csr.spec.username.as_deref() == Some(request.common_name.as_str());
    Ok(if own { vec![OWN, ANY] } else { vec![ANY] })
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
    let approver =
        Arc::new(Approver { client: ctx.client(ACCOUNT)?, store: requests.store(), queue: queue.clone() });
    ctx.work("csrapproving", &queue, 5, vec![synced(&requests)], move |name| {
        let approver = approver.clone();
        async move { approver.sync(&name).await }
    });
    Ok(())
}

struct Approver {
    client: Client,
    store: Store<CertificateSigningRequest>,
    queue: WorkQueue<String>,
}

impl Approver {
    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let Some(csr) = self.store.get(name) else { return Ok(()) };
        let rights = match rights(&csr) {
            Ok(rights) => rights,
            Err(error) => {
                // It will not get better.
                tracing::debug!(csr = name, %error, "a certificate signing request can't be read");
                return Ok(());
            }
        };
        if rights.is_empty() {
            return Ok(());
        }
        for right in rights {
            if self.may(&csr, right.subresource).await? {
                return self.approve(&csr, right.message).await;
            }
        }
        // The right may be granted later: asked again after as long as it has been waiting already.
        let age = Timestamp::now().duration_since(meta::created(&csr.metadata)).as_secs().clamp(1, 1000);
        tracing::debug!(csr = name, "the author may not have it approved; asking again later");
        self.queue.add_after(name.to_owned(), Duration::from_secs(age.unsigned_abs()));
        Ok(())
    }

    /// Whether the author of the request holds the right.
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> anyhow::Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    verb: Some("create".into()),
                    subresource: Some(subresource.into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .with_context(|| format!("asking whether {:?} may be approved", meta::name(&csr.metadata)))?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> anyhow::Result<()> {
        let name = meta::name(&csr.metadata);
        let mut approved = csr.clone();
        approved.status.get_or_insert_default().conditions.get_or_insert_default().push(
            CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(message.into()),
                ..CertificateSigningRequestCondition::default()
            },
        );
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.replace_subresource("approval", name, &PostParams::default(), &approved).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("error updating approval for csr {name:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn kubelet(user: &str) -> CertificateSigningRequest {
        let mut csr = CertificateSigningRequest::default();
        csr.spec.request = ByteString(include_bytes!("testdata/kubelet.csr").to_vec());
        csr.spec.signer_name = KUBELET_CLIENT.into();
        csr.spec.usages = Some(vec!["digital signature".into(), "client auth".into()]);
        csr.spec.username = Some(user.into());
        csr
    }

    #[test]
    fn a_node_may_ask_for_itself_and_others_for_nodes() {
        assert_eq!(rights(&kubelet("system:node:n1")).unwrap(), [OWN, ANY]);
        assert_eq!(rights(&kubelet("system:bootstrap:abcdef")).unwrap(), [ANY]);
    }

    #[test]
    fn other_requests_are_left_to_people() {
        let mut serving = kubelet("system:node:n1");
        serving.spec.signer_name = "kubernetes.io/kubelet-serving".into();
        assert!(rights(&serving).unwrap().is_empty());
        let mut usages = kubelet("system:node:n1");
        usages.spec.usages = Some(vec!["server auth".into()]);
        assert!(rights(&usages).unwrap().is_empty());
        let mut decided = kubelet("system:node:n1");
        decided.status.get_or_insert_default().conditions = Some(vec![CertificateSigningRequestCondition {
            type_: "Denied".into(),
            status: "True".into(),
            ..CertificateSigningRequestCondition::default()
        }]);
        assert!(rights(&decided).unwrap().is_empty());
        let mut garbage = kubelet("system:node:n1");
        garbage.spec.request = ByteString(b"x".to_vec());
        assert!(rights(&garbage).is_err());
    }
}
