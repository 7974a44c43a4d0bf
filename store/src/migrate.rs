//! Moving everything between an etcd and the embedded store: keys and bytes stay the same, revisions go on above all
//! that clients can have seen, without history. No API server may use either store meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::embedded::offline::{Export, Import, Made, Source, Target};
use crate::etcd::{Config, Etcd};
use crate::{Revision, StoreError};

/// Writes that may come between the look at the old store and the last write to it.
const MARGIN: u64 = 1000;

/// What hears of progress: keys moved, or revisions passed over.
pub enum Step {
    Keys(u64),
    Revisions { at: Revision, to: Revision },
}

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub keys: u64,
    /// The newest revision of the old store, and the first of the new one.
    pub from: Revision,
    pub to: Revision,
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn settings(config: Config) -> Config {
    // Compaction is left to others: none of it is this program's.
    Config { compaction_interval: std::time::Duration::ZERO, ..config }
}

/// Makes a data directory of what etcd holds below its prefix.
///
/// # Errors
/// [`StoreError::Refused`] where the directory is not empty or etcd holds nothing, [`StoreError::Corrupt`] where a key is
/// no text, otherwise what kept it from reading or writing.
pub async fn from_etcd(
    config: Config,
    to: Target,
    told: &mut dyn FnMut(Step),
) -> Result<(Moved, Made), StoreError> {
    let prefix = config.prefix.clone();
    let etcd = Etcd::connect(settings(config)).await?;
    let revision = etcd.revision().await?;
    let mut import = Import::new(to, revision)?;
    let (mut leases, mut after, mut keys) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        let (page, next) = etcd.page_of_all(&after, revision, &mut leases).await?;
        let now = now();
        for (kv, left) in page {
            import.add(kv, if left == 0 { 0 } else { now + left })?;
            keys += 1;
        }
        told(Step::Keys(keys));
        match next {
            Some(key) => after = key,
            None => break,
        }
    }
    if keys == 0 {
        import.discard()?;
        return Err(StoreError::Refused(format!("etcd holds nothing below {prefix}: see --etcd-prefix")));
    }
    let later = etcd.revision().await?;
    if later != revision {
        import.discard()?;
        return Err(StoreError::Refused(format!(
            "etcd went from revision {revision} to {later} meanwhile: stop the API servers that use it, then start again"
        )));
    }
    let made = tokio::task::spawn_blocking(move || import.finish()).await;
    let made = made.map_err(|e| StoreError::Unavailable(format!("writing: {e}")))??;
    Ok((Moved { keys, from: revision, to: made.revision }, made))
}

/// Writes what a data directory or a snapshot holds into an etcd that has nothing below its prefix. `scratch`: an empty
/// directory.
///
/// # Errors
/// [`StoreError::Refused`] where etcd is not empty or the source cannot be used, [`StoreError::Corrupt`] where it is
/// damaged, otherwise what kept it from reading or writing.
pub async fn to_etcd(
    source: &Source,
    scratch: &Path,
    config: Config,
    told: &mut dyn FnMut(Step),
) -> Result<Moved, StoreError> {
    let etcd = Etcd::connect(settings(config)).await?;
    etcd.check_empty().await?;
    let export = tokio::task::spawn_blocking({
        let (source, scratch) = (source.clone(), scratch.to_owned());
        move || Export::open(&source, &scratch)
    });
    let failed = |e: tokio::task::JoinError| StoreError::Unavailable(format!("reading: {e}"));
    let export = Arc::new(export.await.map_err(failed)??);
    let from = export.revision();
    // First the revisions: an object must not come back at a revision below the one its readers know.
    let to = from + MARGIN;
    etcd.advance(to, &mut |at| told(Step::Revisions { at, to })).await?;
    let (mut leases, mut after, mut keys, now) = (BTreeMap::new(), String::new(), 0u64, now());
    loop {
        let (pages, last) = (Arc::clone(&export), after.clone());
        let page = tokio::task::spawn_blocking(move || pages.page(&last)).await.map_err(failed)??;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(&last.key);
        // Those whose time has come are gone.
        let page: Vec<_> = page.into_iter().filter(|(_, expiry)| *expiry == 0 || *expiry > now).collect();
        keys += page.len() as u64;
        etcd.put_page(page, now, &mut leases).await?;
        told(Step::Keys(keys));
    }
    let there = etcd.count().await?;
    if there != keys {
        return Err(StoreError::Unavailable(format!("{keys} keys were written, but etcd holds {there}")));
    }
    Ok(Moved { keys, from, to: etcd.forget_history().await? })
}
