//! `ResourceQuota`: what a namespace may use in total.
//!
//! Before an object is written its usage is reserved in the quota's status by compare-and-swap, so that concurrent
//! writes cannot exceed it together. What is enforced is what the quota controller has taken note of: `status.hard`
//! and `status.used`. Only that controller counts anew and gives back what deletions free: a count taken here would
//! miss the writes that are charged and not stored yet.

mod limited;
mod usage;

use std::sync::Arc;

use async_trait::async_trait;
use component_base::quota::pods::{Amounts, add, amounts};
use component_base::quota::{Tracked, scope};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admission::config::Configs;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectWriter, text};
use crate::status::{ApiError, ApiResult};
pub use limited::Configuration;

/// Attempts to write a status that others write at the same time.
const ATTEMPTS: usize = 16;

struct ResourceQuota {
    writer: Arc<dyn ObjectWriter>,
    configs: Arc<Configs>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(ResourceQuota { writer: env.writer.clone(), configs: env.configs.clone() })
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object else { return Ok(()) };
        if attrs.namespace.is_empty() || !usage::handles(attrs, object) {
            return Ok(());
        }
        let quotas = self.writer.list(lookup::RESOURCE_QUOTAS, attrs.namespace).await?;
        let tracked = Tracked::of(attrs.group, attrs.resource);
        self.configs.resource_quota.check(attrs, &tracked, object, &quotas)?;
        let mut claims = Vec::new();
        for quota in &quotas {
            if let Some(claim) = Claim::of(attrs, &tracked, object, quota)? {
                claims.push(claim);
            }
        }
        // All are asked before any is charged.
        for c in &mut claims {
            c.check(attrs, object)?;
        }
        if attrs.dry_run {
            return Ok(());
        }
        for c in claims {
            c.charge(&*self.writer, attrs, object).await?;
        }
        Ok(())
    }
}

/// What one write takes from one quota.
struct Claim {
    quota: Arc<Value>,
    delta: Amounts,
    /// The status that will hold once the write is charged.
    used: Amounts,
}

/// What the quota controller has found the quota to allow.
fn enforced(quota: &Value) -> Amounts {
    amounts(&quota["status"]["hard"])
}

/// `cpu=1,memory=2Gi`, of those resources that are in `only`.
fn shown(list: &Amounts, only: &[String]) -> String {
    let parts: Vec<String> =
        list.iter().filter(|(k, _)| only.contains(k)).map(|(k, v)| format!("{k}={v}")).collect();
    parts.join(",")
}

impl Claim {
    /// None where the quota is not about this object, or the write takes nothing from it.
    fn of(
        attrs: &Attributes<'_>,
        tracked: &Tracked,
        object: &Value,
        quota: &Arc<Value>,
    ) -> ApiResult<Option<Self>> {
        if !scope::matches(quota, tracked, object) {
            return Ok(None);
        }
        let hard = enforced(quota);
        let bounded: Vec<&String> = hard.keys().filter(|k| tracked.counts(k)).collect();
        if bounded.is_empty() {
            return Ok(None);
        }
        let name = text(quota, "/metadata/name");
        if let Some(missing) = tracked.missing(&bounded, object) {
            return Err(
                attrs.forbidden(Some(object), format!("failed quota: {name}: must specify {missing}"))
            );
        }
        let used = amounts(&quota["status"]["used"]);
        if !bounded.iter().all(|k| used.contains_key(*k)) {
            let names = bounded.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(",");
            let why = format!("status unknown for quota: {name}, resources: {names}");
            return Err(attrs.forbidden(Some(object), why));
        }
        let mut delta = tracked.usage(object, Timestamp::now());
        if let Some(old) = attrs.old.filter(|_| attrs.operation == Operation::Update) {
            let before = if scope::matches(quota, tracked, old) {
                tracked.usage(old, Timestamp::now())
            } else {
                Amounts::new()
            };
            delta = delta
                .into_iter()
                .map(|(k, v)| {
                    let less = before.get(&k).copied().unwrap_or(Amount::ZERO);
                    (k, if v > less { v.minus(less) } else { Amount::ZERO })
                })
                .collect();
        }
        delta.retain(|k, v| hard.contains_key(k) && !v.is_zero());
        if delta.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { quota: quota.clone(), delta, used: Amounts::new() }))
    }

    /// Fails where the quota would be exceeded.
    fn check(&mut self, attrs: &Attributes<'_>, object: &Value) -> ApiResult<()> {
        let used = amounts(&self.quota["status"]["used"]);
        let exceeded = self.exceeded(&used);
        if exceeded.is_empty() {
            self.used = self.sum(used);
            return Ok(());
        }
        Err(attrs.forbidden(
            Some(object),
            format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                text(&self.quota, "/metadata/name"),
                shown(&self.delta, &exceeded),
                shown(&used, &exceeded),
                shown(&enforced(&self.quota), &exceeded)
            ),
        ))
    }

    fn sum(&self, mut used: Amounts) -> Amounts {
        add(&mut used, &self.delta);
        used
    }

    /// The resources of which too much would be used.
    fn exceeded(&self, used: &Amounts) -> Vec<String> {
        let hard = enforced(&self.quota);
        self.delta
            .iter()
            .filter(|(k, more)| {
                let sum = used.get(*k).map_or(**more, |u| u.plus(**more));
                hard.get(*k).is_some_and(|h| sum > *h)
            })
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// Writes the new usage. Where another write was faster, everything is judged again by what it left.
    async fn charge(
        mut self,
        writer: &dyn ObjectWriter,
        attrs: &Attributes<'_>,
        object: &Value,
    ) -> ApiResult<()> {
        let name = text(&self.quota, "/metadata/name").to_owned();
        for _ in 0..ATTEMPTS {
            let mut new = (*self.quota).clone();
            let shown: serde_json::Map<String, Value> =
                self.used.iter().map(|(k, v)| (k.clone(), v.to_string().into())).collect();
            new["status"] = json!({"hard": self.quota["status"]["hard"], "used": shown});
            match writer.update_status(lookup::RESOURCE_QUOTAS, attrs.namespace, new).await {
                Ok(_) => return Ok(()),
                Err(e) if e.reason == "Conflict" => {}
                Err(e) if e.reason == "NotFound" => return Ok(()),
                Err(e) => return Err(e),
            }
            let Some(now) = writer.get(lookup::RESOURCE_QUOTAS, attrs.namespace, &name).await? else {
                return Ok(());
            };
            self.quota = now;
            self.check(attrs, object)?;
        }
        Err(ApiError::conflict(
            "",
            "resourcequotas",
            &name,
            "too many writes change the quota's usage at the same time; please try again",
        ))
    }
}

#[cfg(test)]
mod tests;
