//! An etcd of a test's own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn program() -> PathBuf {
    std::env::var_os("COXSWAIN_ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server process; killed when dropped.
pub struct Server {
    dir: PathBuf,
    name: String,
    client: u16,
    peer: u16,
    cluster: String,
    child: Option<Child>,
}

impl Server {
    /// A cluster of one.
    pub fn alone(dir: &Path) -> Server {
        let mut server = Server::cluster(dir, 1);
        server.remove(0)
    }

    /// A cluster of so many.
    pub fn cluster(dir: &Path, members: usize) -> Vec<Server> {
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let cluster: Vec<_> =
            ports.iter().enumerate().map(|(i, (_, peer))| format!("m{i}=http://127.0.0.1:{peer}")).collect();
        let mut servers: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(i, (client, peer))| Server {
                dir: dir.join(format!("m{i}")),
                name: format!("m{i}"),
                client: *client,
                peer: *peer,
                cluster: cluster.join(","),
                child: None,
            })
            .collect();
        for s in &mut servers {
            s.spawn();
        }
        for s in &servers {
            s.wait();
        }
        servers
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn spawn(&mut self) {
        std::fs::create_dir_all(&self.dir).unwrap();
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new(program())
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.dir.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster, "--unsafe-no-fsync=false"])
            .args(["--max-request-bytes", "1600000"])
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn();
        self.child = Some(child.unwrap_or_else(|e| {
            panic!("{}: {e}; scripts/install-test-tools installs etcd-server", program().display())
        }));
    }

    /// Waits until it listens.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", self.client)).is_err() {
            assert!(
                Instant::now() < deadline,
                "etcd does not come up: see {}",
                self.dir.join("log").display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again, with the data it had.
    pub fn start(&mut self) {
        self.spawn();
        self.wait();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends all leases, as their time would.
    pub fn revoke_leases(&self) {
        let runtime = tokio::runtime::Handle::current();
        let url = self.url();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                let mut client = etcd_client::Client::connect([url], None).await.unwrap();
                for lease in client.leases().await.unwrap().leases() {
                    client.lease_revoke(lease.id()).await.unwrap();
                }
            });
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
