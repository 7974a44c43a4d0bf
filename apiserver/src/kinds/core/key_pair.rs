//! What is wrong with the certificate and the key of a TLS secret. It is no error: clients are warned, in the words of
//! Go's `crypto/tls`.

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;

/// The labels of the PEM blocks of `text`, in order.
fn labels(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let begins = text.lines().filter_map(|l| l.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    begins.filter(|label| text.contains(&format!("-----END {label}-----"))).map(str::to_owned).collect()
}

/// The first thing wrong with the pair, if any.
pub fn wrong_with(certificate: &[u8], key: &[u8]) -> Option<String> {
    let is_key = |label: &String| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let found = labels(certificate);
    if !found.iter().any(|l| l == "CERTIFICATE") {
        return Some(match found.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [one] if one.ends_with("PRIVATE KEY") => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM \
                 inputs may have been switched"
                    .to_owned()
            }
            all => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of \
                 the following types: [{}]",
                all.join(" ")
            ),
        });
    }
    let found = labels(key);
    if !found.iter().any(is_key) {
        return Some(match found.as_slice() {
            [] => "tls: failed to find any PEM data in key input".to_owned(),
            [one] if one == "CERTIFICATE" => {
                "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
            }
            all => format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM \
                 blocks of the following types: [{}]",
                all.join(" ")
            ),
        });
    }
    let chain: Result<Vec<_>, _> = rustls::pki_types::CertificateDer::pem_slice_iter(certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(key).ok();
    let key = key.and_then(|k| rustls::crypto::ring::sign::any_supported_type(&k).ok());
    match (chain, key) {
        (_, None) => Some("tls: failed to parse private key".to_owned()),
        (Ok(chain), Some(key)) => match CertifiedKey::new(chain, key).keys_match() {
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                Some("tls: private key does not match public key".to_owned())
            }
            Err(rustls::Error::InvalidCertificate(_)) => Some("x509: malformed certificate".to_owned()),
            _ => None,
        },
        (Err(_), _) => Some("x509: malformed certificate".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_do_not_fit() {
        let pair = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let cert =
                rcgen::CertificateParams::new(vec!["a.b".to_owned()]).unwrap().self_signed(&key).unwrap();
            (cert.pem(), key.serialize_pem())
        };
        let ((cert, key), (_, other)) = (pair(), pair());
        let of = |c: &str, k: &str| wrong_with(c.as_bytes(), k.as_bytes()).unwrap_or_default();
        assert_eq!(of(&cert, &key), "");
        assert_eq!(of(&cert, &other), "tls: private key does not match public key");
        assert_eq!(of("", &key), "tls: failed to find any PEM data in certificate input");
        assert_eq!(of(&cert, "x"), "tls: failed to find any PEM data in key input");
        assert!(of(&key, &cert).ends_with("PEM inputs may have been switched"));
        assert!(of(&cert, &cert).starts_with("tls: found a certificate rather than a key"));
    }
}
