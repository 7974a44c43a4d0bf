//! The providers of each resource, and what their prefixes mean.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes_gcm::aead::KeyInit as _;
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;

use super::ciphers::{Cipher, Gcm};
use super::config::{Configuration, GroupResource, Key, Provider};
use super::kms::Kms;
use super::metrics::Metrics;
use super::well;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// One provider.
enum Transformer {
    /// Stores values as they are.
    Identity,
    /// The prefix of the provider, and its keys, each with the rest of the prefix.
    Keys {
        prefix: String,
        keys: Vec<(String, Cipher)>,
    },
    Kms {
        prefix: String,
        kms: Arc<Kms>,
    },
}

/// The providers of all resources.
pub struct Transformers {
    by_resource: HashMap<GroupResource, Arc<[Transformer]>>,
    plugins: Vec<Arc<Kms>>,
    metrics: Arc<Metrics>,
}

fn keyed(
    name: &str,
    keys: &[Key],
    cipher: impl Fn(Vec<u8>) -> Result<Cipher, String>,
) -> Result<Transformer, String> {
    let keys = keys
        .iter()
        .map(|k| Ok((format!("{}:", k.name), cipher(k.bytes())?)))
        .collect::<Result<_, String>>()?;
    Ok(Transformer::Keys { prefix: format!("k8s:enc:{name}:v1:"), keys })
}

impl Transformers {
    pub fn new(config: &Configuration, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let mut plugins: Vec<(String, Arc<Kms>)> = Vec::new();
        let mut build = |p: &Provider| -> Result<Transformer, String> {
            if let Some(k) = &p.aesgcm {
                return keyed("aesgcm", &k.keys, |key| Gcm::new(&key).map(Cipher::Gcm));
            }
            if let Some(k) = &p.aescbc {
                return keyed("aescbc", &k.keys, |key| Ok(Cipher::Cbc(key)));
            }
            if let Some(k) = &p.secretbox {
                return keyed("secretbox", &k.keys, |key| {
                    let cipher = XSalsa20Poly1305::new_from_slice(&key).map_err(|e| e.to_string())?;
                    Ok(Cipher::Secretbox(Box::new(cipher)))
                });
            }
            if let Some(k) = &p.kms {
                let known = plugins.iter().find(|(name, _)| *name == k.name).map(|(_, kms)| kms.clone());
                let kms = known.unwrap_or_else(|| {
                    let kms = Kms::start(k, metrics.cache_misses.clone());
                    plugins.push((k.name.clone(), kms.clone()));
                    kms
                });
                return Ok(Transformer::Kms { prefix: format!("k8s:enc:kms:v2:{}:", k.name), kms });
            }
            Ok(Transformer::Identity)
        };
        let mut by_resource = HashMap::new();
        for (resource, providers) in config.by_resource() {
            let list = providers.into_iter().map(&mut build).collect::<Result<Vec<_>, _>>()?;
            by_resource.insert(resource, list.into());
        }
        let plugins = plugins.into_iter().map(|(_, kms)| kms).collect();
        Ok(Self { by_resource, plugins, metrics: metrics.clone() })
    }

    /// Waits until all plugins are healthy.
    pub async fn ready(&self, patience: Duration) -> Result<(), String> {
        well(patience, || self.health()).await
    }

    /// Asks all plugins now.
    #[cfg(test)]
    pub async fn probe(&self) -> Result<(), String> {
        for p in &self.plugins {
            p.probe().await?;
        }
        Ok(())
    }

    pub fn health(&self) -> Result<(), String> {
        self.plugins.iter().try_for_each(|p| p.health())
    }

    /// The resource's own providers, those of its group, or those of everything.
    fn of(&self, resource: &GroupResource) -> Option<&Arc<[Transformer]>> {
        self.by_resource
            .get(resource)
            .or_else(|| self.by_resource.get(&(resource.0.clone(), "*".to_owned())))
            .or_else(|| self.by_resource.get(&("*".to_owned(), "*".to_owned())))
    }

    /// What is stored for a value.
    pub fn seal(&self, resource: &GroupResource, key: &str, value: &Bytes) -> Result<Bytes, String> {
        let Some(first) = self.of(resource).and_then(|t| t.first()) else { return Ok(value.clone()) };
        let (head, name) = match first {
            Transformer::Identity => return Ok(value.clone()),
            Transformer::Keys { prefix, keys } => match keys.first() {
                Some((name, _)) => (prefix, name.as_str()),
                None => return Err("the provider has no key".to_owned()),
            },
            Transformer::Kms { prefix, .. } => (prefix, ""),
        };
        let started = Instant::now();
        let sealed = match first {
            Transformer::Keys { keys, .. } => keys[0].1.encrypt(value, key.as_bytes()),
            Transformer::Kms { kms, .. } => kms.encrypt(value, key.as_bytes()),
            Transformer::Identity => Ok(value.to_vec()),
        };
        self.metrics.transformed("to_storage", head, sealed.is_ok(), started.elapsed());
        Ok([head.as_bytes(), name.as_bytes(), &sealed?].concat().into())
    }

    /// The value in what is stored, and whether it should be written anew.
    pub async fn open(
        &self,
        resource: &GroupResource,
        key: &str,
        stored: &Bytes,
    ) -> Result<(Bytes, bool), String> {
        let encrypted = stored.starts_with(ENCRYPTED);
        let Some(list) = self.of(resource) else {
            return if encrypted { Err(UNKNOWN.to_owned()) } else { Ok((stored.clone(), false)) };
        };
        if !encrypted {
            let at = list.iter().position(|t| matches!(t, Transformer::Identity));
            return match at {
                Some(i) => Ok((stored.clone(), i != 0)),
                None => Err("no matching prefix found".to_owned()),
            };
        }
        for (i, t) in list.iter().enumerate() {
            let (prefix, rest) = match t {
                Transformer::Identity => continue,
                Transformer::Keys { prefix, .. } | Transformer::Kms { prefix, .. } => {
                    match stored.strip_prefix(prefix.as_bytes()) {
                        Some(rest) => (prefix, rest),
                        None => continue,
                    }
                }
            };
            let started = Instant::now();
            let opened = t.open(rest, key.as_bytes()).await;
            self.metrics.transformed("from_storage", prefix, opened.is_ok(), started.elapsed());
            return opened.map(|(plain, stale)| (plain.into(), stale || i != 0));
        }
        let only_identity = list.iter().all(|t| matches!(t, Transformer::Identity));
        Err(if only_identity { UNKNOWN } else { "no matching prefix found" }.to_owned())
    }
}

const UNKNOWN: &str = "identity transformer tried to read encrypted data";

impl Transformer {
    async fn open(&self, stored: &[u8], context: &[u8]) -> Result<(Vec<u8>, bool), String> {
        match self {
            Self::Identity => Ok((stored.to_vec(), false)),
            Self::Kms { kms, .. } => kms.decrypt(stored, context).await,
            Self::Keys { keys, .. } => {
                let mut error = None;
                for (i, (name, cipher)) in keys.iter().enumerate() {
                    let Some(rest) = stored.strip_prefix(name.as_bytes()) else { continue };
                    match cipher.decrypt(rest, context) {
                        Ok(plain) => return Ok((plain, i != 0)),
                        // Another key may have the same name.
                        Err(e) => error = Some(e),
                    }
                }
                Err(error
                    .unwrap_or_else(|| "no matching key was found for the provided transformer".to_owned()))
            }
        }
    }
}
