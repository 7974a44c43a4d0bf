//! The bookkeeping of one update on the entries as they stand in the object: only those that the change touches are read.
//! An object carries as much text about who owns its fields as it has fields, of which most updates concern little.

use serde_json::{Map, Value};

use super::apply::{Writer, claim};
use super::fields::{Comparison, Set, compare_shown};
use super::managed::{self, Managed};

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
    let (mut touched, mut stays) = (Managed::new(), Vec::with_capacity(before.len()));
    for entry in before {
        let own = managed::id(entry).is_some_and(|i| i == id);
        let stay = !own && !touches(entry.get("fieldsV1"), &changes);
        if !stay {
            let Some((id, owned)) = managed::read(entry) else { return false };
            touched.insert(id, owned);
        }
        stays.push(stay);
    }
    claim(changes, &mut touched, id, w);
    let Some(list) = new.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) else {
        return false;
    };
    let all = std::mem::take(list).into_iter().zip(stays);
    let mut kept: Vec<Value> = all.filter_map(|(entry, stay)| stay.then_some(entry)).collect();
    kept.extend(touched.iter().map(|(id, owned)| managed::write(id, owned)));
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
