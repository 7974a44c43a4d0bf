//! TLS server configurations.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::pki::Pair;

/// Reads a PEM certificate chain and key.
///
/// # Errors
/// A file cannot be read.
pub fn read_pair(cert: &Path, key: &Path) -> anyhow::Result<Pair> {
    let read = |p: &Path| std::fs::read_to_string(p).with_context(|| format!("reading {}", p.display()));
    Ok(Pair { cert: read(cert)?, key: read(key)? })
}

/// The certificates of a PEM text.
///
/// # Errors
/// The text holds none, or a bad one.
pub fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("parsing certificates")?;
    if certs.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(certs)
}

/// A server configuration offering HTTP/2 and HTTP/1.1. With `client_ca` (PEM), client certificates are asked
/// for and verified, but not required.
///
/// # Errors
/// Certificate, key or CA are bad.
pub fn server_config(pair: &Pair, client_ca: Option<&str>) -> anyhow::Result<ServerConfig> {
    let chain = certificates(&pair.cert).context("serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).context("serving key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for c in certificates(pem).context("client CA")? {
                roots.add(c).context("client CA")?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .context("client CA")?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).context("serving certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
