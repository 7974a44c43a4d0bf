//! Server-side tables (`meta.k8s.io` `Table`): what `kubectl get` prints. Columns are facts, cells come from the
//! kind.

use serde_json::{Value, json};

use crate::http::negotiate::{Shape, Wanted};
use crate::http::query::Query;
use crate::registry::render;
use crate::registry::resource::Resource;
use crate::status::{ApiError, ApiResult};

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
    let version = if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
    let rows: Vec<Value> = objects.iter().map(|o| row(r, o, beta, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": version,
        "metadata": meta,
        "columnDefinitions": if headings { columns(r) } else { Value::Null },
        "rows": rows,
    })
}

/// The row of one object.
pub fn row(r: &Resource, o: &Value, beta: bool, include: Include, now: jiff::Timestamp) -> Value {
    let cells = match &r.custom {
        Some(c) => c.version().columns.cells(o, now),
        None => crate::kinds::table_cells(r.group, r.kind, o, now),
    };
    let mut row = json!({ "cells": cells });
    if let Some(conditions) = crate::kinds::row_conditions(r.group, r.kind, o) {
        row["conditions"] = conditions;
    }
    row["object"] = match include {
        Include::None => Value::Null,
        Include::Metadata => render::partial(o, beta),
        Include::Object => o.clone(),
    };
    row
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
                "name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority,
            })
        })
        .collect()
}
