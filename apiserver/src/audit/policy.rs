//! The audit policy: the first rule that matches a request says how much of it is told.

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::event::Stage;
use crate::request::{RequestInfo, UserInfo};

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    /// Who, what and the outcome, but no body.
    Metadata,
    /// And what the client sent.
    Request,
    /// And what it got.
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    api_version: String,
    kind: String,
    rules: Vec<RuleFile>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuleFile {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

/// Resources of one group.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What is done with one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    pub level: Level,
    pub omit: Stages,
    pub omit_managed_fields: bool,
}

/// A set of stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    fn parse(names: &[String], path: &str) -> anyhow::Result<Self> {
        let mut set = Self::default();
        for (i, n) in names.iter().enumerate() {
            let Some(stage) = Stage::ALL.iter().find(|s| s.name() == n) else {
                bail!(
                    "{path}[{i}]: Invalid value: {n:?}: allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"
                );
            };
            set.0 |= 1 << *stage as u8;
        }
        Ok(set)
    }

    pub fn has(self, s: Stage) -> bool {
        self.0 & (1 << s as u8) != 0
    }
}

/// The rules in order, then what holds where none matches.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<(RuleFile, Rule)>,
    fallback: Rule,
}

impl Policy {
    /// Everything at one level, with all stages: upstream's policy where there is a backend but no file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = serde_yaml::from_str(text).context("failed decoding")?;
        if file.kind != "Policy" || file.api_version != "audit.k8s.io/v1" {
            bail!("unknown group version field {}, Kind={} in policy", file.api_version, file.kind);
        }
        if file.rules.is_empty() {
            bail!("loaded illegal policy with 0 rules");
        }
        let omit = Stages::parse(&file.omit_stages, "omitStages")?;
        let mut rules = Vec::new();
        for (i, r) in file.rules.into_iter().enumerate() {
            let level = r.check(&format!("rules[{i}]"))?;
            let own = Stages::parse(&r.omit_stages, &format!("rules[{i}].omitStages"))?;
            let managed = r.omit_managed_fields.unwrap_or(file.omit_managed_fields);
            rules.push((
                r,
                // Stages to leave out for all rules are left out for each.
                Rule { level, omit: Stages(own.0 | omit.0), omit_managed_fields: managed },
            ));
        }
        let fallback = Rule { level: Level::None, omit, omit_managed_fields: file.omit_managed_fields };
        Ok(Self { rules, fallback })
    }

    pub fn evaluate(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Rule {
        self.rules.iter().find(|(r, _)| r.matches(user, info)).map_or(self.fallback, |(_, rule)| *rule)
    }
}

impl RuleFile {
    fn check(&self, path: &str) -> anyhow::Result<Level> {
        let level = match self.level.as_str() {
            "None" => Level::None,
            "Metadata" => Level::Metadata,
            "Request" => Level::Request,
            "RequestResponse" => Level::RequestResponse,
            "" => bail!("{path}.level: Required value"),
            other => bail!(
                "{path}.level: Unsupported value: {other:?}: supported values: \"Metadata\", \"None\", \"Request\", \"RequestResponse\""
            ),
        };
        for (i, u) in self.non_resource_urls.iter().enumerate().filter(|(_, u)| *u != "*") {
            let at = format!("{path}.nonResourceURLs[{i}]: Invalid value: {u:?}");
            if !u.starts_with('/') {
                bail!("{at}: non-resource URL rules must begin with a '/' character");
            }
            if u.strip_suffix('*').unwrap_or(u).contains('*') {
                bail!("{at}: non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for r in &self.resources {
            let dns = |g: &str| {
                g.len() <= 253
                    && g.split('.').all(|p| {
                        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                        !p.is_empty() && p.chars().all(inner) && !p.starts_with('-') && !p.ends_with('-')
                    })
            };
            if !matches!(r.group.as_str(), "" | "*") && !dns(&r.group) {
                bail!(
                    "{path}.resources.group: Invalid value: {:?}: must be a lowercase RFC 1123 subdomain",
                    r.group
                );
            }
            if !r.resource_names.is_empty() && r.resources.is_empty() {
                bail!("{path}.resources.resourceNames: using resourceNames requires at least one resource");
            }
        }
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.non_resource_urls.is_empty() {
            bail!(
                "{path}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
            );
        }
        Ok(level)
    }

    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        let has = |list: &[String], s: &str| list.iter().any(|x| x == s);
        if !self.users.is_empty() && !user.is_some_and(|u| has(&self.users, &u.name)) {
            return false;
        }
        if !self.user_groups.is_empty()
            && !user.is_some_and(|u| u.groups.iter().any(|g| has(&self.user_groups, g)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource && self.non_resource_urls.iter().any(|u| url_matches(u, &info.path));
        }
        true
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|p| path.starts_with(p))
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != "*" && self.group != info.api_group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        let sub = info.subresource.as_str();
        self.resources.iter().any(|r| match r.split_once('/') {
            _ if r == "*" => true,
            None => sub.is_empty() && *r == info.resource,
            Some(("*", s)) if !sub.is_empty() && s == sub => true,
            Some((x, "*")) => x == info.resource,
            Some((x, s)) => x == info.resource && s == sub,
        })
    }
}
