//! Certificates: authorities, the certificates they sign, and self-signed serving certificates. Used by the
//! cluster bootstrap, by daemons that were given no serving certificate, and by tests.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// What a certificate says about its holder.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Common name: the user name of a client certificate.
    pub common_name: String,
    /// Organizations: the groups of a client certificate.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Usable to serve TLS.
    pub server: bool,
    /// Usable to log in to a server.
    pub client: bool,
}

/// How long an authority's certificate is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long the certificates that an authority signs are valid.
pub const CERT_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// A certificate authority that can sign.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority (ECDSA P-256).
    ///
    /// # Errors
    /// Key generation failed.
    pub fn generate(common_name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("generating a CA key")?;
        let mut p =
            params(&Subject { common_name: common_name.to_owned(), ..Subject::default() }, CA_VALIDITY)?;
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = p.self_signed(&key).context("signing a CA certificate")?;
        let pair = Pair { cert: cert.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(p, key) })
    }

    /// The authority whose PEM certificate and key these are.
    ///
    /// # Errors
    /// One of them does not parse.
    pub fn load(pair: Pair) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(&pair.key).context("reading the CA key")?;
        let issuer = Issuer::from_ca_cert_pem(&pair.cert, key).context("reading the CA certificate")?;
        Ok(Self { pair, issuer })
    }

    /// The authority's own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A new key with a certificate for `subject`, valid for [`CERT_VALIDITY`].
    ///
    /// # Errors
    /// A name is not valid in a certificate, or signing failed.
    pub fn issue(&self, subject: &Subject) -> anyhow::Result<Pair> {
        let key = KeyPair::generate().context("generating a key")?;
        let cert = leaf(subject)?
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("signing a certificate for {}", subject.common_name))?;
        Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// A self-signed serving certificate, for a daemon that was given none.
///
/// # Errors
/// A name is not valid in a certificate.
pub fn self_signed(common_name: &str, dns_names: Vec<String>, ips: Vec<IpAddr>) -> anyhow::Result<Pair> {
    let subject =
        Subject { common_name: common_name.to_owned(), dns_names, ips, server: true, ..Subject::default() };
    let key = KeyPair::generate().context("generating a key")?;
    let cert = leaf(&subject)?.self_signed(&key).context("signing a serving certificate")?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

fn leaf(subject: &Subject) -> anyhow::Result<CertificateParams> {
    let mut p = params(subject, CERT_VALIDITY)?;
    p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    if subject.server {
        p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if subject.client {
        p.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    p.use_authority_key_identifier_extension = true;
    Ok(p)
}

fn params(subject: &Subject, validity: Duration) -> anyhow::Result<CertificateParams> {
    let mut p = CertificateParams::new(subject.dns_names.clone()).with_context(|| {
        format!("DNS names {:?} of the certificate for {}", subject.dns_names, subject.common_name)
    })?;
    let mut name = DistinguishedName::new();
    for o in &subject.organizations {
        name.push(DnType::OrganizationName, o.as_str());
    }
    name.push(DnType::CommonName, subject.common_name.as_str());
    p.distinguished_name = name;
    p.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    let now = std::time::SystemTime::now();
    // A little in the past, for peers whose clock is behind.
    p.not_before = (now - Duration::from_secs(300)).into();
    p.not_after = (now + validity).into();
    Ok(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloaded_authority_signs_what_the_first_one_verifies() {
        let ca = Authority::generate("test-ca").unwrap();
        let again = Authority::load(ca.pair().clone()).unwrap();
        let pair = again
            .issue(&Subject {
                common_name: "system:node:n1".into(),
                organizations: vec!["system:nodes".into()],
                client: true,
                ..Subject::default()
            })
            .unwrap();
        let id = crate::serving::identity::from_pem(&pair.cert).unwrap();
        assert_eq!(id.user, "system:node:n1");
        assert_eq!(id.groups, ["system:nodes"]);
    }
}
