//! Watchers that wander from server to server: whenever a watch breaks or stands still they go on at another one, from
//! where they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use integration_tests::Group;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::history::{Event, History, Revision, Watched};
use crate::load::{api, revision_of, value_of};

const WATCHERS: u64 = 4;
/// Writes come all the time: a watch that shows nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(5);
/// How long one watch lasts at most, so that the end of a watch comes often, and the bookmark before it.
const WATCH_SECONDS: u32 = 10;
/// How long the watchers may take to see the last write.
const LAST: Duration = Duration::from_secs(60);

/// See the module.
pub struct Watchers {
    /// The revision to be seen, once it is known.
    last: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watchers {
    /// Starts them after a revision.
    pub fn start(group: &Arc<Group>, history: &Arc<History>, seed: u64, after: Revision) -> Self {
        let last = Arc::new(AtomicU64::new(0));
        let tasks = (0..WATCHERS).map(|i| {
            let apis: Vec<_> = group.members().map(|n| api(group.client(n))).collect();
            let at = usize::try_from(seed.wrapping_add(i) % apis.len() as u64).unwrap_or(0);
            let watched = Watched { name: format!("watcher {i}"), after, upto: after, ..Watched::default() };
            let one = One { apis, at, history: Arc::clone(history), watched };
            tokio::spawn(one.run(Arc::clone(&last)))
        });
        Self { tasks: tasks.collect(), last }
    }

    /// Lets them see this revision and ends them.
    pub async fn finish(self, revision: Revision) {
        self.last.store(revision, Ordering::SeqCst);
        for t in self.tasks {
            if let Err(e) = t.await {
                eprintln!("a watcher panicked: {e}");
            }
        }
    }
}

struct One {
    apis: Vec<Api<ConfigMap>>,
    at: usize,
    history: Arc<History>,
    watched: Watched,
}

impl One {
    async fn run(mut self, last: Arc<AtomicU64>) {
        let mut asked = None;
        loop {
            let wanted = last.load(Ordering::SeqCst);
            if wanted != 0 {
                let since = *asked.get_or_insert_with(Instant::now);
                if self.watched.upto >= wanted {
                    break;
                }
                if since.elapsed() > LAST {
                    let why = format!("has come to {} only, the last write is {wanted}", self.watched.upto);
                    self.watched.failures.push(why);
                    break;
                }
            }
            self.watch(&last).await;
            self.at = (self.at + 1) % self.apis.len();
            self.watched.resumed += 1;
            self.history.count("watches resumed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.history.watched(self.watched);
    }

    /// One watch at one server, until it ends in whatever way.
    async fn watch(&mut self, last: &AtomicU64) {
        let api = self.apis[self.at].clone();
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let from = self.watched.upto.to_string();
        let Ok(Ok(stream)) = tokio::time::timeout(SILENCE, api.watch(&params, &from)).await else { return };
        let mut stream = std::pin::pin!(stream);
        while let Ok(Some(Ok(event))) = tokio::time::timeout(SILENCE, stream.next()).await {
            match event {
                WatchEvent::Added(m) | WatchEvent::Modified(m) => self.seen(&m, false),
                WatchEvent::Deleted(m) => self.seen(&m, true),
                WatchEvent::Bookmark(b) => {
                    let revision = b.metadata.resource_version.parse().unwrap_or_default();
                    self.watched.bookmarks.push((self.watched.events.len(), revision));
                    self.watched.upto = self.watched.upto.max(revision);
                }
                WatchEvent::Error(s) => {
                    // Asked to come back later is no failure; told that history is gone is one.
                    if s.code == 410 {
                        let at = self.watched.upto;
                        self.watched.failures.push(format!("cannot go on at {at}: {}", s.message));
                    }
                    return;
                }
            }
            let wanted = last.load(Ordering::SeqCst);
            if wanted != 0 && self.watched.upto >= wanted {
                return;
            }
        }
    }

    fn seen(&mut self, map: &ConfigMap, deleted: bool) {
        let key = map.name_any();
        let revision = revision_of(map);
        // What others write into the namespace counts for the order, not for the contents.
        if key != "kube-root-ca.crt" {
            self.history.count("events");
            self.watched.events.push(Event { revision, key, value: value_of(map), deleted });
        }
        self.watched.upto = self.watched.upto.max(revision);
    }
}
