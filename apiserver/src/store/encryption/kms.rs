//! Envelope encryption by a KMS plugin (KMS v2): values are encrypted with keys derived from a seed of this process,
//! and the seed, encrypted by the plugin, is stored beside each value. So a write needs no call, and a read needs one
//! only for a seed that this process has not seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message as _;
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

use super::ciphers::Gcm;
use super::config;
use super::kms_service::{KEY_ID_MAX, Plugin};
use crate::ttl_cache::TtlCache;

const SEED: usize = 32;
const INFO: usize = 32;
const ANNOTATIONS_MAX: usize = 32 * 1024;
const SEED_SOURCE_MAX: usize = 1024;
/// How long a seed may be used for writing after the plugin last said that its key is still the same.
const WRITE_FOR: Duration = Duration::from_secs(180);
/// Pause between questions to the plugin, while it is well and while it is not.
const POLL_WELL: Duration = Duration::from_secs(60);
const POLL_ILL: Duration = Duration::from_secs(10);
const SEEDS_MAX: usize = 1024;
const SEED_TTL: Duration = Duration::from_secs(24 * 3600);

/// How the data key of an [`EncryptedObject`] came to be.
const AES_GCM_KEY: i32 = 0;
const HKDF_SEED: i32 = 1;

/// What is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_dek_source: Vec<u8>,
    #[prost(map = "string, bytes", tag = "4")]
    pub annotations: HashMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub encrypted_dek_source_type: i32,
}

/// Decrypts the values of one seed or, as older servers wrote, one key.
enum DataKey {
    Seed([u8; SEED]),
    Key(Gcm),
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF's expansion alone (RFC 5869): the seed is random already.
fn derive(seed: &[u8; SEED], info: &[u8]) -> Result<Gcm, String> {
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, seed);
    let mut key = [0; 32];
    prk.expand(&[info], Length)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(|_| "failed to derive a key from the seed".to_owned())?;
    Gcm::new(&key)
}

impl DataKey {
    fn new(plain: &[u8], source: i32) -> Result<Self, String> {
        match source {
            HKDF_SEED => <[u8; SEED]>::try_from(plain)
                .map(Self::Seed)
                .map_err(|_| format!("invalid seed length {} used for key generation", plain.len())),
            _ => Gcm::new(plain).map(Self::Key),
        }
    }

    fn decrypt(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Key(gcm) => gcm.decrypt(data, context),
            Self::Seed(seed) => {
                let (info, data) = data
                    .split_at_checked(INFO)
                    .ok_or_else(|| "the stored data was shorter than the required size".to_owned())?;
                derive(seed, info)?.decrypt(data, context)
            }
        }
    }
}

/// What this process writes with.
struct State {
    seed: [u8; SEED],
    /// Everything but the data.
    object: EncryptedObject,
    until: Instant,
}

/// A plugin, and the seeds that it encrypted.
pub struct Kms {
    name: String,
    plugin: Plugin,
    state: Mutex<Option<Arc<State>>>,
    /// Why the plugin cannot be used; empty while it can.
    trouble: Mutex<String>,
    seeds: TtlCache<[u8; 32], Arc<DataKey>>,
    misses: prometheus_client::metrics::counter::Counter,
}

fn identity(o: &EncryptedObject) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(o.encrypted_dek_source_type.to_be_bytes());
    let mut annotations: Vec<_> = o.annotations.iter().collect();
    annotations.sort();
    let fields = [&o.encrypted_dek_source[..], o.key_id.as_bytes()];
    for field in fields.into_iter().chain(annotations.into_iter().flat_map(|(k, v)| [k.as_bytes(), v])) {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}

fn check(o: &EncryptedObject) -> Result<(), String> {
    if o.encrypted_data.is_empty() {
        return Err("encrypted data is empty".to_owned());
    }
    if o.key_id.is_empty() {
        return Err("failed to validate key id: keyID is empty".to_owned());
    }
    if o.key_id.len() > KEY_ID_MAX {
        return Err(format!(
            "failed to validate key id: keyID is {} bytes, which exceeds the max size of {KEY_ID_MAX}",
            o.key_id.len()
        ));
    }
    if o.encrypted_dek_source.is_empty() {
        return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".to_owned());
    }
    if o.encrypted_dek_source.len() > SEED_SOURCE_MAX {
        return Err(format!(
            "failed to validate encrypted DEK source: encrypted DEK source is {} bytes, which exceeds the max size of {SEED_SOURCE_MAX}",
            o.encrypted_dek_source.len()
        ));
    }
    let size: usize = o.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > ANNOTATIONS_MAX {
        return Err(format!(
            "failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS_MAX}"
        ));
    }
    for key in o.annotations.keys() {
        let domain = crate::registry::names::dns1123_subdomain(key);
        if domain.is_err() || !key.contains('.') {
            return Err(format!("failed to validate annotations: {key:?} should be a domain"));
        }
    }
    Ok(())
}

impl Kms {
    /// A plugin that is asked in the background as long as this lives; [`Self::probe`] asks it now.
    pub fn start(c: &config::Kms, misses: prometheus_client::metrics::counter::Counter) -> Arc<Self> {
        let kms = Arc::new(Self {
            name: c.name.clone(),
            plugin: Plugin::new(c.socket().unwrap_or_default(), c.timeout()),
            state: Mutex::new(None),
            trouble: Mutex::new("it was not asked yet".to_owned()),
            seeds: TtlCache::new(SEEDS_MAX),
            misses,
        });
        let weak = Arc::downgrade(&kms);
        tokio::spawn(async move {
            while let Some(kms) = weak.upgrade() {
                let pause = match kms.probe().await {
                    Ok(()) => POLL_WELL,
                    Err(e) => {
                        tracing::warn!(provider = %kms.name, error = %e, "the KMS plugin is not healthy");
                        POLL_ILL
                    }
                };
                drop(kms);
                tokio::time::sleep(pause).await;
            }
        });
        kms
    }

    /// Asks the plugin how it is, and makes a new seed where its key is another one.
    pub async fn probe(&self) -> Result<(), String> {
        let result = self.ask().await;
        *self.trouble.lock() = result.clone().err().unwrap_or_default();
        result
    }

    async fn ask(&self) -> Result<(), String> {
        let status = self.plugin.status().await?;
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(format!("expected KMSv2 API version v2, got {}", status.version));
        }
        if status.healthz != "ok" {
            return Err(format!("expected KMSv2 healthz status ok, got {}", status.healthz));
        }
        let until = Instant::now() + WRITE_FOR;
        let current = self.state.lock().clone();
        if let Some(s) = current
            && s.object.key_id == status.key_id
        {
            let renewed = State { seed: s.seed, object: s.object.clone(), until };
            *self.state.lock() = Some(Arc::new(renewed));
            return Ok(());
        }
        let mut seed = [0; SEED];
        SystemRandom::new().fill(&mut seed).map_err(|_| "the system has no randomness".to_owned())?;
        let answer = self
            .plugin
            .encrypt(seed.to_vec())
            .await
            .map_err(|e| format!("failed to encrypt DEK, error: {e}"))?;
        let object = EncryptedObject {
            encrypted_data: vec![0],
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: HKDF_SEED,
        };
        check(&object)?;
        self.seeds.put(identity(&object), Arc::new(DataKey::Seed(seed)), Instant::now(), SEED_TTL);
        *self.state.lock() = Some(Arc::new(State { seed, object, until }));
        Ok(())
    }

    /// Whether values can be encrypted and decrypted.
    pub fn health(&self) -> Result<(), String> {
        let trouble = self.trouble.lock();
        if trouble.is_empty() { Ok(()) } else { Err(format!("kms-provider {}: {trouble}", self.name)) }
    }

    fn current(&self) -> Result<Arc<State>, String> {
        self.state
            .lock()
            .clone()
            .ok_or_else(|| format!("got nil state for KMSv2 provider {}: {}", self.name, self.trouble.lock()))
    }

    pub fn encrypt(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let state = self.current()?;
        if Instant::now() > state.until {
            return Err(format!(
                "encryptedDEKSource of the KMS provider {} expired: the plugin has not been healthy for long",
                self.name
            ));
        }
        let mut info = [0; INFO];
        SystemRandom::new().fill(&mut info).map_err(|_| "the system has no randomness".to_owned())?;
        let data = derive(&state.seed, &info)?.encrypt(plain, context)?;
        let object = EncryptedObject { encrypted_data: [&info[..], &data].concat(), ..state.object.clone() };
        Ok(object.encode_to_vec())
    }

    /// The value, and whether it should be written anew.
    pub async fn decrypt(&self, stored: &[u8], context: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let object = EncryptedObject::decode(stored).map_err(|e| e.to_string())?;
        check(&object)?;
        let id = identity(&object);
        let key = match self.seeds.get(&id, Instant::now()) {
            Some(key) => key,
            None => {
                self.misses.inc();
                let plain = self
                    .plugin
                    .decrypt(
                        object.encrypted_dek_source.clone(),
                        object.key_id.clone(),
                        object.annotations.clone(),
                    )
                    .await
                    .map_err(|e| format!("failed to decrypt DEK, error: {e}"))?;
                let key = Arc::new(DataKey::new(&plain, object.encrypted_dek_source_type)?);
                self.seeds.put(id, key.clone(), Instant::now(), SEED_TTL);
                key
            }
        };
        let plain = key.decrypt(&object.encrypted_data, context)?;
        let stale = self.current().map_or(true, |s| {
            s.object.key_id != object.key_id || object.encrypted_dek_source_type == AES_GCM_KEY
        });
        Ok((plain, stale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_keys() {
        let seed = [3; SEED];
        let info = [5; INFO];
        let data = derive(&seed, &info).unwrap().encrypt(b"secret", b"k").unwrap();
        let stored = [&info[..], &data].concat();
        let key = DataKey::new(&seed, HKDF_SEED).unwrap();
        assert_eq!(key.decrypt(&stored, b"k").unwrap(), b"secret");
        assert!(key.decrypt(&stored, b"other").is_err());
        assert!(key.decrypt(&stored[..31], b"k").is_err());
        assert!(DataKey::new(&seed[..31], HKDF_SEED).is_err());
        let old = DataKey::new(&[9; 32], AES_GCM_KEY).unwrap();
        let data = Gcm::new(&[9; 32]).unwrap().encrypt(b"old", b"k").unwrap();
        assert_eq!(old.decrypt(&data, b"k").unwrap(), b"old");
    }

    #[test]
    fn objects_are_checked() {
        let good = EncryptedObject {
            encrypted_data: vec![1],
            key_id: "1".into(),
            encrypted_dek_source: vec![2],
            annotations: HashMap::from([("a.example".to_owned(), vec![1])]),
            encrypted_dek_source_type: HKDF_SEED,
        };
        assert!(check(&good).is_ok());
        let with = |f: fn(&mut EncryptedObject)| {
            let mut o = good.clone();
            f(&mut o);
            check(&o)
        };
        assert!(with(|o| o.encrypted_data.clear()).is_err());
        assert!(with(|o| o.key_id.clear()).is_err());
        assert!(with(|o| o.key_id = "x".repeat(1025)).is_err());
        assert!(with(|o| o.encrypted_dek_source = vec![0; 1025]).is_err());
        assert!(with(|o| drop(o.annotations.insert("nodomain".into(), vec![]))).is_err());
        assert!(with(|o| drop(o.annotations.insert("b.example".into(), vec![0; 33000]))).is_err());
    }
}
