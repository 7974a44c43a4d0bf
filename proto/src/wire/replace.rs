//! Changes some fields of an object in its bytes; the rest is copied as it stands.

use serde_json::{Map, Value};

use super::write::{absent, field};
use super::{Cursor, MAX_DEPTH, WireError, put_message};
use crate::schema::{Field, Kind, Struct, Target, TypeDef};

/// The object's message with the fields on these dotted paths of JSON names as `value` has them: what [`super::pick`]
/// gave for at least these paths, changed.
///
/// # Errors
/// As of decoding and encoding. There is no field on a path, or none that has bytes of its own; or a message on the way
/// is there twice, which no encoder writes.
pub fn replace(bytes: &[u8], def: &TypeDef, value: &Value, paths: &[&str]) -> Result<Vec<u8>, WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    let mut out = Vec::with_capacity(bytes.len() + 256);
    message(bytes, s, value.as_object(), paths, &mut out, MAX_DEPTH)?;
    Ok(out)
}

/// A field that is written anew.
struct New<'s, 'p> {
    tag: u32,
    field: &'s Field,
    /// Paths that go on within it; none: all of it.
    below: Vec<&'p str>,
}

impl<'s, 'p> New<'s, 'p> {
    /// The fields of a message that paths lead to, in the order of their numbers.
    fn all(s: &'s Struct, paths: &[&'p str]) -> Result<Vec<Self>, WireError> {
        let mut all: Vec<Self> = Vec::new();
        for path in paths {
            let (name, below) =
                path.split_once('.').map_or((*path, None), |(name, below)| (name, Some(below)));
            let slot = s.wire.iter().find_map(|slot| match &slot.target {
                Target::Field(i) => {
                    Some((slot.tag, &s.fields[usize::from(*i)])).filter(|(_, f)| f.json == name)
                }
                Target::Inline(_) => None,
            });
            let (tag, field) = slot.ok_or_else(|| WireError::NoField((*path).to_owned()))?;
            match all.iter_mut().find(|n| n.tag == tag) {
                Some(n) => n.below.extend(below),
                None => all.push(Self { tag, field, below: below.into_iter().collect() }),
            }
        }
        all.sort_unstable_by_key(|n| n.tag);
        Ok(all)
    }

    /// `old`: the field's bytes, if it is a message that is there.
    fn write(
        &self,
        old: Option<&[u8]>,
        value: Option<&Map<String, Value>>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WireError> {
        let value = value.and_then(|o| o.get(self.field.json)).filter(|v| !v.is_null());
        match (old, value) {
            (Some(old), value) if !self.below.is_empty() => {
                let Kind::Struct(s) = &self.field.ty.kind else {
                    return Err(WireError::NoForm(self.field.ty.go));
                };
                let value = value.and_then(Value::as_object);
                put_message(self.tag, out, |out| message(old, s, value, &self.below, out, depth))
            }
            (_, Some(v)) => field(self.tag, self.field, v, out),
            (_, None) => absent(self.tag, self.field, out),
        }
    }
}

fn message(
    bytes: &[u8],
    s: &Struct,
    value: Option<&Map<String, Value>>,
    paths: &[&str],
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), WireError> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let new = New::all(s, paths)?;
    let mut rest = new.iter().peekable();
    let mut cur = Cursor::new(bytes);
    loop {
        let begin = cur.pos();
        let next = cur.next()?;
        // What was absent, in its place.
        while let Some(n) = rest.next_if(|n| next.as_ref().is_none_or(|(tag, _)| n.tag < *tag)) {
            n.write(None, value, out, depth)?;
        }
        let Some((tag, wire)) = next else { return Ok(()) };
        let Some(n) = new.iter().find(|n| n.tag == tag) else {
            out.extend_from_slice(&bytes[begin..cur.pos()]);
            continue;
        };
        let part = !n.below.is_empty();
        match rest.next_if(|n| n.tag == tag) {
            Some(n) if part => n.write(Some(wire.bytes(n.field.json)?), value, out, depth)?,
            Some(n) => n.write(None, value, out, depth)?,
            None if part => return Err(WireError::Twice(n.field.json)),
            // One more item of what is written already.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{from_proto, pick, to_proto};
    use super::*;

    const PATHS: &[&str] = &["metadata.annotations", "spec.nodeName", "status.conditions"];

    fn pod() -> &'static TypeDef {
        crate::schema::by_gvk("", "v1", "Pod").unwrap()
    }

    fn canonical(o: &Value) -> Value {
        from_proto(&to_proto(o, pod()).unwrap(), pod()).unwrap()
    }

    /// Changes picked fields in the bytes, and the whole object by way of its value: both have to give the same.
    fn check(before: &Value, change: impl Fn(&mut Value)) {
        let bytes = to_proto(&canonical(before), pod()).unwrap();
        let mut picked = pick(&bytes, pod(), PATHS).unwrap();
        change(&mut picked);
        let mut whole = canonical(before);
        change(&mut whole);
        let replaced = replace(&bytes, pod(), &picked, PATHS).unwrap();
        assert_eq!(replaced, to_proto(&whole, pod()).unwrap(), "{before}");
    }

    fn bind(pod: &mut Value) {
        pod["metadata"]["annotations"]["by"] = json!("me");
        pod["spec"]["nodeName"] = json!("n1");
        let ready = json!({"type": "PodScheduled", "status": "True"});
        match pod["status"]["conditions"].as_array_mut() {
            Some(all) => all.push(ready),
            None => pod["status"]["conditions"] = json!([ready]),
        }
    }

    #[test]
    fn fields_are_replaced_where_they_belong_and_nothing_else_changes() {
        let long = "x".repeat(300);
        let full = json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}, "annotations": {"k": long},
                "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "old", "restartPolicy": "Always",
                "tolerations": [{"key": "k", "operator": "Exists"}]},
            "status": {"phase": "Pending", "conditions": [{"type": "A", "status": "True"},
                {"type": "B", "status": "False"}], "podIPs": [{"ip": "10.0.0.1"}]},
        });
        for before in [full, json!({}), json!({"status": {"phase": "Pending"}})] {
            check(&before, bind);
            check(&before, |_| {});
            check(&before, |pod| {
                for (part, name) in
                    [("metadata", "annotations"), ("spec", "nodeName"), ("status", "conditions")]
                {
                    if let Some(o) = pod[part].as_object_mut() {
                        o.remove(name);
                    }
                }
            });
        }
    }

    #[test]
    fn unknown_fields_stay_and_what_would_be_lost_is_refused() {
        // Field 100 of the object, which is none of a pod's.
        let mut bytes = to_proto(&canonical(&json!({"spec": {"nodeName": "a"}})), pod()).unwrap();
        super::super::put_bytes(100, b"kept", &mut bytes);
        let picked = pick(&bytes, pod(), PATHS).unwrap();
        assert_eq!(replace(&bytes, pod(), &picked, PATHS).unwrap(), bytes);
        let twice = [bytes.clone(), bytes.clone()].concat();
        assert_eq!(replace(&twice, pod(), &picked, PATHS), Err(WireError::Twice("metadata")));
        let wrong = replace(&bytes, pod(), &picked, &["spec.nodename"]);
        assert_eq!(wrong, Err(WireError::NoField("nodename".into())));
        for cut in 0..bytes.len() {
            let _ = replace(&bytes[..cut], pod(), &picked, PATHS);
        }
    }
}
