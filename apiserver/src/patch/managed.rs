//! `metadata.managedFields`: who owns which fields, read from an object, capped, and written back.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::Set;

/// More `Update` managers than this are folded into one.
pub(super) const MAX_UPDATE_MANAGERS: usize = 10;
const OLD_MANAGER: &str = "ancient-changes";
const MAX_MANAGER_LENGTH: usize = 128;

/// What tells one entry from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub manager: String,
    pub applied: bool,
    /// Empty for applies, which are one entry whatever version they used.
    pub api_version: String,
    pub subresource: String,
}

/// The fields of one manager.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub set: Set,
    pub api_version: String,
    /// When the set last changed.
    pub time: Option<String>,
}

pub(super) type Managed = BTreeMap<Id, Owned>;

impl Id {
    pub fn new(manager: &str, applied: bool, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: if manager.is_empty() { "unknown".into() } else { manager.into() },
            applied,
            api_version: if applied { String::new() } else { api_version.into() },
            subresource: subresource.into(),
        }
    }

    /// As conflict messages name it.
    pub fn shown(&self) -> String {
        let mut s = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            s.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            s.push_str(&format!(" using {}", self.api_version));
        }
        s
    }
}

/// The entries of an object. `None` when one is malformed.
pub(super) fn decode(object: &Value) -> Option<Managed> {
    let mut out = Managed::new();
    let Some(entries) = object.pointer("/metadata/managedFields").and_then(Value::as_array) else {
        return Some(out);
    };
    for e in entries {
        let (id, owned) = read(e)?;
        out.insert(id, owned);
    }
    Some(out)
}

/// What tells an entry from others. `None` when it is malformed.
pub(super) fn id(entry: &Value) -> Option<Id> {
    let applied = match text(entry, "operation") {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    if text(entry, "apiVersion").is_empty() || text(entry, "fieldsType") != "FieldsV1" {
        return None;
    }
    Some(Id::new(text(entry, "manager"), applied, text(entry, "apiVersion"), text(entry, "subresource")))
}

/// One entry. `None` when it is malformed.
pub(super) fn read(entry: &Value) -> Option<(Id, Owned)> {
    let id = id(entry)?;
    let set = match entry.get("fieldsV1") {
        None | Some(Value::Null) => Set::default(),
        Some(f) => Set::from_fields(f)?,
    };
    let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
    Some((id, Owned { set, api_version: text(entry, "apiVersion").to_owned(), time }))
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The form of an entry in objects.
pub(super) fn write(id: &Id, owned: &Owned) -> Value {
    let mut e = Map::new();
    e.insert("manager".into(), id.manager.as_str().into());
    e.insert("operation".into(), if id.applied { "Apply" } else { "Update" }.into());
    e.insert("apiVersion".into(), owned.api_version.as_str().into());
    if let Some(t) = &owned.time {
        e.insert("time".into(), t.as_str().into());
    }
    e.insert("fieldsType".into(), "FieldsV1".into());
    e.insert("fieldsV1".into(), owned.set.to_fields());
    if !id.subresource.is_empty() {
        e.insert("subresource".into(), id.subresource.as_str().into());
    }
    Value::Object(e)
}

/// Puts entries in upstream's order: applies first, then by age and name.
pub(super) fn sort(entries: &mut [Value]) {
    fn key(e: &Value) -> (bool, Option<&str>, [&str; 3]) {
        let time = e.get("time").and_then(Value::as_str);
        let names = ["manager", "apiVersion", "subresource"].map(|k| text(e, k));
        (text(e, "operation") != "Apply", time, names)
    }
    entries.sort_by(|a, b| key(a).cmp(&key(b)));
}

/// Whether every entry of an object can be read.
pub fn is_well_formed(object: &Value) -> bool {
    decode(object).is_some()
}

/// A client asks for the entries to be dropped: `[]` or one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(a)) => match a.as_slice() {
            [] => true,
            [one] => one.as_object().is_some_and(Map::is_empty),
            _ => false,
        },
        _ => false,
    }
}

/// Takes the entries off an object.
pub(super) fn strip(object: &mut Value) {
    if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
    }
}

/// Puts the entries on an object, in upstream's order.
pub(super) fn encode(object: &mut Value, managed: &Managed) {
    strip(object);
    if managed.is_empty() {
        return;
    }
    let mut list: Vec<Value> = managed.iter().map(|(id, owned)| write(id, owned)).collect();
    sort(&mut list);
    if let Some(o) = object.as_object_mut() {
        let meta = o.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(m) = meta.as_object_mut() {
            m.insert("managedFields".into(), Value::Array(list));
        }
    }
}

/// Folds the oldest `Update` entries into one when there are too many.
pub(super) fn cap(managed: &mut Managed) {
    let mut updaters: Vec<Id> = managed.keys().filter(|id| !id.applied).cloned().collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort_by(|a, b| {
        let time = |id: &Id| managed.get(id).and_then(|o| o.time.clone());
        time(a).cmp(&time(b)).then_with(|| a.cmp(b))
    });
    let mut first_of: BTreeMap<String, Id> = BTreeMap::new();
    for id in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        let Some(owned) = managed.get(&id).cloned() else { continue };
        let version = owned.api_version.clone();
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        // A single old entry keeps its name; the second one makes the bucket.
        let bucket = Id::new(OLD_MANAGER, false, &version, "");
        if !managed.contains_key(&bucket)
            && let Some(o) = managed.remove(first)
        {
            managed.insert(bucket.clone(), o);
        }
        if id != bucket {
            managed.remove(&id);
        }
        if let Some(b) = managed.get_mut(&bucket) {
            b.set = std::mem::take(&mut b.set).union(owned.set);
            b.time = owned.time;
        }
        count -= 1;
    }
}

/// The manager's name: the `fieldManager` parameter, or else what the user agent starts with.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut out = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_MANAGER_LENGTH {
            break;
        }
        out.push(c);
    }
    out
}
