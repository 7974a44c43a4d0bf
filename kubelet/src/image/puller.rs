//! Makes sure a container's image is on the node, by its pull policy; remembers failures and backs off.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_cri::v1::{Image, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::credentials;
use crate::{
    cri::{Cri, CriError},
    events::{NORMAL, Recorder, WARNING},
    pod::{backoff::Backoff, security::ImageUser, spec},
};

/// Why a container cannot start: the waiting reason and message of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// An image on the node.
#[derive(Clone, Debug)]
pub struct Present {
    pub id: String,
    pub user: ImageUser,
}

/// An image that a container runs, or that a volume shows.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub pod: &'a Pod,
    /// The container that events are told on; the pod itself for a volume.
    pub container: Option<&'a str>,
    pub image: &'a str,
    pub policy: &'a str,
}

impl<'a> Wanted<'a> {
    pub fn by_container(pod: &'a Pod, c: &'a Container) -> Self {
        Self {
            pod,
            container: Some(&c.name),
            image: c.image.as_deref().unwrap_or_default(),
            policy: c.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        }
    }

    pub fn by_volume(pod: &'a Pod, v: &'a ImageVolumeSource) -> Self {
        Self {
            pod,
            container: None,
            image: v.reference.as_deref().unwrap_or_default(),
            policy: v.pull_policy.as_deref().unwrap_or("IfNotPresent"),
        }
    }
}

pub struct ImagePuller {
    cri: Cri,
    recorder: Recorder,
    slots: Option<Arc<Semaphore>>,
    state: Mutex<State>,
}

struct State {
    backoff: Backoff,
    errors: HashMap<String, (Timestamp, String)>,
}

/// Adds `:latest` where neither tag nor digest is given.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

fn valid_name(image: &str) -> bool {
    let name = credentials::repository(image);
    let path = name.split_once('/').map_or("", |(_, p)| p);
    !path.is_empty()
        && path.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c))
        && path.split('/').all(|p| !p.is_empty())
}

fn present(image: Image) -> Present {
    let user = ImageUser { uid: image.uid.as_ref().map(|u| u.value), name: image.username.clone() };
    // Runtimes that resolve names themselves report neither: such an image runs as root.
    let user =
        if user.uid.is_none() && user.name.is_empty() { ImageUser { uid: Some(0), ..user } } else { user };
    Present { id: image.id, user }
}

impl ImagePuller {
    /// `parallel` pulls at a time; `None` is no bound.
    pub fn new(cri: Cri, recorder: Recorder, parallel: Option<u32>) -> Self {
        let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        Self {
            cri,
            recorder,
            slots: parallel.map(|n| Arc::new(Semaphore::new(n.max(1) as usize))),
            state: Mutex::new(State { backoff, errors: HashMap::new() }),
        }
    }

    fn tell(&self, wanted: &Wanted<'_>, kind: &'static str, reason: &str, message: String) {
        match wanted.container {
            Some(name) => self.recorder.container(wanted.pod, name, kind, reason, message),
            None => self.recorder.pod(wanted.pod, kind, reason, message),
        }
    }

    /// Returns the image, pulling it if the policy says so.
    pub async fn ensure(
        &self,
        wanted: &Wanted<'_>,
        secrets: &[&Secret],
        sandbox: &PodSandboxConfig,
    ) -> Result<Present, Failure> {
        let requested = wanted.image;
        let event = |kind, reason: &str, message: String| self.tell(wanted, kind, reason, message);
        if !valid_name(requested) {
            let message = format!(
                "Failed to apply default image tag {requested:?}: couldn't parse image name {requested:?}: invalid reference format"
            );
            event(WARNING, "InspectFailed", message.clone());
            return Err(Failure::new("InvalidImageName", message));
        }
        let image = with_tag(requested);
        let found = self.cri.image_status(&image).await.map_err(|e| {
            let message = format!("Failed to inspect image {image:?}: {}", e.message());
            event(WARNING, "InspectFailed", message.clone());
            Failure::new("ImageInspectError", message)
        })?;
        match (wanted.policy, found) {
            ("IfNotPresent" | "Never", Some(image)) => {
                event(
                    NORMAL,
                    "Pulled",
                    format!(
                        "Container image {requested:?} already present on machine and can be accessed by the pod"
                    ),
                );
                Ok(present(image))
            }
            ("Never", None) => {
                let message =
                    format!("Container image {requested:?} is not present with pull policy of Never");
                event(WARNING, "ErrImageNeverPull", message.clone());
                Err(Failure::new("ErrImageNeverPull", message))
            }
            _ => self.pull(wanted, &image, secrets, sandbox).await,
        }
    }

    async fn pull(
        &self,
        wanted: &Wanted<'_>,
        image: &str,
        secrets: &[&Secret],
        sandbox: &PodSandboxConfig,
    ) -> Result<Present, Failure> {
        let requested = wanted.image;
        let event = |kind, reason: &str, message: String| self.tell(wanted, kind, reason, message);
        let key = format!("{}_{image}", spec::uid(wanted.pod));
        let now = Timestamp::now();
        let blocked = {
            let state = self.state.lock();
            state
                .errors
                .get(&key)
                .filter(|(at, _)| state.backoff.blocked_until(&key, *at, now).is_some())
                .map(|(_, error)| error.clone())
        };
        if let Some(error) = blocked {
            event(NORMAL, "BackOff", format!("Back-off pulling image {requested:?}"));
            return Err(Failure::new(
                "ImagePullBackOff",
                format!("Back-off pulling image {requested:?}: {error}"),
            ));
        }
        event(NORMAL, "Pulling", format!("Pulling image {requested:?}"));
        let begun = std::time::Instant::now();
        let _slot = match &self.slots {
            Some(slots) => slots.clone().acquire_owned().await.ok(),
            None => None,
        };
        let alone = std::time::Instant::now();
        let result = self.try_pull(image, secrets, sandbox).await;
        match result {
            Ok(found) => {
                let seconds = |i: std::time::Instant| {
                    component_base::duration::GoDuration(
                        Duration::from_millis(i.elapsed().as_millis() as u64),
                    )
                };
                event(
                    NORMAL,
                    "Pulled",
                    format!(
                        "Successfully pulled image {requested:?} in {} ({} including waiting). Image size: {} bytes.",
                        seconds(alone),
                        seconds(begun),
                        found.size
                    ),
                );
                let mut state = self.state.lock();
                state.errors.remove(&key);
                state.backoff.reset(&key);
                Ok(present(found))
            }
            Err(e) => {
                let message = e.message().to_owned();
                event(WARNING, "Failed", format!("Failed to pull image {requested:?}: {message}"));
                event(WARNING, "Failed", "Error: ErrImagePull".into());
                let now = Timestamp::now();
                let mut state = self.state.lock();
                state.backoff.next(&key, now, now);
                let shown = format!("failed to pull image {requested:?}: {message}");
                state.errors.insert(key, (now, format!("ErrImagePull: {shown}")));
                Err(Failure::new("ErrImagePull", shown))
            }
        }
    }

    async fn try_pull(
        &self,
        image: &str,
        secrets: &[&Secret],
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, CriError> {
        let mut candidates: Vec<_> = credentials::lookup(secrets, image).into_iter().map(Some).collect();
        if candidates.is_empty() {
            candidates.push(None);
        }
        let mut last = None;
        for auth in candidates {
            match self.cri.pull_image(image, auth, Some(sandbox.clone())).await {
                Ok(reference) => {
                    let found = match self.cri.image_status(image).await? {
                        Some(found) => Some(found),
                        None => self.cri.image_status(&reference).await?,
                    };
                    return found.ok_or_else(|| CriError {
                        call: "ImageStatus",
                        status: tonic::Status::not_found(format!(
                            "image {image:?} is gone right after its pull"
                        )),
                    });
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| CriError {
            call: "PullImage",
            status: tonic::Status::internal("no credentials to try"),
        }))
    }

    /// When a failed image of this pod may be tried again.
    pub fn retry_at(&self, pod: &Pod, image: &str, now: Timestamp) -> Option<Timestamp> {
        let key = format!("{}_{}", spec::uid(pod), with_tag(image));
        let state = self.state.lock();
        let (at, _) = state.errors.get(&key)?;
        state.backoff.blocked_until(&key, *at, now).map(|(until, _)| until)
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        let mut state = self.state.lock();
        let prefix = format!("{uid}_");
        let keys: Vec<String> = state.errors.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
        for key in keys {
            state.errors.remove(&key);
            state.backoff.reset(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("r:5000/x"), "r:5000/x:latest");
        assert_eq!(with_tag("x:1"), "x:1");
        assert_eq!(with_tag("x@sha256:1"), "x@sha256:1");
        assert!(valid_name("r:5000/x_y/z"));
        assert!(!valid_name("Busy Box"));
        assert!(!valid_name(""));
    }
}
