//! What a certificate signing request asks for, and whether it is one that a kubelet makes.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// The parts of a PKCS#10 request that go into a certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// The subject's DER.
    pub subject: Vec<u8>,
    /// The public key's DER (`SubjectPublicKeyInfo`).
    pub public_key: Vec<u8>,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub ips: Vec<Vec<u8>>,
    pub uris: Vec<String>,
    /// Whether it was signed with the key that it is about.
    pub proves_possession: bool,
}

impl Request {
    /// Reads PEM.
    ///
    /// # Errors
    /// It is no request.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|e| e.to_string())?;
        let info = &csr.certification_request_info;
        let texts = |it: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            it.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect::<Vec<_>>()
        };
        let mut request = Self {
            common_name: texts(&mut info.subject.iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(&mut info.subject.iter_organization()),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            proves_possession: csr.verify_signature().is_ok(),
            ..Self::default()
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(n) => request.dns_names.push((*n).to_owned()),
                    GeneralName::RFC822Name(n) => request.emails.push((*n).to_owned()),
                    GeneralName::URI(n) => request.uris.push((*n).to_owned()),
                    GeneralName::IPAddress(ip) if matches!(ip.len(), 4 | 16) => request.ips.push(ip.to_vec()),
                    // Others don't get into certificates.
                    _ => {}
                }
            }
        }
        Ok(request)
    }
}

fn same_set(usages: &[String], wanted: &[&str]) -> bool {
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    usages == wanted.iter().copied().collect()
}

fn is_of_a_node(request: &Request) -> Result<(), String> {
    match request.organizations == ["system:nodes"] {
        true => Ok(()),
        false => Err("subject organization is not system:nodes".into()),
    }
}

fn names_a_node(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".into()),
    }
}

fn none_of(list: bool, what: &str) -> Result<(), String> {
    if list { Ok(()) } else { Err(format!("{what} subjectAltNames are not allowed")) }
}

/// Whether the request is for a certificate that a kubelet logs in with (`kubernetes.io/kube-apiserver-client-kubelet`).
///
/// # Errors
/// Says what is wrong.
pub fn check_kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_a_node(request)?;
    none_of(request.dns_names.is_empty(), "DNS")?;
    none_of(request.emails.is_empty(), "Email")?;
    none_of(request.ips.is_empty(), "IP")?;
    none_of(request.uris.is_empty(), "URI")?;
    names_a_node(request)?;
    if same_set(usages, &["digital signature", "key encipherment", "client auth"])
        || same_set(usages, &["digital signature", "client auth"])
    {
        return Ok(());
    }
    Err("usages did not match [client auth digital signature key encipherment]".into())
}

/// Whether the request is for a certificate that a kubelet serves with (`kubernetes.io/kubelet-serving`).
///
/// # Errors
/// Says what is wrong.
pub fn check_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_a_node(request)?;
    if request.dns_names.is_empty() && request.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    none_of(request.emails.is_empty(), "Email")?;
    none_of(request.uris.is_empty(), "URI")?;
    if !same_set(usages, &["digital signature", "key encipherment", "server auth"])
        && !same_set(usages, &["digital signature", "server auth"])
    {
        return Err("usages did not match [digital signature key encipherment server auth]".into());
    }
    names_a_node(request)
}

/// Whether the usages are those of a client certificate (`kubernetes.io/kube-apiserver-client`).
///
/// # Errors
/// Says what is wrong.
pub fn check_client_usages(usages: &[String]) -> Result<(), String> {
    let other = |u: &&String| !matches!(u.as_str(), "digital signature" | "key encipherment" | "client auth");
    if let Some(usage) = usages.iter().find(other) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubelet() -> Request {
        Request {
            common_name: "system:node:n1".into(),
            organizations: vec!["system:nodes".into()],
            ..Request::default()
        }
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|u| (*u).to_owned()).collect()
    }

    #[test]
    fn kubelets_log_in_by_name_and_group_alone() {
        let good = usages(&["client auth", "digital signature"]);
        assert_eq!(check_kubelet_client(&kubelet(), &good), Ok(()));
        let more = usages(&["client auth", "digital signature", "server auth"]);
        assert!(check_kubelet_client(&kubelet(), &more).unwrap_err().contains("usages did not match"));
        let named = Request { dns_names: vec!["n1".into()], ..kubelet() };
        assert_eq!(check_kubelet_client(&named, &good).unwrap_err(), "DNS subjectAltNames are not allowed");
        let admin =
            Request { organizations: vec!["system:nodes".into(), "system:masters".into()], ..kubelet() };
        assert_eq!(
            check_kubelet_client(&admin, &good).unwrap_err(),
            "subject organization is not system:nodes"
        );
        let other = Request { common_name: "admin".into(), ..kubelet() };
        assert!(check_kubelet_client(&other, &good).unwrap_err().contains("common name"));
    }

    #[test]
    fn kubelets_serve_under_names() {
        let good = usages(&["server auth", "digital signature", "key encipherment"]);
        assert_eq!(
            check_kubelet_serving(&kubelet(), &good).unwrap_err(),
            "DNS or IP subjectAltName is required"
        );
        let named = Request { ips: vec![vec![10, 0, 0, 1]], ..kubelet() };
        assert_eq!(check_kubelet_serving(&named, &good), Ok(()));
        let uri = Request { uris: vec!["spiffe://x".into()], ..named };
        assert_eq!(check_kubelet_serving(&uri, &good).unwrap_err(), "URI subjectAltNames are not allowed");
    }

    #[test]
    fn clients_ask_for_nothing_else() {
        assert_eq!(check_client_usages(&usages(&["client auth"])), Ok(()));
        assert!(check_client_usages(&usages(&["digital signature"])).unwrap_err().contains("missing"));
        assert!(
            check_client_usages(&usages(&["client auth", "cert sign"])).unwrap_err().contains("cert sign")
        );
    }

    #[test]
    fn garbage_is_no_request() {
        assert_eq!(Request::parse(b"x").unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
    }
}
