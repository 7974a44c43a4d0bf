//! Ratcheting: which part of the old object a part of the new one is to be compared with, and whether it stayed
//! the same, so that an invalid value that nobody touches does not block a write.
//!
//! Source: KEP-4008, CRD Validation Ratcheting.

use std::collections::HashMap;

use serde_json::Value;

use super::node::{List, Node};

/// A value with the one it replaces.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    pub new: &'a Value,
    pub old: &'a Value,
    pub node: &'a Node,
}

/// Old items of a list by their key fields.
#[derive(Debug)]
pub struct ByKey<'a> {
    items: HashMap<String, &'a Value>,
    keys: &'a [&'static str],
}

impl<'a> ByKey<'a> {
    /// None unless the list is a map with keys.
    pub fn new(node: &'a Node, old: &'a [Value]) -> Option<Self> {
        let keys = node.keys().filter(|k| !k.is_empty())?;
        let mut items = HashMap::with_capacity(old.len());
        for o in old {
            if let Some(k) = key_of(o, keys) {
                items.entry(k).or_insert(o);
            }
        }
        Some(Self { items, keys })
    }

    /// The old item with the same key.
    pub fn get(&self, new: &Value) -> Option<&'a Value> {
        key_of(new, self.keys).and_then(|k| self.items.get(&k).copied())
    }
}

fn key_of(item: &Value, keys: &[&'static str]) -> Option<String> {
    let item = item.as_object()?;
    let mut out = String::new();
    for k in keys {
        match item.get(*k)? {
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
            scalar => {
                out.push('\0');
                out.push_str(&scalar.to_string());
            }
        }
    }
    Some(out)
}

impl<'a> Pair<'a> {
    pub fn new(new: &'a Value, old: &'a Value, node: &'a Node) -> Self {
        Self { new, old, node }
    }

    /// The pair of a field that both have and the schema knows.
    pub fn field(&self, name: &str) -> Option<Self> {
        let node = self.node.field(name)?;
        Some(Self { new: self.new.get(name)?, old: self.old.get(name)?, node })
    }

    /// The old list's items by key, where items can be told apart.
    pub fn by_key(&self) -> Option<ByKey<'a>> {
        self.new.as_array()?;
        ByKey::new(self.node, self.old.as_array()?)
    }

    /// The pair of an item of the new list.
    pub fn item(&self, new: &'a Value, old_items: &ByKey<'a>) -> Option<Self> {
        let node = self.node.items.as_deref()?;
        Some(Self { new, old: old_items.get(new)?, node })
    }

    /// True if nothing changed. Lists that are maps are compared by key, in any order; fields that the schema
    /// does not know count as changed.
    pub fn same(&self) -> bool {
        match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) => {
                if new.len() != old.len() {
                    return false;
                }
                let keyed = matches!(self.node.list, List::Map(_)) && self.node.items.is_some();
                match self.by_key().filter(|_| keyed) {
                    None => new == old,
                    Some(by_key) => new.iter().all(|n| self.item(n, &by_key).is_some_and(|pair| pair.same())),
                }
            }
            (Value::Object(new), Value::Object(old)) => {
                new.len() == old.len() && new.keys().all(|k| self.field(k).is_some_and(|p| p.same()))
            }
            (new, old) => new == old,
        }
    }
}
