//! The observed state of one pod in the runtime: plain data, input of the lifecycle state machine.

use jiff::Timestamp;

/// Everything the runtime knows of one pod. Both lists are newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRuntime {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

/// One infra container with its namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Option<Timestamp>,
    /// Pod IPs as the runtime reports them; empty for host network.
    pub ips: Vec<String>,
    pub host_network: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

/// One container, running or dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub state: ContainerState,
    pub restart_count: u32,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    /// The image as the user wrote it or as the runtime resolved it.
    pub image: String,
    pub image_ref: String,
    pub reason: String,
    pub message: String,
    pub log_path: String,
    /// What identified the spec when a kubelet made the container ([`crate::pod::container::hash`]).
    pub hash: Option<u32>,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

impl PodRuntime {
    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name which is not `id`.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// The sandbox in use: the newest, if ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Whether the container or sandbox of that id has ended. None: it is not known.
    pub fn has_ended(&self, id: &str) -> Option<bool> {
        let container = self.containers.iter().find(|c| c.id == id);
        let sandbox = || self.sandboxes.iter().find(|s| s.id == id);
        container.map(|c| c.state == ContainerState::Exited).or_else(|| sandbox().map(|s| !s.ready))
    }

    /// Containers that may still run code.
    pub fn alive(&self) -> impl Iterator<Item = &Container> {
        self.containers
            .iter()
            .filter(|c| c.state == ContainerState::Running || c.state == ContainerState::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exited_has_ended() {
        use ContainerState::{Created, Exited, Running, Unknown};
        for state in [Created, Running, Exited, Unknown] {
            let container = Container { id: "c".into(), state, ..Container::default() };
            let runtime = PodRuntime { containers: vec![container], ..PodRuntime::default() };
            assert_eq!(runtime.has_ended("c"), Some(state == Exited), "{state:?}");
            assert_eq!(runtime.has_ended("d"), None);
        }
        for ready in [true, false] {
            let sandbox = Sandbox { id: "s".into(), ready, ..Sandbox::default() };
            let runtime = PodRuntime { sandboxes: vec![sandbox], ..PodRuntime::default() };
            assert_eq!(runtime.has_ended("s"), Some(!ready));
        }
    }
}
