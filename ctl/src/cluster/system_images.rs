//! The images that every node gets without a registry: pause, and busybox for trying things out. Both are made
//! here, from our own static program and the distribution's static busybox.

use std::process::Command;

use anyhow::Context;

use super::Options;
use crate::image::archive::{self, Entry, Image};

/// The sandbox image, named as upstream names its own.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// The demo image. Its tag is not `latest`, so that it is not pulled again.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35";

/// Both images as one archive.
///
/// # Errors
/// A binary cannot be read.
pub fn archive(options: &Options) -> anyhow::Result<Vec<u8>> {
    let read = |p: &std::path::Path| std::fs::read(p).with_context(|| format!("reading {}", p.display()));
    let pause = Image {
        name: PAUSE.into(),
        entries: vec![Entry::File { path: "pause".into(), mode: 0o755, data: read(&options.pause)? }],
        entrypoint: vec!["/pause".into()],
        command: vec![],
        env: vec![],
        user: "65535:65535".into(),
    };
    let busybox = Image {
        name: BUSYBOX.into(),
        entries: busybox_entries(&options.busybox, read(&options.busybox)?)?,
        entrypoint: vec![],
        command: vec!["sh".into()],
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
        user: String::new(),
    };
    archive::build(&[pause, busybox])
}

fn busybox_entries(binary: &std::path::Path, data: Vec<u8>) -> anyhow::Result<Vec<Entry>> {
    let list = Command::new(binary)
        .arg("--list")
        .output()
        .with_context(|| format!("running {} --list", binary.display()))?;
    let directory = |path: &str, mode| Entry::Directory { path: path.into(), mode };
    let text = |path: &str, text: &str| Entry::File { path: path.into(), mode: 0o644, data: text.into() };
    let mut entries = vec![
        directory("bin", 0o755),
        directory("etc", 0o755),
        directory("root", 0o700),
        directory("tmp", 0o1777),
        directory("var", 0o755),
        directory("usr", 0o755),
        Entry::Symlink { path: "usr/bin".into(), target: "../bin".into() },
        Entry::Symlink { path: "sbin".into(), target: "bin".into() },
        text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        text("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        Entry::File { path: "bin/busybox".into(), mode: 0o755, data },
    ];
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| !a.is_empty() && *a != "busybox") {
        entries.push(Entry::Symlink { path: format!("bin/{applet}"), target: "busybox".into() });
    }
    Ok(entries)
}
