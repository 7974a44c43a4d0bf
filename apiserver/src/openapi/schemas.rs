//! Types of the schema table as OpenAPI schemas.

use std::collections::BTreeMap;

use proto::schema::{Field, Gvk, Kind, ListType, Presence, Struct, TypeDef};
use serde_json::{Map, Value, json};

use super::descriptions::{self, Descriptions};
use crate::crd::Served;
use crate::registry::resource::Resource;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The schemas that a document refers to, by name; each is described once.
#[derive(Default)]
pub struct Schemas {
    done: BTreeMap<&'static str, Value>,
    open: Vec<&'static str>,
    lists: BTreeMap<String, Value>,
    /// Group and version of the document; none for all.
    scope: Option<(String, String)>,
}

impl Schemas {
    /// Of the document of one group and version.
    pub fn of(group: &str, version: &str) -> Self {
        Self { scope: Some((group.to_owned(), version.to_owned())), ..Self::default() }
    }

    /// A reference to the answer of `/version`, which is no type of the table.
    pub fn version(&mut self) -> Value {
        const ALWAYS: [&str; 9] = [
            "major",
            "minor",
            "gitVersion",
            "gitCommit",
            "gitTreeState",
            "buildDate",
            "goVersion",
            "compiler",
            "platform",
        ];
        const MORE: [&str; 4] =
            ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
        let always = ALWAYS.iter().map(|f| ((*f).to_owned(), json!({"type": "string", "default": ""})));
        let more = MORE.iter().map(|f| ((*f).to_owned(), json!({"type": "string"})));
        let properties: Map<String, Value> = always.chain(more).collect();
        let name = "io.k8s.apimachinery.pkg.version.Info";
        self.lists.insert(
            name.to_owned(),
            json!({
                "type": "object", "required": ALWAYS, "properties": properties,
                "description": "Info contains versioning information.",
            }),
        );
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// A reference to a built-in type, which is described before the document is finished.
    pub fn reference(&mut self, def: &TypeDef) -> Value {
        if !self.done.contains_key(def.name) && !self.open.contains(&def.name) {
            self.open.push(def.name);
        }
        json!({"$ref": format!("#/components/schemas/{}", def.name)})
    }

    /// A reference to the list of a kind, described here: lists are no types of the table.
    pub fn list_of(&mut self, def: &TypeDef, api_version: &str, kind: &str) -> Value {
        let name = format!("{}List", def.name);
        let item = self.reference(def);
        let meta = proto::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
        let meta = meta.map_or_else(|| json!({"type": "object"}), |m| self.reference(m));
        let (group, version) = proto::resources::split_api_version(api_version);
        let mut schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [meta], "default": {}},
                "items": {"type": "array", "items": item},
            },
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": format!("{kind}List")}],
        });
        if let Some(m) = schema.as_object_mut() {
            describe_list(m, kind);
        }
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        self.lists.insert(name, schema);
        reference
    }

    /// A reference to the objects of a resource.
    pub fn object(&mut self, r: &Resource) -> Value {
        let Some(c) = &r.custom else { return self.reference(&r.schema) };
        if let Some(meta) = proto::schema::by_name(&format!("{META}ObjectMeta")) {
            self.reference(meta);
        }
        let name = c.model(r.kind);
        let schema = &c.version().schema;
        // Only the document of everything is turned into v2.
        let mut published = if self.scope.is_some() { schema.openapi_v3() } else { schema.openapi_v2() };
        tell_selectable(c, &mut published);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        self.lists.insert(name, published);
        reference
    }

    /// A reference to the lists of a resource.
    pub fn list(&mut self, r: &Resource) -> Value {
        let Some(c) = &r.custom else { return self.list_of(&r.schema, &r.api_version(), r.kind) };
        let item = self.object(r);
        let meta = proto::schema::by_name(&format!("{META}ListMeta"));
        let meta = meta.map_or_else(|| json!({"type": "object"}), |m| self.reference(m));
        let list_kind = &c.definition.names.list_kind;
        let mut schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [meta]},
                "items": {"type": "array", "items": item},
            },
            "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": list_kind}],
        });
        if let Some(m) = schema.as_object_mut() {
            describe_list(m, r.kind);
            m.insert("description".into(), format!("{list_kind} is a list of {}", r.kind).into());
            let conventions =
                "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
            if let Some(items) = m.get_mut("properties").and_then(|p| p.get_mut("items")) {
                items["description"] = format!("List of {}. More info: {conventions}", r.resource).into();
            }
        }
        tell_selectable(c, &mut schema);
        let name = c.model(list_kind);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        self.lists.insert(name, schema);
        reference
    }

    /// A reference to the body of patches, which is no type of the table.
    pub fn patch(&mut self) -> Value {
        let name = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
        let about =
            "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
        self.lists.entry(name.to_owned()).or_insert(json!({"type": "object", "description": about}));
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// All schemas, those referred to from others included, with what `about` says of them.
    pub fn finish(mut self, about: &Descriptions) -> Map<String, Value> {
        while let Some(name) = self.open.pop() {
            if self.done.contains_key(name) {
                continue;
            }
            if let Some(def) = proto::schema::by_name(name) {
                // Taken as done first: types can contain themselves.
                self.done.insert(def.name, Value::Null);
                let schema = self.describe(def, about);
                self.done.insert(def.name, schema);
            }
        }
        let named = self.done.into_iter().map(|(k, v)| (k.to_owned(), v));
        // Lists that are types of the table are described better there.
        self.lists.into_iter().chain(named).collect()
    }

    fn describe(&mut self, def: &TypeDef, about: &Descriptions) -> Value {
        let mut m = self.plain(def);
        if let Some(text) = about.of_type(def.name) {
            m.insert("description".into(), text.into());
        }
        if let Some(Value::Object(properties)) = m.get_mut("properties") {
            for (name, p) in properties.iter_mut() {
                if let (Some(text), Some(p)) = (about.of_field(def.name, name), p.as_object_mut()) {
                    beside_reference(p);
                    p.insert("description".into(), text.into());
                }
            }
            for (field, values, about) in descriptions::few_valued(def.name) {
                if let Some(p) = properties.get_mut(field).and_then(Value::as_object_mut) {
                    name_values(values, &about, p);
                }
            }
        }
        if !def.gvks.is_empty() {
            // Types that every group has name those of the document only.
            let here = |g: &&Gvk| {
                def.gvks.len() == 1
                    || g.group.is_empty()
                    || self.scope.as_ref().is_none_or(|(group, version)| {
                        g.group == group.as_str() && g.version == version.as_str()
                    })
            };
            let gvks: Vec<Value> = def
                .gvks
                .iter()
                .filter(here)
                .map(|g| json!({"group": g.group, "version": g.version, "kind": g.kind}))
                .collect();
            m.insert("x-kubernetes-group-version-kind".into(), gvks.into());
        }
        if let Some(item) = list_item(def)
            && !m.contains_key("description")
        {
            describe_list(&mut m, item);
        }
        Value::Object(m)
    }

    /// A use of a type: a reference where it has a name, else its description.
    fn use_of(&mut self, def: &TypeDef) -> Map<String, Value> {
        // Strings, lists and the like have names in the table that no document knows.
        let named = matches!(
            &def.kind,
            Kind::Struct(_)
                | Kind::Quantity
                | Kind::IntOrString
                | Kind::Time
                | Kind::MicroTime
                | Kind::FieldsV1
                | Kind::RawExtension
                | Kind::RawJson
                | Kind::Json
                | Kind::SchemaOrArray(_)
                | Kind::SchemaOrBool(_)
                | Kind::SchemaOrStrings(_)
        );
        if def.name.is_empty() || !named {
            return self.plain(def);
        }
        match self.reference(def) {
            Value::Object(m) => m,
            _ => Map::new(),
        }
    }

    fn plain(&mut self, def: &TypeDef) -> Map<String, Value> {
        let simple = |v: Value| match v {
            Value::Object(m) => m,
            _ => Map::new(),
        };
        match &def.kind {
            Kind::Struct(s) => self.structure(def, s),
            Kind::String => simple(json!({"type": "string"})),
            Kind::Bytes => simple(json!({"type": "string", "format": "byte"})),
            Kind::Bool => simple(json!({"type": "boolean"})),
            Kind::Int32 => simple(json!({"type": "integer", "format": "int32"})),
            Kind::Int64 => simple(json!({"type": "integer", "format": "int64"})),
            Kind::Double => simple(json!({"type": "number", "format": "double"})),
            Kind::Quantity => simple(json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
            Kind::IntOrString => {
                simple(json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}))
            }
            Kind::Time | Kind::MicroTime => simple(json!({"type": "string", "format": "date-time"})),
            Kind::FieldsV1 | Kind::RawExtension => simple(json!({"type": "object"})),
            Kind::RawJson
            | Kind::Json
            | Kind::SchemaOrArray(_)
            | Kind::SchemaOrBool(_)
            | Kind::SchemaOrStrings(_) => Map::new(),
            Kind::List(l) => {
                let items = Value::Object(self.use_of(&l.elem));
                let mut m = simple(json!({"type": "array", "items": items}));
                let list = match l.list {
                    ListType::Atomic => "atomic",
                    ListType::Set => "set",
                    ListType::Map => "map",
                };
                m.insert("x-kubernetes-list-type".into(), list.into());
                if !l.keys.is_empty() {
                    m.insert("x-kubernetes-list-map-keys".into(), json!(l.keys));
                }
                m
            }
            Kind::Map(d) => {
                let values = Value::Object(self.use_of(&d.elem));
                let mut m = simple(json!({"type": "object", "additionalProperties": values}));
                if def.atomic {
                    m.insert("x-kubernetes-map-type".into(), "atomic".into());
                }
                m
            }
        }
    }

    fn structure(&mut self, def: &TypeDef, s: &Struct) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut required: Vec<&Field> = Vec::new();
        for f in s.fields.iter() {
            properties.insert(f.json.to_owned(), Value::Object(self.property(def, f)));
            if f.required {
                required.push(f);
            }
        }
        required.sort_by_key(|f| f.tag);
        let required: Vec<&str> = required.into_iter().map(|f| f.json).collect();
        let mut m = Map::new();
        m.insert("type".into(), "object".into());
        if !properties.is_empty() {
            m.insert("properties".into(), properties.into());
        }
        if !required.is_empty() {
            m.insert("required".into(), required.into());
        }
        if def.atomic {
            m.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some((_, by, fields)) = UNIONS.iter().find(|u| u.0 == short(def)) {
            let fields: Map<String, Value> =
                fields.iter().map(|(f, v)| ((*f).to_owned(), (*v).into())).collect();
            let mut union = json!({"fields-to-discriminateBy": fields});
            if !by.is_empty() {
                union["discriminator"] = (*by).into();
            }
            m.insert("x-kubernetes-unions".into(), json!([union]));
        }
        m
    }

    fn property(&mut self, owner: &TypeDef, f: &Field) -> Map<String, Value> {
        let mut m = self.use_of(&f.ty);
        if let Some(default) = default_of(owner, f) {
            beside_reference(&mut m);
            m.insert("default".into(), default);
        }
        if f.patch_merge || f.retain_keys {
            let strategy = match (f.patch_merge, f.retain_keys) {
                (true, true) => "merge,retainKeys",
                (false, true) => "retainKeys",
                _ => "merge",
            };
            beside_reference(&mut m);
            m.insert("x-kubernetes-patch-strategy".into(), strategy.into());
        } else if f.patch_replace {
            beside_reference(&mut m);
            m.insert("x-kubernetes-patch-strategy".into(), "replace".into());
        }
        if !f.merge_key.is_empty() {
            m.insert("x-kubernetes-patch-merge-key".into(), f.merge_key.into());
        }
        m
    }
}

/// A reference can have nothing beside it: it is wrapped.
fn beside_reference(m: &mut Map<String, Value>) {
    if let Some(r) = m.remove("$ref") {
        m.insert("allOf".into(), json!([{"$ref": r}]));
    }
}

/// Defaults that are no zeros: type, field, value.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("core.v1.AzureDiskVolumeSource", "cachingMode", "ReadWrite"),
    ("core.v1.AzureDiskVolumeSource", "fsType", "ext4"),
    ("core.v1.AzureDiskVolumeSource", "kind", "Shared"),
    ("core.v1.ConfigMapEnvSource", "name", ""),
    ("core.v1.ConfigMapKeySelector", "name", ""),
    ("core.v1.ConfigMapProjection", "name", ""),
    ("core.v1.ConfigMapVolumeSource", "name", ""),
    ("core.v1.ContainerPort", "protocol", "TCP"),
    ("core.v1.GRPCAction", "service", ""),
    ("core.v1.ISCSIPersistentVolumeSource", "iscsiInterface", "default"),
    ("core.v1.ISCSIVolumeSource", "iscsiInterface", "default"),
    ("core.v1.LocalObjectReference", "name", ""),
    ("core.v1.RBDPersistentVolumeSource", "keyring", "/etc/ceph/keyring"),
    ("core.v1.RBDPersistentVolumeSource", "pool", "rbd"),
    ("core.v1.RBDPersistentVolumeSource", "user", "admin"),
    ("core.v1.RBDVolumeSource", "keyring", "/etc/ceph/keyring"),
    ("core.v1.RBDVolumeSource", "pool", "rbd"),
    ("core.v1.RBDVolumeSource", "user", "admin"),
    ("core.v1.ScaleIOPersistentVolumeSource", "fsType", "xfs"),
    ("core.v1.ScaleIOPersistentVolumeSource", "storageMode", "ThinProvisioned"),
    ("core.v1.ScaleIOVolumeSource", "fsType", "xfs"),
    ("core.v1.ScaleIOVolumeSource", "storageMode", "ThinProvisioned"),
    ("core.v1.SecretEnvSource", "name", ""),
    ("core.v1.SecretKeySelector", "name", ""),
    ("core.v1.SecretProjection", "name", ""),
    ("core.v1.ServicePort", "protocol", "TCP"),
    ("resource.v1beta1.DeviceToleration", "operator", "Equal"),
    ("resource.v1beta2.DeviceToleration", "operator", "Equal"),
    ("resource.v1.DeviceToleration", "operator", "Equal"),
    ("scheduling.v1alpha2.PodGroupSpec", "disruptionMode", "Pod"),
];
const NUMBERS: &[(&str, &str, i64)] = &[
    ("autoscaling.v1.ScaleSpec", "replicas", 0),
    ("core.v1.ReplicationControllerSpec", "minReadySeconds", 0),
    ("core.v1.ReplicationControllerSpec", "replicas", 1),
    ("resource.v1alpha3.ResourcePoolStatusRequestSpec", "limit", 100),
    ("certificates.v1beta1.PodCertificateRequestSpec", "maxExpirationSeconds", 86400),
];

/// Flags that are off by declaration.
const FLAGS: &[(&str, &str)] =
    &[("core.v1.AzureDiskVolumeSource", "readOnly"), ("core.v1.FileKeySelector", "optional")];

/// A type of which one field says which of the others is set: its name, that field, and
/// the others with their values.
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const UNIONS: &[Union] = &[
    ("core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "flowcontrol.v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
    ("scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
    ("scheduling.v1alpha2.PodGroupTemplateReference", "", &[("workload", "Workload")]),
];

/// Name of a type without what all have in common.
fn short(def: &TypeDef) -> &'static str {
    def.name.strip_prefix("io.k8s.api.").unwrap_or_default()
}

/// The value of a field that is absent, where the type holds it directly or upstream declares it.
fn default_of(owner: &TypeDef, f: &Field) -> Option<Value> {
    let short = short(owner);
    if FLAGS.iter().any(|(t, n)| *t == short && *n == f.json) {
        return Some(false.into());
    }
    if let Some((.., v)) = DEFAULTS.iter().find(|(t, n, _)| *t == short && *n == f.json) {
        return Some((*v).into());
    }
    if let Some((.., v)) = NUMBERS.iter().find(|(t, n, _)| *t == short && *n == f.json) {
        return Some((*v).into());
    }
    let direct = matches!(f.presence, Presence::Always | Presence::OmitEmpty | Presence::OmitZero);
    match &f.ty.kind {
        Kind::Struct(_) if direct => Some(json!({})),
        Kind::String if f.presence == Presence::Always => Some("".into()),
        Kind::Bool if f.presence == Presence::Always => Some(false.into()),
        Kind::Int32 | Kind::Int64 if f.presence == Presence::Always => Some(0.into()),
        _ => None,
    }
}

/// The kind that a list holds.
fn list_item(def: &TypeDef) -> Option<&'static str> {
    let kind = def.gvks.first()?.kind.strip_suffix("List")?;
    def.field("items").map(|_| kind)
}

/// Names the values of a field that can have few, and says what they mean.
fn name_values(values: Vec<&'static str>, about: &str, p: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = p.get_mut("description") {
        text.push_str(about);
    }
    // Of a list or map it is the elements that have these values.
    let within = ["items", "additionalProperties"].into_iter().find(|f| p.contains_key(*f));
    let of = match within {
        Some(f) => p.get_mut(f).and_then(Value::as_object_mut),
        None => Some(p),
    };
    if let Some(of) = of {
        of.insert("enum".into(), values.into());
    }
}

/// Says what a list is: the crate that the descriptions come from has no lists.
fn describe_list(m: &mut Map<String, Value>, kind: &str) {
    m.insert("description".into(), format!("{kind}List is a list of {kind} objects.").into());
    let texts = [
        ("apiVersion", "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources".to_owned()),
        ("kind", "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned()),
        ("metadata", "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned()),
        ("items", format!("The {kind} objects.")),
    ];
    for (field, text) in texts {
        if let Some(p) = m.get_mut("properties").and_then(|p| p.get_mut(field)).and_then(Value::as_object_mut)
        {
            beside_reference(p);
            p.entry("description").or_insert(text.into());
        }
    }
}

/// Names the fields that field selectors may use beside name and namespace.
fn tell_selectable(c: &Served, schema: &mut Value) {
    let fields: Vec<Value> = c.version().selectable.iter().map(|f| json!({"fieldPath": f.name})).collect();
    if !fields.is_empty() {
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
}
