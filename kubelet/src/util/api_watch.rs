//! Watches of the API: WatchList where the server has it, list and watch where it says that it cannot (an API
//! server over an old etcd, for one).

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Config, Error, Event},
};
use serde::de::DeserializeOwned;

/// Set once the server refused WatchList: every later watch begins with a list.
static LIST_FIRST: AtomicBool = AtomicBool::new(false);

type Inner<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, Error>> + Send>>;

struct State<K> {
    api: Api<K>,
    fields: Option<String>,
    inner: Inner<K>,
    streaming: bool,
}

fn begin<K>(api: &Api<K>, fields: Option<&str>, streaming: bool) -> Inner<K>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut config = Config::default();
    if let Some(f) = fields {
        config = config.fields(f);
    }
    if streaming {
        config = config.streaming_lists();
    }
    Box::pin(watcher::watcher(api.clone(), config))
}

/// True for answers that say the server knows no WatchList.
fn refuses_watch_list(e: &Error) -> bool {
    let status = match e {
        Error::WatchError(status) | Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.message.contains("RequestWatchProgress")
        || status.message.contains("sendInitialEvents")
        || (status.code == 422 && status.message.contains("resourceVersionMatch"))
}

/// Events of all objects that `fields` selects, for ever. Errors are reported and the watch goes on.
pub fn events<K>(
    api: Api<K>,
    fields: Option<String>,
) -> Pin<Box<dyn Stream<Item = Result<Event<K>, Error>> + Send>>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let streaming = !LIST_FIRST.load(Ordering::Relaxed);
    let inner = begin(&api, fields.as_deref(), streaming);
    let state = State { api, fields, inner, streaming };
    Box::pin(futures::stream::unfold(state, |mut s| async move {
        loop {
            let item = s.inner.next().await?;
            match &item {
                Err(e) if s.streaming && refuses_watch_list(e) => {
                    if !LIST_FIRST.swap(true, Ordering::Relaxed) {
                        tracing::info!("the API server has no WatchList: listing before watching");
                    }
                    s.streaming = false;
                    s.inner = begin(&s.api, s.fields.as_deref(), false);
                }
                _ => return Some((item, s)),
            }
        }
    }))
}
