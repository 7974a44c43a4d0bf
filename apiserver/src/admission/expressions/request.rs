//! The `request` variable.

use serde_json::{Map, Value, json};

use crate::admission::{Attributes, Operation};

/// A resource and the kind of its objects, in one version.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    /// Kind of the object, which for some subresources is of another group and version than the resource.
    pub kind_group: &'a str,
    pub kind_version: &'a str,
    pub kind: &'a str,
}

impl Named<'_> {
    fn kind(&self) -> Value {
        json!({"group": self.kind_group, "version": self.kind_version, "kind": self.kind})
    }

    fn resource(&self) -> Value {
        json!({"group": self.group, "version": self.version, "resource": self.resource})
    }
}

/// The request as an `AdmissionRequest` in JSON, without the objects. `requested` is what the client named, `matched`
/// what a policy's or webhook's rules speak of.
pub fn request(attrs: &Attributes<'_>, name: &str, requested: Named<'_>, matched: Named<'_>) -> Value {
    let mut m = Map::new();
    let text = |m: &mut Map<String, Value>, key: &str, value: &str| {
        if !value.is_empty() {
            m.insert(key.to_owned(), value.into());
        }
    };
    m.insert("kind".into(), matched.kind());
    m.insert("resource".into(), matched.resource());
    m.insert("requestKind".into(), requested.kind());
    m.insert("requestResource".into(), requested.resource());
    text(&mut m, "subResource", attrs.subresource);
    text(&mut m, "requestSubResource", attrs.subresource);
    text(&mut m, "name", name);
    text(&mut m, "namespace", attrs.namespace);
    let operation = match attrs.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    };
    m.insert("operation".into(), operation.into());
    m.insert("dryRun".into(), attrs.dry_run.into());
    m.insert("options".into(), attrs.options.to_value().unwrap_or(Value::Null));
    let mut user = Map::new();
    text(&mut user, "username", &attrs.user.name);
    text(&mut user, "uid", &attrs.user.uid);
    if !attrs.user.groups.is_empty() {
        user.insert("groups".into(), json!(attrs.user.groups));
    }
    if !attrs.user.extra.is_empty() {
        user.insert("extra".into(), json!(attrs.user.extra));
    }
    m.insert("userInfo".into(), user.into());
    m.into()
}
