//! Server-side tables (`meta.k8s.io` `Table`): what `kubectl get` prints. Columns are facts, cells come from the
//! kind.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::http::negotiate::{Shape, Wanted};
use crate::http::query::Query;
use crate::kinds::Column;
use crate::registry::resource::Resource;
use crate::registry::{codec, object, render};
use crate::status::{ApiError, ApiResult};

/// What upstream says of the columns that nearly every table has.
pub const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// See [`NAME`].
pub const AGE: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// What each row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// From `includeObject=`, which nothing but tables heeds.
    pub fn parse(q: &Query, wanted: Wanted) -> ApiResult<Self> {
        if !matches!(wanted.shape, Shape::Table { .. }) {
            return Ok(Self::default());
        }
        match q.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The table of `objects`. Watches leave the headings out of all but the first event.
pub fn of(
    r: &Resource,
    objects: &[Value],
    meta: Value,
    beta: bool,
    include: Include,
    headings: bool,
) -> Value {
    let now = jiff::Timestamp::now();
    let rows = objects.iter().map(|o| row(r, o, beta, include, now)).collect();
    with_rows(meta, beta, if headings { columns(r) } else { Value::Null }, rows)
}

/// The table of a `Scale`. That of a custom resource differs a little in its headings.
pub fn of_scale(scale: &Value, custom: bool, beta: bool, include: Include) -> Value {
    let heading = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "description": description, "priority": 0});
    let columns = match custom {
        true => [
            heading("Name", "string", "name", NAME),
            heading("Desired", "integer", "", "Number of desired replicas"),
            heading("Available", "integer", "", "Number of actual replicas"),
            heading("Age", "date", "", AGE),
        ],
        false => [
            heading("Name", "string", "", NAME),
            heading(
                "Desired",
                "integer",
                "",
                "replicas is the desired number of instances for the scaled object.",
            ),
            heading(
                "Available",
                "integer",
                "",
                "replicas is the actual number of observed instances of the scaled object.",
            ),
            heading("Age", "string", "", AGE),
        ],
    };
    let cells = crate::kinds::table_cells("autoscaling", "Scale", scale, jiff::Timestamp::now());
    let row = json!({"cells": cells, "object": included(scale, beta, include)});
    let meta = json!({"resourceVersion": object::resource_version(scale)});
    with_rows(meta, beta, Value::from(columns.to_vec()), vec![row])
}

fn with_rows(meta: Value, beta: bool, columns: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": render::meta_version(beta),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// What a row carries of its object.
fn included(o: &Value, beta: bool, include: Include) -> Value {
    match include {
        Include::None => Value::Null,
        Include::Metadata => render::partial(o, beta),
        Include::Object => o.clone(),
    }
}

/// The row of one object.
pub fn row(r: &Resource, o: &Value, beta: bool, include: Include, now: jiff::Timestamp) -> Value {
    let cells = match &r.custom {
        Some(c) => c.version().columns.cells(o, now),
        None if r.group == "autoscaling" => crate::kinds::table_cells(r.group, r.kind, &hub(r, o), now),
        None => crate::kinds::table_cells(r.group, r.kind, o, now),
    };
    let mut row = json!({ "cells": cells });
    if let Some(conditions) = crate::kinds::row_conditions(r.group, r.kind, o) {
        row["conditions"] = conditions;
    }
    row["object"] = included(o, beta, include);
    row
}

/// An autoscaler in the version that shows all of its metrics: in v1 most are text in annotations.
fn hub<'o>(r: &Resource, o: &'o Value) -> Cow<'o, Value> {
    if r.is_hub_version() {
        return Cow::Borrowed(o);
    }
    let mut v = o.clone();
    match codec::to_storage(r, &mut v) {
        Ok(()) => Cow::Owned(v),
        Err(_) => Cow::Borrowed(o),
    }
}

/// The columns of a kind.
pub fn columns(r: &Resource) -> Value {
    if let Some(c) = &r.custom {
        return c.version().columns.headings();
    }
    crate::kinds::table_columns(r.group, r.kind)
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.kind, "format": c.format, "description": description(c),
                "priority": c.priority,
            })
        })
        .collect()
}

/// What a heading says of its column, in upstream's words.
fn description(c: &Column) -> &str {
    match c.name.as_str() {
        _ if !c.description.is_empty() => &c.description,
        "Name" => NAME,
        "Age" | "Created At" => AGE,
        _ => "",
    }
}
