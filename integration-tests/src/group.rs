//! A control plane of several API servers on this machine, each a process in a network namespace of its own, all
//! joined by one bridge: for tests of what happens when some of them fail. No nodes, no other daemons.
//!
//! The servers share one store: their own, or an etcd that somebody else runs. Each may have a disk of its own, an
//! ext4 in a file, which can be full or lose power without the others noticing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use component_base::pki::{Authority, Subject};
use ctl::cluster::layout::{self, KUBERNETES_SERVICE_IP, Layout};
use ctl::cluster::{Cluster, control_plane, network, pki, process};
use kube::Client;
use nix::fcntl::Flock;
use nix::sys::signal::Signal;

use crate::cluster::{free_slot, options};
use crate::{binaries, command};

/// Port of every server: each has its own address.
const PORT: u16 = 6443;
/// Port of the store's members.
const PEER_PORT: u16 = 2380;

/// What the group is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many servers.
    pub servers: u32,
    /// Size of each server's own disk in MiB; none leaves its data on this machine's.
    pub disk_mib: Option<u64>,
    /// A library that is loaded into every server before all others, and its settings.
    pub preload: Option<(PathBuf, Vec<(String, String)>)>,
    /// The servers use an etcd on the bridge, port 2379, that is started once the group is prepared; otherwise they are
    /// members of their own store.
    pub etcd: bool,
    /// More flags for every server.
    pub flags: Vec<String>,
    /// Servers that are another program than ours.
    pub programs: BTreeMap<u32, PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: 3,
            disk_mib: None,
            preload: None,
            etcd: false,
            flags: Vec::new(),
            programs: BTreeMap::new(),
        }
    }
}

/// See the module. Dropping it removes everything.
pub struct Group {
    config: Config,
    cluster: Cluster,
    clients: BTreeMap<u32, Client>,
    gone: bool,
    /// Keeps others off these names and addresses.
    _slot: Flock<File>,
    _state: tempfile::TempDir,
}

impl Group {
    /// Makes namespaces, certificates and disks, but starts nothing.
    ///
    /// # Errors
    /// Says which step failed.
    pub async fn prepare(config: Config) -> anyhow::Result<Self> {
        component_base::process::install_crypto();
        let (slot, lock) = free_slot();
        let state = tempfile::Builder::new().prefix("coxswain-group-").tempdir()?;
        let mut all = options(state.path().join("cluster"), slot, PORT);
        all.nodes = config.servers;
        let cluster = Cluster::new(all)?;
        let mut group =
            Self { config, cluster, clients: BTreeMap::new(), gone: false, _slot: lock, _state: state };
        group.layout().create()?;
        pki::ensure(group.layout(), 0)?;
        network::ensure(&group.cluster.options, group.layout())?;
        for n in group.members() {
            group.certificate(n)?;
            std::fs::create_dir_all(group.data(n)).context("making a data directory")?;
            layout::write(&group.boot_id(n), &fresh_boot_id()?, 0o644)?;
            if let Some(mib) = group.config.disk_mib {
                group.make_disk(n, mib)?;
            }
            let mut config = component_base::kubeconfig::config(&group.kubeconfig(n)?).await?;
            // What a test sends once must be done once at most.
            config.default_retry = false;
            group.clients.insert(n, Client::try_from(config)?);
        }
        Ok(group)
    }

    /// Starts all servers at once and waits until they are ready.
    ///
    /// # Errors
    /// One does not become ready; the end of its log is in the message.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let group = Self::prepare(config).await?;
        for n in group.members() {
            group.spawn(n)?;
        }
        for n in group.members() {
            group.wait_ready(n, Duration::from_secs(40)).await?;
        }
        Ok(group)
    }

    /// One more flag for every server that is started from now on.
    pub fn add_flag(&mut self, flag: String) {
        self.config.flags.push(flag);
    }

    /// The servers' numbers, from one.
    pub fn members(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.config.servers
    }

    pub fn layout(&self) -> &Layout {
        &self.cluster.layout
    }

    /// The address of a server in its namespace.
    pub fn address(&self, n: u32) -> String {
        self.layout().node_ip(n).to_string()
    }

    /// The network namespace of a server.
    pub fn namespace(&self, n: u32) -> String {
        self.layout().namespace(n)
    }

    /// Folder of a server's data; with a disk of its own, where that is mounted.
    pub fn data(&self, n: u32) -> PathBuf {
        self.layout().state.join(format!("data{n}"))
    }

    /// A client of this one server, as the administrator.
    ///
    /// # Panics
    /// There is no such server.
    pub fn client(&self, n: u32) -> Client {
        self.clients[&n].clone()
    }

    /// Starts a server, if it does not run.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, n: u32) -> anyhow::Result<()> {
        // Whether this machine was started anew is known by its boot id: each server sees its own, so that one of
        // them can lose power. The others' disks are not this server's to hold on to.
        const LAUNCH: &str = r#"mount --bind "$BOOT_ID" /proc/sys/kernel/random/boot_id
for d in $OTHERS; do umount -l "$d"; done
exec nsenter --net="$NETNS" -- env $PRELOAD "$@""#;
        let mut c = Command::new("unshare");
        c.args(["--mount", "--propagation", "private", "--", "sh", "-ec", LAUNCH, "launch"]);
        let ours = || binaries::folder().join("kube-apiserver");
        c.arg(self.config.programs.get(&n).cloned().unwrap_or_else(ours)).args(self.flags(n));
        let others = self.members().filter(|o| *o != n && self.config.disk_mib.is_some());
        let others: Vec<_> =
            others.map(|o| self.data(o).display().to_string()).filter(|d| is_mounted(d)).collect();
        c.env("BOOT_ID", self.boot_id(n)).env("OTHERS", others.join(" "));
        c.env("NETNS", format!("/run/netns/{}", self.namespace(n)));
        let preload = self.config.preload.as_ref().map(|(library, settings)| {
            let settings = settings.iter().map(|(k, v)| format!("{k}={}", v.replace("{n}", &n.to_string())));
            [format!("LD_PRELOAD={}", library.display())]
                .into_iter()
                .chain(settings)
                .collect::<Vec<_>>()
                .join(" ")
        });
        c.env("PRELOAD", preload.unwrap_or_default());
        process::start(self.layout(), &daemon(n), c)
    }

    fn flags(&self, n: u32) -> Vec<String> {
        let pki = |f: String| self.layout().pki(&f).display().to_string();
        let mut flags = vec![
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={PORT}"),
            format!("--advertise-address={}", self.address(n)),
            format!("--tls-cert-file={}", pki(format!("server{n}.crt"))),
            format!("--tls-private-key-file={}", pki(format!("server{n}.key"))),
        ];
        match self.config.etcd {
            true => {
                flags.push(format!("--etcd-servers={}", self.etcd_url()));
                flags.push(format!("--etcd-cafile={}", pki("ca.crt".into())));
                flags.push(format!("--etcd-certfile={}", pki(format!("server{n}.crt"))));
                flags.push(format!("--etcd-keyfile={}", pki(format!("server{n}.key"))));
            }
            false => {
                flags.push(format!("--data-dir={}", self.data(n).join("store").display()));
                let all = self.members().map(|m| format!("m{m}={}:{PEER_PORT}", self.address(m)));
                flags.push(format!("--store-name=m{n}"));
                flags.push(format!("--store-initial-cluster={}", all.collect::<Vec<_>>().join(",")));
                flags.push(format!("--store-peer-ca-file={}", pki("ca.crt".into())));
                flags.push(format!("--store-peer-cert-file={}", pki(format!("server{n}.crt"))));
                flags.push(format!("--store-peer-key-file={}", pki(format!("server{n}.key"))));
            }
        }
        flags.extend(control_plane::api_server_flags(self.layout()));
        flags.extend(self.config.flags.iter().cloned());
        flags
    }

    /// Whether the server's process is there.
    pub fn runs(&self, n: u32) -> bool {
        process::running(self.layout(), &daemon(n))
    }

    /// Sends a signal to a server; false if it does not run. After a killing one it is gone when this returns.
    pub async fn signal(&self, n: u32, signal: Signal) -> bool {
        if !process::signal(self.layout(), &daemon(n), signal) {
            return false;
        }
        let killing = matches!(signal, Signal::SIGKILL | Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while killing && self.runs(n) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Waits until a server says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time; the end of its log is in the message.
    pub async fn wait_ready(&self, n: u32, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let said = self.get(n, "/readyz").await;
            let Err(e) = said else { return Ok(()) };
            if !self.runs(n) {
                bail!("server {n} has ended; {}", self.layout().log_tail(&daemon(n)));
            }
            if Instant::now() > deadline {
                bail!(
                    "server {n} is not ready after {within:?}: {e:#}\n{}",
                    self.layout().log_tail(&daemon(n))
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// What a server answers to GET; patience of two seconds.
    ///
    /// # Errors
    /// Another answer than 200, or none.
    pub async fn get(&self, n: u32, path: &str) -> anyhow::Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        let answer = tokio::time::timeout(Duration::from_secs(2), self.client(n).request_text(request)).await;
        Ok(answer.with_context(|| format!("server {n} does not answer {path}"))??)
    }

    /// The server that leads the store, by its own word.
    pub async fn leader(&self) -> Option<u32> {
        for n in self.members() {
            let metrics = self.get(n, "/metrics").await.unwrap_or_default();
            if metrics.lines().any(|l| l == "etcd_server_is_leader 1") {
                return Some(n);
            }
        }
        None
    }

    /// The ends of the servers' logs.
    pub fn logs(&self) -> String {
        self.members().map(|n| self.layout().log_tail(&daemon(n))).collect::<Vec<_>>().join("\n")
    }

    /// Runs a program in a server's network namespace.
    pub fn inside(&self, n: u32, program: &str, args: &[&str], stdin: Option<&str>) -> command::Output {
        let mut c = process::in_namespace(&self.namespace(n), program.as_ref());
        c.args(args);
        command::run(c, stdin)
    }

    /// Starts the etcd of [`Config::etcd`] on the bridge, with TLS and client certificates; `COXSWAIN_ETCD` names another
    /// program than Debian's.
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub async fn start_etcd(&self) -> anyhow::Result<()> {
        let (host, pki) = (self.layout().host_ip(), |f: &str| self.layout().pki(f));
        self.issue("etcd", vec![host.into()])?;
        let mut c = Command::new(std::env::var_os("COXSWAIN_ETCD").unwrap_or_else(|| "etcd".into()));
        c.arg("--data-dir").arg(self.layout().state.join("etcd"));
        for what in ["listen", "advertise"] {
            c.arg(format!("--{what}-client-urls={}", self.etcd_url()));
        }
        c.args(["--listen-peer-urls=http://127.0.0.1:0", "--log-level=error", "--client-cert-auth"]);
        for (flag, file) in
            [("trusted-ca-file", "ca.crt"), ("cert-file", "etcd.crt"), ("key-file", "etcd.key")]
        {
            c.arg(format!("--{flag}")).arg(pki(file));
        }
        process::start(self.layout(), "etcd", c).context("starting etcd: scripts/install-test-tools")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect((host, 2379)).await.is_err() {
            process::ensure_alive(self.layout(), "etcd")?;
            if Instant::now() > deadline {
                bail!("etcd does not listen; {}", self.layout().log_tail("etcd"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn etcd_url(&self) -> String {
        format!("https://{}:2379", self.layout().host_ip())
    }

    /// The machine of this server is started anew, as far as its processes can see.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn reboot(&self, n: u32) -> anyhow::Result<()> {
        layout::write(&self.boot_id(n), &fresh_boot_id()?, 0o644)
    }

    /// Takes a server's own disk off.
    ///
    /// # Errors
    /// Something still uses it.
    pub fn unmount(&self, n: u32) -> anyhow::Result<()> {
        run("umount", &[&self.data(n).display().to_string()])
    }

    /// Puts a server's own disk in its place; the file system recovers as after a power cut, if it must.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(&self, n: u32) -> anyhow::Result<()> {
        let (image, data) = (self.image(n), self.data(n));
        run("mount", &["-o", "loop", &image.display().to_string(), &data.display().to_string()])
    }

    /// Removes everything.
    ///
    /// # Errors
    /// Lists what could not be removed.
    pub async fn down(mut self) -> anyhow::Result<()> {
        self.gone = true;
        self.remove().await
    }

    async fn remove(&self) -> anyhow::Result<()> {
        for n in self.members() {
            // A stopped process hears nothing else.
            process::signal(self.layout(), &daemon(n), Signal::SIGCONT);
        }
        self.cluster.down(&|_| {}).await
    }

    fn boot_id(&self, n: u32) -> PathBuf {
        self.layout().state.join(format!("boot{n}"))
    }

    fn image(&self, n: u32) -> PathBuf {
        self.layout().state.join(format!("disk{n}.img"))
    }

    fn make_disk(&self, n: u32, mib: u64) -> anyhow::Result<()> {
        let image = self.image(n);
        File::create(&image)?.set_len(mib << 20)?;
        run("mkfs.ext4", &["-q", "-F", &image.display().to_string()])?;
        self.mount(n)
    }

    fn certificate(&self, n: u32) -> anyhow::Result<()> {
        let local = std::net::Ipv4Addr::LOCALHOST;
        self.issue(
            &format!("server{n}"),
            vec![self.layout().node_ip(n).into(), KUBERNETES_SERVICE_IP.into(), local.into()],
        )
    }

    /// A certificate for serving and calling.
    fn issue(&self, name: &str, ips: Vec<std::net::IpAddr>) -> anyhow::Result<()> {
        let layout = self.layout();
        let ca = component_base::serving::tls::read_pair(&layout.pki("ca.crt"), &layout.pki("ca.key"))?;
        let pair = Authority::load(ca)?.issue(&Subject {
            common_name: name.to_owned(),
            dns_names: vec!["localhost".into(), "kubernetes.default.svc".into()],
            ips,
            server: true,
            client: true,
            ..Subject::default()
        })?;
        layout::write(&layout.pki(&format!("{name}.key")), &pair.key, 0o600)?;
        layout::write(&layout.pki(&format!("{name}.crt")), &pair.cert, 0o644)
    }

    /// The administrator's, for this one server.
    fn kubeconfig(&self, n: u32) -> anyhow::Result<PathBuf> {
        let text = std::fs::read_to_string(self.layout().kubeconfig("admin"))?;
        let mut value: serde_json::Value = serde_yaml::from_str(&text)?;
        value["clusters"][0]["cluster"]["server"] = format!("https://{}:{PORT}", self.address(n)).into();
        let path = self.layout().kubeconfig(&format!("admin{n}"));
        layout::write(&path, &value.to_string(), 0o600)?;
        Ok(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // This may be inside a runtime, in which none can wait for another.
        let removed = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.remove())
            });
            thread.join()
        });
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(e)) => eprintln!("the group could not be removed: {e:#}"),
            Err(_) => eprintln!("the group could not be removed"),
        }
    }
}

/// The name of a server's process.
pub fn daemon(n: u32) -> String {
    format!("kube-apiserver-{n}")
}

fn fresh_boot_id() -> anyhow::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("making a boot id")
}

fn is_mounted(path: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|l| l.split(' ').nth(1) == Some(path))
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut c = Command::new(program);
    c.args(args);
    let out = command::run(c, None);
    if out.code != 0 {
        bail!("{}: {}", out.line, out.stderr.trim());
    }
    Ok(())
}
