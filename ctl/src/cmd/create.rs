//! `ctl create`: objects from files, and the subcommands that make one from flags; `ctl run` and `ctl expose`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::args::{Files, Select, find};
use super::write::{WriteFlags, create_object, each};
use crate::api::manifest;
use crate::api::resources::{Catalog, text};
use crate::api::rest::Rest;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Create {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    write: WriteFlags,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Create a namespace
    #[command(alias = "ns")]
    Namespace {
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Create a service account
    #[command(alias = "sa")]
    Serviceaccount {
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Create a config map from literals and files
    #[command(alias = "cm")]
    Configmap {
        name: String,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Create a secret
    Secret {
        #[command(subcommand)]
        kind: SecretKind,
    },
    /// Create a deployment
    #[command(alias = "deploy")]
    Deployment {
        name: String,
        /// Image of each container
        #[arg(long, required = true, value_delimiter = ',')]
        image: Vec<String>,
        #[arg(short, long, default_value_t = 1)]
        replicas: u32,
        /// Port that the container listens on
        #[arg(long)]
        port: Option<u16>,
        #[command(flatten)]
        write: WriteFlags,
        /// Command of the container, after --
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a job
    Job {
        name: String,
        #[arg(long, required = true)]
        image: String,
        #[command(flatten)]
        write: WriteFlags,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a cluster role
    Clusterrole {
        name: String,
        #[arg(long, required = true, value_delimiter = ',')]
        verb: Vec<String>,
        #[arg(long, required = true, value_delimiter = ',')]
        resource: Vec<String>,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Create a role
    Role {
        name: String,
        #[arg(long, required = true, value_delimiter = ',')]
        verb: Vec<String>,
        #[arg(long, required = true, value_delimiter = ',')]
        resource: Vec<String>,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Bind a cluster role to users, groups and service accounts
    Clusterrolebinding {
        name: String,
        #[command(flatten)]
        bind: Bind,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Bind a role in a namespace
    Rolebinding {
        name: String,
        #[command(flatten)]
        bind: Bind,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Request a token for a service account
    Token {
        name: String,
        /// How long the token is to be valid
        #[arg(long, default_value = "0")]
        duration: component_base::duration::GoDuration,
        #[arg(long)]
        audience: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum SecretKind {
    /// A secret from literals and files
    Generic {
        name: String,
        #[command(flatten)]
        data: Data,
        /// The secret's type
        #[arg(long = "type", default_value = "Opaque")]
        kind: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// A secret from a certificate and its key
    Tls {
        name: String,
        #[arg(long)]
        cert: PathBuf,
        #[arg(long)]
        key: PathBuf,
        #[command(flatten)]
        write: WriteFlags,
    },
}

#[derive(Debug, clap::Args)]
struct Data {
    /// KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file, KEY=FILE, or a folder
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// A file of KEY=VALUE lines
    #[arg(long, value_name = "FILE")]
    from_env_file: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Bind {
    #[arg(long)]
    clusterrole: Option<String>,
    #[arg(long)]
    role: Option<String>,
    #[arg(long)]
    user: Vec<String>,
    #[arg(long)]
    group: Vec<String>,
    /// NAMESPACE:NAME
    #[arg(long)]
    serviceaccount: Vec<String>,
}

impl Create {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let Some(what) = self.what else {
            if self.files.filename.is_empty() {
                bail!("must specify -f, or what to create: see ctl create --help");
            }
            let objects = manifest::read(&self.files.filename, self.files.recursive)?;
            return each!(&objects, |o| create_object(rest, &catalog, o, &self.write, "ctl-create").await);
        };
        if let What::Token { name, duration, audience } = &what {
            return token(rest, name, duration.0.as_secs(), audience).await;
        }
        let (object, write) = what.object(rest, &catalog)?;
        create_object(rest, &catalog, &object, &write, "ctl-create").await
    }
}

impl What {
    fn object(self, rest: &Rest, catalog: &Catalog) -> anyhow::Result<(Value, WriteFlags)> {
        Ok(match self {
            Self::Namespace { name, write } => {
                (json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}), write)
            }
            Self::Serviceaccount { name, write } => {
                (json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}), write)
            }
            Self::Configmap { name, data, write } => (config_map(&name, &data.read()?), write),
            Self::Secret { kind: SecretKind::Generic { name, data, kind, write } } => {
                (secret(&name, &kind, &data.read()?), write)
            }
            Self::Secret { kind: SecretKind::Tls { name, cert, key, write } } => {
                let data = vec![("tls.crt".to_owned(), read(&cert)?), ("tls.key".to_owned(), read(&key)?)];
                (secret(&name, "kubernetes.io/tls", &data), write)
            }
            Self::Deployment { name, image, replicas, port, write, command } => {
                (deployment(&name, &image, replicas, port, &command), write)
            }
            Self::Job { name, image, write, command } => {
                let mut container = json!({"name": name, "image": image});
                if !command.is_empty() {
                    container["command"] = json!(command);
                }
                let template = json!({"spec": {"containers": [container], "restartPolicy": "Never"}});
                (
                    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}),
                    write,
                )
            }
            Self::Clusterrole { name, verb, resource, write } => {
                (role("ClusterRole", &name, &verb, &resource, catalog)?, write)
            }
            Self::Role { name, verb, resource, write } => {
                (role("Role", &name, &verb, &resource, catalog)?, write)
            }
            Self::Clusterrolebinding { name, bind, write } => {
                (bind.object("ClusterRoleBinding", &name, &rest.namespace)?, write)
            }
            Self::Rolebinding { name, bind, write } => {
                (bind.object("RoleBinding", &name, &rest.namespace)?, write)
            }
            Self::Token { .. } => bail!("a token is no object"),
        })
    }
}

async fn token(rest: &Rest, account: &str, seconds: u64, audiences: &[String]) -> anyhow::Result<()> {
    let mut spec = json!({"audiences": audiences});
    if seconds > 0 {
        spec["expirationSeconds"] = seconds.into();
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", rest.namespace);
    let answer =
        rest.call(http::Method::POST, &path, Default::default(), Some(serde_json::to_vec(&request)?)).await?;
    println!("{}", text(&answer["status"]["token"]));
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

impl Data {
    fn read(&self) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut out = Vec::new();
        for l in &self.from_literal {
            let (k, v) = l
                .split_once('=')
                .with_context(|| format!("invalid literal source {l}, expected key=value"))?;
            out.push((k.to_owned(), v.as_bytes().to_vec()));
        }
        for f in &self.from_file {
            let (key, path) = f.split_once('=').map_or((None, f.as_str()), |(k, p)| (Some(k), p));
            let path = Path::new(path);
            let base = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && key.is_none() {
                for e in std::fs::read_dir(path)?.flatten().filter(|e| e.path().is_file()) {
                    out.push((base(&e.path()), read(&e.path())?));
                }
            } else {
                out.push((key.map_or_else(|| base(path), str::to_owned), read(path)?));
            }
        }
        for f in &self.from_env_file {
            let text = String::from_utf8(read(f)?).with_context(|| format!("{} is no text", f.display()))?;
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                let (k, v) =
                    line.split_once('=').with_context(|| format!("{}: invalid line {line}", f.display()))?;
                out.push((k.to_owned(), v.as_bytes().to_vec()));
            }
        }
        Ok(out)
    }
}

fn config_map(name: &str, data: &[(String, Vec<u8>)]) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for (k, v) in data {
        match std::str::from_utf8(v) {
            Ok(text) => object["data"][k] = text.into(),
            Err(_) => object["binaryData"][k] = base64::engine::general_purpose::STANDARD.encode(v).into(),
        }
    }
    object
}

fn secret(name: &str, kind: &str, data: &[(String, Vec<u8>)]) -> Value {
    let encode = |v: &Vec<u8>| Value::from(base64::engine::general_purpose::STANDARD.encode(v));
    let data: Map<String, Value> = data.iter().map(|(k, v)| (k.clone(), encode(v))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": data})
}

fn deployment(name: &str, images: &[String], replicas: u32, port: Option<u16>, command: &[String]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let last = image.rsplit('/').next().unwrap_or(image);
            let base = last.split([':', '@']).next().unwrap_or(last);
            let mut c = json!({"name": base, "image": image});
            if let Some(p) = port {
                c["ports"] = json!([{"containerPort": p}]);
            }
            if !command.is_empty() {
                c["command"] = json!(command);
            }
            c
        })
        .collect();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}},
    })
}

fn role(
    kind: &str,
    name: &str,
    verbs: &[String],
    resources: &[String],
    catalog: &Catalog,
) -> anyhow::Result<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for word in resources {
        let (word, sub) = word.split_once('/').map_or((word.as_str(), None), |(w, s)| (w, Some(s)));
        let (group, plural) = if word == "*" {
            (String::from("*"), "*".to_owned())
        } else {
            let r = catalog.find(word)?;
            (r.group.clone(), r.name.clone())
        };
        let plural = sub.map_or_else(|| plural.clone(), |s| format!("{plural}/{s}"));
        match rules.iter_mut().find(|r| r["apiGroups"][0] == group.as_str()) {
            Some(rule) => {
                if let Some(list) = rule["resources"].as_array_mut() {
                    list.push(plural.into());
                }
            }
            None => rules.push(json!({"verbs": verbs, "apiGroups": [group], "resources": [plural]})),
        }
    }
    Ok(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}),
    )
}

impl Bind {
    fn object(&self, kind: &str, name: &str, namespace: &str) -> anyhow::Result<Value> {
        let (role_kind, role) = match (&self.clusterrole, &self.role) {
            (Some(r), None) => ("ClusterRole", r),
            (None, Some(r)) if kind == "RoleBinding" => ("Role", r),
            _ => bail!("exactly one of --clusterrole and --role must be specified"),
        };
        let group = "rbac.authorization.k8s.io";
        let mut subjects: Vec<Value> = Vec::new();
        subjects.extend(self.user.iter().map(|u| json!({"kind": "User", "apiGroup": group, "name": u})));
        subjects.extend(self.group.iter().map(|g| json!({"kind": "Group", "apiGroup": group, "name": g})));
        for s in &self.serviceaccount {
            let (ns, n) = s.split_once(':').context("serviceaccount must be <namespace>:<name>")?;
            subjects.push(json!({"kind": "ServiceAccount", "namespace": ns, "name": n}));
        }
        let mut metadata = json!({"name": name});
        if kind == "RoleBinding" {
            metadata["namespace"] = namespace.into();
        }
        Ok(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": role_kind, "name": role}, "subjects": subjects,
        }))
    }
}

#[derive(Debug, clap::Args)]
pub struct Expose {
    /// TYPE NAME, or TYPE/NAME, of what to expose
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Port of the service; by default the container's
    #[arg(long)]
    port: Option<u16>,
    /// Port, or its name, of the container
    #[arg(long)]
    target_port: Option<String>,
    /// Name of the service; by default that of the object
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", default_value = "ClusterIP")]
    kind: String,
    /// `None` makes a headless service
    #[arg(long)]
    cluster_ip: Option<String>,
    /// Labels that the service selects by; by default those of the object
    #[arg(long)]
    selector: Option<String>,
    #[command(flatten)]
    write: WriteFlags,
}

impl Expose {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        for f in find(rest, &catalog, &self.files, &self.words, &Select::default(), false).await? {
            let service = self.service(&f.resource.kind, &f.name, f.namespace.as_deref(), &f.object)?;
            let resource = catalog.find("services.v1.")?;
            if self.write.dry_run == "client" {
                self.write.report(resource, &service, "exposed")?;
                continue;
            }
            let path =
                format!("{}?{}", resource.path(f.namespace.as_deref(), None), self.write.query("ctl-expose"));
            let made = rest
                .call(http::Method::POST, &path, Default::default(), Some(serde_json::to_vec(&service)?))
                .await?;
            self.write.report(resource, &made, "exposed")?;
        }
        Ok(())
    }

    fn service(
        &self,
        kind: &str,
        name: &str,
        namespace: Option<&str>,
        object: &Value,
    ) -> anyhow::Result<Value> {
        let selector = match (&self.selector, kind) {
            (Some(s), _) => pairs(s)?,
            (None, "Pod") => object["metadata"]["labels"].clone(),
            (None, "Service" | "ReplicationController") => object["spec"]["selector"].clone(),
            (None, "Deployment" | "ReplicaSet" | "StatefulSet") => {
                object["spec"]["selector"]["matchLabels"].clone()
            }
            _ => bail!("cannot expose a {kind}"),
        };
        if selector.as_object().is_none_or(Map::is_empty) {
            bail!(
                "couldn't retrieve selectors via --selector flag or introspection: the object has no labels to select by"
            );
        }
        let containers = if kind == "Pod" {
            &object["spec"]["containers"]
        } else {
            &object["spec"]["template"]["spec"]["containers"]
        };
        let found: Vec<i64> = containers
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|c| c["ports"].as_array().into_iter().flatten())
            .filter_map(|p| p["containerPort"].as_i64())
            .collect();
        let ports: Vec<i64> = match self.port {
            Some(p) => vec![p.into()],
            None if found.is_empty() => bail!("couldn't find port via --port flag or introspection"),
            None => found,
        };
        let target = |p: i64| match &self.target_port {
            None => json!(p),
            Some(t) => t.parse::<u16>().map_or_else(|_| json!(t), |n| json!(n)),
        };
        let several = ports.len() > 1;
        let port = |(i, p): (usize, &i64)| {
            let mut x = json!({"port": p, "protocol": self.protocol, "targetPort": target(*p)});
            if several {
                x["name"] = format!("port-{}", i + 1).into();
            }
            x
        };
        let mut spec = json!({"selector": selector, "type": self.kind, "ports": ports.iter().enumerate().map(port).collect::<Vec<_>>()});
        if let Some(ip) = &self.cluster_ip {
            spec["clusterIP"] = ip.as_str().into();
        }
        let mut metadata = json!({"name": self.name.as_deref().unwrap_or(name)});
        if let Some(ns) = namespace {
            metadata["namespace"] = ns.into();
        }
        if let Some(labels) = object["metadata"].get("labels") {
            metadata["labels"] = labels.clone();
        }
        Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
    }
}

/// `a=b,c=d` as an object.
///
/// # Errors
/// An item has no `=`.
pub fn pairs(text: &str) -> anyhow::Result<Value> {
    let mut map = Map::new();
    for p in text.split(',').filter(|p| !p.is_empty()) {
        let (k, v) =
            p.split_once('=').with_context(|| format!("unexpected label {p}: expected key=value"))?;
        map.insert(k.to_owned(), v.into());
    }
    Ok(Value::Object(map))
}

#[derive(Debug, clap::Args)]
pub struct RunPod {
    name: String,
    /// Image of the container
    #[arg(long)]
    image: String,
    /// NAME=VALUE for the environment
    #[arg(long)]
    env: Vec<String>,
    #[arg(short, long)]
    labels: Option<String>,
    /// Port that the container listens on
    #[arg(long)]
    port: Option<u16>,
    /// Create a service for the pod as well
    #[arg(long, requires = "port")]
    expose: bool,
    #[arg(long, default_value = "Always", value_parser = ["Always", "OnFailure", "Never"])]
    restart: String,
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// The words after -- are the command, not its arguments
    #[arg(long)]
    command: bool,
    /// Keep standard input open and attach to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// Attach to the pod when it runs
    #[arg(long)]
    attach: bool,
    /// Delete the pod when the attached session ends
    #[arg(long)]
    rm: bool,
    /// A JSON object that is merged into the pod
    #[arg(long)]
    overrides: Option<String>,
    #[command(flatten)]
    write: WriteFlags,
    #[arg(last = true)]
    args: Vec<String>,
}

impl RunPod {
    /// Creates the pod and, with `-i`, `-t` or `--attach`, stays with it. Returns the container's exit code.
    pub async fn run(self, rest: &Rest) -> anyhow::Result<u8> {
        let attach = self.attach || self.stdin || self.tty;
        if self.rm && !attach {
            bail!("--rm should only be used for attached containers");
        }
        let catalog = Catalog::fetch(rest).await?;
        let pod = self.pod()?;
        let quiet = WriteFlags { output: self.write.output.clone(), ..self.write.clone() };
        if attach && self.write.output.is_none() && self.write.dry_run == "none" {
            let path = format!("/api/v1/namespaces/{}/pods?{}", rest.namespace, self.write.query("ctl-run"));
            rest.call(http::Method::POST, &path, Default::default(), Some(serde_json::to_vec(&pod)?)).await?;
        } else {
            create_object(rest, &catalog, &pod, &quiet, "ctl-run").await?;
        }
        if self.expose {
            let labels = pod["metadata"]["labels"].clone();
            let port = self.port.unwrap_or_default();
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
                "spec": {"selector": labels, "ports": [{"port": port, "targetPort": port, "protocol": "TCP"}]}});
            create_object(rest, &catalog, &service, &self.write, "ctl-run").await?;
        }
        if !attach || self.write.dry_run != "none" {
            return Ok(0);
        }
        let code = super::stream::attach_to_new(rest, &self.name, self.stdin, self.tty).await;
        if self.rm {
            let path = format!("/api/v1/namespaces/{}/pods/{}", rest.namespace, self.name);
            rest.call(http::Method::DELETE, &path, Default::default(), None).await?;
            println!("pod \"{}\" deleted from {} namespace", self.name, rest.namespace);
        }
        code
    }

    fn pod(&self) -> anyhow::Result<Value> {
        let labels = match &self.labels {
            Some(l) => pairs(l)?,
            None => json!({"run": self.name}),
        };
        let mut container = json!({"name": self.name, "image": self.image});
        if !self.args.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.args);
        }
        if !self.env.is_empty() {
            let one = |e: &String| {
                let (k, v) = e.split_once('=').with_context(|| format!("invalid env: {e}"))?;
                Ok(json!({"name": k, "value": v}))
            };
            container["env"] = self.env.iter().map(one).collect::<anyhow::Result<_>>()?;
        }
        if let Some(p) = self.port {
            container["ports"] = json!([{"containerPort": p}]);
        }
        if let Some(p) = &self.image_pull_policy {
            container["imagePullPolicy"] = p.as_str().into();
        }
        for (on, field) in [(self.stdin, "stdin"), (self.stdin, "stdinOnce"), (self.tty, "tty")] {
            if on {
                container[field] = true.into();
            }
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "labels": labels},
            "spec": {"containers": [container], "restartPolicy": self.restart, "dnsPolicy": "ClusterFirst"}});
        if let Some(o) = &self.overrides {
            json_patch::merge(&mut pod, &serde_json::from_str(o).context("--overrides is not valid JSON")?);
        }
        Ok(pod)
    }
}
