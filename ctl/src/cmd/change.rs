//! `ctl scale`, `label`, `annotate`, `set image` and `autoscale`: small changes to objects.

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::args::{Files, Found, Select, find};
use super::write::{FIELD_MANAGER, WriteFlags, each};
use crate::api::resources::{Catalog, array, text};
use crate::api::rest::Rest;

#[derive(Debug, clap::Args)]
pub struct Scale {
    /// TYPE NAME…, or TYPE/NAME…
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    #[arg(long)]
    all: bool,
    /// The new number of replicas
    #[arg(long)]
    replicas: u32,
    /// Only if there are so many replicas now
    #[arg(long)]
    current_replicas: Option<i64>,
    /// Only if the object has this resource version
    #[arg(long)]
    resource_version: Option<String>,
    #[command(flatten)]
    write: WriteFlags,
}

impl Scale {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let found = find(rest, &catalog, &self.files, &self.words, &self.select, self.all).await?;
        each!(found, |f| self.scale(rest, &f).await)
    }

    async fn scale(&self, rest: &Rest, f: &Found) -> anyhow::Result<()> {
        if !f.resource.subresources.iter().any(|s| s == "scale") {
            bail!("{} cannot be scaled: {} has no scale subresource", f.display(), f.resource.qualified());
        }
        let now = f.object["spec"]["replicas"].as_i64().unwrap_or(1);
        if self.current_replicas.is_some_and(|want| want != now) {
            bail!("Expected replicas to be {}, was {now}", self.current_replicas.unwrap_or_default());
        }
        let mut patch = json!({"spec": {"replicas": self.replicas}});
        if let Some(v) = &self.resource_version {
            patch["metadata"] = json!({"resourceVersion": v});
        }
        if self.write.dry_run != "client" {
            let path = format!("{}/scale?{}", f.path(), self.write.query(FIELD_MANAGER));
            rest.patch(&path, "merge", &patch).await?;
        }
        self.write.report(&f.resource, &f.object, "scaled")
    }
}

/// `KEY=VALUE…` and `KEY-…` on a map of an object's metadata.
#[derive(Debug, clap::Args)]
pub struct Metadata {
    /// TYPE NAME… (or TYPE/NAME…), then KEY=VALUE to set and KEY- to remove
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    #[arg(long)]
    all: bool,
    /// Replace values that are there
    #[arg(long)]
    overwrite: bool,
    /// Show what is there
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    write: WriteFlags,
}

impl Metadata {
    /// `field` is `labels` or `annotations`; `verb` says what was done.
    pub async fn run(self, rest: &Rest, field: &str, verb: &str) -> anyhow::Result<()> {
        let is_change = |w: &&String| {
            (w.contains('=') || w.ends_with('-')) && !w.contains('/') || w.contains('=') || w.ends_with('-')
        };
        let (changes, words): (Vec<String>, Vec<String>) =
            self.words.iter().cloned().partition(|w| is_change(&w));
        if changes.is_empty() && !self.list {
            bail!("at least one {} update is required", field.trim_end_matches('s'));
        }
        let catalog = Catalog::fetch(rest).await?;
        let found = find(rest, &catalog, &self.files, &words, &self.select, self.all).await?;
        each!(found, |f| self.change(rest, &f, field, verb, &changes).await)
    }

    async fn change(
        &self,
        rest: &Rest,
        f: &Found,
        field: &str,
        verb: &str,
        changes: &[String],
    ) -> anyhow::Result<()> {
        let now = &f.object["metadata"][field];
        if self.list {
            for (k, v) in now.as_object().into_iter().flatten() {
                println!("{k}={}", v.as_str().unwrap_or_default());
            }
            return Ok(());
        }
        let mut map = Map::new();
        let mut changed = false;
        for c in changes {
            if let Some((k, v)) = c.split_once('=') {
                match now.get(k).and_then(Value::as_str) {
                    Some(old) if old != v && !self.overwrite => {
                        bail!("'{k}' already has a value ({old}), and --overwrite is false")
                    }
                    old => changed |= old != Some(v),
                }
                map.insert(k.to_owned(), v.into());
            } else {
                let k = c.trim_end_matches('-');
                if now.get(k).is_none() {
                    println!("{} \"{k}\" not found.", field.trim_end_matches('s'));
                }
                changed |= now.get(k).is_some();
                map.insert(k.to_owned(), Value::Null);
            }
        }
        let removed_only = map.values().all(Value::is_null);
        let done = match (changed, removed_only, field) {
            (false, _, "labels") => "not labeled".to_owned(),
            (true, true, "labels") => "unlabeled".to_owned(),
            _ => verb.to_owned(),
        };
        let mut after = f.object.clone();
        if changed && self.write.dry_run != "client" {
            let path = format!("{}?{}", f.path(), self.write.query(FIELD_MANAGER));
            let mut metadata = Map::new();
            metadata.insert(field.to_owned(), Value::Object(map));
            after = rest.patch(&path, "merge", &json!({"metadata": metadata})).await?;
        }
        self.write.report(&f.resource, &after, &done)
    }
}

#[derive(Debug, clap::Args)]
pub struct Set {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Change the images of a pod template
    Image {
        /// TYPE NAME (or TYPE/NAME), then CONTAINER=IMAGE; * is every container
        words: Vec<String>,
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        select: Select,
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Change the environment of a pod template
    Env {
        /// TYPE NAME (or TYPE/NAME), then KEY=VALUE to set and KEY- to remove
        words: Vec<String>,
        #[command(flatten)]
        files: Files,
        /// Containers to change; by default all
        #[arg(short, long, default_value = "*")]
        containers: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Change requests and limits of a pod template
    Resources {
        words: Vec<String>,
        #[command(flatten)]
        files: Files,
        #[arg(short, long, default_value = "*")]
        containers: String,
        /// cpu=100m,memory=64Mi
        #[arg(long)]
        requests: Option<String>,
        #[arg(long)]
        limits: Option<String>,
        #[command(flatten)]
        write: WriteFlags,
    },
}

impl Set {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        match self.what {
            What::Image { words, files, select, all, write } => {
                let (images, words): (Vec<String>, Vec<String>) =
                    words.into_iter().partition(|w| w.contains('='));
                if images.is_empty() {
                    bail!("at least one image update is required");
                }
                let found = find(rest, &catalog, &files, &words, &select, all).await?;
                each!(found, |f| {
                    let patch = images_patch(&f.object, &images)?;
                    update_template(rest, &f, &write, patch, "image updated").await
                })
            }
            What::Env { words, files, containers, write } => {
                let is_change = |w: &String| w.contains('=') || w.ends_with('-');
                let (changes, words): (Vec<String>, Vec<String>) = words.into_iter().partition(is_change);
                let found = find(rest, &catalog, &files, &words, &Select::default(), false).await?;
                each!(found, |f| {
                    let env: Vec<Value> = changes.iter().map(|c| env_entry(c)).collect();
                    let patch = containers_patch(&f.object, &containers, &json!({"env": env}))?;
                    update_template(rest, &f, &write, patch, "env updated").await
                })
            }
            What::Resources { words, files, containers, requests, limits, write } => {
                let mut resources = Map::new();
                for (name, list) in [("requests", &requests), ("limits", &limits)] {
                    if let Some(l) = list {
                        resources.insert(name.into(), super::create::pairs(l)?);
                    }
                }
                let found = find(rest, &catalog, &files, &words, &Select::default(), false).await?;
                each!(found, |f| {
                    let patch = containers_patch(&f.object, &containers, &json!({"resources": resources}))?;
                    update_template(rest, &f, &write, patch, "resource requirements updated").await
                })
            }
        }
    }
}

fn env_entry(change: &str) -> Value {
    match change.split_once('=') {
        Some((k, v)) => json!({"name": k, "value": v}),
        None => json!({"name": change.trim_end_matches('-'), "$patch": "delete"}),
    }
}

/// Where an object's pod spec is, as the path of a patch.
fn pod_spec(object: &Value) -> anyhow::Result<(&Value, Vec<&'static str>)> {
    let paths: [&[&str]; 3] =
        [&["spec", "template", "spec"], &["spec", "jobTemplate", "spec", "template", "spec"], &["spec"]];
    for path in paths {
        let at = path.iter().fold(object, |v, k| &v[*k]);
        if at["containers"].is_array() {
            return Ok((at, path.to_vec()));
        }
    }
    bail!("{} has no pod template", text(&object["kind"]))
}

fn images_patch(object: &Value, images: &[String]) -> anyhow::Result<Value> {
    let (spec, path) = pod_spec(object)?;
    let mut patch = Map::new();
    let mut used = vec![false; images.len()];
    for field in ["containers", "initContainers"] {
        let mut changes = Vec::new();
        for c in array(&spec[field]) {
            for (i, image) in images.iter().enumerate() {
                let (name, image) = image.split_once('=').unwrap_or_default();
                if name == "*" || c["name"] == name {
                    used[i] = true;
                    changes.push(json!({"name": c["name"], "image": image}));
                }
            }
        }
        if !changes.is_empty() {
            patch.insert(field.into(), Value::Array(changes));
        }
    }
    if let Some(i) = used.iter().position(|u| !u) {
        bail!("unable to find container named \"{}\"", images[i].split('=').next().unwrap_or_default());
    }
    Ok(nest(&path, Value::Object(patch)))
}

fn containers_patch(object: &Value, pattern: &str, change: &Value) -> anyhow::Result<Value> {
    let (spec, path) = pod_spec(object)?;
    let matches = |name: &str| pattern == "*" || pattern.split(',').any(|p| p == name);
    let changes: Vec<Value> = array(&spec["containers"])
        .iter()
        .filter(|c| matches(&text(&c["name"])))
        .map(|c| {
            let mut one = change.clone();
            one["name"] = c["name"].clone();
            one
        })
        .collect();
    if changes.is_empty() {
        bail!("unable to find container named \"{pattern}\"");
    }
    Ok(nest(&path, json!({"containers": changes})))
}

fn nest(path: &[&str], inner: Value) -> Value {
    path.iter().rev().fold(inner, |v, k| json!({*k: v}))
}

async fn update_template(
    rest: &Rest,
    f: &Found,
    write: &WriteFlags,
    patch: Value,
    verb: &str,
) -> anyhow::Result<()> {
    if write.dry_run == "client" {
        return write.report(&f.resource, &f.object, verb);
    }
    let path = format!("{}?{}", f.path(), write.query(FIELD_MANAGER));
    let after = rest
        .patch(&path, "strategic-merge", &patch)
        .await
        .with_context(|| format!("changing {}", f.display()))?;
    if after["metadata"]["generation"] == f.object["metadata"]["generation"] && write.output.is_none() {
        return Ok(());
    }
    write.report(&f.resource, &after, verb)
}
