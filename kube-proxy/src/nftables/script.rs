//! Transactions for `nft -f -`.
//!
//! A full transaction replaces the table in one step: the kernel switches from old to new rules between two
//! packets. A partial one touches only the elements and chains that changed. Set contents that packets made
//! (session affinity) survive partial changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::rules::{Config, Rules, TABLE, frame};
use crate::iptables::script::Script;
use crate::model::ServiceName;

struct Tx<'a> {
    ip: &'a str,
    text: String,
    rules: usize,
}

impl Tx<'_> {
    fn line(&mut self, verb: &str, noun: &str, rest: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "{verb} {noun} {} {TABLE} {rest}", self.ip);
    }

    fn element(&mut self, verb: &str, map: &str, key: &str, value: &str) {
        let sep = if value.is_empty() { "" } else { " : " };
        self.line(verb, "element", &format!("{map} {{ {key}{sep}{value} }}"));
        self.rules += 1;
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        self.line("add", "rule", &format!("{chain} {rule}"));
        self.rules += 1;
    }

    fn affinity(&mut self, address: &str, name: &str, seconds: u32) {
        let spec = format!("{name} {{ type {address} ; flags dynamic,timeout ; timeout {seconds}s ; }}");
        self.line("add", "set", &spec);
    }

    fn finish(self) -> Script {
        Script { text: self.text, rules: self.rules }
    }
}

fn address_type(c: &Config) -> &'static str {
    if c.ip() == "ip" { "ipv4_addr" } else { "ipv6_addr" }
}

/// The whole table anew.
#[must_use]
pub fn full<'a>(c: &Config, services: impl Iterator<Item = &'a Rules>) -> Script {
    let ip = c.ip();
    let mut t = Tx { ip, text: String::new(), rules: 0 };
    // Adding first makes the deletion work whether or not the table is there.
    let _ = write!(t.text, "add table {ip} {TABLE}\ndelete table {ip} {TABLE}\n");
    let _ = writeln!(t.text, "add table {ip} {TABLE} {{ comment \"rules for kube-proxy\" ; }}");
    let f = frame(c);
    for (_, declaration) in &f.maps {
        let _ = writeln!(t.text, "add {declaration}");
    }
    for (name, hook) in &f.base {
        t.line("add", "chain", &format!("{name} {{ {hook} }}"));
    }
    for (name, _) in f.chains.iter().filter(|(n, _)| !f.base.iter().any(|b| b.0 == *n)) {
        t.line("add", "chain", name);
    }
    for (chain, rules) in &f.chains {
        rules.iter().for_each(|r| t.rule(chain, r));
    }
    for (map, key) in &f.elements {
        t.element("add", map, key, "");
    }
    let services: Vec<&Rules> = services.collect();
    for s in &services {
        s.affinity.iter().for_each(|(n, secs)| t.affinity(address_type(c), n, *secs));
        s.chains.keys().for_each(|n| t.line("add", "chain", n));
    }
    let mut done: BTreeSet<(&str, &str)> = BTreeSet::new();
    for s in &services {
        for (chain, rules) in &s.chains {
            rules.iter().for_each(|r| t.rule(chain, r));
        }
        for ((map, key), value) in &s.elements {
            // An endpoint may serve several services.
            if done.insert((map, key)) {
                t.element("add", map, key, value);
            }
        }
    }
    t.finish()
}

/// From the installed state of some services to the wanted one. `users` tells how many installed services have an
/// element.
#[must_use]
pub fn partial(
    c: &Config,
    installed: &BTreeMap<ServiceName, Rules>,
    wanted: &BTreeMap<ServiceName, Option<Rules>>,
    users: &BTreeMap<(&'static str, String), usize>,
) -> Script {
    let none = Rules::default();
    let mut t = Tx { ip: c.ip(), text: String::new(), rules: 0 };
    let pairs: Vec<(&Rules, &Rules)> = wanted
        .iter()
        .map(|(n, new)| (installed.get(n).unwrap_or(&none), new.as_ref().unwrap_or(&none)))
        .collect();
    for (old, new) in &pairs {
        for (name, seconds) in &new.affinity {
            if old.affinity.get(name) != Some(seconds) {
                t.affinity(address_type(c), name, *seconds);
            }
        }
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) != Some(rules) {
                t.line("add", "chain", chain);
                t.line("flush", "chain", chain);
            }
        }
    }
    for (old, new) in &pairs {
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) != Some(rules) {
                rules.iter().for_each(|r| t.rule(chain, r));
            }
        }
    }
    // How often each element is used afterwards decides whether it stays.
    let mut after: BTreeMap<&(&'static str, String), isize> = BTreeMap::new();
    for (old, new) in &pairs {
        old.elements.keys().for_each(|k| *after.entry(k).or_default() -= 1);
        new.elements.keys().for_each(|k| *after.entry(k).or_default() += 1);
    }
    let before: BTreeMap<&(&'static str, String), &String> =
        pairs.iter().flat_map(|(old, _)| old.elements.iter()).collect();
    let wanted_now: BTreeMap<&(&'static str, String), &String> =
        pairs.iter().flat_map(|(_, new)| new.elements.iter()).collect();
    for (key, change) in &after {
        let had = users.get(*key).copied().unwrap_or(0);
        let left = had.saturating_add_signed(*change);
        if had > 0 && (left == 0 || (before.get(key) != wanted_now.get(key) && wanted_now.contains_key(key)))
        {
            t.element("delete", key.0, &key.1, "");
        }
    }
    for (key, value) in &wanted_now {
        let had = users.get(*key).copied().unwrap_or(0);
        if had == 0 || before.get(key).is_some_and(|v| v != value) {
            t.element("add", key.0, &key.1, value);
        }
    }
    let mut gone: Vec<&String> = Vec::new();
    for (old, new) in &pairs {
        gone.extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)));
    }
    gone.iter().for_each(|n| t.line("flush", "chain", n));
    gone.iter().for_each(|n| t.line("delete", "chain", n));
    for (old, new) in &pairs {
        for name in old.affinity.keys().filter(|n| !new.affinity.contains_key(*n)) {
            t.line("delete", "set", name);
        }
    }
    t.finish()
}
