//! Command lines of the control plane's daemons, which run on the host.

use std::process::Command;

use super::Options;
use super::layout::{self, CLUSTER_DOMAIN, Layout, SERVICE_CIDR};
use super::process;

/// Starts `daemon` with `flags` and what the options add for it.
fn start(options: &Options, layout: &Layout, daemon: &str, flags: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new(options.binaries.join(daemon));
    command.args(flags).args(options.flags_of(daemon));
    process::start(layout, daemon, command)
}

impl Options {
    /// The additional flags of a daemon.
    pub fn flags_of<'a>(&'a self, daemon: &'a str) -> impl Iterator<Item = &'a str> {
        self.extra_flags.iter().filter(move |(d, _)| d == daemon).map(|(_, f)| f.as_str())
    }
}

pub fn start_api_server(options: &Options, layout: &Layout) -> anyhow::Result<()> {
    let pki = |f: &str| layout.pki(f).display().to_string();
    let mut flags = vec![
        format!("--data-dir={}", layout.data().display()),
        "--bind-address=0.0.0.0".into(),
        format!("--secure-port={}", layout.port),
        format!("--advertise-address={}", layout.host_ip()),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
    ];
    flags.extend(api_server_flags(layout));
    start(options, layout, "kube-apiserver", &flags)
}

/// What the API servers of one cluster have in common.
pub fn api_server_flags(layout: &Layout) -> Vec<String> {
    let pki = |f: &str| layout.pki(f).display().to_string();
    vec![
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
        format!("--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}"),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--authorization-mode=Node,RBAC".into(),
        "--allow-privileged=true".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
    ]
}

pub fn start_scheduler(options: &Options, layout: &Layout) -> anyhow::Result<()> {
    let kubeconfig = layout.kubeconfig("kube-scheduler");
    let config = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nclientConnection:\n  kubeconfig: {}\nleaderElection:\n  leaderElect: true\n",
        kubeconfig.display()
    );
    let file = layout.config("kube-scheduler.yaml");
    layout::write(&file, &config, 0o644)?;
    let flags = [
        format!("--config={}", file.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={}", layout.scheduler_port()),
    ];
    start(options, layout, "kube-scheduler", &flags)
}

pub fn start_controller_manager(options: &Options, layout: &Layout) -> anyhow::Result<()> {
    let kubeconfig = layout.kubeconfig("kube-controller-manager");
    let pki = |f: &str| layout.pki(f).display().to_string();
    let flags = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={}", layout.controller_manager_port()),
        "--leader-elect=true".into(),
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={}", layout.pod_cidr()),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--service-account-private-key-file={}", pki("sa.key")),
        "--use-service-account-credentials=true".into(),
    ];
    start(options, layout, "kube-controller-manager", &flags)
}

impl Layout {
    /// The default ports in the first cluster; others on this machine get their own.
    pub fn scheduler_port(&self) -> u16 {
        if self.slot == 0 { 10259 } else { 20000 + 10 * u16::from(self.slot) }
    }
    pub fn controller_manager_port(&self) -> u16 {
        if self.slot == 0 { 10257 } else { 20001 + 10 * u16::from(self.slot) }
    }
}
