//! A node of its own: sizes, idle memory, and how long a pod takes beside what the container runtime takes alone.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use integration_tests::usage::resident;
use integration_tests::{Config, TestCluster, binaries};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use nix::sys::signal::Signal;

use crate::figures::{line, median, ms};

/// How often what takes milliseconds is measured; the median is printed.
const ROUNDS: usize = 20;
/// How long the cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(10);

/// Prints the figures of one node.
pub fn run() -> anyhow::Result<()> {
    for name in
        ["kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy", "ctl"]
    {
        let size = std::fs::metadata(binaries::folder().join(name)).with_context(|| name.to_owned())?.len();
        line(&format!("binary.{name}"), size as f64 / 1e6, "MB");
    }
    up()?;
    let c = TestCluster::with(Config::default());
    std::thread::sleep(IDLE);
    for d in
        ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet-node1", "kube-proxy-node1"]
    {
        line(&format!("memory.idle.{}", d.trim_end_matches("-node1")), resident(c.pid(d))?, "MB");
    }
    let client = c.client();
    let create = c.block_on(pods(&client))?;
    // A kubelet removes sandboxes that it did not make.
    c.signal("kubelet-node1", Signal::SIGTERM);
    let bare = c.block_on(bare_cri(&c))?;
    c.start_daemons();
    line("pod.create_to_running.p50", create, "ms");
    line("pod.bare_cri.p50", bare, "ms");
    line("pod.overhead.p50", create - bare, "ms");
    let mut restarts = Vec::new();
    for _ in 0..5 {
        c.signal("kube-apiserver", Signal::SIGTERM);
        let started = Instant::now();
        c.start_api_server();
        restarts.push(ms(started));
    }
    line("apiserver.ready_after_start.p50", median(restarts), "ms");
    Ok(())
}

/// `ctl up` on built binaries, to its demo pod's first log line.
fn up() -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let ctl = binaries::folder().join("ctl");
    let demo = binaries::workspace().join("examples/pod.yaml");
    let place = format!("--state={}", state.path().join("cluster").display());
    let started = Instant::now();
    let mut up = Command::new(&ctl);
    up.args(["up", &place, "--slot=49", "--port=16049", "--egress=false"])
        .arg(format!("--demo={}", demo.display()));
    integration_tests::command::run(up, None).ok();
    line("up.to_running_pod", started.elapsed().as_secs_f64(), "s");
    let mut down = Command::new(&ctl);
    down.args(["down", &place]);
    integration_tests::command::run(down, None).ok();
    Ok(())
}

/// From the create request to the event that says Running, for one pod at a time.
async fn pods(client: &Client) -> anyhow::Result<f64> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut times = Vec::new();
    for i in 0..ROUNDS {
        let name = format!("bench-{i}");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "3600"]}]},
        }))?;
        let version =
            api.list_metadata(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = api.watch(&params, &version).await?;
        futures::pin_mut!(events);
        let started = Instant::now();
        api.create(&PostParams::default(), &pod).await?;
        while let Some(event) = events.next().await {
            if let WatchEvent::Modified(p) = event?
                && p.status.and_then(|s| s.phase).as_deref() == Some("Running")
            {
                break;
            }
        }
        times.push(ms(started));
        api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        while api.get_opt(&name).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(median(times))
}

/// The same container started through the runtime alone: sandbox, create, start.
async fn bare_cri(c: &TestCluster) -> anyhow::Result<f64> {
    let channel = containerd_client::connect(c.layout().containerd_socket(1)).await?;
    let mut runtime = cri::runtime_service_client::RuntimeServiceClient::new(channel);
    let mut times = Vec::new();
    for i in 0..ROUNDS {
        let sandbox = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: format!("bare-{i}"),
                uid: format!("bare-{i}"),
                namespace: "bench".into(),
                attempt: 0,
            }),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/kubepods/bare", c.layout().cgroup(1)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let container = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(cri::ImageSpec {
                image: "docker.io/library/busybox:1.35".into(),
                ..Default::default()
            }),
            command: vec!["sleep".into(), "3600".into()],
            linux: Some(Default::default()),
            ..Default::default()
        };
        let started = Instant::now();
        let run = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
        let pod = runtime.run_pod_sandbox(run).await?.into_inner().pod_sandbox_id;
        let create = cri::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container),
            sandbox_config: Some(sandbox),
        };
        let id = runtime.create_container(create).await?.into_inner().container_id;
        runtime.start_container(cri::StartContainerRequest { container_id: id }).await?;
        times.push(ms(started));
        runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await?;
        runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    }
    Ok(median(times))
}
