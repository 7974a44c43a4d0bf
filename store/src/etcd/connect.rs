//! The servers: which of them is used, and what a failed call means. One connection is used until it fails; then the
//! next server's turn has come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use parking_lot::Mutex;

use super::Config;
use crate::{Op, StoreError, Txn};

/// How long one attempt may take before another server is asked.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pings on a silent connection, and how long to wait for their answer.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Rounds through all servers before a call gives up.
const ROUNDS: usize = 3;
/// Pause between rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// The oldest releases whose answer to a progress request means what it says; before, it could overtake events
/// (etcd issue 15220). Upstream draws the same line.
const PROGRESS: [(u64, u64, u64); 2] = [(3, 4, 31), (3, 5, 13)];

/// When a failed call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Whenever it failed: doing it twice is the same as once.
    Safe,
    /// Only if it surely reached no server.
    Unsent,
    Once,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing listens, or the server refused before doing anything.
    Unsent,
    /// The server, or the way to it, failed; what it did is not known.
    Unknown,
    Compacted,
    Future,
    NoLease,
    TooLarge,
    /// Anything else the server said: asking again does not help.
    Refused,
}

/// A call that failed.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    what: String,
}

impl Failure {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn from_store(e: StoreError) -> Failure {
        Failure { kind: Kind::Refused, what: e.to_string() }
    }

    fn of(error: &Error) -> Failure {
        let what = match error {
            Error::GRpcStatus(status) => status.message().to_owned(),
            other => other.to_string(),
        };
        Failure { kind: kind(error, &what), what }
    }

    /// As an error of a call that changes nothing.
    pub fn unavailable(self) -> StoreError {
        StoreError::Unavailable(format!("etcd: {}", self.what))
    }

    /// As the error of a transaction.
    pub fn of_write(self, txn: &Txn) -> StoreError {
        match (self.kind, &txn.op) {
            (Kind::TooLarge, Op::Put { value, .. }) => {
                let size = txn.key.len() + value.len();
                StoreError::TooLarge { key: txn.key.clone(), size, limit: size - 1 }
            }
            (Kind::Unknown, _) => StoreError::Unknown(format!("etcd: {}", self.what)),
            _ => self.unavailable(),
        }
    }
}

/// Messages of etcd's API (`api/v3rpc/rpctypes/error.go`), which carry more than the status codes.
fn kind(error: &Error, what: &str) -> Kind {
    use etcd_client::Error::GRpcStatus;
    let GRpcStatus(status) = error else { return Kind::Unsent };
    if never_connected(status) {
        return Kind::Unsent;
    }
    if what.contains("required revision has been compacted") {
        Kind::Compacted
    } else if what.contains("required revision is a future revision") {
        Kind::Future
    } else if what.contains("requested lease not found") {
        Kind::NoLease
    } else if what.contains("request is too large") || what.contains("larger than max") {
        Kind::TooLarge
    } else if what.contains("too many requests") || what.contains("etcdserver: no leader") {
        Kind::Unsent
    } else {
        match i32::from(status.code()) {
            // Cancelled, unknown, deadline exceeded, aborted, internal, unavailable.
            1 | 2 | 4 | 10 | 13 | 14 => Kind::Unknown,
            _ => Kind::Refused,
        }
    }
}

/// Whether the request never left: there was no connection to send it on.
fn never_connected(status: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(status);
    while let Some(e) = source {
        let text = e.to_string();
        if text.contains("connect error") || text.contains("dns error") || text.contains("Connection refused")
        {
            return true;
        }
        source = e.source();
    }
    false
}

/// A connection.
#[derive(Clone)]
pub struct Connected {
    client: Client,
    /// Counts connections, so that who saw one fail does not give up its successor.
    number: u64,
    progress: Arc<tokio::sync::OnceCell<bool>>,
}

impl Connected {
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the server can be asked how far a watch is.
    pub async fn tells_progress(&self) -> Result<bool, Error> {
        let ask = async || {
            let status = self.client.maintenance_client().status().await?;
            Ok(tells_progress(status.version()))
        };
        self.progress.get_or_try_init(ask).await.copied()
    }
}

fn tells_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u64>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let [first, second] = PROGRESS;
    version >= second || (version >= first && (version.0, version.1) == (first.0, first.1))
}

#[derive(Default)]
struct State {
    connected: Option<Connected>,
    /// The next server to try, and connections made so far.
    next: usize,
    number: u64,
}

/// All servers.
pub struct Endpoints {
    servers: Vec<String>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    state: tokio::sync::Mutex<State>,
    /// Why the last call found no server, until one does.
    down: Mutex<Option<String>>,
}

impl Endpoints {
    pub fn new(config: &Config) -> Result<Endpoints, StoreError> {
        let wrong = |what: &str| Err(StoreError::Unavailable(what.to_owned()));
        if config.servers.is_empty() {
            return wrong("no etcd server is given");
        }
        let identity = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return wrong("--etcd-certfile and --etcd-keyfile must be given together"),
        };
        Ok(Endpoints {
            servers: config.servers.clone(),
            ca: config.ca_file.clone(),
            identity,
            state: tokio::sync::Mutex::default(),
            down: Mutex::new(None),
        })
    }

    fn options(&self, server: &str) -> Result<ConnectOptions, Error> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| Error::InvalidArgs(format!("reading {}: {e}", path.display())))
        };
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(false)
            // A server cut off from the others ends its watches instead of keeping quiet.
            .with_require_leader(true);
        if !server.starts_with("https://") {
            return Ok(options);
        }
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((cert, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(options.with_tls(tls))
    }

    /// The connection in use, or a new one to the next server.
    pub async fn connected(&self) -> Result<Connected, Error> {
        let mut state = self.state.lock().await;
        if let Some(connected) = &state.connected {
            return Ok(connected.clone());
        }
        let server = &self.servers[state.next % self.servers.len()];
        state.next += 1;
        state.number += 1;
        let options = self.options(server)?;
        let client = Client::connect([server.as_str()], Some(options)).await?;
        let connected = Connected { client, number: state.number, progress: Arc::default() };
        state.connected = Some(connected.clone());
        Ok(connected)
    }

    /// This connection is no good any more.
    pub async fn failed(&self, connected: &Connected) {
        let mut state = self.state.lock().await;
        if state.connected.as_ref().is_some_and(|c| c.number == connected.number) {
            state.connected = None;
        }
    }

    /// Calls one server after the other, as far as `repeat` allows.
    pub async fn call<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let attempts = if repeat == Repeat::Once { 1 } else { ROUNDS * self.servers.len() };
        let mut last = None;
        for attempt in 0..attempts {
            if attempt > 0 && attempt % self.servers.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let failure = match self.attempt(&call).await {
                Ok(answer) => {
                    self.down.lock().take();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let again = match failure.kind {
                Kind::Unsent => true,
                Kind::Unknown => repeat == Repeat::Safe,
                _ => {
                    // It answered.
                    self.down.lock().take();
                    return Err(failure);
                }
            };
            if !again {
                return Err(failure);
            }
            last = Some(failure);
        }
        let failure = last.unwrap_or_else(|| Failure { kind: Kind::Refused, what: "not asked".to_owned() });
        self.down.lock().get_or_insert_with(|| failure.what.clone());
        Err(failure)
    }

    async fn attempt<T, F>(&self, call: &impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let connected = match self.connected().await {
            Ok(connected) => connected,
            Err(e) => return Err(Failure { kind: Kind::Unsent, what: e.to_string() }),
        };
        let failure = match tokio::time::timeout(ATTEMPT, call(connected.client().clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => Failure::of(&e),
            Err(_) => Failure { kind: Kind::Unknown, what: format!("no answer within {ATTEMPT:?}") },
        };
        if matches!(failure.kind, Kind::Unsent | Kind::Unknown) {
            self.failed(&connected).await;
        }
        Err(failure)
    }

    /// Notes what a watch met.
    pub fn watch_failed(&self, what: &str) {
        tracing::debug!(error = what, "a watch of etcd lost its connection");
    }

    pub fn health(&self) -> Result<(), StoreError> {
        match &*self.down.lock() {
            Some(what) => Err(StoreError::Unavailable(format!("no etcd server answers: {what}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tells_progress;

    #[test]
    fn progress_is_asked_of_releases_that_tell_the_truth() {
        for (version, told) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.5.30", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(tells_progress(version), told, "{version}");
        }
    }
}
