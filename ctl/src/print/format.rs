//! The `-o` formats other than tables.

use anyhow::{Context, bail};
use serde_json::Value;

use super::jsonpath::JsonPath;
use super::table::Table;
use crate::api::resources::{Resource, array, text};

/// What `-o` asks for.
#[derive(Debug, Clone)]
pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    JsonPath(JsonPath),
    CustomColumns(Vec<(String, JsonPath)>),
}

impl Format {
    /// Reads the value of `-o`.
    ///
    /// # Errors
    /// The format is unknown, or its template is bad.
    pub fn parse(output: Option<&str>) -> anyhow::Result<Self> {
        let Some(output) = output else { return Ok(Self::Table { wide: false }) };
        let (name, template) = output.split_once('=').unwrap_or((output, ""));
        Ok(match (name, template) {
            ("", _) => Self::Table { wide: false },
            ("wide", _) => Self::Table { wide: true },
            ("json", _) => Self::Json,
            ("yaml", _) => Self::Yaml,
            ("name", _) => Self::Name,
            ("jsonpath", t) if !t.is_empty() => Self::JsonPath(JsonPath::parse(t)?),
            ("jsonpath-file", t) if !t.is_empty() => {
                let text = std::fs::read_to_string(t).with_context(|| format!("reading {t}"))?;
                Self::JsonPath(JsonPath::parse(text.trim_end())?)
            }
            ("custom-columns", t) if !t.is_empty() => Self::CustomColumns(columns(t)?),
            ("jsonpath" | "jsonpath-file" | "custom-columns", _) => {
                bail!("-o {name} needs a template: -o {name}=…")
            }
            _ => bail!(
                "unable to match a printer suitable for the output format \"{output}\", allowed formats are: custom-columns,json,jsonpath,jsonpath-file,name,wide,yaml"
            ),
        })
    }

    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }

    /// Prints objects. `as_list` says whether the answer was a list, which JSON, YAML and JSONPath then are too.
    ///
    /// # Errors
    /// The template does not fit the objects.
    pub fn print(&self, objects: &[(Resource, Value)], as_list: bool) -> anyhow::Result<String> {
        let whole = || {
            if !as_list && let [(_, only)] = objects {
                return only.clone();
            }
            let items: Vec<&Value> = objects.iter().map(|(_, o)| o).collect();
            serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        };
        Ok(match self {
            Self::Table { .. } => bail!("a table is made by the server"),
            Self::Json => format!("{}\n", pretty(&whole())?),
            Self::Yaml => component_base::yaml::to_string(&whole()),
            Self::Name => objects
                .iter()
                .map(|(r, o)| format!("{}\n", r.display(&text(&o["metadata"]["name"]))))
                .collect(),
            Self::JsonPath(path) => path.render(&whole())?,
            Self::CustomColumns(columns) => {
                let header = columns.iter().map(|(h, _)| h.clone()).collect();
                let row = |o: &Value| columns.iter().map(|(_, p)| p.column(o)).collect();
                Table { header, rows: objects.iter().map(|(_, o)| row(o)).collect() }.render(true)
            }
        })
    }
}

fn pretty(v: &Value) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let mut s = serde_json::Serializer::with_formatter(
        &mut out,
        serde_json::ser::PrettyFormatter::with_indent(b"    "),
    );
    serde::Serialize::serialize(v, &mut s)?;
    Ok(String::from_utf8(out)?)
}

fn columns(spec: &str) -> anyhow::Result<Vec<(String, JsonPath)>> {
    spec.split(',')
        .map(|c| {
            let (header, path) = c.split_once(':').with_context(|| {
                format!("unexpected custom-columns spec: {c}, expected <header>:<json-path-expr>")
            })?;
            let path = path.trim();
            let path = if path.starts_with('{') {
                path.to_owned()
            } else {
                format!("{{.{}}}", path.trim_start_matches('.'))
            };
            Ok((header.to_owned(), JsonPath::parse(&path)?))
        })
        .collect()
}

/// Takes out of an object what only machines read.
pub fn without_managed_fields(object: &mut Value) {
    if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(without_managed_fields);
    }
}

/// The items of a list with the kind and version that a list's items leave out.
pub fn items(list: &Value) -> Vec<Value> {
    let api_version = text(&list["apiVersion"]);
    let kind = text(&list["kind"]);
    let kind = kind.strip_suffix("List").unwrap_or(&kind);
    array(&list["items"])
        .iter()
        .map(|item| {
            let mut item = item.clone();
            if let Some(o) = item.as_object_mut() {
                o.entry("apiVersion").or_insert_with(|| api_version.clone().into());
                o.entry("kind").or_insert_with(|| kind.into());
            }
            item
        })
        .collect()
}
