//! Watch: the state or a revision to begin with, then every change, filtered as the client asked.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::options::ListOptions;
use super::resource::Resource;
use super::select::Filter;
use super::write::Stored;
use super::{Registry, read, render};
use crate::http::negotiate::{Format, Shape, Wanted};
use crate::http::{Body, Response, respond};
use crate::status::{ApiError, ApiResult};
use crate::store::{Event, Revision, StoreError, WatchBatch, WatchStream, prefix_end};
use crate::table::Include;

/// Chunks that may wait for a slow client before its watch waits too.
const QUEUE: usize = 16;
/// How often a bookmark is due.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// Writes the events of one watch in the client's format.
struct Encoder {
    resource: std::sync::Arc<Resource>,
    wanted: Wanted,
    include: Include,
    headings: bool,
}

impl Encoder {
    fn object(&mut self, kind: &str, s: &Stored, out: &mut Vec<u8>) -> ApiResult<()> {
        let (body, _) = render::object(&self.resource, s, self.wanted, self.include, self.headings)?;
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
            Shape::Metadata { beta: false } => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            Shape::Metadata { beta: true } => ("meta.k8s.io/v1beta1".to_owned(), "PartialObjectMetadata"),
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
            proto::wire::to_proto(&o, r.schema)
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
struct Watch {
    encoder: Encoder,
    filter: Filter,
    bookmarks: bool,
    /// What the client is sent first.
    initial: Vec<Stored>,
    initial_end: bool,
    /// Everything up to here was sent.
    revision: Revision,
    stream: WatchStream,
    deadline: Instant,
}

impl Registry {
    /// Starts a watch and answers with its stream.
    pub async fn watch(
        &self,
        r: &std::sync::Arc<Resource>,
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
        let mut prefix = storage.range(namespace);
        let mut end = prefix_end(&prefix);
        let name = filter.name().unwrap_or(name);
        if !name.is_empty() && (!storage.namespaced || !namespace.is_empty()) {
            prefix = storage.key(namespace, name);
            end = format!("{prefix}\0");
        }
        let asked = o.revision();
        let want_state = match o.send_initial_events {
            Some(s) => s,
            None => asked == 0,
        };
        let (initial, revision) = if want_state {
            let read::Page { items, meta } = self.list_range(r, &prefix, &end, asked, &filter).await?;
            (items, meta.revision)
        } else if asked == 0 {
            (Vec::new(), storage.store.current_revision().await.map_err(|e| super::storage::store_error(&e))?)
        } else {
            (Vec::new(), asked)
        };
        let encoder = Encoder { resource: r.clone(), wanted, include, headings: true };
        let timeout = o
            .timeout_seconds
            .filter(|t| *t > 0)
            .map_or_else(|| Duration::from_secs(rand::random_range(1800..3600)), Duration::from_secs);
        let (tx, rx) = mpsc::channel(QUEUE);
        let media = match wanted.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        let response = respond::bytes(200, media, Body::Channel(rx));
        let stream = match storage.store.watch(&prefix, &end, revision).await {
            Ok(s) => s,
            Err(e) => {
                let mut out = Vec::new();
                encoder.error(&watch_error(&e, revision), &mut out);
                // The queue is empty: there is room.
                let _ = tx.try_send(Bytes::from(out));
                return Ok(response);
            }
        };
        let watch = Watch {
            encoder,
            filter,
            bookmarks: o.bookmarks,
            initial,
            initial_end: o.send_initial_events == Some(true),
            revision,
            stream,
            deadline: Instant::now() + timeout,
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watch.run(tx) => {}
                () = shutdown.cancelled() => {}
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

impl Watch {
    async fn run(mut self, tx: mpsc::Sender<Bytes>) {
        if self.send_initial(&tx).await.is_none() {
            return;
        }
        let mut next_bookmark = Instant::now() + BOOKMARKS;
        loop {
            let mut out = Vec::new();
            tokio::select! {
                batch = self.stream.recv() => match batch {
                    Some(Ok(WatchBatch::Events(events))) => {
                        for e in &events {
                            self.revision = self.revision.max(e.kv.mod_revision);
                            if let Err(err) = self.event(e, &mut out) {
                                self.encoder.error(&err, &mut out);
                                let _ = tx.send(Bytes::from(out)).await;
                                return;
                            }
                        }
                    }
                    Some(Ok(WatchBatch::Progress(r))) => self.revision = self.revision.max(r),
                    Some(Err(e)) => {
                        self.encoder.error(&watch_error(&e, self.revision), &mut out);
                        let _ = tx.send(Bytes::from(out)).await;
                        return;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(next_bookmark), if self.bookmarks => {
                    next_bookmark = Instant::now() + BOOKMARKS;
                    self.encoder.bookmark(self.revision, false, &mut out);
                }
                () = tokio::time::sleep_until(self.deadline) => return,
                () = tx.closed() => return,
            }
            if !out.is_empty() && tx.send(Bytes::from(out)).await.is_err() {
                return;
            }
        }
    }

    async fn send_initial(&mut self, tx: &mpsc::Sender<Bytes>) -> Option<()> {
        let mut out = Vec::new();
        for s in std::mem::take(&mut self.initial) {
            if let Err(e) = self.encoder.object("ADDED", &s, &mut out) {
                self.encoder.error(&e, &mut out);
                let _ = tx.send(Bytes::from(out)).await;
                return None;
            }
            if out.len() > 64 * 1024 {
                tx.send(Bytes::from(std::mem::take(&mut out))).await.ok()?;
            }
        }
        if self.initial_end && self.bookmarks {
            self.encoder.bookmark(self.revision, true, &mut out);
        }
        if !out.is_empty() {
            tx.send(Bytes::from(out)).await.ok()?;
        }
        Some(())
    }

    /// Writes what the change means to this client, which may be nothing.
    fn event(&mut self, e: &Event, out: &mut Vec<u8>) -> ApiResult<()> {
        let r = self.encoder.resource.clone();
        let storage = r.storage()?;
        let now = !e.deleted && self.filter.matches_bytes(storage, &e.kv.value);
        let before = if e.deleted {
            let last = e.prev.as_ref().unwrap_or(&e.kv.value);
            self.filter.matches_bytes(storage, last)
        } else {
            e.prev.as_ref().is_some_and(|p| self.filter.matches_bytes(storage, p))
        };
        let kind = match (before, now) {
            (false, false) => return Ok(()),
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let bytes =
            if now { e.kv.value.clone() } else { e.prev.clone().unwrap_or_else(|| e.kv.value.clone()) };
        let s = Stored { key: e.kv.key.clone(), bytes, revision: e.kv.mod_revision };
        self.encoder.object(kind, &s, out)
    }
}
