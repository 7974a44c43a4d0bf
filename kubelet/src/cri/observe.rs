//! Reads one pod's state from the runtime. Status calls are made only for what changed since the last look:
//! an exited container never changes again, a running one is told from its list entry.

use std::{collections::HashMap, path::Path};

use k8s_cri::v1;

use super::{Container, ContainerState, Cri, CriError, PodRuntime, Sandbox, labels};
use crate::util::from_nanos;

/// Cache of one pod's last observation.
#[derive(Default)]
pub struct Observer {
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, Container>,
}

fn state_of(raw: i32) -> ContainerState {
    match v1::ContainerState::try_from(raw) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

impl Observer {
    /// The pod's present state, newest first.
    pub async fn observe(&mut self, cri: &Cri, uid: &str) -> Result<PodRuntime, CriError> {
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_sandboxes(Some(uid)), cri.list_containers(Some(uid)))?;
        let mut view = PodRuntime::default();
        for item in &sandboxes {
            let ready = item.state == v1::PodSandboxState::SandboxReady as i32;
            let known = self.sandboxes.get(&item.id);
            let sandbox = match known {
                Some(s) if s.ready == ready => s.clone(),
                _ => match cri.sandbox_status(&item.id).await {
                    Ok(status) => sandbox_from(item, &status, ready),
                    Err(e) if e.not_found() => continue,
                    Err(e) => return Err(e),
                },
            };
            view.sandboxes.push(sandbox);
        }
        for item in &containers {
            let state = state_of(item.state);
            let container = match self.containers.get(&item.id) {
                Some(c) if c.state == state && state != ContainerState::Unknown => c.clone(),
                _ => match cri.container_status(&item.id).await {
                    Ok(status) => container_from(item, &status),
                    Err(e) if e.not_found() => continue,
                    Err(e) => return Err(e),
                },
            };
            view.containers.push(container);
        }
        view.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
        view.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restart_count)));
        self.sandboxes = view.sandboxes.iter().map(|s| (s.id.clone(), s.clone())).collect();
        self.containers = view.containers.iter().map(|c| (c.id.clone(), c.clone())).collect();
        Ok(view)
    }
}

fn sandbox_from(item: &v1::PodSandbox, status: &v1::PodSandboxStatus, ready: bool) -> Sandbox {
    let host_network = status
        .linux
        .as_ref()
        .and_then(|l| l.namespaces.as_ref())
        .and_then(|n| n.options.as_ref())
        .is_some_and(|o| o.network == v1::NamespaceMode::Node as i32);
    let mut ips = Vec::new();
    if let Some(network) = &status.network {
        if !network.ip.is_empty() {
            ips.push(network.ip.clone());
        }
        ips.extend(network.additional_ips.iter().map(|ip| ip.ip.clone()));
    }
    Sandbox {
        id: item.id.clone(),
        attempt: item.metadata.as_ref().map_or(0, |m| m.attempt),
        ready,
        created_at: from_nanos(item.created_at),
        ips,
        host_network,
    }
}

fn container_from(item: &v1::Container, status: &v1::ContainerStatus) -> Container {
    let state = state_of(status.state);
    let annotations = &status.annotations;
    let name = item
        .labels
        .get(labels::CONTAINER_NAME)
        .cloned()
        .or_else(|| item.metadata.as_ref().map(|m| m.name.clone()))
        .unwrap_or_default();
    let restart_count = annotations
        .get(labels::RESTART_COUNT)
        .and_then(|c| c.parse().ok())
        .or_else(|| item.metadata.as_ref().map(|m| m.attempt))
        .unwrap_or(0);
    let mut container = Container {
        id: item.id.clone(),
        sandbox_id: item.pod_sandbox_id.clone(),
        name,
        state,
        restart_count,
        created_at: from_nanos(status.created_at),
        started_at: from_nanos(status.started_at),
        finished_at: from_nanos(status.finished_at),
        exit_code: status.exit_code,
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        log_path: status.log_path.clone(),
        hash: annotations.get(labels::CONTAINER_HASH).and_then(|h| u32::from_str_radix(h, 16).ok()),
        user: status
            .user
            .as_ref()
            .and_then(|u| u.linux.as_ref())
            .map(|u| (u.uid, u.gid, u.supplemental_groups.clone())),
    };
    if state == ContainerState::Exited {
        let tail = termination_message(status, annotations);
        if !tail.is_empty() {
            container.message =
                if container.message.is_empty() { tail } else { format!("{}: {tail}", container.message) };
        }
    }
    container
}

const MAX_MESSAGE: usize = 4096;
const MAX_LOG_TAIL: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// What the container left in its termination message file, or the end of its log where the policy says so.
fn termination_message(status: &v1::ContainerStatus, annotations: &HashMap<String, String>) -> String {
    let Some(path) = annotations.get(labels::TERMINATION_MESSAGE_PATH).filter(|p| !p.is_empty()) else {
        return String::new();
    };
    let host = status.mounts.iter().find(|m| &m.container_path == path).map(|m| m.host_path.as_str());
    if let Some(host) = host
        && let Ok(text) = read_tail(Path::new(host), MAX_MESSAGE)
        && !text.is_empty()
    {
        return text;
    }
    let fallback = annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str)
        == Some("FallbackToLogsOnError")
        && status.exit_code != 0;
    if fallback && !status.log_path.is_empty() {
        return crate::server::logs::tail_text(Path::new(&status.log_path), MAX_LOG_LINES, MAX_LOG_TAIL);
    }
    String::new()
}

fn read_tail(path: &Path, limit: usize) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    if len > limit as u64 {
        file.seek(SeekFrom::Start(len - limit as u64))?;
    }
    let mut data = Vec::new();
    file.take(limit as u64).read_to_end(&mut data)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}
