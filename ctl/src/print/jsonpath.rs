//! kubectl's JSONPath dialect: text with `{…}` actions, among them `range`/`end`, filters, slices, unions and
//! recursive descent.
//!
//! Source: Kubernetes reference, "JSONPath Support".

use anyhow::{Context, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct JsonPath(Vec<Node>);

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

#[derive(Debug, Clone)]
struct Path(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Field(String),
    Wildcard,
    Recursive,
    Union(Vec<Selector>),
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone)]
enum Selector {
    Name(String),
    Index(i64),
}

#[derive(Debug, Clone)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a template; one without braces is taken as one path.
    ///
    /// # Errors
    /// Says what is wrong in it.
    pub fn parse(template: &str) -> anyhow::Result<Self> {
        let template = if template.contains('{') { template.to_owned() } else { format!("{{{template}}}") };
        let mut p = Parser { rest: &template };
        let nodes = p.nodes(false).with_context(|| format!("error parsing jsonpath {template}"))?;
        Ok(Self(nodes))
    }

    /// The template's text for `value`; paths that lead nowhere print nothing.
    ///
    /// # Errors
    /// A filter compares what cannot be compared.
    pub fn render(&self, value: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        render(&self.0, value, value, &mut out);
        Ok(out)
    }

    /// The cell of a custom column: values joined by commas, `<none>` if there are none.
    pub fn column(&self, value: &Value) -> String {
        let found: Vec<String> = self
            .0
            .iter()
            .filter_map(|n| match n {
                Node::Path(p) => Some(eval(p, value, value)),
                _ => None,
            })
            .flatten()
            .map(show)
            .collect();
        if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
    }

    /// The first value found, for sorting.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().find_map(|n| match n {
            Node::Path(p) => eval(p, value, value).into_iter().next(),
            _ => None,
        })
    }
}

fn render(nodes: &[Node], root: &Value, current: &Value, out: &mut String) {
    for n in nodes {
        match n {
            Node::Text(t) => out.push_str(t),
            Node::Path(p) => {
                let values: Vec<String> = eval(p, root, current).into_iter().map(show).collect();
                out.push_str(&values.join(" "));
            }
            Node::Range(p, body) => {
                for item in eval(p, root, current) {
                    match item {
                        Value::Array(items) => items.iter().for_each(|i| render(body, root, i, out)),
                        other => render(body, root, other, out),
                    }
                }
            }
        }
    }
}

fn show(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn eval<'v>(path: &Path, root: &'v Value, current: &'v Value) -> Vec<&'v Value> {
    let mut at = vec![current];
    for step in &path.0 {
        at = at.into_iter().flat_map(|v| apply(step, root, v)).collect();
    }
    at
}

fn apply<'v>(step: &Step, root: &'v Value, v: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => v.get(name).into_iter().collect(),
        Step::Wildcard => children(v),
        Step::Recursive => descendants(v),
        Step::Union(selectors) => selectors.iter().filter_map(|s| select(s, v)).collect(),
        Step::Slice(from, to, by) => slice(v, *from, *to, by.unwrap_or(1)),
        Step::Filter(left, rest) => {
            children(v).into_iter().filter(|c| holds(left, rest.as_ref(), root, c)).collect()
        }
    }
}

fn select<'v>(s: &Selector, v: &'v Value) -> Option<&'v Value> {
    match s {
        Selector::Name(n) => v.get(n),
        Selector::Index(i) => {
            let items = v.as_array()?;
            let i = if *i < 0 { i + items.len() as i64 } else { *i };
            items.get(usize::try_from(i).ok()?)
        }
    }
}

fn slice(v: &Value, from: Option<i64>, to: Option<i64>, by: i64) -> Vec<&Value> {
    let Some(items) = v.as_array() else { return Vec::new() };
    let n = items.len() as i64;
    let clamp = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n) as usize;
    let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(n)));
    let by = usize::try_from(by).unwrap_or(1).max(1);
    if from >= to { Vec::new() } else { items[from..to].iter().step_by(by).collect() }
}

fn children(v: &Value) -> Vec<&Value> {
    match v {
        Value::Array(a) => a.iter().collect(),
        Value::Object(m) => m.values().collect(),
        _ => Vec::new(),
    }
}

fn descendants(v: &Value) -> Vec<&Value> {
    let mut out = vec![v];
    for c in children(v) {
        out.extend(descendants(c));
    }
    out
}

fn holds(left: &Operand, rest: Option<&(Comparison, Operand)>, root: &Value, item: &Value) -> bool {
    let values = |o: &Operand| -> Vec<Value> {
        match o {
            Operand::Literal(v) => vec![v.clone()],
            Operand::Path(p) => eval(p, root, item).into_iter().cloned().collect(),
        }
    };
    let left = values(left);
    let Some((comparison, right)) = rest else { return !left.is_empty() };
    let right = values(right);
    let (Some(a), Some(b)) = (left.first(), right.first()) else { return false };
    let order = match (a, b) {
        (Value::Number(x), Value::Number(y)) => x.as_f64().partial_cmp(&y.as_f64()),
        _ => show(a).partial_cmp(&show(b)),
    };
    let Some(order) = order else { return false };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Nodes up to the end, or up to `{end}` inside a range.
    fn nodes(&mut self, in_range: bool) -> anyhow::Result<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if in_range {
                    bail!("a range has no {{end}}");
                }
                if !self.rest.is_empty() {
                    nodes.push(Node::Text(std::mem::take(&mut self.rest).to_owned()));
                }
                return Ok(nodes);
            };
            if open > 0 {
                nodes.push(Node::Text(self.rest[..open].to_owned()));
            }
            self.rest = &self.rest[open + 1..];
            self.space();
            if self.word("end") {
                self.close()?;
                if !in_range {
                    bail!("{{end}} without a range");
                }
                return Ok(nodes);
            }
            if self.word("range") {
                self.space();
                let path = self.path()?;
                self.close()?;
                nodes.push(Node::Range(path, self.nodes(true)?));
                continue;
            }
            // An action may hold several things one after the other.
            loop {
                self.space();
                if self.take("}") {
                    break;
                }
                nodes.push(match self.rest.chars().next() {
                    Some(q @ ('"' | '\'')) => Node::Text(self.quoted(q)?),
                    Some(_) => Node::Path(self.path()?),
                    None => bail!("unclosed action"),
                });
            }
        }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.space();
        if self.take("}") { Ok(()) } else { bail!("unclosed action at \"{}\"", self.rest) }
    }

    fn path(&mut self) -> anyhow::Result<Path> {
        let mut steps = Vec::new();
        let before = self.rest.len();
        if self.rest.starts_with(['$', '@']) {
            self.rest = &self.rest[1..];
        }
        loop {
            if self.take("..") {
                steps.push(Step::Recursive);
                if self.rest.starts_with('[') {
                    continue;
                }
                self.field(&mut steps);
            } else if self.take(".") {
                self.field(&mut steps);
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else if steps.is_empty() && self.rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                self.field(&mut steps);
            } else {
                break;
            }
        }
        if self.rest.len() == before {
            bail!("unrecognized character in action at \"{}\"", self.rest);
        }
        Ok(Path(steps))
    }

    fn field(&mut self, steps: &mut Vec<Step>) {
        if self.take("*") {
            return steps.push(Step::Wildcard);
        }
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' | '}' | ' ' | ')' | '=' | '!' | '<' | '>' | ',' => {
                    end = i;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
    }

    fn bracket(&mut self) -> anyhow::Result<Step> {
        self.space();
        if self.take("?(") {
            return self.filter();
        }
        if self.take("*") {
            self.expect("]")?;
            return Ok(Step::Wildcard);
        }
        let end = self.rest.find(']').context("unterminated [")?;
        let inner = &self.rest[..end];
        if !inner.contains(['\'', '"']) && inner.contains(':') {
            self.rest = &self.rest[end + 1..];
            let mut parts = inner.split(':').map(|p| p.trim().parse::<i64>().ok());
            let (from, to, by) = (parts.next().flatten(), parts.next().flatten(), parts.next().flatten());
            return Ok(Step::Slice(from, to, by));
        }
        let mut selectors = Vec::new();
        loop {
            self.space();
            if let Some(q @ ('"' | '\'')) = self.rest.chars().next() {
                selectors.push(Selector::Name(self.quoted(q)?));
            } else {
                let end = self.rest.find([',', ']']).context("unterminated [")?;
                let number = self.rest[..end].trim();
                let index = number.parse().with_context(|| format!("invalid array index {number}"))?;
                selectors.push(Selector::Index(index));
                self.rest = &self.rest[end..];
            }
            self.space();
            if !self.take(",") {
                self.expect("]")?;
                return Ok(Step::Union(selectors));
            }
        }
    }

    fn filter(&mut self) -> anyhow::Result<Step> {
        self.space();
        let left = self.operand()?;
        self.space();
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let mut rest = None;
        for (text, comparison) in operators {
            if self.take(text) {
                self.space();
                rest = Some((comparison, self.operand()?));
                break;
            }
        }
        self.space();
        self.expect(")")?;
        self.space();
        self.expect("]")?;
        Ok(Step::Filter(left, rest))
    }

    fn operand(&mut self) -> anyhow::Result<Operand> {
        match self.rest.chars().next() {
            Some(q @ ('"' | '\'')) => Ok(Operand::Literal(Value::String(self.quoted(q)?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            _ => {
                let end = self.rest.find([')', ' ', '=', '!', '<', '>']).context("unterminated filter")?;
                let word = &self.rest[..end];
                self.rest = &self.rest[end..];
                let literal =
                    serde_json::from_str(word).with_context(|| format!("invalid filter operand {word}"))?;
                Ok(Operand::Literal(literal))
            }
        }
    }

    fn quoted(&mut self, quote: char) -> anyhow::Result<String> {
        let mut out = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[i + 2..];
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            out.extend(chars.next().map(|(_, c)| match c {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }));
        }
        bail!("unterminated quoted string")
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn word(&mut self, word: &str) -> bool {
        let ends = |r: &str| r.starts_with(|c: char| c == '}' || c.is_whitespace());
        match self.rest.strip_prefix(word).filter(|r| ends(r)) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> anyhow::Result<()> {
        if self.take(token) { Ok(()) } else { bail!("expected {token} at \"{}\"", self.rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn evaluates_the_forms_of_the_reference() {
        let v = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"k8s.io/x": "1"}}, "n": 1, "c": [{"ip": "1.1.1.1"}, {"ip": "2.2.2.2"}]},
                {"metadata": {"name": "b"}, "n": 2, "ready": true},
            ],
        });
        for (template, expected) in [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("the kind is {.kind}", "the kind is List"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{.items[0,1]['metadata'].name}", "a b"),
            ("{.items[0]['n', 'missing']}", "1"),
            (r"{.items[0].metadata.labels.k8s\.io/x}", "1"),
            ("{.items[?(@.n==2)].metadata.name}", "b"),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            (r#"{.items[?(@.metadata.name=="a")].n}"#, "1"),
            ("{.items[?(@.ready)].metadata.name}", "b"),
            ("{..ip}", "1.1.1.1 2.2.2.2"),
            (r#"{range .items[*]}{.metadata.name}{"\t"}{.n}{"\n"}{end}"#, "a\t1\nb\t2\n"),
            ("{range .items[*]}[{range .c[*]}{.ip};{end}]{end}", "[1.1.1.1;2.2.2.2;][]"),
            ("{.items[0].metadata.labels}", r#"{"k8s.io/x":"1"}"#),
            ("{.nothing.here}", ""),
            ("{@.kind}{'-'}{$.kind}", "List-List"),
        ] {
            assert_eq!(JsonPath::parse(template).unwrap().render(&v).unwrap(), expected, "{template}");
        }
        for bad in ["{.a", "{range .items[*]}x", "{end}", "{.a[}", "{.a[x]}", "{%}"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
