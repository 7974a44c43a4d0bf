//! Facts of the machine: capacity, what of it pods may use, identities, pressure.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::{api::core::v1::NodeSystemInfo, apimachinery::pkg::api::resource::Quantity};
use parking_lot::RwLock;

use crate::{
    options::KubeletConfiguration,
    util::quantity::{from_bytes, from_milli, parse_milli},
};

/// Fixed facts, and the runtime's last word on its network.
pub struct Machine {
    pub cpus: i64,
    pub memory: i64,
    pub hugepages: BTreeMap<String, i64>,
    pub root: PathBuf,
    pub apparmor: bool,
    /// CPU thousandths and memory bytes that pods may use.
    pub allocatable: (i64, i64),
    network_problem: RwLock<Option<String>>,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A field of /proc/meminfo in bytes.
pub fn meminfo(name: &str) -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kb| kb * 1024)
}

fn hugepages() -> BTreeMap<String, i64> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|e| {
            let kb: i64 =
                e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count: i64 = fs::read_to_string(e.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            let name =
                if kb % (1 << 20) == 0 { format!("{}Gi", kb >> 20) } else { format!("{}Mi", kb >> 10) };
            Some((format!("hugepages-{name}"), count * kb * 1024))
        })
        .collect()
}

/// An eviction threshold: a quantity or a percentage of the capacity.
pub fn threshold(text: &str, capacity: i64) -> i64 {
    match text.strip_suffix('%').and_then(|p| p.parse::<f64>().ok()) {
        Some(percent) => (capacity as f64 * percent / 100.0) as i64,
        None => parse_milli(text).map_or(0, |m| (m / 1000) as i64),
    }
}

/// The hard eviction threshold of a signal, upstream's default where none is given.
pub fn eviction_hard(config: &KubeletConfiguration, signal: &str) -> String {
    match &config.eviction_hard {
        Some(map) => map.get(signal).cloned().unwrap_or_else(|| "0".into()),
        None => match signal {
            "memory.available" => "100Mi",
            "nodefs.available" => "10%",
            "nodefs.inodesFree" | "imagefs.inodesFree" => "5%",
            "imagefs.available" => "15%",
            _ => "0",
        }
        .into(),
    }
}

fn reserved(config: &KubeletConfiguration, name: &str) -> i128 {
    [&config.kube_reserved, &config.system_reserved]
        .into_iter()
        .filter_map(|m| m.get(name))
        .filter_map(|q| parse_milli(q).ok())
        .sum()
}

/// Capacity and free space of a file system: bytes and inodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

pub fn disk(path: &Path) -> Disk {
    match nix::sys::statvfs::statvfs(path) {
        Ok(s) => Disk {
            capacity: s.blocks() * s.fragment_size(),
            available: s.blocks_available() * s.fragment_size(),
            inodes: s.files(),
            inodes_free: s.files_free(),
        },
        Err(_) => Disk::default(),
    }
}

impl Machine {
    pub fn discover(config: &KubeletConfiguration, root: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as i64);
        let memory = meminfo("MemTotal");
        let cpu = (i128::from(cpus * 1000) - reserved(config, "cpu")).max(0) as i64;
        let threshold = threshold(&eviction_hard(config, "memory.available"), memory);
        let bytes = (memory - (reserved(config, "memory") / 1000) as i64 - threshold).max(0);
        Self {
            cpus,
            memory,
            hugepages: hugepages(),
            root: root.to_path_buf(),
            apparmor: read("/sys/module/apparmor/parameters/enabled") == "Y",
            allocatable: (cpu, bytes),
            network_problem: RwLock::new(Some("the runtime has not been asked yet".into())),
        }
    }

    pub fn network_problem(&self) -> Option<String> {
        self.network_problem.read().clone()
    }

    pub fn set_network_problem(&self, problem: Option<String>) {
        *self.network_problem.write() = problem;
    }

    /// `status.capacity`.
    pub fn capacity(&self, config: &KubeletConfiguration) -> BTreeMap<String, Quantity> {
        let mut out = BTreeMap::from([
            ("cpu".to_owned(), from_milli(self.cpus * 1000)),
            ("memory".to_owned(), from_bytes(self.memory)),
            ("pods".to_owned(), Quantity(self.max_pods(config).to_string())),
            ("ephemeral-storage".to_owned(), from_bytes(disk(&self.root).capacity as i64)),
        ]);
        out.extend(self.hugepages.iter().map(|(k, v)| (k.clone(), from_bytes(*v))));
        out
    }

    pub fn max_pods(&self, config: &KubeletConfiguration) -> i64 {
        if config.pods_per_core > 0 {
            config.max_pods.min(config.pods_per_core * self.cpus)
        } else {
            config.max_pods
        }
    }

    /// Numbers of `status.allocatable`: CPU in thousandths, others in units.
    pub fn allocatable_amounts(&self, config: &KubeletConfiguration) -> BTreeMap<String, i64> {
        let storage = disk(&self.root).capacity as i64;
        let free = storage
            - (reserved(config, "ephemeral-storage") / 1000) as i64
            - threshold(&eviction_hard(config, "nodefs.available"), storage);
        let huge: i64 = self.hugepages.values().sum();
        let mut out = BTreeMap::from([
            ("cpu".to_owned(), self.allocatable.0),
            ("memory".to_owned(), (self.allocatable.1 - huge).max(0)),
            ("pods".to_owned(), self.max_pods(config)),
            ("ephemeral-storage".to_owned(), free.max(0)),
        ]);
        out.extend(self.hugepages.clone());
        out
    }

    /// `status.allocatable`.
    pub fn allocatable_quantities(&self, config: &KubeletConfiguration) -> BTreeMap<String, Quantity> {
        self.allocatable_amounts(config)
            .into_iter()
            .map(|(k, v)| {
                let q = match k.as_str() {
                    "cpu" => from_milli(v),
                    "memory" | "ephemeral-storage" => from_bytes(v),
                    "pods" => Quantity(v.to_string()),
                    _ => from_bytes(v),
                };
                (k, q)
            })
            .collect()
    }
}

/// `status.nodeInfo`.
pub fn system_info(runtime: &str) -> NodeSystemInfo {
    let uname = nix::sys::utsname::uname().ok();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map(|v| v.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".into());
    let machine_id = read("/etc/machine-id");
    let system_uuid = read("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        os_image,
        container_runtime_version: runtime.to_owned(),
        kubelet_version: component_base::version::GIT_VERSION.into(),
        kube_proxy_version: String::new(),
        operating_system: "linux".into(),
        architecture: component_base::version::ARCHITECTURE.into(),
        ..NodeSystemInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_is_capacity_less_reservations() {
        let mut c = KubeletConfiguration::default();
        c.kube_reserved.insert("cpu".into(), "50m".into());
        c.system_reserved.insert("memory".into(), "10Mi".into());
        let m = Machine::discover(&c, Path::new("/"));
        assert_eq!(m.allocatable.0, m.cpus * 1000 - 50);
        assert_eq!(m.allocatable.1, m.memory - (110 << 20));
        assert_eq!(threshold("10%", 1000), 100);
        assert_eq!(threshold("1Ki", 5), 1024);
    }
}
