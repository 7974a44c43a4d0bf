//! Kinds that are asked and not stored: access and token reviews, bindings, component statuses.

use super::{answer_virtual, binding, component_status};
use crate::app::App;
use crate::authn::token_review;
use crate::authz::review;
use crate::http::Response;
use crate::http::negotiate::{self, Offer};
use crate::http::router::Call;
use crate::registry::create::ensure_namespace;
use crate::registry::options::{WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::{codec, method_not_allowed};
use crate::status::ApiResult;

/// Answers a request for a resource without storage.
pub async fn answer(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    if r.resource == "componentstatuses" {
        return component_status::answer(app, &call, r).await;
    }
    if r.resource == "bindings" {
        return binding::create(app, call, r).await;
    }
    let wanted = call.wanted(Offer::Metadata)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Create)?;
    let body = call.read_body().await?;
    let mut o = codec::decode_body(r, &body, format, options.field_validation, &mut call.warnings)?;
    ensure_namespace(r, &mut o, &call.info.namespace).map_err(|e| e.warned(&mut call.warnings))?;
    let manager = super::manager(&call, &options);
    crate::registry::managed::on_virtual(r, &manager, &mut o);
    let answer = match r.resource {
        "tokenreviews" => token_review::review(&app.authenticator, o).await?,
        "selfsubjectreviews" => review::self_subject(&call.user, o),
        "subjectaccessreviews" => review::subject_access(&app.authorizer, o).await?,
        "localsubjectaccessreviews" => {
            review::local_subject_access(&app.authorizer, &call.info.namespace, o).await?
        }
        "selfsubjectaccessreviews" => review::self_subject_access(&app.authorizer, &call.user, o).await?,
        "selfsubjectrulesreviews" => review::self_subject_rules(&app.authorizer, &call.user, o)?,
        _ => return Err(method_not_allowed()),
    };
    answer_virtual(&r.schema, &r.api_version(), r.kind, 201, wanted, &answer, &call.warnings)
}
