//! Client certificates: the common name is the user, the organizations are his groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DistinguishedName, RootCertStore};
use sha2::{Digest as _, Sha256};
use x509_parser::oid_registry::asn1_rs::oid;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

use super::CREDENTIAL_ID;
use crate::request::UserInfo;

/// How long a verified certificate is taken from memory: one chain check per client and minute, not per request.
const REMEMBER: Duration = Duration::from_secs(60);
/// Bound of that memory.
const REMEMBER_MAX: usize = 1024;

/// A set of CAs, and the users whose certificates they signed.
pub struct X509 {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The CAs once more, for [`X509::verify_version1`].
    roots: Vec<CertificateDer<'static>>,
    known: Mutex<HashMap<[u8; 32], (SystemTime, UserInfo)>>,
}

/// The certificates of a PEM bundle. `what` names the flag in errors.
pub fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{what}: the file is not PEM: {e:?}"))?;
    if certs.is_empty() {
        return Err(format!("{what}: the file holds no certificate"));
    }
    Ok(certs)
}

/// Subjects of the CAs of a PEM bundle, as TLS sends them to clients.
pub fn subjects(what: &str, pem: &[u8]) -> Result<Vec<DistinguishedName>, String> {
    certificates(what, pem)?
        .iter()
        .map(|c| {
            let (_, cert) =
                X509Certificate::from_der(c).map_err(|e| format!("{what}: bad certificate: {e}"))?;
            Ok(DistinguishedName::from(cert.subject().as_raw().to_vec()))
        })
        .collect()
}

impl X509 {
    /// Trusts the CAs of a PEM bundle.
    pub fn new(what: &str, pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let certs = certificates(what, pem)?;
        for cert in certs.clone() {
            roots.add(cert).map_err(|e| format!("{what}: a certificate cannot be a CA: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| format!("{what}: {e}"))?;
        Ok(Self { verifier, roots: certs, known: Mutex::default() })
    }

    /// Verifies a chain, leaf first, for client use at `now`.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        let (leaf, rest) = chain.split_first().ok_or("no certificate was sent")?;
        let since = now.duration_since(UNIX_EPOCH).map_err(|_| "the clock is before 1970")?;
        if version1_key(leaf).is_some() {
            return self.verify_version1(leaf, i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        }
        self.verifier
            .verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(since))
            .map(drop)
            .map_err(|e| format!("verifying the client certificate: {e}"))
    }

    /// Certificates of version 1, as `openssl x509 -req` makes them unless told otherwise, have no extensions: no
    /// usage to check, and never an intermediate CA. What remains is the signature of a root, and the dates.
    fn verify_version1(&self, leaf: &CertificateDer<'_>, now: i64) -> Result<(), String> {
        let bad = |e| format!("reading the client certificate: {e}");
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(bad)?;
        let validity = leaf.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return Err("verifying the client certificate: it is not valid at this time".to_owned());
        }
        let signed = self.roots.iter().filter_map(|r| X509Certificate::from_der(r).ok()).any(|(_, root)| {
            root.subject().as_raw() == leaf.issuer().as_raw()
                && leaf.verify_signature(Some(root.public_key())).is_ok()
                && now <= root.validity().not_after.timestamp()
        });
        if signed {
            return Ok(());
        }
        Err("verifying the client certificate: no CA of the file signed it".to_owned())
    }

    /// The user of a verified chain.
    pub fn authenticate(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<UserInfo, String> {
        let leaf = chain.first().ok_or("no certificate was sent")?;
        let mut hasher = Sha256::new();
        for cert in chain {
            hasher.update(cert.as_ref());
        }
        let id: [u8; 32] = hasher.finalize().into();
        if let Some((until, user)) = self.known.lock().get(&id)
            && now < *until
        {
            return Ok(user.clone());
        }
        self.verify(chain, now)?;
        let (user, not_after) = user_of(leaf)?;
        let until = (now + REMEMBER).min(not_after);
        let mut known = self.known.lock();
        if known.len() >= REMEMBER_MAX {
            known.clear();
        }
        known.insert(id, (until, user.clone()));
        Ok(user)
    }
}

/// The user a certificate names, and until when it is valid.
fn user_of(leaf: &CertificateDer<'_>) -> Result<(UserInfo, SystemTime), String> {
    let (_, cert) =
        X509Certificate::from_der(leaf).map_err(|e| format!("reading the client certificate: {e}"))?;
    let subject = cert.subject();
    let name = subject.iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err("the client certificate's subject has no common name, which would be the user".to_owned());
    }
    let groups = subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    let uids: Vec<&str> =
        subject.iter_by_oid(&oid!(1.3.6.1.4.1.57683.2)).filter_map(|a| a.as_str().ok()).collect();
    let uid = match uids[..] {
        [] => String::new(),
        [""] => return Err("the client certificate carries an empty UID".to_owned()),
        [one] => one.to_owned(),
        _ => return Err("the client certificate carries several UIDs".to_owned()),
    };
    let fingerprint = hex(&Sha256::digest(leaf.as_ref()));
    let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])]);
    let not_after = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    let user = UserInfo { name: name.to_owned(), uid, groups, extra };
    Ok((user, UNIX_EPOCH + Duration::from_secs(not_after)))
}

/// The public key of a certificate of version 1; none for any other.
pub(crate) fn version1_key(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    (cert.version() == X509Version::V1).then(|| cert.public_key().raw.to_vec())
}

/// The common name of a certificate; empty where it has none.
pub(crate) fn common_name(leaf: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(leaf)
        .ok()
        .and_then(|(_, c)| {
            c.subject().iter_common_name().last().and_then(|a| a.as_str().ok()).map(str::to_owned)
        })
        .unwrap_or_default()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}
