//! The CRI configuration of one container. Pure: mounts, environment and image are prepared before.

use std::collections::HashMap;

use k8s_cri::v1::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{expand::expand, spec};
use crate::{cri::labels, util::fnv32a};

pub const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// Everything that does not come from the container's spec.
pub struct ContainerInputs {
    pub restart_count: u32,
    pub image_id: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Names of devices in the runtime's CDI configuration.
    pub cdi_devices: Vec<String>,
    pub resources: LinuxContainerResources,
    pub security: LinuxContainerSecurityContext,
}

/// Log file of a container instance, below the pod's log folder.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// The hash by which a kubelet of either kind knows that a container is the one it would start: of the JSON of image
/// and name, as upstream's printer shows its bytes.
pub fn hash(c: &Container) -> u32 {
    let shown =
        serde_json::json!({"image": c.image.as_deref().unwrap_or_default(), "name": c.name}).to_string();
    let bytes: Vec<String> = shown.bytes().map(|b| b.to_string()).collect();
    fnv32a(format!("([]uint8)[{}]", bytes.join(" ")).as_bytes())
}

pub fn config(pod: &Pod, c: &Container, i: ContainerInputs) -> ContainerConfig {
    let env: HashMap<&str, &str> = i.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|s| expand(s, |n| env.get(n).copied()).0).collect()
    };
    let command = expanded(&c.command);
    let args = expanded(&c.args);
    let mut annotations = HashMap::from([
        (labels::CONTAINER_HASH.to_owned(), format!("{:x}", hash(c))),
        (labels::RESTART_COUNT.to_owned(), i.restart_count.to_string()),
        (
            labels::TERMINATION_MESSAGE_PATH.to_owned(),
            c.termination_message_path.clone().unwrap_or_else(|| DEFAULT_MESSAGE_PATH.into()),
        ),
        (
            labels::TERMINATION_MESSAGE_POLICY.to_owned(),
            c.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
        ),
    ]);
    if let Some(grace) = spec::spec(pod).termination_grace_period_seconds {
        annotations.insert(labels::POD_TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    let all_labels = HashMap::from([
        (labels::POD_NAME.to_owned(), spec::name(pod).to_owned()),
        (labels::POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned()),
        (labels::POD_UID.to_owned(), spec::uid(pod).to_owned()),
        (labels::CONTAINER_NAME.to_owned(), c.name.clone()),
    ]);
    let log_path = log_path(&c.name, i.restart_count);
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: c.name.clone(), attempt: i.restart_count }),
        image: Some(ImageSpec {
            image: i.image_id,
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command,
        args,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: i.env.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts: i.mounts,
        devices: i.devices,
        cdi_devices: i.cdi_devices.into_iter().map(|name| CdiDevice { name }).collect(),
        labels: all_labels,
        annotations,
        log_path,
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(i.resources),
            security_context: Some(i.security),
        }),
        ..ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_upstreams() {
        let c = |image: &str| Container {
            name: "test_container".into(),
            image: Some(image.into()),
            args: Some(vec!["x".into()]),
            ..Container::default()
        };
        assert_eq!(hash(&c("foo/image:v1")), 0x8e45_cbd0);
        assert_ne!(hash(&c("foo/image:v2")), 0x8e45_cbd0);
    }

    #[test]
    fn commands_are_expanded_and_identity_is_labelled() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 5,
                "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c"], "args": ["echo $(A) $$(A)"]}]}}))
        .unwrap();
        let c = config(
            &pod,
            &pod.spec.as_ref().unwrap().containers[0],
            ContainerInputs {
                restart_count: 2,
                image_id: "sha256:1".into(),
                env: vec![("A".into(), "x".into())],
                mounts: vec![],
                devices: vec![],
                cdi_devices: vec!["vendor.example.com/gpu=1".into()],
                resources: Default::default(),
                security: Default::default(),
            },
        );
        assert_eq!(c.args, ["echo x $(A)"]);
        assert_eq!(c.cdi_devices[0].name, "vendor.example.com/gpu=1");
        assert_eq!(c.log_path, "c/2.log");
        assert_eq!(c.labels[labels::POD_UID], "u");
        assert_eq!(c.annotations[labels::RESTART_COUNT], "2");
        assert_eq!(c.annotations[labels::POD_TERMINATION_GRACE], "5");
        assert_eq!(c.image.unwrap().user_specified_image, "busybox");
    }
}
