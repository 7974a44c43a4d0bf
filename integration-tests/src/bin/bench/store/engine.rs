//! Our engine in a process of its own, which is this program once more: what it takes in memory is then the engine's
//! alone, and it can be killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use store::Store;
use store::embedded::{Config, Engine};

use super::load::{fill, put, value};

/// The first argument that makes this program that process.
pub const ARGUMENT: &str = "engine";
const READY: &str = "ready";

/// The process; killed with signal 9 when dropped.
pub struct Child(std::process::Child);

impl Child {
    /// Makes a store of so many objects; returns when all are there.
    pub fn fill(dir: &Path, objects: usize, bytes: usize) -> anyhow::Result<Child> {
        Child::start(dir, &[objects.to_string(), bytes.to_string()])
    }

    /// Opens a store; returns when it has read and written.
    pub fn open(dir: &Path) -> anyhow::Result<Child> {
        Child::start(dir, &[])
    }

    fn start(dir: &Path, more: &[String]) -> anyhow::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).arg(dir).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child(command.spawn().context("starting the engine's process")?);
        let out = child.0.stdout.take().context("the process has no output")?;
        let mut said = String::new();
        BufReader::new(out).read_line(&mut said)?;
        if said.trim() != READY {
            bail!("the engine's process has ended: {}", child.0.wait()?);
        }
        Ok(child)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What that process does: `engine DIRECTORY [OBJECTS BYTES]`. It ends with its input.
pub fn main(arguments: &[String]) -> anyhow::Result<()> {
    let dir = arguments.first().context("which directory?")?;
    let numbers = arguments[1..].iter().map(|n| n.parse::<usize>().context("a number"));
    let numbers = numbers.collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime
        .block_on(async {
            let engine: Arc<dyn Store> = Engine::open(Config::new(dir))?;
            match numbers[..] {
                [objects, bytes] => fill(&[Arc::clone(&engine)], objects, bytes).await?,
                _ => {
                    let key = "/registry/configmaps/bench-0/restarted".to_owned();
                    let there = engine.get(&key, 0).await?.map_or(0, |kv| kv.mod_revision);
                    put(&*engine, key, there, value(1)).await?;
                }
            }
            println!("{READY}");
            anyhow::Ok(engine)
        })
        .and_then(|engine| {
            // Until the parent is gone, or kills this.
            std::io::stdin().read_to_end(&mut Vec::new())?;
            drop(engine);
            Ok(())
        })
}
