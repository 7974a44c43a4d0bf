//! Watch: the state or a revision to begin with, then every change, filtered as the client asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::options::ListOptions;
use super::read::freshness;
use super::resource::Resource;
use super::select::Filter;
use super::write::Stored;
use super::{Registry, render};
use crate::cache::{CacheEvent, EventKind, From, Object, Watch, WatchItem};
use crate::crd::form;
use crate::http::negotiate::{Format, Shape, Wanted};
use crate::http::{Body, Response, respond};
use crate::metrics::parts::WatchSeries;
use crate::status::{ApiError, ApiResult};
use crate::store::{Revision, StoreError, prefix_end};
use crate::table::Include;

/// Chunks that may wait for a slow client before its watch waits too.
const QUEUE: usize = 16;
/// Bytes after which a chunk is sent.
const CHUNK: usize = 64 * 1024;
/// How long before the end of a watch it has its last bookmark.
const BEFORE_THE_END: Duration = Duration::from_secs(2);
/// How often a bookmark is due.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// Writes the events of one watch in the client's format.
struct Encoder {
    resource: Arc<Resource>,
    wanted: Wanted,
    include: Include,
    headings: bool,
    series: WatchSeries,
}

impl Encoder {
    async fn object(&mut self, kind: &str, s: Stored, out: &mut Vec<u8>) -> ApiResult<()> {
        let s = self.resource.present(s).await?;
        let (body, _) = render::object(&self.resource, &s, self.wanted, self.include, self.headings)?;
        if matches!(self.wanted.shape, Shape::Table { .. }) {
            self.headings = false;
        }
        self.frame(kind, &body, out);
        Ok(())
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool, out: &mut Vec<u8>) {
        let r = &self.resource;
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (version, kind) = match self.wanted.shape {
            Shape::Metadata { beta: false, .. } => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            Shape::Metadata { beta: true, .. } => ("meta.k8s.io/v1beta1".to_owned(), "PartialObjectMetadata"),
            _ => (r.api_version(), r.kind),
        };
        let mut o = json!({"kind": kind, "apiVersion": version, "metadata": meta});
        if let Shape::Table { beta } = self.wanted.shape {
            o = crate::table::of(
                r,
                &[o],
                json!({"resourceVersion": revision.to_string()}),
                beta,
                self.include,
                self.headings,
            );
            self.headings = false;
        }
        let body = if self.wanted.format == Format::Protobuf {
            // Bookmarks have nothing but metadata.
            render::metadata_wire(&o)
                .map(|raw| proto::envelope::wrap(&version, kind, &raw))
                .unwrap_or_default()
        } else {
            serde_json::to_vec(&o).unwrap_or_default()
        };
        self.frame("BOOKMARK", &body, out);
    }

    fn error(&self, e: &ApiError, out: &mut Vec<u8>) {
        let status = e.to_status();
        let body = if self.wanted.format == Format::Protobuf {
            super::codec::meta_to_wire("v1", "Status", &status).unwrap_or_default()
        } else {
            serde_json::to_vec(&status).unwrap_or_default()
        };
        self.frame("ERROR", &body, out);
    }

    fn frame(&self, kind: &str, body: &[u8], out: &mut Vec<u8>) {
        self.series.event(body.len());
        let framed = if self.wanted.format == Format::Protobuf {
            proto::envelope::watch_event(kind, body)
        } else {
            proto::envelope::watch_event_json(kind, body)
        };
        if out.is_empty() {
            *out = framed;
        } else {
            out.extend_from_slice(&framed);
        }
    }
}

/// A watch that is ready to run.
struct Running {
    encoder: Encoder,
    watch: Watch,
    bookmarks: bool,
    /// The client asked to be told when it has the whole state.
    initial_end: bool,
    deadline: Instant,
    /// When it began, and the events of the state with which it began.
    began: Instant,
    initial: u64,
    /// Of how much it is the watch, as metrics name it.
    scope: &'static str,
    /// Set where it shows only in converted objects which are chosen: the cache cannot leave out the others.
    filter: Option<Filter>,
    /// The seats of the request, until it is set up.
    permit: Option<crate::flowcontrol::Permit>,
}

impl Registry {
    /// Starts a watch and answers with its stream.
    pub async fn watch(
        &self,
        r: &Arc<Resource>,
        namespace: &str,
        name: &str,
        o: &ListOptions,
        wanted: Wanted,
        include: Include,
    ) -> ApiResult<Response> {
        let filter = Filter::new(r, o)?;
        if wanted.format == Format::Yaml {
            return Err(ApiError::not_acceptable(
                "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            ));
        }
        let storage = r.storage()?;
        let mut start = storage.range(namespace);
        let mut end = prefix_end(&start);
        let name = filter.name().unwrap_or(name);
        if !name.is_empty() && (!storage.namespaced || !namespace.is_empty()) {
            start = storage.key(namespace, name);
            end = format!("{start}\0");
        }
        let asked = o.revision();
        let from = match o.send_initial_events {
            Some(true) => From::State(freshness(&o.resource_version)),
            Some(false) if asked == 0 => From::Now,
            None if asked == 0 => From::State(freshness(&o.resource_version)),
            _ => From::After(asked),
        };
        let series = WatchSeries::new(r.group, r.version, r.resource);
        let encoder = Encoder { resource: r.clone(), wanted, include, headings: true, series };
        let timeout = o
            .timeout_seconds
            .filter(|t| *t > 0)
            .map_or_else(|| self.watch_limits().timeout(), Duration::from_secs);
        let (tx, rx) = mpsc::channel(QUEUE);
        let media = match wanted.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        let response = respond::bytes(200, media, Body::Channel(rx));
        let watch = match storage.cache.watch(&start, &end, from, filter.predicate()).await {
            Ok(w) => w,
            Err(e @ (StoreError::Compacted { .. } | StoreError::Future { .. })) => {
                let mut out = Vec::new();
                encoder.error(&watch_error(&e, asked), &mut out);
                // The queue is empty: there is room.
                let _ = tx.try_send(Bytes::from(out));
                return Ok(response);
            }
            Err(e) => return Err(watch_error(&e, asked)),
        };
        let running = Running {
            encoder,
            watch,
            bookmarks: o.bookmarks,
            initial_end: o.send_initial_events == Some(true),
            deadline: Instant::now() + timeout,
            began: Instant::now(),
            initial: 0,
            scope: match () {
                () if !name.is_empty() => "resource",
                () if !namespace.is_empty() => "namespace",
                () => "cluster",
            },
            filter: filter.converted().is_some().then(|| filter.clone()),
            // What begins with the state takes longest to set up; the others are set up already.
            permit: crate::flowcontrol::control::take_held().filter(|_| matches!(from, From::State(_))),
        };
        let (shutdown, ended) = (self.shutdown.clone(), storage.ended.clone());
        let grace = self.watch_limits().shutdown_grace.mul_f64(rand::random());
        tokio::spawn(async move {
            tokio::select! {
                () = running.run(tx, asked) => {}
                () = async { shutdown.cancelled().await; tokio::time::sleep(grace).await } => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(response)
    }
}

/// What the client is told when its watch cannot go on.
fn watch_error(e: &StoreError, revision: Revision) -> ApiError {
    match e {
        StoreError::Compacted { oldest, .. } => {
            ApiError::expired(format!("too old resource version: {revision} ({oldest})"))
        }
        other => super::storage::store_error(other),
    }
}

impl Running {
    async fn run(mut self, tx: mpsc::Sender<Bytes>, asked: Revision) {
        let mut next_bookmark = self.next_bookmark();
        let mut out = Vec::new();
        loop {
            let item = tokio::select! {
                item = self.watch.next() => Some(item),
                () = tokio::time::sleep_until(next_bookmark), if self.bookmarks && next_bookmark < self.deadline => None,
                () = tokio::time::sleep_until(self.deadline) => return,
                () = tx.closed() => return,
            };
            let ended = match item {
                Some(first) => self.batch(first, &mut out).await,
                None => {
                    next_bookmark = self.next_bookmark();
                    match self.watch.bookmark().await {
                        Ok(Some(r)) => {
                            self.encoder.bookmark(r, false, &mut out);
                            Ok(())
                        }
                        Ok(None) => Ok(()),
                        Err(e) => Err(watch_error(&e, asked)),
                    }
                }
            };
            if let Err(e) = &ended {
                self.encoder.error(e, &mut out);
            }
            if !out.is_empty() && tx.send(Bytes::from(std::mem::take(&mut out))).await.is_err() {
                return;
            }
            if ended.is_err() {
                return;
            }
        }
    }

    /// When the next bookmark is due: once a minute, and shortly before the end, so that who watches on misses as
    /// little as can be. After that there is none before the deadline.
    fn next_bookmark(&self) -> Instant {
        let now = Instant::now();
        match self.deadline.checked_sub(BEFORE_THE_END) {
            Some(last) if now < last => last.min(now + BOOKMARKS),
            _ => self.deadline,
        }
    }

    /// Writes `first` and whatever else is there without waiting, up to a chunk.
    async fn batch(&mut self, first: Result<WatchItem, StoreError>, out: &mut Vec<u8>) -> ApiResult<()> {
        let mut next = first.map(Some);
        loop {
            match next.map_err(|e| watch_error(&e, 0))? {
                None => return Ok(()),
                Some(WatchItem::Synced(revision)) => {
                    self.permit = None;
                    self.encoder.series.initialized(self.initial);
                    if self.initial_end {
                        self.encoder.series.listed(self.scope, self.began.elapsed());
                    }
                    if self.initial_end && self.bookmarks {
                        self.encoder.bookmark(revision, true, out);
                    }
                }
                Some(WatchItem::Event(e)) => {
                    if let Some((kind, object)) = self.chosen(&e).await? {
                        self.initial += 1;
                        let kind = match kind {
                            EventKind::Added => "ADDED",
                            EventKind::Modified => "MODIFIED",
                            EventKind::Deleted => "DELETED",
                        };
                        self.encoder.object(kind, object, out).await?;
                    }
                }
            }
            if out.len() > CHUNK {
                return Ok(());
            }
            next = self.watch.try_next().await;
        }
    }

    /// What the client sees of an event, if anything.
    async fn chosen(&self, e: &CacheEvent) -> ApiResult<Option<(EventKind, Stored)>> {
        let Some(filter) = &self.filter else { return Ok(Some((e.kind, Stored::from(&e.object)))) };
        let (now, after) = self.shown(filter, &e.object).await?;
        let (last, before) = match &e.prev {
            Some(prev) => self.shown(filter, prev).await.map(|(s, chosen)| (Some(s), chosen))?,
            None => (None, false),
        };
        let after = after && e.kind != EventKind::Deleted;
        Ok(match EventKind::seen(before, after) {
            // What the client last saw, at the revision of the change that took it out of sight.
            Some(EventKind::Deleted) => match last {
                Some(last) => Some((EventKind::Deleted, at_revision(last, e.object.mod_revision)?)),
                None => Some((EventKind::Deleted, now)),
            },
            kind => kind.map(|k| (k, now)),
        })
    }

    /// An object as the client gets it, and whether that is chosen.
    async fn shown(&self, filter: &Filter, o: &Arc<Object>) -> ApiResult<(Stored, bool)> {
        let stored = Stored::from(o);
        if !filter.matches(o) {
            return Ok((stored, false));
        }
        let stored = self.encoder.resource.present(stored).await?;
        let chosen = filter.converted().is_none_or(|c| c.matches(&stored.bytes));
        Ok((stored, chosen))
    }
}

/// A custom resource's text with another resourceVersion.
fn at_revision(mut s: Stored, revision: Revision) -> ApiResult<Stored> {
    let mut o: serde_json::Value =
        serde_json::from_slice(&s.bytes).map_err(|e| ApiError::internal(e.to_string()))?;
    super::object::set_revision(&mut o, revision);
    s.bytes = form::text_of(&o);
    s.revision = revision;
    // The cache's entry is of another revision.
    s.shared = None;
    Ok(s)
}
