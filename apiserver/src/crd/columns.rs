//! Columns of server-side tables, as definitions describe them.

use serde_json::{Value, json};

use super::jsonpath::Path;
use crate::kinds::human_duration;
use crate::lookup::text;
use crate::registry::object;
use crate::table::{AGE, NAME};

struct Column {
    heading: Value,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    kind: String,
    path: Path,
}

/// The columns of one version, after the name.
pub struct Columns(Vec<Column>);

impl Columns {
    /// From `additionalPrinterColumns`; without any, the age. A path that cannot be read ends the columns, as
    /// upstream falls back to what it read before.
    pub fn read(list: &[Value]) -> Self {
        let age = [json!({
            "name": "Age", "type": "date", "description": AGE, "jsonPath": ".metadata.creationTimestamp",
        })];
        let list = if list.is_empty() { &age } else { list };
        let mut out = Vec::new();
        for c in list {
            let path_text = text(c, "/jsonPath");
            let Ok(path) = Path::parse(path_text) else { break };
            let description = match text(c, "/description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path_text}"),
                d => d.to_owned(),
            };
            let kind = text(c, "/type").to_owned();
            let heading = json!({
                "name": text(c, "/name"), "type": kind, "format": text(c, "/format"), "description": description,
                "priority": c.get("priority").and_then(Value::as_i64).unwrap_or(0),
            });
            out.push(Column { heading, kind, path });
        }
        Self(out)
    }

    /// `columnDefinitions`.
    pub fn headings(&self) -> Value {
        let name =
            json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
        std::iter::once(name).chain(self.0.iter().map(|c| c.heading.clone())).collect()
    }

    /// The cells of one object.
    pub fn cells(&self, o: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let mut out = vec![Value::from(object::name(o))];
        out.extend(self.0.iter().map(|c| match c.path.find(o).as_deref() {
            Ok([first, ..]) => cell(&c.kind, first, now),
            _ => Value::Null,
        }));
        out
    }
}

fn cell(kind: &str, v: &Value, now: jiff::Timestamp) -> Value {
    match (kind, v) {
        ("string", Value::String(s)) => s.as_str().into(),
        ("string", Value::Null) => "<no value>".into(),
        ("string", v) => v.to_string().into(),
        ("integer", Value::Number(n)) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().map_or(Value::Null, |f| (f as i64).into()),
        },
        ("number", Value::Number(n)) => n.clone().into(),
        ("boolean", Value::Bool(b)) => (*b).into(),
        ("date", Value::String(s)) => match s.parse::<jiff::Timestamp>() {
            Ok(t) => human_duration(now.as_second() - t.as_second()).into(),
            Err(_) if s.is_empty() => "<unknown>".into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_their_type() {
        let columns = Columns::read(&[
            json!({"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}),
            json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1}),
            json!({"name": "On", "type": "boolean", "jsonPath": ".spec.replicas"}),
            json!({"name": "Map", "type": "string", "jsonPath": ".spec"}),
            json!({"name": "When", "type": "date", "jsonPath": ".spec.when"}),
            json!({"name": "Absent", "type": "string", "jsonPath": ".spec.absent"}),
        ]);
        let o = json!({
            "metadata": {"name": "a"}, "spec": {"replicas": 3, "when": "never"},
            "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]},
        });
        let cells = columns.cells(&o, jiff::Timestamp::now());
        let map = r#"{"replicas":3,"when":"never"}"#;
        assert_eq!(
            cells,
            [json!("a"), json!(3), json!("True"), Value::Null, json!(map), json!("<invalid>"), Value::Null]
        );
        assert_eq!(columns.headings()[2]["priority"], 1);
        assert_eq!(columns.headings().as_array().map(Vec::len), Some(7));
    }

    #[test]
    fn the_age_is_shown_where_nothing_else_is() {
        let columns = Columns::read(&[]);
        let now: jiff::Timestamp = "2024-01-01T00:02:00Z".parse().expect("a time");
        let o = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}});
        assert_eq!(columns.cells(&o, now), ["a", "2m"]);
        assert_eq!(columns.headings()[1]["name"], "Age");
    }
}
