//! Makes faults happen, and undoes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use integration_tests::{Group, command};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use tokio::task::block_in_place;

use crate::plan::{Fault, Step, Target};
use crate::{clock, net, power};

/// See the module.
pub struct Injector {
    group: Arc<Group>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

impl Injector {
    /// # Errors
    /// The clocks' files cannot be written.
    pub fn new(group: &Arc<Group>) -> anyhow::Result<Self> {
        for n in group.members() {
            clock::set(n, 0)?;
        }
        Ok(Self { group: Arc::clone(group), counts: Mutex::default() })
    }

    /// Makes it happen and lets it last; [`Self::heal`] ends it.
    ///
    /// # Errors
    /// The machine does not let it happen.
    pub async fn inject(&self, step: &Step) -> anyhow::Result<()> {
        let lasting = tokio::time::sleep(step.length);
        match step.fault {
            Fault::Kill(t) => {
                for n in self.targets(t).await {
                    self.group.signal(n, Signal::SIGKILL).await;
                }
                lasting.await;
            }
            Fault::Pause(t) => {
                let targets = self.targets(t).await;
                self.signal(&targets, Signal::SIGSTOP).await;
                lasting.await;
                self.signal(&targets, Signal::SIGCONT).await;
            }
            Fault::Partition(t, cut) => {
                for n in self.targets(t).await {
                    self.rules(n, &net::cut(cut, &self.others(n)))?;
                }
                lasting.await;
            }
            Fault::Loss(percent) => {
                for n in self.group.members() {
                    self.rules(n, &net::loss(percent, &self.others(n)))?;
                }
                lasting.await;
            }
            Fault::DiskFull(t) => {
                for n in self.targets(t).await {
                    block_in_place(|| fill(&self.filler(n)))?;
                }
                lasting.await;
            }
            Fault::Clock(t, seconds) => {
                for n in self.targets(t).await {
                    clock::set(n, seconds)?;
                }
                // It takes a second until it is noticed.
                tokio::time::sleep(Duration::from_secs(1)).await;
                lasting.await;
            }
            Fault::PowerCut(t) => {
                let targets = self.targets(t).await;
                for n in &targets {
                    block_in_place(|| power::cut(&self.group.data(*n)))?;
                }
                for n in &targets {
                    self.group.signal(*n, Signal::SIGKILL).await;
                    self.replug(*n).await?;
                }
                lasting.await;
            }
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(step.fault.kind()).or_default() +=
            1;
        Ok(())
    }

    /// Undoes everything, starts whoever does not run, and waits until all are ready. Says who is not.
    ///
    /// # Errors
    /// Something cannot be undone.
    pub async fn heal(&self, within: Duration) -> anyhow::Result<Vec<String>> {
        for n in self.group.members() {
            self.rules(n, &net::healed())?;
            clock::set(n, 0)?;
            let filler = self.filler(n);
            let was_full = filler.exists();
            if was_full {
                std::fs::remove_file(&filler).with_context(|| filler.display().to_string())?;
            }
            // Where the store does not go on by itself, it says so and wants to be started anew.
            if was_full && self.group.wait_ready(n, Duration::from_secs(10)).await.is_err() {
                *self
                    .counts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry("restarts after a full disk")
                    .or_default() += 1;
                self.group.signal(n, Signal::SIGKILL).await;
            }
            if !self.group.runs(n) {
                self.group.spawn(n)?;
            }
        }
        let mut stuck = Vec::new();
        for n in self.group.members() {
            if let Err(e) = self.group.wait_ready(n, within).await {
                stuck.push(format!("{e:#}"));
                // The others' story is worth hearing all the same.
                self.group.signal(n, Signal::SIGKILL).await;
                self.group.spawn(n)?;
            }
        }
        Ok(stuck)
    }

    /// How often each kind happened.
    pub fn counts(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
    }

    async fn targets(&self, target: Target) -> Vec<u32> {
        let leader = self.group.leader().await;
        let leads = |n: &u32| Some(*n) == leader;
        match target {
            Target::All => self.group.members().collect(),
            // Whoever was to lead: some server is hit in any case.
            Target::Leader => vec![leader.unwrap_or(1)],
            Target::Follower => self.group.members().find(|n| !leads(n)).into_iter().collect(),
        }
    }

    fn others(&self, n: u32) -> Vec<String> {
        self.group.members().filter(|o| *o != n).map(|o| self.group.address(o)).collect()
    }

    async fn signal(&self, targets: &[u32], signal: Signal) {
        for n in targets {
            self.group.signal(*n, signal).await;
        }
    }

    fn rules(&self, n: u32, rules: &str) -> anyhow::Result<()> {
        let out = block_in_place(|| self.group.inside(n, "nft", &["-f", "-"], Some(rules)));
        if out.code != 0 {
            bail!("nft in the namespace of server {n}: {}", out.stderr);
        }
        Ok(())
    }

    /// What takes the room on a full disk.
    fn filler(&self, n: u32) -> PathBuf {
        self.group.data(n).join("filler")
    }

    /// Takes the disk out and puts it in again: what was in memory is gone. A process that was killed may hold it for
    /// a moment.
    async fn replug(&self, n: u32) -> anyhow::Result<()> {
        for attempt in 0.. {
            match block_in_place(|| self.group.unmount(n)) {
                Ok(()) => break,
                Err(e) if attempt == 50 => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        block_in_place(|| self.group.mount(n))?;
        self.group.reboot(n)
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        clock::remove(self.group.members());
    }
}

/// Takes all room that is left, down to the last block.
fn fill(path: &PathBuf) -> anyhow::Result<()> {
    File::create(path).with_context(|| path.display().to_string())?;
    let mut size = 0;
    for _ in 0..64 {
        let free = statvfs(path)?;
        let bytes = free.blocks_available() * free.fragment_size();
        if bytes == 0 {
            return Ok(());
        }
        // The server takes some of it meanwhile, and the file system for its own books.
        for share in [1, 2, 8, 64] {
            let wanted = size + (bytes / share).max(4096);
            let mut c = Command::new("fallocate");
            c.arg("-l").arg(wanted.to_string()).arg(path);
            if command::run(c, None).code == 0 {
                size = wanted;
                break;
            }
        }
    }
    Ok(())
}
