//! Delete: preconditions, grace, finalizers of garbage collection, then either a mark or the removal.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::options::{DeleteOptions, Propagation};
use super::resource::Resource;
use super::rules::GarbageCollection;
use super::write::{Stored, WriteCx};
use super::{Registry, object};
use crate::admission::Operation;
use crate::status::{ApiError, ApiResult};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Outcome of a delete.
pub struct Deleted {
    /// The object as it was last.
    pub stored: Stored,
    pub uid: String,
    /// False while grace or finalizers keep it.
    pub gone: bool,
    /// Sentences for `Warning` headers.
    pub warnings: Vec<String>,
}

enum Fate {
    /// Nothing to change: deletion is under way.
    Pending,
    /// Write the object with its marks.
    Mark,
    /// Remove it.
    Remove,
}

impl Registry {
    /// Deletes the object `name`.
    pub async fn delete(
        &self,
        r: &Resource,
        cx: &WriteCx<'_>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> ApiResult<Deleted> {
        let storage = r.storage()?;
        let key = storage.key(namespace, name);
        let mut current = storage.current(&key).await?;
        loop {
            let Some(kv) = current else {
                return Err(ApiError::not_found(r.group, r.resource, name));
            };
            let mut o = r.decode(&kv).await?;
            check_preconditions(r, name, options, &o)?;
            let mut warnings = Vec::new();
            if !cx.internal {
                let attrs = self.attributes(r, cx, namespace, name, Operation::Delete, Some(&o));
                let admitted = match self.admission().admit(&attrs, None).await {
                    Ok(()) => self.admission().validate(&attrs, None).await,
                    Err(e) => Err(e),
                };
                warnings = attrs.warnings.take();
                admitted.map_err(|e| e.warning(std::mem::take(&mut warnings)))?;
            }
            let uid = object::uid(&o).to_owned();
            let fate = decide(r, &mut o, options, Timestamp::now());
            // It is not stored.
            object::set_meta(&mut o, "resourceVersion", "");
            let done = |bytes: Bytes, revision, gone| {
                let (key, uid, warnings) = (kv.key.clone(), uid.clone(), warnings.clone());
                async move {
                    let stored = r.stored(&key, &bytes, revision).await?;
                    Ok(Deleted { stored, uid, gone, warnings })
                }
            };
            let outcome = match fate {
                Fate::Pending => return done(kv.value.clone(), kv.mod_revision, false).await,
                Fate::Mark => {
                    let bytes = r.encode(&o).await?;
                    if cx.dry_run || bytes == kv.value {
                        return done(bytes, kv.mod_revision, false).await;
                    }
                    let put = storage.put(&kv.key, kv.mod_revision, bytes.clone(), self.ttl(r)).await?;
                    put.map(|revision| (bytes, revision, false))
                }
                Fate::Remove => {
                    let bytes = r.encode(&o).await?;
                    if cx.dry_run {
                        return done(bytes, kv.mod_revision, true).await;
                    }
                    let removed = storage.remove(&kv.key, kv.mod_revision).await?;
                    removed.map(|_| (bytes, kv.mod_revision, true))
                }
            };
            match outcome {
                Ok((bytes, revision, gone)) => {
                    let d = done(bytes, revision, gone).await?;
                    if let Some(a) = self.allocator(r).filter(|_| d.gone) {
                        a.release(&o).await;
                    }
                    return Ok(d);
                }
                Err(now) => current = now,
            }
        }
    }
}

fn check_preconditions(r: &Resource, name: &str, options: &DeleteOptions, o: &Value) -> ApiResult<()> {
    let fail = |what: &str, wanted: &str, actual: &str| {
        Err(ApiError::conflict(
            r.group,
            r.resource,
            name,
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}"),
        ))
    };
    if let Some(u) = &options.uid
        && u != object::uid(o)
    {
        return fail("UID", u, object::uid(o));
    }
    if let Some(v) = &options.resource_version
        && v != object::resource_version(o)
    {
        return fail("ResourceVersion", v, object::resource_version(o));
    }
    Ok(())
}

/// Marks `o` as the delete demands and says what must happen to it.
fn decide(r: &Resource, o: &mut Value, options: &DeleteOptions, now: Timestamp) -> Fate {
    if r.group.is_empty() && r.resource == "namespaces" {
        return decide_namespace(r, o, options, now);
    }
    if r.group == "apiextensions.k8s.io"
        && r.resource == "customresourcedefinitions"
        && !object::is_deleting(o)
    {
        // Gone only when its objects are.
        crate::crd::conditions::begin_deletion(o, &object::timestamp(now));
        return Fate::Mark;
    }
    let graceful = if r.group.is_empty() && r.resource == "pods" {
        match pod_grace(o, options, now) {
            Grace::Pending => return Fate::Pending,
            Grace::Immediate => false,
            Grace::Until(seconds) => seconds > 0,
        }
    } else {
        false
    };
    collect_finalizers(r, o, options);
    let held = object::finalizers(o).next().is_some();
    if held && !graceful {
        mark_deleting(o, now);
    }
    if held || graceful { Fate::Mark } else { Fate::Remove }
}

fn decide_namespace(r: &Resource, o: &mut Value, options: &DeleteOptions, now: Timestamp) -> Fate {
    if object::is_deleting(o) {
        let open = o.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        if open {
            return Fate::Pending;
        }
        collect_finalizers(r, o, options);
        return if object::finalizers(o).next().is_some() { Fate::Mark } else { Fate::Remove };
    }
    object::set_meta(o, "deletionTimestamp", &object::timestamp(now));
    object::child_mut(object::root_mut(o), "status").insert("phase".to_owned(), json!("Terminating"));
    collect_finalizers(r, o, options);
    Fate::Mark
}

enum Grace {
    /// Deletion is under way and this request does not hasten it.
    Pending,
    /// No grace is due.
    Immediate,
    /// Marked on the object with this many seconds.
    Until(i64),
}

/// Pods are deleted gracefully: their kubelet stops the containers and then deletes with grace zero.
fn pod_grace(o: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let grace_of = |o: &Value| object::meta(o).get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    if object::is_deleting(o) {
        let before = match grace_of(o) {
            None | Some(0) => return Grace::Immediate,
            Some(g) => g.max(1),
        };
        let Some(mut period) = options.grace_seconds else { return Grace::Pending };
        if period >= before {
            return Grace::Pending;
        }
        let begun: Timestamp = object::meta_str(o, "deletionTimestamp").parse().unwrap_or(now);
        let mut until = begun - SignedDuration::from_secs(before) + SignedDuration::from_secs(period);
        if until < now {
            until = now;
            if period != 0 {
                period = 1;
            }
        }
        set_deletion(o, until, period);
        return Grace::Until(period);
    }
    let text = |p: &str| o.pointer(p).and_then(Value::as_str).unwrap_or_default();
    let mut period = options
        .grace_seconds
        .or_else(|| o.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64))
        .unwrap_or(0);
    if period < 0 {
        period = 1;
    }
    // Nobody runs it, or it ran to its end: there is nothing to wait for.
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Succeeded" | "Failed") {
        period = 0;
    }
    set_deletion(o, now + SignedDuration::from_secs(period), period);
    bump_generation(o);
    Grace::Until(period)
}

fn set_deletion(o: &mut Value, at: Timestamp, grace: i64) {
    let m = object::meta_mut(o);
    m.insert("deletionTimestamp".to_owned(), Value::String(object::timestamp(at)));
    m.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

fn bump_generation(o: &mut Value) {
    let g = object::meta(o).get("generation").and_then(Value::as_i64).unwrap_or(0);
    if g > 0 {
        object::meta_mut(o).insert("generation".to_owned(), (g + 1).into());
    }
}

/// Marks an object that finalizers keep.
fn mark_deleting(o: &mut Value, now: Timestamp) {
    if !object::is_deleting(o) {
        bump_generation(o);
    }
    let at = object::meta_str(o, "deletionTimestamp").parse().map_or(now, |t: Timestamp| t.min(now));
    set_deletion(o, at, 0);
}

/// Sets or removes the finalizers that the garbage collector reads.
fn collect_finalizers(r: &Resource, o: &mut Value, options: &DeleteOptions) {
    let before: Vec<String> = object::finalizers(o).map(str::to_owned).collect();
    let has = |f: &str| before.iter().any(|x| x == f);
    let collected = r.rules.garbage_collection != GarbageCollection::Unsupported;
    let orphan = collected
        && match (options.orphan_dependents, options.propagation) {
            (Some(b), _) => b,
            (None, Some(p)) => p == Propagation::Orphan,
            (None, None) if has(ORPHAN) || has(FOREGROUND) => has(ORPHAN),
            (None, None) => r.rules.garbage_collection == GarbageCollection::Orphans,
        };
    let foreground = collected
        && match (options.orphan_dependents, options.propagation) {
            (Some(_), _) => false,
            (None, Some(p)) => p == Propagation::Foreground,
            (None, None) => has(FOREGROUND) && !has(ORPHAN),
        };
    if has(ORPHAN) == orphan && has(FOREGROUND) == foreground {
        return;
    }
    let mut after: Vec<Value> =
        before.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).map(|f| json!(f)).collect();
    if orphan {
        after.push(json!(ORPHAN));
    }
    if foreground {
        after.push(json!(FOREGROUND));
    }
    if after.is_empty() {
        object::meta_mut(o).remove("finalizers");
    } else {
        object::meta_mut(o).insert("finalizers".to_owned(), Value::Array(after));
    }
}
