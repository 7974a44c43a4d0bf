//! Issues certificates for approved requests of the signers `kubernetes.io/…`, with the authorities of the flags
//! `--cluster-signing-…`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use component_base::controller::informer::Store;
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client};

use super::authority::Files;
use super::request::{self, Request};
use super::{ACCOUNT, certificate, has};
use crate::context::{Context, synced};
use crate::flags::Flags;
use crate::util::{errors, meta};

/// No certificate lives shorter than this, whatever was asked for.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

type Signers = BTreeMap<&'static str, Files>;

/// Which signer has which files.
fn signers(flags: &Flags) -> anyhow::Result<Signers> {
    let given = |cert: &Option<PathBuf>, key: &Option<PathBuf>, what: &str| match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Files { cert: cert.clone(), key: key.clone() })),
        (None, None) => Ok(None),
        _ => bail!("--{what}-cert-file and --{what}-key-file must be given together"),
    };
    let common = given(&flags.cluster_signing_cert_file, &flags.cluster_signing_key_file, "cluster-signing");
    let mut own = Signers::new();
    for (signer, cert, key, what) in [
        (
            KUBELET_SERVING,
            &flags.cluster_signing_kubelet_serving_cert_file,
            &flags.cluster_signing_kubelet_serving_key_file,
            "cluster-signing-kubelet-serving",
        ),
        (
            KUBELET_CLIENT,
            &flags.cluster_signing_kubelet_client_cert_file,
            &flags.cluster_signing_kubelet_client_key_file,
            "cluster-signing-kubelet-client",
        ),
        (
            CLIENT,
            &flags.cluster_signing_kube_apiserver_client_cert_file,
            &flags.cluster_signing_kube_apiserver_client_key_file,
            "cluster-signing-kube-apiserver-client",
        ),
        (
            LEGACY,
            &flags.cluster_signing_legacy_unknown_cert_file,
            &flags.cluster_signing_legacy_unknown_key_file,
            "cluster-signing-legacy-unknown",
        ),
    ] {
        if let Some(files) = given(cert, key, what)? {
            own.insert(signer, files);
        }
    }
    match common? {
        Some(_) if !own.is_empty() => {
            bail!("cannot specify default and per controller certs at the same time")
        }
        Some(files) => Ok([KUBELET_SERVING, KUBELET_CLIENT, CLIENT, LEGACY]
            .into_iter()
            .map(|signer| (signer, files.clone()))
            .collect()),
        None => Ok(own),
    }
}

/// How long the certificate is to live: what was asked for, within bounds.
fn life(asked: Option<i32>, longest: SignedDuration) -> SignedDuration {
    match asked {
        None => longest,
        Some(seconds) => SignedDuration::from_secs(seconds.into()).max(SHORTEST).min(longest),
    }
}

/// Whether the signer takes the request.
fn check(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_SERVING => request::check_kubelet_serving(request, usages),
        KUBELET_CLIENT => request::check_kubelet_client(request, usages),
        CLIENT => request::check_client_usages(usages),
        _ => Ok(()),
    }
}

/// Sets the controller up; without files of an authority there is nothing to do.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let signers = signers(&ctx.flags)?;
    if signers.is_empty() {
        tracing::info!("no certificates are signed: no --cluster-signing-…-file is given");
        return Ok(());
    }
    for files in signers.values() {
        files.load()?;
    }
    let longest = SignedDuration::try_from(ctx.flags.cluster_signing_duration.0)
        .context("--cluster-signing-duration is too long")?;
    let requests = ctx.informers.of::<CertificateSigningRequest>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    requests.on_change(move |d| {
        if !d.is_deleted() {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let signing =
        Arc::new(Signing { client: ctx.client(ACCOUNT)?, store: requests.store(), signers, longest });
    ctx.work("csrsigning", &queue, 5, vec![synced(&requests)], move |name| {
        let signing = signing.clone();
        async move { signing.sync(&name).await }
    });
    Ok(())
}

struct Signing {
    client: Client,
    store: Store<CertificateSigningRequest>,
    signers: Signers,
    longest: SignedDuration,
}

impl Signing {
    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let Some(csr) = self.store.get(name) else { return Ok(()) };
        if !certificate(&csr).is_empty()
            || !has(&csr, "Approved")
            || has(&csr, "Denied")
            || has(&csr, "Failed")
        {
            return Ok(());
        }
        let Some(files) = self.signers.get(csr.spec.signer_name.as_str()) else { return Ok(()) };
        let updated = answer(&csr, files, self.longest, Timestamp::now())?;
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.replace_status(name, &PostParams::default(), &updated).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("error updating signature for csr {name:?}")),
        }
    }
}

/// The request with its certificate, or with a condition that says why it gets none.
fn answer(
    csr: &CertificateSigningRequest,
    files: &Files,
    longest: SignedDuration,
    now: Timestamp,
) -> anyhow::Result<CertificateSigningRequest> {
    let name = meta::name(&csr.metadata);
    let request = Request::parse(&csr.spec.request.0)
        .map_err(|e| anyhow::anyhow!("unable to parse csr {name:?}: {e}"))?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let mut updated = csr.clone();
    let status = updated.status.get_or_insert_default();
    if let Err(message) = check(&csr.spec.signer_name, &request, usages) {
        status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some("SignerValidationFailure".into()),
            message: Some(message),
            last_update_time: Some(meta::api_time(now)),
            ..CertificateSigningRequestCondition::default()
        });
        return Ok(updated);
    }
    let pem = files
        .load()?
        .sign(&request, usages, life(csr.spec.expiration_seconds, longest), now)
        .with_context(|| format!("error auto signing csr {name:?}"))?;
    status.certificate = Some(ByteString(pem.into_bytes()));
    Ok(updated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use component_base::pki;

    fn flags(args: &[&str]) -> Flags {
        Flags::parse_from([&["kube-controller-manager"], args].concat())
    }

    #[test]
    fn one_authority_for_all_or_one_for_each() {
        let all =
            signers(&flags(&["--cluster-signing-cert-file=a", "--cluster-signing-key-file=b"])).unwrap();
        assert_eq!(all.len(), 4);
        let one = signers(&flags(&[
            "--cluster-signing-kubelet-client-cert-file=a",
            "--cluster-signing-kubelet-client-key-file=b",
        ]))
        .unwrap();
        assert_eq!(one.keys().collect::<Vec<_>>(), [&KUBELET_CLIENT]);
        let both = signers(&flags(&[
            "--cluster-signing-cert-file=a",
            "--cluster-signing-key-file=b",
            "--cluster-signing-legacy-unknown-cert-file=a",
            "--cluster-signing-legacy-unknown-key-file=b",
        ]));
        assert!(both.unwrap_err().to_string().contains("cannot specify default and per controller certs"));
        assert!(signers(&flags(&["--cluster-signing-cert-file=a"])).is_err());
        assert!(signers(&flags(&[])).unwrap().is_empty());
    }

    #[test]
    fn lives_are_within_bounds() {
        let year = SignedDuration::from_hours(8760);
        assert_eq!(life(None, year), year);
        assert_eq!(life(Some(i32::MAX), year), year);
        assert_eq!(life(Some(60), year), SHORTEST);
        assert_eq!(life(Some(3600), year), SignedDuration::from_hours(1));
    }

    #[test]
    fn an_approved_request_is_answered_once() {
        let folder = std::env::temp_dir().join(format!("signing-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = Files { cert: folder.join("ca.crt"), key: folder.join("ca.key") };
        let ca = pki::Authority::generate("test-ca").unwrap();
        std::fs::write(&files.cert, &ca.pair().cert).unwrap();
        std::fs::write(&files.key, &ca.pair().key).unwrap();
        let mut csr = CertificateSigningRequest::default();
        csr.spec.request = ByteString(include_bytes!("testdata/kubelet.csr").to_vec());
        csr.spec.signer_name = KUBELET_CLIENT.into();
        csr.spec.usages = Some(vec!["digital signature".into(), "client auth".into()]);
        let year = SignedDuration::from_hours(8760);
        let signed = answer(&csr, &files, year, Timestamp::now()).unwrap();
        let pem = String::from_utf8(certificate(&signed).to_vec()).unwrap();
        let identity = component_base::serving::identity::from_pem(&pem).unwrap();
        assert_eq!((identity.user.as_str(), identity.groups.len()), ("system:node:n1", 1));
        csr.spec.usages = Some(vec!["server auth".into()]);
        let failed = answer(&csr, &files, year, Timestamp::now()).unwrap();
        assert!(certificate(&failed).is_empty() && has(&failed, "Failed"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(answer(&signed, &files, year, Timestamp::now()).is_err(), "the authority is read anew");
    }
}
