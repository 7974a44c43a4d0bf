//! `CertificateApproval`, `CertificateSigning`, `ClusterTrustBundleAttest` and `CertificateSubjectRestriction`: who may
//! approve, sign and vouch for which signer, and that nobody becomes cluster admin through a signing request.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::authz::{self, Authorizer};
use crate::lookup::text;
use crate::request::UserInfo;
use crate::status::ApiResult;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

struct Approval(Arc<Authorizer>);
struct Signing(Arc<Authorizer>);
struct SubjectRestriction;
struct Attest(Arc<Authorizer>);

pub(crate) fn build_attest(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Attest(env.authorizer.clone()))
}

pub(crate) fn build_approval(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Approval(env.authorizer.clone()))
}

pub(crate) fn build_signing(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Signing(env.authorizer.clone()))
}

pub(crate) fn build_subject_restriction(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(SubjectRestriction)
}

/// Whether the user holds `verb` on the signer, by its name or by its domain with a star.
async fn may(authorizer: &Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(d, _)| d);
    for name in [signer, &format!("{domain}/*")] {
        let ask = authz::Attributes::resource(user, verb, GROUP, "signers", name);
        if authorizer.authorize(&ask).await.is_allowed() {
            return true;
        }
    }
    false
}

#[async_trait]
impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(old) = attrs.old.filter(|_| attrs.is(GROUP, RESOURCE, "approval")) else { return Ok(()) };
        let signer = text(old, "/spec/signerName");
        if may(&self.0, attrs.user, "approve", signer).await {
            return Ok(());
        }
        let signer = authz::quoted(signer);
        Err(attrs
            .forbidden(object, format!("user not permitted to approve requests with signerName {signer}")))
    }
}

/// Whether all that a write changes is who owns the object and what holds up its deletion.
fn only_collects_garbage(new: &Value, old: &Value) -> bool {
    let rest = |o: &Value| {
        let mut o = o.clone();
        for f in ["ownerReferences", "finalizers", "managedFields"] {
            if let Some(m) = o["metadata"].as_object_mut() {
                m.remove(f);
            }
        }
        o
    };
    rest(new) == rest(old)
}

#[async_trait]
impl Plugin for Attest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let Some(bundle) = object.filter(|_| written && attrs.is(GROUP, "clustertrustbundles", "")) else {
            return Ok(());
        };
        let signer = text(bundle, "/spec/signerName");
        if signer.is_empty()
            || attrs.old.is_some_and(|old| only_collects_garbage(bundle, old))
            || may(&self.0, attrs.user, "attest", signer).await
        {
            return Ok(());
        }
        let signer = authz::quoted(signer);
        Err(attrs.forbidden(object, format!("user not permitted to attest for signerName {signer}")))
    }
}

#[async_trait]
impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let (Some(old), Some(new)) = (attrs.old.filter(|_| attrs.is(GROUP, RESOURCE, "status")), object)
        else {
            return Ok(());
        };
        let kept =
            ["/status/certificate", "/status/conditions"].iter().all(|p| old.pointer(p) == new.pointer(p));
        let signer = text(old, "/spec/signerName");
        if kept || may(&self.0, attrs.user, "sign", signer).await {
            return Ok(());
        }
        let signer = authz::quoted(signer);
        Err(attrs.forbidden(object, format!("user not permitted to sign requests with signerName {signer}")))
    }
}

#[async_trait]
impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(csr) =
            object.filter(|_| attrs.is(GROUP, RESOURCE, "") && attrs.operation == Operation::Create)
        else {
            return Ok(());
        };
        if text(csr, "/spec/signerName") != CLIENT_SIGNER {
            return Ok(());
        }
        let pem = STANDARD.decode(text(csr, "/spec/request")).unwrap_or_default();
        let subject =
            subject(&pem).map_err(|e| attrs.forbidden(object, format!("failed to parse CSR: {e}")))?;
        if subject.organizations.iter().any(|o| o == authz::PRIVILEGED_GROUP) {
            return Err(attrs.forbidden(
                object,
                format!(
                    "use of {CLIENT_SIGNER} signer with {} group is not allowed",
                    authz::PRIVILEGED_GROUP
                ),
            ));
        }
        Ok(())
    }
}

struct Subject {
    common_name: String,
    organizations: Vec<String>,
}

fn subject(pem: &[u8]) -> Result<Subject, String> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|e| e.to_string())?;
    let name = &csr.certification_request_info.subject;
    Ok(Subject {
        common_name: name
            .iter_common_name()
            .last()
            .and_then(|a| a.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        organizations: name.iter_organization().filter_map(|a| a.as_str().ok().map(str::to_owned)).collect(),
    })
}

/// The common name that a signing request in PEM form asks for.
pub(crate) fn common_name(pem: &[u8]) -> Result<String, String> {
    subject(pem).map(|s| s.common_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::authz::rbac::Kind;
    use crate::lookup::Resource;
    use serde_json::json;

    const CSR: Resource =
        Resource { group: GROUP, version: "v1", resource: RESOURCE, kind: "CertificateSigningRequest" };

    fn request(org: &str) -> String {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, org);
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    }

    #[tokio::test]
    async fn nobody_asks_for_masters() {
        let (env, _) = environment([]);
        let p = build_subject_restriction(&env);
        let csr = |org: &str, signer: &str| {
            Some(json!({"metadata":{"name":"c"},"spec":{"signerName":signer,"request":request(org)}}))
        };
        let w = Write::create(CSR, "");
        assert!(w.run(&*p, csr("dev", CLIENT_SIGNER)).await.is_ok());
        assert!(w.run(&*p, csr("system:masters", "other/x")).await.is_ok());
        let e = w.run(&*p, csr("system:masters", CLIENT_SIGNER)).await.unwrap_err();
        assert!(e.message.ends_with("signer with system:masters group is not allowed"));
        let bad = Some(json!({"spec":{"signerName":CLIENT_SIGNER,"request":"AAAA"}}));
        assert_eq!(w.run(&*p, bad).await.unwrap_err().code, 403);
        assert_eq!(common_name(&STANDARD.decode(request("x")).unwrap()).unwrap(), "jane");
    }

    #[tokio::test]
    async fn approval_needs_the_signer() {
        let (env, _) = environment([]);
        env.authorizer.rbac().upsert(
            Kind::ClusterRole,
            &json!({"metadata":{"name":"r"},"rules":[{"verbs":["approve"],"apiGroups":[GROUP],"resources":["signers"],"resourceNames":["example.com/*"]}]}),
        );
        env.authorizer.rbac().upsert(
            Kind::ClusterRoleBinding,
            &json!({"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"r"},"subjects":[{"kind":"User","name":"u"}]}),
        );
        let run = async |plugin: Arc<dyn Plugin>, sub, signer: &str| {
            let old = json!({"metadata":{"name":"c"},"spec":{"signerName":signer}});
            let mut new = old.clone();
            new["status"] = json!({"certificate":"x"});
            let mut w = Write::create(CSR, "");
            (w.operation, w.subresource, w.old) = (Operation::Update, sub, Some(old));
            w.run(&*plugin, Some(new)).await
        };
        assert!(run(build_approval(&env), "approval", "example.com/a").await.is_ok());
        let e = run(build_approval(&env), "approval", "other.com/a").await.unwrap_err();
        assert!(
            e.message.ends_with("user not permitted to approve requests with signerName \"other.com/a\"")
        );
        assert_eq!(run(build_signing(&env), "status", "example.com/a").await.unwrap_err().code, 403);
    }
}
