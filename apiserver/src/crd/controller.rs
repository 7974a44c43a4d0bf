//! Follows the definitions: each change brings names and conditions up to date, puts resources into the registry's
//! table or takes them out, and begins the clean-up of definitions that are being deleted.
//!
//! One task does it all, in the order of the store's events, so that two definitions never get the same name. What
//! is served is in place before a definition says that it is established. Several servers of a cluster all do this;
//! who comes second with a status finds it written already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::conditions;
use super::convert::Conversion;
use super::definition::{Definition, Names, digest};
use super::finalize;
use super::naming::Taken;
use super::serve::Serving;
use crate::lookup::{ObjectWriter, Resource, text};
use crate::registry::Registry;
use crate::registry::object;
use crate::registry::storage::{Storage, store_error};
use crate::status::{ApiError, ApiResult};
use crate::store::{RangeRequest, Revision, StoreError, WatchBatch, prefix_end};

/// The definitions themselves.
pub const DEFINITIONS: Resource = Resource {
    group: "apiextensions.k8s.io",
    version: "v1",
    resource: "customresourcedefinitions",
    kind: "CustomResourceDefinition",
};

/// Pause before the watch is started anew after it failed.
const RETRY: Duration = Duration::from_millis(100);

/// Makes what a definition's `spec.conversion` asks for.
pub trait Conversions: Send + Sync {
    /// # Errors
    /// Why the webhook cannot be called at all.
    fn of(&self, crd: &Value) -> Result<Conversion, String>;
}

/// Only strategy `None`.
pub struct RetypeOnly;

impl Conversions for RetypeOnly {
    fn of(&self, crd: &Value) -> Result<Conversion, String> {
        match text(crd, "/spec/conversion/strategy") {
            "" | "None" => Ok(Conversion::Retype),
            other => Err(format!("conversion strategy {other:?} is not available in this server")),
        }
    }
}

/// What is remembered of one definition.
struct Known {
    group: String,
    accepted: Names,
    serving: Option<Serving>,
    terminating: bool,
    /// Not all names were accepted: looked at again when others let go of theirs.
    waits_for_names: bool,
}

/// See the module.
pub struct Controller {
    registry: Arc<Registry>,
    storage: Arc<Storage>,
    conversions: Arc<dyn Conversions>,
    known: BTreeMap<String, Known>,
    /// Definitions whose objects are being deleted.
    finalizing: Arc<parking_lot::Mutex<BTreeSet<String>>>,
    stop: CancellationToken,
}

impl Controller {
    /// Serves what all definitions say, and then follows their changes in the background. Where the definitions
    /// themselves are not served, nothing is done.
    pub async fn start(
        registry: &Arc<Registry>,
        conversions: Arc<dyn Conversions>,
        stop: &CancellationToken,
    ) -> ApiResult<()> {
        let table = registry.table();
        let definitions = table.get(DEFINITIONS.group, DEFINITIONS.version, DEFINITIONS.resource);
        let Some(storage) = definitions.and_then(|r| r.storage.clone()) else { return Ok(()) };
        let mut c = Self {
            registry: Arc::clone(registry),
            storage,
            conversions,
            known: BTreeMap::new(),
            finalizing: Arc::default(),
            stop: stop.clone(),
        };
        let revision = c.load().await?;
        tokio::spawn(c.run(revision));
        Ok(())
    }

    async fn run(mut self, mut revision: Revision) {
        let stop = self.stop.clone();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                r = self.follow(&mut revision) => r,
            };
            if let Err(StoreError::Compacted { .. }) = ended {
                match self.load().await {
                    Ok(r) => revision = r,
                    Err(e) => tracing::warn!(error = %e, "custom resource definitions cannot be read again"),
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Looks at all definitions, oldest first, since they have the right to their names.
    async fn load(&mut self) -> ApiResult<Revision> {
        let prefix = &self.storage.prefix;
        let request = RangeRequest { start: prefix.clone(), end: prefix_end(prefix), revision: 0, limit: 0 };
        let range = self.storage.store.range(request).await.map_err(|e| store_error(&e))?;
        let mut items = range.items;
        items.sort_by_key(|kv| kv.create_revision);
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for kv in &items {
            match self.storage.decode(kv) {
                Ok(crd) => {
                    seen.insert(object::name(&crd).to_owned());
                    all.push(crd);
                }
                Err(e) => tracing::error!(key = %kv.key, error = %e, "a definition cannot be read"),
            }
        }
        // First what is known of each, then what follows: a name that is taken is so whatever the order.
        for crd in &all {
            self.remember(crd);
        }
        for crd in all {
            self.changed(crd).await;
        }
        let gone: Vec<String> = self.known.keys().filter(|n| !seen.contains(*n)).cloned().collect();
        for name in gone {
            self.deleted(&name).await;
        }
        Ok(range.revision)
    }

    async fn follow(&mut self, revision: &mut Revision) -> Result<(), StoreError> {
        let prefix = self.storage.prefix.clone();
        let mut stream = self.storage.store.watch(&prefix, &prefix_end(&prefix), *revision).await?;
        while let Some(batch) = stream.recv().await {
            match batch? {
                WatchBatch::Progress(r) => *revision = (*revision).max(r),
                WatchBatch::Events(events) => {
                    for e in events {
                        if e.deleted {
                            let name = e.kv.key.strip_prefix(&prefix).unwrap_or_default().to_owned();
                            self.deleted(&name).await;
                        } else {
                            match self.storage.decode(&e.kv) {
                                Ok(crd) => self.changed(crd).await,
                                Err(err) => {
                                    tracing::error!(key = %e.kv.key, error = %err, "a definition cannot be read");
                                }
                            }
                        }
                        *revision = (*revision).max(e.kv.mod_revision);
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes the names that a definition holds.
    fn remember(&mut self, crd: &Value) {
        let accepted = Names::read(crd.pointer("/status/acceptedNames"));
        let waits_for_names = accepted != Names::read(crd.pointer("/spec/names"));
        let known = self.known.entry(object::name(crd).to_owned()).or_insert_with(|| Known {
            group: text(crd, "/spec/group").to_owned(),
            accepted: Names::default(),
            serving: None,
            terminating: false,
            waits_for_names,
        });
        known.accepted = accepted;
        known.waits_for_names = waits_for_names;
    }

    fn taken(&self, group: &str, but: &str) -> Taken {
        let mut taken = Taken::default();
        for (name, k) in &self.known {
            if name != but && k.group == group {
                taken.add(&k.accepted);
            }
        }
        taken
    }

    /// Brings a definition up to date, and others that waited for names that it lets go.
    async fn changed(&mut self, crd: Value) {
        let mut open = vec![crd];
        while let Some(crd) = open.pop() {
            let (group, name) = (text(&crd, "/spec/group").to_owned(), object::name(&crd).to_owned());
            if self.update(crd).await {
                // Who gets names here lets none go, so this does not go round in circles.
                open.extend(self.waiting(&group, &name).await);
            }
        }
    }

    /// Brings everything about one definition up to date. True if the names that it holds are others than before.
    async fn update(&mut self, mut crd: Value) -> bool {
        let name = object::name(&crd).to_owned();
        let before = self.known.get(&name).map(|k| k.accepted.clone());
        let taken = self.taken(text(&crd, "/spec/group"), &name);
        let news = conditions::reconcile(&mut crd, &taken, &object::now());
        self.remember(&crd);
        self.serve(&name, &crd);
        if news {
            self.write_status(&crd).await;
        }
        if conditions::is_finalizing(&crd) {
            self.finalize(&name, &crd);
        }
        before.is_some_and(|b| Some(&b) != self.known.get(&name).map(|k| &k.accepted))
    }

    async fn deleted(&mut self, name: &str) {
        let Some(known) = self.known.remove(name) else { return };
        if let Some(s) = &known.serving {
            self.withdraw(&s.definition, &[]);
        }
        for crd in self.waiting(&known.group, name).await {
            self.changed(crd).await;
        }
    }

    /// The other definitions of the group that lack names.
    async fn waiting(&self, group: &str, but: &str) -> Vec<Value> {
        let mut out = Vec::new();
        let waiting: Vec<String> = self
            .known
            .iter()
            .filter(|(n, k)| *n != but && k.group == group && k.waits_for_names)
            .map(|(n, _)| n.clone())
            .collect();
        for name in waiting {
            let key = self.storage.key("", &name);
            let read = self
                .storage
                .read(&key)
                .await
                .and_then(|kv| kv.map(|kv| self.storage.decode(&kv)).transpose());
            match read {
                Ok(crd) => out.extend(crd),
                Err(e) => tracing::warn!(definition = name, error = %e, "a definition cannot be read"),
            }
        }
        out
    }

    fn serve(&mut self, name: &str, crd: &Value) {
        let Some(known) = self.known.get_mut(name) else { return };
        let old = known.serving.take();
        let terminating = conditions::is_true(crd, "Terminating");
        if !conditions::is_served(crd) {
            if let Some(s) = old {
                self.withdraw(&s.definition, &[]);
            }
            return;
        }
        if let Some(s) = &old
            && s.definition.digest == digest(crd)
        {
            if known.terminating != terminating {
                known.terminating = terminating;
                let resources = s.resources(terminating);
                self.registry.change_table(|t| t.put(resources));
            }
            known.serving = old;
            return;
        }
        let made = self.conversions.of(crd).and_then(|c| Definition::read(crd, known.accepted.clone(), c));
        let definition = match made {
            Ok(d) => Arc::new(d),
            Err(e) => {
                tracing::error!(definition = name, error = %e, "custom resources cannot be served");
                if let Some(s) = old {
                    self.withdraw(&s.definition, &[]);
                }
                return;
            }
        };
        let table = self.registry.table();
        let Some(feed) = table.feed() else { return };
        let serving = Serving::new(feed, definition);
        known.terminating = terminating;
        let (resources, d) = (serving.resources(terminating), Arc::clone(&serving.definition));
        known.serving = Some(serving);
        let keep: Vec<&str> = d.versions.iter().filter(|v| v.served).map(|v| v.name).collect();
        self.registry.change_table(|t| {
            if let Some(s) = &old {
                // The plural name is that of before in all but name.
                let keep = if s.definition.names.plural == d.names.plural { keep.as_slice() } else { &[] };
                t.remove(s.definition.group, &s.definition.names.plural, keep);
            }
            t.put(resources);
        });
    }

    fn withdraw(&self, d: &Definition, keep: &[&str]) {
        self.registry.change_table(|t| t.remove(d.group, &d.names.plural, keep));
    }

    async fn write_status(&self, crd: &Value) {
        let writer: &dyn ObjectWriter = &*self.registry;
        match writer.update_status(DEFINITIONS, "", crd.clone()).await {
            Ok(_) => {}
            // Its next version is on the way here.
            Err(e) if is_outrun(&e) => {}
            Err(e) => {
                tracing::warn!(definition = object::name(crd), error = %e, "the status cannot be written");
            }
        }
    }

    /// Begins the deletion of all objects, unless that is under way.
    fn finalize(&self, name: &str, crd: &Value) {
        if !self.finalizing.lock().insert(name.to_owned()) {
            return;
        }
        let serving = self.known.get(name).and_then(|k| k.serving.as_ref());
        let resource = serving.map(|s| Arc::new(s.stored()));
        let task = finalize::Task {
            registry: Arc::clone(&self.registry),
            resource,
            name: name.to_owned(),
            uid: object::uid(crd).to_owned(),
        };
        let (busy, stop) = (Arc::clone(&self.finalizing), self.stop.clone());
        let name = name.to_owned();
        tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = stop.cancelled() => {}
            }
            busy.lock().remove(&name);
        });
    }
}

/// Somebody else changed or removed the object meanwhile.
pub(super) fn is_outrun(e: &ApiError) -> bool {
    e.code == 404 || e.reason == "Conflict"
}
