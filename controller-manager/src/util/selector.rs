//! Label selectors, compiled.

use std::fmt;

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::meta::Map;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Need {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let key = |k: &str| match k.trim() {
            k if k.is_empty() || k.contains(['!', '=', '(', ')', ' ']) => bail!("{k:?} is no label"),
            k => Ok(k.to_owned()),
        };
        if let Some(list) = text.strip_suffix(')') {
            let (head, list) = list.split_once('(').context("a parenthesis is not opened")?;
            let values = list.split(',').map(|v| v.trim().to_owned()).collect();
            let (k, operator) = head.trim().rsplit_once(' ').context("an operator is missing")?;
            return match operator {
                "in" => Ok(Self::In(key(k)?, values)),
                "notin" => Ok(Self::NotIn(key(k)?, values)),
                other => bail!("{other:?} is no operator"),
            };
        }
        if let Some((k, v)) = text.split_once("!=") {
            return Ok(Self::NotIn(key(k)?, vec![v.trim().to_owned()]));
        }
        if let Some((k, v)) = text.split_once('=') {
            return Ok(Self::In(key(k)?, vec![v.strip_prefix('=').unwrap_or(v).trim().to_owned()]));
        }
        match text.strip_prefix('!') {
            Some(k) => Ok(Self::Absent(key(k)?)),
            None => Ok(Self::Exists(key(text)?)),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(k, v) if v.len() == 1 => write!(f, "{k}={}", v[0]),
            Self::NotIn(k, v) if v.len() == 1 => write!(f, "{k}!={}", v[0]),
            Self::In(k, v) => write!(f, "{k} in ({})", v.join(",")),
            Self::NotIn(k, v) => write!(f, "{k} notin ({})", v.join(",")),
            Self::Exists(k) => write!(f, "{k}"),
            Self::Absent(k) => write!(f, "!{k}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, need) in self.0.iter().enumerate() {
            write!(f, "{}{need}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// A label selector ready to match. Without requirements it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Need>);

impl Selector {
    /// Compiles the API form.
    ///
    /// # Errors
    /// An operator is unknown.
    pub fn new(selector: &LabelSelector) -> anyhow::Result<Self> {
        let mut needs = Self::from_map(selector.match_labels.as_ref()).0;
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            needs.push(match e.operator.as_str() {
                "In" => Need::In(e.key.clone(), values),
                "NotIn" => Need::NotIn(e.key.clone(), values),
                "Exists" => Need::Exists(e.key.clone()),
                "DoesNotExist" => Need::Absent(e.key.clone()),
                other => bail!("{other:?} is not a label selector operator"),
            });
        }
        Ok(Self(needs))
    }

    /// Reads the text form of query parameters: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// It is no selector.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut needs = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            // A comma within parentheses separates values.
            let open = rest.find('(').unwrap_or(rest.len());
            let end = match rest.find(',') {
                Some(comma) if comma < open => comma,
                _ if open < rest.len() => match rest.find(')') {
                    Some(close) => close + 1,
                    None => bail!("{text:?} is no label selector: a parenthesis is not closed"),
                },
                comma => comma.unwrap_or(rest.len()),
            };
            let (one, more) = rest.split_at(end);
            needs.push(Need::parse(one.trim()).with_context(|| format!("{text:?} is no label selector"))?);
            let more = more.trim_start();
            rest = match more.strip_prefix(',') {
                Some(more) if !more.trim().is_empty() => more.trim_start(),
                None if more.is_empty() => more,
                _ => bail!("{text:?} is no label selector: something is missing or too much at {more:?}"),
            };
        }
        Ok(Self(needs))
    }

    /// Every label must be there with its value.
    pub fn from_map(labels: Option<&Map>) -> Self {
        Self(labels.into_iter().flatten().map(|(k, v)| Need::In(k.clone(), vec![v.clone()])).collect())
    }

    /// Whether it has no requirement.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the labels fit.
    pub fn matches(&self, labels: Option<&Map>) -> bool {
        let get = |key: &String| labels.and_then(|l| l.get(key));
        self.0.iter().all(|need| match need {
            Need::In(k, values) => get(k).is_some_and(|v| values.contains(v)),
            Need::NotIn(k, values) => get(k).is_none_or(|v| !values.contains(v)),
            Need::Exists(k) => get(k).is_some(),
            Need::Absent(k) => get(k).is_none(),
        })
    }
}

/// A selector as upstream's messages show it.
pub fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|e| {
            let values = e.values.as_deref().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(text: &str) -> Map {
        text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Selector {
        let e = LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        Selector::new(&LabelSelector { match_expressions: Some(vec![e]), match_labels: None })
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn operators() {
        let l = labels("a=1,b=2");
        assert!(expression("a", "In", &["1", "3"]).matches(Some(&l)));
        assert!(!expression("a", "NotIn", &["1"]).matches(Some(&l)));
        assert!(expression("z", "NotIn", &["1"]).matches(Some(&l)));
        assert!(expression("a", "Exists", &[]).matches(Some(&l)));
        assert!(!expression("a", "DoesNotExist", &[]).matches(Some(&l)));
        assert!(!expression("a", "In", &["1"]).matches(None));
        assert!(Selector::default().matches(None));
        let bad = LabelSelectorRequirement { key: "a".into(), operator: "Like".into(), values: None };
        assert!(
            Selector::new(&LabelSelector { match_expressions: Some(vec![bad]), match_labels: None }).is_err()
        );
    }

    #[test]
    fn texts_are_read_and_written() {
        let text = "a=b,c!=d,e in (f,g),h notin (i,j),k,!l";
        let selector = Selector::parse(text).unwrap();
        assert_eq!(selector.to_string(), text);
        assert!(selector.matches(Some(&labels("a=b,e=g,k=x"))));
        assert!(!selector.matches(Some(&labels("a=b,e=g,k=x,l=y"))));
        assert_eq!(Selector::parse(" a == b , c in ( d , e ) ").unwrap().to_string(), "a=b,c in (d,e)");
        assert!(Selector::parse("").unwrap().is_empty());
        for bad in ["a in (b", "a b", "=x", "a=b,", "a ist (b)", "a,,b", "a in b)"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selectors_look_as_in_upstream_messages() {
        assert_eq!(shown(None), "nil");
        let selector = LabelSelector {
            match_labels: Some([("a".to_owned(), "b".to_owned())].into()),
            match_expressions: None,
        };
        assert_eq!(
            shown(Some(&selector)),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }
}
