//! Label selectors, compiled.

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::meta::Map;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
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
}
