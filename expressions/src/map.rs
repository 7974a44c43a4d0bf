//! Maps and objects at run time.

use std::sync::Arc;

use serde_json::Value as Json;

use super::value::{Entries, EvalError, EvalResult, Key, Map, Value};

impl Key {
    /// The key that a value is; none for what cannot be one.
    pub fn from_value(v: &Value<'_>) -> Option<Self> {
        Some(match v {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(n) => Self::Int(*n),
            Value::Uint(n) => Self::Uint(*n),
            Value::String(s) => Self::String(Arc::from(&**s)),
            #[allow(clippy::cast_possible_truncation)]
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e18 => Self::Int(*d as i64),
            _ => return None,
        })
    }

    fn to_value<'a>(&self) -> Value<'a> {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::Int(*n),
            Self::Uint(n) => Value::Uint(*n),
            Self::String(s) => Value::String(super::value::Text::Shared(s.clone())),
        }
    }

    /// The same number as the other kind of integer.
    fn twin(&self) -> Option<Self> {
        match self {
            Self::Int(n) => u64::try_from(*n).ok().map(Self::Uint),
            Self::Uint(n) => i64::try_from(*n).ok().map(Self::Int),
            _ => None,
        }
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(m, _) => m.len(),
            Self::Made(m) | Self::Open(m) => m.len(),
            Self::Object(_, m) => m.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field, as selection by name sees it.
    pub fn field(&self, name: &str) -> Option<EvalResult<'a>> {
        match self {
            Self::Json(m, Entries::All(of)) => m.get(name).map(|v| Value::from_json(v, of)),
            Self::Json(m, Entries::Object(o)) => {
                let f = o.field(name)?;
                m.get(&*f.json).map(|v| Value::from_json(v, &f.ty))
            }
            Self::Made(m) => m.get(&Key::String(name.into())).cloned().map(Ok),
            Self::Open(m) => {
                let empty = || Value::Map(Map::Made(Arc::default()));
                Some(Ok(m.get(&Key::String(name.into())).cloned().unwrap_or_else(empty)))
            }
            Self::Object(_, m) => m.get(name).cloned().map(Ok),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Option<EvalResult<'a>> {
        if let Value::String(s) = key {
            return self.field(s);
        }
        let Self::Made(m) = self else { return None };
        let key = Key::from_value(key)?;
        m.get(&key).or_else(|| m.get(&key.twin()?)).cloned().map(Ok)
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &Value<'_>) -> bool {
        match (self, Key::from_value(key)) {
            (Self::Open(m), Some(k)) => m.contains_key(&k),
            _ => self.get(key).is_some(),
        }
    }

    /// The keys, as loops see them: only those that the declared type knows.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(m, Entries::All(_)) => m.keys().map(|k| Value::from(k.as_str())).collect(),
            Self::Json(m, Entries::Object(o)) => {
                let known = o.fields.iter().filter(|(_, f)| m.contains_key(&*f.json));
                known.map(|(name, _)| Value::from(&**name)).collect()
            }
            Self::Made(m) | Self::Open(m) => m.keys().map(Key::to_value).collect(),
            Self::Object(_, m) => m.keys().map(|k| Value::from(k.clone())).collect(),
        }
    }
}

/// Whether two maps have equal values for the same keys.
pub fn equal(a: &Map<'_>, b: &Map<'_>) -> bool {
    if let (Map::Object(x, _), Map::Object(y, _)) = (a, b)
        && x != y
    {
        return false;
    }
    if let (Map::Json(x, Entries::Object(o)), Map::Json(y, Entries::Object(p))) = (a, b) {
        // Fields that the type does not know count as they are.
        return x.len() == y.len()
            && x.iter().all(|(k, v)| {
                let Some(w) = y.get(k) else { return false };
                let of = |o: &super::decl::ObjectDecl| o.fields.values().any(|f| &*f.json == k.as_str());
                if !of(o) || !of(p) {
                    return v == w;
                }
                let typed = |o: &'_ super::decl::ObjectDecl| {
                    o.fields.iter().find(|(_, f)| &*f.json == k.as_str()).map(|(name, _)| name.clone())
                };
                let (Some(n), Some(m)) = (typed(o), typed(p)) else { return v == w };
                matches!((a.field(&n), b.field(&m)), (Some(Ok(p)), Some(Ok(q))) if p.equals(&q))
            });
    }
    a.len() == b.len()
        && a.keys().iter().all(|k| matches!((a.get(k), b.get(k)), (Some(Ok(x)), Some(Ok(y))) if x.equals(&y)))
}

/// The JSON object of a map; keys must be strings.
pub fn to_json(m: &Map<'_>) -> Result<Json, EvalError> {
    let mut out = serde_json::Map::new();
    match m {
        Map::Json(m, _) => return Ok(Json::Object((*m).clone())),
        Map::Made(m) | Map::Open(m) => {
            for (k, v) in m.iter() {
                let Key::String(k) = k else {
                    return Err(EvalError::new("type conversion error: keys of JSON objects are strings"));
                };
                out.insert(k.to_string(), v.to_json()?);
            }
        }
        Map::Object(_, m) => {
            for (k, v) in m.iter() {
                out.insert(k.clone(), v.to_json()?);
            }
        }
    }
    Ok(Json::Object(out))
}
