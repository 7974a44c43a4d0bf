//! The structural schema of one version of a custom resource: pruning, defaulting, checking, and what other
//! parts derive from it (server-side apply, OpenAPI). Pure: no I/O, no clock.
//!
//! A [`Schema`] is compiled once per version of a definition and shared. A write passes through it in this
//! order: [`Schema::decode`] on what the client sent (metadata brought to form, unknown fields pruned and named,
//! misplaced nulls dropped), [`Schema::default`], and, after admission, [`Schema::validate`].
//!
//! | file | holds |
//! | --- | --- |
//! | `props` | a reading view of `JSONSchemaProps` |
//! | `node` | the compiled form |
//! | `prune`, `defaults`, `meta` | what is done to objects |
//! | `check`, `format`, `regexp`, `number`, `lists`, `ratchet` | what is checked of them |
//! | `rules`, `rules_run`, `paths` | validation rules |
//! | `topology`, `openapi` | what is derived from the schema |
//!
//! Definitions themselves are judged by `kinds::misc::crd_validation`.

pub mod check;
pub mod defaults;
pub mod format;
pub mod lists;
pub mod loc;
pub mod meta;
pub mod node;
pub mod number;
pub mod openapi;
pub mod paths;
pub mod props;
pub mod prune;
pub mod ratchet;
pub mod regexp;
pub mod rules;
pub mod rules_run;
#[cfg(test)]
mod rules_tests;
mod scale;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::{Arc, OnceLock};

use proto::schema::{Gvk, TypeRef, intern};
use serde_json::{Map, Value};

use self::loc::Loc;
use self::meta::Malformed;
use self::node::{Compiler, MAX_DEPTH, Node};
use self::openapi::Edition;
use self::props::Props;
use self::rules::RuleNode;
use self::rules_run::Run;
pub use self::scale::{ScalePaths, follow};
use crate::cel::RUNTIME_BUDGET;
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// What the definition says besides the schema.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchemaOptions<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// `spec.preserveUnknownFields`: nothing is pruned. New definitions cannot have it.
    pub preserve_unknown_fields: bool,
}

/// What a validation needs to know about the write.
#[derive(Debug, Clone, Copy, Default)]
pub struct ValidationCx<'a> {
    /// The write goes to the `status` endpoint: only the status is checked against the schema.
    pub status: bool,
    /// The paths of the `scale` subresource, where there is one.
    pub scale: Option<&'a ScalePaths>,
    /// What is wrong with the metadata: rules are skipped for some of it.
    pub prior: Option<&'a ErrorList>,
}

/// The compiled schema of one version.
#[derive(Debug)]
pub struct Schema {
    root: Node,
    gvk: Gvk,
    preserve_unknown_fields: bool,
    /// As written: descriptions and examples are published, and needed for nothing else.
    source: Box<str>,
    type_def: OnceLock<TypeRef>,
    has_rules: bool,
    /// Compiled for the first write.
    rules: OnceLock<Option<RuleNode>>,
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a version.
    ///
    /// # Errors
    /// What no structural schema may have.
    pub fn compile(schema: &Value, o: SchemaOptions<'_>) -> Result<Arc<Self>, Vec<String>> {
        let props = Props::new(schema).ok_or_else(|| vec!["OpenAPIV3Schema must be an object".to_owned()])?;
        let mut compiler = Compiler::default();
        let root = compiler.node(props, MAX_DEPTH);
        let unknown = compiler.unknown_type.take();
        compiler.errors.extend(unknown.map(|t| format!("OpenAPIV3Schema type '{t}' is not supported")));
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        Ok(Arc::new(Self {
            root,
            gvk: Gvk { group: intern(o.group), version: intern(o.version), kind: intern(o.kind) },
            preserve_unknown_fields: o.preserve_unknown_fields,
            source: schema.to_string().into(),
            type_def: OnceLock::new(),
            has_rules: rules::any(props),
            rules: OnceLock::new(),
        }))
    }

    /// The root node.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Drops fields that the schema does not know, and nulls where null is not allowed and no default waits.
    pub fn prune(&self, object: &mut Value) {
        if !self.preserve_unknown_fields {
            prune::prune(object, Some(&self.root), true);
            defaults::drop_nulls(object, &self.root);
        }
    }

    /// `unknown field "spec.foo"` for each field that [`Schema::prune`] would drop, sorted; those of metadata
    /// are named by [`Schema::decode`].
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        sentences(self.unknown_paths(object))
    }

    fn unknown_paths(&self, object: &Value) -> Vec<String> {
        let mut paths = Vec::new();
        if !self.preserve_unknown_fields {
            prune::unknown(object, Some(&self.root), true, &Loc::ROOT, &mut paths);
            paths.sort_unstable();
        }
        paths
    }

    /// Brings an object that was read to form: metadata as its type has it, here and in embedded objects,
    /// pruned. With `strict`, answers `unknown field "…"` for all that was dropped, in upstream's order.
    ///
    /// # Errors
    /// Metadata of a wrong type in what a client sent.
    pub fn decode(
        &self,
        object: &mut Value,
        malformed: Malformed,
        strict: bool,
    ) -> Result<Vec<String>, String> {
        let mut paths = Vec::new();
        if let Some(m) = object.as_object_mut() {
            let unknown = meta::canonical(m, malformed)?;
            paths.extend(unknown.iter().map(|f| format!("metadata.{f}")));
        }
        if strict {
            paths.extend(self.unknown_paths(object));
        }
        self.prune(object);
        let mut embedded = Vec::new();
        meta::coerce(object, &self.root, false, malformed, &Loc::ROOT, &mut embedded)
            .map_err(|e| e.to_string())?;
        embedded.sort_unstable();
        paths.extend(embedded);
        Ok(if strict { sentences(paths) } else { Vec::new() })
    }

    /// Fills in defaults. Nulls that [`Schema::prune`] left for them are replaced.
    pub fn default(&self, object: &mut Value) {
        defaults::default(object, &self.root);
    }

    /// Everything wrong with `new` but its own metadata; with `old`, what did not change may stay wrong.
    pub fn validate(&self, cx: &ValidationCx<'_>, new: &Value, old: Option<&Value>) -> ErrorList {
        self.validate_with_warnings(cx, new, old, &mut Vec::new())
    }

    /// As [`Schema::validate`]; adds to `warnings` the broken rules on values that did not change.
    pub fn validate_with_warnings(
        &self,
        cx: &ValidationCx<'_>,
        new: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.status {
            if let (Some(status), Some(node)) = (new.get("status"), self.root.field("status")) {
                let old = old.and_then(|o| o.get("status"));
                errors.extend(check::check(status, node, old, &Path::new("status")));
            }
        } else {
            errors.extend(check::check(new, &self.root, old, &Path::default()));
        }
        if let Some(scale) = cx.scale {
            scale.validate(new, cx.status, &mut errors);
        }
        if !cx.status {
            meta::check(new, &self.root, false, &Loc::ROOT, &Path::default(), &mut errors);
        }
        // Duplicates that were there before are no news.
        let duplicates = self.duplicates(new);
        if !duplicates.is_empty() && old.is_none_or(|o| self.duplicates(o).is_empty()) {
            errors.extend(duplicates);
        }
        if let Some(rules) = self.rules() {
            let prior: Vec<&ErrorList> = cx.prior.into_iter().chain([&errors]).collect();
            match rules_blocked(&prior) {
                Some(e) => errors.push(e),
                None => {
                    let from = Path::default();
                    let mut run = Run::new(&from, RUNTIME_BUDGET);
                    run.check(rules, &self.root, new, old, old.is_some());
                    errors.extend(run.errors);
                    warnings.append(&mut run.warnings);
                }
            }
        }
        errors
    }

    /// Rules cost time and memory to compile, so those of kinds that nobody writes are left alone.
    fn rules(&self) -> Option<&RuleNode> {
        if !self.has_rules {
            return None;
        }
        let compile = || {
            let source: Value = serde_json::from_str(&self.source).ok()?;
            RuleNode::compile(Props::new(&source)?, true)
        };
        self.rules.get_or_init(compile).as_ref()
    }

    fn duplicates(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        lists::check(object, &self.root, &Loc::ROOT, &mut errors);
        errors
    }

    /// The type that server-side apply merges objects by.
    pub fn type_def(&self) -> TypeRef {
        let make = || topology::root(Some(&self.root).filter(|_| !self.preserve_unknown_fields), self.gvk);
        self.type_def.get_or_init(make).clone()
    }

    /// The schema as OpenAPI v3 publishes it.
    pub fn openapi_v3(&self) -> Value {
        self.published(Edition::V3)
    }

    /// The schema as OpenAPI v2 publishes it.
    pub fn openapi_v2(&self) -> Value {
        self.published(Edition::V2)
    }

    fn published(&self, edition: Edition) -> Value {
        let source = serde_json::from_str(&self.source).ok();
        publish(source, self.preserve_unknown_fields, self.gvk, edition)
    }
}

/// The published form of a version without a schema.
pub fn publish_without_schema(gvk: Gvk, edition: Edition) -> Value {
    publish(None, true, gvk, edition)
}

fn publish(schema: Option<Value>, preserves: bool, gvk: Gvk, edition: Edition) -> Value {
    let mut m: Map<String, Value> = openapi::published(schema, preserves, edition);
    m.insert(
        "x-kubernetes-group-version-kind".into(),
        serde_json::json!([{"group": gvk.group, "version": gvk.version, "kind": gvk.kind}]),
    );
    Value::Object(m)
}

fn sentences(paths: Vec<String>) -> Vec<String> {
    paths.into_iter().map(|p| format!("unknown field \"{p}\"")).collect()
}

/// Says that rules were left out, if one of `errors` makes it pointless to run them.
fn rules_blocked(errors: &[&ErrorList]) -> Option<Error> {
    let blocking = |e: &Error| {
        matches!(
            e.kind,
            ErrorKind::NotSupported
                | ErrorKind::Required
                | ErrorKind::TooLong
                | ErrorKind::TooMany
                | ErrorKind::TypeInvalid
        )
    };
    let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
               to complete validation";
    errors
        .iter()
        .flat_map(|l| l.iter())
        .any(blocking)
        .then(|| Error::invalid(&Path::default(), Value::Null, why))
}
