//! Create: metadata bookkeeping, admission, rules of the kind, then the write.

use serde_json::Value;

use super::resource::Resource;
use super::write::{WriteCx, Written, context, dedup_owners, ensure_valid, step};
use super::{Registry, meta, names, object};
use crate::admission::Operation;
use crate::field::ErrorList;
use crate::status::{ApiError, ApiResult};

/// How often a generated name that is taken is replaced by another.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates `o` (in the storage version, defaults applied). `namespace` is the request's.
    pub async fn create(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        namespace: &str,
        mut o: Value,
    ) -> ApiResult<Written> {
        ensure_namespace(r, &mut o, namespace)?;
        if r.custom.as_ref().is_some_and(|c| c.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::forbidden(r.group, r.resource, object::name(&o), why));
        }
        dedup_owners(&mut o, &mut cx.warnings);
        self.managed_on_create(r, cx, &mut o)?;
        self.admit(r, cx, (namespace, Operation::Create), None, &mut o).await?;
        // Admission may have changed it.
        ensure_namespace(r, &mut o, namespace)?;
        let generated = prepare_meta(&mut o);
        let mut guard = match self.allocator(r) {
            Some(a) => Some(a.create(&mut o, cx.dry_run).await?),
            None => None,
        };
        self.prepare_create(r, cx, &mut o)?;
        if let Some(g) = &mut guard {
            g.writing();
        }
        let done = self.insert_named(r, cx, namespace, &mut o, generated).await;
        if let Some(g) = guard.filter(|_| !cx.dry_run) {
            g.written(&done).await;
        }
        done
    }

    /// Inserts, with another name when a generated one is taken.
    async fn insert_named(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        namespace: &str,
        o: &mut Value,
        generated: bool,
    ) -> ApiResult<Written> {
        let base = object::meta_str(o, "generateName").to_owned();
        let mut attempt = 1;
        loop {
            match self.insert(r, cx, namespace, o).await {
                Err(e) if generated && e.reason == "AlreadyExists" && attempt < NAME_ATTEMPTS => {
                    attempt += 1;
                    object::set_meta(o, "name", &names::generate(&base));
                }
                other => return other,
            }
        }
    }

    fn prepare_create(&self, r: &Resource, cx: &mut WriteCx<'_>, o: &mut Value) -> ApiResult<()> {
        let mut warnings = Vec::new();
        let wrong = match r.strategy() {
            Some(s) => {
                let mut scx = context(r, cx, o);
                let wrong = step(r, s.create(&mut scx, o))?;
                warnings = scx.warnings;
                wrong
            }
            None => {
                if r.subresource("status").is_some() {
                    object::root_mut(o).remove("status");
                }
                if o.get("spec").is_some() && has_generation(r) {
                    object::meta_mut(o).insert("generation".to_owned(), 1.into());
                }
                ErrorList::new()
            }
        };
        let mut errors = meta::validate(o, r.namespaced, r.rules.name);
        meta::qualified_finalizers(r, o, &mut errors);
        errors.extend(wrong);
        if errors.is_empty() {
            cx.warnings.append(&mut warnings);
        }
        ensure_valid(r, object::name(o), &errors)
    }

    async fn insert(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        namespace: &str,
        o: &Value,
    ) -> ApiResult<Written> {
        let storage = r.storage()?;
        let name = object::name(o).to_owned();
        self.admitted(r, cx, (namespace, Operation::Create), None, o).await?;
        // Only now: who may not create it is told so. What is not written may have one.
        if !object::resource_version(o).is_empty() && !cx.dry_run {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let key = storage.key(namespace, &name);
        let bytes = r.encode(o).await?;
        let exists = || ApiError::already_exists(r.group, r.resource, &name);
        if cx.dry_run {
            if storage.read(&key).await?.is_some() {
                return Err(exists());
            }
            let stored = r.stored(&key, &bytes, 0).await?;
            return Ok(Written { stored, created: true, deleted: false });
        }
        match storage.put(&key, 0, bytes.clone(), self.ttl(r)).await? {
            Ok(revision) => {
                Ok(Written { stored: r.stored(&key, &bytes, revision).await?, created: true, deleted: false })
            }
            Err(_) => Err(exists()),
        }
    }

    /// How long objects of the resource are kept; zero is for ever.
    pub fn ttl(&self, r: &Resource) -> u64 {
        if r.resource == "events" { self.event_ttl_seconds } else { 0 }
    }
}

/// Sets the request's namespace on the object, which may not name another one.
pub fn ensure_namespace(r: &Resource, o: &mut Value, namespace: &str) -> ApiResult<()> {
    let expected = if r.namespaced { namespace } else { "" };
    let sent = object::namespace(o);
    if sent == expected {
        return Ok(());
    }
    if sent.is_empty() || (expected.is_empty() && !r.namespaced && sent == namespace) {
        object::set_meta(o, "namespace", expected);
        return Ok(());
    }
    if expected.is_empty() {
        // Left for validation: cluster-scoped objects have no namespace.
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Whether the kind counts generations where no rules of its own say so.
pub fn has_generation(r: &Resource) -> bool {
    !matches!(
        (r.group, r.resource),
        ("", _)
            | ("storage.k8s.io", _)
            | ("coordination.k8s.io", _)
            | ("certificates.k8s.io", _)
            | ("apiregistration.k8s.io", _)
            | ("networking.k8s.io", "ipaddresses" | "servicecidrs")
            | ("resource.k8s.io", "resourceclaims" | "resourceclaimtemplates")
    )
}

/// Fills in what the system sets on new objects. True when the name was generated.
fn prepare_meta(o: &mut Value) -> bool {
    let now = object::now();
    let generated = object::name(o).is_empty() && !object::meta_str(o, "generateName").is_empty();
    if generated {
        let name = names::generate(object::meta_str(o, "generateName"));
        object::set_meta(o, "name", &name);
    }
    let m = object::meta_mut(o);
    for f in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        m.remove(f);
    }
    m.insert("creationTimestamp".to_owned(), Value::String(now));
    m.insert("uid".to_owned(), Value::String(uuid::Uuid::new_v4().to_string()));
    generated
}
