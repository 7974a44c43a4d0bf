//! Who a client certificate says its holder is: the common name is the user, organizations are groups.

use anyhow::{Context, anyhow};
use x509_parser::prelude::{FromDer, X509Certificate};

/// User and groups of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    pub uid: String,
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// The identity in a DER certificate. The chain must have been verified before.
///
/// # Errors
/// It is no X.509 certificate, or has no common name.
pub fn from_der(der: &[u8]) -> anyhow::Result<Identity> {
    let (_, cert) = X509Certificate::from_der(der).context("parsing a client certificate")?;
    let subject = cert.subject();
    let user = subject
        .iter_common_name()
        .next()
        .and_then(|a| a.as_str().ok())
        .filter(|cn| !cn.is_empty())
        .ok_or_else(|| anyhow!("the client certificate has no common name"))?
        .to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Ok(Identity { user, groups, ..Identity::default() })
}

/// The identity in the first certificate of a PEM text.
///
/// # Errors
/// As [`from_der`], or it is no PEM.
pub fn from_pem(pem: &str) -> anyhow::Result<Identity> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("parsing PEM")?;
    from_der(&block.contents)
}
