//! `ctl why`: why a pod is pending, or why a namespace, a volume or anything else does not go away.

mod finalizers;
mod gone;
mod namespace;
mod pod;

use anyhow::bail;
use serde_json::Value;

use super::args::{Files, Select, find};
use crate::api::resources::{Catalog, text};
use crate::api::rest::Rest;

#[derive(Debug, clap::Args)]
pub struct Why {
    /// pod NAME: what each node has against it; namespace, pvc, pv or any TYPE NAME: what keeps it from being
    /// deleted
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    select: Select,
}

impl Why {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let found = find(rest, &catalog, &Files::default(), &self.words, &self.select, true).await?;
        if found.is_empty() {
            bail!("no such object; usage: ctl why TYPE NAME, as in ctl why pod web-0");
        }
        for f in found {
            let lines = match f.resource.kind.as_str() {
                "Pod" if !deleting(&f.object) => pod::explain(rest, &f.object).await?,
                "Namespace" => namespace::explain(rest, &catalog, &f.object).await?,
                _ => gone::explain(rest, &f.object).await?,
            };
            println!("{} {}:", f.resource.kind, f.name);
            lines.iter().for_each(|l| println!("  {l}"));
        }
        Ok(())
    }
}

/// Whether somebody has asked for the object to be deleted.
fn deleting(o: &Value) -> bool {
    o["metadata"]["deletionTimestamp"].is_string()
}

/// `namespace/name`, or the name alone.
fn key(o: &Value) -> String {
    match text(&o["metadata"]["namespace"]).as_str() {
        "" => text(&o["metadata"]["name"]),
        ns => format!("{ns}/{}", text(&o["metadata"]["name"])),
    }
}
