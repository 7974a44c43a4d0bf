//! FlowSchemas and PriorityLevelConfigurations from the store, conditions back to it, and the adjustment of limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Controller;
use super::config::Dangling;
use crate::lookup::{self, ObjectWriter, items, text};
use crate::status::ApiResult;

/// How often limits follow demand.
const ADJUSTMENT: Duration = Duration::from_secs(10);
/// Changes that come together are taken together.
const SETTLE: Duration = Duration::from_millis(20);

/// The objects as the feeds know them.
#[derive(Default)]
pub struct Objects {
    levels: Mutex<BTreeMap<String, Arc<Value>>>,
    schemas: Mutex<BTreeMap<String, Arc<Value>>>,
    changed: Notify,
}

impl Objects {
    fn map(&self, resource: &str) -> &Mutex<BTreeMap<String, Arc<Value>>> {
        if resource == "flowschemas" { &self.schemas } else { &self.levels }
    }

    /// Takes an object of one of the two resources.
    pub fn upsert(&self, resource: &str, object: &Value) {
        let name = text(object, "/metadata/name").to_owned();
        self.map(resource).lock().insert(name, Arc::new(object.clone()));
        self.changed.notify_one();
    }

    pub fn remove(&self, resource: &str, name: &str) {
        self.map(resource).lock().remove(name);
        self.changed.notify_one();
    }
}

impl Controller {
    /// Takes the objects as they are.
    pub fn digest(&self, o: &Objects) -> Vec<Dangling> {
        let levels: Vec<_> = o.levels.lock().values().cloned().collect();
        let schemas: Vec<_> = o.schemas.lock().values().cloned().collect();
        let mut all = self.levels.lock();
        let (config, conditions) = all.digest(self.now(), &levels, &schemas, &self.metrics);
        self.config.store(Arc::new(config));
        conditions
    }

    /// Follows changes and demand until `stop`.
    pub async fn run(
        self: Arc<Self>,
        objects: Arc<Objects>,
        writer: Arc<dyn ObjectWriter>,
        stop: CancellationToken,
    ) {
        let mut period = tokio::time::interval(ADJUSTMENT);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        period.tick().await;
        loop {
            let digest = tokio::select! {
                () = stop.cancelled() => return,
                _ = period.tick() => {
                    let mut levels = self.levels.lock();
                    levels.adjust(self.now());
                    levels.has_reapable()
                }
                () = objects.changed.notified() => {
                    tokio::time::sleep(SETTLE).await;
                    true
                }
            };
            if digest {
                for d in self.digest(&objects) {
                    if let Err(e) = set_condition(&*writer, &d).await {
                        tracing::warn!(flow_schema = d.schema, error = %e, "the condition of a FlowSchema cannot be written");
                    }
                }
            }
        }
    }
}

/// Writes the condition `Dangling` where it differs. Conflicts are left to the event that follows them.
async fn set_condition(writer: &dyn ObjectWriter, d: &Dangling) -> ApiResult<()> {
    let Some(old) = writer.get(lookup::FLOW_SCHEMAS, "", &d.schema).await? else { return Ok(()) };
    let mut condition = d.condition();
    condition["lastTransitionTime"] = crate::authn::now_rfc3339().into();
    let mut conditions: Vec<Value> = items(&old, "/status/conditions")
        .iter()
        .filter(|c| text(c, "/type") != "Dangling")
        .cloned()
        .collect();
    conditions.push(condition);
    let mut new = (*old).clone();
    new["status"] = serde_json::json!({"conditions": conditions});
    match writer.update_status(lookup::FLOW_SCHEMAS, "", new).await {
        Err(e) if matches!(e.reason, "Conflict" | "NotFound") => Ok(()),
        other => other.map(drop),
    }
}
