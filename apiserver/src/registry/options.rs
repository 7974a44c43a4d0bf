//! Options of requests, read from the query (and for deletes from the body), checked as upstream checks them.

use serde_json::Value;

use super::{fields, labels, meta};
use crate::field::{Error, ErrorList, Path};
use crate::http::query::Query;
use crate::status::{ApiError, ApiResult};

/// How unknown and duplicate fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Patches only: take over other managers' fields.
    pub force: Option<bool>,
}

/// Which list the errors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Create,
    Update,
    Patch { apply: bool },
}

impl WriteOptions {
    /// Reads and checks the options of one write.
    pub fn parse(q: &Query, kind: WriteKind) -> ApiResult<Self> {
        let mut e = ErrorList::new();
        let manager = q.get("fieldManager").unwrap_or_default();
        let force = q.opt_flag("force");
        let name = match kind {
            WriteKind::Create => "CreateOptions",
            WriteKind::Update => "UpdateOptions",
            WriteKind::Patch { apply } => {
                if apply && manager.is_empty() {
                    e.push(Error::required(&Path::new("fieldManager"), "is required for apply patch"));
                }
                if !apply && force.is_some() {
                    e.push(Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
                }
                "PatchOptions"
            }
        };
        meta::manager(manager, &Path::new("fieldManager"), &mut e);
        let dry: Vec<&str> = q.all("dryRun").filter(|v| !v.is_empty()).collect();
        check_dry_run(&dry, &mut e);
        let field_validation = match q.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                e.push(Error::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if !e.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", name, "", &e));
        }
        Ok(Self { dry_run: !dry.is_empty(), field_manager: manager.to_owned(), field_validation, force })
    }
}

/// What is wrong with a `resourceVersion` that is no number.
pub fn not_a_version(sent: &str) -> Error {
    let digits = !sent.is_empty() && sent.bytes().all(|b| b.is_ascii_digit());
    let wrong = if digits { "value out of range" } else { "invalid syntax" };
    let why = format!("strconv.ParseUint: parsing \"{sent}\": {wrong}");
    Error::invalid(&Path::new("resourceVersion"), sent, why)
}

fn check_dry_run(values: &[&str], e: &mut ErrorList) {
    if values.iter().any(|v| *v != "All") {
        e.push(Error::not_supported(&Path::new("dryRun"), values, &["All"]));
    }
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub labels: labels::Selector,
    pub fields: fields::Selector,
    pub watch: bool,
    pub bookmarks: bool,
    /// As sent; empty when not.
    pub resource_version: String,
    pub version_match: Option<Match>,
    pub timeout_seconds: Option<u64>,
    pub limit: u64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the options. Whether the kind knows the selected fields is checked by the caller.
    pub fn parse(q: &Query, watch: bool) -> ApiResult<Self> {
        let labels = labels::Selector::parse(q.get("labelSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        let fields = fields::Selector::parse(q.get("fieldSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        let limit = q.int("limit")?.unwrap_or(0);
        let timeout = q.int("timeoutSeconds")?;
        let mut o = Self {
            labels,
            fields,
            watch,
            bookmarks: q.flag("allowWatchBookmarks"),
            resource_version: q.get("resourceVersion").unwrap_or_default().to_owned(),
            version_match: None,
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()),
            limit: u64::try_from(limit).unwrap_or(0),
            continue_token: q.get("continue").unwrap_or_default().to_owned(),
            send_initial_events: q.opt_flag("sendInitialEvents"),
        };
        // A path below `/watch/` makes a watch of what is sent as a list.
        let sent_as_watch = q.flag("watch");
        let mut version_match = q.get("resourceVersionMatch").unwrap_or_default();
        let from_state = o.resource_version.is_empty() || o.resource_version == "0";
        if sent_as_watch && from_state && version_match.is_empty() && o.send_initial_events.is_none() {
            // A watch that begins with the state tells when that is complete, whether or not it asks for it (KEP-3157).
            o.send_initial_events = Some(true);
            version_match = "NotOlderThan";
        }
        let e = o.check(version_match, sent_as_watch);
        if !e.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &e));
        }
        // With a continue token none may be sent at all, which is said when the token has been read.
        let looked_at = watch || o.continue_token.is_empty();
        if looked_at && !o.resource_version.is_empty() && o.resource_version.parse::<u64>().is_err() {
            let wrong = not_a_version(&o.resource_version);
            return Err(match watch {
                true => ApiError::unknown(wrong.to_string()),
                false => ApiError::bad_request(format!("invalid resource version: {wrong}")),
            });
        }
        Ok(o)
    }

    /// The revision asked for; zero when none.
    pub fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }

    /// How many objects a page has at most; zero: all. Upstream serves "any version" whole, whatever the limit.
    pub fn page_limit(&self) -> u64 {
        if self.resource_version == "0" { 0 } else { self.limit }
    }

    fn check(&mut self, m: &str, watch: bool) -> ErrorList {
        let mut e = ErrorList::new();
        let p = Path::new("resourceVersionMatch");
        let initial = Path::new("sendInitialEvents");
        self.version_match = match m {
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            _ => None,
        };
        if watch {
            let not_older = self.version_match == Some(Match::NotOlderThan);
            if self.send_initial_events.is_some() && !not_older {
                e.push(Error::forbidden(
                    &p,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !m.is_empty() {
                if self.send_initial_events.is_none() {
                    e.push(Error::forbidden(
                        &p,
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    ));
                }
                if !not_older {
                    e.push(Error::not_supported(&p, m, &["NotOlderThan"]));
                }
                if !self.continue_token.is_empty() {
                    e.push(Error::forbidden(
                        &p,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
            }
            return e;
        }
        if !m.is_empty() {
            if self.resource_version.is_empty() {
                e.push(Error::forbidden(
                    &p,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !self.continue_token.is_empty() {
                e.push(Error::forbidden(&p, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if self.version_match.is_none() {
                e.push(Error::not_supported(&p, m, &["Exact", "NotOlderThan", ""]));
            }
            if m == "Exact" && self.resource_version == "0" {
                e.push(Error::forbidden(
                    &p,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if self.send_initial_events.is_some() {
            e.push(Error::forbidden(&initial, "sendInitialEvents is forbidden for list"));
        }
        e
    }
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Options of deletes.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    /// The deprecated form of `propagation`.
    pub orphan_dependents: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the query of a delete without body.
    pub fn from_query(q: &Query) -> ApiResult<Self> {
        let dry: Vec<&str> = q.all("dryRun").filter(|v| !v.is_empty()).collect();
        Self::build(
            &dry,
            q.int("gracePeriodSeconds")?,
            q.get("propagationPolicy"),
            q.opt_flag("orphanDependents"),
            None,
            None,
        )
    }

    /// From a decoded `DeleteOptions`.
    pub fn from_value(v: &Value) -> ApiResult<Self> {
        let dry: Vec<&str> = v
            .get("dryRun")
            .and_then(Value::as_array)
            .map(|a| a.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let pre =
            |f: &str| v.pointer(&format!("/preconditions/{f}")).and_then(Value::as_str).map(str::to_owned);
        Self::build(
            &dry,
            v.get("gracePeriodSeconds").and_then(Value::as_i64),
            v.get("propagationPolicy").and_then(Value::as_str),
            v.get("orphanDependents").and_then(Value::as_bool),
            pre("uid"),
            pre("resourceVersion"),
        )
    }

    fn build(
        dry: &[&str],
        grace: Option<i64>,
        policy: Option<&str>,
        orphan: Option<bool>,
        uid: Option<String>,
        resource_version: Option<String>,
    ) -> ApiResult<Self> {
        let mut e = ErrorList::new();
        let p = Path::new("propagationPolicy");
        if orphan.is_some() && policy.is_some() {
            e.push(Error::invalid(&p, policy, "orphanDependents and deletionPropagation cannot be both set"));
        }
        let propagation = match policy {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                e.push(Error::not_supported(&p, other, &["Foreground", "Background", "Orphan", "nil"]));
                None
            }
        };
        check_dry_run(dry, &mut e);
        if !e.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &e));
        }
        Ok(Self {
            dry_run: !dry.is_empty(),
            // Negative periods mean the shortest graceful one.
            grace_seconds: grace.map(|g| if g < 0 { 1 } else { g }),
            propagation,
            orphan_dependents: orphan,
            uid: uid.filter(|u| !u.is_empty()),
            resource_version: resource_version.filter(|u| !u.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let bad =
            |s: &str| ListOptions::parse(&Query::parse(Some(s)), s.contains("watch")).expect_err(s).message;
        assert_eq!(
            bad("resourceVersionMatch=Exact"),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        assert!(bad("watch=1&sendInitialEvents=true").contains("requires setting resourceVersionMatch"));
        let ok = ListOptions::parse(
            &Query::parse(Some("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")),
            true,
        )
        .expect("watch list");
        assert_eq!(ok.send_initial_events, Some(true));
        // What begins with the state anyway is as if it had asked for that.
        let parse = |s: &str| ListOptions::parse(&Query::parse(Some(s)), true);
        for s in ["watch=1", "watch=1&resourceVersion=0"] {
            assert_eq!(parse(s).expect(s).send_initial_events, Some(true), "{s}");
        }
        assert_eq!(parse("watch=1&resourceVersion=5").expect("resumed").send_initial_events, None);
        assert!(bad("watch=1&continue=x").contains("is forbidden when continue is provided"));
        assert!(bad("resourceVersion=99999999999999999999").ends_with("value out of range"));
        // Below `/watch/` the query says nothing of a watch, and is checked as that of a list.
        let q = Query::parse(Some("sendInitialEvents=true"));
        assert!(ListOptions::parse(&q, true).expect_err("list").message.contains("is forbidden for list"));
    }

    #[test]
    fn deletes() {
        let e = DeleteOptions::from_query(&Query::parse(Some("dryRun=Some"))).expect_err("bad");
        assert_eq!(
            e.message,
            "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
        let o = DeleteOptions::from_value(
            &serde_json::json!({"gracePeriodSeconds": -5, "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}}),
        )
        .expect("options");
        assert_eq!(
            (o.grace_seconds, o.propagation, o.uid.as_deref()),
            (Some(1), Some(Propagation::Orphan), Some("u"))
        );
    }
}
