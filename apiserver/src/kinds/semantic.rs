//! Small judgements that most kinds share: whether two specs say the same, and how the generation moves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// True if both say the same to a reader of the API: an absent list and an empty one are equal.
pub fn same<T: PartialEq + Serialize>(a: &T, b: &T) -> bool {
    if a == b {
        return true;
    }
    let plain = |x: &T| {
        let mut v = serde_json::to_value(x).unwrap_or(Value::Null);
        drop_empty(&mut v);
        v
    };
    plain(a) == plain(b)
}

/// Takes away what upstream would not write: nulls, empty lists, and maps left without an entry.
pub fn drop_empty(v: &mut Value) {
    match v {
        Value::Object(m) => {
            m.values_mut().for_each(drop_empty);
            m.retain(|_, x| !(x.is_null() || x.as_array().is_some_and(Vec::is_empty)));
        }
        Value::Array(a) => a.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

/// Generation of a fresh object.
pub fn first_generation(meta: &mut ObjectMeta) {
    meta.generation = Some(1);
}

/// Generation after an update: one more if what the user asks for changed, else as it was.
pub fn next_generation(meta: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    let was = old.generation.unwrap_or(0);
    meta.generation = match (changed, was) {
        (true, _) => Some(was + 1),
        (false, 0) => None,
        (false, n) => Some(n),
    };
}

/// Puts back what a write to `status` may not change in metadata: all but the managed fields.
pub fn keep_metadata(meta: &mut ObjectMeta, old: &ObjectMeta) {
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.generation = old.generation;
    meta.self_link.clone_from(&old.self_link);
    meta.labels.clone_from(&old.labels);
    meta.annotations.clone_from(&old.annotations);
    meta.finalizers.clone_from(&old.finalizers);
    meta.owner_references.clone_from(&old.owner_references);
}

/// The preparation of a kind with `spec` and `status` whose main endpoint keeps the status, whose `status`
/// endpoint keeps all else, and whose generation counts changes of the spec.
macro_rules! spec_and_status {
    ($blank:expr) => {
        fn prepare_create(&self, _cx: &mut $crate::registry::strategy::Context, object: &mut Self::Object) {
            object.status = $blank;
            $crate::kinds::semantic::first_generation(&mut object.metadata);
        }

        fn prepare_update(
            &self,
            cx: &mut $crate::registry::strategy::Context,
            object: &mut Self::Object,
            old: &Self::Object,
        ) {
            if cx.is_status() {
                object.spec = old.spec.clone();
            } else {
                object.status = old.status.clone();
            }
            let changed = !$crate::kinds::semantic::same(&object.spec, &old.spec);
            $crate::kinds::semantic::next_generation(&mut object.metadata, &old.metadata, changed);
        }
    };
}
pub(crate) use spec_and_status;

/// Sets a string that the client left out; an empty one counts as left out.
pub fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Sets a number for which zero counts as left out.
pub fn fill_zero(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

/// The string, empty if absent.
pub fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// The items, none if absent.
pub fn items<T>(field: &Option<Vec<T>>) -> &[T] {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_writes_leave_metadata_alone() {
        let of = |label: &str, version: &str| ObjectMeta {
            labels: Some([("a".to_owned(), label.to_owned())].into()),
            resource_version: Some(version.to_owned()),
            ..Default::default()
        };
        let mut sent = of("sent", "2");
        keep_metadata(&mut sent, &of("stored", "1"));
        assert_eq!(sent, of("stored", "2"));
    }

    #[test]
    fn absent_and_empty_are_the_same() {
        assert!(same(&Some(Vec::<u8>::new()), &Some(Vec::new())));
        let a = serde_json::json!({"a": [], "b": {"c": null}});
        let b = serde_json::json!({"b": {}});
        assert!(same(&a, &b));
        assert!(!same(&a, &serde_json::json!({})));
    }

    #[test]
    fn generation_moves_only_with_the_spec() {
        let old = ObjectMeta { generation: Some(4), ..Default::default() };
        let mut new = ObjectMeta { generation: Some(99), ..Default::default() };
        next_generation(&mut new, &old, false);
        assert_eq!(new.generation, Some(4));
        next_generation(&mut new, &old, true);
        assert_eq!(new.generation, Some(5));
    }
}
