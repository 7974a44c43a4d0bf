//! The cluster's network on this machine: a bridge on the host, a network namespace per node, routes to the pods,
//! and, where wanted, address translation so that nodes reach what the host reaches.

use std::process::Command;

use anyhow::{Context, bail};

use super::Options;
use super::layout::Layout;

/// Makes bridge, namespaces and links; what is there is left alone.
///
/// # Errors
/// Says which command failed, with its own words.
pub fn ensure(options: &Options, layout: &Layout) -> anyhow::Result<()> {
    let bridge = layout.bridge();
    if !exists(&format!("/sys/class/net/{bridge}")) {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
    }
    ip(&["address", "replace", &format!("{}/24", layout.host_ip()), "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])?;
    for n in 1..=options.nodes {
        node(layout, n)?;
    }
    if options.egress {
        egress(layout)?;
    }
    Ok(())
}

fn node(layout: &Layout, n: u32) -> anyhow::Result<()> {
    let (namespace, link) = (layout.namespace(n), layout.link(n));
    if !exists(&format!("/run/netns/{namespace}")) {
        ip(&["netns", "add", &namespace])?;
    }
    let inside = |args: &[&str]| ip(&[&["-n", namespace.as_str()], args].concat());
    let known = exists(&format!("/sys/class/net/{link}"));
    if !known || inside(&["link", "show", "eth0"]).is_err() {
        if known {
            // Of a namespace that was deleted: the kernel removes it in a while, or has by now.
            let _ = ip(&["link", "delete", &link]);
        }
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
    }
    ip(&["link", "set", &link, "master", &layout.bridge(), "up"])?;
    inside(&["link", "set", "lo", "up"])?;
    inside(&["address", "replace", &format!("{}/24", layout.node_ip(n)), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["route", "replace", "default", "via", &layout.host_ip().to_string()])?;
    for (key, value) in [("net.ipv4.ip_forward", "1"), ("net.ipv4.conf.all.rp_filter", "0")] {
        let mut c = super::process::in_namespace(&namespace, "sysctl".as_ref());
        run(c.args(["-qw", &format!("{key}={value}")]))?;
    }
    Ok(())
}

/// Makes a node's pods reachable from the host and from the other nodes.
///
/// # Errors
/// As [`ensure`].
pub fn route_to_pods(options: &Options, layout: &Layout, n: u32, pod_cidr: &str) -> anyhow::Result<()> {
    let via = layout.node_ip(n).to_string();
    ip(&["route", "replace", pod_cidr, "via", &via])?;
    for other in (1..=options.nodes).filter(|o| *o != n) {
        ip(&["-n", &layout.namespace(other), "route", "replace", pod_cidr, "via", &via])?;
    }
    Ok(())
}

/// One table on the host, named after the bridge, so that removing it is one command.
fn egress(layout: &Layout) -> anyhow::Result<()> {
    let (table, host) = (layout.bridge(), layout.host_ip());
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n chain postrouting {{\n  type nat hook postrouting priority srcnat;\n  ip saddr {host}/24 oifname != \"{table}\" masquerade\n }}\n}}\n"
    );
    use std::io::Write;
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .context("running nft: apt-get install nftables, or use --egress=false")?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    if !nft.wait()?.success() {
        bail!("nft refused the rules that let nodes reach the outside; --egress=false does without");
    }
    run(Command::new("sysctl").args(["-qw", &format!("net.ipv4.conf.{table}.forwarding=1")]))
}

/// Removes links, namespaces and the table. Returns what could not be removed.
pub fn remove(layout: &Layout) -> Vec<String> {
    let mut left = Vec::new();
    let bridge = layout.bridge();
    // The kernel takes its time over a namespace that was deleted, and would keep the links in it for so long.
    for name in named("/sys/class/net", &format!("{bridge}n")) {
        if let Err(e) = ip(&["link", "delete", &name]) {
            left.push(format!("link {name}: {e:#}"));
        }
    }
    for name in named("/run/netns", &format!("{bridge}-")) {
        if let Err(e) = ip(&["netns", "delete", &name]) {
            left.push(format!("network namespace {name}: {e:#}"));
        }
    }
    if exists(&format!("/sys/class/net/{bridge}"))
        && let Err(e) = ip(&["link", "delete", &bridge])
    {
        left.push(format!("link {bridge}: {e:#}"));
    }
    // Fails where there is no such table, or no nft: then there is nothing to remove.
    let _ = Command::new("nft")
        .args(["delete", "table", "ip", &bridge])
        .stderr(std::process::Stdio::null())
        .status();
    left
}

/// Entries of a folder whose names begin so.
fn named(folder: &str, prefix: &str) -> impl Iterator<Item = String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(move |name| name.starts_with(prefix))
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args))
}

/// Runs a command to its end; its words are the error's.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    bail!(
        "{} {}: {}",
        command.get_program().to_string_lossy(),
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
