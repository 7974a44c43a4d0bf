//! Input for `iptables-restore --noflush`: everything at once, or only what changed.
//!
//! Chains of a service are rewritten when their content changes. From the chains that services share, single rules
//! are taken out and put in, so the size of a change does not depend on the size of the cluster. Each table is
//! committed as a whole: no packet sees half a change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::names;
use super::rules::{Config, Rules, Table, fixed};
use crate::model::ServiceName;

/// Input for the tool, with its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub text: String,
    /// Rules added, deleted or rewritten.
    pub rules: usize,
}

#[derive(Default)]
struct Lines {
    chains: String,
    rules: String,
    count: usize,
}

impl Lines {
    fn chain(&mut self, name: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.chains, ":{name} - [0:0]");
    }

    fn rule(&mut self, verb: &str, chain: &str, rule: &str) {
        let sep = if rule.is_empty() { "" } else { " " };
        let _ = writeln!(self.rules, "{verb} {chain}{sep}{rule}");
        self.count += 1;
    }
}

#[derive(Default)]
struct Tables {
    filter: Lines,
    nat: Lines,
}

impl Tables {
    fn of(&mut self, t: Table) -> &mut Lines {
        match t {
            Table::Filter => &mut self.filter,
            Table::Nat => &mut self.nat,
        }
    }

    fn finish(self) -> Script {
        let mut out = Script::default();
        for (name, l) in [("filter", self.filter), ("nat", self.nat)] {
            if l.chains.is_empty() && l.rules.is_empty() {
                continue;
            }
            let _ = write!(out.text, "*{name}\n{}{}COMMIT\n", l.chains, l.rules);
            out.rules += l.count;
        }
        out
    }
}

/// Everything: fixed chains and all services; service chains in `existing` that nobody needs any more go.
#[must_use]
pub fn full<'a>(
    c: &Config,
    services: impl Iterator<Item = &'a Rules>,
    existing: &BTreeSet<String>,
) -> Script {
    let mut t = Tables::default();
    let mut last: Vec<(Table, &str, Vec<String>)> = Vec::new();
    for (table, chain, rules) in fixed(c) {
        t.of(table).chain(chain);
        if table == Table::Nat && chain == names::SERVICES {
            // These come after the rules of all services.
            last.push((table, chain, rules));
        } else {
            for r in rules {
                t.of(table).rule("-A", chain, &r);
            }
        }
    }
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for s in services {
        for (table, chain, rule) in &s.shared {
            t.of(*table).rule("-A", chain, rule);
        }
        for (chain, rules) in &s.chains {
            needed.insert(chain);
            t.nat.chain(chain);
            for r in rules {
                t.nat.rule("-A", chain, r);
            }
        }
    }
    for (table, chain, rules) in last {
        for r in rules {
            t.of(table).rule("-A", chain, &r);
        }
    }
    for chain in existing {
        if names::is_service_chain(chain) && !needed.contains(chain.as_str()) {
            t.nat.chain(chain);
            t.nat.rule("-X", chain, "");
        }
    }
    t.finish()
}

/// From the installed rules of some services to the wanted ones (an absent service has none).
#[must_use]
pub fn partial(
    installed: &BTreeMap<ServiceName, Rules>,
    wanted: &BTreeMap<ServiceName, Option<Rules>>,
) -> Script {
    let none = Rules::default();
    let mut t = Tables::default();
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for (name, new) in wanted {
        let old = installed.get(name).unwrap_or(&none);
        let new = new.as_ref().unwrap_or(&none);
        for (table, chain, rule) in &new.shared {
            if !old.shared.iter().any(|x| (x.0, x.1, &x.2) == (*table, *chain, rule)) {
                // At the head: the jump to the node ports must stay last.
                t.of(*table).rule("-I", chain, rule);
            }
        }
        for (table, chain, rule) in &old.shared {
            if !new.shared.iter().any(|x| (x.0, x.1, &x.2) == (*table, *chain, rule)) {
                t.of(*table).rule("-D", chain, rule);
            }
        }
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) == Some(rules) {
                continue;
            }
            t.nat.chain(chain);
            for r in rules {
                t.nat.rule("-A", chain, r);
            }
        }
        gone.extend(old.chains.keys().filter(|c| !new.chains.contains_key(*c)).map(String::as_str));
    }
    for chain in &gone {
        t.nat.chain(chain);
    }
    // Once nothing refers to them.
    for chain in &gone {
        t.nat.rule("-X", chain, "");
    }
    t.finish()
}

/// Names of the chains in the output of `iptables-save`.
#[must_use]
pub fn chains(saved: &str) -> BTreeSet<String> {
    saved.lines().filter_map(|l| l.strip_prefix(':')?.split(' ').next()).map(str::to_owned).collect()
}
