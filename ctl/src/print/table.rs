//! Aligned columns: what kubectl prints by default.

use serde_json::Value;

use crate::api::resources::{array, text};

/// Rows of cells, printed with three spaces between columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// What the user wants to see of a server-side table.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub wide: bool,
    pub with_namespace: bool,
    pub show_labels: bool,
    /// Labels shown as columns of their own (`-L`).
    pub label_columns: Vec<String>,
    /// Put before names: `pod/`, when several types are listed.
    pub name_prefix: String,
}

impl Table {
    /// The rows of a `meta.k8s.io` Table.
    pub fn from_server(table: &Value, columns: &Columns) -> Self {
        let definitions = array(&table["columnDefinitions"]);
        let shown: Vec<usize> = (0..definitions.len())
            .filter(|i| columns.wide || definitions[*i]["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        let mut header: Vec<String> = Vec::new();
        if columns.with_namespace {
            header.push("NAMESPACE".into());
        }
        header.extend(shown.iter().map(|i| text(&definitions[*i]["name"]).to_ascii_uppercase()));
        header.extend(
            columns.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_ascii_uppercase()),
        );
        if columns.show_labels {
            header.push("LABELS".into());
        }
        let rows = array(&table["rows"]).iter().map(|row| {
            let metadata = &row["object"]["metadata"];
            let mut cells = Vec::new();
            if columns.with_namespace {
                cells.push(text(&metadata["namespace"]));
            }
            for i in &shown {
                let mut cell = cell(row["cells"].get(*i).unwrap_or(&Value::Null));
                if definitions[*i]["format"] == "name" || (*i == 0 && definitions[*i]["name"] == "Name") {
                    cell.insert_str(0, &columns.name_prefix);
                }
                cells.push(cell);
            }
            for l in &columns.label_columns {
                cells.push(text(&metadata["labels"][l.as_str()]));
            }
            if columns.show_labels {
                cells.push(labels(&metadata["labels"]));
            }
            cells
        });
        Self { rows: rows.collect(), header }
    }

    /// The text, with the header unless `headers` is false.
    pub fn render(&self, headers: bool) -> String {
        let mut lines: Vec<&Vec<String>> = Vec::new();
        if headers && !self.header.is_empty() {
            lines.push(&self.header);
        }
        lines.extend(&self.rows);
        align(&lines, 3)
    }
}

/// Pads every column to its widest cell plus `gap`; the last one is left as it is.
pub fn align<R: AsRef<[String]>>(lines: &[R], gap: usize) -> String {
    let columns = lines.iter().map(|l| l.as_ref().len()).max().unwrap_or(0);
    let width = |c: usize| {
        lines.iter().filter_map(|l| l.as_ref().get(c)).map(|x| x.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let cells = line.as_ref();
        let mut text = String::new();
        for (i, c) in cells.iter().enumerate() {
            text.push_str(c);
            if i + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', widths[i] + gap - c.chars().count()));
            }
        }
        out.push_str(&text);
        out.push('\n');
    }
    out
}

fn cell(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(v: &Value) -> String {
    match v.as_object() {
        Some(m) if !m.is_empty() => {
            let pairs: Vec<String> =
                m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        _ => "<none>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wide_columns_show_only_when_asked_for() {
        let t = json!({
            "columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "ns", "labels": {"x": "y"}}}},
                     {"cells": ["longer", "0/1", null], "object": {"metadata": {"namespace": "ns"}}}],
        });
        assert_eq!(
            Table::from_server(&t, &Columns::default()).render(true),
            "NAME     READY\na        1/1\nlonger   0/1\n"
        );
        let all = Columns {
            wide: true,
            with_namespace: true,
            show_labels: true,
            name_prefix: "pod/".into(),
            ..Columns::default()
        };
        assert_eq!(
            Table::from_server(&t, &all).render(false),
            "ns   pod/a        1/1   10.0.0.1   x=y\nns   pod/longer   0/1   <none>     <none>\n"
        );
    }
}
