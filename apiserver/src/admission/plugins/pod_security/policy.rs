//! Which standard a namespace asks for: labels `pod-security.kubernetes.io/MODE` and `…/MODE-version`.

use std::fmt;

use serde_json::{Map, Value};

use crate::field::{Error, ErrorList, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// The newest minor version at which a check changed: "latest" means it.
const NEWEST: u32 = 35;

/// A standard, the stricter the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

/// A standard as of a release; none is the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Option<u32>,
}

impl LevelVersion {
    /// The minor version whose checks apply.
    pub fn minor(&self) -> u32 {
        self.version.map_or(NEWEST, |v| v.min(NEWEST))
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(v) => write!(f, "{level}:v1.{v}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What the three modes of a namespace ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    pub fn is_privileged(&self) -> bool {
        [&self.enforce, &self.audit, &self.warn].iter().all(|l| l.level == Level::Privileged)
    }

    /// The policy of a namespace, and what is wrong with its labels. Modes without labels are as in `defaults`; a wrong
    /// `enforce` counts as `restricted`, other wrong modes as off.
    pub fn of(namespace: &Value, defaults: &Self) -> (Self, ErrorList) {
        let none = Map::new();
        let labels = namespace.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&none);
        let label = |name: &str| labels.get(&format!("{PREFIX}{name}")).and_then(Value::as_str);
        let mut errors = ErrorList::new();
        let mut mode = |name: &str, fallback: Level, default: &LevelVersion| {
            let mut out = default.clone();
            let mut good = false;
            if let Some(value) = label(name) {
                match Level::parse(value) {
                    Some(level) => {
                        out.level = level;
                        good = true;
                    }
                    None => {
                        out.level = fallback;
                        wrong(&mut errors, name, value, "must be one of privileged, baseline, restricted");
                    }
                }
            }
            let version_label = format!("{name}-version");
            if let Some(value) = label(&version_label) {
                match parse_version(value) {
                    Some(v) => out.version = v,
                    None => wrong(&mut errors, &version_label, value, "must be \"latest\" or \"v1.x\""),
                }
            }
            (out, good)
        };
        let (enforce, enforced) = mode("enforce", Level::Restricted, &defaults.enforce);
        let (audit, _) = mode("audit", Level::Privileged, &defaults.audit);
        let (mut warn, _) = mode("warn", Level::Privileged, &defaults.warn);
        if label("warn").is_none() && enforced && enforce.level > warn.level {
            warn.level = enforce.level;
            if label("warn-version").is_none() {
                warn.version = enforce.version;
            }
        }
        (Self { enforce, audit, warn }, errors)
    }
}

fn wrong(errors: &mut ErrorList, label: &str, value: &str, message: &str) {
    let path = Path::new("metadata").child("labels").key(&format!("{PREFIX}{label}"));
    errors.push(Error::invalid(&path, value, message));
}

/// Reads `latest` (none) or `v1.N`; none at all for anything else.
pub fn parse_version(s: &str) -> Option<Option<u32>> {
    if s == "latest" {
        return Some(None);
    }
    let digits = s.strip_prefix("v1.")?;
    let plain = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()));
    if plain { digits.parse().ok().map(Some) } else { None }
}
