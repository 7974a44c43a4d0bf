//! Watches that never end: what kube-runtime's watcher tells, without its errors.
//!
//! A watch opens with a WatchList stream (`sendInitialEvents`, KEP-3157) and, on a server that refuses that, with a
//! list. Failures are logged and tried again after a pause that grows while nothing comes through.
//!
//! All kinds share one compiled watch, whose objects are text ([`super::raw`]): per kind there is only their reader.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher::{Config, Error, Event, InitialListStrategy};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::raw::{self, Attempts, Text};

/// First pause after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Events for ever: `Init`, every object as `InitApply`, `InitDone`, then changes; from `Init` again whenever events
/// may have been missed.
pub type Events<K> = Pin<Box<dyn Stream<Item = Event<K>> + Send>>;

/// Watches what `config` selects. Nothing is sent before the stream is polled. An object that cannot be read as a `K`
/// is logged and left out.
pub fn events<K>(api: Api<K>, config: Config) -> Events<K>
where
    K: Resource + DeserializeOwned + Send + 'static,
{
    let open = if K::metadata_api() { raw::attempts::<true> } else { raw::attempts::<false> };
    let url = api.resource_url().to_owned();
    let texts = Watch::new(open, api.into_client(), url, config).events();
    texts.filter_map(|event| std::future::ready(typed(event))).boxed()
}

/// The event with its object read.
fn typed<K: DeserializeOwned>(event: Event<Text>) -> Option<Event<K>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitApply(text) => Event::InitApply(raw::read(&text)?),
        Event::InitDone => Event::InitDone,
        Event::Apply(text) => Event::Apply(raw::read(&text)?),
        Event::Delete(text) => Event::Delete(raw::read(&text)?),
    })
}

struct Watch {
    open: fn(Client, &str, Config) -> Attempts,
    client: Client,
    url: String,
    config: Config,
    attempts: Attempts,
    /// A complete state has been seen.
    synced: bool,
    pause: Duration,
}

impl Watch {
    fn new(open: fn(Client, &str, Config) -> Attempts, client: Client, url: String, config: Config) -> Self {
        let config = Config { initial_list_strategy: InitialListStrategy::StreamingList, ..config };
        let attempts = open(client.clone(), &url, config.clone());
        Self { open, client, url, config, attempts, synced: false, pause: SHORTEST_PAUSE }
    }

    fn events(self) -> Events<Text> {
        futures::stream::unfold(self, |mut w| async move { w.next().await.map(|event| (event, w)) }).boxed()
    }

    async fn next(&mut self) -> Option<Event<Text>> {
        loop {
            match self.attempts.next().await? {
                Ok(event) => {
                    self.synced |= matches!(event, Event::InitDone);
                    // `Init` is told before anything was sent.
                    if !matches!(event, Event::Init) {
                        self.pause = SHORTEST_PAUSE;
                    }
                    return Some(event);
                }
                Err(e) if !self.synced && no_watch_list(&e) && self.streams() => {
                    self.config.initial_list_strategy = InitialListStrategy::ListWatch;
                    self.attempts = (self.open)(self.client.clone(), &self.url, self.config.clone());
                    tracing::debug!(resource = self.url, "no WatchList on this server, listing first");
                }
                Err(error) => {
                    tracing::warn!(resource = self.url, %error, "watch interrupted, trying again");
                    // Jitter keeps the watches of many clients apart.
                    tokio::time::sleep(self.pause.mul_f64(1.0 + rand::random::<f64>())).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn streams(&self) -> bool {
        matches!(self.config.initial_list_strategy, InitialListStrategy::StreamingList)
    }
}

/// Whether the server refused to stream the initial state: it does not know `sendInitialEvents`, or its storage is too
/// old for it. Answers about credentials, load or a missing kind would be the same for a list.
fn no_watch_list(error: &Error) -> bool {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        Error::WatchError(status) => status.code,
        _ => return false,
    };
    !matches!(code, 401 | 403 | 404 | 410 | 429 | 503)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    const LIST: &str = r#"{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"5"},
        "items":[{"metadata":{"name":"x"}}]}"#;

    /// A server that answers requests to lists with [`LIST`], watches from `open` with nothing, and others with `code`.
    fn events_of(code: u16, open: &'static str) -> (Events<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let service = tower::service_fn(move |r: http::Request<kube::client::Body>| {
            let query = r.uri().query().unwrap_or_default().to_owned();
            log.lock().unwrap().push(query.clone());
            let (code, body) = match query.contains("watch=true") {
                false => (200, LIST.to_owned()),
                true if !open.is_empty() && query.contains(open) => (200, String::new()),
                true => (code, format!(r#"{{"kind":"Status","status":"Failure","code":{code}}}"#)),
            };
            let body = kube::client::Body::from(body.into_bytes());
            async move { Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap()) }
        });
        (events(Api::all(kube::Client::new(service, "default")), Config::default()), asked)
    }

    #[tokio::test]
    async fn a_server_without_watch_list_is_listed() {
        let (mut events, asked) = events_of(422, "resourceVersion=5");
        let mut names = Vec::new();
        loop {
            match events.next().await.unwrap() {
                Event::InitApply(o) => names.push(o.metadata.name.unwrap()),
                Event::InitDone => break,
                _ => {}
            }
        }
        assert_eq!(names, ["x"]);
        let asked = asked.lock().unwrap();
        assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
        assert!(!asked[1].contains("watch=true"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_tried_again_and_not_taken_for_a_lack() {
        let (mut events, asked) = events_of(403, "");
        let tried_again = async {
            while asked.lock().unwrap().len() < 3 {
                tokio::select! {
                    event = events.next() => assert!(matches!(event, Some(Event::Init)), "nothing came through"),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), tried_again).await.expect("it goes on trying");
        let asked = asked.lock().unwrap();
        assert!(asked.iter().all(|q| q.contains("sendInitialEvents=true")), "{asked:?}");
    }
}
