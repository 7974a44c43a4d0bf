//! Get and list, from the watch cache.

use std::sync::Arc;

use super::options::{ListOptions, Match};
use super::render::ListMeta;
use super::resource::Resource;
use super::select::{Converted, Filter};
use super::storage::{Storage, store_error};
use super::write::Stored;
use super::{Registry, continue_token};
use crate::cache::{Freshness, Object};
use crate::metrics::parts;
use crate::status::{ApiError, ApiResult};
use crate::store::{StoreError, prefix_end};

/// So many objects a webhook converts at once where only some of them are wanted.
const CONVERTED_AT_ONCE: usize = 500;

/// One page of a list.
pub struct Page {
    pub items: Vec<Stored>,
    pub meta: ListMeta,
}

/// How new an answer must be for the resource version that was asked for.
pub fn freshness(resource_version: &str) -> Freshness {
    match resource_version.parse() {
        Ok(0) => Freshness::Any,
        Ok(n) => Freshness::AtLeast(n),
        Err(_) => Freshness::Newest,
    }
}

impl Registry {
    /// One object as it is now.
    pub async fn get(&self, r: &Resource, namespace: &str, name: &str) -> ApiResult<Stored> {
        self.get_at(r, namespace, name, Freshness::Newest).await
    }

    /// One object, as new as asked.
    pub async fn get_at(
        &self,
        r: &Resource,
        namespace: &str,
        name: &str,
        freshness: Freshness,
    ) -> ApiResult<Stored> {
        let storage = r.storage()?;
        let found = storage.cache.get(&storage.key(namespace, name), freshness).await;
        match found.map_err(|e| store_error(&e))? {
            Some(o) => r.present(Stored::from(&o)).await,
            None => Err(ApiError::not_found(r.group, r.resource, name)),
        }
    }

    /// The objects of a namespace (empty: of the cluster) that `o` selects.
    pub async fn list(
        &self,
        r: &Resource,
        namespace: &str,
        o: &ListOptions,
        filter: &Filter,
    ) -> ApiResult<Page> {
        if let Some(chosen) = filter.converted() {
            return self.list_converted(r, namespace, o, filter, chosen).await;
        }
        let page = self.list_stored(r, namespace, o, filter).await?;
        Ok(Page { items: r.present_all(page.items).await?, meta: page.meta })
    }

    /// The same where objects must be converted before it shows which are chosen: as many at a time as a page has, until
    /// it is full.
    async fn list_converted(
        &self,
        r: &Resource,
        namespace: &str,
        o: &ListOptions,
        filter: &Filter,
        chosen: &Converted,
    ) -> ApiResult<Page> {
        let whole = ListOptions { limit: 0, ..o.clone() };
        let page = self.list_stored(r, namespace, &whole, filter).await?;
        let limit = page_size(o.page_limit());
        let mut meta = page.meta;
        let mut items: Vec<Stored> = Vec::new();
        let mut rest = page.items.into_iter();
        while rest.len() > 0 {
            let some: Vec<Stored> = rest.by_ref().take(limit.min(CONVERTED_AT_ONCE)).collect();
            let mut shown = r.present_all(some).await?.into_iter();
            items.extend(shown.by_ref().filter(|s| chosen.matches(&s.bytes)).take(limit - items.len()));
            if items.len() == limit {
                let more = shown.len() > 0 || rest.len() > 0;
                if let Some(last) = items.last().filter(|_| more) {
                    let revision = i64::try_from(meta.revision).unwrap_or(i64::MAX);
                    let prefix = range_of(r.storage()?, namespace, filter);
                    meta.continue_token = continue_token::encode(&last.key, &prefix, revision);
                }
                break;
            }
        }
        Ok(Page { items, meta })
    }

    /// The same in the version in which objects are stored.
    async fn list_stored(
        &self,
        r: &Resource,
        namespace: &str,
        o: &ListOptions,
        filter: &Filter,
    ) -> ApiResult<Page> {
        let storage = r.storage()?;
        let prefix = range_of(storage, namespace, filter);
        let end = prefix_end(&prefix);
        if !o.continue_token.is_empty() {
            return self.go_on(r, &prefix, &end, o, filter).await;
        }
        if o.version_match == Some(Match::Exact) {
            let (list, beyond) = storage
                .cache
                .list_at(&prefix, &end, o.revision(), page_of(o, filter))
                .await
                .map_err(|e| list_error(&e, false))?;
            let after = list.len() as u64 + beyond;
            let page = page(list.iter(), after, list.revision, &prefix, o.limit, filter);
            parts::stored_list(r.group, r.resource, list.len(), page.items.len());
            return Ok(page);
        }
        let list = storage
            .cache
            .list(&prefix, &end, freshness(&o.resource_version))
            .await
            .map_err(|e| list_error(&e, false))?;
        let total = list.len() as u64;
        let page = page(list.iter(), total, list.revision, &prefix, o.page_limit(), filter);
        parts::cached_list(r.group, r.resource, list.len(), page.items.len());
        Ok(page)
    }

    /// The next page.
    async fn go_on(
        &self,
        r: &Resource,
        prefix: &str,
        end: &str,
        o: &ListOptions,
        filter: &Filter,
    ) -> ApiResult<Page> {
        let c = continue_token::decode(&o.continue_token, prefix)
            .map_err(|e| ApiError::bad_request(format!("invalid continue token: {e}")))?;
        if !o.resource_version.is_empty() && o.resource_version != "0" {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let cache = &r.storage()?.cache;
        if c.revision == 0 {
            let list =
                cache.list(&c.start, end, Freshness::Newest).await.map_err(|e| list_error(&e, true))?;
            return Ok(page(list.iter(), list.len() as u64, list.revision, prefix, o.page_limit(), filter));
        }
        let (list, beyond) =
            cache.list_at(&c.start, end, c.revision, page_of(o, filter)).await.map_err(|e| match e {
                StoreError::Compacted { .. } => gone(&c.start, prefix),
                e => list_error(&e, true),
            })?;
        let after = list.len() as u64 + beyond;
        let page = page(list.iter(), after, list.revision, prefix, o.page_limit(), filter);
        parts::stored_list(r.group, r.resource, list.len(), page.items.len());
        Ok(page)
    }
}

/// The keys among which chosen objects are.
fn range_of(storage: &Storage, namespace: &str, filter: &Filter) -> String {
    let only = filter.namespace().filter(|_| namespace.is_empty());
    storage.range(only.unwrap_or(namespace))
}

/// The limit of a page as a number of objects.
fn page_size(limit: u64) -> usize {
    usize::try_from(limit).ok().filter(|l| *l > 0).unwrap_or(usize::MAX)
}

/// How many objects to read from history: a page, unless some may be left out.
fn page_of(o: &ListOptions, filter: &Filter) -> u64 {
    if filter.is_empty() { o.page_limit() } else { 0 }
}

/// Cuts a page out of a range that has `total` objects.
fn page<'a>(
    objects: impl Iterator<Item = &'a Arc<Object>>,
    total: u64,
    revision: u64,
    prefix: &str,
    limit: u64,
    filter: &Filter,
) -> Page {
    let everything = filter.is_empty();
    let mut items: Vec<Stored> = Vec::new();
    let mut meta = ListMeta { revision, ..ListMeta::default() };
    for (i, o) in objects.enumerate() {
        if !everything && !filter.matches(o) {
            continue;
        }
        items.push(Stored::from(o));
        if limit > 0 && items.len() as u64 == limit {
            let rest = total - i as u64 - 1;
            if rest > 0 {
                meta.continue_token =
                    continue_token::encode(&o.key, prefix, i64::try_from(revision).unwrap_or(i64::MAX));
                meta.remaining = everything.then_some(rest);
            }
            break;
        }
    }
    Page { items, meta }
}

/// A page whose revision is gone: the client may start over, or go on with what is there now.
fn gone(start: &str, prefix: &str) -> ApiError {
    let mut e = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    e.continue_token = continue_token::encode(start.trim_end_matches('\0'), prefix, -1);
    e
}

fn list_error(e: &StoreError, continued: bool) -> ApiError {
    match e {
        StoreError::Compacted { requested, oldest } if !continued => ApiError::expired(format!(
            "The resourceVersion for the provided list is too old: {requested} ({oldest})"
        )),
        other => store_error(other),
    }
}
