//! The rules of custom resources, for the generic handlers: defaults and checks of the schema, what each endpoint
//! may change, and when the generation grows. Objects are in the version of the request.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Served;
use super::schema::ValidationCx;
use crate::field::{Error, ErrorList, Path};
use crate::lookup::text;
use crate::registry::names;
use crate::registry::object;
use crate::registry::strategy::{Context, DynStrategy};

/// The rules of one version.
pub struct CustomStrategy(pub Arc<Served>);

type Outcome<T> = Result<T, serde_json::Error>;

fn without_metadata(o: &Value) -> impl Iterator<Item = (&String, &Value)> {
    o.as_object().into_iter().flatten().filter(|(k, _)| *k != "metadata")
}

impl CustomStrategy {
    /// `apiVersion` and `kind` must be those of the endpoint.
    fn type_meta(&self, o: &Value) -> ErrorList {
        let mut e = ErrorList::new();
        let v = self.0.version();
        let expected =
            [("kind", self.0.definition.names.kind.as_str()), ("apiVersion", v.api_version.as_str())];
        for (field, expected) in expected {
            let sent = text(o, &format!("/{field}"));
            if sent != expected {
                e.push(Error::invalid(&Path::new(field), sent, format!("must be {expected}")));
            }
        }
        e
    }

    fn check(&self, cx: &mut Context, o: &Value, old: Option<&Value>) -> ErrorList {
        let types = self.type_meta(o);
        if !types.is_empty() {
            return types;
        }
        let v = self.0.version();
        let vcx = ValidationCx { status: cx.is_status(), scale: v.scale.as_ref(), prior: None };
        v.schema.validate_with_warnings(&vcx, o, old, &mut cx.warnings)
    }
}

impl DynStrategy for CustomStrategy {
    fn default(&self, o: &mut Value) -> Outcome<()> {
        self.0.version().schema.default(o);
        Ok(())
    }

    fn prepare_create(&self, _cx: &mut Context, o: &mut Value) -> Outcome<()> {
        if self.0.version().has_status {
            object::root_mut(o).remove("status");
        }
        object::meta_mut(o).insert("generation".to_owned(), 1.into());
        Ok(())
    }

    fn validate(&self, cx: &mut Context, o: &Value) -> Outcome<ErrorList> {
        warn_of_finalizers(cx, o, None);
        Ok(self.check(cx, o, None))
    }

    fn update(
        &self,
        cx: &mut Context,
        o: &mut Value,
        old: &mut Value,
        settle: &mut dyn FnMut(&mut Context, &mut Value, &Value),
    ) -> Outcome<ErrorList> {
        self.prepare_update(cx, o, old);
        settle(cx, o, old);
        // The schema judges the object and the change in one.
        if !cx.is_status() {
            warn_of_finalizers(cx, o, Some(old));
        }
        Ok(self.check(cx, o, Some(old)))
    }
}

impl CustomStrategy {
    /// What the endpoint may not change stays as it was.
    fn prepare_update(&self, cx: &Context, o: &mut Value, old: &Value) {
        let root = object::root_mut(o);
        if cx.is_status() {
            let status = root.remove("status");
            let managed = root
                .get_mut("metadata")
                .and_then(Value::as_object_mut)
                .and_then(|m| m.remove("managedFields"));
            let version = object::meta_str(o, "resourceVersion").to_owned();
            *o = old.clone();
            set(object::root_mut(o), "status", status);
            set(object::meta_mut(o), "managedFields", managed);
            object::set_meta(o, "resourceVersion", &version);
            return;
        }
        if self.0.version().has_status {
            set(root, "status", old.get("status").cloned());
        }
        if !without_metadata(o).eq(without_metadata(old)) {
            let g = object::meta(old).get("generation").and_then(Value::as_i64).unwrap_or(0);
            object::meta_mut(o).insert("generation".to_owned(), (g + 1).into());
        }
    }
}

fn set(m: &mut Map<String, Value>, field: &str, v: Option<Value>) {
    match v {
        Some(v) => m.insert(field.to_owned(), v),
        None => m.remove(field),
    };
}

/// Finalizers without a domain may clash with those of others.
fn warn_of_finalizers(cx: &mut Context, o: &Value, old: Option<&Value>) {
    let before: Vec<&str> = old.map(|o| object::finalizers(o).collect()).unwrap_or_default();
    let mut added: Vec<&str> = object::finalizers(o).filter(|f| !before.contains(f)).collect();
    added.sort_unstable();
    added.dedup();
    for f in added {
        let mut warn = |why: &str| cx.warnings.push(format!("metadata.finalizers: {f:?}: {why}"));
        if let Err(wrong) = names::qualified_name(f) {
            wrong.iter().for_each(|w| warn(w));
        }
        if f.contains('/') || ["orphan", "foregroundDeletion", "kubernetes"].contains(&f) {
            continue;
        }
        let path = if f.contains('.') { " including a path (/)" } else { "" };
        warn(&format!(
            "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
}
