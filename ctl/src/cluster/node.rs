//! What runs in a node's network namespace: containerd with a configuration of its own, kubelet and kube-proxy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::layout::{self, CLUSTER_DOMAIN, DNS_SERVICE_IP, Layout};
use super::{Options, preflight, process, system_images};

/// How long containerd may take until it answers.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts the node's containerd if it does not run, and waits until it answers.
///
/// # Errors
/// It ended or does not answer: the end of its log is in the message.
pub async fn start_containerd(options: &Options, layout: &Layout, n: u32) -> anyhow::Result<()> {
    let _ = options;
    let node = layout.node(n);
    for d in ["containerd", "run", "opt", "cni", "manifests", "pods", "kubelet"] {
        std::fs::create_dir_all(node.join(d))
            .with_context(|| format!("making {}", node.join(d).display()))?;
    }
    let cni = preflight::cni_folder().context("no CNI plugins are installed")?;
    let file = node.join("containerd.toml");
    layout::write(&file, &containerd_config(&node, &layout.containerd_socket(n), &cni), 0o644)?;
    let name = format!("containerd-{}", layout.node_name(n));
    let mut command = process::in_namespace(&layout.namespace(n), "containerd".as_ref());
    command.arg("--config").arg(&file);
    process::start(layout, &name, command)?;
    let deadline = Instant::now() + CONTAINERD_TIMEOUT;
    let socket = layout.containerd_socket(n);
    loop {
        if socket.exists() && answers(&socket).await {
            return Ok(());
        }
        process::ensure_alive(layout, &name)?;
        if Instant::now() > deadline {
            bail!("containerd does not answer at {}; {}", socket.display(), layout.log_tail(&name));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answers(socket: &Path) -> bool {
    let Ok(channel) = containerd_client::connect(socket).await else { return false };
    let mut version = containerd_client::services::v1::version_client::VersionClient::new(channel);
    version.version(()).await.is_ok()
}

/// containerd's configuration; its own paths come before the first table, or the defaults win.
fn containerd_config(node: &Path, socket: &Path, cni: &Path) -> String {
    let d = node.display();
    // runc cannot lower a container's OOM score without this capability.
    let restrict = !has_capability(CAP_SYS_RESOURCE);
    format!(
        r#"version = 2
root = "{d}/containerd"
state = "{d}/run"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{d}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = {restrict}
  enable_selinux = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{d}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        socket = socket.display(),
        pause = system_images::PAUSE,
        cni = cni.display(),
    )
}

/// Bit of CAP_SYS_RESOURCE in a capability set.
const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> bit & 1 == 1)
}

/// Writes the kubelet's configuration and starts it if it does not run.
pub fn start_kubelet(options: &Options, layout: &Layout, n: u32) -> anyhow::Result<()> {
    let node = layout.node(n);
    let name = layout.node_name(n);
    let pki = |f: &str| layout.pki(f).display().to_string();
    let resolv = node.join("resolv.conf");
    layout::write(&resolv, &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), 0o644)?;
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": "0.0.0.0", "port": 10250, "healthzPort": 10248, "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": pki("ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki(&format!("kubelet-{name}-serving.crt")),
        "tlsPrivateKeyFile": pki(&format!("kubelet-{name}-serving.key")),
        "cgroupDriver": "cgroupfs", "cgroupRoot": layout.cgroup(n), "failCgroupV1": false, "failSwapOn": false,
        // Nodes share this machine's disk, which may be rather full: pods are not the ones to give way.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "clusterDNS": [DNS_SERVICE_IP.to_string()], "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": resolv, "staticPodPath": node.join("manifests"), "podLogsDir": node.join("pods"),
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket(n).display()),
    });
    let file = node.join("kubelet.yaml");
    layout::write(&file, &serde_yaml::to_string(&configuration)?, 0o644)?;
    let mut command = process::in_namespace(&layout.namespace(n), &options.binaries.join("kubelet"));
    command
        .arg(format!("--config={}", file.display()))
        .arg(format!("--kubeconfig={}", layout.kubeconfig(&format!("kubelet-{name}")).display()))
        .arg(format!("--hostname-override={name}"))
        .arg(format!("--node-ip={}", layout.node_ip(n)))
        .arg(format!("--root-dir={}", node.join("kubelet").display()))
        .arg(format!("--cert-dir={}", node.join("kubelet/pki").display()));
    if !options.upstream {
        command.arg(format!("--cni-conf-dir={}", node.join("cni").display()));
    }
    command.args(options.flags_of("kubelet"));
    process::start(layout, &format!("kubelet-{name}"), command)
}

/// Writes kube-proxy's configuration and starts it if it does not run.
pub fn start_proxy(options: &Options, layout: &Layout, n: u32) -> anyhow::Result<()> {
    let name = layout.node_name(n);
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": layout.kubeconfig("kube-proxy")},
        "mode": options.proxy_mode, "clusterCIDR": layout.pod_cidr(), "hostnameOverride": name,
        "healthzBindAddress": "0.0.0.0:10256", "metricsBindAddress": "127.0.0.1:10249",
        // Connection tracking limits belong to the host, which other programs share.
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    let file = layout.node(n).join("kube-proxy.yaml");
    layout::write(&file, &serde_yaml::to_string(&configuration)?, 0o644)?;
    let mut command = process::in_namespace(&layout.namespace(n), &options.binaries.join("kube-proxy"));
    command.arg(format!("--config={}", file.display())).args(options.flags_of("kube-proxy"));
    process::start(layout, &format!("kube-proxy-{name}"), command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_paths_come_before_any_table() {
        let text = containerd_config(
            Path::new("/s/node1"),
            Path::new("/s/node1/containerd.sock"),
            Path::new("/usr/lib/cni"),
        );
        let root = text.find("root = \"/s/node1/containerd\"").unwrap();
        assert!(root < text.find('[').unwrap());
        assert!(text.contains("bin_dir = \"/usr/lib/cni\""));
    }
}
