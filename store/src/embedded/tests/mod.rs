//! Tests of the engine as a whole.

mod crash;
mod defrag;
mod format;
mod full;
mod group;
mod kill;
mod restart;
pub mod sim;

use std::path::Path;
use std::sync::Arc;

use super::{Config, Engine};
use crate::Store;

fn open(dir: &Path) -> Arc<dyn Store> {
    Engine::open(Config { retention_seconds: 0, ..Config::new(dir) }).unwrap()
}

async fn alone(dir: &Path) -> (Arc<dyn Store>, ()) {
    (open(dir), ())
}

crate::conformance::suite!(alone);
