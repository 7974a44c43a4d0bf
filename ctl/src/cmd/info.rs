//! `ctl api-resources`, `api-versions`, `cluster-info`, `version`, `explain`, `auth can-i` and `config`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use crate::api::resources::{Catalog, Resource, array, text};
use crate::api::rest::{Media, Rest, kubeconfig_paths};
use crate::cli::Global;
use crate::print::table::align;

#[derive(Debug, clap::Args)]
pub struct ApiResources {
    /// Only this group
    #[arg(long)]
    api_group: Option<String>,
    /// Only namespaced resources, or only others
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    namespaced: Option<bool>,
    /// Only resources that support these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// wide or name
    #[arg(short, long, value_parser = ["wide", "name"])]
    output: Option<String>,
    #[arg(long)]
    no_headers: bool,
}

impl ApiResources {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let mut shown: Vec<&Resource> = catalog
            .0
            .iter()
            .filter(|r| !r.verbs.is_empty())
            .filter(|r| self.api_group.as_ref().is_none_or(|g| *g == r.group))
            .filter(|r| self.namespaced.is_none_or(|n| n == r.namespaced))
            .filter(|r| self.verbs.iter().all(|v| r.verbs.contains(v)))
            .collect();
        shown.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
        if self.output.as_deref() == Some("name") {
            shown.iter().for_each(|r| println!("{}", r.qualified()));
            return Ok(());
        }
        let wide = self.output.is_some();
        let mut rows = Vec::new();
        if !self.no_headers {
            let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
            if wide {
                header.extend(["VERBS", "CATEGORIES"]);
            }
            rows.push(header.into_iter().map(str::to_owned).collect());
        }
        for r in shown {
            let mut row: Vec<String> = vec![
                r.name.clone(),
                r.short_names.join(","),
                r.api_version(),
                r.namespaced.to_string(),
                r.kind.clone(),
            ];
            if wide {
                row.extend([r.verbs.join(","), r.categories.join(",")]);
            }
            rows.push(row);
        }
        print!("{}", align(&rows, 3));
        Ok(())
    }
}

/// Prints `group/version` for every version served.
///
/// # Errors
/// The server cannot be asked.
pub async fn api_versions(rest: &Rest) -> anyhow::Result<()> {
    let mut versions: Vec<String> = Catalog::fetch(rest).await?.0.iter().map(Resource::api_version).collect();
    versions.sort();
    versions.dedup();
    versions.iter().for_each(|v| println!("{v}"));
    Ok(())
}

/// Prints where the control plane and the cluster's own services are.
///
/// # Errors
/// The server cannot be asked.
pub async fn cluster_info(rest: &Rest) -> anyhow::Result<()> {
    let list = rest
        .get("/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io/cluster-service%3Dtrue")
        .await?;
    println!("Kubernetes control plane is running at {}", rest.server);
    for s in array(&list["items"]) {
        let name = text(&s["metadata"]["name"]);
        let shown = Some(text(&s["metadata"]["labels"]["kubernetes.io/name"]))
            .filter(|n| !n.is_empty())
            .unwrap_or(name.clone());
        println!("{shown} is running at {}/api/v1/namespaces/kube-system/services/{name}/proxy", rest.server);
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct Version {
    /// Only this program's version
    #[arg(long)]
    client: bool,
    #[arg(short, long, value_parser = ["json", "yaml"])]
    output: Option<String>,
}

impl Version {
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let client = component_base::version::GIT_VERSION;
        let server =
            if self.client { None } else { Some(Rest::connect(global).await?.get("/version").await?) };
        let both = json!({"clientVersion": {"gitVersion": client}, "serverVersion": server});
        match self.output.as_deref() {
            Some("json") => println!("{}", serde_json::to_string_pretty(&both)?),
            Some(_) => print!("{}", component_base::yaml::to_string(&both)),
            None => {
                println!("Client Version: {client}");
                if let Some(s) = server {
                    println!("Server Version: {}", text(&s["gitVersion"]));
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub struct Explain {
    /// TYPE[.FIELD…]
    what: String,
    /// Print the names of all fields below, without descriptions
    #[arg(long)]
    recursive: bool,
    /// Group and version to use
    #[arg(long)]
    api_version: Option<String>,
}

impl Explain {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let mut words = self.what.split('.');
        let word = words.next().unwrap_or_default();
        let resource = match &self.api_version {
            None => catalog.find(word)?,
            Some(v) => {
                let plural = &catalog.find(word)?.name;
                let found = catalog.0.iter().find(|r| r.api_version() == *v && r.name == *plural);
                found.with_context(|| format!("couldn't find resource for \"{v}, Resource={word}\""))?
            }
        };
        let root = if resource.group.is_empty() {
            format!("/openapi/v3/api/{}", resource.version)
        } else {
            format!("/openapi/v3/apis/{}/{}", resource.group, resource.version)
        };
        let document = rest.call(Method::GET, &root, Media::default(), None).await?;
        let schemas = &document["components"]["schemas"];
        let mut schema = schemas
            .as_object()
            .into_iter()
            .flat_map(|m| m.values())
            .find(|s| {
                array(&s["x-kubernetes-group-version-kind"]).iter().any(|g| {
                    g["group"] == resource.group.as_str()
                        && g["version"] == resource.version.as_str()
                        && g["kind"] == resource.kind.as_str()
                })
            })
            .with_context(|| format!("the server's OpenAPI has no schema for {}", resource.kind))?;
        if !resource.group.is_empty() {
            println!("GROUP:      {}", resource.group);
        }
        println!("KIND:       {}\nVERSION:    {}\n", resource.kind, resource.version);
        let path: Vec<&str> = words.collect();
        let mut field = None;
        for name in &path {
            let holder = resolve(schemas, schema);
            let next = holder["properties"]
                .get(*name)
                .with_context(|| format!("field \"{name}\" does not exist"))?;
            field = Some((*name, holder, next));
            schema = next;
        }
        if let Some((name, holder, found)) = field {
            println!("FIELD: {name} <{}>{}\n", type_of(schemas, found), required(holder, name));
        }
        let own = text(&schema["description"]);
        let target = resolve(schemas, schema);
        println!("DESCRIPTION:");
        let fallback = text(&target["description"]);
        for d in [own, fallback].into_iter().filter(|d| !d.is_empty()).take(1) {
            println!("{}", wrap(&d, 4));
        }
        println!();
        if target["properties"].is_object() {
            println!("FIELDS:");
            print_fields(schemas, target, self.recursive, 2, &mut Vec::new());
        }
        Ok(())
    }
}

fn print_fields(schemas: &Value, schema: &Value, recursive: bool, indent: usize, above: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let pad = " ".repeat(indent);
        println!("{pad}{name}\t<{}>{}", type_of(schemas, property), required(schema, name));
        if recursive {
            let target = resolve(schemas, property);
            let id = reference(property).unwrap_or_default();
            // Schemas such as JSONSchemaProps hold themselves.
            if !id.is_empty() && above.contains(&id) {
                continue;
            }
            above.push(id);
            print_fields(schemas, target, true, indent + 2, above);
            above.pop();
        } else {
            println!("{}\n", wrap(&text(&property["description"]), indent + 2));
        }
    }
}

fn required(schema: &Value, name: &str) -> &'static str {
    if array(&schema["required"]).iter().any(|r| r == name) { " -required-" } else { "" }
}

/// The name of the schema that a property refers to, itself or through its items.
fn reference(schema: &Value) -> Option<String> {
    let inner = [schema, &schema["items"], &schema["additionalProperties"]];
    inner.iter().find_map(|s| {
        let r = s["$ref"].as_str().or_else(|| array(&s["allOf"]).first().and_then(|a| a["$ref"].as_str()))?;
        Some(r.rsplit('/').next().unwrap_or(r).to_owned())
    })
}

/// The schema that describes the fields of a property.
fn resolve<'v>(schemas: &'v Value, schema: &'v Value) -> &'v Value {
    match reference(schema) {
        Some(name) => &schemas[name.as_str()],
        None => schema,
    }
}

fn type_of(schemas: &Value, schema: &Value) -> String {
    if schema["type"] == "array" {
        return format!("[]{}", type_of(schemas, &schema["items"]));
    }
    if schema["additionalProperties"].is_object() {
        return format!("map[string]{}", type_of(schemas, &schema["additionalProperties"]));
    }
    match reference(schema) {
        Some(name) => {
            let kind = text(&schemas[name.as_str()]["type"]);
            if kind.is_empty() || kind == "object" {
                name.rsplit('.').next().unwrap_or_default().to_owned()
            } else {
                kind
            }
        }
        None => Some(text(&schema["type"])).filter(|t| !t.is_empty()).unwrap_or_else(|| "Object".into()),
    }
}

fn wrap(description: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut out = String::new();
    for paragraph in description.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.len() + word.len() + 1 > 80 - indent.min(40) {
                out.push_str(&format!("{pad}{line}\n"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(&format!("{pad}{line}\n"));
    }
    out.trim_end().to_owned()
}

#[derive(Debug, clap::Args)]
pub struct Auth {
    #[command(subcommand)]
    what: AuthWhat,
}

#[derive(Debug, Subcommand)]
enum AuthWhat {
    /// Say whether you may do something
    CanI {
        verb: String,
        /// TYPE, TYPE/NAME or /PATH
        what: String,
        #[arg(long)]
        subresource: Option<String>,
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Say who you are
    Whoami,
}

impl Auth {
    /// Prints the answer; `false` if it is no.
    pub async fn run(self, rest: &Rest) -> anyhow::Result<bool> {
        let post = |kind: &str, group: &str, spec: Value| {
            let path = format!("/apis/{group}/v1/{}s", kind.to_ascii_lowercase());
            let body = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec})
                .to_string()
                .into_bytes();
            async move { rest.call(Method::POST, &path, Media::default(), Some(body)).await }
        };
        match self.what {
            AuthWhat::Whoami => {
                let answer = post("SelfSubjectReview", "authentication.k8s.io", json!({})).await?;
                let user = &answer["status"]["userInfo"];
                let mut rows = vec![
                    vec!["ATTRIBUTE".to_owned(), "VALUE".into()],
                    vec!["Username".into(), text(&user["username"])],
                ];
                let groups: Vec<String> = array(&user["groups"]).iter().map(text).collect();
                rows.push(vec!["Groups".into(), format!("[{}]", groups.join(" "))]);
                print!("{}", align(&rows, 3));
                Ok(true)
            }
            AuthWhat::CanI { verb, what, subresource, all_namespaces } => {
                let spec = if what.starts_with('/') {
                    json!({"nonResourceAttributes": {"verb": verb, "path": what}})
                } else {
                    let (word, name) = what.split_once('/').unwrap_or((&what, ""));
                    let catalog = Catalog::fetch(rest).await?;
                    let (group, plural) = match catalog.find(word) {
                        Ok(r) => (r.group.clone(), r.name.clone()),
                        Err(_) if word == "*" => ("*".into(), "*".into()),
                        Err(e) => {
                            eprintln!("Warning: {e}");
                            (String::new(), word.to_owned())
                        }
                    };
                    let namespace = if all_namespaces { "" } else { &rest.namespace };
                    json!({"resourceAttributes": {"verb": verb, "group": group, "resource": plural, "name": name,
                        "subresource": subresource.unwrap_or_default(), "namespace": namespace}})
                };
                let answer = post("SelfSubjectAccessReview", "authorization.k8s.io", spec).await?;
                let allowed = answer["status"]["allowed"] == true;
                let reason = text(&answer["status"]["reason"]);
                let why = if allowed || reason.is_empty() { String::new() } else { format!(" - {reason}") };
                println!("{}{why}", if allowed { "yes" } else { "no" });
                Ok(allowed)
            }
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    what: ConfigWhat,
}

#[derive(Debug, Subcommand)]
enum ConfigWhat {
    /// Print the kubeconfig, without secrets
    View {
        /// Print secrets as well
        #[arg(long)]
        raw: bool,
    },
    /// List contexts
    GetContexts,
    /// Print the context in use
    CurrentContext,
    /// Use another context from now on
    UseContext { name: String },
    /// Change a context
    SetContext {
        /// The context; by default the one in use
        name: Option<String>,
        /// The context in use
        #[arg(long)]
        current: bool,
        #[arg(long)]
        cluster: Option<String>,
        #[arg(long)]
        user: Option<String>,
    },
}

impl ConfigCommand {
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        let path = kubeconfig_paths(global)
            .into_iter()
            .next()
            .context("there is no kubeconfig: give --kubeconfig or set KUBECONFIG")?;
        let text_of =
            |p: &PathBuf| std::fs::read_to_string(p).with_context(|| format!("reading {}", p.display()));
        let mut config: Value =
            serde_yaml::from_str(&text_of(&path)?).with_context(|| format!("parsing {}", path.display()))?;
        match self.what {
            ConfigWhat::View { raw } => {
                if !raw {
                    redact(&mut config);
                }
                print!("{}", serde_yaml::to_string(&config)?);
            }
            ConfigWhat::CurrentContext => {
                let now = text(&config["current-context"]);
                if now.is_empty() {
                    bail!("current-context is not set");
                }
                println!("{now}");
            }
            ConfigWhat::GetContexts => {
                let mut rows =
                    vec![["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec()];
                for c in array(&config["contexts"]) {
                    let mark = if c["name"] == config["current-context"] { "*" } else { "" };
                    let x = &c["context"];
                    rows.push(vec![
                        mark.into(),
                        text(&c["name"]),
                        text(&x["cluster"]),
                        text(&x["user"]),
                        text(&x["namespace"]),
                    ]);
                }
                print!("{}", align(&rows, 3));
            }
            ConfigWhat::UseContext { name } => {
                if !array(&config["contexts"]).iter().any(|c| c["name"] == name.as_str()) {
                    bail!("no context exists with the name: \"{name}\"");
                }
                config["current-context"] = name.as_str().into();
                save(&path, &config)?;
                println!("Switched to context \"{name}\".");
            }
            ConfigWhat::SetContext { name, current, cluster, user } => {
                let name = match name {
                    Some(n) if !current => n,
                    _ => text(&config["current-context"]),
                };
                let mut entry = json!({});
                for (k, v) in [("cluster", cluster), ("user", user), ("namespace", global.namespace.clone())]
                {
                    if let Some(v) = v {
                        entry[k] = v.into();
                    }
                }
                let contexts = config["contexts"].as_array_mut().context("the kubeconfig has no contexts")?;
                let verb = match contexts.iter_mut().find(|c| c["name"] == name.as_str()) {
                    Some(c) => {
                        json_patch::merge(&mut c["context"], &entry);
                        "modified"
                    }
                    None => {
                        contexts.push(json!({"name": name, "context": entry}));
                        "created"
                    }
                };
                save(&path, &config)?;
                println!("Context \"{name}\" {verb}.");
            }
        }
        Ok(())
    }
}

/// Replaces the file in one step, so that no reader sees half of it.
fn save(path: &std::path::Path, config: &Value) -> anyhow::Result<()> {
    let next = path.with_extension("new");
    crate::cluster::layout::write(&next, &serde_yaml::to_string(config)?, 0o600)?;
    std::fs::rename(&next, path).with_context(|| format!("writing {}", path.display()))
}

fn redact(config: &mut Value) {
    for (list, inner, fields) in [
        ("users", "user", &["client-key-data", "client-certificate-data", "token", "password"][..]),
        ("clusters", "cluster", &["certificate-authority-data"][..]),
    ] {
        for entry in config[list].as_array_mut().into_iter().flatten() {
            for f in fields {
                if let Some(v) = entry[inner].get_mut(f) {
                    *v = if f.ends_with("-data") { "DATA+OMITTED".into() } else { "REDACTED".into() };
                }
            }
        }
    }
}
