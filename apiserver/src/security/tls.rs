//! The TLS side of serving: versions and ciphers by the flags, certificates by name (`--tls-sni-cert-key`), and the
//! request for client certificates.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use component_base::pki::{self, Pair};
use component_base::serving;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, NamedGroup, ServerConfig, SupportedProtocolVersion};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ClientCas, plain};
use crate::authn::tls::RequestClientCert;
use crate::authn::x509;
use crate::config::Flags;

/// Suites of TLS 1.2 that other servers know and that are not spoken here, because they are weak or slow: no forward
/// secrecy, CBC, or older ciphers. They may be named; they are left out.
const NOT_SPOKEN: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Those that are spoken, by the names that the flag takes.
const SPOKEN: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The versions that `--tls-min-version` leaves.
fn versions(min: Option<&str>) -> anyhow::Result<Vec<&'static SupportedProtocolVersion>> {
    Ok(match min {
        None | Some("" | "VersionTLS12") => vec![&rustls::version::TLS13, &rustls::version::TLS12],
        Some(old @ ("VersionTLS10" | "VersionTLS11")) => {
            tracing::warn!(
                version = old,
                "TLS older than 1.2 is not spoken here, whatever --tls-min-version says"
            );
            vec![&rustls::version::TLS13, &rustls::version::TLS12]
        }
        Some("VersionTLS13") => vec![&rustls::version::TLS13],
        Some(other) => bail!("--tls-min-version: unknown tls version {other:?}"),
    })
}

/// The library's cryptography, narrowed to what the flags name. Suites of TLS 1.3 cannot be chosen, as upstream.
fn provider(suites: &[String], curves: &[u16]) -> anyhow::Result<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let named: Vec<&str> = suites.iter().map(|s| s.trim()).filter(|s| !s.is_empty()).collect();
    let mut chosen: Vec<CipherSuite> = Vec::new();
    for name in &named {
        match SPOKEN.iter().find(|(n, _)| n == name) {
            Some((_, suite)) => chosen.push(*suite),
            None if NOT_SPOKEN.contains(name) => {
                tracing::warn!(
                    suite = name,
                    "--tls-cipher-suites: this suite is not spoken here and is left out"
                );
            }
            None => bail!("--tls-cipher-suites: Cipher suite {name} not supported or doesn't exist"),
        }
    }
    if !named.is_empty() {
        let tls13 = |s: CipherSuite| format!("{s:?}").starts_with("TLS13_");
        provider.cipher_suites.retain(|s| tls13(s.suite()) || chosen.contains(&s.suite()));
    }
    if !curves.is_empty() {
        for c in curves {
            let known = provider.kx_groups.iter().any(|g| u16::from(g.name()) == *c);
            if !known && !matches!(*c, 25 | 4588) {
                bail!("--tls-curve-preferences: key exchange {c} is not known");
            }
        }
        provider.kx_groups.sort_by_key(|g| order(curves, g.name()));
        provider.kx_groups.retain(|g| curves.contains(&u16::from(g.name())));
        if provider.kx_groups.is_empty() {
            bail!("--tls-curve-preferences: none of {curves:?} is spoken here; 23, 24 and 29 are");
        }
    }
    Ok(provider)
}

fn order(curves: &[u16], group: NamedGroup) -> usize {
    curves.iter().position(|c| *c == u16::from(group)).unwrap_or(usize::MAX)
}

/// One `--tls-sni-cert-key`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    cert: PathBuf,
    key: PathBuf,
    /// As given; those of the certificate where none are.
    names: Vec<String>,
}

impl Named {
    fn parse(value: &str) -> anyhow::Result<Self> {
        let (files, names) = value.rsplit_once(':').unwrap_or((value, ""));
        let mut files = files.split(',').map(str::trim);
        match (files.next(), files.next(), files.next()) {
            (Some(cert), Some(key), None) if !cert.is_empty() && !key.is_empty() => Ok(Self {
                cert: cert.into(),
                key: key.into(),
                names: names.split(',').map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect(),
            }),
            _ => bail!(
                "--tls-sni-cert-key: {value:?}: expected comma separated certificate and key file paths"
            ),
        }
    }
}

/// Chooses the certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let wildcard = || {
            let (_, rest) = name.split_once('.')?;
            self.named.get(&format!("*.{rest}"))
        };
        self.named.get(name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or(&self.default, |n| self.find(n)).clone())
    }
}

/// What the flags say of serving; the files are read each time a configuration is made.
pub struct Serving {
    files: Option<(PathBuf, PathBuf)>,
    /// The certificate that was made because no file is named.
    own: Option<Pair>,
    named: Vec<Named>,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Serving {
    pub fn new(flags: &Flags, advertised: IpAddr) -> anyhow::Result<Self> {
        let auth = &flags.auth;
        let mut files = flags.tls_cert_file.clone().zip(flags.tls_private_key_file.clone());
        let mut own = None;
        if files.is_none() {
            let (cert, key) = (auth.cert_dir.join("apiserver.crt"), auth.cert_dir.join("apiserver.key"));
            if cert.is_file() && key.is_file() {
                files = Some((cert, key));
            } else {
                own = Some(self_signed(advertised, &cert, &key)?);
            }
        }
        let serving = Self {
            files,
            own,
            named: auth.tls_sni_cert_key.iter().map(|v| Named::parse(v)).collect::<Result<_, _>>()?,
            provider: Arc::new(provider(&auth.tls_cipher_suites, &auth.tls_curve_preferences)?),
            versions: versions(auth.tls_min_version.as_deref())?,
        };
        Ok(serving)
    }

    /// All files that a configuration is made of, but for the CAs of clients.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = Vec::new();
        if let Some((cert, key)) = &self.files {
            out.extend([cert.clone(), key.clone()]);
        }
        out.extend(self.named.iter().flat_map(|n| [n.cert.clone(), n.key.clone()]));
        out
    }

    /// A configuration of the files as they are now.
    pub fn config(&self, cas: &ClientCas) -> anyhow::Result<Arc<ServerConfig>> {
        let mut subjects = Vec::new();
        for (flag, pem) in
            [("--client-ca-file", &cas.clients), ("--requestheader-client-ca-file", &cas.proxies)]
        {
            if let Some(pem) = pem {
                subjects.extend(plain(x509::subjects(flag, pem))?);
            }
        }
        let read;
        let pair = match (&self.files, &self.own) {
            (Some((cert, key)), _) => {
                read = serving::tls::read_pair(cert, key)?;
                &read
            }
            (None, Some(own)) => own,
            (None, None) => bail!("there is no serving certificate"),
        };
        let default = self.certified(pair).context("--tls-cert-file and --tls-private-key-file")?.0;
        let mut named = HashMap::new();
        for n in &self.named {
            let pair = serving::tls::read_pair(&n.cert, &n.key).context("--tls-sni-cert-key")?;
            let (certified, own) = self.certified(&pair).context("--tls-sni-cert-key")?;
            // The first that claims a name has it; names that were given beat those of certificates.
            let names = if n.names.is_empty() { own } else { n.names.clone() };
            for name in names {
                if n.names.is_empty() {
                    named.entry(name).or_insert_with(|| certified.clone());
                } else {
                    named.insert(name, certified.clone());
                }
            }
        }
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .context("--tls-min-version and --tls-cipher-suites leave nothing to speak")?
            .with_client_cert_verifier(RequestClientCert::new(self.provider.clone(), subjects))
            .with_cert_resolver(Arc::new(ByName { default, named }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The key with its chain, and the names in the certificate.
    fn certified(&self, pair: &Pair) -> anyhow::Result<(Arc<CertifiedKey>, Vec<String>)> {
        let chain = serving::tls::certificates(&pair.cert)?;
        let names = chain.first().map(|leaf| names(leaf)).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).context("reading the private key")?;
        let certified = CertifiedKey::from_der(chain, key, &self.provider)?;
        Ok((Arc::new(certified), names))
    }
}

/// The host names of a certificate: its alternative names, or its common name where it has none.
fn names(leaf: &[u8]) -> Vec<String> {
    let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let mut out = Vec::new();
    if let Ok(Some(alternatives)) = cert.subject_alternative_name() {
        for n in &alternatives.value.general_names {
            if let GeneralName::DNSName(n) = n {
                out.push(n.to_lowercase());
            }
        }
    }
    if out.is_empty() {
        out.extend(cert.subject().iter_common_name().filter_map(|n| n.as_str().ok()).map(str::to_lowercase));
    }
    out
}

/// A certificate for a server that was given none, kept for the next start where the folder can be written.
fn self_signed(advertised: IpAddr, cert: &Path, key: &Path) -> anyhow::Result<Pair> {
    tracing::warn!("no --tls-cert-file: serving with a self-signed certificate, which no client trusts");
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    let pair = pki::self_signed("kube-apiserver", names, vec![advertised])?;
    if let Err(e) = keep(&pair, cert, key) {
        tracing::debug!(error = %e, "the certificate is not kept");
    }
    Ok(pair)
}

fn keep(pair: &Pair, cert: &Path, key: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(dir) = cert.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(key)?;
    file.write_all(pair.key.as_bytes())?;
    std::fs::write(cert, &pair.cert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        assert_eq!(versions(Some("VersionTLS13")).unwrap().len(), 1);
        assert_eq!(versions(Some("VersionTLS10")).unwrap().len(), 2);
        assert!(versions(Some("TLS12")).is_err());
        let suites = |s: &[&str]| {
            let s: Vec<String> = s.iter().map(|s| (*s).to_owned()).collect();
            provider(&s, &[]).map(|p| p.cipher_suites.len())
        };
        let all = suites(&[]).unwrap();
        assert!(all > 4);
        // Those of TLS 1.3 stay.
        assert_eq!(suites(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).unwrap(), 4);
        assert_eq!(suites(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).unwrap(), 3);
        assert!(
            suites(&["TLS_NOPE"]).unwrap_err().to_string().contains("Cipher suite TLS_NOPE not supported")
        );
        let groups = |c: &[u16]| provider(&[], c).map(|p| p.kx_groups.len());
        assert_eq!(groups(&[24, 25]).unwrap(), 1);
        assert!(groups(&[25]).is_err() && groups(&[7]).is_err());
    }

    #[test]
    fn named_certificates() {
        let n = Named::parse("a.crt,a.key:Foo.example, *.bar").unwrap();
        assert_eq!((n.cert.to_str(), n.names), (Some("a.crt"), vec!["foo.example".into(), "*.bar".into()]));
        assert!(Named::parse("a.crt,a.key").unwrap().names.is_empty());
        for bad in ["a.crt", "a.crt,", "a,b,c", ""] {
            assert!(Named::parse(bad).is_err(), "{bad}");
        }
    }
}
