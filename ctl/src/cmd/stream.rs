//! `ctl logs`, `exec`, `attach` and `port-forward`: data out of and into containers.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Files, Found, Select, find};
use crate::api::resources::{Catalog, array, text};
use crate::api::rest::{Media, Rest, query};

/// Bytes that a stream may hold before its writer waits.
const BUFFER: usize = 64 * 1024;

/// Finds the pod that `POD`, `TYPE/NAME` or a workload's selector means.
async fn pod_of(rest: &Rest, word: &str) -> anyhow::Result<Value> {
    let catalog = Catalog::fetch(rest).await?;
    let words =
        if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".to_owned(), word.to_owned()] };
    let found = find(rest, &catalog, &Files::default(), &words, &Select::default(), false).await?;
    let found = found.into_iter().next().context("no pod was named")?;
    Ok(pods_behind(rest, &catalog, found).await?.remove(0))
}

/// The object itself if it is a pod, else the pods that it selects, running ones first; at least one.
async fn pods_behind(rest: &Rest, catalog: &Catalog, found: Found) -> anyhow::Result<Vec<Value>> {
    if found.resource.kind == "Pod" {
        return Ok(vec![found.object]);
    }
    let spec = &found.object["spec"];
    let labels = spec["selector"].get("matchLabels").unwrap_or(&spec["selector"]);
    let selector = crate::print::table::labels(labels);
    if selector == "<none>" {
        bail!("cannot find the pods of {}: it has no selector", found.display());
    }
    let path = catalog.find("pods.v1.")?.path(found.namespace.as_deref(), None);
    let list = rest.get(&format!("{path}?labelSelector={}", query(&selector))).await?;
    let mut pods = crate::print::format::items(&list);
    if pods.is_empty() {
        bail!("no pod of {} exists yet", found.display());
    }
    pods.sort_by_key(|p| p["status"]["phase"] != "Running");
    Ok(pods)
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    /// POD, or TYPE/NAME
    pod: Option<String>,
    /// Container
    container_word: Option<String>,
    #[arg(short, long)]
    container: Option<String>,
    /// Follow the log
    #[arg(short, long)]
    follow: bool,
    /// The log of the container's previous instance
    #[arg(short, long)]
    previous: bool,
    /// Lines from the end; -1 shows all
    #[arg(long, default_value_t = -1)]
    tail: i64,
    /// Only what is newer than this, such as 5s, 2m or 3h
    #[arg(long)]
    since: Option<component_base::duration::GoDuration>,
    /// Only what is newer than this moment (RFC 3339)
    #[arg(long)]
    since_time: Option<String>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Bytes to show at most
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// The logs of all containers
    #[arg(long)]
    all_containers: bool,
    /// Put pod and container before each line
    #[arg(long)]
    prefix: bool,
    /// Selector (label query) of pods
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

impl Logs {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let pods = match (&self.selector, &self.pod) {
            (Some(s), None) => {
                let path = format!("/api/v1/namespaces/{}/pods?labelSelector={}", rest.namespace, query(s));
                crate::print::format::items(&rest.get(&path).await?)
            }
            (None, Some(word)) => vec![pod_of(rest, word).await?],
            (Some(_), Some(_)) => bail!("only a selector (-l) or a POD name is allowed"),
            (None, None) => bail!("POD or TYPE/NAME is a required argument for the logs command"),
        };
        let sources: Vec<(String, String, String)> = pods.iter().flat_map(|p| self.containers(p)).collect();
        if self.follow && sources.len() > 1 {
            let all = sources.iter().map(|s| self.copy(rest, s));
            futures::future::try_join_all(all).await?;
            return Ok(());
        }
        for s in &sources {
            self.copy(rest, s).await?;
        }
        Ok(())
    }

    fn containers(&self, pod: &Value) -> Vec<(String, String, String)> {
        let (ns, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let spec = &pod["spec"];
        let names = |field: &str| array(&spec[field]).iter().map(|c| text(&c["name"])).collect::<Vec<_>>();
        let chosen = match self.container.as_ref().or(self.container_word.as_ref()) {
            Some(c) => vec![c.clone()],
            None if self.all_containers => ["initContainers", "containers", "ephemeralContainers"]
                .iter()
                .flat_map(|f| names(f))
                .collect(),
            None => vec![default_container(pod)],
        };
        chosen.into_iter().map(|c| (ns.clone(), name.clone(), c)).collect()
    }

    async fn copy(&self, rest: &Rest, (ns, pod, container): &(String, String, String)) -> anyhow::Result<()> {
        let mut q = vec![format!("container={}", query(container))];
        for (on, name) in
            [(self.follow, "follow"), (self.previous, "previous"), (self.timestamps, "timestamps")]
        {
            if on {
                q.push(format!("{name}=true"));
            }
        }
        if self.tail >= 0 {
            q.push(format!("tailLines={}", self.tail));
        } else if self.selector.is_some() && !self.follow {
            // With several pods, kubectl shows the last lines only.
            q.push("tailLines=10".into());
        }
        if let Some(s) = self.since {
            q.push(format!("sinceSeconds={}", s.0.as_secs().max(1)));
        }
        if let Some(t) = &self.since_time {
            q.push(format!("sinceTime={}", query(t)));
        }
        if let Some(n) = self.limit_bytes {
            q.push(format!("limitBytes={n}"));
        }
        let path = format!("/api/v1/namespaces/{ns}/pods/{pod}/log?{}", q.join("&"));
        let media = Media { accept: Some("application/json, */*"), content_type: None };
        let lines = rest.lines(&path, media).await?;
        pin_mut!(lines);
        let mut out = std::io::stdout();
        while let Some(line) = lines.next().await {
            if self.prefix {
                write!(out, "[pod/{pod}/{container}] ")?;
            }
            out.write_all(&line?)?;
            out.flush()?;
        }
        Ok(())
    }
}

/// The container that commands mean when none is named: the annotated one, else the first.
fn default_container(pod: &Value) -> String {
    let annotated = text(&pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]);
    if !annotated.is_empty() {
        return annotated;
    }
    let containers = array(&pod["spec"]["containers"]);
    let first = containers.first().map(|c| text(&c["name"])).unwrap_or_default();
    if containers.len() > 1 {
        let all: Vec<String> = containers.iter().map(|c| text(&c["name"])).collect();
        eprintln!("Defaulted container \"{first}\" out of: {}", all.join(", "));
    }
    first
}

/// Which streams a session connects.
#[derive(Debug, clap::Args)]
struct Session {
    /// Container; by default the pod's first
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input to the container
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(short, long)]
    tty: bool,
    /// Only print output from the session
    #[arg(short, long)]
    quiet: bool,
}

impl Session {
    fn params(&self, pod: &Value) -> AttachParams {
        let tty = self.tty && std::io::stdin().is_terminal();
        if self.tty && !tty {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        AttachParams {
            container: Some(self.container.clone().unwrap_or_else(|| default_container(pod))),
            stdin: self.stdin,
            stdout: true,
            stderr: !tty,
            tty,
            max_stdin_buf_size: Some(BUFFER),
            max_stdout_buf_size: Some(BUFFER),
            max_stderr_buf_size: Some(BUFFER),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// POD, or TYPE/NAME
    pod: String,
    #[command(flatten)]
    session: Session,
    /// The command and its arguments, after --
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<ExitCode> {
        let pod = pod_of(rest, &self.pod).await?;
        let params = self.session.params(&pod);
        let (api, name) = api_of(rest, &pod);
        let process = api.exec(&name, &self.command, &params).await.map_err(refused)?;
        Ok(ExitCode::from(converse(process, &params).await?))
    }
}

#[derive(Debug, clap::Args)]
pub struct Attach {
    /// POD, or TYPE/NAME
    pod: String,
    #[command(flatten)]
    session: Session,
}

impl Attach {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<ExitCode> {
        let pod = pod_of(rest, &self.pod).await?;
        let params = self.session.params(&pod);
        let (api, name) = api_of(rest, &pod);
        let process = api.attach(&name, &params).await.map_err(refused)?;
        if !self.session.quiet && params.stdin {
            eprintln!("If you don't see a command prompt, try pressing enter.");
        }
        Ok(ExitCode::from(converse(process, &params).await?))
    }
}

/// Waits until a pod that was just made runs or has ended, and attaches to it; one that has ended shows its log.
/// Returns the container's exit code.
///
/// # Errors
/// The pod never starts, or the connection fails.
pub async fn attach_to_new(rest: &Rest, name: &str, stdin: bool, tty: bool) -> anyhow::Result<u8> {
    let api: Api<Pod> = Api::namespaced(rest.client.clone(), &rest.namespace);
    let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let started =
        |p: Option<&Pod>| p.is_some_and(|p| matches!(phase(p).as_str(), "Running" | "Succeeded" | "Failed"));
    let wait = kube::runtime::wait::await_condition(api.clone(), name, started);
    tokio::time::timeout(std::time::Duration::from_secs(60), wait)
        .await
        .with_context(|| format!("timed out waiting for pod {name} to start"))??;
    let pod = serde_json::to_value(api.get(name).await?)?;
    if pod["status"]["phase"] == "Running" {
        let session = Session { container: None, stdin, tty, quiet: false };
        let params = session.params(&pod);
        if let Ok(process) = api.attach(name, &params).await {
            if stdin {
                eprintln!("If you don't see a command prompt, try pressing enter.");
            }
            return converse(process, &params).await;
        }
    }
    // It ended before anybody could attach.
    print!("{}", api.logs(name, &Default::default()).await?);
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    Ok(u8::try_from(state["exitCode"].as_i64().unwrap_or(0)).unwrap_or(1))
}

fn api_of(rest: &Rest, pod: &Value) -> (Api<Pod>, String) {
    let namespace = text(&pod["metadata"]["namespace"]);
    (Api::namespaced(rest.client.clone(), &namespace), text(&pod["metadata"]["name"]))
}

fn refused(e: kube::Error) -> anyhow::Error {
    anyhow::Error::new(e).context("unable to upgrade connection")
}

/// Joins this program's streams with the container's until the process there ends; returns its exit code.
async fn converse(mut process: AttachedProcess, params: &AttachParams) -> anyhow::Result<u8> {
    let _raw = params.tty.then(RawTerminal::enter).transpose()?;
    if let Some(mut sizes) = process.terminal_size() {
        let mut changes = signal(SignalKind::window_change())?;
        tokio::spawn(async move {
            loop {
                let Some((height, width)) = terminal_size() else { return };
                use futures::SinkExt;
                if sizes.send(TerminalSize { height, width }).await.is_err() || changes.recv().await.is_none()
                {
                    return;
                }
            }
        });
    }
    if let Some(mut to) = process.stdin() {
        tokio::spawn(async move {
            // Ends when either side closes; the process sees the end of its input when `to` is dropped.
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            let _ = to.shutdown().await;
        });
    }
    let status = process.take_status();
    let out = process.stdout().map(|from| forward(from, std::io::stdout()));
    let err = process.stderr().map(|from| forward(from, std::io::stderr()));
    let copy = async { if let Some(o) = out { o.await } else { Ok(()) } };
    let copy_err = async { if let Some(e) = err { e.await } else { Ok(()) } };
    tokio::try_join!(copy, copy_err)?;
    let status = match status {
        Some(s) => s.await,
        None => None,
    };
    let Some(status) = status else { return Ok(0) };
    if status.status.as_ref().is_some_and(|s| format!("{s:?}").contains("Success")) {
        return Ok(0);
    }
    let value = serde_json::to_value(&status)?;
    let causes = array(&value["details"]["causes"]);
    let code = causes
        .iter()
        .find(|c| c["reason"] == "ExitCode")
        .and_then(|c| text(&c["message"]).parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(code)
        }
        None => bail!("{}", text(&value["message"])),
    }
}

async fn forward(mut from: impl tokio::io::AsyncRead + Unpin, mut to: impl Write) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        to.flush()?;
    }
}

/// The terminal without echo and line editing, put back when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("reading terminal settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).context("setting the terminal to raw mode")?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing better can be done at this point.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Rows and columns of the terminal.
fn terminal_size() -> Option<(u16, u16)> {
    let (rows, columns) = console::Term::stdout().size_checked()?;
    Some((rows, columns))
}

#[derive(Debug, clap::Args)]
pub struct PortForward {
    /// POD, or TYPE/NAME
    pod: String,
    /// [LOCAL:]REMOTE; a local port of 0 or nothing takes a free one
    #[arg(required = true)]
    ports: Vec<String>,
    /// Addresses to listen on
    #[arg(long, default_value = "127.0.0.1", value_delimiter = ',')]
    address: Vec<String>,
}

impl PortForward {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let words = if self.pod.contains('/') {
            vec![self.pod.clone()]
        } else {
            vec!["pods".into(), self.pod.clone()]
        };
        let found = find(rest, &catalog, &Files::default(), &words, &Select::default(), false).await?;
        let found = found.into_iter().next().context("no pod was named")?;
        let service = (found.resource.kind == "Service").then(|| found.object.clone());
        let pod = pods_behind(rest, &catalog, found).await?.remove(0);
        if pod["status"]["phase"] != "Running" {
            bail!(
                "unable to forward port because pod is not running. Current status={}",
                text(&pod["status"]["phase"])
            );
        }
        let (api, name) = api_of(rest, &pod);
        let mut listeners = Vec::new();
        for spec in &self.ports {
            let (local, remote) = spec.split_once(':').unwrap_or((spec, spec));
            let remote = remote_port(remote, &pod, service.as_ref())?;
            let local: u16 = if local.is_empty() { 0 } else { local.parse().unwrap_or(remote) };
            for address in &self.address {
                let address = if address == "localhost" { "127.0.0.1" } else { address };
                let at: SocketAddr = format!("{address}:{local}")
                    .parse()
                    .with_context(|| format!("invalid address {address}"))?;
                let listener =
                    TcpListener::bind(at).await.with_context(|| format!("unable to listen on {at}"))?;
                println!("Forwarding from {} -> {remote}", listener.local_addr()?);
                listeners.push((listener, remote));
            }
        }
        let serve = listeners.into_iter().map(|(l, remote)| accept(l, remote, api.clone(), name.clone()));
        futures::future::try_join_all(serve).await?;
        Ok(())
    }
}

async fn accept(listener: TcpListener, remote: u16, api: Api<Pod>, pod: String) -> anyhow::Result<()> {
    loop {
        let (mut local, _) = listener.accept().await?;
        println!("Handling connection for {remote}");
        let (api, pod) = (api.clone(), pod.clone());
        tokio::spawn(async move {
            let result = async {
                let mut forwarder = api.portforward(&pod, &[remote]).await.map_err(refused)?;
                let mut stream = forwarder.take_stream(remote).context("the server opened no stream")?;
                // A peer that just goes away is the usual end.
                let _ = copy_bidirectional(&mut local, &mut stream).await;
                drop(stream);
                anyhow::Ok(())
            };
            if let Err(e) = result.await {
                eprintln!("error forwarding port {remote} to pod {pod}: {e:#}");
            }
        });
    }
}

/// The container port that a number, a port's name, or a service's port means.
fn remote_port(word: &str, pod: &Value, service: Option<&Value>) -> anyhow::Result<u16> {
    let mut wanted = word.parse::<i64>().map_or_else(|_| Value::from(word), Value::from);
    if let Some(s) = service {
        let port = array(&s["spec"]["ports"]).iter().find(|p| p["port"] == wanted || p["name"] == wanted);
        let port = port.with_context(|| format!("the service has no port {word}"))?;
        wanted = port.get("targetPort").unwrap_or(&port["port"]).clone();
    }
    if let Some(n) = wanted.as_i64() {
        return u16::try_from(n).with_context(|| format!("invalid port {word}"));
    }
    array(&pod["spec"]["containers"])
        .iter()
        .flat_map(|c| array(&c["ports"]))
        .find(|p| p["name"] == wanted)
        .and_then(|p| u16::try_from(p["containerPort"].as_i64()?).ok())
        .with_context(|| format!("the pod has no port named {wanted}"))
}
