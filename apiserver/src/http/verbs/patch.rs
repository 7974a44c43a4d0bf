//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use serde_json::Value;

use super::{answer_written, manager};
use crate::admission::RequestOptions;
use crate::app::App;
use crate::http::Response;
use crate::http::router::Call;
use crate::patch::PatchType;
use crate::registry::options::{WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::write::WriteCx;
use crate::registry::{codec, patching};
use crate::status::{ApiError, ApiResult};
use crate::table::Include;

/// PATCH of an object or of one of its subresources.
pub async fn patch(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(super::offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    let kind = patching::kind_of(&call.parts.headers)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Patch { apply: kind == PatchType::Apply })?;
    let manager = manager(&call, &options);
    let body = call.read_body().await?;
    let patch = patching::Patch::parse(r, kind, body, &options)?;
    let namespace = if r.namespaced { call.info.namespace.as_str() } else { "" };
    let name = call.info.name.clone();
    let sub = call.info.subresource.clone();
    let mut cx = WriteCx {
        user: &call.user,
        manager: &manager,
        subresource: &sub,
        dry_run: options.dry_run,
        internal: false,
        applied: kind == PatchType::Apply,
        options: RequestOptions::Write(&options, WriteKind::Patch { apply: kind == PatchType::Apply }),
        warnings: std::mem::take(&mut call.warnings),
    };
    let may_create = kind == PatchType::Apply && sub.is_empty();
    let mut patch_warnings: Vec<String> = Vec::new();
    let registry = &app.registry;
    let mut change = |old: Option<&Value>| -> ApiResult<Value> {
        patch_warnings.clear();
        let converted = match old.filter(|_| !r.is_hub_version()) {
            Some(v) => {
                let mut v = v.clone();
                codec::from_storage(r, &mut v)?;
                Some(v)
            }
            None => None,
        };
        let current = converted.as_ref().or(old);
        if current.is_none() && kind != PatchType::Apply {
            return Err(ApiError::not_found(r.group, r.resource, &name));
        }
        let mut new = patch.apply(r, (&manager, &sub), current, &mut patch_warnings)?;
        super::check_name(r, &mut new, call.info)?;
        registry.changed_to_hub(r, &mut new, old)?;
        Ok(new)
    };
    let done = registry.update(r, &mut cx, namespace, &call.info.name, may_create, &mut change).await;
    let mut warnings = cx.warnings;
    warnings.append(&mut patch_warnings);
    let done = done.map_err(|e| e.warned(&mut warnings))?;
    answer_written(r, &done, wanted, include, &warnings)
}
