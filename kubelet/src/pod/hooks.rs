//! Lifecycle hooks: `postStart` and `preStop`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::{
    cri::Cri,
    probe::{
        exec,
        handler::{self, Found, Target},
    },
};

/// Runs a hook to its end. The error is what the event says.
pub async fn run(
    cri: &Cri,
    container_id: &str,
    container: &Container,
    pod_ip: &str,
    hook: &LifecycleHandler,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(e) = &hook.exec {
        let command = e.command.clone().unwrap_or_default();
        return match exec::run(cri, container_id, &command, timeout).await {
            Ok((true, _)) => Ok(()),
            Ok((false, output)) => Err(format!(
                "Exec lifecycle hook ({command:?}) for Container {:?} failed: {output}",
                container.name
            )),
            Err(e) => Err(e),
        };
    }
    let target = Target { cri, container_id, container, pod_ip };
    if let Some(h) = &hook.http_get {
        return match handler::http_get(&target, h, timeout, "kube-lifecycle/1.36").await {
            Ok(Found::Good(_) | Found::Doubtful(_)) => Ok(()),
            Ok(Found::Bad(e)) | Err(e) => Err(e),
        };
    }
    if let Some(s) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(s.seconds.max(0) as u64).min(timeout)).await;
        return Ok(());
    }
    if hook.tcp_socket.is_some() {
        // Upstream keeps the field for old objects and refuses it at run time too.
        return Err("invalid handler: tcpSocket lifecycle hooks are not supported".into());
    }
    Err("invalid handler: no hook action is given".into())
}
