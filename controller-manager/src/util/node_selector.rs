//! Node selectors: terms of which one must match, each made of requirements that all must.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::meta;

/// Whether the node is one of those selected. A term without requirements selects none.
pub fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|t| term_matches(t, node))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    if labels.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    // The name is the only field there is; others select nothing.
    labels.clone().all(|r| holds(r, label(&r.key)))
        && fields.clone().all(|r| r.key == "metadata.name" && holds(r, Some(meta::name(&node.metadata))))
}

fn holds(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| r.values.iter().flatten().any(|x| x == v);
    let compare = |f: fn(i64, i64) -> bool| {
        let limit = r.values.as_ref().filter(|v| v.len() == 1).and_then(|v| v[0].parse().ok());
        let number = value.and_then(|v| v.parse().ok());
        matches!((number, limit), (Some(n), Some(l)) if f(n, l))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => value.is_none_or(|v| !listed(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|n, l| n > l),
        "Lt" => compare(|n, l| n < l),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        let values = Some(values.iter().map(|v| (*v).to_owned()).collect());
        NodeSelectorRequirement { key: key.into(), operator: operator.into(), values }
    }

    fn selects(labels: &[NodeSelectorRequirement], fields: &[NodeSelectorRequirement]) -> bool {
        let mut node = Node::default();
        node.metadata.name = Some("n".into());
        node.metadata.labels = Some([("a", "1"), ("size", "10")].map(|(k, v)| (k.into(), v.into())).into());
        let term = NodeSelectorTerm {
            match_expressions: Some(labels.to_vec()),
            match_fields: Some(fields.to_vec()),
        };
        matches(&NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default(), term] }, &node)
    }

    #[test]
    fn operators() {
        let one = |key: &str, op: &str, values: &[&str]| selects(&[requirement(key, op, values)], &[]);
        assert!(one("a", "In", &["0", "1"]) && !one("b", "In", &["1"]));
        assert!(one("b", "NotIn", &["1"]) && !one("a", "NotIn", &["1"]));
        assert!(one("a", "Exists", &[]) && one("b", "DoesNotExist", &[]));
        assert!(one("size", "Gt", &["9"]) && !one("size", "Gt", &["10"]) && !one("a", "Gt", &["x"]));
        assert!(one("size", "Lt", &["11"]) && !one("size", "Lt", &["1", "99"]) && !one("a", "Like", &["1"]));
        assert!(!selects(&[], &[]), "an empty term selects nothing");
        assert!(selects(&[], &[requirement("metadata.name", "In", &["n"])]));
        assert!(!selects(&[], &[requirement("metadata.uid", "Exists", &[])]));
    }
}
