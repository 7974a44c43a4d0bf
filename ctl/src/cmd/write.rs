//! `ctl create -f`, `apply`, `replace`, `patch` and `delete`: writing objects.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use super::args::{Files, Found, Select, find, namespace_of, targets};
use crate::api::manifest;
use crate::api::resources::{Catalog, Resource, text};
use crate::api::rest::{ApiError, Media, Rest};
use crate::print::format::{Format, without_managed_fields};

/// Name under which this program's writes own fields.
pub const FIELD_MANAGER: &str = "ctl";

/// Flags of commands that write one set of objects.
#[derive(Debug, Clone, clap::Args)]
pub struct WriteFlags {
    /// none, server (nothing is stored) or client (nothing is sent)
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "client", require_equals = true, value_parser = ["none", "server", "client"])]
    pub dry_run: String,
    /// Output format: name, json, yaml, jsonpath=…
    #[arg(short, long)]
    pub output: Option<String>,
    /// Unknown and duplicate fields: strict (an error), warn or ignore
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true, value_parser = ["strict", "warn", "ignore", "true", "false"])]
    pub validate: String,
}

impl WriteFlags {
    /// Query parameters of a write by `manager`.
    pub fn query(&self, manager: &str) -> String {
        let validation = match self.validate.as_str() {
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            _ => "Strict",
        };
        let dry = if self.dry_run == "server" { "&dryRun=All" } else { "" };
        format!("fieldManager={manager}&fieldValidation={validation}{dry}")
    }

    /// Says what happened to an object, or prints it in the format asked for.
    ///
    /// # Errors
    /// The format is unknown.
    pub fn report(&self, resource: &Resource, object: &Value, verb: &str) -> anyhow::Result<()> {
        let Some(output) = &self.output else {
            let suffix = match self.dry_run.as_str() {
                "server" => " (server dry run)",
                "client" => " (dry run)",
                _ => "",
            };
            println!("{} {verb}{suffix}", resource.display(&text(&object["metadata"]["name"])));
            return Ok(());
        };
        let mut object = object.clone();
        without_managed_fields(&mut object);
        print!("{}", Format::parse(Some(output))?.print(&[(resource.clone(), object)], false)?);
        Ok(())
    }
}

/// Creates one object in the namespace that applies to it.
///
/// # Errors
/// As the server says.
pub async fn create_object(
    rest: &Rest,
    catalog: &Catalog,
    object: &Value,
    flags: &WriteFlags,
    manager: &str,
) -> anyhow::Result<()> {
    let resource = catalog.of_object(object)?;
    if flags.dry_run == "client" {
        return flags.report(resource, object, "created");
    }
    let namespace = namespace_of(rest, resource, Some(object));
    let path = format!("{}?{}", resource.path(namespace.as_deref(), None), flags.query(manager));
    let made = rest.call(Method::POST, &path, Media::default(), Some(serde_json::to_vec(object)?)).await?;
    flags.report(resource, &made, "created")
}

/// Runs `f` for each object, goes on after failures and fails at the end with the last of them.
macro_rules! each {
    ($objects:expr, |$o:ident| $body:expr) => {{
        let mut failed: Option<anyhow::Error> = None;
        for $o in $objects {
            if let Err(e) = $body {
                if let Some(previous) = failed.replace(e) {
                    eprintln!("{previous:#}");
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }};
}
pub(crate) use each;

#[derive(Debug, clap::Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    write: WriteFlags,
    /// Name that owns the fields
    #[arg(long, default_value = FIELD_MANAGER)]
    field_manager: String,
    /// Accepted for kubectl's sake: the merge always happens in the server
    #[arg(long)]
    server_side: bool,
    /// Take over fields that others own. Without --server-side this is the default, as with kubectl
    #[arg(long)]
    force_conflicts: bool,
}

impl Apply {
    /// Server-side apply of every object: fields that the manifest no longer has are removed, others' fields stay.
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let objects = manifest::read(&self.files.filename, self.files.recursive)?;
        each!(&objects, |o| self.apply(rest, &catalog, o).await)
    }

    async fn apply(&self, rest: &Rest, catalog: &Catalog, object: &Value) -> anyhow::Result<()> {
        let resource = catalog.of_object(object)?;
        let name = text(&object["metadata"]["name"]);
        if name.is_empty() {
            bail!("{}: an object that is applied must have metadata.name", resource.kind);
        }
        if self.write.dry_run == "client" {
            return self.write.report(resource, object, "configured");
        }
        let namespace = namespace_of(rest, resource, Some(object));
        let path = resource.path(namespace.as_deref(), Some(&name));
        let before = match rest.get(&path).await {
            Ok(o) => Some(o),
            Err(e) if ApiError::is_not_found(&e) => None,
            Err(e) => return Err(e),
        };
        let force = self.force_conflicts || !self.server_side;
        let path = format!("{path}?{}&force={force}", self.write.query(&self.field_manager));
        let after = rest.patch(&path, "apply", object).await?;
        let verb = match before {
            _ if self.server_side => "serverside-applied",
            None => "created",
            Some(b) if b["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"] => {
                "unchanged"
            }
            Some(_) => "configured",
        };
        self.write.report(resource, &after, verb)
    }
}

#[derive(Debug, clap::Args)]
pub struct Replace {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    write: WriteFlags,
}

impl Replace {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let objects = manifest::read(&self.files.filename, self.files.recursive)?;
        each!(&objects, |o| self.replace(rest, &catalog, o).await)
    }

    async fn replace(&self, rest: &Rest, catalog: &Catalog, object: &Value) -> anyhow::Result<()> {
        let resource = catalog.of_object(object)?;
        let namespace = namespace_of(rest, resource, Some(object));
        let path = resource.path(namespace.as_deref(), Some(&text(&object["metadata"]["name"])));
        let path = format!("{path}?{}", self.write.query(FIELD_MANAGER));
        let after =
            rest.call(Method::PUT, &path, Media::default(), Some(serde_json::to_vec(object)?)).await?;
        self.write.report(resource, &after, "replaced")
    }
}

#[derive(Debug, clap::Args)]
pub struct Patch {
    /// TYPE NAME, or TYPE/NAME
    words: Vec<String>,
    /// The patch, as JSON or YAML
    #[arg(short, long, required_unless_present = "patch_file")]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long)]
    patch_file: Option<PathBuf>,
    /// json, merge or strategic
    #[arg(long = "type", default_value = "strategic", value_parser = ["json", "merge", "strategic"])]
    kind: String,
    /// Subresource to patch
    #[arg(long)]
    subresource: Option<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    write: WriteFlags,
}

impl Patch {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let patch = match (&self.patch, &self.patch_file) {
            (Some(p), _) => p.clone(),
            (None, Some(f)) => {
                std::fs::read_to_string(f).with_context(|| format!("reading {}", f.display()))?
            }
            (None, None) => {
                bail!("must specify --patch or --patch-file containing the contents of the patch")
            }
        };
        let patch: Value = serde_yaml::from_str(&patch).context("unable to parse the patch")?;
        let kind = if self.kind == "strategic" { "strategic-merge" } else { &self.kind };
        for f in find(rest, &catalog, &self.files, &self.words, &Select::default(), false).await? {
            let subresource = self.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
            let path = format!("{}{subresource}?{}", f.path(), self.write.query(FIELD_MANAGER));
            let after = rest.patch(&path, kind, &patch).await?;
            let same = after["metadata"]["resourceVersion"] == f.object["metadata"]["resourceVersion"];
            self.write.report(&f.resource, &after, if same { "patched (no change)" } else { "patched" })?;
        }
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// TYPE NAME…, or TYPE/NAME…
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// Delete all objects of the types, in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds given to the objects to end gracefully; -1 leaves it to them, 0 needs --force
    #[arg(long, default_value_t = -1)]
    grace_period: i64,
    /// Remove from the API at once, without waiting for anything to confirm it
    #[arg(long)]
    force: bool,
    /// Same as --grace-period=1
    #[arg(long)]
    now: bool,
    /// What happens to dependents: background, foreground or orphan
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Wait for the objects to be gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// How long to wait; 0 is for ever
    #[arg(long, default_value = "0")]
    timeout: component_base::duration::GoDuration,
    /// Treat "resource not found" as a successful delete
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    write: WriteFlags,
}

impl Delete {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        if self.grace_period == 0 && !self.force && !self.now {
            // Only a force may skip the wait for containers to end.
            bail!(
                "--grace-period=0 deletes without waiting for containers to end: add --force, or use --now"
            );
        }
        let catalog = Catalog::fetch(rest).await?;
        let victims = self.victims(rest, &catalog).await?;
        if victims.is_empty() {
            println!("No resources found");
        }
        if self.force {
            eprintln!(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
            );
        }
        let mut deleted = Vec::new();
        let result = each!(victims, |v| match self.delete(rest, &v).await {
            Ok(()) => {
                deleted.push(v);
                Ok(())
            }
            Err(e) if self.ignore_not_found && ApiError::is_not_found(&e) => Ok(()),
            Err(e) => Err(e),
        });
        if self.wait && !self.force && self.write.dry_run == "none" {
            for v in &deleted {
                self.wait_gone(rest, v).await?;
            }
        }
        result
    }

    /// What to delete. Objects that are named need not be read first: the delete itself says if they are not there.
    async fn victims(&self, rest: &Rest, catalog: &Catalog) -> anyhow::Result<Vec<Found>> {
        let named = |resource: Resource, namespace: Option<String>, name: String| Found {
            resource,
            namespace,
            name,
            object: Value::Null,
        };
        if !self.files.filename.is_empty() {
            let objects = manifest::read(&self.files.filename, self.files.recursive)?;
            return objects
                .iter()
                .map(|o| {
                    let resource = catalog.of_object(o)?.clone();
                    let namespace = namespace_of(rest, &resource, Some(o));
                    Ok(named(resource, namespace, text(&o["metadata"]["name"])))
                })
                .collect();
        }
        let all = targets(catalog, &self.words)?;
        if all.iter().all(|t| t.name.is_some()) {
            let each = all.into_iter().filter_map(|t| {
                let namespace = namespace_of(rest, &t.resource, None);
                Some(named(t.resource, namespace, t.name?))
            });
            return Ok(each.collect());
        }
        find(rest, catalog, &self.files, &self.words, &self.select, self.all).await
    }

    async fn delete(&self, rest: &Rest, v: &Found) -> anyhow::Result<()> {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": match self.cascade.as_str() {
            "foreground" => "Foreground",
            "orphan" => "Orphan",
            _ => "Background",
        }});
        let grace = match (self.now, self.force, self.grace_period) {
            (true, ..) => 1,
            (_, true, ..0) => 0,
            (_, _, g) => g,
        };
        if grace >= 0 {
            options["gracePeriodSeconds"] = grace.into();
        }
        if self.write.dry_run == "server" {
            options["dryRun"] = json!(["All"]);
        }
        if self.write.dry_run != "client" {
            rest.call(Method::DELETE, &v.path(), Media::default(), Some(serde_json::to_vec(&options)?))
                .await?;
        }
        if self.write.output.as_deref() == Some("name") {
            println!("{}", v.display());
            return Ok(());
        }
        let how = if self.force && grace == 0 { "force deleted" } else { "deleted" };
        let kind = v.display();
        let (kind, name) = kind.split_once('/').unwrap_or((&kind, ""));
        let place = v.namespace.as_ref().map(|n| format!(" from {n} namespace")).unwrap_or_default();
        let dry = if self.write.dry_run == "none" {
            String::new()
        } else {
            format!(" ({} dry run)", self.write.dry_run)
        };
        println!("{kind} \"{name}\" {how}{place}{dry}");
        Ok(())
    }

    /// Waits until the object is gone, or another of its name has come.
    async fn wait_gone(&self, rest: &Rest, v: &Found) -> anyhow::Result<()> {
        let limit = self.timeout.0;
        let started = Instant::now();
        let mut uid = None;
        loop {
            match rest.get(&v.path()).await {
                Err(e) if ApiError::is_not_found(&e) => return Ok(()),
                Err(e) => return Err(e),
                Ok(o) => {
                    let now = text(&o["metadata"]["uid"]);
                    if o["metadata"]["deletionTimestamp"].is_null() || *uid.get_or_insert(now.clone()) != now
                    {
                        return Ok(());
                    }
                }
            }
            if !limit.is_zero() && started.elapsed() > limit {
                bail!("timed out waiting for {} to be deleted", v.display());
            }
            // Deletion ends by a watch event; asking again keeps this correct for every kind, at little cost for
            // one object.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
