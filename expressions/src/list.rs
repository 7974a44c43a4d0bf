//! Lists at run time: elements, and when two are equal.

use serde_json::Value as Json;

use super::decl::ListEquality;
use super::value::{EvalResult, List, Value};

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json { items, .. } => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, i: usize) -> Option<EvalResult<'a>> {
        match self {
            Self::Json { items, of, .. } => items.get(i).map(|v| Value::from_json(v, of)),
            Self::Made(items) => items.get(i).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = EvalResult<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// All elements.
    pub fn values(&self) -> Result<Vec<Value<'a>>, super::value::EvalError> {
        self.iter().collect()
    }

    fn contains(&self, v: &Value<'_>) -> bool {
        self.iter().any(|x| x.is_ok_and(|x| x.equals(v)))
    }
}

/// Whether two lists are equal, in the way that the first one's type says.
pub fn equal(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let ordered = ListEquality::Ordered;
    let how = match a {
        List::Json { equality, .. } => *equality,
        List::Made(_) => &ordered,
    };
    match how {
        ListEquality::Ordered => {
            a.iter().zip(b.iter()).all(|(x, y)| matches!((x, y), (Ok(x), Ok(y)) if x.equals(&y)))
        }
        ListEquality::Set => a.iter().all(|x| x.is_ok_and(|x| b.contains(&x))),
        ListEquality::Keyed(keys) => keyed_equal(a, b, keys),
    }
}

fn keyed_equal(a: &List<'_>, b: &List<'_>, keys: &[String]) -> bool {
    match (a, b) {
        (List::Json { items: x, of, .. }, List::Json { items: y, of: other, .. }) => x.iter().all(|e| {
            let twin = y.iter().find(|f| same_keys(e, f, keys));
            twin.is_some_and(|f| {
                matches!((Value::from_json(e, of), Value::from_json(f, other)), (Ok(p), Ok(q)) if p.equals(&q))
            })
        }),
        _ => a.iter().all(|x| x.is_ok_and(|x| b.contains(&x))),
    }
}

/// Whether two elements of a list map are the same entry.
pub fn same_keys(a: &Json, b: &Json, keys: &[String]) -> bool {
    keys.iter().all(|k| a.get(k) == b.get(k))
}
