//! From typed rules to the untyped ones that the generic handlers hold: objects are read from JSON values into
//! their `k8s-openapi` type, handed to the kind's [`Strategy`], and written back.

use k8s_openapi::Metadata as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::in_place;
use crate::field::ErrorList;
use crate::registry::strategy::{Context, DynStrategy, Strategy};

/// A [`Strategy`] behind the erased interface.
pub struct Erased<S>(pub S);

type Outcome<T> = Result<T, serde_json::Error>;

/// One instantiation of every type's reader, from a borrowed value: no copy of the tree is made.
fn read<T: DeserializeOwned>(value: &Value) -> Outcome<T> {
    read_noting(value).map(|(typed, _)| typed)
}

/// What stands for a time that is not there, in types that must have one.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Reads, and tells whether times had to be put in: the types insist on the `lastTransitionTime` of conditions, which
/// clients may leave out and upstream then has as null.
fn read_noting<T: DeserializeOwned>(value: &Value) -> Outcome<(T, bool)> {
    match T::deserialize(value) {
        Err(e) if lacks_time(&e.to_string()) => {
            let mut whole = value.clone();
            for_conditions(&mut whole, &mut |c| {
                let time = c.entry("lastTransitionTime").or_insert(Value::Null);
                if time.is_null() {
                    *time = NO_TIME.into();
                }
            });
            T::deserialize(&whole).map(|typed| (typed, true))
        }
        other => other.map(|typed| (typed, false)),
    }
}

/// Whether a reader found a time absent or null that its type must have.
fn lacks_time(error: &str) -> bool {
    error.contains("missing field `lastTransitionTime`")
        || error.contains("invalid type: null, expected a timestamp string")
}

/// Calls `f` with every condition of the object.
fn for_conditions(v: &mut Value, f: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match v {
        Value::Object(m) => {
            for (key, v) in m {
                if let Some(list) = v.as_array_mut().filter(|_| key == "conditions") {
                    list.iter_mut().filter_map(Value::as_object_mut).for_each(&mut *f);
                } else {
                    for_conditions(v, f);
                }
            }
        }
        Value::Array(a) => a.iter_mut().for_each(|v| for_conditions(v, f)),
        _ => {}
    }
}

/// Takes the times away again that [`read_noting`] put in.
fn drop_times(v: &mut Value) {
    for_conditions(v, &mut |c| {
        if c.get("lastTransitionTime").is_some_and(|t| t == NO_TIME) {
            c.remove("lastTransitionTime");
        }
    });
}

/// Writes `typed` back over `value`; `apiVersion` and `kind` stay what the client sent, since the same rules
/// may serve several versions.
fn write<T: serde::Serialize>(typed: &T, value: &mut Value) -> Outcome<()> {
    let names = ["apiVersion", "kind"];
    let sent = names.map(|name| value.as_object_mut().and_then(|m| m.remove(name)));
    in_place::write(typed, value)?;
    if let Some(m) = value.as_object_mut() {
        for (name, v) in names.into_iter().zip(sent) {
            match v {
                Some(v) => m.insert(name.to_owned(), v),
                None => m.remove(name),
            };
        }
    }
    if value["kind"] == "CustomResourceDefinition" {
        // Bounds in schemas are floating point in the type, but told as the client wrote them.
        whole_numbers(value);
    }
    Ok(())
}

/// Writes `1.0` as `1`.
fn whole_numbers(v: &mut Value) {
    match v {
        Value::Object(m) => m.values_mut().for_each(whole_numbers),
        Value::Array(a) => a.iter_mut().for_each(whole_numbers),
        Value::Number(n) if n.is_f64() => {
            let whole = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0);
            if let Some(f) = whole {
                *v = Value::from(f as i64);
            }
        }
        _ => {}
    }
}

/// Where `pointers` lead nowhere in `value`; a `*` in them stands for every item of a list.
fn absent(pointers: &[&str], value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for p in pointers {
        let parts: Vec<&str> = p.split('/').skip(1).collect();
        lacking(value, &parts, String::new(), &mut out);
    }
    out
}

fn lacking(value: &Value, parts: &[&str], at: String, out: &mut Vec<String>) {
    match parts {
        [] if value.is_null() => out.push(at),
        [] => {}
        ["*", rest @ ..] => {
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                lacking(item, rest, format!("{at}/{i}"), out);
            }
        }
        [field, rest @ ..] => lacking(&value[*field], rest, format!("{at}/{field}"), out),
    }
}

/// Takes away what the type added by itself.
fn drop_absent(pointers: &[String], value: &mut Value) {
    for p in pointers {
        let Some((parent, field)) = p.rsplit_once('/') else { continue };
        if let Some(m) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
            m.remove(field);
        }
    }
}

/// `metadata.managedFields`, taken out of an object while typed rules look at it: none of them reads it, and it is as
/// large as the rest.
struct Aside(Option<Value>);

impl Aside {
    fn take(object: &mut Value) -> Self {
        let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
        Self(meta.and_then(|m| m.remove("managedFields")))
    }

    fn put_back(self, object: &mut Value) {
        let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
        if let (Some(list), Some(meta)) = (self.0, meta) {
            meta.insert("managedFields".to_owned(), list);
        }
    }
}

impl<S: Strategy> Erased<S> {
    /// Runs `change` on the typed object, without its `managedFields`, which stay as they are. The object as it is now,
    /// unless reading it anew would give another.
    fn change(&self, object: &mut Value, change: impl FnOnce(&mut S::Object)) -> Outcome<Option<S::Object>> {
        let aside = Aside::take(object);
        let done = self.changed(object, change);
        aside.put_back(object);
        done
    }

    fn changed(&self, object: &mut Value, change: impl FnOnce(&mut S::Object)) -> Outcome<Option<S::Object>> {
        let lacking = absent(self.0.optional(), object);
        let (mut typed, timeless) = read_noting::<S::Object>(object)?;
        change(&mut typed);
        write(&typed, object)?;
        if timeless {
            drop_times(object);
        }
        drop_absent(&lacking, object);
        Ok((!timeless && lacking.is_empty()).then_some(typed))
    }

    /// What is wrong with an object, which is `typed`. A status write keeps the spec as stored: only the change of the
    /// status is judged.
    fn wrong(&self, cx: &mut Context, object: &Value, typed: &S::Object) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        cx.absent = absent(self.0.optional(), object);
        self.0.validate(cx, typed)
    }

    /// An object that is already stored, as the rules see it: with defaults that came after it was written.
    fn stored(&self, value: &Value) -> Outcome<S::Object> {
        let mut old = read::<S::Object>(value)?;
        self.0.default(&mut old);
        Ok(old)
    }
}

impl<S: Strategy> DynStrategy for Erased<S> {
    fn default(&self, object: &mut Value) -> Outcome<()> {
        self.change(object, |o| self.0.default(o)).map(|_| ())
    }

    fn default_changed(&self, object: &mut Value, old: &Value) -> Outcome<()> {
        let same = |sections: &[&str]| sections.iter().all(|s| object.get(s) == old.get(s));
        if self.0.defaulted().is_some_and(same) { Ok(()) } else { self.default(object) }
    }

    fn prepare_create(&self, cx: &mut Context, object: &mut Value) -> Outcome<()> {
        self.change(object, |o| self.0.prepare_create(cx, o)).map(|_| ())
    }

    fn create(&self, cx: &mut Context, object: &mut Value) -> Outcome<ErrorList> {
        let typed = self.change(object, |o| self.0.prepare_create(cx, o))?;
        let typed = typed.map_or_else(|| read(object), Ok)?;
        Ok(self.wrong(cx, object, &typed))
    }

    fn validate(&self, cx: &mut Context, object: &Value) -> Outcome<ErrorList> {
        Ok(self.wrong(cx, object, &read(object)?))
    }

    fn update(
        &self,
        cx: &mut Context,
        object: &mut Value,
        old: &mut Value,
        settle: &mut dyn FnMut(&mut Context, &mut Value, &Value),
    ) -> Outcome<ErrorList> {
        let aside = Aside::take(old);
        let was = self.stored(old);
        aside.put_back(old);
        let was = was?;
        let typed = self.change(object, |o| {
            self.0.default(o);
            self.0.prepare_update(cx, o, &was);
        })?;
        settle(cx, object, old);
        let aside = Aside::take(object);
        let new = match typed {
            Some(mut typed) => read(&object["metadata"]).map(|metadata| {
                *typed.metadata_mut() = metadata;
                typed
            }),
            None => read(object),
        };
        aside.put_back(object);
        let new = new?;
        let mut errors = self.wrong(cx, object, &new);
        errors.extend(self.0.validate_update(cx, &new, &was));
        Ok(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_of_list_items_are_told() {
        let o = serde_json::json!({"a": [{"b": ""}, {}, {"b": null}], "c": 1});
        assert_eq!(absent(&["/a/*/b", "/c", "/d/e"], &o), ["/a/1/b", "/a/2/b", "/d/e"]);
    }

    #[test]
    fn conditions_need_no_time() {
        type Service = k8s_openapi::api::core::v1::Service;
        for time in [Value::Null, Value::from("2026-01-02T03:04:05Z")] {
            let mut o = serde_json::json!({"kind": "Service", "metadata": {"name": "s"}, "status": {"conditions": [
                {"type": "A", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": time},
                {"type": "B", "status": "True", "reason": "R", "message": "m"}]}});
            let (typed, timeless) = read_noting::<Service>(&o).expect("readable");
            assert!(timeless);
            write(&typed, &mut o).expect("writable");
            drop_times(&mut o);
            assert_eq!(o["status"]["conditions"][0]["lastTransitionTime"], time);
            assert!(o["status"]["conditions"][1].get("lastTransitionTime").is_none());
        }
        let wrong = serde_json::json!({"status": {"conditions": [{"type": 1}]}});
        assert!(read::<Service>(&wrong).is_err());
    }
}
