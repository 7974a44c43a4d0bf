//! Server-side apply, and the tracking of who owns what through all other writes.

use std::sync::LazyLock;

use proto::json::Strictness;
use proto::schema::TypeDef;
use serde_json::{Map, Value, json};

use super::fields::{
    Comparison, Set, Ty, compare, compare_shown, merge, path_text, remove, to_set, validate, view,
};
use super::managed::{self, Id, Managed, Owned};
use super::owners;
use crate::status::{ApiError, ApiResult, Cause};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Never owned by anyone.
static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Through which door a write comes, and when.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// The type of the object; `None` deduces it from the values.
    pub def: Option<&'a TypeDef>,
    /// Name of the manager, see [`super::manager_name`].
    pub manager: &'a str,
    /// `apiVersion` of the endpoint.
    pub api_version: &'a str,
    /// Empty for the main endpoint.
    pub subresource: &'a str,
    /// Fields that the endpoint takes no changes of, see [`super::reset_fields`].
    pub reset: &'a Set,
    /// Now, as RFC 3339 in whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    pub(super) fn ty(&self) -> Ty<'_> {
        self.def.map_or(Ty::Deduced, Ty::Def)
    }

    fn view(&self, v: &Value) -> Value {
        let mut v = match self.def {
            Some(d) => view(v, d),
            None => v.clone(),
        };
        managed::strip(&mut v);
        v
    }

    /// An object of the type with nothing in it.
    fn nothing(&self) -> Value {
        self.def.and_then(proto::json::zero).unwrap_or_else(|| Value::Object(Map::new()))
    }

    pub(super) fn id(&self, manager: &str, applied: bool) -> Id {
        Id::new(manager, applied, self.api_version, self.subresource)
    }
}

/// Sets `new.metadata.managedFields` for a create or update: fields that changed become the writer's own.
///
/// `live` is the object before the write, `None` on create. Call it once the object holds what the client
/// asked for and its defaults, before admission.
pub fn track_update(live: Option<&Value>, new: &mut Value, w: &Writer<'_>) {
    if live.is_some_and(|live| owners::track(live, new, w)) {
        return;
    }
    let mut managed = claimed(live, new, w);
    managed::strip(new);
    // An object that nobody tracked so far stays untracked.
    if !(managed.is_empty() && live.is_some()) {
        let nothing = live.is_none().then(|| w.nothing());
        if let Some(before) = live.or(nothing.as_ref()) {
            update(before, new, &mut managed, w.id(w.manager, false), w);
        }
        managed::cap(&mut managed);
    }
    managed::encode(new, &managed);
}

/// The entries to start from: the client's own where it may and does send any, else those of the object.
fn claimed(live: Option<&Value>, new: &Value, w: &Writer<'_>) -> Managed {
    if w.subresource.is_empty() {
        if managed::is_reset(new) {
            return Managed::new();
        }
        if let Some(m) = managed::decode(new).filter(|m| !m.is_empty()) {
            return m;
        }
    }
    live.and_then(managed::decode).unwrap_or_default()
}

/// Puts the old entries back when a write changed nothing but their times.
pub fn keep_times_on_noop(live: &Value, new: &mut Value) {
    let Some(old) = live.pointer("/metadata/managedFields") else { return };
    if same_but(live, new, |key, a, b| key == "metadata" && same_but(a, b, same_entries)) {
        let old = old.clone();
        if let Some(m) = new.pointer_mut("/metadata/managedFields") {
            *m = old;
        }
    }
}

/// Whether two maps have the same keys with the same values, or such that `alike` takes them for the same.
fn same_but(a: &Value, b: &Value, alike: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    a.len() == b.len() && a.iter().zip(b).all(|((k, x), (l, y))| k == l && (x == y || alike(k, x, y)))
}

/// Whether managed fields differ in their times only.
fn same_entries(key: &str, a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    key == "managedFields" && a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same_entry(x, y))
}

/// Whether two entries are the same but for their times.
fn same_entry(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    a.iter().filter(|(k, _)| *k != "time").eq(b.iter().filter(|(k, _)| *k != "time"))
}

/// One non-apply write: `id` gains what it changed, others lose it.
fn update(before: &Value, after: &Value, managed: &mut Managed, id: Id, w: &Writer<'_>) {
    let changes = compare_shown(before, after, w.ty()).without(w.reset);
    claim(changes, managed, id, w);
}

/// What was changed becomes `id`'s.
pub(super) fn claim(changes: Comparison, managed: &mut Managed, id: Id, w: &Writer<'_>) {
    take(managed, None, &changes);
    let set = changes.modified.union(changes.added).difference(&NEVER_OWNED);
    if !set.is_empty() {
        let set = match managed.remove(&id) {
            Some(mine) => mine.set.union(set),
            None => set,
        };
        let owned = Owned { set, api_version: w.api_version.into(), time: Some(w.now.into()) };
        managed.insert(id, owned);
    }
}

/// Takes changed and removed fields from every manager but `except`.
fn take(managed: &mut Managed, except: Option<&Id>, changes: &Comparison) {
    managed.retain(|id, owned| {
        if Some(id) != except {
            for changed in [&changes.modified, &changes.added, &changes.removed] {
                owned.set.subtract(changed);
            }
        }
        !owned.set.is_empty()
    });
}

/// A field that someone else owns and the apply wants otherwise.
struct Conflict {
    manager: Id,
    path: Vec<String>,
}

enum Refused {
    Conflicts(Vec<Conflict>),
    Other(ApiError),
}

/// Lays `applied` over `live` (`None` when the object is to be created) for the writer, and gives the object
/// with its new `managedFields`, in canonical form but not defaulted.
///
/// Fields that the writer applied before and now leaves out are removed, unless others own them. Without
/// `force`, changing what others own is a conflict (409 with one cause per field).
pub fn apply(live: Option<&Value>, applied: &Value, w: &Writer<'_>, force: bool) -> ApiResult<Value> {
    check_applied(applied, w)?;
    let base = match live {
        Some(l) => l.clone(),
        None => w.view(&w.nothing()),
    };
    let managed = managed::decode(&base)
        .ok_or_else(|| ApiError::internal("failed to decode managed fields of the live object"))?;
    let first = run(&base, applied, managed.clone(), w, force);
    let result = match first {
        // What kubectl applied on the client's side before is its own, whoever the entries name.
        Err(Refused::Conflicts(c)) if w.manager == "kubectl" => {
            let mine = last_applied_set(&base, w);
            let rest: Vec<Conflict> =
                c.into_iter().filter(|c| !mine.as_ref().is_some_and(|s| s.has(&c.path))).collect();
            if rest.is_empty() {
                run(&base, applied, managed, w, true)
            } else {
                Err(Refused::Conflicts(rest))
            }
        }
        other => other,
    };
    let mut out = result.map_err(|e| match e {
        Refused::Conflicts(c) => conflict_error(&c),
        Refused::Other(e) => e,
    })?;
    if w.manager == "kubectl"
        && out.pointer("/metadata/annotations").and_then(|a| a.get(LAST_APPLIED)).is_some()
    {
        out["metadata"]["annotations"][LAST_APPLIED] = last_applied_text(applied).into();
    }
    Ok(out)
}

fn check_applied(applied: &Value, w: &Writer<'_>) -> ApiResult<()> {
    let text = |k: &str| applied[k].as_str().unwrap_or_default();
    let kinds = w.def.map(|d| &*d.gvks).unwrap_or_default();
    let known = kinds.is_empty() || kinds.iter().any(|g| g.kind == text("kind"));
    if text("apiVersion") != w.api_version || !known {
        return Err(ApiError::bad_request(format!("invalid object type: {}", shown_kind(applied))));
    }
    if applied.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    validate(applied, w.ty()).map_err(|e| typed_error(applied, &e))
}

/// `apps/v1, Kind=Deployment`; `/v1, Kind=Pod` in the core group.
fn shown_kind(v: &Value) -> String {
    let api_version = v["apiVersion"].as_str().unwrap_or_default();
    if api_version.matches('/').count() > 1 {
        return "/, Kind=".to_owned();
    }
    let (group, version) = proto::resources::split_api_version(api_version);
    format!("{group}/{version}, Kind={}", v["kind"].as_str().unwrap_or_default())
}

/// What the type takes as a scalar of whatever kind, but cannot be read as the one it is.
fn unreadable(applied: &Value, why: &str) -> ApiError {
    let text = |p: &str| applied.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let kind = shown_kind(applied);
    let why = super::shown::unconvertible(why);
    ApiError::unknown(format!(
        "failed to convert new object ({namespace}/{name}; {kind}) to proper version: unable to convert unstructured object to {kind}: {why}"
    ))
}

fn typed_error(applied: &Value, why: &str) -> ApiError {
    let text = |p: &str| applied.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let kind = shown_kind(applied);
    ApiError::new(500, "", format!("failed to create typed patch object ({namespace}/{name}; {kind}): {why}"))
}

fn run(
    live: &Value,
    applied: &Value,
    mut managed: Managed,
    w: &Writer<'_>,
    force: bool,
) -> Result<Value, Refused> {
    let ty = w.ty();
    let before = w.view(live);
    if managed.is_empty() {
        let id = w.id(BEFORE_FIRST_APPLY, false);
        update(&w.nothing(), &before, &mut managed, id, w);
    }
    let id = w.id(w.manager, true);
    let last = managed.remove(&id);
    let fail = |e: String| Refused::Other(ApiError::new(500, "", format!("failed to merge config: {e}")));
    let merged = merge(&before, applied, ty).map_err(fail)?;

    let set = to_set(applied, ty).without(w.reset);
    let time = last.as_ref().and_then(|l| l.time.clone());
    managed.insert(id.clone(), Owned { set, api_version: w.api_version.into(), time });
    let pruned = match &last {
        Some(last) if !last.set.is_empty() => prune(&merged, &last.set, &managed, ty),
        _ => merged,
    };

    let changes = compare(&before, &pruned, ty).without(w.reset);
    let wanted = changes.modified.clone().union(changes.added.clone());
    let mut conflicts = Vec::new();
    for (other, owned) in managed.iter().filter(|(other, _)| **other != id) {
        let paths = owned.set.intersection(&wanted).paths();
        conflicts.extend(paths.into_iter().map(|path| Conflict { manager: other.clone(), path }));
    }
    if !force && !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    take(&mut managed, Some(&id), &changes);

    let unchanged = before == pruned;
    if let Some(mine) = managed.get_mut(&id) {
        mine.set.subtract(&NEVER_OWNED);
        if mine.set.is_empty() {
            managed.remove(&id);
        } else if !unchanged {
            mine.time = Some(w.now.into());
        }
    }
    let mut out = if unchanged { live.clone() } else { pruned };
    // Objects of types made at run time are brought to form by their schema, not by the table.
    if let Some(d) = w.def.filter(|d| !d.name.is_empty()) {
        managed::strip(&mut out);
        out = proto::json::normalize(&out, d, Strictness::Ignore)
            .map_err(|e| Refused::Other(unreadable(applied, &e.to_string())))?
            .value;
    }
    for k in ["apiVersion", "kind"] {
        if out.get(k).is_none_or(|v| v.as_str().is_none_or(str::is_empty)) {
            out[k] = applied[k].clone();
        }
    }
    managed::encode(&mut out, &managed);
    Ok(out)
}

/// Takes out what the manager applied last time and nobody sets now.
fn prune(merged: &Value, last: &Set, managed: &Managed, ty: Ty<'_>) -> Value {
    let all_of = |v: &Value| to_set(v, ty).with_named_fields(ty);
    let last = last.with_named_fields(ty);
    let without_last = remove(merged, &last, ty).unwrap_or_else(|| Value::Object(Map::new()));
    // Put back what anyone owns now.
    let owned = managed.values().fold(Set::default(), |s, o| s.union(o.set.clone())).with_named_fields(ty);
    let all = all_of(merged);
    let keep = all_of(&without_last).union(owned);
    let pruned =
        remove(merged, &all.clone().difference(&keep), ty).unwrap_or_else(|| Value::Object(Map::new()));
    // And what went only because its parent did.
    let gone = all.difference(&all_of(&pruned)).intersection(&last);
    remove(merged, &gone, ty).unwrap_or_else(|| Value::Object(Map::new()))
}

/// What the last client-side apply set and nobody changed since.
fn last_applied_set(live: &Value, w: &Writer<'_>) -> Option<Set> {
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"].as_str() != Some(w.api_version) {
        return None;
    }
    let c = compare(&last, &w.view(live), w.ty());
    Some(to_set(&last, w.ty()).difference(&c.modified).difference(&c.added).difference(&c.removed))
}

fn last_applied_text(applied: &Value) -> String {
    let mut v = applied.clone();
    if let Some(a) = v.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        a.remove(LAST_APPLIED);
    }
    format!("{v}\n")
}

fn conflict_error(conflicts: &[Conflict]) -> ApiError {
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager.shown(),
            path_text(&one.path)
        ),
        many => {
            let mut lines = Vec::new();
            let mut last = None;
            for c in many {
                if last != Some(&c.manager) {
                    lines.push(format!("conflicts with {}:", c.manager.shown()));
                    last = Some(&c.manager);
                }
                lines.push(format!("- {}", path_text(&c.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let causes = conflicts
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", c.manager.shown()),
            field: path_text(&c.path),
        })
        .collect();
    ApiError::new(409, "Conflict", message).with_causes(causes)
}

/// The body of an apply request (YAML, of which JSON is a part) as a value, and whether it may hold repeated keys.
pub fn parse(body: &[u8]) -> ApiResult<(Value, bool)> {
    let bad = |e: String| ApiError::bad_request(format!("error decoding YAML: {e}"));
    // JSON is YAML too, but for what follows the first document and the looser forms that YAML takes.
    let json = Some(body).filter(|b| b.first() == Some(&b'{'));
    let (value, repeats) = match json.and_then(|b| proto::json::decode_any(b, Strictness::Warn).ok()) {
        Some(decoded) => (decoded.value, !decoded.strict_errors.is_empty()),
        None => {
            let document = crate::registry::yaml::first_document(body);
            (document.map_err(|e| bad(format!("error converting YAML to JSON: {e}")))?, true)
        }
    };
    match value {
        Value::Object(_) => Ok((value, repeats)),
        Value::Null => Ok((json!({}), repeats)),
        other => Err(bad(format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            }
        ))),
    }
}
