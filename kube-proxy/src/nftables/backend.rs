//! Runs `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{info, warn};

use super::rules::{Config, Rules, TABLE, service};
use super::script;
use crate::iptables::script::Script;
use crate::model::ServiceName;
use crate::model::state::State;
use crate::sync::Outcome;

/// The nftables proxier of one family.
pub struct Backend {
    config: Config,
    installed: BTreeMap<ServiceName, Rules>,
    /// How many services use an element.
    users: BTreeMap<(&'static str, String), usize>,
    need_full: bool,
}

async fn nft(args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("running nft: is the package nftables installed?")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let text = input.to_owned();
    let feed = tokio::spawn(async move {
        // When the tool stops reading, its exit status says why.
        let _ = stdin.write_all(text.as_bytes()).await;
    });
    let out = child.wait_with_output().await?;
    let _ = feed.await;
    if !out.status.success() {
        let error = String::from_utf8_lossy(&out.stderr);
        bail!("nft {}: {}", args.join(" "), error.lines().take(4).collect::<Vec<_>>().join(" | "));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether nft works here for a family (`ip` or `ip6`).
///
/// # Errors
/// Why not.
pub async fn probe(ip: &str) -> anyhow::Result<()> {
    // A trial that changes nothing: -c only checks.
    let trial = format!(
        "add table {ip} {TABLE}-probe\nadd chain {ip} {TABLE}-probe x {{ type nat hook postrouting priority srcnat ; }}\n"
    );
    nft(&["-c", "-f", "-"], &trial).await.map(|_| ())
}

impl Backend {
    /// A proxier that has installed nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, installed: BTreeMap::new(), users: BTreeMap::new(), need_full: true }
    }

    /// The configuration in use.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The next sync writes everything.
    pub fn force_full(&mut self) {
        self.need_full = true;
    }

    fn wanted(&self, state: &State, name: &ServiceName) -> Option<Rules> {
        let s = state.service(name)?;
        let rules = service(&self.config, name, s, |p| state.endpoints(name, p));
        (!rules.is_empty()).then_some(rules)
    }

    /// Brings the kernel in line with `state`, of which `dirty` services changed.
    ///
    /// # Errors
    /// The tool failed; the next sync writes everything.
    pub async fn sync(&mut self, state: &State, dirty: &BTreeSet<ServiceName>) -> anyhow::Result<Outcome> {
        if !self.need_full {
            let wanted: BTreeMap<ServiceName, Option<Rules>> =
                dirty.iter().map(|n| (n.clone(), self.wanted(state, n))).collect();
            let script = script::partial(&self.config, &self.installed, &wanted, &self.users);
            match run(&script).await {
                Ok(()) => {
                    for (name, rules) in wanted {
                        self.replace(name, rules);
                    }
                    return Ok(Outcome { full: false, written: script.rules, total: self.total() });
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "incremental change failed, writing the whole table");
                    self.need_full = true;
                }
            }
        }
        let rules: BTreeMap<ServiceName, Rules> =
            state.services().filter_map(|(n, _)| Some((n.clone(), self.wanted(state, n)?))).collect();
        let script = script::full(&self.config, rules.values());
        run(&script).await?;
        info!(
            family = self.config.family.name(),
            services = rules.len(),
            rules = script.rules,
            "table written"
        );
        self.installed.clear();
        self.users.clear();
        for (name, r) in rules {
            self.replace(name, Some(r));
        }
        self.need_full = false;
        Ok(Outcome { full: true, written: script.rules, total: self.total() })
    }

    fn replace(&mut self, name: ServiceName, rules: Option<Rules>) {
        let old = match rules {
            Some(r) => {
                for key in r.elements.keys() {
                    *self.users.entry(key.clone()).or_default() += 1;
                }
                self.installed.insert(name, r)
            }
            None => self.installed.remove(&name),
        };
        for key in old.iter().flat_map(|r| r.elements.keys()) {
            if let Some(n) = self.users.get_mut(key) {
                *n -= 1;
                if *n == 0 {
                    self.users.remove(key);
                }
            }
        }
    }

    fn total(&self) -> usize {
        self.installed.values().map(Rules::len).sum()
    }

    /// Whether our table is still there.
    pub async fn alive(&self) -> bool {
        nft(&["list", "map", self.config.ip(), TABLE, "service-ips"], "").await.is_ok()
    }
}

async fn run(script: &Script) -> anyhow::Result<()> {
    if script.text.is_empty() {
        return Ok(());
    }
    nft(&["-f", "-"], &script.text).await.map(|_| ())
}

/// Removes our tables.
///
/// # Errors
/// The tool failed.
pub async fn clean_up(ip: &str) -> anyhow::Result<()> {
    nft(&["-f", "-"], &format!("add table {ip} {TABLE}\ndelete table {ip} {TABLE}\n")).await?;
    info!(family = ip, "nftables rules are removed");
    Ok(())
}
