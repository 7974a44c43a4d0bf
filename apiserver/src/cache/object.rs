//! One version of an object, ready to be served: its wire bytes, what it is selected by, and its JSON once somebody
//! has asked for that.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::store::{KeyValue, Revision};

/// What an [`super::Indexer`] makes of stored bytes.
#[derive(Debug, Clone, Default)]
pub struct Indexed {
    /// The bytes to serve.
    pub bytes: Bytes,
    pub labels: Pairs,
    /// Selectable fields; one that is absent reads as empty.
    pub fields: Pairs,
}

/// Names with values, in one piece of memory: each text behind its length. Few, so looked up from the front.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(Box<[u8]>);

/// In place of a text's length: it is longer than fits here, and follows in four bytes.
const LONG: u8 = 255;

impl Pairs {
    /// Looks a value up.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let mut next = || {
                let (&short, mut after) = rest.split_first()?;
                let mut length = usize::from(short);
                if short == LONG {
                    let (long, more) = after.split_at_checked(4)?;
                    length = u32::from_le_bytes(long.try_into().ok()?) as usize;
                    after = more;
                }
                let (text, after) = after.split_at_checked(length)?;
                rest = after;
                std::str::from_utf8(text).ok()
            };
            Some((next()?, next()?))
        })
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Pairs {
        let mut out = Vec::new();
        for (name, value) in pairs {
            for text in [name.as_ref(), value.as_ref()] {
                match u8::try_from(text.len()) {
                    Ok(short) if short < LONG => out.push(short),
                    _ => {
                        out.push(LONG);
                        // Objects are far below four gigabytes.
                        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                    }
                }
                out.extend_from_slice(text.as_bytes());
            }
        }
        Pairs(out.into_boxed_slice())
    }
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// One version of an object.
#[derive(Debug)]
pub struct Object {
    /// The store's key.
    pub key: Box<str>,
    pub bytes: Bytes,
    pub mod_revision: Revision,
    pub create_revision: Revision,
    pub labels: Pairs,
    pub fields: Pairs,
    json: OnceLock<Bytes>,
}

impl Object {
    pub fn new(kv: &KeyValue, indexed: Indexed) -> Object {
        let Indexed { bytes, labels, fields } = indexed;
        Object {
            key: kv.key.as_str().into(),
            bytes,
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            labels,
            fields,
            json: OnceLock::new(),
        }
    }

    /// The object as JSON: rendered by the first who asks, shared by all who follow. `render` must always give the
    /// same for the same object.
    pub fn json<E>(&self, render: impl FnOnce(&Object) -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(json) = self.json.get() {
            return Ok(json.clone());
        }
        let json = render(self)?;
        Ok(self.json.get_or_init(|| json).clone())
    }

    /// The object as JSON, if somebody has asked for it.
    pub fn json_if_rendered(&self) -> Option<Bytes> {
        self.json.get().cloned()
    }

    /// Bytes of memory, roughly.
    pub fn cost(&self) -> usize {
        self.key.len()
            + self.bytes.len()
            + self.labels.0.len()
            + self.fields.0.len()
            + self.json.get().map_or(0, Bytes::len)
            + size_of::<Object>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back() {
        let long = ["x".repeat(254), "y".repeat(255), "z".repeat(70_000)];
        let pairs: Pairs = [("app", "web"), ("empty", ""), ("nul\0", "a\0b")]
            .into_iter()
            .chain([("a", &*long[0]), ("b", &*long[1]), ("c", &*long[2])])
            .collect();
        for (name, text) in ["a", "b", "c"].iter().zip(&long) {
            assert_eq!(pairs.get(name), Some(text.as_str()));
        }
        assert_eq!(pairs.get("app"), Some("web"));
        assert_eq!(pairs.get("empty"), Some(""));
        assert_eq!(pairs.get("nul\0"), Some("a\0b"));
        assert_eq!(pairs.get("none"), None);
        assert_eq!(pairs.iter().count(), 6);
        assert!(Pairs::default().is_empty());
    }

    #[test]
    fn json_is_rendered_once() {
        let kv = KeyValue { key: "k".into(), value: Bytes::new(), create_revision: 1, mod_revision: 1 };
        let object = Object::new(&kv, Indexed::default());
        assert_eq!(object.json(|_| Err::<Bytes, _>("no")), Err("no"));
        assert_eq!(object.json(|_| Ok::<_, ()>(Bytes::from_static(b"{}"))), Ok(Bytes::from_static(b"{}")));
        assert_eq!(object.json(|_| Err("not asked again")), Ok(Bytes::from_static(b"{}")));
    }
}
