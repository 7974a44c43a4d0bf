//! gRPC client of the CRI v1 runtime and image services over a Unix socket. Connects lazily and reconnects by
//! itself, so a restart of the runtime is only a run of failed calls.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self as v1, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint, Uri};

use super::labels;

/// A failed CRI call: which one, and what the runtime said.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {}", .status.message())]
pub struct CriError {
    /// The CRI method.
    pub call: &'static str,
    /// The runtime's answer.
    pub status: tonic::Status,
}

impl CriError {
    /// True where the object is already gone.
    pub fn not_found(&self) -> bool {
        self.status.code() == tonic::Code::NotFound || self.status.message().contains("not found")
    }

    /// True where the runtime does not know the method.
    pub fn unimplemented(&self) -> bool {
        self.status.code() == tonic::Code::Unimplemented
    }

    /// True where the call ran out of time.
    pub fn timed_out(&self) -> bool {
        matches!(self.status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled)
            || self.status.message().contains("deadline exceeded")
    }

    /// The runtime's own words.
    pub fn message(&self) -> &str {
        self.status.message()
    }
}

/// Client of one runtime endpoint. Cloning is cheap; clones share the connection.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    channel: Channel,
    timeout: Duration,
}

const MAX_MESSAGE: usize = 16 << 20;

/// Strips the `unix://` scheme; other schemes are refused.
pub fn socket_path(endpoint: &str) -> anyhow::Result<PathBuf> {
    let path = match endpoint.split_once("://") {
        Some(("unix", path)) => path,
        None if endpoint.starts_with('/') => endpoint,
        _ => anyhow::bail!(
            "container runtime endpoint {endpoint:?}: only unix sockets are supported, for example unix:///run/containerd/containerd.sock"
        ),
    };
    Ok(PathBuf::from(path))
}

fn channel(endpoint: &str) -> anyhow::Result<Channel> {
    let path = socket_path(endpoint)?;
    Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        },
    )))
}

macro_rules! call {
    ($self:ident . $service:ident . $method:ident ( $request:expr ), $name:literal, $timeout:expr) => {{
        let mut client = $self.$service.clone();
        let mut request = tonic::Request::new($request);
        request.set_timeout($timeout);
        match tokio::time::timeout($timeout + Duration::from_secs(2), client.$method(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CriError { call: $name, status }),
            Err(_) => Err(CriError {
                call: $name,
                status: tonic::Status::deadline_exceeded("context deadline exceeded"),
            }),
        }
    }};
}

fn uid_selector(uid: Option<&str>) -> HashMap<String, String> {
    uid.map(|u| HashMap::from([(labels::POD_UID.to_owned(), u.to_owned())])).unwrap_or_default()
}

impl Cri {
    /// `image_endpoint` empty means the runtime's own.
    pub fn new(endpoint: &str, image_endpoint: &str, timeout: Duration) -> anyhow::Result<Self> {
        let main = channel(endpoint)?;
        let image = if image_endpoint.is_empty() { main.clone() } else { channel(image_endpoint)? };
        Ok(Self {
            runtime: RuntimeServiceClient::new(main.clone()).max_decoding_message_size(MAX_MESSAGE),
            image: ImageServiceClient::new(image).max_decoding_message_size(MAX_MESSAGE),
            channel: main,
            timeout,
        })
    }

    /// The raw channel, for services that are not CRI (containerd's event stream).
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The raw runtime client, for streaming set-up calls (Exec, Attach, PortForward).
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        call!(self.runtime.version(v1::VersionRequest { version: "v1".into() }), "Version", self.timeout)
    }

    pub async fn status(&self) -> Result<v1::StatusResponse, CriError> {
        call!(self.runtime.status(v1::StatusRequest { verbose: false }), "Status", self.timeout)
    }

    /// The image that sandboxes run, as far as the runtime tells (containerd does, in its verbose status).
    pub async fn sandbox_image(&self) -> Option<String> {
        let request = v1::StatusRequest { verbose: true };
        let answer = call!(self.runtime.status(request), "Status", self.timeout).ok()?;
        let config: serde_json::Value = serde_json::from_str(answer.info.get("config")?).ok()?;
        config["sandboxImage"].as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    }

    pub async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse, CriError> {
        call!(self.runtime.runtime_config(v1::RuntimeConfigRequest {}), "RuntimeConfig", self.timeout)
    }

    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<(), CriError> {
        let config =
            v1::RuntimeConfig { network_config: Some(v1::NetworkConfig { pod_cidr: pod_cidr.into() }) };
        let request = v1::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
        call!(self.runtime.update_runtime_config(request), "UpdateRuntimeConfig", self.timeout).map(drop)
    }

    pub async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, CriError> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.into() };
        // The runtime may have to pull the sandbox image: upstream allows twice the usual time.
        call!(self.runtime.run_pod_sandbox(request), "RunPodSandbox", self.timeout * 2)
            .map(|r| r.pod_sandbox_id)
    }

    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        ignore_gone(call!(self.runtime.stop_pod_sandbox(request), "StopPodSandbox", self.timeout).map(drop))
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        ignore_gone(
            call!(self.runtime.remove_pod_sandbox(request), "RemovePodSandbox", self.timeout).map(drop),
        )
    }

    pub async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, CriError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        call!(self.runtime.pod_sandbox_status(request), "PodSandboxStatus", self.timeout)
            .map(|r| r.status.unwrap_or_default())
    }

    /// All sandboxes, or those of one pod.
    pub async fn list_sandboxes(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, CriError> {
        let filter =
            v1::PodSandboxFilter { id: String::new(), state: None, label_selector: uid_selector(uid) };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        call!(self.runtime.list_pod_sandbox(request), "ListPodSandbox", self.timeout).map(|r| r.items)
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        call!(self.runtime.create_container(request), "CreateContainer", self.timeout).map(|r| r.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StartContainerRequest { container_id: id.into() };
        call!(self.runtime.start_container(request), "StartContainer", self.timeout).map(drop)
    }

    /// SIGTERM (or the stop signal), then SIGKILL after `grace_seconds`.
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), CriError> {
        let request = v1::StopContainerRequest { container_id: id.into(), timeout: grace_seconds };
        let wait = self.timeout + Duration::from_secs(grace_seconds.max(0) as u64);
        ignore_gone(call!(self.runtime.stop_container(request), "StopContainer", wait).map(drop))
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemoveContainerRequest { container_id: id.into() };
        ignore_gone(call!(self.runtime.remove_container(request), "RemoveContainer", self.timeout).map(drop))
    }

    /// All containers, or those of one pod.
    pub async fn list_containers(&self, uid: Option<&str>) -> Result<Vec<v1::Container>, CriError> {
        let filter = v1::ContainerFilter { label_selector: uid_selector(uid), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        call!(self.runtime.list_containers(request), "ListContainers", self.timeout).map(|r| r.containers)
    }

    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: false };
        call!(self.runtime.container_status(request), "ContainerStatus", self.timeout)
            .map(|r| r.status.unwrap_or_default())
    }

    pub async fn update_container_resources(
        &self,
        id: &str,
        linux: v1::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        call!(self.runtime.update_container_resources(request), "UpdateContainerResources", self.timeout)
            .map(drop)
    }

    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.into() };
        call!(self.runtime.reopen_container_log(request), "ReopenContainerLog", self.timeout).map(drop)
    }

    /// Runs a command to its end inside the container. `timeout` zero means none but the transport's.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let request =
            v1::ExecSyncRequest { container_id: id.into(), cmd, timeout: timeout.as_secs().max(1) as i64 };
        let wait = if timeout.is_zero() { self.timeout } else { timeout + Duration::from_secs(2) };
        call!(self.runtime.exec_sync(request), "ExecSync", wait)
    }

    pub async fn pod_stats(&self, sandbox: &str) -> Result<v1::PodSandboxStats, CriError> {
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.into() };
        call!(self.runtime.pod_sandbox_stats(request), "PodSandboxStats", self.timeout)
            .map(|r| r.stats.unwrap_or_default())
    }

    pub async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>, CriError> {
        let request = v1::ListContainerStatsRequest { filter: None };
        call!(self.runtime.list_container_stats(request), "ListContainerStats", self.timeout).map(|r| r.stats)
    }

    pub async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let request = v1::ListImagesRequest { filter: None };
        call!(self.image.list_images(request), "ListImages", self.timeout).map(|r| r.images)
    }

    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        let spec = v1::ImageSpec { image: image.into(), ..Default::default() };
        let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
        call!(self.image.image_status(request), "ImageStatus", self.timeout).map(|r| r.image)
    }

    /// Pulls without a time limit of our own: the caller cancels.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let spec = v1::ImageSpec { image: image.into(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(spec), auth, sandbox_config };
        let mut client = self.image.clone();
        match client.pull_image(request).await {
            Ok(response) => Ok(response.into_inner().image_ref),
            Err(status) => Err(CriError { call: "PullImage", status }),
        }
    }

    pub async fn remove_image(&self, id: &str) -> Result<(), CriError> {
        let spec = v1::ImageSpec { image: id.into(), ..Default::default() };
        let request = v1::RemoveImageRequest { image: Some(spec) };
        ignore_gone(call!(self.image.remove_image(request), "RemoveImage", self.timeout).map(drop))
    }

    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError> {
        call!(self.image.image_fs_info(v1::ImageFsInfoRequest {}), "ImageFsInfo", self.timeout)
    }
}

fn ignore_gone(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(e) if e.not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(socket_path("unix:///run/c.sock").unwrap(), PathBuf::from("/run/c.sock"));
        assert_eq!(socket_path("/run/c.sock").unwrap(), PathBuf::from("/run/c.sock"));
        assert!(socket_path("tcp://1.2.3.4:5").is_err());
    }
}
