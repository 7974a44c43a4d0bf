//! Runs the iptables tools: set-up of chains and jumps, bulk changes, the canary, clean-up.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context, anyhow, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{debug, info, warn};

use super::names;
use super::rules::{Config, JUMPS, KUBELET_JUMPS, Rules, Table, service};
use super::script::{self, Script};
use crate::model::state::State;
use crate::model::{Family, ServiceName};
use crate::sync::Outcome;

/// The iptables proxier of one family.
pub struct Backend {
    config: Config,
    installed: BTreeMap<ServiceName, Rules>,
    need_full: bool,
}

/// Seconds the tools wait for each other's lock.
const LOCK_WAIT: &str = "5";

fn tool(family: Family, suffix: &str) -> String {
    match family {
        Family::V4 => format!("iptables{suffix}"),
        Family::V6 => format!("ip6tables{suffix}"),
    }
}

async fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {program}: is it installed?"))?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

async fn restore(family: Family, script: &Script) -> anyhow::Result<()> {
    let program = tool(family, "-restore");
    let mut child = Command::new(&program)
        .args(["-w", LOCK_WAIT, "--noflush", "--counters"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("running {program}: is it installed?"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let text = script.text.clone();
    let feed = tokio::spawn(async move {
        // When the tool stops reading, its exit status says why.
        let _ = stdin.write_all(text.as_bytes()).await;
    });
    let out = child.wait_with_output().await?;
    let _ = feed.await;
    if out.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    let line = error
        .split("line ")
        .nth(1)
        .and_then(|r| r.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok())
        .and_then(|n| script.text.lines().nth(n.saturating_sub(1)));
    Err(anyhow!("{program}: {error}; in: {}", line.unwrap_or("(unknown line)")))
}

/// Whether the tools for a family work here.
///
/// # Errors
/// Why not.
pub async fn probe(family: Family) -> anyhow::Result<()> {
    output(&tool(family, ""), &["-w", LOCK_WAIT, "-t", "nat", "-S", "POSTROUTING"]).await.map(|_| ())
}

/// Whether `MASQUERADE --random-fully` can be used.
pub async fn random_fully(family: Family) -> bool {
    let Ok(text) = output(&tool(family, ""), &["--version"]).await else { return false };
    let version = text.split_whitespace().nth(1).unwrap_or("").trim_start_matches('v');
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let v = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    v >= (1, 6, 2)
}

impl Backend {
    /// A proxier that has installed nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, installed: BTreeMap::new(), need_full: true }
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
    /// A tool failed; the next sync writes everything.
    pub async fn sync(&mut self, state: &State, dirty: &BTreeSet<ServiceName>) -> anyhow::Result<Outcome> {
        if !self.need_full {
            match self.sync_changes(state, dirty).await {
                Ok(o) => return Ok(o),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "incremental change failed, writing all rules");
                    self.need_full = true;
                }
            }
        }
        self.sync_all(state).await
    }

    async fn sync_changes(
        &mut self,
        state: &State,
        dirty: &BTreeSet<ServiceName>,
    ) -> anyhow::Result<Outcome> {
        let wanted: BTreeMap<ServiceName, Option<Rules>> =
            dirty.iter().map(|n| (n.clone(), self.wanted(state, n))).collect();
        let script = script::partial(&self.installed, &wanted);
        if !script.text.is_empty() {
            restore(self.config.family, &script).await?;
        }
        for (name, rules) in wanted {
            match rules {
                Some(r) => self.installed.insert(name, r),
                None => self.installed.remove(&name),
            };
        }
        Ok(Outcome { full: false, written: script.rules, total: self.total() })
    }

    async fn sync_all(&mut self, state: &State) -> anyhow::Result<Outcome> {
        let family = self.config.family;
        self.set_up().await?;
        let rules: BTreeMap<ServiceName, Rules> =
            state.services().filter_map(|(n, _)| Some((n.clone(), self.wanted(state, n)?))).collect();
        let save = tool(family, "-save");
        let existing = script::chains(&output(&save, &["-t", "nat"]).await?);
        let script = script::full(&self.config, rules.values(), &existing);
        restore(family, &script).await?;
        info!(family = family.name(), services = rules.len(), rules = script.rules, "all rules written");
        self.installed = rules;
        self.need_full = false;
        Ok(Outcome { full: true, written: script.rules, total: self.total() })
    }

    fn total(&self) -> usize {
        self.installed.values().map(Rules::len).sum()
    }

    /// Our base chains and the jumps to them. Chains that exist keep their rules until the bulk change.
    async fn set_up(&self) -> anyhow::Result<()> {
        let family = self.config.family;
        blocking(move || {
            let ipt = open(family)?;
            for table in ["mangle", "nat", "filter"] {
                ensure_chain(&ipt, table, names::CANARY)?;
            }
            for (table, from, to, args, comment) in JUMPS.iter().chain(KUBELET_JUMPS) {
                let table = table.name();
                ensure_chain(&ipt, table, to)?;
                let rule = jump(to, args, comment);
                let there = ipt.exists(table, from, &rule).map_err(|e| anyhow!("{e}"))?;
                if !there {
                    ipt.insert(table, from, &rule, 1)
                        .map_err(|e| anyhow!("adding a jump from {from} to {to} in table {table}: {e}"))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether our rules are still there: somebody may have flushed the tables.
    pub async fn canary_lives(&self) -> bool {
        let family = self.config.family;
        let program = tool(family, "");
        for table in ["mangle", "nat", "filter"] {
            let args = ["-w", LOCK_WAIT, "-t", table, "-S", names::CANARY];
            if let Err(e) = output(&program, &args).await {
                debug!(error = format!("{e:#}"), table, "the canary is gone");
                return false;
            }
        }
        true
    }
}

fn jump(to: &str, args: &str, comment: &str) -> String {
    let comment =
        if comment.is_empty() { String::new() } else { format!("-m comment --comment \"{comment}\" ") };
    let args = if args.is_empty() { String::new() } else { format!("{args} ") };
    format!("{args}{comment}-j {to}")
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(f).await.context("background work panicked")?
}

fn open(family: Family) -> anyhow::Result<iptables::IPTables> {
    iptables::new(family == Family::V6)
        .map_err(|e| anyhow!("{}: {e}; is the package iptables installed?", tool(family, "")))
}

/// Makes a chain unless it is there. (Asking for one chain would list its rules, and that resolves host names.)
fn ensure_chain(ipt: &iptables::IPTables, table: &str, chain: &str) -> anyhow::Result<()> {
    let chains = ipt.list_chains(table).map_err(|e| anyhow!("listing the chains of table {table}: {e}"))?;
    if !chains.iter().any(|c| c == chain) {
        ipt.new_chain(table, chain).map_err(|e| anyhow!("making chain {chain} in table {table}: {e}"))?;
    }
    Ok(())
}

/// Removes everything of ours. The chain shared with the kubelet stays.
///
/// # Errors
/// A tool failed for another reason than that there is nothing to remove.
pub async fn clean_up(family: Family) -> anyhow::Result<()> {
    let save = tool(family, "-save");
    let mut rules = 0;
    for table in [Table::Filter, Table::Nat] {
        let name = table.name();
        let saved = output(&save, &["-t", name]).await?;
        let present = script::chains(&saved);
        let mut text = format!("*{name}\n");
        let ours: Vec<&String> = present
            .iter()
            .filter(|c| {
                names::is_service_chain(c)
                    || c.as_str() == names::CANARY
                    || JUMPS.iter().any(|j| j.0 == table && j.2 == c.as_str())
                    || (table == Table::Nat && [names::MARK_MASQ, names::NODE_PORTS].contains(&c.as_str()))
            })
            .collect();
        for chain in &ours {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        // Whatever leads to our chains from outside, as it is written there.
        for line in saved.lines().filter(|l| l.starts_with("-A ")) {
            let mut words = line.split(' ').skip(1);
            let from = words.next().unwrap_or("");
            let to = line.rsplit_once("-j ").map_or("", |x| x.1.trim());
            if !ours.iter().any(|c| *c == from) && ours.iter().any(|c| *c == to) {
                text.push_str(&format!("-D {}\n", &line[3..]));
                rules += 1;
            }
        }
        for chain in &ours {
            text.push_str(&format!("-X {chain}\n"));
        }
        text.push_str("COMMIT\n");
        if !ours.is_empty() {
            restore(family, &Script { text, rules }).await?;
        }
    }
    let mangle = output(&save, &["-t", "mangle"]).await?;
    if script::chains(&mangle).contains(names::CANARY) {
        let text = format!("*mangle\n:{0} - [0:0]\n-X {0}\nCOMMIT\n", names::CANARY);
        restore(family, &Script { text, rules: 0 }).await?;
    }
    info!(family = family.name(), "iptables rules are removed");
    Ok(())
}
