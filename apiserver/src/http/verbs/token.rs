//! `serviceaccounts/token`: a token for a service account.

use std::time::SystemTime;

use proto::schema::TypeDef;
use serde_json::Value;

use crate::admission::{Operation, RequestOptions};
use crate::app::App;
use crate::authn::token_request::Issuer;
use crate::http::Response;
use crate::http::negotiate::{self, Offer};
use crate::http::router::Call;
use crate::registry::options::{WriteKind, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::write::WriteCx;
use crate::registry::{codec, managed};
use crate::status::{ApiError, ApiResult};

/// POST of a `TokenRequest`.
pub async fn create(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(Offer::Metadata)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Create)?;
    let Some(issuer) = &app.issuer else {
        return Err(ApiError::internal(
            "service account tokens cannot be issued: --service-account-signing-key-file is not set",
        ));
    };
    let gvk = ("authentication.k8s.io", "v1", "TokenRequest");
    let schema = proto::schema::by_gvk(gvk.0, gvk.1, gvk.2)
        .ok_or_else(|| ApiError::internal("the type table has no TokenRequest"))?;
    let body = call.read_body().await?;
    let mut o = codec::decode_as(schema, gvk, &body, format, options.field_validation, &mut call.warnings)?;
    let manager = super::manager(&call, &options);
    let answer = match issued(app, &mut call, r, issuer, &options, (schema, &manager), &mut o).await {
        Ok(answer) => answer,
        Err(e) => return Err(e.warned(&mut call.warnings)),
    };
    super::answer_virtual(
        schema,
        "authentication.k8s.io/v1",
        "TokenRequest",
        201,
        wanted,
        &answer,
        &call.warnings,
    )
}

/// The request with its token.
async fn issued(
    app: &App,
    call: &mut Call<'_>,
    r: &Resource,
    issuer: &Issuer,
    options: &WriteOptions,
    (schema, manager): (&TypeDef, &str),
    o: &mut Value,
) -> ApiResult<Value> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    issuer.prepare(namespace, name, o).await?;
    managed::on_view(schema, "authentication.k8s.io/v1", ("token", manager), None, o);
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: "token",
        dry_run: options.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Write(options, WriteKind::Create),
        warnings: Vec::new(),
    };
    let attrs = app.registry.attributes(r, &cx, namespace, name, Operation::Create, None);
    app.admission.admit(&attrs, Some(o)).await?;
    app.admission.validate(&attrs, Some(o)).await?;
    let mut told = attrs.warnings.take();
    let (answer, mut warnings) = issuer.issue(namespace, name, std::mem::take(o), SystemTime::now()).await?;
    call.warnings.append(&mut told);
    call.warnings.append(&mut warnings);
    Ok(answer)
}
