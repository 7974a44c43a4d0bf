//! Generic storage of API objects: one set of handlers for every kind.
//!
//! The way of a write: [`codec`] reads the body, the kind's rules ([`strategy`]) default it, [`create`] or
//! [`update`] does the bookkeeping, calls admission and validation and stores; [`render`] writes the answer from
//! what was stored. Reads ([`read`], [`watch`]) go from stored bytes to the answer without building objects.

pub mod codec;
pub mod continue_token;
pub mod convert;
pub mod create;
mod decoded;
pub mod delete;
pub mod empties;
pub mod fields;
pub mod form;
pub mod index;
pub mod labels;
pub mod lists;
pub mod managed;
pub mod meta;
pub mod names;
pub mod object;
pub mod objects;
pub mod options;
pub mod patching;
pub mod read;
pub mod render;
pub mod resource;
pub mod rules;
pub mod select;
pub mod storage;
pub mod strategy;
pub mod table;
pub mod touch;
pub mod update;
pub mod watch;
pub mod write;
pub mod yaml;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::admission::Chain;
use crate::allocate;
use crate::status::ApiError;
use table::Table;

/// All served resources and what their handlers share.
pub struct Registry {
    table: ArcSwap<Table>,
    /// Held while the table is changed.
    changing: Mutex<()>,
    pub event_ttl_seconds: u64,
    pub shutdown: CancellationToken,
    admission: OnceLock<Arc<Chain>>,
    allocator: OnceLock<allocate::Services>,
    watch_limits: OnceLock<WatchLimits>,
    decoded: decoded::Decoded,
}

/// How long watches run.
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// `--min-request-timeout`, in seconds: watches that do not say end after once to twice this.
    pub min_timeout: u64,
    /// Time over which watches end at shutdown.
    pub shutdown_grace: Duration,
}

impl WatchLimits {
    fn timeout(&self) -> Duration {
        let min = self.min_timeout.max(1);
        Duration::from_secs(rand::random_range(min..=min.saturating_mul(2)))
    }
}

impl Registry {
    pub fn new(table: Table, event_ttl_seconds: u64, shutdown: CancellationToken) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            changing: Mutex::new(()),
            event_ttl_seconds,
            shutdown,
            admission: OnceLock::new(),
            allocator: OnceLock::new(),
            watch_limits: OnceLock::new(),
            decoded: decoded::Decoded::default(),
        }
    }

    /// What is served now. It does not change: who needs several facts that belong together takes it once.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Changes what is served, for every request that comes after. Requests that are under way go on with what they
    /// have; watches of resources that `change` took away or replaced end.
    pub fn change_table(&self, change: impl FnOnce(&mut Table)) {
        let _one_at_a_time = self.changing.lock();
        let old = self.table.load_full();
        let mut new = Table::clone(&old);
        change(&mut new);
        let ended = old.storages_missing_in(&new);
        self.table.store(Arc::new(new));
        for storage in ended {
            storage.ended.cancel();
        }
    }

    /// Sets the admission chain, which itself needs the registry: once, before the first request.
    pub fn set_admission(&self, chain: Arc<Chain>) {
        // A second chain would be a programming error without effect.
        let _ = self.admission.set(chain);
    }

    /// Sets what gives services their cluster IPs and node ports: once, before the first request.
    pub fn set_allocator(&self, services: allocate::Services) {
        let _ = self.allocator.set(services);
    }

    /// Sets how long watches run: once, before the first request.
    pub fn set_watch_limits(&self, limits: WatchLimits) {
        let _ = self.watch_limits.set(limits);
    }

    fn watch_limits(&self) -> WatchLimits {
        let default = WatchLimits { min_timeout: 1800, shutdown_grace: Duration::ZERO };
        self.watch_limits.get().copied().unwrap_or(default)
    }

    /// The allocator, for resources that take part in allocation.
    fn allocator(&self, r: &resource::Resource) -> Option<&allocate::Services> {
        if r.group.is_empty() && r.resource == "services" { self.allocator.get() } else { None }
    }

    /// The admission chain.
    ///
    /// # Panics
    /// When a request comes before [`Self::set_admission`]: letting it pass unchecked would be worse.
    pub fn admission(&self) -> &Chain {
        match self.admission.get() {
            Some(c) => c,
            None => panic!("a write came before admission was set up"),
        }
    }
}

/// The answer to a verb that the resource does not have.
pub fn method_not_allowed() -> ApiError {
    let mut e = ApiError::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );
    e.details = Some(Box::default());
    e
}
