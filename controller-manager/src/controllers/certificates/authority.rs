//! An authority that signs what it is asked to: subject and public key are taken over byte for byte.
//!
//! The certificate is written here, and not by the crate that makes our own certificates, because that one can hold
//! neither two organizations in a subject nor keys other than those it makes, and reads keys in PKCS#8 alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use component_base::der::{element, sequence};
use jiff::{SignedDuration, Timestamp};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::request::Request;

/// Certificates begin so much in the past, for clocks that are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Shorter lives than this are not shortened by [`BACKDATE`].
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Signature schemes with their DER identifiers, the best first.
const SCHEMES: [(SignatureScheme, &[u8]); 4] = [
    (SignatureScheme::RSA_PKCS1_SHA256, &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0]),
    (SignatureScheme::ECDSA_NISTP256_SHA256, &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
    (SignatureScheme::ED25519, &[6, 3, 0x2b, 0x65, 0x70]),
];

/// Usages by the bit that stands for them (RFC 5280, 4.2.1.3).
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Usages by their object identifiers, in the order in which certificates name them.
const EXTENDED_KEY_USAGES: [(&str, &[u8]); 13] = [
    ("any", &[6, 4, 0x55, 0x1d, 0x25, 0]),
    ("server auth", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    ("netscape sgc", &[6, 9, 0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

/// Where the authority's certificate and key are.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// Reads both: files that were replaced are seen by the next request.
    ///
    /// # Errors
    /// A file can't be read, or holds something else.
    pub fn load(&self) -> anyhow::Result<Authority> {
        let read = |path: &Path, what: &str| {
            std::fs::read(path).with_context(|| format!("error reading CA {what} file {:?}", path.display()))
        };
        Authority::new(&read(&self.cert, "cert")?, &read(&self.key, "key")?)
            .with_context(|| format!("CA files {:?} and {:?}", self.cert.display(), self.key.display()))
    }
}

/// See the module.
pub struct Authority {
    key: Arc<dyn SigningKey>,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl Authority {
    fn new(cert: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let certs: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(cert)
                .collect::<Result<_, _>>()
                .map_err(|e| anyhow::anyhow!("the certificate file is not PEM: {e}"))?;
        let [cert] = certs.as_slice() else {
            bail!("expected 1 certificate, found {}", certs.len());
        };
        let (_, cert) = X509Certificate::from_der(cert).context("reading the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| anyhow::anyhow!("the key file holds no private key: {e}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|e| anyhow::anyhow!("the key can't be used: {e}"))?;
        let key_id = cert.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            key,
            subject: cert.subject().as_raw().to_vec(),
            key_id,
            not_after: Timestamp::from_second(cert.validity().not_after.timestamp())?,
        })
    }

    /// A certificate for `request`, PEM, that may be used for `usages` and lives for `life`, at most as long as the
    /// authority. Other extensions than the names asked for are not taken over.
    ///
    /// # Errors
    /// The requester does not have the key, a usage does not exist, or the authority's certificate has expired.
    pub fn sign(
        &self,
        request: &Request,
        usages: &[String],
        life: SignedDuration,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        if !request.proves_possession {
            bail!("unable to verify certificate request signature");
        }
        if now >= self.not_after {
            bail!("refusing to sign a certificate that expired in the past: NotAfter={}", self.not_after);
        }
        let (not_before, mut not_after) = validity(now, life)?;
        not_after = not_after.min(self.not_after);
        let (scheme, algorithm) = SCHEMES
            .into_iter()
            .find(|(scheme, _)| self.key.choose_scheme(&[*scheme]).is_some())
            .context("the authority's key is of no kind that can sign")?;
        let algorithm = element(0x30, algorithm);
        let to_sign = sequence(&[
            // Version 3.
            &[0xa0, 3, 2, 1, 2],
            &element(2, &serial()),
            &algorithm,
            &self.subject,
            &sequence(&[&time(not_before)?, &time(not_after)?]),
            &request.subject,
            &request.public_key,
            &element(0xa3, &element(0x30, &self.extensions(request, usages)?)),
        ]);
        let signer = self.key.choose_scheme(&[scheme]).context("the authority's key can't sign")?;
        let signature = signer.sign(&to_sign).context("signing")?;
        let der = sequence(&[&to_sign, &algorithm, &bit_string(0, &signature)]);
        Ok(component_base::der::pem("CERTIFICATE", &der))
    }

    fn extensions(&self, request: &Request, usages: &[String]) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        let (bits, extended) = split_usages(usages)?;
        if bits != 0 {
            let bytes = bits.to_be_bytes();
            let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
            let unused = used.last().map_or(0, |b| b.trailing_zeros() as u8);
            out.extend(extension(15, true, &bit_string(unused, used)));
        }
        if !extended.is_empty() {
            out.extend(extension(37, false, &sequence(&extended)));
        }
        // No authority itself.
        out.extend(extension(19, true, &sequence(&[])));
        if let Some(id) = &self.key_id {
            out.extend(extension(35, false, &sequence(&[&element(0x80, id)])));
        }
        let names: Vec<Vec<u8>> = (request.dns_names.iter().map(|n| element(0x82, n.as_bytes())))
            .chain(request.emails.iter().map(|n| element(0x81, n.as_bytes())))
            .chain(request.ips.iter().map(|ip| element(0x87, ip)))
            .chain(request.uris.iter().map(|n| element(0x86, n.as_bytes())))
            .collect();
        if !names.is_empty() {
            // The names are all there is where the subject is empty.
            let critical = request.subject == sequence(&[]);
            out.extend(extension(17, critical, &element(0x30, &names.concat())));
        }
        Ok(out)
    }
}

/// From when until when a certificate is good that is to live for `life`.
fn validity(now: Timestamp, life: SignedDuration) -> anyhow::Result<(Timestamp, Timestamp)> {
    let life = if life < SHORT { life } else { life - BACKDATE };
    Ok((now.checked_sub(BACKDATE)?, now.checked_add(life)?))
}

fn split_usages(usages: &[String]) -> anyhow::Result<(u16, Vec<&'static [u8]>)> {
    let (mut bits, mut unknown) = (0_u16, Vec::new());
    for usage in usages {
        match KEY_USAGES.iter().find(|(name, _)| name == usage) {
            Some((_, bit)) => bits |= 1 << (15 - bit),
            None if EXTENDED_KEY_USAGES.iter().any(|(name, _)| name == usage) => {}
            None => unknown.push(usage),
        }
    }
    if !unknown.is_empty() {
        bail!("unrecognized usage values: {unknown:?}");
    }
    let mut extended: Vec<&'static [u8]> = EXTENDED_KEY_USAGES
        .iter()
        .filter(|(name, _)| usages.iter().any(|u| u == name))
        .map(|(_, id)| *id)
        .collect();
    // Two names stand for one usage.
    extended.dedup();
    Ok((bits, extended))
}

/// One of the standard extensions (2.5.29.`n`).
fn extension(n: u8, critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&[6, 3, 0x55, 0x1d, n], critical, &element(4, content)])
}

fn bit_string(unused: u8, bytes: &[u8]) -> Vec<u8> {
    element(3, &[&[unused], bytes].concat())
}

/// A random serial number of 127 bits.
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    // Positive, and not shorter than it looks.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    bytes
}

/// Years up to 2049 have two digits (RFC 5280, 4.1.2.5).
fn time(at: Timestamp) -> anyhow::Result<Vec<u8>> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    Ok(if at.year() < 2050 {
        element(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        element(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::pki;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};

    fn authority() -> (Authority, String) {
        let ca = pki::Authority::generate("test-ca").unwrap();
        let pair = ca.pair().clone();
        (Authority::new(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap(), pair.cert)
    }

    /// A request of a real key for a server, with two organizations, as `openssl req` writes it.
    const SERVER: &str = include_str!("testdata/server.csr");

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|u| (*u).to_owned()).collect()
    }

    fn parsed(pem: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn what_is_signed_is_what_was_asked_for() {
        let (ca, ca_pem) = authority();
        let request = Request::parse(SERVER.as_bytes()).unwrap();
        assert_eq!(request.organizations, ["first", "second"]);
        let now = Timestamp::now();
        let usages = usages(&["digital signature", "key encipherment", "server auth"]);
        let pem = ca.sign(&request, &usages, SignedDuration::from_hours(24), now).unwrap();
        let der = parsed(&pem);
        let (_, cert) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(cert.subject().as_raw(), request.subject);
        assert_eq!(cert.public_key().raw, request.public_key);
        assert!(!cert.is_ca());
        let usage = cert.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
        assert!(!usage.value.key_cert_sign());
        assert_eq!(cert.validity().not_before.timestamp(), (now - BACKDATE).as_second());
        // A verifier that is not ours believes it.
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from("node.example.com").unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second() as u64));
        verifier.verify_server_cert(&CertificateDer::from(der), &[], &name, &[], at).unwrap();
    }

    #[test]
    fn a_request_signed_with_another_key_is_refused() {
        let (ca, _) = authority();
        let mut request = Request::parse(SERVER.as_bytes()).unwrap();
        request.proves_possession = false;
        let refused = ca.sign(&request, &[], SignedDuration::from_hours(1), Timestamp::now()).unwrap_err();
        assert!(refused.to_string().contains("signature"), "{refused}");
    }

    #[test]
    fn nothing_outlives_the_authority() {
        let (ca, _) = authority();
        let request = Request::parse(SERVER.as_bytes()).unwrap();
        let pem =
            ca.sign(&request, &[], SignedDuration::from_hours(24 * 365 * 50), Timestamp::now()).unwrap();
        let der = parsed(&pem);
        let (_, cert) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(cert.validity().not_after.timestamp(), ca.not_after.as_second());
        let late = ca.not_after + SignedDuration::from_secs(1);
        assert!(ca.sign(&request, &[], SignedDuration::from_hours(1), late).is_err());
    }

    #[test]
    fn unknown_usages_are_named() {
        let e = split_usages(&usages(&["client auth", "nonsense"])).unwrap_err().to_string();
        assert_eq!(e, "unrecognized usage values: [\"nonsense\"]");
        let (bits, extended) =
            split_usages(&usages(&["email protection", "s/mime", "decipher only"])).unwrap();
        assert_eq!((bits, extended.len()), (1 << 7, 1));
    }

    #[test]
    fn times_change_form_in_2050() {
        assert_eq!(time("2049-12-31T23:59:59Z".parse().unwrap()).unwrap(), element(0x17, b"491231235959Z"));
        assert_eq!(time("2050-01-01T00:00:00Z".parse().unwrap()).unwrap(), element(0x18, b"20500101000000Z"));
    }

    #[test]
    fn short_lives_are_not_shortened() {
        let now = Timestamp::UNIX_EPOCH;
        let end = |hours| validity(now, SignedDuration::from_hours(hours)).unwrap().1;
        assert_eq!(end(1), now + SignedDuration::from_hours(1));
        assert_eq!(end(24), now + SignedDuration::from_hours(24) - BACKDATE);
    }
}
