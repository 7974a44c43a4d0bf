//! The table: every type of the API with its fields, their wire numbers, when they are written, and how they
//! merge. Built-in types are statics made at build time; those of custom resources are built at run time and
//! shared by `Arc`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::tables;

/// Group, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
}

/// A reference to a type: static for built-in ones, counted for those made at run time.
#[derive(Clone)]
pub enum TypeRef {
    /// Built in.
    Static(&'static TypeDef),
    /// Made at run time.
    Shared(Arc<TypeDef>),
}

impl Deref for TypeRef {
    type Target = TypeDef;
    fn deref(&self) -> &TypeDef {
        match self {
            Self::Static(t) => t,
            Self::Shared(t) => t,
        }
    }
}

impl std::fmt::Debug for TypeRef {
    /// Names the type only: types can contain themselves.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.name.is_empty() { self.go } else { self.name })
    }
}

/// One type.
#[derive(Debug, Clone)]
pub struct TypeDef {
    /// OpenAPI name (`io.k8s.api.core.v1.Pod`); empty for lists, maps and scalars without a name.
    pub name: &'static str,
    /// Name as upstream's decoding errors print it (`v1.Pod`).
    pub go: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The kinds that objects of this type go by; empty for parts of objects.
    pub gvks: Cow<'static, [Gvk]>,
    /// A map or structure that server-side apply owns as a whole.
    pub atomic: bool,
}

/// What a type is: its JSON and protobuf form follow from it.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An object with known fields.
    Struct(Struct),
    /// A string, also one with a name of its own.
    String,
    /// Bytes; base64 in JSON.
    Bytes,
    /// A boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// Time in seconds.
    Time,
    /// Time in microseconds.
    MicroTime,
    /// Field set of a managed fields entry.
    FieldsV1,
    /// An embedded object of any kind.
    RawExtension,
    /// Any JSON, carried as raw bytes (`apiextensions/v1` `JSON`).
    RawJson,
    /// Any JSON without a protobuf form.
    Json,
    /// A schema or a list of schemas.
    SchemaOrArray(TypeRef),
    /// A schema or a boolean.
    SchemaOrBool(TypeRef),
    /// A schema or a list of strings.
    SchemaOrStrings(TypeRef),
    /// A list.
    List(ListDef),
    /// A map with string keys.
    Map(MapDef),
}

/// Fields of a structure.
#[derive(Debug, Clone)]
pub struct Struct {
    /// As JSON shows them, embedded ones included; sorted by JSON name.
    pub fields: Cow<'static, [Field]>,
    /// As protobuf has them, sorted by tag.
    pub wire: Cow<'static, [Slot]>,
}

/// Where a protobuf field goes.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Protobuf field number.
    pub tag: u32,
    /// What it fills.
    pub target: Target,
}

/// What a [`Slot`] fills.
#[derive(Debug, Clone)]
pub enum Target {
    /// The field at that place in [`Struct::fields`].
    Field(u16),
    /// A message whose fields JSON carries in the outer object.
    Inline(TypeRef),
}

/// A list type.
#[derive(Debug, Clone)]
pub struct ListDef {
    /// Element type.
    pub elem: TypeRef,
    /// How server-side apply merges it.
    pub list: ListType,
    /// Key fields of a [`ListType::Map`].
    pub keys: Cow<'static, [&'static str]>,
    /// On the wire the list is a message of its own with the elements in field 1.
    pub wrapped: bool,
}

/// How a list merges under server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Owned as a whole.
    Atomic,
    /// Unordered values, each owned on its own.
    Set,
    /// Objects found by their key fields.
    Map,
}

/// A map type; its atomicity is [`TypeDef::atomic`].
#[derive(Debug, Clone)]
pub struct MapDef {
    /// Value type.
    pub elem: TypeRef,
}

/// When a field is written, following upstream's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always: with its zero value when nothing was set (`null` for lists, maps and times).
    Always,
    /// Only when not empty; in protobuf scalars are there even so.
    OmitEmpty,
    /// A structure that is left out of JSON when it is zero.
    OmitZero,
    /// Only when set; a set zero value counts.
    Pointer,
    /// As `Pointer`, but JSON has `null` when it is not set.
    PointerOrNull,
}

/// One field of a structure.
#[derive(Debug, Clone)]
pub struct Field {
    /// JSON name.
    pub json: &'static str,
    /// Names of the embedded structures that upstream's types hold it in (shown in decoding errors).
    pub embed: &'static str,
    /// Its type.
    pub ty: TypeRef,
    /// Protobuf number in its message; zero when protobuf does not have it.
    pub tag: u32,
    /// Lives in an embedded message (see [`Target::Inline`]).
    pub inline: bool,
    /// When it is written.
    pub presence: Presence,
    /// OpenAPI's `required`.
    pub required: bool,
    /// Strategic merge patch merges the list instead of replacing it.
    pub patch_merge: bool,
    /// Strategic merge patch strategy `retainKeys`.
    pub retain_keys: bool,
    /// Strategic merge patch replaces the whole structure.
    pub patch_replace: bool,
    /// Default value as JSON text, where a list key needs one; empty for none.
    pub default: &'static str,
    /// Strategic merge patch key; empty when elements are scalars.
    pub merge_key: &'static str,
}

impl TypeDef {
    /// Its fields, when it is a structure.
    pub fn structure(&self) -> Option<&Struct> {
        match &self.kind {
            Kind::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// The field of that JSON name.
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.structure().and_then(|s| s.field(json))
    }

    /// Name without package, as in `Container`.
    pub fn short(&self) -> &'static str {
        self.go.rsplit('.').next().unwrap_or(self.go)
    }
}

impl Field {
    /// `apiVersion` and `kind` that upstream always shows on the objects in this field, though protobuf does
    /// not carry them.
    pub(crate) fn nested_kind(&self) -> Option<(&'static str, &'static str)> {
        (self.json == "volumeClaimTemplates").then_some(("v1", "PersistentVolumeClaim"))
    }
}

impl Struct {
    /// The field of that JSON name.
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.index_of(json).map(|i| &self.fields[i])
    }

    /// Its place in [`Struct::fields`].
    pub fn index_of(&self, json: &str) -> Option<usize> {
        self.fields.binary_search_by(|f| f.json.cmp(json)).ok()
    }
}

/// A name for a type made at run time. Equal names are kept once, for as long as the process lives: there are
/// only as many as the custom resource definitions spell.
pub fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.into());
    names.insert(kept);
    kept
}

/// The built-in type with that OpenAPI name.
pub fn by_name(name: &str) -> Option<&'static TypeDef> {
    let all = tables::BY_NAME;
    all.binary_search_by(|e| e.0.cmp(name)).ok().map(|i| all[i].1)
}

/// The built-in type of that kind.
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static TypeDef> {
    let all = tables::BY_GVK;
    all.binary_search_by(|e| e.0.cmp(&(group, version, kind))).ok().map(|i| all[i].1)
}

/// All named built-in types, sorted by OpenAPI name.
pub fn types() -> impl Iterator<Item = &'static TypeDef> {
    tables::BY_NAME.iter().map(|e| e.1)
}

/// All built-in kinds with their types.
pub fn kinds() -> impl Iterator<Item = (Gvk, &'static TypeDef)> {
    tables::BY_GVK.iter().map(|((group, version, kind), t)| (Gvk { group, version, kind }, *t))
}
