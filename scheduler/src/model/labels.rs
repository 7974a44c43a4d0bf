//! Labels and label selectors in the form the decision core matches them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A shared immutable string.
pub type Str = Arc<str>;

/// A sorted set of labels; lookups are binary searches, and there is one allocation for the set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Str, Str)]>);

impl Labels {
    /// Labels of an API object.
    #[must_use]
    pub fn new(map: Option<&BTreeMap<String, String>>) -> Self {
        Self(map.into_iter().flatten().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Str> {
        self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|i| &self.0[i].1)
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Labels {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let map: BTreeMap<&str, &str> = pairs.into_iter().collect();
        Self(map.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// Operators of label and node selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

impl Op {
    /// Parses the API's operator name.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::Gt,
            "Lt" => Self::Lt,
            _ => return None,
        })
    }
}

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: Str,
    pub op: Op,
    pub values: Box<[Str]>,
}

impl Requirement {
    /// Whether a value (or its absence) satisfies this requirement.
    #[must_use]
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|x| x.as_ref() == v);
        match (self.op, value) {
            (Op::In, Some(v)) => has(v),
            (Op::NotIn, Some(v)) => !has(v),
            (Op::NotIn, None) | (Op::DoesNotExist, None) | (Op::Exists, Some(_)) => true,
            (Op::Gt | Op::Lt, Some(v)) => {
                let (Ok(a), Some(Ok(b))) = (v.parse::<i64>(), self.values.first().map(|x| x.parse::<i64>()))
                else {
                    return false;
                };
                if self.op == Op::Gt { a > b } else { a < b }
            }
            _ => false,
        }
    }

    /// Whether `labels` satisfy this requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_value(labels.get(&self.key).map(AsRef::as_ref))
    }
}

/// A label selector. A missing selector matches nothing, an empty one everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    Nothing,
    All(Box<[Requirement]>),
}

impl Selector {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::All(Box::default())
    }

    /// The API's label selector; `None` matches nothing.
    #[must_use]
    pub fn new(s: Option<&LabelSelector>) -> Self {
        let Some(s) = s else { return Self::Nothing };
        let mut reqs = equalities(s.match_labels.as_ref());
        for e in s.match_expressions.iter().flatten() {
            let Some(op) = Op::parse(&e.operator) else { return Self::Nothing };
            reqs.push(Requirement {
                key: e.key.as_str().into(),
                op,
                values: e.values.iter().flatten().map(|v| v.as_str().into()).collect(),
            });
        }
        Self::All(reqs.into())
    }

    /// A plain `key: value` map, as services and replication controllers use it.
    #[must_use]
    pub fn from_map(m: Option<&BTreeMap<String, String>>) -> Self {
        Self::All(equalities(m).into())
    }

    /// This selector with more equality requirements put in front.
    #[must_use]
    pub fn with_equalities(self, pairs: impl IntoIterator<Item = (Str, Str)>) -> Self {
        let Self::All(reqs) = self else { return self };
        let mut out: Vec<Requirement> = pairs
            .into_iter()
            .map(|(key, v)| Requirement { key, op: Op::In, values: Box::new([v]) })
            .filter(|r| !reqs.contains(r))
            .collect();
        out.extend(reqs);
        Self::All(out.into())
    }

    /// Both selectors at once.
    #[must_use]
    pub fn and(self, other: &Selector) -> Self {
        match (self, other) {
            (Self::All(a), Self::All(b)) => {
                let mut a = a.into_vec();
                a.extend(b.iter().filter(|r| !a.contains(r)).cloned().collect::<Vec<_>>());
                Self::All(a.into())
            }
            _ => Self::Nothing,
        }
    }

    /// True for a selector without requirements: it matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::All(r) if r.is_empty())
    }

    /// Whether `labels` are selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(reqs) => reqs.iter().all(|r| r.matches(labels)),
        }
    }
}

fn equalities(m: Option<&BTreeMap<String, String>>) -> Vec<Requirement> {
    m.into_iter()
        .flatten()
        .map(|(k, v)| Requirement {
            key: k.as_str().into(),
            op: Op::In,
            values: Box::new([Str::from(v.as_str())]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn req(key: &str, op: Op, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), op, values: values.iter().map(|v| Str::from(*v)).collect() }
    }

    #[test]
    fn requirements_follow_set_semantics() {
        let l = Labels::from([("a", "1"), ("n", "7")]);
        assert!(req("a", Op::In, &["0", "1"]).matches(&l));
        assert!(!req("b", Op::In, &["1"]).matches(&l));
        assert!(req("b", Op::NotIn, &["1"]).matches(&l));
        assert!(!req("a", Op::NotIn, &["1"]).matches(&l));
        assert!(req("a", Op::Exists, &[]).matches(&l));
        assert!(req("b", Op::DoesNotExist, &[]).matches(&l));
        assert!(req("n", Op::Gt, &["6"]).matches(&l));
        assert!(!req("n", Op::Lt, &["6"]).matches(&l));
        assert!(!req("n", Op::Gt, &["x"]).matches(&l));
    }

    #[test]
    fn missing_selector_matches_nothing_and_empty_matches_all() {
        let l = Labels::from([("a", "1")]);
        assert!(!Selector::new(None).matches(&l));
        assert!(Selector::new(Some(&LabelSelector::default())).matches(&l));
    }

    #[test]
    fn and_joins_and_nothing_wins() {
        let a = Selector::All(Box::new([req("a", Op::In, &["1"])]));
        let both = a.clone().and(&Selector::All(Box::new([req("b", Op::Exists, &[])])));
        assert!(!both.matches(&Labels::from([("a", "1")])));
        assert!(both.matches(&Labels::from([("a", "1"), ("b", "x")])));
        assert_eq!(a.and(&Selector::Nothing), Selector::Nothing);
    }
}
