//! From JSON text to a canonical `Value`: one pass that follows the type table.
//!
//! The order of precedence among errors is upstream's: broken syntax anywhere, then the first failure of a
//! type with a reader of its own (quantity, time, …), then the first mismatch of a plain type.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use super::encode::{is_empty, zero};
use super::reader::{Reader, Syntax};
use super::{DecodeError, Decoded, Strictness};
use crate::quantity;
use crate::schema::{Field, Kind, Presence, Struct, TypeDef};
use crate::time;

/// More strict errors than this are not collected.
const MAX_STRICT: usize = 100;

struct Decoder<'a> {
    r: Reader<'a>,
    /// First mismatch of a plain type.
    saved: Option<String>,
    /// First failure that ends decoding at once.
    fatal: Option<String>,
    /// Innermost structure, then JSON names of the fields around the current value.
    owner: &'static str,
    stack: Vec<&'static str>,
    strict: bool,
    /// Path for strict errors, kept only when they are wanted.
    path: String,
    strict_errors: Vec<String>,
}

/// Reads an object of type `def`. The caller has matched `apiVersion` and `kind` (see [`interpret`]).
pub fn decode(bytes: &[u8], def: &TypeDef, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let mut d = Decoder {
        r: Reader::new(bytes),
        saved: None,
        fatal: None,
        owner: "",
        stack: Vec::with_capacity(8),
        strict: strictness != Strictness::Ignore,
        path: String::new(),
        strict_errors: Vec::new(),
    };
    d.r.skip_space();
    let value = d.value(def, None).and_then(|v| d.r.end().map(|()| v));
    let value = value.map_err(DecodeError::Mismatch)?;
    if let Some(e) = d.fatal.or(d.saved) {
        return Err(DecodeError::Mismatch(e));
    }
    let value = value.unwrap_or_else(|| zero(def).unwrap_or(Value::Null));
    Ok(Decoded { value, strict_errors: d.strict_errors })
}

/// Reads JSON without a schema, as for custom resources; duplicate fields are reported.
pub fn decode_any(bytes: &[u8], strictness: Strictness) -> Result<Decoded, DecodeError> {
    decode(bytes, &ANY, strictness)
}

static ANY: TypeDef = TypeDef {
    name: "",
    go: "interface {}",
    kind: Kind::Json,
    gvks: std::borrow::Cow::Borrowed(&[]),
    atomic: false,
};

/// `apiVersion` and `kind` of a body; both may be empty. Checks the syntax of all of it.
pub fn interpret(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    let mut r = Reader::new(bytes);
    r.skip_space();
    let (mut version, mut kind) = (String::new(), String::new());
    let mut mismatch = None;
    let mut read = |r: &mut Reader<'_>| -> Result<(), Syntax> {
        if r.peek() != Some(b'{') {
            let got = token(r.peek());
            r.skip()?;
            if got != "null" {
                mismatch = Some(format!(
                    "json: cannot unmarshal {got} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
                ));
            }
            return r.end();
        }
        r.enter()?;
        let mut first = true;
        while let Some(key) = r.next_key(first)? {
            first = false;
            let (target, name) = if key.eq_ignore_ascii_case("apiVersion") {
                (&mut version, "apiVersion")
            } else if key.eq_ignore_ascii_case("kind") {
                (&mut kind, "kind")
            } else {
                r.skip()?;
                continue;
            };
            match r.peek() {
                Some(b'"') => *target = r.string()?.into_owned(),
                Some(b'n') => r.word("null")?,
                c => {
                    mismatch.get_or_insert_with(|| {
                        format!(
                            "json: cannot unmarshal {} into Go struct field .{name} of type string",
                            token(c)
                        )
                    });
                    r.skip()?;
                }
            }
        }
        r.end()
    };
    read(&mut r).map_err(DecodeError::Unrecognized)?;
    match mismatch {
        Some(m) => Err(DecodeError::Unrecognized(m)),
        None => Ok((version, kind)),
    }
}

/// Where Go's decoder of base64 finds a text wrong that is known to be.
fn corrupt_at(text: &[u8]) -> usize {
    let is_symbol = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let Some(at) = text.iter().position(|b| !is_symbol(b)) else {
        // The last group is not whole: it is wrong from its beginning.
        return text.len() - text.len() % 4;
    };
    if text[at] != b'=' {
        return at;
    }
    // Padding stands for the last one or two symbols of the last group.
    match (at % 4, text.get(at + 1)) {
        (0 | 1, _) => at,
        (2, None) => text.len(),
        (2, Some(b'=')) => at + 2,
        (2, Some(_)) => at + 1,
        _ => at + 1,
    }
}

/// What upstream calls a value that starts with `c`.
fn token(c: Option<u8>) -> &'static str {
    match c {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "null",
        _ => "number",
    }
}

impl Decoder<'_> {
    fn context(&self, got: &str, go: &str) -> String {
        if self.stack.is_empty() {
            format!("json: cannot unmarshal {got} into Go value of type {go}")
        } else {
            format!(
                "json: cannot unmarshal {got} into Go struct field {}.{} of type {go}",
                self.owner,
                self.stack.join(".")
            )
        }
    }

    fn mismatch(&mut self, got: &str, go: &str) {
        if self.saved.is_none() && self.fatal.is_none() {
            self.saved = Some(self.context(got, go));
        }
    }

    fn die(&mut self, why: String) {
        self.fatal.get_or_insert(why);
    }

    fn strict_error(&mut self, what: &str, key: &str) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let e = format!("{what} field {path:?}");
        if self.strict_errors.len() < MAX_STRICT && !self.strict_errors.contains(&e) {
            self.strict_errors.push(e);
        }
    }

    fn push_path(&mut self, key: &str) -> usize {
        let len = self.path.len();
        if self.strict {
            if len > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
        }
        len
    }

    /// Skips a value of the wrong type and notes the mismatch; `null` is no mismatch.
    fn refuse(&mut self, go: &str) -> Result<Option<Value>, Syntax> {
        let got = token(self.r.peek());
        self.r.skip()?;
        if got != "null" {
            self.mismatch(got, go);
        }
        Ok(None)
    }

    /// Reads the next value as `def`; `None` when it was `null` or did not fit. `before` is what an earlier
    /// field of the same name left, into which an object is merged.
    fn value(&mut self, def: &TypeDef, before: Option<Value>) -> Result<Option<Value>, Syntax> {
        let c = self.r.peek();
        match &def.kind {
            Kind::Struct(s) => match c {
                Some(b'{') => self.structure(def, s, before).map(Some),
                Some(b'n') => {
                    self.r.word("null")?;
                    Ok(before)
                }
                _ => self.refuse(def.go),
            },
            Kind::List(l) => {
                if c != Some(b'[') {
                    return self.refuse(def.go);
                }
                self.r.enter()?;
                let mut out = Vec::new();
                while self.r.next_element(out.is_empty())? {
                    let len = self.path.len();
                    if self.strict {
                        self.path.push_str(&format!("[{}]", out.len()));
                    }
                    let v = self.value(&l.elem, None)?;
                    self.path.truncate(len);
                    out.push(v.or_else(|| zero(&l.elem)).unwrap_or(Value::Null));
                }
                Ok(Some(Value::Array(out)))
            }
            Kind::Map(m) => {
                if c != Some(b'{') {
                    return self.refuse(def.go);
                }
                let mut out = match before {
                    Some(Value::Object(o)) => o,
                    _ => Map::new(),
                };
                self.r.enter()?;
                let mut first = true;
                let mut seen = Seen::default();
                while let Some(key) = self.r.next_key(first)? {
                    first = false;
                    if self.strict && seen.again(&key) {
                        self.strict_error("duplicate", &key);
                    }
                    let len = self.push_path(&key);
                    let v = self.value(&m.elem, None)?;
                    self.path.truncate(len);
                    out.insert(key.into_owned(), v.or_else(|| zero(&m.elem)).unwrap_or(Value::Null));
                }
                Ok(Some(Value::Object(out)))
            }
            Kind::String => match c {
                Some(b'"') => Ok(Some(Value::String(self.r.string()?.into_owned()))),
                Some(b'n') => self.r.word("null").map(|()| before),
                _ => self.refuse(def.go),
            },
            Kind::Bool => match c {
                Some(b't') => self.r.word("true").map(|()| Some(Value::Bool(true))),
                Some(b'f') => self.r.word("false").map(|()| Some(Value::Bool(false))),
                Some(b'n') => self.r.word("null").map(|()| before),
                _ => self.refuse(def.go),
            },
            Kind::Int32 | Kind::Int64 => match c {
                Some(b'-' | b'0'..=b'9') => {
                    let text = self.r.number()?;
                    let small = matches!(def.kind, Kind::Int32);
                    match text.parse::<i64>() {
                        Ok(n) if !small || i32::try_from(n).is_ok() => Ok(Some(n.into())),
                        _ => {
                            self.mismatch(&format!("number {text}"), def.go);
                            Ok(None)
                        }
                    }
                }
                Some(b'n') => self.r.word("null").map(|()| before),
                _ => self.refuse(def.go),
            },
            Kind::Double => match c {
                Some(b'-' | b'0'..=b'9') => {
                    let text = self.r.number()?;
                    let n = text.parse::<f64>().ok().and_then(float);
                    if n.is_none() {
                        self.mismatch(&format!("number {text}"), def.go);
                    }
                    Ok(n.map(Value::Number))
                }
                Some(b'n') => self.r.word("null").map(|()| before),
                _ => self.refuse(def.go),
            },
            Kind::Bytes => match c {
                Some(b'"') => {
                    let text = self.r.string()?;
                    Ok(self.bytes(&text))
                }
                _ => self.refuse(def.go),
            },
            _ => self.special(def, c),
        }
    }

    /// Base64 with upstream's tolerance for line breaks.
    fn bytes(&mut self, text: &str) -> Option<Value> {
        let clean: String;
        let text = if text.contains(['\n', '\r']) {
            clean = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
            &clean
        } else {
            text
        };
        match STANDARD.decode(text) {
            Ok(_) => Some(Value::String(text.to_owned())),
            Err(_) => {
                let at = corrupt_at(text.as_bytes());
                if self.saved.is_none() && self.fatal.is_none() {
                    self.saved = Some(format!("illegal base64 data at input byte {at}"));
                }
                None
            }
        }
    }

    /// Types that read themselves upstream: their failures end decoding at once.
    fn special(&mut self, def: &TypeDef, c: Option<u8>) -> Result<Option<Value>, Syntax> {
        if c == Some(b'n') && !matches!(def.kind, Kind::SchemaOrBool(_)) {
            return self.r.word("null").map(|()| None);
        }
        match &def.kind {
            Kind::Quantity => {
                let text = match c {
                    Some(b'"') => self.r.string()?.into_owned(),
                    _ => self.raw()?.to_owned(),
                };
                match quantity::canonical(text.trim()) {
                    Ok(q) => Ok(Some(Value::String(q.into_owned()))),
                    Err(e) => {
                        self.die(e.to_string());
                        Ok(None)
                    }
                }
            }
            Kind::Time | Kind::MicroTime => {
                let micro = matches!(def.kind, Kind::MicroTime);
                if c != Some(b'"') {
                    return self.refuse_fatally("string");
                }
                let text = self.r.string()?;
                match time::parse(&text, micro) {
                    Ok(t) if t.seconds == time::ZERO_SECONDS && t.nanos == 0 => Ok(None),
                    Ok(t) => Ok(Some(Value::String(time::format(t, micro)))),
                    Err(e) => {
                        self.die(e);
                        Ok(None)
                    }
                }
            }
            Kind::IntOrString => match c {
                Some(b'"') => Ok(Some(Value::String(self.r.string()?.into_owned()))),
                Some(b'-' | b'0'..=b'9') => {
                    let text = self.r.number()?;
                    match text.parse::<i32>() {
                        Ok(n) => Ok(Some(n.into())),
                        Err(_) => {
                            let e = self.context(&format!("number {text}"), "int32");
                            self.die(e);
                            Ok(None)
                        }
                    }
                }
                _ => self.refuse_fatally("int32"),
            },
            Kind::SchemaOrBool(t) => match c {
                Some(b'{') => self.value(t, None),
                Some(b't' | b'f') => {
                    let yes = c == Some(b't');
                    self.r.word(if yes { "true" } else { "false" })?;
                    Ok(Some(Value::Bool(yes)))
                }
                _ => {
                    self.r.skip()?;
                    self.die("boolean or JSON schema expected".into());
                    Ok(None)
                }
            },
            Kind::SchemaOrArray(t) | Kind::SchemaOrStrings(t) => match c {
                Some(b'{') => self.value(t, None),
                Some(b'[') => {
                    let strings = matches!(def.kind, Kind::SchemaOrStrings(_));
                    let mut out = Vec::new();
                    self.r.enter()?;
                    while self.r.next_element(out.is_empty())? {
                        let v = match (strings, self.r.peek()) {
                            (false, _) => self.value(t, None)?,
                            (true, Some(b'"')) => Some(Value::String(self.r.string()?.into_owned())),
                            (true, _) => self.refuse_fatally("string")?,
                        };
                        out.push(v.unwrap_or_else(|| {
                            if strings { Value::String(String::new()) } else { Value::Object(Map::new()) }
                        }));
                    }
                    Ok((!out.is_empty()).then_some(Value::Array(out)))
                }
                // Anything else reads as nothing.
                _ => self.r.skip().map(|()| None),
            },
            _ => self.any(matches!(def.kind, Kind::Json)).map(Some),
        }
    }

    fn refuse_fatally(&mut self, go: &str) -> Result<Option<Value>, Syntax> {
        let mut got = token(self.r.peek()).to_owned();
        if got == "number" && go == "int32" {
            got = format!("number {}", self.raw()?);
        } else {
            self.r.skip()?;
        }
        let e = self.context(&got, go);
        self.die(e);
        Ok(None)
    }

    /// The text of the next value.
    fn raw(&mut self) -> Result<&str, Syntax> {
        let start = self.r.pos;
        self.r.skip()?;
        Ok(std::str::from_utf8(&self.r.data[start..self.r.pos]).unwrap_or_default())
    }

    /// Any JSON. Duplicate fields are reported where upstream looks into the value (`strict`).
    fn any(&mut self, strict: bool) -> Result<Value, Syntax> {
        Ok(match self.r.peek() {
            Some(b'{') => {
                self.r.enter()?;
                let mut out = Map::new();
                let mut first = true;
                while let Some(key) = self.r.next_key(first)? {
                    first = false;
                    if strict && self.strict && out.contains_key(&*key) {
                        self.strict_error("duplicate", &key);
                    }
                    let len = self.push_path(&key);
                    let v = self.any(strict)?;
                    self.path.truncate(len);
                    out.insert(key.into_owned(), v);
                }
                Value::Object(out)
            }
            Some(b'[') => {
                self.r.enter()?;
                let mut out = Vec::new();
                while self.r.next_element(out.is_empty())? {
                    let len = self.path.len();
                    if strict && self.strict {
                        self.path.push_str(&format!("[{}]", out.len()));
                    }
                    let v = self.any(strict)?;
                    self.path.truncate(len);
                    out.push(v);
                }
                Value::Array(out)
            }
            Some(b'"') => Value::String(self.r.string()?.into_owned()),
            Some(b'-' | b'0'..=b'9') => {
                let text = self.r.number()?;
                // Whole numbers stay whole; what fits no 64 bits becomes a float.
                match text.parse::<i64>() {
                    Ok(n) if !text.starts_with("-0") => n.into(),
                    _ => match text.parse::<f64>().ok().and_then(Number::from_f64) {
                        Some(n) => Value::Number(n),
                        None => {
                            self.mismatch(&format!("number {text}"), "float64");
                            Value::Null
                        }
                    },
                }
            }
            Some(b't') => self.r.word("true").map(|()| Value::Bool(true))?,
            Some(b'f') => self.r.word("false").map(|()| Value::Bool(false))?,
            Some(b'n') => self.r.word("null").map(|()| Value::Null)?,
            _ => return self.r.fail("looking for beginning of value"),
        })
    }

    fn structure(&mut self, def: &TypeDef, s: &Struct, before: Option<Value>) -> Result<Value, Syntax> {
        let mut out = match before {
            Some(Value::Object(o)) => o,
            _ => Map::new(),
        };
        self.r.enter()?;
        let (owner, depth) = (self.owner, self.stack.len());
        let mut seen = [0u64; 4];
        let mut first = true;
        while let Some(key) = self.r.next_key(first)? {
            first = false;
            let Some(i) = s.index_of(&key) else {
                if self.strict {
                    self.strict_error("unknown", &key);
                }
                self.r.skip()?;
                continue;
            };
            let field = &s.fields[i];
            let bit = 1u64 << (i % 64);
            let word = &mut seen[(i / 64).min(3)];
            let again = *word & bit != 0;
            *word |= bit;
            if again && self.strict {
                self.strict_error("duplicate", &key);
            }
            if !field.embed.is_empty() {
                self.stack.push(field.embed);
            }
            self.stack.push(field.json);
            self.owner = def.short();
            let len = self.push_path(&key);
            let before = if again { out.remove(field.json) } else { None };
            let mut v = self.value(&field.ty, before)?;
            if let (Some((version, kind)), Some(Value::Array(items))) = (field.nested_kind(), &mut v) {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.insert("apiVersion".into(), version.into());
                    item.insert("kind".into(), kind.into());
                }
            }
            self.path.truncate(len);
            self.stack.truncate(depth);
            self.owner = owner;
            store(&mut out, field, v);
        }
        complete(&mut out, s);
        Ok(Value::Object(out))
    }
}

/// A floating point number as upstream prints it: whole ones without a fraction.
pub(crate) fn float(n: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() < EXACT { Some(Number::from(n as i64)) } else { Number::from_f64(n) }
}

/// Puts a field's value where upstream would write it.
fn store(out: &mut Map<String, Value>, field: &Field, value: Option<Value>) {
    match value {
        Some(v) if field.presence != Presence::OmitEmpty || !is_empty(&v) => {
            out.insert(field.json.to_owned(), v);
        }
        _ => {
            out.remove(field.json);
        }
    }
}

/// Adds the zero values that upstream always writes.
pub(crate) fn complete(out: &mut Map<String, Value>, s: &Struct) {
    for f in s.fields.iter().filter(|f| f.presence == Presence::Always) {
        if !out.contains_key(f.json)
            && let Some(z) = zero(&f.ty)
        {
            out.insert(f.json.to_owned(), z);
        }
    }
}

/// Keys met so far in one map.
#[derive(Default)]
struct Seen(std::collections::HashSet<String>);

impl Seen {
    fn again(&mut self, key: &str) -> bool {
        !self.0.insert(key.to_owned())
    }
}
