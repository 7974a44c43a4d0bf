//! What creates and updates have in common: who writes, the checks around every write, and its result.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::Registry;
use super::object;
use super::resource::Resource;
use super::strategy::Context;
use crate::admission::{Attributes, Operation, Reinvocation, RequestOptions, Warnings};
use crate::cache::Object;
use crate::field::ErrorList;
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};
use crate::store::Revision;

/// Who writes, and how.
pub struct WriteCx<'a> {
    pub user: &'a UserInfo,
    /// Name under which managed fields are recorded.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub dry_run: bool,
    /// The server's own writes pass no admission.
    pub internal: bool,
    /// The object comes from a server-side apply, which did its own bookkeeping of managed fields.
    pub applied: bool,
    /// The options of the request, for admission.
    pub options: RequestOptions<'a>,
    /// Sentences for `Warning` headers.
    pub warnings: Vec<String>,
}

impl<'a> WriteCx<'a> {
    /// A write by the server itself.
    pub fn internal(user: &'a UserInfo) -> Self {
        Self {
            user,
            manager: "kube-apiserver",
            subresource: "",
            dry_run: false,
            internal: true,
            applied: false,
            options: RequestOptions::None,
            warnings: Vec::new(),
        }
    }
}

/// An object as clients get it, in the storage version.
#[derive(Debug, Clone)]
pub struct Stored {
    pub key: String,
    /// Envelope and message, with the resourceVersion.
    pub bytes: Bytes,
    pub revision: Revision,
    /// The cache's entry, where it came from there: it shares the JSON form between readers.
    pub shared: Option<Arc<Object>>,
}

impl From<&Arc<Object>> for Stored {
    fn from(o: &Arc<Object>) -> Self {
        Self {
            key: o.key.to_string(),
            bytes: o.bytes.clone(),
            revision: o.mod_revision,
            shared: Some(Arc::clone(o)),
        }
    }
}

/// Outcome of a create or update.
#[derive(Debug, Clone)]
pub struct Written {
    pub stored: Stored,
    pub created: bool,
    /// The update removed the last finalizer of an object that was being deleted.
    pub deleted: bool,
}

/// Runs a strategy step; objects of kinds without rules pass.
pub fn step<T>(r: &Resource, result: Result<T, serde_json::Error>) -> ApiResult<T> {
    result.map_err(|e| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {0}: {e}",
            r.kind, r.version
        ))
    })
}

/// The context that strategies see.
pub fn context(r: &Resource, cx: &WriteCx<'_>, o: &Value) -> Context {
    Context {
        group: r.group,
        namespace: object::namespace(o).to_owned(),
        name: object::name(o).to_owned(),
        subresource: cx.subresource.to_owned(),
        user: cx.user.clone(),
        ..Context::default()
    }
}

/// Fails with everything in `errors`, if anything.
pub fn ensure_valid(r: &Resource, name: &str, errors: &ErrorList) -> ApiResult<()> {
    // Events of the newer group are told of as what they are stored as.
    let group = r.storage.as_ref().map_or(r.group, |s| s.group);
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(group, r.kind, name, errors)) }
}

/// Removes repeated owner references, warning about them.
pub fn dedup_owners(o: &mut Value, warnings: &mut Vec<String>) {
    let Some(refs) = object::meta(o).get("ownerReferences").and_then(Value::as_array) else { return };
    if refs.len() < 2 {
        return;
    }
    let mut seen: Vec<(Value, bool)> = Vec::new();
    for r in refs {
        match seen.iter_mut().find(|(s, _)| s.get("uid") == r.get("uid") && s == r) {
            Some((_, twice)) => *twice = true,
            None => seen.push((r.clone(), false)),
        }
    }
    if seen.len() == refs.len() {
        return;
    }
    let repeated: Vec<&str> = seen
        .iter()
        .filter(|(_, twice)| *twice)
        .filter_map(|(r, _)| r.get("uid").and_then(Value::as_str))
        .collect();
    warnings.push(format!(
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        repeated.join(", ")
    ));
    let unique = seen.into_iter().map(|(r, _)| r).collect();
    object::meta_mut(o).insert("ownerReferences".to_owned(), Value::Array(unique));
}

impl Registry {
    /// The attributes that admission sees.
    pub fn attributes<'v>(
        &self,
        r: &'v Resource,
        cx: &'v WriteCx<'_>,
        namespace: &'v str,
        name: &'v str,
        operation: Operation,
        old: Option<&'v Value>,
    ) -> Attributes<'v> {
        Attributes {
            user: cx.user,
            group: r.group,
            version: r.version,
            resource: r.resource,
            kind: r.kind,
            subresource: cx.subresource,
            namespace,
            name,
            operation,
            dry_run: cx.dry_run,
            old,
            options: cx.options,
            warnings: Warnings::default(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// Lets the admission plugins change `o`.
    pub(super) async fn admit(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        (namespace, operation): (&str, Operation),
        old: Option<&Value>,
        o: &mut Value,
    ) -> ApiResult<()> {
        if cx.internal {
            return Ok(());
        }
        let name = object::name(old.unwrap_or(o)).to_owned();
        let attrs = self.attributes(r, cx, namespace, &name, operation, old);
        let admitted = self.admission().admit(&attrs, Some(o)).await;
        cx.warnings.append(&mut attrs.warnings.take());
        admitted.map_err(|e| e.warning(std::mem::take(&mut cx.warnings)))?;
        dedup_owners(o, &mut cx.warnings);
        Ok(())
    }

    /// Lets the admission plugins refuse `o`.
    pub(super) async fn admitted(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        (namespace, operation): (&str, Operation),
        old: Option<&Value>,
        o: &Value,
    ) -> ApiResult<()> {
        if cx.internal {
            return Ok(());
        }
        let attrs = self.attributes(r, cx, namespace, object::name(old.unwrap_or(o)), operation, old);
        let admitted = self.admission().validate(&attrs, Some(o)).await;
        cx.warnings.append(&mut attrs.warnings.take());
        admitted.map_err(|e| e.warning(std::mem::take(&mut cx.warnings)))
    }
}
