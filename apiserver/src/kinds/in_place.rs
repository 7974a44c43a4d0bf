//! Writing a typed object over the JSON value that it was read from.
//!
//! Rules change a field here and there. `serde_json::to_value` would make the whole tree anew, and the old one would be
//! taken apart, thousands of allocations for a pod; this keeps every map, list and string that is there already.

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct,
    Serializer,
};
use serde_json::{Error, Map, Value};

/// Makes `value` what `serde_json::to_value` would give for `typed`.
///
/// # Errors
/// Those of `to_value`; `value` is then partly written.
pub fn write(typed: &impl Serialize, value: &mut Value) -> Result<(), Error> {
    typed.serialize(Slot { value, written: &mut Vec::new() })
}

/// A place in the tree.
struct Slot<'v, 'w> {
    value: &'v mut Value,
    /// Names of fields written so far, of all structures that are being written, the innermost last.
    written: &'w mut Vec<&'static str>,
}

impl<'v, 'w> Slot<'v, 'w> {
    /// Puts a small value there.
    fn set(self, v: impl Into<Value>) -> Result<(), Error> {
        *self.value = v.into();
        Ok(())
    }

    /// Puts there what is too rare to be kept.
    fn anew(self, v: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        *self.value = serde_json::to_value(v)?;
        Ok(())
    }

    fn map(self) -> (&'v mut Map<String, Value>, &'w mut Vec<&'static str>) {
        (crate::registry::object::root_mut(self.value), self.written)
    }

    fn items(self) -> Items<'v, 'w> {
        if !self.value.is_array() {
            *self.value = Value::Array(Vec::new());
        }
        match self.value {
            Value::Array(list) => Items { list, written: self.written, next: 0 },
            _ => unreachable!("made a list above"),
        }
    }
}

macro_rules! set {
    ($($name:ident $ty:ty;)*) => {
        $(fn $name(self, v: $ty) -> Result<(), Error> {
            self.set(v)
        })*
    };
}

macro_rules! anew {
    ($($name:ident $ty:ty;)*) => {
        $(fn $name(self, v: $ty) -> Result<(), Error> {
            self.anew(&v)
        })*
    };
}

impl<'v, 'w> Serializer for Slot<'v, 'w> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Items<'v, 'w>;
    type SerializeTuple = Items<'v, 'w>;
    type SerializeTupleStruct = Items<'v, 'w>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Entries<'v, 'w>;
    type SerializeStruct = Fields<'v, 'w>;
    type SerializeStructVariant = Impossible<(), Error>;

    set! {
        serialize_bool bool;
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
        serialize_u64 u64;
        serialize_f64 f64;
    }

    anew! {
        serialize_i128 i128;
        serialize_u128 u128;
        serialize_f32 f32;
        serialize_char char;
    }

    fn serialize_str(self, v: &str) -> Result<(), Error> {
        match self.value {
            Value::String(s) if s == v => Ok(()),
            _ => self.set(v),
        }
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        self.anew(v)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.set(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<(), Error> {
        v.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.set(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        self.set(())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        v: &T,
    ) -> Result<(), Error> {
        v.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        v: &T,
    ) -> Result<(), Error> {
        let mut m = Map::new();
        m.insert(variant.to_owned(), serde_json::to_value(v)?);
        self.set(m)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        Ok(self.items())
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self::SerializeTuple, Error> {
        Ok(self.items())
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        Ok(self.items())
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(no_api_type(name, variant))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap, Error> {
        let (map, written) = self.map();
        Ok(Entries { old: std::mem::take(map), map, written, key: None })
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self::SerializeStruct, Error> {
        let (map, written) = self.map();
        Ok(Fields { map, base: written.len(), written })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(no_api_type(name, variant))
    }
}

/// Variants with several values are written in a form of Rust's own, which no type of the API has.
fn no_api_type(name: &str, variant: &str) -> Error {
    serde::ser::Error::custom(format!("{name}::{variant} is not a part of any type of the API"))
}

/// A list, of which `next` items are written.
struct Items<'v, 'w> {
    list: &'v mut Vec<Value>,
    written: &'w mut Vec<&'static str>,
    next: usize,
}

impl SerializeSeq for Items<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        if self.next == self.list.len() {
            self.list.push(Value::Null);
        }
        let value = &mut self.list[self.next];
        self.next += 1;
        v.serialize(Slot { value, written: &mut *self.written })
    }

    fn end(self) -> Result<(), Error> {
        self.list.truncate(self.next);
        Ok(())
    }
}

impl SerializeTuple for Items<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, v)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for Items<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, v)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

/// The fields of a structure.
struct Fields<'v, 'w> {
    map: &'v mut Map<String, Value>,
    written: &'w mut Vec<&'static str>,
    /// Where this structure's names begin.
    base: usize,
}

impl SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, v: &T) -> Result<(), Error> {
        self.written.push(name);
        if let Some(value) = self.map.get_mut(name) {
            return v.serialize(Slot { value, written: &mut *self.written });
        }
        let mut value = Value::Null;
        v.serialize(Slot { value: &mut value, written: &mut *self.written })?;
        self.map.insert(name.to_owned(), value);
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        let mine = &self.written[self.base..];
        if self.map.len() > mine.len() {
            self.map.retain(|k, _| mine.contains(&k.as_str()));
        }
        self.written.truncate(self.base);
        Ok(())
    }
}

/// The entries of a map: `old` has those that were there and were not written yet.
struct Entries<'v, 'w> {
    map: &'v mut Map<String, Value>,
    old: Map<String, Value>,
    written: &'w mut Vec<&'static str>,
    key: Option<String>,
}

impl SerializeMap for Entries<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let mut value = Value::Null;
        write(&key, &mut value)?;
        self.key = Some(match value {
            Value::String(s) => s,
            // As in JSON text: `{1: …}` has the key "1".
            other => other.to_string(),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        let Some(key) = self.key.take() else {
            return Err(serde::ser::Error::custom("a value without a key"));
        };
        let mut value = self.old.remove(&key).unwrap_or_default();
        v.serialize(Slot { value: &mut value, written: &mut *self.written })?;
        self.map.insert(key, value);
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec(("[a-d]", inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_was_there_gives_way(typed in values(), mut value in values()) {
            write(&typed, &mut value).unwrap();
            prop_assert_eq!(value, typed);
        }

        #[test]
        fn a_pod_is_written_as_ever(junk in values(), at in 0..6usize) {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"},
                "creationTimestamp": "2026-01-02T03:04:05Z"},
                "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}},
                    "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": "web"}}},
                    {"name": "d"}]}, "status": {"phase": "Running"}});
            let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
            let places = ["", "/metadata", "/metadata/labels", "/spec/containers", "/spec/containers/0", "/status"];
            let mut value = pod;
            *value.pointer_mut(places[at]).unwrap() = junk;
            write(&typed, &mut value).unwrap();
            prop_assert_eq!(value, serde_json::to_value(&typed).unwrap());
        }
    }

    #[test]
    fn fields_that_are_no_more_go_and_strings_stay_where_they_are() {
        let mut value = json!({"metadata": {"name": "p", "namespace": "n", "gone": {"x": 1}}, "spec": {"containers": []},
            "more": 1, "status": null});
        let before = value["metadata"]["name"].as_str().unwrap().as_ptr();
        let typed: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p"}, "spec": {"containers": []}}))
        .unwrap();
        write(&typed, &mut value).unwrap();
        assert_eq!(value, serde_json::to_value(&typed).unwrap());
        assert_eq!(value["metadata"]["name"].as_str().unwrap().as_ptr(), before);
    }
}
