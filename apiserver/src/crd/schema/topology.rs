//! The schema as server-side apply sees it: which parts merge, and by what they are told apart.

use std::borrow::Cow;
use std::sync::Arc;

use proto::schema::{
    Field, Gvk, Kind, ListDef, ListType, MapDef, Presence, Struct, TypeDef, TypeRef, by_name, intern,
};

use super::node::{Additional, List, Node, Type};
use super::prune::is_meta;

static ANY: TypeDef = scalar("interface {}", Kind::Json);
static STRING: TypeDef = scalar("string", Kind::String);
static INTEGER: TypeDef = scalar("int64", Kind::Int64);
static NUMBER: TypeDef = scalar("float64", Kind::Double);
static BOOLEAN: TypeDef = scalar("bool", Kind::Bool);
static INT_OR_STRING: TypeDef = scalar("intstr.IntOrString", Kind::IntOrString);

const fn scalar(go: &'static str, kind: Kind) -> TypeDef {
    TypeDef { name: "", go, kind, gvks: Cow::Borrowed(&[]), atomic: false }
}

fn shared(go: &'static str, kind: Kind, atomic: bool) -> TypeRef {
    TypeRef::Shared(Arc::new(TypeDef { name: "", go, kind, gvks: Cow::Borrowed(&[]), atomic }))
}

/// The type of a whole object; without a schema, or where nothing is pruned, all of it is deduced.
pub fn root(node: Option<&Node>, gvk: Gvk) -> TypeRef {
    let kind = match node {
        None => Kind::Json,
        Some(n) => {
            let mut fields = fields(n, true);
            fields.extend(meta());
            structure(fields, n.preserves)
        }
    };
    TypeRef::Shared(Arc::new(TypeDef {
        name: "",
        go: intern(&format!("{}.{}", gvk.version, gvk.kind)),
        kind,
        gvks: Cow::Owned(vec![gvk]),
        atomic: node.is_some_and(|n| n.atomic_map),
    }))
}

/// A structure; if `open`, the field without a name stands for those that are not declared.
fn structure(mut fields: Vec<Field>, open: bool) -> Kind {
    if open {
        fields.push(field("", TypeRef::Static(&ANY), false, ""));
    }
    fields.sort_by_key(|f| f.json);
    Kind::Struct(Struct { fields: fields.into(), wire: Cow::Borrowed(&[]) })
}

fn field(json: &'static str, ty: TypeRef, required: bool, default: &'static str) -> Field {
    Field {
        json,
        embed: "",
        ty,
        tag: 0,
        inline: false,
        presence: Presence::Pointer,
        required,
        patch_merge: false,
        retain_keys: false,
        patch_replace: false,
        default,
        merge_key: "",
    }
}

/// What every object has.
fn meta() -> impl Iterator<Item = Field> {
    let text = || TypeRef::Static(&STRING);
    let meta = by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap_or(&ANY);
    [
        field("apiVersion", text(), false, ""),
        field("kind", text(), false, ""),
        field("metadata", TypeRef::Static(meta), false, ""),
    ]
    .into_iter()
}

/// Declared fields; those that every object has are left to [`meta`].
fn fields(n: &Node, embeds: bool) -> Vec<Field> {
    let required = |name: &str| n.checks.as_ref().is_some_and(|c| c.required.iter().any(|r| **r == *name));
    n.properties
        .iter()
        .filter(|(name, _)| !(embeds && is_meta(name)))
        .map(|(name, inner)| {
            let default = inner.default.as_ref().map_or("", |d| intern(&d.to_string()));
            field(name, value(inner), required(name), default)
        })
        .collect()
}

/// The type of a value inside the object.
fn value(n: &Node) -> TypeRef {
    match n.ty {
        Type::String => TypeRef::Static(&STRING),
        Type::Integer => TypeRef::Static(&INTEGER),
        Type::Number => TypeRef::Static(&NUMBER),
        Type::Boolean => TypeRef::Static(&BOOLEAN),
        Type::IntOrString => TypeRef::Static(&INT_OR_STRING),
        Type::Any => TypeRef::Static(&ANY),
        Type::Array => {
            let elem = n.items.as_deref().map_or(TypeRef::Static(&ANY), value);
            let (list, keys) = match &n.list {
                List::Atomic => (ListType::Atomic, Vec::new()),
                List::Set => (ListType::Set, Vec::new()),
                List::Map(keys) => (ListType::Map, keys.to_vec()),
            };
            let def = ListDef { elem, list, keys: keys.into(), wrapped: false };
            shared("[]interface {}", Kind::List(def), false)
        }
        Type::Object => {
            let mut fields = fields(n, n.embeds);
            if n.embeds {
                fields.extend(meta());
            }
            let kind = match &n.additional {
                Additional::Schema(inner) if fields.is_empty() => Kind::Map(MapDef { elem: value(inner) }),
                Additional::Allowed(true) if fields.is_empty() => {
                    Kind::Map(MapDef { elem: TypeRef::Static(&ANY) })
                }
                _ if fields.is_empty() && n.preserves => Kind::Json,
                _ => structure(fields, n.preserves),
            };
            shared("map[string]interface {}", kind, n.atomic_map)
        }
    }
}
