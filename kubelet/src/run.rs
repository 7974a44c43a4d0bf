//! Puts the parts together and runs them until the process is told to stop. Containers go on running then.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use anyhow::{Context as _, bail};
use component_base::{
    kubeconfig,
    process::{self, Shutdown},
    serving::health::Health,
};
use k8s_openapi::api::core::v1::Node;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::{
    cgroup::Cgroups,
    context::Context,
    cri::{Cri, events},
    dra::Dra,
    events::{NORMAL, Recorder, WARNING},
    eviction, gc,
    image::ImagePuller,
    metrics::KubeletMetrics,
    network::CniWriter,
    node::{lease, machine::Machine, register, services::Services, status, watch},
    objects::{Notify, Objects},
    options::{Flags, flags::parse_map},
    plugins,
    pod::{
        PodManager,
        allocation::{Allocations, metrics::ResizeMetrics},
        api_source, file_source,
    },
    server,
    status::StatusWriter,
    volume::{
        csi::{self, Csi},
        mounts,
    },
};

/// Name of the node: the override, else the host's name in lower case.
fn node_name(flags: &Flags) -> anyhow::Result<String> {
    let name = match flags.hostname_override.trim() {
        "" => nix::unistd::gethostname().context("reading the host's name")?.to_string_lossy().into_owned(),
        given => given.to_owned(),
    };
    let name = name.to_lowercase();
    if name.is_empty() {
        bail!("the host has no name: give one with --hostname-override");
    }
    Ok(name)
}

/// Addresses of the node: those given, else the one that the default route leaves from.
fn node_ips(flags: &Flags) -> anyhow::Result<Vec<String>> {
    let given: Vec<&str> = flags.node_ip.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    for ip in &given {
        ip.parse::<IpAddr>().map_err(|_| anyhow::anyhow!("--node-ip: {ip:?} is not an IP address"))?;
    }
    if !given.is_empty() {
        return Ok(given.into_iter().map(str::to_owned).collect());
    }
    // Connecting a datagram socket sends nothing; it only asks the kernel for a route.
    let local = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        s.connect("192.0.2.1:9")?;
        s.local_addr()
    });
    if let Ok(address) = local
        && !address.ip().is_unspecified()
        && !address.ip().is_loopback()
    {
        return Ok(vec![address.ip().to_string()]);
    }
    let found = nix::ifaddrs::getifaddrs().context("listing network interfaces")?.find_map(|i| {
        let ip = i.address?.as_sockaddr_in()?.ip();
        (!ip.is_loopback()).then(|| ip.to_string())
    });
    Ok(vec![found.unwrap_or_else(|| "127.0.0.1".into())])
}

async fn wait_for_runtime(cri: &Cri, endpoint: &str, shutdown: &Shutdown) -> anyhow::Result<String> {
    let mut warned = false;
    loop {
        match cri.version().await {
            Ok(v) => return Ok(v.runtime_name),
            Err(e) if !warned => {
                warned = true;
                tracing::warn!(endpoint, error = %e, "the container runtime does not answer yet, waiting for it");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => bail!("stopped while waiting for the container runtime at {endpoint}"),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

fn check_host(ctx_swap: bool) -> anyhow::Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if ctx_swap && swaps.lines().count() > 1 {
        bail!("running with swap on is not supported, please disable swap or set failSwapOn: false");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the kubelet must run as root: it mounts volumes and makes cgroups");
    }
    Ok(())
}

/// Runs the kubelet.
pub async fn run(flags: Flags, shutdown: Shutdown) -> anyhow::Result<()> {
    if flags.bootstrap_kubeconfig.is_some() && !flags.kubeconfig.as_ref().is_some_and(|k| k.exists()) {
        bail!(
            "--bootstrap-kubeconfig is not supported yet: make a client certificate for system:node:<name> in group system:nodes and give it with --kubeconfig"
        );
    }
    if !matches!(flags.cloud_provider.as_str(), "" | "external") {
        bail!("--cloud-provider {:?} is not supported: only \"external\" is", flags.cloud_provider);
    }
    let config = flags.configuration()?;
    check_host(config.fail_swap_on)?;
    let node_name = node_name(&flags)?;
    let node_ips = node_ips(&flags)?;
    let own_labels = parse_map("node-labels", &flags.node_labels, '=')?;
    adjust_oom_score(config.oom_score_adj);
    std::fs::create_dir_all(&flags.root_dir)
        .with_context(|| format!("creating {}", flags.root_dir.display()))?;
    mounts::share(&flags.root_dir)?;

    let client = match &flags.kubeconfig {
        Some(path) => Some(kubeconfig::client(path, "kubelet").await?),
        None => None,
    };
    let cri = Cri::new(
        &config.container_runtime_endpoint,
        &config.image_service_endpoint,
        config.runtime_request_timeout.0,
    )?;
    let runtime_name = wait_for_runtime(&cri, &config.container_runtime_endpoint, &shutdown).await?;
    let cgroups = Cgroups::detect(&config.cgroup_root, config.cgroups_per_qos, config.fail_cgroup_v1)?;
    let machine = Machine::discover(&config, &flags.root_dir);
    let enforce = config.enforce_node_allocatable.iter().any(|e| e == "pods");
    cgroups.ensure_roots(machine.allocatable, enforce).context("making the cgroups of pods")?;

    let health = Health::default();
    health.set_profiling(config.enable_profiling_handler);
    health.set_config("kubeletconfig", serde_json::to_value(&config)?);
    let recorder = Recorder::start(client.clone(), &node_name);
    if !cgroups.is_v2() {
        recorder.node(
            WARNING,
            "CgroupV1",
            "cgroup v1 support is in maintenance mode, please migrate to cgroup v2",
        );
    }
    // Objects wake pods through the manager, which is made after them.
    let manager_cell: Arc<OnceLock<Weak<PodManager>>> = Arc::default();
    let notify: Notify = {
        let cell = manager_cell.clone();
        Arc::new(move |uid| {
            if let Some(manager) = cell.get().and_then(Weak::upgrade) {
                manager.on_object_change(uid);
            }
        })
    };
    let parallel = if config.serialize_image_pulls { Some(1) } else { config.max_parallel_image_pulls };
    let ctx = Arc::new(Context {
        seccomp_root: flags.root_dir.join("seccomp"),
        root_dir: flags.root_dir.clone(),
        metrics: KubeletMetrics::register(health.metrics(), &node_name),
        images: ImagePuller::new(cri.clone(), recorder.clone(), parallel),
        objects: Objects::new(client.clone(), notify),
        services: Services::start(client.clone()),
        status: StatusWriter::new(client.clone()),
        node: RwLock::new(None::<Arc<Node>>),
        csi: Csi::new(&flags.root_dir, &node_name),
        dra: Dra::new(&flags.root_dir, client.clone(), &node_name).map_err(anyhow::Error::msg)?,
        allocations: Allocations::open(&flags.root_dir, ResizeMetrics::register(health.metrics()))
            .map_err(anyhow::Error::msg)?,
        config,
        node_name,
        node_ips,
        cri,
        runtime_name,
        client,
        recorder,
        cgroups,
        machine,
    });
    let pods = PodManager::new(ctx.clone());
    let _ = manager_cell.set(Arc::downgrade(&pods));
    // The first answer decides whether pods wait for the network.
    let _ = status::runtime_state(&ctx).await;
    server::start(ctx.clone(), pods.clone(), health, &flags.cert_dir, shutdown.clone()).await?;
    ctx.recorder.node(NORMAL, "Starting", "Starting kubelet.");

    let cni = flags.cni_conf_dir.clone().map(|dir| {
        let leases = flags.cni_state_dir.clone().unwrap_or_else(|| ctx.root_dir.join("cni"));
        CniWriter::new(dir, leases)
    });
    start_node(&ctx, cni, own_labels).await;
    start_sources(&ctx, &pods);
    tokio::spawn(eviction::run(ctx.clone(), pods.clone()));
    tokio::spawn(gc::images(ctx.clone()));
    tokio::spawn(gc::logs(ctx.clone(), pods.clone()));
    let (tx, mut rx) = mpsc::channel(256);
    tokio::spawn(events::run(ctx.cri.clone(), tx));
    {
        let pods = pods.clone();
        tokio::spawn(async move {
            while let Some(event) = rx.recv().await {
                pods.on_runtime_event(event).await;
            }
        });
    }
    process::ready();
    tracing::info!(node = ctx.node_name, runtime = ctx.runtime_name, "kubelet is running");
    shutdown.cancelled().await;
    Ok(())
}

async fn start_node(
    ctx: &Arc<Context>,
    cni: Option<CniWriter>,
    labels: std::collections::BTreeMap<String, String>,
) {
    if ctx.client.is_none() {
        let cidrs: Vec<String> =
            ctx.config.pod_cidr.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
        watch::network_changed(ctx, cni.as_ref(), &cidrs).await;
        let ctx = ctx.clone();
        tokio::spawn(async move {
            // Alone, nobody else asks the runtime for its network.
            while ctx.machine.network_problem().is_some() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let _ = status::runtime_state(&ctx).await;
            }
        });
        return;
    }
    tokio::spawn(lease::run(ctx.clone()));
    let ctx = ctx.clone();
    tokio::spawn(async move {
        register::run(&ctx, &labels).await;
        csi::node_info::initialize(&ctx).await;
        ctx.dra.plugins.wipe_all();
        tokio::spawn(plugins::run(ctx.clone()));
        tokio::spawn(watch::run(ctx.clone(), cni, labels));
        status::run(ctx).await;
    });
}

fn start_sources(ctx: &Arc<Context>, pods: &Arc<PodManager>) {
    let has_files = !ctx.config.static_pod_path.is_empty();
    let expected = usize::from(has_files) + usize::from(ctx.client.is_some());
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(expected));
    let synced = |pods: &Arc<PodManager>| {
        let (pods, left) = (pods.clone(), left.clone());
        move || {
            if left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                tokio::spawn(async move { pods.sources_ready().await });
            }
        }
    };
    if has_files {
        let every = ctx.config.file_check_frequency.0;
        let done = synced(pods);
        tokio::spawn(file_source::run(
            ctx.config.static_pod_path.clone().into(),
            ctx.node_name.clone(),
            every,
            pods.clone(),
            done,
        ));
    }
    if let Some(client) = ctx.client.clone() {
        let (pods, node, done) = (pods.clone(), ctx.node_name.clone(), synced(pods));
        tokio::spawn(async move { api_source::run(client, &node, pods, done).await });
    }
}

fn adjust_oom_score(value: i32) {
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        tracing::warn!(value, error = %e, "cannot set the kubelet's own oom_score_adj");
    }
}
