//! Keys that sign and verify service-account tokens, and how others learn them (OpenID discovery).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey as Parsed;

use crate::der::{element, sequence};

const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const NULL: &[u8] = &[0x05, 0x00];

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with SHA-256.
    Rs256,
    /// The curve P-256 with SHA-256.
    Es256,
    /// The curve P-384 with SHA-384.
    Es384,
}

impl Algorithm {
    /// Its name in a JWT header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
        }
    }
}

/// A key that verifies.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Derived from the key, so that every server names it alike.
    pub id: String,
    /// How it verifies.
    pub algorithm: Algorithm,
    /// The RSA key structure, or the curve point.
    bytes: Vec<u8>,
    jwk: Value,
}

impl PublicKey {
    fn new(algorithm: Algorithm, bytes: Vec<u8>) -> Result<Self, String> {
        let b64 = |b: &[u8]| URL_SAFE_NO_PAD.encode(b);
        let identifier = match algorithm {
            Algorithm::Rs256 => sequence(&[OID_RSA, NULL]),
            Algorithm::Es256 => sequence(&[OID_EC, OID_P256]),
            Algorithm::Es384 => sequence(&[OID_EC, OID_P384]),
        };
        let mut bits = vec![0];
        bits.extend_from_slice(&bytes);
        let spki = sequence(&[&identifier, &element(0x03, &bits)]);
        let id = b64(&Sha256::digest(&spki));
        let mut jwk = match algorithm {
            Algorithm::Rs256 => {
                let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).map_err(|e| e.to_string())?;
                let Ok(Parsed::RSA(rsa)) = spki.parsed() else { return Err("not an RSA key".to_owned()) };
                json!({"kty": "RSA", "n": b64(unsigned(rsa.modulus)), "e": b64(unsigned(rsa.exponent))})
            }
            Algorithm::Es256 | Algorithm::Es384 => {
                let point = bytes.get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if algorithm == Algorithm::Es256 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
        };
        jwk["use"] = "sig".into();
        jwk["kid"] = id.as_str().into();
        jwk["alg"] = algorithm.name().into();
        Ok(Self { id, algorithm, bytes, jwk })
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|e| format!("bad public key: {e}"))?;
        Self::from_parsed(&spki)
    }

    fn from_parsed(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        let bytes = spki.subject_public_key.data.to_vec();
        match spki.parsed().map_err(|e| format!("bad public key: {e}"))? {
            Parsed::RSA(_) => Self::new(Algorithm::Rs256, bytes),
            Parsed::EC(_) if bytes.len() == 65 => Self::new(Algorithm::Es256, bytes),
            Parsed::EC(_) if bytes.len() == 97 => Self::new(Algorithm::Es384, bytes),
            _ => Err("the key is neither RSA nor on the curves P-256 and P-384".to_owned()),
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.verification(), &self.bytes).verify(message, signature).is_ok()
    }
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
}

/// A key that signs.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

impl SigningKey {
    /// The first private key of a PEM file. `what` names the flag in errors.
    ///
    /// # Errors
    /// The file holds no key of a supported kind.
    pub fn from_pem(what: &str, pem: &[u8]) -> Result<Self, String> {
        for (kind, der) in sections(what, pem)? {
            if let Some(key) = Self::from_section(kind, &der) {
                return key.map_err(|e| format!("{what}: {e}"));
            }
        }
        Err(format!("{what}: the file holds no private key"))
    }

    fn from_section(kind: SectionKind, der: &[u8]) -> Option<Result<Self, String>> {
        match kind {
            SectionKind::RsaPrivateKey => {
                Some(RsaKeyPair::from_der(der).map_err(|e| format!("bad RSA key: {e}")).and_then(Self::rsa))
            }
            SectionKind::PrivateKey => Some(match RsaKeyPair::from_pkcs8(der) {
                Ok(pair) => Self::rsa(pair),
                Err(e) => Self::ec(der).unwrap_or_else(|| Err(format!("bad private key: {e}"))),
            }),
            SectionKind::EcPrivateKey => Some(
                [OID_P256, OID_P384]
                    .iter()
                    .find_map(|curve| {
                        let version: &[u8] = &[0x02, 0x01, 0x00];
                        Self::ec(&sequence(&[version, &sequence(&[OID_EC, curve]), &element(0x04, der)]))
                    })
                    .unwrap_or_else(|| Err("the EC key is on neither P-256 nor P-384".to_owned())),
            ),
            _ => None,
        }
    }

    fn rsa(pair: RsaKeyPair) -> Result<Self, String> {
        let public = PublicKey::new(Algorithm::Rs256, pair.public_key().as_ref().to_vec())?;
        Ok(Self { pair: Pair::Rsa(Box::new(pair)), public })
    }

    fn ec(pkcs8: &[u8]) -> Option<Result<Self, String>> {
        let rng = SystemRandom::new();
        [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::Es256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::Es384),
        ]
        .into_iter()
        .find_map(|(signing, algorithm)| {
            let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8, &rng).ok()?;
            let public = PublicKey::new(algorithm, pair.public_key().as_ref().to_vec());
            Some(public.map(|public| Self { pair: Pair::Ec(Box::new(pair)), public }))
        })
    }

    /// The half that verifies.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A compact JWS over the claims.
    ///
    /// # Errors
    /// Signing failed.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": self.public.algorithm.name(), "kid": self.public.id});
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let rng = SystemRandom::new();
        let failed = |_| "signing failed".to_owned();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, token.as_bytes(), &mut out).map_err(failed)?;
                out
            }
            Pair::Ec(pair) => pair.sign(&rng, token.as_bytes()).map_err(failed)?.as_ref().to_vec(),
        };
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

/// All keys of a PEM file that verify: public keys, certificates, and the public halves of private keys.
///
/// # Errors
/// The file holds none, or one of an unsupported kind.
pub fn public_keys(what: &str, pem: &[u8]) -> Result<Vec<PublicKey>, String> {
    let mut out = Vec::new();
    for (kind, der) in sections(what, pem)? {
        let key = match kind {
            SectionKind::PublicKey => Some(PublicKey::from_spki(&der)),
            SectionKind::Certificate => Some(
                X509Certificate::from_der(&der)
                    .map_err(|e| format!("bad certificate: {e}"))
                    .and_then(|(_, c)| PublicKey::from_parsed(c.public_key())),
            ),
            kind => SigningKey::from_section(kind, &der).map(|k| k.map(|k| k.public)),
        };
        if let Some(key) = key {
            out.push(key.map_err(|e| format!("{what}: {e}"))?);
        }
    }
    if out.is_empty() {
        return Err(format!("{what}: the file holds no key"));
    }
    Ok(out)
}

fn sections(what: &str, pem: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{what}: the file is not PEM: {e:?}"))
}

/// `/openid/v1/jwks`.
pub fn jwks(keys: &[PublicKey]) -> Value {
    json!({"keys": keys.iter().map(|k| &k.jwk).collect::<Vec<_>>()})
}

/// `/.well-known/openid-configuration`. None where the issuer is no `https` URL, for which there is no such document.
pub fn openid_configuration(issuer: &str, jwks_uri: &str, keys: &[PublicKey]) -> Option<Value> {
    if !issuer.starts_with("https://") {
        return None;
    }
    let mut algorithms: Vec<&str> = keys.iter().map(|k| k.algorithm.name()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    Some(json!({
        "issuer": issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms,
    }))
}

fn unsigned(mut integer: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = integer {
        integer = rest;
    }
    integer
}
