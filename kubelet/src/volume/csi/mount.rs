//! Staging and publishing.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest as AuthTokenRequest, TokenRequestSpec},
    core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, Secret, ServiceAccount, Volume},
    storage::v1::{CSIDriver, CSIDriverSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

use super::{
    Csi, attachment,
    disk::{self, Note},
    registry::Driver,
    request::{Asked, capability, changes_group, pod_info},
    wire::{
        self, Empty, Publish, Stage,
        capability::{SINGLE_NODE_MULTI_WRITER, STAGE_UNSTAGE_VOLUME, VOLUME_MOUNT_GROUP},
    },
};
use crate::{
    pod::spec,
    volume::{
        ownership,
        persistent::Claimed,
        setup::{self, Mounted, Setup},
    },
};

/// What stays the same while a volume is staged and published.
struct Task<'a> {
    pod: &'a Pod,
    asked: Asked,
    driver: Driver,
    rules: CSIDriverSpec,
    note: Note,
    /// The volume's folder in the pod's.
    dir: PathBuf,
    publish_context: HashMap<String, String>,
}

fn mounted(dir: &Path, read_only: bool) -> Mounted {
    Mounted { path: dir.join("mount"), read_only, block: false }
}

fn owned(map: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

impl Csi {
    /// Makes a claim's volume usable.
    pub async fn mount_claimed(
        &self,
        s: &Setup<'_>,
        pod: &Pod,
        c: &Claimed,
        source: &CSIPersistentVolumeSource,
    ) -> Result<Mounted, String> {
        if c.is_block() {
            return Err("block volumes of CSI drivers are not supported by this kubelet".into());
        }
        let client = s.client.ok_or("a CSI volume needs an API server, and none is configured")?;
        let dir = disk::pod_volume(&s.dirs.root, c.name());
        let read_only = c.read_only || source.read_only == Some(true);
        if self.published.lock().contains(&dir.join("mount")) {
            return Ok(mounted(&dir, read_only));
        }
        let driver = self.registry.get(&source.driver)?;
        let rules = rules(client, &source.driver).await?;
        let volume = c.volume.spec.clone().unwrap_or_default();
        let asked = Asked {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_flags: volume.mount_options.unwrap_or_default(),
            access_mode: volume
                .access_modes
                .and_then(|m| m.first().cloned())
                .unwrap_or_else(|| "ReadWriteOnce".into()),
            block: false,
            read_only,
            attributes: owned(source.volume_attributes.as_ref()),
        };
        let attach = rules.attach_required != Some(false);
        let note = Note {
            spec_volume: c.name().to_owned(),
            handle: asked.handle.clone(),
            driver: asked.driver.clone(),
            node: self.node_name.clone(),
            attachment: if attach {
                attachment::name(&asked.driver, &asked.handle, &self.node_name)
            } else {
                String::new()
            },
            lifecycle: "Persistent".into(),
        };
        // From here on the pod counts as a user of the volume.
        note.write(&dir).map_err(|e| format!("writing a note into {}: {e}", dir.display()))?;
        let publish_context = if attach { self.attached(client, &note).await? } else { HashMap::new() };
        let task = Task { pod, asked, driver, rules, note, dir, publish_context };

        let lock = self.lock_of(&task.asked.driver, &task.asked.handle);
        let _alone = lock.lock().await;
        let secret = |r: Option<&k8s_openapi::api::core::v1::SecretReference>| {
            r.map(|r| (r.namespace.clone().unwrap_or_default(), r.name.clone().unwrap_or_default()))
        };
        let mut staged = String::new();
        if task.driver.can(STAGE_UNSTAGE_VOLUME) {
            let secrets = secrets(client, secret(source.node_stage_secret_ref.as_ref())).await?;
            staged = self.stage(&task, secrets).await?;
        }
        let secrets = secrets(client, secret(source.node_publish_secret_ref.as_ref())).await?;
        self.publish(client, &task, staged, secrets).await
    }

    /// Makes a volume that lives as long as its pod.
    pub async fn mount_inline(
        &self,
        s: &Setup<'_>,
        pod: &Pod,
        v: &Volume,
        source: &CSIVolumeSource,
    ) -> Result<Mounted, String> {
        let client = s.client.ok_or("a CSI volume needs an API server, and none is configured")?;
        let dir = disk::pod_volume(&s.dirs.root, &v.name);
        let read_only = source.read_only == Some(true);
        if self.published.lock().contains(&dir.join("mount")) {
            return Ok(mounted(&dir, read_only));
        }
        let driver = self.registry.get(&source.driver)?;
        let rules = rules(client, &source.driver).await?;
        let modes = rules.volume_lifecycle_modes.clone().unwrap_or_default();
        if !modes.iter().any(|m| m == "Ephemeral") {
            return Err(format!(
                "volume mode \"Ephemeral\" not supported by driver {} (only supports {modes:?})",
                source.driver
            ));
        }
        let digest = Sha256::digest(format!("{}{}", spec::uid(pod), v.name));
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        let asked = Asked {
            driver: source.driver.clone(),
            handle: format!("csi-{hex}"),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            access_mode: "ReadWriteOnce".into(),
            read_only,
            attributes: owned(source.volume_attributes.as_ref()),
            ..Asked::default()
        };
        let note = Note {
            spec_volume: v.name.clone(),
            handle: asked.handle.clone(),
            driver: asked.driver.clone(),
            node: self.node_name.clone(),
            attachment: String::new(),
            lifecycle: "Ephemeral".into(),
        };
        note.write(&dir).map_err(|e| format!("writing a note into {}: {e}", dir.display()))?;
        let task = Task { pod, asked, driver, rules, note, dir, publish_context: HashMap::new() };
        let lock = self.lock_of(&task.asked.driver, &task.asked.handle);
        let _alone = lock.lock().await;
        let secret = source.node_publish_secret_ref.as_ref();
        let secret = secret.map(|r| (spec::namespace(pod).to_owned(), r.name.clone()));
        let secrets = secrets(client, secret).await?;
        self.publish(client, &task, String::new(), secrets).await
    }

    /// Stages the volume once for all pods of the node; gives the place.
    async fn stage(&self, t: &Task<'_>, secrets: HashMap<String, String>) -> Result<String, String> {
        let dir = disk::staging(&self.root, &t.asked.driver, &t.asked.handle);
        let target = dir.join("globalmount");
        t.note
            .write(&dir)
            .and_then(|()| fs::create_dir_all(&target))
            .map_err(|e| format!("making {}: {e}", target.display()))?;
        let path = target.to_string_lossy().into_owned();
        let request = Stage {
            volume_id: t.asked.handle.clone(),
            publish_context: t.publish_context.clone(),
            staging_target_path: path.clone(),
            volume_capability: Some(t.capability()),
            secrets,
            volume_context: t.asked.attributes.clone(),
        };
        let _: Empty = t
            .driver
            .socket
            .call("/csi.v1.Node/NodeStageVolume", request)
            .await
            .map_err(|e| format!("MountVolume.MountDevice failed: {}", wire::shown(&e)))?;
        Ok(path)
    }

    async fn publish(
        &self,
        client: &Client,
        t: &Task<'_>,
        staged: String,
        secrets: HashMap<String, String>,
    ) -> Result<Mounted, String> {
        let target = t.dir.join("mount");
        let mut context = t.asked.attributes.clone();
        if t.rules.pod_info_on_mount == Some(true) {
            context.extend(pod_info(t.pod, !t.note.is_persistent()));
        }
        if let Some(tokens) = tokens(client, t.pod, &t.rules).await? {
            context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        let request = Publish {
            volume_id: t.asked.handle.clone(),
            publish_context: t.publish_context.clone(),
            staging_target_path: staged,
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(t.capability()),
            readonly: t.asked.read_only,
            secrets,
            volume_context: context,
        };
        let _: Empty = t
            .driver
            .socket
            .call("/csi.v1.Node/NodePublishVolume", request)
            .await
            .map_err(|e| wire::shown(&e))?;
        if let Some(gid) = t.group()
            && !t.driver.can(VOLUME_MOUNT_GROUP)
            && changes_group(t.rules.fs_group_policy.as_deref(), &t.asked)
        {
            let (root, keep) = (target.clone(), setup::only_on_mismatch(t.pod));
            // A large volume takes its time.
            let work = move || ownership::set_group(&root, gid, false, keep);
            let done = tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?;
            done.map_err(|e| format!("applyFSGroup failed for vol {}: {e}", t.asked.handle))?;
        }
        if t.rules.requires_republish != Some(true) {
            self.published.lock().insert(target);
        }
        Ok(mounted(&t.dir, t.asked.read_only))
    }
}

impl Task<'_> {
    fn group(&self) -> Option<u32> {
        setup::fs_group(self.pod)
    }

    fn capability(&self) -> wire::VolumeCapability {
        let group = self.group().filter(|_| self.driver.can(VOLUME_MOUNT_GROUP));
        capability(&self.asked, self.driver.can(SINGLE_NODE_MULTI_WRITER), group)
    }
}

/// What the cluster says about a driver; nothing said means the defaults.
async fn rules(client: &Client, driver: &str) -> Result<CSIDriverSpec, String> {
    let api: Api<CSIDriver> = Api::all(client.clone());
    let found = api.get_opt(driver).await.map_err(|e| format!("reading CSIDriver {driver}: {e}"))?;
    Ok(found.map(|d| d.spec).unwrap_or_default())
}

async fn secrets(
    client: &Client,
    reference: Option<(String, String)>,
) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = reference else { return Ok(HashMap::new()) };
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let secret =
        api.get(&name).await.map_err(|e| format!("fetching secret {namespace}/{name} failed: {e}"))?;
    let text = |value: Vec<u8>| {
        String::from_utf8(value).map_err(|_| format!("secret {namespace}/{name} is not text"))
    };
    secret.data.unwrap_or_default().into_iter().map(|(k, v)| Ok((k, text(v.0)?))).collect()
}

/// The tokens that a driver wants to act for the pod with, as JSON by audience.
async fn tokens(client: &Client, pod: &Pod, rules: &CSIDriverSpec) -> Result<Option<String>, String> {
    let wanted = rules.token_requests.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(None);
    }
    let account = spec::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".into());
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), spec::namespace(pod));
    let mut out = serde_json::Map::new();
    for one in wanted {
        let request = AuthTokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!one.audience.is_empty()).then(|| vec![one.audience.clone()]),
                expiration_seconds: one.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..AuthTokenRequest::default()
        };
        let answer = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let status = serde_json::to_value(answer.status).map_err(|e| e.to_string())?;
        out.insert(one.audience.clone(), status);
    }
    serde_json::to_string(&out).map(Some).map_err(|e| e.to_string())
}
