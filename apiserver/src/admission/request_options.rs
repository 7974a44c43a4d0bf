//! The options of the request as admission shows them to webhooks and policies: `CreateOptions`, `UpdateOptions`,
//! `PatchOptions` or `DeleteOptions` of `meta.k8s.io/v1`. Built only when somebody asks.

use serde_json::{Map, Value, json};

use crate::registry::options::{DeleteOptions, FieldValidation, Propagation, WriteKind, WriteOptions};

/// Where the options come from.
#[derive(Debug, Clone, Copy, Default)]
pub enum RequestOptions<'a> {
    /// Connections have none, nor have the server's own writes.
    #[default]
    None,
    Write(&'a WriteOptions, WriteKind),
    Delete(&'a DeleteOptions),
}

impl RequestOptions<'_> {
    /// The object, or none.
    pub fn to_value(&self) -> Option<Value> {
        let mut m = Map::new();
        let kind = match self {
            Self::None => return None,
            Self::Write(o, kind) => {
                write(o, &mut m);
                match kind {
                    WriteKind::Create => "CreateOptions",
                    WriteKind::Update => "UpdateOptions",
                    WriteKind::Patch { .. } => "PatchOptions",
                }
            }
            Self::Delete(o) => {
                delete(o, &mut m);
                "DeleteOptions"
            }
        };
        m.insert("kind".to_owned(), kind.into());
        m.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
        Some(m.into())
    }
}

fn write(o: &WriteOptions, m: &mut Map<String, Value>) {
    if o.dry_run {
        m.insert("dryRun".to_owned(), json!(["All"]));
    }
    if !o.field_manager.is_empty() {
        m.insert("fieldManager".to_owned(), o.field_manager.as_str().into());
    }
    if let Some(f) = o.force {
        m.insert("force".to_owned(), f.into());
    }
    let validation = match o.field_validation {
        FieldValidation::Ignore => "Ignore",
        FieldValidation::Strict => "Strict",
        // The default; whether the client wrote it makes no difference to anybody.
        FieldValidation::Warn => return,
    };
    m.insert("fieldValidation".to_owned(), validation.into());
}

fn delete(o: &DeleteOptions, m: &mut Map<String, Value>) {
    if o.dry_run {
        m.insert("dryRun".to_owned(), json!(["All"]));
    }
    if let Some(g) = o.grace_seconds {
        m.insert("gracePeriodSeconds".to_owned(), g.into());
    }
    if let Some(p) = o.propagation {
        let p = match p {
            Propagation::Orphan => "Orphan",
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
        };
        m.insert("propagationPolicy".to_owned(), p.into());
    }
    if let Some(b) = o.orphan_dependents {
        m.insert("orphanDependents".to_owned(), b.into());
    }
    let mut preconditions = Map::new();
    for (field, v) in [("uid", &o.uid), ("resourceVersion", &o.resource_version)] {
        if let Some(v) = v {
            preconditions.insert(field.to_owned(), v.as_str().into());
        }
    }
    if !preconditions.is_empty() {
        m.insert("preconditions".to_owned(), preconditions.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_objects() {
        assert_eq!(RequestOptions::None.to_value(), None);
        let o = WriteOptions { dry_run: true, field_manager: "m".into(), ..WriteOptions::default() };
        assert_eq!(
            RequestOptions::Write(&o, WriteKind::Create).to_value().unwrap(),
            json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldManager": "m"})
        );
        let d = DeleteOptions {
            grace_seconds: Some(0),
            propagation: Some(Propagation::Orphan),
            uid: Some("u".into()),
            ..DeleteOptions::default()
        };
        assert_eq!(
            RequestOptions::Delete(&d).to_value().unwrap(),
            json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0,
                "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}})
        );
    }
}
