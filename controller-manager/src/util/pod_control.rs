//! Makes and deletes pods for a controller, and tells about it in events.

use component_base::controller::events::EventRecorder;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};

use super::{errors, meta};

/// A pod as its template says, owned by `owner`.
pub fn from_template(template: &PodTemplateSpec, owner_name: &str, owner: OwnerReference) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    // Room for five random characters is left below the limit of names.
    let prefix: String = format!("{owner_name}-").chars().take(248).collect();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Sizes of the batches in which `total` pods are made: doubling, so that a namespace at its quota is asked once and
/// not five hundred times.
pub fn batches(total: usize) -> impl Iterator<Item = usize> {
    let mut left = total;
    let mut size = 1;
    std::iter::from_fn(move || {
        let batch = left.min(size);
        left -= batch;
        size *= 2;
        (batch > 0).then_some(batch)
    })
}

/// Writes pods for one controller.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    events: EventRecorder,
}

impl PodControl {
    pub fn new(client: Client, events: EventRecorder) -> Self {
        Self { client, events }
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes a pod; `Ok(None)` where the namespace is going away and nothing can be made.
    pub async fn create(
        &self,
        namespace: &str,
        pod: &Pod,
        owner: &ObjectReference,
    ) -> kube::Result<Option<Pod>> {
        match self.api(namespace).create(&PostParams::default(), pod).await {
            Ok(made) => {
                let name = meta::name(&made.metadata);
                self.events.normal(owner, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(Some(made))
            }
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(None),
            Err(e) => {
                self.events.warning(
                    owner,
                    "FailedCreate",
                    format!("Error creating: {}", errors::message(&e)),
                );
                Err(e)
            }
        }
    }

    /// Deletes a pod; one that is gone already is fine, and `Ok(false)`.
    pub async fn delete(&self, namespace: &str, name: &str, owner: &ObjectReference) -> kube::Result<bool> {
        match self.api(namespace).delete(name, &DeleteParams::default()).await {
            Ok(_) => {
                self.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(true)
            }
            Err(e) if errors::not_found(&e) => Ok(false),
            Err(e) => {
                self.events.warning(
                    owner,
                    "FailedDelete",
                    format!("Error deleting: {}", errors::message(&e)),
                );
                Err(e)
            }
        }
    }

    /// Sends a strategic merge patch.
    pub async fn patch(&self, namespace: &str, name: &str, patch: &serde_json::Value) -> kube::Result<()> {
        self.api(namespace).patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_double_and_add_up() {
        assert_eq!(batches(0).collect::<Vec<_>>(), Vec::<usize>::new());
        assert_eq!(batches(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
        for n in 0..200 {
            assert_eq!(batches(n).sum::<usize>(), n);
        }
    }
}
