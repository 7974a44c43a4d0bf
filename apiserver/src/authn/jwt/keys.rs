//! The keys of a token issuer (RFC 7517) and the signatures they verify (RFC 7515, RFC 7518).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

/// The algorithms that upstream allows. `ES512` can be configured, but its signatures are not verified here: the
/// library has no P-521.
pub const ALGORITHMS: &[&str] =
    &["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// How many keys of an issuer are looked at.
const KEYS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Curve and uncompressed point.
    Ec {
        p384: bool,
        point: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: String,
    material: Material,
}

/// An issuer's key set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Jwk {
    kty: String,
    kid: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

impl KeySet {
    /// Reads a JWKS document. Keys of kinds that are not known are left out, as RFC 7517 asks.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        let jwks: Jwks =
            serde_json::from_slice(document).map_err(|e| format!("failed to decode keys: {e}"))?;
        let keys = jwks.keys.into_iter().take(KEYS_MAX);
        Ok(Self(keys.filter_map(|k| Key::read(serde_json::from_value(k).ok()?)).collect()))
    }

    /// Whether one of the keys made the signature: those named `kid`, or all where the token names none.
    pub fn verify(&self, algorithm: &str, kid: &str, message: &[u8], signature: &[u8]) -> bool {
        self.0
            .iter()
            .filter(|k| kid.is_empty() || k.id == kid)
            .any(|k| k.material.verify(algorithm, message, signature))
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Self> {
        let bytes = |s: &str| URL_SAFE_NO_PAD.decode(s.trim_end_matches('=')).ok().filter(|b| !b.is_empty());
        let material = match jwk.kty.as_str() {
            "RSA" => Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? },
            "EC" => {
                let (p384, length): (bool, usize) = match jwk.crv.as_str() {
                    "P-256" => (false, 32),
                    "P-384" => (true, 48),
                    _ => return None,
                };
                let mut point = vec![4];
                for coordinate in [&jwk.x, &jwk.y] {
                    let b = bytes(coordinate)?;
                    point.resize(point.len() + length.checked_sub(b.len())?, 0);
                    point.extend(b);
                }
                Material::Ec { p384, point }
            }
            _ => return None,
        };
        Some(Self { id: jwk.kid, material })
    }
}

impl Material {
    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => {
                let parameters: &RsaParameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            Self::Ec { p384, point } => {
                let verification: &'static dyn VerificationAlgorithm = match (algorithm, p384) {
                    ("ES256", false) => &ECDSA_P256_SHA256_FIXED,
                    ("ES384", true) => &ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(verification, point).verify(message, signature).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::keys::{SigningKey, jwks};
    use serde_json::json;

    #[test]
    fn verifies_what_the_keys_signed() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = SigningKey::from_pem("key", pem.as_bytes()).unwrap();
        let set = KeySet::parse(jwks(&[key.public().clone()]).to_string().as_bytes()).unwrap();
        let token = key.sign(&json!({"a": 1})).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let ask = |alg: &str, kid: &str, m: &[u8]| set.verify(alg, kid, m, &signature);
        assert!(ask("ES256", "", message.as_bytes()));
        assert!(ask("ES256", &key.public().id, message.as_bytes()));
        assert!(!ask("ES256", "other", message.as_bytes()));
        assert!(!ask("ES384", "", message.as_bytes()));
        assert!(!ask("RS256", "", message.as_bytes()));
        assert!(!ask("none", "", message.as_bytes()));
        assert!(!ask("ES256", "", b"x"));
    }

    #[test]
    fn odd_documents() {
        assert!(KeySet::parse(b"{}").is_err());
        let odd = json!({"keys": [{"kty": "oct", "k": "AA"}, {"kty": "EC", "crv": "P-256", "x": "AA"}, 7,
            {"kty": "EC", "crv": "P-256", "x": "A".repeat(100), "y": "AA"}]});
        assert_eq!(KeySet::parse(odd.to_string().as_bytes()).unwrap(), KeySet::default());
    }
}
