//! A node with two pods and a neighbour, each a network namespace of its own. Dropping it removes everything.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// The namespaces and the processes in them.
pub struct Net {
    prefix: String,
    children: Vec<Child>,
    dir: std::path::PathBuf,
}

/// Runs a command that must succeed.
fn run(command: &str) -> String {
    let out = Command::new("sh").arg("-c").arg(command).output().expect("sh");
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Net {
    /// node: 10.77.0.1 towards pods a (.2) and b (.3), and 10.88.0.1/24 towards ext (.2).
    pub fn new(tag: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and packet filter rules in them: run it as root"
        );
        let prefix = format!("proxytest-{}-{tag}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        let mut net = Self { prefix, children: Vec::new(), dir };
        for ns in ["node", "a", "b", "ext"] {
            run(&format!("ip netns add {0} && ip -n {0} link set lo up", net.ns(ns)));
        }
        let node = net.ns("node");
        // Routed, not bridged: on a bridge the pods would answer each other past the packet filter.
        for (pod, ip) in [("a", "10.77.0.2"), ("b", "10.77.0.3")] {
            let ns = net.ns(pod);
            run(&format!("ip -n {node} link add v{pod} type veth peer name eth0 netns {ns}"));
            run(&format!("ip -n {node} link set v{pod} up && ip -n {node} addr add 10.77.0.1/32 dev v{pod}"));
            run(&format!("ip -n {ns} addr add {ip}/32 dev eth0 && ip -n {ns} link set eth0 up"));
            run(&format!(
                "ip -n {ns} route add 10.77.0.1 dev eth0 && ip -n {ns} route add default via 10.77.0.1"
            ));
            run(&format!("ip -n {node} route add {ip} dev v{pod}"));
            net.serve(pod);
        }
        let ext = net.ns("ext");
        run(&format!(
            "ip -n {node} link add vext type veth peer name eth0 netns {ext} && ip -n {node} addr add 10.88.0.1/24 dev vext && ip -n {node} link set vext up && ip -n {ext} addr add 10.88.0.2/24 dev eth0 && ip -n {ext} link set eth0 up && ip -n {ext} route add default via 10.88.0.1"
        ));
        // As on any machine there is a way out for addresses nobody has, and refusals are not held back.
        run(&format!("ip -n {node} link add out0 type bridge && ip -n {node} link set out0 up"));
        run(&format!(
            "ip -n {node} addr add 10.99.0.1/24 dev out0 && ip -n {node} route add default via 10.99.0.2"
        ));
        run(&format!("ip netns exec {node} sysctl -qw net.ipv4.icmp_ratelimit=0"));
        run(&format!("ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1"));
        net
    }

    fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn serve(&mut self, pod: &str) {
        let root = self.dir.join(pod);
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("index.html"), pod).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns(pod), "busybox", "httpd", "-f", "-p", "8080", "-h"])
            .arg(&root)
            .stdin(Stdio::null())
            .spawn()
            .expect("busybox httpd");
        self.children.push(child);
    }

    /// A listener inside a namespace: only this thread visits it, and returns.
    pub fn listen(&self, ns: &str) -> TcpListener {
        let path = format!("/var/run/netns/{}", self.ns(ns));
        std::thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap()
        })
        .join()
        .unwrap()
    }

    /// Runs a command in a namespace: whether it succeeded, and what it printed.
    pub fn exec(&self, ns: &str, command: &str) -> (bool, String) {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.ns(ns), "sh", "-c", command])
            .stdin(Stdio::null())
            .output()
            .expect("ip netns exec");
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Fetches a page from inside a namespace: the pod that answered.
    pub fn get(&self, ns: &str, address: &str) -> Option<String> {
        let (ok, text) = self.exec(ns, &format!("timeout 3 busybox wget -qO- http://{address}/"));
        ok.then_some(text)
    }

    /// Starts a program in the node.
    pub fn start(&self, program: &str, args: &[String], log: File) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.ns("node"), program])
            .args(args)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("ip netns exec")
    }

    /// A folder for files of the test.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for c in &mut self.children {
            let _ = c.kill();
            let _ = c.wait();
        }
        for ns in ["a", "b", "ext", "node"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(ns)]).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
