//! The DRA drivers on this node. A driver may be there several times, while it is replaced. When it is gone for a while,
//! its ResourceSlices go, too, so that no pods are sent here for its devices.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::wire::{Claim, PrepareResponse, Prepared, Request, UnprepareResponse};
use crate::plugins::wire::{Socket, shown};

/// One call may take this long.
const TIMEOUT: Duration = Duration::from_secs(45);
/// A driver may be away this long before its slices go.
const WIPING_DELAY: Duration = Duration::from_secs(30);
/// Between looks at whether a driver is back.
const RECONNECT: Duration = Duration::from_secs(1);
/// Longest time between tries to delete slices.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Services that the kubelet can speak to, the latest first.
const SERVICES: [(&str, Service); 2] =
    [("v1.DRAPlugin", Service::V1), ("v1beta1.DRAPlugin", Service::V1Beta1)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    V1,
    V1Beta1,
}

impl Service {
    fn prepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            Self::V1Beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        }
    }

    fn unprepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            Self::V1Beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
        }
    }
}

/// One instance of a driver.
#[derive(Clone)]
pub struct Plugin {
    endpoint: PathBuf,
    service: Service,
    socket: Socket,
    connected: bool,
    /// Held, not used: the connection is watched as long as anybody has the plugin.
    _monitor: Arc<OnDrop>,
}

/// Ends a task when the last who needs it goes.
struct OnDrop(AbortHandle);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Plugin {
    async fn call<A>(&self, method: &'static str, claims: &[Claim]) -> Result<A, String>
    where
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = self.socket.call::<Request, A>(method, Request { claims: claims.to_vec() });
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(answer) => answer.map_err(|e| shown(&e)),
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".into()),
        }
    }

    /// Prepares claims. The answer has all of them, by UID.
    ///
    /// # Errors
    /// The driver does not answer, or leaves claims out.
    pub async fn prepare(&self, claims: &[Claim]) -> Result<HashMap<String, Prepared>, String> {
        let answer: PrepareResponse = self.call(self.service.prepare(), claims).await?;
        complete(claims, answer.claims.keys())?;
        Ok(answer.claims)
    }

    /// Unprepares claims; by UID what went wrong.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn unprepare(&self, claims: &[Claim]) -> Result<HashMap<String, String>, String> {
        let answer: UnprepareResponse = self.call(self.service.unprepare(), claims).await?;
        complete(claims, answer.claims.keys())?;
        Ok(answer.claims.into_iter().map(|(uid, a)| (uid, a.error)).collect())
    }
}

fn complete<'a>(claims: &[Claim], answered: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let answered: Vec<&String> = answered.collect();
    match claims.iter().filter(|c| !answered.contains(&&c.uid)).count() {
        0 => Ok(()),
        n => Err(format!("skipped {n} ResourceClaims")),
    }
}

#[derive(Default)]
struct State {
    /// By driver, the latest last.
    plugins: HashMap<String, Vec<Plugin>>,
    /// Slices that will be deleted, by driver.
    wipes: HashMap<String, AbortHandle>,
}

struct Inner {
    client: Option<Client>,
    node: String,
    delay: Duration,
    state: Mutex<State>,
}

/// All drivers.
#[derive(Clone)]
pub struct Plugins(Arc<Inner>);

impl Plugins {
    /// No drivers yet. `client` deletes the slices of those that are gone.
    pub fn new(client: Option<Client>, node: &str) -> Self {
        Self::with_delay(client, node, WIPING_DELAY)
    }

    pub(super) fn with_delay(client: Option<Client>, node: &str, delay: Duration) -> Self {
        Self(Arc::new(Inner { client, node: node.to_owned(), delay, state: Mutex::default() }))
    }

    /// Deletes all slices of the node: no driver has registered yet, and who does publishes them anew.
    pub fn wipe_all(&self) {
        if let Some(client) = self.0.client.clone() {
            tokio::spawn(wipe(client, self.0.node.clone(), None));
        }
    }

    /// A driver, preferably one that is connected, and of these the latest.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, driver: &str) -> Result<Plugin, String> {
        let state = self.0.state.lock();
        let all = state.plugins.get(driver).map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().rev().find(|p| p.connected).or(all.last());
        found.cloned().ok_or_else(|| format!("DRA driver {driver} is not registered"))
    }

    /// Registers an instance of a driver.
    ///
    /// # Errors
    /// It speaks nothing that the kubelet does, or another instance has that endpoint.
    pub fn add(&self, driver: &str, endpoint: &Path, versions: &[String]) -> Result<(), String> {
        let service = choose(versions).map_err(|e| {
            let at = endpoint.display();
            format!("invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {at}: {e}")
        })?;
        let mut state = self.0.state.lock();
        let all = state.plugins.entry(driver.to_owned()).or_default();
        if all.iter().any(|p| p.endpoint == endpoint) {
            return Err(format!(
                "endpoint {} already registered for DRA driver plugin {driver}",
                endpoint.display()
            ));
        }
        let watching = monitor(Arc::downgrade(&self.0), driver.to_owned(), endpoint.to_owned());
        all.push(Plugin {
            endpoint: endpoint.to_owned(),
            service,
            socket: Socket::new(endpoint.to_owned()),
            connected: false,
            _monitor: Arc::new(OnDrop(tokio::spawn(watching).abort_handle())),
        });
        self.0.sync(&mut state, driver);
        Ok(())
    }

    /// An instance of a driver has gone.
    pub fn remove(&self, driver: &str, endpoint: &Path) {
        tracing::info!(driver, endpoint = %endpoint.display(), "DRA driver is gone");
        let mut state = self.0.state.lock();
        if let Some(all) = state.plugins.get_mut(driver) {
            all.retain(|p| p.endpoint != endpoint);
            if all.is_empty() {
                state.plugins.remove(driver);
            }
        }
        self.0.sync(&mut state, driver);
    }
}

fn choose(versions: &[String]) -> Result<Service, String> {
    if versions.is_empty() {
        return Err("empty list of supported gRPC services (aka supported versions)".into());
    }
    // The driver's order counts.
    let known = |v: &String| SERVICES.iter().find(|(name, _)| v == name).map(|(_, s)| *s);
    versions.iter().find_map(known).ok_or_else(|| {
        let ours = SERVICES.map(|(name, _)| name);
        format!(
            "none of services supported by the plugin ({versions:?}) are supported by the kubelet ({ours:?})"
        )
    })
}

impl Inner {
    fn set_connected(&self, driver: &str, endpoint: &Path, connected: bool) {
        let mut state = self.state.lock();
        let all = state.plugins.get_mut(driver).into_iter().flatten();
        let mut changed = false;
        for p in all.filter(|p| p.endpoint == endpoint && p.connected != connected) {
            p.connected = connected;
            changed = true;
        }
        if changed {
            tracing::info!(driver, endpoint = %endpoint.display(), connected, "connection to a DRA driver changed");
            self.sync(&mut state, driver);
        }
    }

    /// Plans the deletion of a driver's slices, or gives that up.
    fn sync(&self, state: &mut State, driver: &str) {
        let Some(client) = self.client.clone() else { return };
        let usable = state.plugins.get(driver).is_some_and(|all| all.iter().any(|p| p.connected));
        if usable {
            if let Some(pending) = state.wipes.remove(driver) {
                pending.abort();
            }
            return;
        }
        if state.wipes.get(driver).is_some_and(|w| !w.is_finished()) {
            return;
        }
        let (node, delay, name) = (self.node.clone(), self.delay, driver.to_owned());
        let pending = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            wipe(client, node, Some(name)).await;
        });
        state.wipes.insert(driver.to_owned(), pending.abort_handle());
    }
}

/// Keeps a connection open for nothing but to see it end.
async fn monitor(inner: Weak<Inner>, driver: String, endpoint: PathBuf) {
    loop {
        if let Ok(stream) = tokio::net::UnixStream::connect(&endpoint).await {
            let io = TokioIo::new(stream);
            let made = hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
                TokioExecutor::new(),
                io,
            );
            if let Ok((_open, connection)) = made.await {
                let Some(alive) = inner.upgrade() else { return };
                alive.set_connected(&driver, &endpoint, true);
                drop(alive);
                let _ = connection.await;
                let Some(alive) = inner.upgrade() else { return };
                alive.set_connected(&driver, &endpoint, false);
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Deletes the slices of the node, or those of one driver; tries until it is done.
async fn wipe(client: Client, node: String, driver: Option<String>) {
    let api: Api<ResourceSlice> = Api::all(client);
    let mut fields = format!("spec.nodeName={node}");
    if let Some(d) = &driver {
        fields = format!("spec.driver={d},{fields}");
    }
    let which = ListParams::default().fields(&fields);
    let mut pause = Duration::from_secs(1);
    loop {
        match api.delete_collection(&DeleteParams::default(), &which).await {
            Ok(_) => return tracing::debug!(fields, "deleted ResourceSlices"),
            Err(kube::Error::Api(s)) if s.code == 404 => return,
            Err(error) => tracing::debug!(fields, %error, "cannot delete ResourceSlices yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}
