//! The operations a pod's worker carries out: create the sandbox, start and stop containers, mount volumes.
//! Each is one async function over the runtime; none decides anything.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_cri::v1::{Device, ImageSpec, Mount, MountPropagation, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, FileKeySelector, Pod, Secret, VolumeDevice};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use super::{
    container::{self, ContainerInputs, DEFAULT_MESSAGE_PATH},
    dns, env, env_file,
    expand::expand,
    gate::Gate,
    hooks, resources,
    sandbox::{self, SandboxInputs},
    security, service_env, spec,
    spec::Role,
};
use crate::{
    context::Context,
    cri::{ContainerState, PodRuntime},
    events::{NORMAL, WARNING},
    image::puller::{Failure, Wanted},
    volume::{self, PodDirs, setup::MountedVolumes, token::TokenCache},
};

/// The sandbox configuration, which every container creation repeats.
pub fn sandbox_config(ctx: &Context, pod: &Pod, attempt: u32) -> Result<PodSandboxConfig, String> {
    let domain = &ctx.config.cluster_domain;
    let (host, sub) = dns::hostname(pod, domain)?;
    let resolv = match ctx.config.resolv_conf.as_str() {
        "" => k8s_cri::v1::DnsConfig {
            servers: vec!["127.0.0.1".into()],
            searches: vec![".".into()],
            options: vec![],
        },
        path => match fs::read_to_string(path) {
            Ok(text) => dns::parse_resolv_conf(&text),
            Err(e) => return Err(format!("cannot read the node's resolver configuration {path}: {e}")),
        },
    };
    let (dns, warning) = dns::pod_dns(pod, resolv, &ctx.config.cluster_dns, domain);
    if let Some(warning) = warning
        && attempt == 0
    {
        let reason = if warning.contains("ClusterDNS") { "MissingClusterDNS" } else { "DNSConfigForming" };
        ctx.recorder.pod(pod, WARNING, reason, warning);
    }
    let policy = ctx.security_policy();
    Ok(sandbox::config(
        pod,
        SandboxInputs {
            attempt,
            hostname: dns::node_hostname(pod, &host, &sub)?,
            dns,
            cgroup_parent: ctx.cgroups.pod_path(pod),
            logs: std::path::Path::new(&ctx.config.pod_logs_dir),
            security: &policy,
            quota_period: ctx.quota_period(),
        },
    ))
}

async fn runtime_handler(ctx: &Context, pod: &Pod) -> Result<String, String> {
    let Some(class) = spec::spec(pod).runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
        return Ok(String::new());
    };
    let Some(client) = &ctx.client else {
        return Err(format!("RuntimeClass {class:?} needs an API server, and none is configured"));
    };
    let api: Api<RuntimeClass> = Api::all(client.clone());
    match api.get_opt(class).await {
        Ok(Some(found)) => Ok(found.handler),
        Ok(None) => Err(format!("RuntimeClass {class:?} not found")),
        Err(e) => Err(format!("looking up RuntimeClass {class:?}: {e}")),
    }
}

/// What the pod asks for and this kubelet cannot give. Ignoring it would run the pod less safely, or not as meant.
fn unsupported(pod: &Pod) -> Option<&'static str> {
    let s = spec::spec(pod);
    if s.host_users == Some(false) {
        return Some("spec.hostUsers: false is not supported: this kubelet has no user namespaces yet");
    }
    None
}

/// Why there is no sandbox.
pub enum NoSandbox {
    /// The pod's devices are not ready.
    Devices(String),
    Other(String),
}

impl From<String> for NoSandbox {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// Makes the pod's cgroup and log folder, gets its devices ready, and makes the sandbox.
pub async fn create_sandbox(ctx: &Context, pod: &Pod, attempt: u32) -> Result<String, NoSandbox> {
    if let Some(problem) = unsupported(pod) {
        return Err(problem.to_owned().into());
    }
    let begun = Instant::now();
    let prepared = ctx.dra.prepare(pod).await;
    ctx.metrics.devices("PrepareResources", begun.elapsed(), prepared.is_err());
    prepared.map_err(NoSandbox::Devices)?;
    ctx.cgroups
        .ensure_pod(pod, ctx.quota_period(), ctx.config.pod_pids_limit)
        .map_err(|e| format!("unable to ensure pod container exists: {e}"))?;
    let logs = sandbox::log_directory(std::path::Path::new(&ctx.config.pod_logs_dir), pod);
    fs::create_dir_all(&logs).map_err(|e| format!("creating the log folder {}: {e}", logs.display()))?;
    let config = sandbox_config(ctx, pod, attempt)?;
    let handler = runtime_handler(ctx, pod).await?;
    let begun = Instant::now();
    let result = ctx.cri.run_sandbox(config, &handler).await;
    ctx.metrics.runtime_operation("run_podsandbox", begun.elapsed(), result.is_err());
    result.map_err(|e| e.message().to_owned().into())
}

/// What a volume round leaves behind.
#[derive(Default)]
pub struct VolumeState {
    pub tokens: TokenCache,
}

/// Mounts or refreshes all volumes.
pub async fn mount_volumes(
    ctx: &Context,
    pod: &Pod,
    state: &tokio::sync::Mutex<VolumeState>,
    pod_ips: Vec<String>,
) -> Result<MountedVolumes, String> {
    let dirs = PodDirs::new(&ctx.root_dir, spec::uid(pod));
    let make = |d: &std::path::Path| {
        fs::create_dir_all(d).and_then(|()| fs::set_permissions(d, fs::Permissions::from_mode(0o750)))
    };
    make(&dirs.root).map_err(|e| format!("error making pod data directories: {e}"))?;
    let names = env::references(pod);
    let objects = ctx.objects.collect(spec::namespace(pod), &names, spec::uid(pod)).await?;
    let mut state = state.lock().await;
    let setup = volume::setup::Setup {
        dirs: &dirs,
        client: ctx.client.as_ref(),
        objects: &objects,
        facts: &ctx.facts(pod_ips),
        now: Timestamp::now(),
        csi: &ctx.csi,
    };
    volume::setup::all(&setup, pod, &mut state.tokens).await
}

/// What starting a container needs.
pub struct Start {
    pub pod: Arc<Pod>,
    pub name: String,
    pub role: Role,
    pub restart_count: u32,
    pub sandbox: String,
    pub runtime: Arc<PodRuntime>,
    pub volumes: Arc<MountedVolumes>,
    pub gate: Arc<Gate>,
}

impl Start {
    fn pod_ips(&self, ctx: &Context) -> Vec<String> {
        if spec::host_network(&self.pod) {
            ctx.node_ips.clone()
        } else {
            self.runtime.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        }
    }
}

fn config_error(message: impl Into<String>) -> Failure {
    Failure::new("CreateContainerConfigError", message)
}

/// Image, configuration, create, start, postStart. Events tell each step.
pub async fn start_container(ctx: &Context, s: &Start) -> Result<String, Failure> {
    let pod = &*s.pod;
    let Some((role, c)) = spec::find_container(pod, &s.name) else {
        return Err(config_error(format!("container {} is no longer in the pod's spec", s.name)));
    };
    let failed = |f: Failure| {
        ctx.recorder.container(pod, &s.name, WARNING, "Failed", format!("Error: {}", f.message));
        f
    };
    let attempt = s.runtime.ready_sandbox().map_or(0, |x| x.attempt);
    let sandbox_config = sandbox_config(ctx, pod, attempt.max(1)).map_err(|e| failed(config_error(e)))?;
    let sandbox_config = with_attempt(sandbox_config, attempt);

    let names = env::references(pod);
    let objects = ctx
        .objects
        .collect(spec::namespace(pod), &names, spec::uid(pod))
        .await
        .map_err(|e| failed(config_error(e)))?;
    let secrets = pull_secrets(ctx, pod).await;
    let secrets: Vec<&Secret> = secrets.iter().map(|s| &**s).collect();
    let image = ctx.images.ensure(&Wanted::by_container(pod, &c), &secrets, &sandbox_config).await;
    let image = image.inspect_err(|f| {
        if matches!(
            f.reason,
            "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError" | "ImagePullBackOff"
        ) {
            ctx.recorder.container(pod, &s.name, WARNING, "Failed", format!("Error: {}", f.reason));
        }
    })?;

    security::verify_non_root(pod, &c, &image.user).map_err(|e| failed(config_error(e)))?;
    let pod_ips = s.pod_ips(ctx);
    let facts = ctx.facts(pod_ips.clone());
    let links = spec::spec(pod).enable_service_links != Some(false);
    let services = ctx.services.with(|all| service_env::variables(all, spec::namespace(pod), links)).await;
    let environment = env::environment(pod, &c, &facts, &services, &objects, &|f| file(f, &s.volumes))
        .map_err(|e| failed(config_error(e)))?;
    let shown = image_volumes(ctx, pod, &c, &secrets, &sandbox_config).await?;
    let mounts =
        mounts(ctx, pod, &c, s, &environment, &pod_ips, &shown).map_err(|e| failed(config_error(e)))?;
    let devices = devices(&c, &s.volumes).map_err(|e| failed(config_error(e)))?;
    let cdi_devices = ctx.dra.cdi_devices(pod, &c).map_err(|e| failed(config_error(e)))?;
    let target = match role {
        Role::Ephemeral => target_id(pod, s),
        _ => None,
    };
    let config = container::config(
        pod,
        &c,
        ContainerInputs {
            restart_count: s.restart_count,
            image_id: image.id,
            env: environment,
            mounts,
            devices,
            cdi_devices,
            resources: resources::linux_resources(pod, &c, ctx.machine.memory, ctx.quota_period()),
            security: security::container(pod, &c, &image.user, &ctx.security_policy(), target.as_deref()),
        },
    );
    // A resize may have changed the pod's limits; no container that still runs may have more than its pod.
    let running = |name: &str| s.runtime.container(name).is_some_and(|c| c.state == ContainerState::Running);
    let held = ctx.allocations.actuated(spec::uid(pod)).map(|a| a.held(&s.pod, running));
    if (s.restart_count > 0 || pod.metadata.generation.is_some_and(|g| g > 1))
        && let Err(e) = ctx.cgroups.ensure_pod(
            held.as_deref().unwrap_or(pod),
            ctx.quota_period(),
            ctx.config.pod_pids_limit,
        )
    {
        tracing::warn!(pod = spec::key(pod), error = %e, "cannot bring the pod's cgroup up to date");
    }
    let log_dir = sandbox::log_directory(std::path::Path::new(&ctx.config.pod_logs_dir), pod).join(&s.name);
    fs::create_dir_all(&log_dir)
        .map_err(|e| failed(config_error(format!("creating {}: {e}", log_dir.display()))))?;

    s.gate.enter().await;
    let begun = Instant::now();
    let created = ctx.cri.create_container(&s.sandbox, config, sandbox_config).await;
    ctx.metrics.runtime_operation("create_container", begun.elapsed(), created.is_err());
    let id = created.map_err(|e| failed(Failure::new("CreateContainerError", e.message())))?;
    ctx.recorder.container(pod, &s.name, NORMAL, "Created", "Container created");
    let begun = Instant::now();
    let started = ctx.cri.start_container(&id).await;
    ctx.metrics.runtime_operation("start_container", begun.elapsed(), started.is_err());
    started.map_err(|e| failed(Failure::new("RunContainerError", e.message())))?;
    ctx.recorder.container(pod, &s.name, NORMAL, "Started", "Container started");
    link_log(ctx, pod, &s.name, &id, &log_dir.join(format!("{}.log", s.restart_count)));

    if s.gate.leave()
        && let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
    {
        let ip = pod_ips.first().map(String::as_str).unwrap_or_default();
        if let Err(e) = hooks::run(&ctx.cri, &id, &c, ip, hook, Duration::from_secs(3600)).await {
            tracing::warn!(pod = spec::key(pod), container = s.name, error = e, "postStart hook failed");
            ctx.recorder.container(pod, &s.name, WARNING, "FailedPostStartHook", "PostStartHook failed");
            kill_container(ctx, pod, &id, &s.name, "FailedPostStartHook", spec::grace_period(pod)).await;
            return Err(Failure::new("PostStartHookError", e));
        }
    }
    Ok(id)
}

fn with_attempt(mut config: PodSandboxConfig, attempt: u32) -> PodSandboxConfig {
    if let Some(metadata) = &mut config.metadata {
        metadata.attempt = attempt;
    }
    config
}

/// The container whose process namespace an ephemeral container joins.
fn target_id(pod: &Pod, s: &Start) -> Option<String> {
    let e = spec::spec(pod).ephemeral_containers.iter().flatten().find(|e| e.name == s.name)?;
    let name = e.target_container_name.as_deref().filter(|n| !n.is_empty())?;
    s.runtime.container(name).filter(|c| c.state == ContainerState::Running).map(|c| c.id.clone())
}

async fn pull_secrets(ctx: &Context, pod: &Pod) -> Vec<Arc<Secret>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        match ctx.objects.secrets.get(spec::namespace(pod), &reference.name, spec::uid(pod)).await {
            Ok(Some(secret)) => found.push(secret),
            _ => missing.push(reference.name.clone()),
        }
    }
    if !missing.is_empty() {
        ctx.recorder.pod(
            pod,
            WARNING,
            "FailedToRetrieveImagePullSecret",
            format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            ),
        );
    }
    found
}

/// The images that the container mounts as volumes (KEP-4639), by volume; pulled as the image it runs is.
async fn image_volumes(
    ctx: &Context,
    pod: &Pod,
    c: &Container,
    secrets: &[&Secret],
    sandbox: &PodSandboxConfig,
) -> Result<BTreeMap<String, ImageSpec>, Failure> {
    let mut shown = BTreeMap::new();
    for v in spec::spec(pod).volumes.iter().flatten() {
        let Some(source) = &v.image else { continue };
        if !c.volume_mounts.iter().flatten().any(|m| m.name == v.name) {
            continue;
        }
        let present = ctx.images.ensure(&Wanted::by_volume(pod, source), secrets, sandbox).await?;
        let image = ImageSpec {
            image: present.id,
            user_specified_image: source.reference.clone().unwrap_or_default(),
            annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            ..ImageSpec::default()
        };
        shown.insert(v.name.clone(), image);
    }
    Ok(shown)
}

/// The text of a file that variables come from.
fn file(f: &FileKeySelector, volumes: &MountedVolumes) -> Result<String, String> {
    let volume = volumes
        .get(&f.volume_name)
        .ok_or_else(|| format!("cannot find the volume {:?} referenced by FileKeyRef", f.volume_name))?;
    env_file::read(&volume.path, &f.path)
        .map_err(|e| format!("couldn't parse env file {:?} of volume {:?}: {e}", f.path, f.volume_name))
}

/// Block volumes, as devices of the container.
fn devices(c: &Container, volumes: &MountedVolumes) -> Result<Vec<Device>, String> {
    let of = |d: &VolumeDevice| {
        let volume = volumes.get(&d.name).filter(|v| v.block);
        let volume = volume
            .ok_or_else(|| format!("cannot find volume {:?} to pass into container {:?}", d.name, c.name))?;
        Ok(Device {
            container_path: d.device_path.clone(),
            host_path: volume.path.to_string_lossy().into_owned(),
            permissions: if volume.read_only { "r" } else { "mrw" }.into(),
        })
    };
    c.volume_devices.iter().flatten().map(of).collect()
}

fn propagation(text: Option<&str>) -> i32 {
    (match text {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }) as i32
}

fn mounts(
    ctx: &Context,
    pod: &Pod,
    c: &Container,
    s: &Start,
    environment: &[(String, String)],
    pod_ips: &[String],
    images: &BTreeMap<String, ImageSpec>,
) -> Result<Vec<Mount>, String> {
    let dirs = PodDirs::new(&ctx.root_dir, spec::uid(pod));
    let variables: BTreeMap<&str, &str> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut out = Vec::new();
    for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
        let mut sub = m.sub_path.clone().unwrap_or_default();
        if let Some(expression) = m.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            let (expanded, missing) = expand(expression, |n| variables.get(n).copied());
            if !missing.is_empty() {
                return Err(format!("missing value for {:?}", missing.join(", ")));
            }
            sub = expanded;
        }
        let container_path =
            if m.mount_path.starts_with('/') { m.mount_path.clone() } else { format!("/{}", m.mount_path) };
        if let Some(image) = images.get(&m.name) {
            if !sub.is_empty() {
                // The runtime interface of this build has no field for it.
                return Err(format!(
                    "subPath {sub:?} of image volume {:?} is not supported by this kubelet",
                    m.name
                ));
            }
            out.push(Mount {
                container_path,
                image: Some(image.clone()),
                readonly: true,
                ..Mount::default()
            });
            continue;
        }
        let volume = s
            .volumes
            .get(&m.name)
            .ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", m.name, c.name))?;
        let mut host_path = volume.path.clone();
        if !sub.is_empty() {
            volume::subpath::check(&sub)?;
            host_path = volume::subpath::prepare(&volume.path, &sub, &dirs.subpath(&m.name, &c.name, index))
                .map_err(|e| {
                    tracing::warn!(pod = spec::key(pod), volume = m.name, error = %e, "cannot prepare subPath");
                    format!("failed to prepare subPath for volumeMount {:?} of container {:?}", m.name, c.name)
                })?;
        }
        out.push(Mount {
            container_path,
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: volume.read_only || m.read_only == Some(true),
            propagation: propagation(m.mount_propagation.as_deref()),
            recursive_read_only: m.recursive_read_only.as_deref() == Some("Enabled"),
            ..Mount::default()
        });
    }
    if !out.iter().any(|m| m.container_path == "/etc/hosts")
        && (spec::host_network(pod) || !pod_ips.is_empty())
    {
        let path =
            write_hosts(ctx, pod, pod_ips, &dirs).map_err(|e| format!("writing the hosts file: {e}"))?;
        out.push(plain_mount("/etc/hosts", path));
    }
    let message_path = c.termination_message_path.as_deref().unwrap_or(DEFAULT_MESSAGE_PATH);
    if !message_path.is_empty() {
        let dir = dirs.container(&c.name);
        let file = dir.join(format!("{:08x}", rand::random::<u32>()));
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&file, b""))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o666)))
            .map_err(|e| format!("making the termination message file: {e}"))?;
        out.push(plain_mount(message_path, file));
    }
    Ok(out)
}

fn plain_mount(container_path: &str, host_path: PathBuf) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

fn write_hosts(ctx: &Context, pod: &Pod, ips: &[String], dirs: &PodDirs) -> io::Result<PathBuf> {
    let path = dirs.etc_hosts();
    let text = if spec::host_network(pod) {
        dns::host_network_hosts_file(pod, &fs::read_to_string("/etc/hosts")?)
    } else {
        let (host, domain) = dns::hostname(pod, &ctx.config.cluster_domain).map_err(io::Error::other)?;
        dns::hosts_file(pod, ips, &host, &domain)
    };
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

/// The flat link that log collectors follow.
fn link_log(ctx: &Context, pod: &Pod, name: &str, id: &str, log: &std::path::Path) {
    if ctx.config.pod_logs_dir != "/var/log/pods" {
        return;
    }
    let dir = std::path::Path::new("/var/log/containers");
    let link = dir.join(format!("{}_{}_{name}-{id}.log", spec::name(pod), spec::namespace(pod)));
    if let Err(e) = fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(log, &link)) {
        tracing::debug!(link = %link.display(), error = %e, "cannot link a container log");
    }
}

/// Least time between SIGTERM and SIGKILL once a hook has used up the grace period.
const MIN_GRACE: i64 = 2;

/// preStop, then SIGTERM, then SIGKILL when the grace period is over.
pub async fn kill_container(ctx: &Context, pod: &Pod, id: &str, name: &str, message: &str, grace: i64) {
    ctx.recorder.container(pod, name, NORMAL, "Killing", message);
    let begun = Instant::now();
    if grace > 0
        && let Some((_, c)) = spec::find_container(pod, name)
        && let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
    {
        let ip = if spec::host_network(pod) {
            ctx.node_ips.first().cloned()
        } else {
            pod.status.as_ref().and_then(|s| s.pod_ip.clone())
        }
        .unwrap_or_default();
        let limit = Duration::from_secs(grace as u64);
        let run = hooks::run(&ctx.cri, id, &c, &ip, hook, limit);
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!(pod = spec::key(pod), container = name, error = e, "preStop hook failed");
                ctx.recorder.container(pod, name, WARNING, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::warn!(
                pod = spec::key(pod),
                container = name,
                "preStop hook used up the grace period"
            ),
        }
    }
    let left =
        if grace == 0 { 0 } else { (grace - begun.elapsed().as_secs() as i64).max(MIN_GRACE.min(grace)) };
    let stop = Instant::now();
    let result = ctx.cri.stop_container(id, left).await;
    ctx.metrics.runtime_operation("stop_container", stop.elapsed(), result.is_err());
    if let Err(e) = result {
        tracing::warn!(pod = spec::key(pod), container = name, error = %e, "cannot stop a container");
        ctx.recorder.pod(pod, WARNING, "FailedKillPod", format!("error killing pod: {}", e.message()));
    }
}

/// Removes a dead container and its log.
pub async fn remove_container(ctx: &Context, id: &str, log_path: &str) {
    if let Err(e) = ctx.cri.remove_container(id).await {
        tracing::warn!(container = id, error = %e, "cannot remove a dead container");
        return;
    }
    if !log_path.is_empty() {
        crate::server::logs::remove_with_rotations(std::path::Path::new(log_path));
    }
}
