//! The bookkeeping of one update on the entries as they stand in the object: only those that the change touches are read.
//! An object carries as much text about who owns its fields as it has fields, of which most updates concern little.

use serde_json::{Map, Value};

use super::apply::{NEVER_OWNED, Writer};
use super::fields::{Comparison, Set, compare_shown};
use super::managed::{self, Owned};

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
    let id = w.id(w.manager, false);
    // Entries that are read and written anew; all others stay.
    let mut touched = Vec::with_capacity(before.len());
    for entry in before {
        let own = managed::id(entry).is_some_and(|i| i == id);
        let read = (own || touches(entry.get("fieldsV1"), &changes)).then(|| managed::read(entry));
        match read {
            Some(None) => return false,
            Some(read) => touched.push(read),
            None => touched.push(None),
        }
    }
    let Some(list) = new.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) else {
        return false;
    };
    let (mut kept, mut mine) = (Vec::with_capacity(before.len() + 1), None);
    for (entry, read) in std::mem::take(list).into_iter().zip(touched) {
        let Some((entry_id, mut owned)) = read else {
            kept.push(entry);
            continue;
        };
        for changed in [&changes.modified, &changes.added, &changes.removed] {
            owned.set.subtract(changed);
        }
        if entry_id == id {
            mine = Some(owned);
        } else if !owned.set.is_empty() {
            kept.push(managed::write(&entry_id, &owned));
        }
    }
    let gained = changes.modified.union(changes.added).difference(&NEVER_OWNED);
    let mut mine =
        mine.unwrap_or_else(|| Owned { set: Set::default(), api_version: w.api_version.into(), time: None });
    if !gained.is_empty() {
        mine = Owned {
            set: mine.set.union(gained),
            api_version: w.api_version.into(),
            time: Some(w.now.into()),
        };
    }
    if !mine.set.is_empty() {
        kept.push(managed::write(&id, &mine));
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
