//! Arguments that many commands share: which objects, from files or by name, and how to print.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::api::manifest;
use crate::api::resources::{Catalog, Resource, text};
use crate::api::rest::{Rest, query};

/// `-f` and `-R`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Files {
    /// The files that contain the objects; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Process the folders used in -f recursively
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `-l`, `-A`, `--field-selector`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Select {
    /// Selector (label query) to filter on
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Selector (field query) to filter on
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// List the requested objects across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl Select {
    /// The query parameters.
    pub fn query(&self) -> Vec<String> {
        let mut q = Vec::new();
        if let Some(s) = &self.selector {
            q.push(format!("labelSelector={}", query(s)));
        }
        if let Some(s) = &self.field_selector {
            q.push(format!("fieldSelector={}", query(s)));
        }
        q
    }

    pub fn is_empty(&self) -> bool {
        self.selector.is_none() && self.field_selector.is_none()
    }
}

/// What `TYPE NAME`, `TYPE/NAME` and `TYPE,TYPE` mean.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: Resource,
    /// None: all of the type.
    pub name: Option<String>,
}

/// Reads `TYPE[,TYPE] [NAME…]` or `TYPE/NAME…`.
///
/// # Errors
/// A type is unknown, or the two forms are mixed.
pub fn targets(catalog: &Catalog, words: &[String]) -> anyhow::Result<Vec<Target>> {
    let Some(first) = words.first() else {
        bail!(
            "you must specify the type of resource, as in: pods, or pod/NAME. \"ctl api-resources\" lists the types"
        );
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|w| {
                let (kind, name) = w.split_once('/').with_context(|| {
                    format!("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'ctl get resource/<resource_name>' instead of 'ctl get resource resource/<resource_name>'): {w}")
                })?;
                if name.is_empty() || name.contains('/') {
                    bail!("arguments in resource/name form may not have more than one slash: {w}");
                }
                Ok(Target { resource: catalog.find(kind)?.clone(), name: Some(name.to_owned()) })
            })
            .collect();
    }
    let mut resources = Vec::new();
    for word in first.split(',').filter(|w| !w.is_empty()) {
        let category = catalog.category(word);
        if category.is_empty() {
            resources.push(catalog.find(word)?.clone());
        } else {
            resources.extend(category.into_iter().cloned());
        }
    }
    let names = &words[1..];
    if let Some(mixed) = names.iter().find(|n| n.contains('/')) {
        bail!("arguments in resource/name form must come without a type before them: {mixed}");
    }
    if names.is_empty() {
        return Ok(resources.into_iter().map(|resource| Target { resource, name: None }).collect());
    }
    let each = |r: &Resource| {
        names.iter().map(|n| Target { resource: r.clone(), name: Some(n.clone()) }).collect::<Vec<_>>()
    };
    Ok(resources.iter().flat_map(each).collect())
}

/// One existing object.
#[derive(Debug, Clone)]
pub struct Found {
    pub resource: Resource,
    pub namespace: Option<String>,
    pub name: String,
    pub object: Value,
}

impl Found {
    pub fn path(&self) -> String {
        self.resource.path(self.namespace.as_deref(), Some(&self.name))
    }
    pub fn display(&self) -> String {
        self.resource.display(&self.name)
    }
}

/// The namespace that applies to `resource`; none for cluster-scoped ones.
pub fn namespace_of(rest: &Rest, resource: &Resource, object: Option<&Value>) -> Option<String> {
    let own = object.map(|o| text(&o["metadata"]["namespace"])).filter(|n| !n.is_empty());
    resource.namespaced.then(|| own.unwrap_or_else(|| rest.namespace.clone()))
}

/// Every existing object that files, names or selectors mean.
///
/// # Errors
/// One is not there, or nothing was named.
pub async fn find(
    rest: &Rest,
    catalog: &Catalog,
    files: &Files,
    words: &[String],
    select: &Select,
    all: bool,
) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    if !files.filename.is_empty() {
        for object in manifest::read(&files.filename, files.recursive)? {
            let resource = catalog.of_object(&object)?.clone();
            let name = text(&object["metadata"]["name"]);
            let namespace = namespace_of(rest, &resource, Some(&object));
            let path = resource.path(namespace.as_deref(), Some(&name));
            found.push(Found { object: rest.get(&path).await?, resource, namespace, name });
        }
        return Ok(found);
    }
    for target in targets(catalog, words)? {
        let namespace = namespace_of(rest, &target.resource, None);
        if let Some(name) = target.name {
            let path = target.resource.path(namespace.as_deref(), Some(&name));
            found.push(Found { object: rest.get(&path).await?, resource: target.resource, namespace, name });
            continue;
        }
        if select.is_empty() && !all {
            bail!(
                "resource(s) were provided, but no name was specified: give names, a selector (-l) or --all"
            );
        }
        let scope = if select.all_namespaces { None } else { namespace.as_deref() };
        let path = format!("{}?{}", target.resource.path(scope, None), select.query().join("&"));
        for object in crate::print::format::items(&rest.get(&path).await?) {
            let name = text(&object["metadata"]["name"]);
            let namespace = namespace_of(rest, &target.resource, Some(&object));
            found.push(Found { resource: target.resource.clone(), namespace, name, object });
        }
    }
    Ok(found)
}
