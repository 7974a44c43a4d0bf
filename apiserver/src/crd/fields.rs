//! Selectable fields: what field selectors may name beside name and namespace.

use std::borrow::Cow;

use serde_json::Value;

use super::definition::Definition;
use super::jsonpath::Path;
use crate::cache::Pairs;
use crate::registry::object;

/// One selectable field.
pub struct Selectable {
    /// As selectors spell it: `spec.color`.
    pub name: String,
    /// None where the definition's path is no path: nothing is found there.
    path: Option<Path>,
}

impl Selectable {
    /// From the `jsonPath` of a definition.
    pub fn new(path: &str) -> Self {
        Self { name: path.strip_prefix('.').unwrap_or(path).to_owned(), path: Path::parse(path).ok() }
    }

    /// The value as selectors compare it; empty where there is none.
    pub fn value<'a>(&self, o: &'a Value) -> Cow<'a, str> {
        let found = self.path.as_ref().and_then(|p| p.find(o).ok()).unwrap_or_default();
        match found.as_slice() {
            [Value::String(s)] => s.as_str().into(),
            [Value::Null] | [] => "".into(),
            [v] => v.to_string().into(),
            _ => "".into(),
        }
    }
}

/// Everything that selectors of any version may look at where versions differ in nothing but their schema: a field that
/// two of them have has the same value in both.
pub fn of(d: &Definition, o: &Value) -> Pairs {
    let mut out: Vec<(&str, Cow<'_, str>)> = vec![("metadata.name", object::name(o).into())];
    if d.namespaced {
        out.push(("metadata.namespace", object::namespace(o).into()));
    }
    for f in d.versions.iter().flat_map(|v| &v.selectable) {
        if !out.iter().any(|(n, _)| *n == f.name) {
            out.push((&f.name, f.value(o)));
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_become_text() {
        let o = json!({"spec": {"color": "blue", "n": 3, "on": true, "nothing": null}});
        let value = |p: &str| Selectable::new(p).value(&o).into_owned();
        assert_eq!(Selectable::new(".spec.color").name, "spec.color");
        assert_eq!([value(".spec.color"), value(".spec.n"), value(".spec.on")], ["blue", "3", "true"]);
        assert_eq!([value(".spec.nothing"), value(".spec.none"), value("spec")], ["", "", ""]);
    }
}
