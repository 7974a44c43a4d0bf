//! Clients that create, update and delete config maps by compare-and-swap, read and list them, each operation at some
//! server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use integration_tests::Group;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, Error, ResourceExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::NAMESPACE;
use crate::history::{Ask, History, Listed, Operation, Revision, Told, Value};

const CLIENTS: u64 = 16;
/// Few, so that clients get into each other's way.
const KEYS: u32 = 24;
/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Between two operations of one client.
const PAUSE_MS: std::ops::Range<u64> = 5..60;

/// See the module.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    /// Revision before the first write.
    pub begin: Revision,
}

/// What is there at the end.
pub struct Ends {
    /// Of the very last write.
    pub revision: Revision,
    /// By server.
    pub lists: Vec<(u32, Listed)>,
}

/// An object with that value.
fn object(key: &str, value: Value) -> anyhow::Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": key}, "data": {"v": value.to_string()}}))?)
}

/// The value of an object.
pub fn value_of(map: &ConfigMap) -> Value {
    let text = map.data.as_ref().and_then(|d| d.get("v"));
    text.and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// The revision of an object.
pub fn revision_of(map: &ConfigMap) -> Revision {
    map.metadata.resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or_default()
}

impl Load {
    /// Makes the namespace and starts the clients.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub async fn start(group: &Arc<Group>, history: &Arc<History>, seed: u64) -> anyhow::Result<Self> {
        let namespaces: Api<Namespace> = Api::all(group.client(1));
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        let made =
            namespaces.create(&PostParams::default(), &namespace).await.context("making the namespace")?;
        let begin = made.metadata.resource_version.as_deref().context("no resourceVersion")?.parse()?;
        history.heard(begin);
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|i| {
            let apis = group.members().map(|n| api(group.client(n))).collect();
            let (history, stop) = (Arc::clone(history), Arc::clone(&stop));
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(i));
            tokio::spawn(One { apis, history, rng }.run(stop))
        });
        Ok(Self { clients: clients.collect(), stop, begin })
    }

    /// Stops the clients, writes for the last time, and looks at what every server has.
    ///
    /// # Errors
    /// The servers do not answer although nothing fails any more.
    pub async fn finish(self, group: &Group, history: &History) -> anyhow::Result<Ends> {
        self.stop.store(true, Ordering::Relaxed);
        for c in self.clients {
            c.await.context("a client panicked")?;
        }
        let last = api(group.client(1))
            .create(&PostParams::default(), &object("end", history.value())?)
            .await
            .context("the last write, with nothing failing any more")?;
        history.heard(revision_of(&last));
        let mut lists = Vec::new();
        for n in group.members() {
            match list(&api(group.client(n)), history).await {
                Some(listed) => lists.push((n, listed)),
                None => bail!("server {n} does not answer although nothing fails any more"),
            }
        }
        Ok(Ends { revision: revision_of(&last), lists })
    }
}

/// The config maps of the run, at one server.
pub fn api(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, NAMESPACE)
}

/// All objects, consistently.
pub async fn list(api: &Api<ConfigMap>, history: &History) -> Option<Listed> {
    let floor = history.floor();
    let params = ListParams::default();
    let Ok(Ok(list)) = tokio::time::timeout(PATIENCE, api.list(&params)).await else { return None };
    let revision = list.metadata.resource_version.as_deref().and_then(|r| r.parse().ok())?;
    let items = list.items.iter().filter(|m| m.name_any() != "kube-root-ca.crt");
    let state = items.map(|m| (m.name_any(), (revision_of(m), value_of(m)))).collect();
    Some(Listed { floor, revision, state })
}

struct One {
    apis: Vec<Api<ConfigMap>>,
    history: Arc<History>,
    rng: StdRng,
}

impl One {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let key = format!("k{}", self.rng.random_range(0..KEYS));
            match self.rng.random_range(0..100) {
                0..5 => {
                    let api = self.some_api();
                    if let Some(listed) = list(&api, &self.history).await {
                        self.history.listed(listed);
                    }
                }
                5..30 => drop(self.ask(&key, Ask::Get).await),
                what => self.write(&key, what < 85).await,
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(PAUSE_MS))).await;
        }
    }

    /// Reads the object, then writes on what was read; sometimes on what is out of date.
    async fn write(&mut self, key: &str, update: bool) {
        let Told::Found(found) = self.ask(key, Ask::Get).await else { return };
        let value = self.history.value();
        let ask = match found {
            None => Ask::Create(value),
            Some(_) if self.rng.random_bool(0.05) => Ask::Create(value),
            Some((revision, _)) if update => Ask::Update(value, revision),
            Some((revision, _)) => Ask::Delete(revision),
        };
        if self.rng.random_bool(0.1) {
            // Others may be faster.
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..50))).await;
        }
        self.ask(key, ask).await;
    }

    fn some_api(&mut self) -> Api<ConfigMap> {
        self.apis[self.rng.random_range(0..self.apis.len())].clone()
    }

    async fn ask(&mut self, key: &str, ask: Ask) -> Told {
        let api = self.some_api();
        let (floor, begun) = (self.history.floor(), self.history.now());
        let answer = tokio::time::timeout(PATIENCE, answer(&api, key, ask)).await;
        let told = match answer {
            Ok(Ok(told)) => told,
            Ok(Err(e)) => failed(&e),
            Err(_) => Told::Unknown,
        };
        let ended = self.history.now();
        self.history.operation(Operation { key: key.to_owned(), ask, told, begun, ended, floor });
        if matches!(told, Told::Unknown | Told::NotDone) {
            // A server that is down answers at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        told
    }
}

async fn answer(api: &Api<ConfigMap>, key: &str, ask: Ask) -> Result<Told, Error> {
    let params = PostParams::default();
    let write = |value| object(key, value).map_err(|e| Error::Service(e.into()));
    let done = |map: ConfigMap| Told::Done(Some(revision_of(&map)));
    match ask {
        Ask::Get => {
            let found = api.get_opt(key).await?;
            Ok(Told::Found(found.map(|m| (revision_of(&m), value_of(&m)))))
        }
        Ask::Create(value) => api.create(&params, &write(value)?).await.map(done),
        Ask::Update(value, revision) => {
            let mut map = write(value)?;
            map.metadata.resource_version = Some(revision.to_string());
            api.replace(key, &params, &map).await.map(done)
        }
        Ask::Delete(revision) => {
            let preconditions = Preconditions { resource_version: Some(revision.to_string()), uid: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            api.delete(key, &params).await.map(|_| Told::Done(None))
        }
    }
}

fn failed(e: &Error) -> Told {
    match e {
        Error::Api(s) if matches!(s.code, 404 | 409) => Told::Refused,
        Error::Api(s) if matches!(s.code, 429 | 503) && !s.message.contains("not known") => Told::NotDone,
        _ => Told::Unknown,
    }
}
