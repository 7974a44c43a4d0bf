//! Trust and identity of outgoing TLS.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, client};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What the other side's certificate is checked against.
pub enum Trust<'a> {
    /// Certificates in PEM.
    Bundle(&'a [u8]),
    /// The authorities that this machine's operating system trusts.
    System,
    /// Nothing is checked (`insecureSkipTLSVerify`).
    Nothing,
}

/// A client certificate with its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

/// The TLS configuration; `alpn` lists protocols, best first.
///
/// # Errors
/// PEM that cannot be read, or a certificate that does not fit its key.
pub fn config(
    trust: &Trust<'_>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust, provider)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(i) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&i.cert)
                .collect::<Result<_, _>>()
                .map_err(|e| format!("the client certificate cannot be read: {e}"))?;
            let key = PrivateKeyDer::from_pem_slice(&i.key)
                .map_err(|e| format!("the client key cannot be read: {e}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("the client certificate cannot be used: {e}"))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

fn verifier(trust: &Trust<'_>, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let (roots, own) = match trust {
        Trust::Nothing => return Ok(Arc::new(Unverified(provider))),
        Trust::System => (system_roots(), Vec::new()),
        Trust::Bundle(pem) => {
            let certs: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certs.iter().cloned());
            if roots.is_empty() {
                return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
            }
            (Arc::new(roots), certs)
        }
    };
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|e| format!("unable to load root certificates: {e}"))?;
    Ok(Arc::new(Bundle { inner, own }))
}

/// The operating system's authorities, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for e in &found.errors {
            tracing::warn!(error = %e, "some of the system's certificate authorities cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(
                "this system has no certificate authorities: only servers with a caBundle can be called"
            );
        }
        Arc::new(roots)
    }))
}

/// The usual verification, and one thing that it refuses but Go's does not: a certificate that is itself in the bundle
/// and says that it is an authority. Many webhooks serve with the one self-signed certificate that they trust.
#[derive(Debug)]
struct Bundle {
    inner: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl Bundle {
    fn pinned(
        &self,
        cert: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = |e: CertificateError| rustls::Error::InvalidCertificate(e);
        let (_, parsed) = X509Certificate::from_der(cert).map_err(|_| bad(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < parsed.validity().not_before.timestamp() {
            return Err(bad(CertificateError::NotValidYet));
        }
        if now > parsed.validity().not_after.timestamp() {
            return Err(bad(CertificateError::Expired));
        }
        client::verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Ok(ok) => Ok(ok),
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(e)))
                if e.to_string() == "CaUsedAsEndEntity" && self.own.iter().any(|c| c == end_entity) =>
            {
                self.pinned(end_entity, server_name, now)
            }
            Err(e) => Err(e),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts any certificate whose key the peer holds.
#[derive(Debug)]
pub struct Unverified(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a server's certificate was refused, in the words that people search for.
pub fn explain(e: &rustls::Error, host: &str) -> String {
    let rustls::Error::InvalidCertificate(c) = e else {
        return format!("tls: failed to verify certificate: {e}")
            .replace("tls: failed to verify certificate: received fatal alert", "remote error: tls");
    };
    let why = match c {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("x509: certificate is not valid for {host}")
        }
        other => format!("x509: {other}"),
    };
    format!("tls: failed to verify certificate: {why}")
}
