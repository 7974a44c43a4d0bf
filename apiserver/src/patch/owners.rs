//! The bookkeeping of one update on the entries as they stand in the object: only those that the change touches are read.
//! An object carries as much text about who owns its fields as it has fields, of which most updates concern little.

use serde_json::{Map, Value};

use super::apply::{NEVER_OWNED, Writer};
use super::fields::{Comparison, Set, compare_shown};
use super::managed::{self, Id, Owned};

/// Does what [`super::apply::track_update`] does, where `new` has the entries of `live`, as many as need not be folded.
/// False: that is not so, and nothing was done.
pub(super) fn track(live: &Value, new: &mut Value, w: &Writer<'_>) -> bool {
    let (Some(before), Some(after)) = (entries(live), entries(new)) else { return false };
    if before.is_empty() || before.len() >= managed::MAX_UPDATE_MANAGERS || before != after {
        return false;
    }
    let changes = compare_shown(live, new, w.ty()).without(w.reset);
    if changes.is_same() {
        return true;
    }
    let Some(list) = new.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) else {
        return false;
    };
    let mut kept = Vec::with_capacity(list.len() + 1);
    let mut mine = Set::default();
    let id = w.id(w.manager, false);
    for entry in list.iter() {
        let own = managed::id(entry).is_some_and(|i| i == id);
        if !own && !touches(entry.get("fieldsV1"), &changes) {
            kept.push(entry.clone());
            continue;
        }
        let Some((entry_id, mut owned)) = managed::read(entry) else { return false };
        for changed in [&changes.modified, &changes.added, &changes.removed] {
            owned.set.subtract(changed);
        }
        if own {
            mine = owned.set;
        } else if !owned.set.is_empty() {
            kept.push(managed::write(&entry_id, &owned));
        }
    }
    let gained = changes.modified.union(changes.added).difference(&NEVER_OWNED);
    // Whoever sets nothing new keeps the time of the last change.
    let time = if gained.is_empty() { time_of(list, &id) } else { Some(w.now.into()) };
    let set = mine.union(gained);
    if !set.is_empty() {
        kept.push(managed::write(&id, &Owned { set, api_version: w.api_version.into(), time }));
    }
    managed::sort(&mut kept);
    if kept.is_empty() {
        managed::strip(new);
    } else {
        *list = kept;
    }
    true
}

fn entries(o: &Value) -> Option<&Vec<Value>> {
    o.pointer("/metadata/managedFields").and_then(Value::as_array)
}

fn time_of(list: &[Value], id: &Id) -> Option<String> {
    let mine = list.iter().find(|e| managed::id(e).is_some_and(|i| i == *id))?;
    mine.get("time").and_then(Value::as_str).map(str::to_owned)
}

/// Whether any changed path is, or may be, among these fields.
fn touches(fields: Option<&Value>, changes: &Comparison) -> bool {
    let Some(fields) = fields.and_then(Value::as_object) else { return true };
    [&changes.modified, &changes.added, &changes.removed].iter().any(|set| meet(fields, set))
}

fn meet(fields: &Map<String, Value>, set: &Set) -> bool {
    set.elements().any(|e| fields.contains_key(e))
        || set.nested().any(|(e, below)| {
            fields.get(e).and_then(Value::as_object).is_some_and(|fields| meet(fields, below))
        })
}
