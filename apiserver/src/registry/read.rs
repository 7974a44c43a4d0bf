//! Get and list.

use super::options::{ListOptions, Match};
use super::render::ListMeta;
use super::resource::Resource;
use super::select::Filter;
use super::storage::{store_error, too_large_version};
use super::write::Stored;
use super::{Registry, continue_token};
use crate::status::{ApiError, ApiResult};
use crate::store::{KeyValue, RangeRequest, Revision, StoreError, prefix_end};

/// Keys read at a time while a selective list fills its page.
const CHUNK: u64 = 500;

impl From<KeyValue> for Stored {
    fn from(kv: KeyValue) -> Self {
        Self { key: kv.key, bytes: kv.value, revision: kv.mod_revision }
    }
}

/// One page of a list.
pub struct Page {
    pub items: Vec<Stored>,
    pub meta: ListMeta,
}

impl Registry {
    /// One object as it is now.
    pub async fn get(&self, r: &Resource, namespace: &str, name: &str) -> ApiResult<Stored> {
        let storage = r.storage()?;
        let kv = storage.read(&storage.key(namespace, name)).await?;
        kv.map(Stored::from).ok_or_else(|| ApiError::not_found(r.group, r.resource, name))
    }

    /// The objects of a namespace (empty: of the cluster) that `o` selects.
    pub async fn list(
        &self,
        r: &Resource,
        namespace: &str,
        o: &ListOptions,
        filter: &Filter,
    ) -> ApiResult<Page> {
        let storage = r.storage()?;
        let prefix = storage.range(filter.namespace().filter(|_| namespace.is_empty()).unwrap_or(namespace));
        let end = prefix_end(&prefix);
        let mut start = prefix.clone();
        let mut at: Revision = match o.version_match {
            Some(Match::Exact) => o.revision(),
            _ => 0,
        };
        if !o.continue_token.is_empty() {
            let c = continue_token::decode(&o.continue_token, &prefix)
                .map_err(|e| ApiError::bad_request(format!("invalid continue token: {e}")))?;
            if !o.resource_version.is_empty() && o.resource_version != "0" {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            start = c.start;
            at = c.revision;
        } else if at == 0 && o.revision() > 0 {
            // Not older than what the client saw; the newest is that, if it was ever reached.
            let now = storage.store.current_revision().await.map_err(|e| store_error(&e))?;
            if o.revision() > now {
                return Err(too_large_version(o.revision(), now));
            }
            if o.limit > 0 && o.version_match.is_none() {
                at = o.revision();
            }
        }
        self.fill(r, (prefix, start, end), at, o.limit, filter).await
    }

    /// The objects with keys in `[start, end)`, for a watch to begin with.
    pub(super) async fn list_range(
        &self,
        r: &Resource,
        start: &str,
        end: &str,
        not_older_than: Revision,
        filter: &Filter,
    ) -> ApiResult<Page> {
        let storage = r.storage()?;
        if not_older_than > 0 {
            let now = storage.store.current_revision().await.map_err(|e| store_error(&e))?;
            if not_older_than > now {
                return Err(too_large_version(not_older_than, now));
            }
        }
        self.fill(r, (start.to_owned(), start.to_owned(), end.to_owned()), 0, 0, filter).await
    }

    async fn fill(
        &self,
        r: &Resource,
        (prefix, mut start, end): (String, String, String),
        mut at: Revision,
        limit: u64,
        filter: &Filter,
    ) -> ApiResult<Page> {
        let storage = r.storage()?;
        let mut items: Vec<Stored> = Vec::new();
        loop {
            let want = if limit == 0 {
                0
            } else if filter.is_empty() {
                limit - items.len() as u64
            } else {
                CHUNK
            };
            let request = RangeRequest { start: start.clone(), end: end.clone(), revision: at, limit: want };
            let range = storage.store.range(request).await.map_err(|e| list_error(&e, &prefix, &start))?;
            if at == 0 {
                at = range.revision;
            }
            let n = range.items.len();
            let mut last = None;
            for (i, kv) in range.items.into_iter().enumerate() {
                last = Some(kv.key.clone());
                if filter.matches_bytes(storage, &kv.value) {
                    items.push(kv.into());
                    if limit > 0 && items.len() as u64 == limit {
                        let rest = range.remaining + (n - i - 1) as u64;
                        let mut meta = ListMeta { revision: at, ..ListMeta::default() };
                        if rest > 0 {
                            let last = last.as_deref().unwrap_or_default();
                            meta.continue_token =
                                continue_token::encode(last, &prefix, i64::try_from(at).unwrap_or(i64::MAX));
                            meta.remaining = filter.is_empty().then_some(rest);
                        }
                        return Ok(Page { items, meta });
                    }
                }
            }
            match last {
                Some(l) if range.remaining > 0 => start = format!("{l}\0"),
                _ => {
                    return Ok(Page { items, meta: ListMeta { revision: at, ..ListMeta::default() } });
                }
            }
        }
    }
}

/// A page of a list whose revision is gone tells the client how to go on without consistency.
fn list_error(e: &StoreError, prefix: &str, start: &str) -> ApiError {
    match e {
        StoreError::Compacted { .. } if start != prefix => {
            let mut x = ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            x.details = None;
            x
        }
        StoreError::Compacted { requested, oldest } => ApiError::expired(format!(
            "The resourceVersion for the provided list is too old: {requested} ({oldest})"
        )),
        other => store_error(other),
    }
}
