//! Between this crate's types and etcd's.

use bytes::Bytes;
use etcd_client::EventType;

use crate::{Event, KeyValue, Revision, StoreError};

/// What all keys of this crate's callers begin with.
const OURS: &str = "/registry";

/// A number as etcd's API has it. One that is too large there is so here, too.
pub fn to_i64(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

fn to_u64(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}

/// How keys are called in etcd.
#[derive(Clone)]
pub struct Keys {
    /// In place of [`OURS`]; none where it is the same.
    prefix: Option<String>,
}

impl Keys {
    /// For `--etcd-prefix`, which upstream takes with and without slashes around.
    pub fn new(prefix: &str) -> Keys {
        let prefix = format!("/{}", prefix.trim_matches('/'));
        Keys { prefix: (prefix != OURS).then_some(prefix) }
    }

    pub fn to_etcd(&self, key: &str) -> Vec<u8> {
        match (&self.prefix, key.strip_prefix(OURS)) {
            (Some(prefix), Some(rest)) => format!("{}{rest}", prefix.trim_end_matches('/')).into_bytes(),
            _ => key.as_bytes().to_vec(),
        }
    }

    /// The end of a range; empty means all that follows.
    pub fn end_to_etcd(&self, end: &str) -> Vec<u8> {
        if end.is_empty() { vec![0] } else { self.to_etcd(end) }
    }

    fn of_etcd(&self, key: &[u8]) -> Result<String, StoreError> {
        let bad = || {
            StoreError::Corrupt(format!(
                "etcd holds the key {:?}, which is not text",
                key.escape_ascii().to_string()
            ))
        };
        let key = std::str::from_utf8(key).map_err(|_| bad())?;
        Ok(match &self.prefix {
            Some(prefix) => match key.strip_prefix(prefix.trim_end_matches('/')) {
                Some(rest) => format!("{OURS}{rest}"),
                None => key.to_owned(),
            },
            None => key.to_owned(),
        })
    }

    pub fn key_value(&self, kv: &etcd_client::KeyValue) -> Result<KeyValue, StoreError> {
        Ok(KeyValue {
            key: self.of_etcd(kv.key())?,
            value: Bytes::copy_from_slice(kv.value()),
            create_revision: to_u64(kv.create_revision()),
            mod_revision: to_u64(kv.mod_revision()),
        })
    }

    /// An event; of a deletion with the last value, where etcd still had it.
    pub fn event(&self, e: &etcd_client::Event) -> Result<Option<Event>, StoreError> {
        let Some(now) = e.kv() else { return Ok(None) };
        let mut kv = self.key_value(now)?;
        let prev = e.prev_kv().map(|kv| (Bytes::copy_from_slice(kv.value()), to_u64(kv.create_revision())));
        let deleted = e.event_type() == EventType::Delete;
        if deleted {
            let (value, created) = prev.clone().unwrap_or_default();
            kv.value = value;
            kv.create_revision = created;
        }
        Ok(Some(Event { kv, prev: prev.map(|(value, _)| value), deleted }))
    }
}

/// The revision of an event.
pub fn revision_of(e: &etcd_client::Event) -> Revision {
    e.kv().map_or(0, |kv| to_u64(kv.mod_revision()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_upstreams() {
        let keys = Keys::new("/registry");
        assert_eq!(keys.to_etcd("/registry/pods/a/b"), b"/registry/pods/a/b");
        assert_eq!(keys.end_to_etcd(""), [0]);
        assert!(keys.prefix.is_none());
    }

    #[test]
    fn another_prefix_takes_the_place_of_registry() {
        for given in ["kubernetes.io/east", "/kubernetes.io/east", "/kubernetes.io/east/"] {
            let keys = Keys::new(given);
            assert_eq!(keys.to_etcd("/registry/pods/a"), b"/kubernetes.io/east/pods/a");
            assert_eq!(keys.end_to_etcd("/registry0"), b"/kubernetes.io/east0");
            assert_eq!(keys.of_etcd(b"/kubernetes.io/east/pods/a").unwrap(), "/registry/pods/a");
        }
        let root = Keys::new("/");
        assert_eq!(root.to_etcd("/registry/pods/a"), b"/pods/a");
        assert_eq!(root.of_etcd(b"/pods/a").unwrap(), "/registry/pods/a");
    }

    #[test]
    fn keys_that_are_no_text_are_refused() {
        assert!(Keys::new("/registry").of_etcd(b"/registry/\xff").unwrap_err().to_string().contains("\\xff"));
    }
}
