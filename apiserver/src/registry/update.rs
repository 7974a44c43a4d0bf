//! Update: read, change, check, compare-and-swap, again on conflict. PUT and every kind of PATCH end here.

use serde_json::Value;

use super::create::{ensure_namespace, has_generation};
use super::resource::Resource;
use super::write::{WriteCx, Written, context, dedup_owners, ensure_valid, step};
use super::{Registry, meta, object, rules};
use crate::admission::Operation;
use crate::field::{Error, ErrorKind, ErrorList, Path};
use crate::status::{ApiError, ApiResult};
use crate::store::KeyValue;

/// How often an update is tried again when others write the same object.
pub(super) const ATTEMPTS: usize = 64;

/// Makes the new object from the current one (none: absent). Called again after each conflict.
pub type Change<'a> = &'a mut (dyn FnMut(Option<&Value>) -> ApiResult<Value> + Send);

impl Registry {
    /// Replaces the object `name` by what `change` makes of it (storage version, defaults applied).
    /// `create_missing` lets an absent object be created where `change` accepts that.
    pub async fn update(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        namespace: &str,
        name: &str,
        create_missing: bool,
        change: Change<'_>,
    ) -> ApiResult<Written> {
        let storage = r.storage()?;
        let key = storage.key(namespace, name);
        let mut current = storage.current(&key).await?;
        let warnings = cx.warnings.len();
        for _ in 0..ATTEMPTS {
            cx.warnings.truncate(warnings);
            let Some(kv) = current else {
                if !create_missing {
                    return Err(ApiError::not_found(r.group, r.resource, name));
                }
                let mut o = change(None)?;
                if object::name(&o).is_empty() {
                    object::set_meta(&mut o, "name", name);
                }
                if !object::uid(&o).is_empty() {
                    return Err(uid_conflict(r, name, object::uid(&o), ""));
                }
                object::set_meta(&mut o, "resourceVersion", "");
                return self.create(r, cx, namespace, o).await;
            };
            match self.attempt(r, cx, namespace, name, &kv, change).await? {
                Ok(done) => return Ok(done),
                Err(now) => current = now,
            }
        }
        Err(ApiError::modified(r.group, r.resource, name))
    }

    /// One try. The inner error is what stands there instead of `kv`.
    async fn attempt(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        namespace: &str,
        name: &str,
        kv: &KeyValue,
        change: Change<'_>,
    ) -> ApiResult<Result<Written, Option<KeyValue>>> {
        let mut old = r.decode(kv).await?;
        let mut o = change(Some(&old))?;
        if !object::uid(&o).is_empty() && object::uid(&o) != object::uid(&old) {
            return Err(uid_conflict(r, name, object::uid(&o), object::uid(&old)));
        }
        self.managed_on_update(r, cx, &old, &mut o)?;
        dedup_owners(&mut o, &mut cx.warnings);
        self.admit(r, cx, (namespace, Operation::Update), Some(&old), &mut o).await?;
        check_version(r, name, &mut o, &old)?;
        ensure_namespace(r, &mut o, namespace)?;
        let mut guard = match self.allocator(r).filter(|_| cx.subresource.is_empty()) {
            Some(a) => Some(a.update(&old, &mut o, cx.dry_run).await?),
            None => None,
        };
        self.prepare_update(r, cx, &mut o, &mut old)?;
        self.admitted(r, cx, (namespace, Operation::Update), Some(&old), &o).await?;
        if let Some(g) = &mut guard {
            g.writing();
        }
        let done = self.store_update(r, cx, kv, &old, o).await;
        if let Some(g) = guard.filter(|_| !cx.dry_run) {
            match &done {
                // Another write was faster.
                Ok(Err(_)) => g.revert().await,
                other => g.written(other).await,
            }
        }
        done
    }

    fn prepare_update(
        &self,
        r: &Resource,
        cx: &mut WriteCx<'_>,
        o: &mut Value,
        old: &mut Value,
    ) -> ApiResult<()> {
        object::copy_meta(o, old, "generation");
        let Some(rules) = r.strategy() else {
            prepare_without_rules(r, cx, o, old);
            settle_metadata(cx, o, old);
            return ensure_valid(r, object::name(o), &metadata_errors(r, cx, o, old));
        };
        let mut scx = context(r, cx, old);
        let (mut prepared, mut errors) = (Vec::new(), ErrorList::new());
        let wrong = rules.update(&mut scx, o, old, &mut |scx, o, old| {
            prepared = std::mem::take(&mut scx.warnings);
            scx.updating = true;
            settle_metadata(cx, o, old);
            errors = metadata_errors(r, cx, o, old);
        });
        errors.extend(step(r, wrong)?);
        cx.warnings.append(&mut prepared);
        // What is refused is not warned of.
        if errors.is_empty() {
            cx.warnings.append(&mut scx.warnings);
        }
        ensure_valid(r, object::name(o), &errors)
    }

    async fn store_update(
        &self,
        r: &Resource,
        cx: &WriteCx<'_>,
        kv: &KeyValue,
        old: &Value,
        mut o: Value,
    ) -> ApiResult<Result<Written, Option<KeyValue>>> {
        let storage = r.storage()?;
        crate::patch::apply::keep_times_on_noop(old, &mut o);
        // It is not stored.
        object::set_meta(&mut o, "resourceVersion", "");
        let bytes = r.encode(&o).await?;
        let stored = |revision| r.stored(&kv.key, &bytes, revision);
        if ends_deletion(r, &o, old) {
            if cx.dry_run {
                let stored = stored(kv.mod_revision).await?;
                return Ok(Ok(Written { stored, created: false, deleted: true }));
            }
            return Ok(match storage.remove(&kv.key, kv.mod_revision).await? {
                Ok(revision) => {
                    Ok(Written { stored: stored(revision).await?, created: false, deleted: true })
                }
                Err(now) => Err(now),
            });
        }
        // What was stored under an older encryption key is written again though nothing changed.
        if cx.dry_run || (bytes == kv.value && !storage.is_stale(&kv.key).await?) {
            let stored = stored(kv.mod_revision).await?;
            return Ok(Ok(Written { stored, created: false, deleted: false }));
        }
        Ok(match storage.put(&kv.key, kv.mod_revision, bytes.clone(), self.ttl(r)).await? {
            Ok(revision) => Ok(Written { stored: stored(revision).await?, created: false, deleted: false }),
            Err(now) => Err(now),
        })
    }
}

/// What no update may change in the metadata stays as it was.
fn settle_metadata(cx: &WriteCx<'_>, o: &mut Value, old: &Value) {
    if object::uid(o).is_empty() {
        object::copy_meta(o, old, "uid");
    }
    object::copy_meta(o, old, "creationTimestamp");
    object::set_meta(o, "selfLink", "");
    if object::is_deleting(old) {
        object::copy_meta(o, old, "deletionTimestamp");
    } else if !cx.internal {
        object::meta_mut(o).remove("deletionTimestamp");
        object::meta_mut(o).remove("deletionGracePeriodSeconds");
    }
    if !object::meta(o).contains_key("deletionGracePeriodSeconds") {
        object::copy_meta(o, old, "deletionGracePeriodSeconds");
    }
}

/// Everything wrong with the metadata, as often as upstream tells it.
fn metadata_errors(r: &Resource, cx: &WriteCx<'_>, o: &Value, old: &Value) -> ErrorList {
    let mut errors = meta::validate_update(o, old, r.namespaced);
    meta::qualified_finalizers(r, o, &mut errors);
    let told_again = errors.only(is_form_of_metadata);
    for _ in 1..rules::metadata_checks(r.group, r.resource, cx.subresource) {
        errors.extend(told_again.clone());
    }
    errors
}

fn uid_conflict(r: &Resource, name: &str, wanted: &str, actual: &str) -> ApiError {
    ApiError::conflict(
        r.group,
        r.resource,
        name,
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"),
    )
}

/// Whether the fault is one of the form of metadata, which upstream looks at more than once.
fn is_form_of_metadata(e: &Error) -> bool {
    let fields = ["labels", "annotations", "ownerReferences", "finalizers", "managedFields"];
    let Some(rest) = e.field.strip_prefix("metadata.") else { return false };
    e.kind != ErrorKind::Forbidden && fields.iter().any(|f| rest.starts_with(f))
}

/// Optimistic concurrency: the version that the client saw must be the current one.
fn check_version(r: &Resource, name: &str, o: &mut Value, old: &Value) -> ApiResult<()> {
    let sent = object::resource_version(o);
    if sent.is_empty() || sent == "0" {
        if !r.rules.unconditional_update {
            let mut e = ErrorList::new();
            e.push(Error::invalid(
                &Path::new("metadata").child("resourceVersion"),
                0,
                "must be specified for an update",
            ));
            // Upstream tells of the resource here, not of the kind.
            return Err(ApiError::invalid(r.group, r.resource, name, &e));
        }
        object::copy_meta(o, old, "resourceVersion");
    } else if sent != object::resource_version(old) {
        return Err(ApiError::modified(r.group, r.resource, name));
    }
    Ok(())
}

/// Kinds without rules: the main endpoint keeps the status, `status` keeps everything else.
fn prepare_without_rules(r: &Resource, cx: &WriteCx<'_>, o: &mut Value, old: &Value) {
    if cx.subresource == "status" {
        let status = o.get("status").cloned();
        let managed = object::meta(o).get("managedFields").cloned();
        *o = old.clone();
        let root = object::root_mut(o);
        match status {
            Some(s) => root.insert("status".to_owned(), s),
            None => root.remove("status"),
        };
        if let Some(m) = managed {
            object::meta_mut(o).insert("managedFields".to_owned(), m);
        }
        return;
    }
    if r.subresource("status").is_some() {
        let root = object::root_mut(o);
        match old.get("status") {
            Some(s) => root.insert("status".to_owned(), s.clone()),
            None => root.remove("status"),
        };
    }
    if has_generation(r) && o.get("spec") != old.get("spec") {
        let g = object::meta(old).get("generation").and_then(Value::as_i64).unwrap_or(0);
        object::meta_mut(o).insert("generation".to_owned(), (g + 1).into());
    }
}

/// Whether this update removes what kept an object that is being deleted.
fn ends_deletion(r: &Resource, o: &Value, old: &Value) -> bool {
    if !object::is_deleting(o) || object::finalizers(o).next().is_some() {
        return false;
    }
    let grace = |o: &Value| object::meta(o).get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    if r.group.is_empty() && r.resource == "namespaces" {
        let open = o.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        return !open && grace(old).unwrap_or(0) == 0;
    }
    grace(o).unwrap_or(0) == 0 && grace(old).unwrap_or(0) == 0
}
