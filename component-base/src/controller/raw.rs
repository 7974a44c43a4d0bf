//! Objects that are not read yet: what lets all kinds share one compiled watch.
//!
//! kube's watcher is generic over the object, and is compiled again for every kind: its state machine, the reader of
//! lists and two readers of every type that the kind contains. [`Raw`] is the one kind it is compiled for here. Of an
//! object the watcher needs nothing but the resource version; the rest stays text until [`read`].
//!
//! The text leaves out `managedFields`, which no controller looks at: they are a third of an object, and the costliest to
//! read.
//!
//! An event must name its type before its object, as API servers write them: what serde meets before it knows the type
//! is not kept as text.

use std::borrow::Cow;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client, Resource};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object in JSON, as the server sent it but for `managedFields`.
pub(super) type Text = Box<str>;

/// What kube's watcher tells, errors included.
pub(super) type Attempts = BoxStream<'static, Result<Event<Text>, watcher::Error>>;

/// Watches the collection at `url`; only the metadata of its objects if `METADATA`.
pub(super) fn attempts<const METADATA: bool>(client: Client, url: &str, config: Config) -> Attempts {
    let api = Api::<Raw<METADATA>>::all_with(client, &Collection(url.to_owned()));
    watcher::watcher(api, config).map(|event| event.map(text)).boxed()
}

fn text<const METADATA: bool>(event: Event<Raw<METADATA>>) -> Event<Text> {
    match event {
        Event::Init => Event::Init,
        Event::InitApply(o) => Event::InitApply(o.text),
        Event::InitDone => Event::InitDone,
        Event::Apply(o) => Event::Apply(o.text),
        Event::Delete(o) => Event::Delete(o.text),
    }
}

/// The object that `text` is; `None`, and a line in the log, if it is not one of that kind.
pub(super) fn read<K: DeserializeOwned>(text: &str) -> Option<K> {
    serde_json::from_str(text).map_err(|e| unreadable(&e)).ok()
}

fn unreadable(error: &serde_json::Error) {
    tracing::warn!(%error, "cannot read an object of a watch, leaving it out");
}

/// Path of a collection.
struct Collection(String);

#[derive(Clone, Debug)]
struct Raw<const METADATA: bool> {
    text: Text,
    /// Holds the resource version only.
    meta: ObjectMeta,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default, borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    resource_version: Option<String>,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

impl<'de, const METADATA: bool> Deserialize<'de> for Raw<METADATA> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let Metadata { resource_version, managed_fields } =
            serde_json::from_str::<Head<'_>>(raw.get()).map_err(D::Error::custom)?.metadata;
        let rest = managed_fields.map(|fields| without(raw.get(), fields.get()));
        let text = rest.unwrap_or_else(|| raw.into());
        Ok(Self { text, meta: ObjectMeta { resource_version, ..ObjectMeta::default() } })
    }
}

/// A text with `null` in the place of a value, which must be a part of it.
fn without(text: &str, value: &str) -> Text {
    let at = value.as_ptr().addr() - text.as_ptr().addr();
    [&text[..at], "null", &text[at + value.len()..]].concat().into()
}

/// Its path is all that is known of the collection.
impl<const METADATA: bool> Resource for Raw<METADATA> {
    type DynamicType = Collection;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &Collection) -> Cow<'_, str> {
        Cow::default()
    }

    fn group(_: &Collection) -> Cow<'_, str> {
        Cow::default()
    }

    fn version(_: &Collection) -> Cow<'_, str> {
        Cow::default()
    }

    fn plural(c: &Collection) -> Cow<'_, str> {
        Cow::Borrowed(&c.0)
    }

    fn metadata_api() -> bool {
        METADATA
    }

    fn url_path(c: &Collection, _namespace: Option<&str>) -> String {
        c.0.clone()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::WatchEvent;

    #[test]
    fn an_object_is_kept_as_it_came() {
        let line = r#"{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","resourceVersion":"7"},"data":{"a":"1"}}}"#;
        let WatchEvent::Modified(raw) = serde_json::from_str::<WatchEvent<Raw<false>>>(line).unwrap() else {
            panic!("another event");
        };
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        let map: ConfigMap = read(&raw.text).unwrap();
        assert_eq!(map.data.unwrap()["a"], "1");
    }

    #[test]
    fn managed_fields_are_not_kept() {
        for (rest, data) in [(r#""#, 0), (r#","data":{"managedFields":"stay"}"#, 1)] {
            let line = format!(
                r#"{{"metadata":{{"managedFields":[{{"manager":"m\"]","fieldsV1":{{"f:data":{{}}}}}}],"name":"x"}}{rest}}}"#
            );
            let raw: Raw<false> = serde_json::from_str(&line).unwrap();
            assert_eq!(&*raw.text, format!(r#"{{"metadata":{{"managedFields":null,"name":"x"}}{rest}}}"#));
            let map: ConfigMap = read(&raw.text).unwrap();
            assert!(map.metadata.managed_fields.is_none());
            assert_eq!(map.data.unwrap_or_default().len(), data);
        }
    }

    #[test]
    fn what_is_no_object_is_left_out() {
        assert!(read::<ConfigMap>(r#"{"kind":"ConfigMap","apiVersion":"v1","data":7}"#).is_none());
    }
}
