//! The ciphers with keys from the configuration file, each in upstream's form of bytes:
//!
//! | provider | stored after its prefix |
//! | --- | --- |
//! | `aesgcm` | 12 bytes of nonce, cipher text with tag; the object's key is authenticated with it |
//! | `aescbc` | 16 bytes of initialization vector, cipher text padded by PKCS #7 |
//! | `secretbox` | 24 bytes of nonce, tag and cipher text (XSalsa20 and Poly1305) |

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, AeadInPlace, KeyInit as _, Payload};
use aes_gcm::{AesGcm, Nonce};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom as _, SystemRandom};

const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;

/// A cipher with its key.
pub enum Cipher {
    Gcm(Gcm),
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
}

/// AES in Galois/counter mode, by length of key.
pub enum Gcm {
    Aes128(Box<AesGcm<Aes128, U12>>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<AesGcm<Aes256, U12>>),
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(out)
}

const SHORT: &str = "the stored data was shorter than the required size";

impl Gcm {
    /// The key's length is 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<Self, String> {
        let bad = |_| format!("a key of {} bytes is none of AES", key.len());
        Ok(match key.len() {
            16 => Self::Aes128(Box::new(AesGcm::new_from_slice(key).map_err(bad)?)),
            24 => Self::Aes192(Box::new(AesGcm::new_from_slice(key).map_err(bad)?)),
            _ => Self::Aes256(Box::new(AesGcm::new_from_slice(key).map_err(bad)?)),
        })
    }

    pub fn encrypt(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let nonce = random::<GCM_NONCE>()?;
        let mut out = Vec::with_capacity(GCM_NONCE + plain.len() + 16);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = {
            let data = &mut out[GCM_NONCE..];
            let nonce = &Nonce::from(nonce);
            match self {
                Self::Aes128(c) => c.encrypt_in_place_detached(nonce, context, data),
                Self::Aes192(c) => c.encrypt_in_place_detached(nonce, context, data),
                Self::Aes256(c) => c.encrypt_in_place_detached(nonce, context, data),
            }
        }
        .map_err(|_| "encryption failed".to_owned())?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    pub fn decrypt(&self, stored: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: Option<&[u8; GCM_NONCE]> = stored.first_chunk();
        let Some(nonce) = nonce else { return Err(SHORT.to_owned()) };
        let (nonce, msg) = (&Nonce::from(*nonce), &stored[GCM_NONCE..]);
        let payload = Payload { msg, aad: context };
        match self {
            Self::Aes128(c) => c.decrypt(nonce, payload),
            Self::Aes192(c) => c.decrypt(nonce, payload),
            Self::Aes256(c) => c.decrypt(nonce, payload),
        }
        .map_err(|_| "cipher: message authentication failed".to_owned())
    }
}

impl Cipher {
    /// `context` is authenticated where the cipher can: a value moved to another key does not decrypt.
    pub fn encrypt(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.encrypt(plain, context),
            Self::Cbc(key) => {
                let iv = random::<CBC_IV>()?;
                let bad = |_| "a key of this length is none of AES".to_owned();
                let data = match key.len() {
                    16 => cbc::Encryptor::<Aes128>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                    24 => cbc::Encryptor::<Aes192>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                    _ => cbc::Encryptor::<Aes256>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                };
                Ok([&iv[..], &data].concat())
            }
            Self::Secretbox(c) => {
                let nonce = random::<BOX_NONCE>()?;
                let data = c.encrypt(&nonce.into(), plain).map_err(|_| "encryption failed".to_owned())?;
                Ok([&nonce[..], &data].concat())
            }
        }
    }

    pub fn decrypt(&self, stored: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.decrypt(stored, context),
            Self::Cbc(key) => {
                let Some((iv, data)) = stored.split_at_checked(CBC_IV) else { return Err(SHORT.to_owned()) };
                if !data.len().is_multiple_of(16) || data.is_empty() {
                    return Err("the stored data is not a multiple of the block size".to_owned());
                }
                let bad = |_| "a key of this length is none of AES".to_owned();
                match key.len() {
                    16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(data),
                    24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(data),
                    _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(data),
                }
                .map_err(|_| "invalid padding on input".to_owned())
            }
            Self::Secretbox(c) => {
                let nonce: Option<&[u8; BOX_NONCE]> = stored.first_chunk();
                let Some(nonce) = nonce else { return Err(SHORT.to_owned()) };
                c.decrypt(&(*nonce).into(), &stored[BOX_NONCE..])
                    .map_err(|_| "invalid secretbox authentication tag".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ciphers() -> Vec<Cipher> {
        let mut out: Vec<Cipher> = Vec::new();
        for length in [16, 24, 32] {
            out.push(Cipher::Gcm(Gcm::new(&vec![7; length]).unwrap()));
            out.push(Cipher::Cbc(vec![7; length]));
        }
        out.push(Cipher::Secretbox(Box::new(XSalsa20Poly1305::new(&[7; 32].into()))));
        out
    }

    #[test]
    fn round_trips_and_damage() {
        for (i, c) in ciphers().iter().enumerate() {
            for plain in [&b""[..], b"a", b"sixteen bytes!!!", &[9; 1000]] {
                let stored = c.encrypt(plain, b"/registry/secrets/a").unwrap();
                assert_eq!(c.decrypt(&stored, b"/registry/secrets/a").unwrap(), plain, "cipher {i}");
                assert_ne!(c.encrypt(plain, b"/registry/secrets/a").unwrap(), stored);
                let mut damaged = stored.clone();
                *damaged.last_mut().unwrap() ^= 1;
                assert_ne!(c.decrypt(&damaged, b"/registry/secrets/a").ok().as_deref(), Some(plain));
            }
            for n in 0..24 {
                assert!(c.decrypt(&vec![0; n], b"").is_err(), "cipher {i}, {n} bytes");
            }
        }
        let gcm = Gcm::new(&[1; 16]).unwrap();
        let stored = gcm.encrypt(b"x", b"/registry/secrets/a").unwrap();
        assert!(gcm.decrypt(&stored, b"/registry/secrets/b").is_err());
    }

    /// As in NaCl: a detached tag before the cipher text.
    #[test]
    fn secretbox_puts_the_tag_first() {
        let c = Cipher::Secretbox(Box::new(XSalsa20Poly1305::new(&[7; 32].into())));
        let stored = c.encrypt(b"hello", b"").unwrap();
        assert_eq!(stored.len(), BOX_NONCE + 16 + 5);
        let Cipher::Secretbox(inner) = &c else { unreachable!() };
        let nonce: [u8; BOX_NONCE] = *stored.first_chunk().unwrap();
        let mut data = stored[BOX_NONCE + 16..].to_vec();
        let tag: [u8; 16] = *stored[BOX_NONCE..].first_chunk().unwrap();
        inner.decrypt_in_place_detached(&nonce.into(), b"", &mut data, &tag.into()).unwrap();
        assert_eq!(data, b"hello");
    }
}
