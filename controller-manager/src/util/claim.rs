//! Adoption and release: which objects a controller owns, takes, or lets go.

use std::fmt::Debug;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::errors;
use super::meta::{self, controller_of};
use super::selector::Selector;

/// What to do about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is owned and matches.
    Keep,
    /// It matches and nobody owns it.
    Adopt,
    /// It is owned and matches no more.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Judges an object for the controller `owner`.
pub fn judge(object: &ObjectMeta, owner: &ObjectMeta, selector: &Selector) -> Claim {
    let matches = selector.matches(object.labels.as_ref());
    let owner_leaves = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_leaves || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// What this module can work with.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync
{
}

impl<T> Object for T where
    T: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
{
}

/// The objects that `owner` controls, after adopting those that match and letting go those that match no more. Adopted
/// ones get `finalizer`, released ones lose it.
///
/// # Errors
/// The server refused, for another reason than that an object is gone or was replaced.
pub async fn take<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    objects: Vec<Arc<K>>,
    finalizer: Option<&str>,
) -> anyhow::Result<Vec<Arc<K>>> {
    let mut mine = Vec::new();
    let mut may_adopt = None;
    for object in objects {
        let meta = object.meta();
        let (keep, patch) = match judge(meta, owner.meta(), selector) {
            Claim::Ignore => continue,
            Claim::Keep => {
                mine.push(object);
                continue;
            }
            Claim::Release => (false, release_patch(meta::uid(owner.meta()), meta::uid(meta), finalizer)),
            Claim::Adopt => {
                // Asks the server, not the cache: what an owner that is being deleted adopts, the collector deletes.
                let may = match may_adopt {
                    Some(may) => may,
                    None => *may_adopt.insert(lives(client, owner).await?),
                };
                if !may {
                    continue;
                }
                (true, adopt_patch(owner, meta::uid(meta), finalizer))
            }
        };
        let name = meta::name(meta);
        let api: Api<K> = Api::namespaced(client.clone(), meta::namespace(meta));
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(patched) if keep => mine.push(Arc::new(patched)),
            Ok(_) => {}
            // Gone, or another object of that name by now.
            Err(e) if matches!(errors::code(&e), Some(404 | 409 | 422)) => {}
            Err(e) => {
                let kind = K::kind(&());
                return Err(anyhow::Error::from(e).context(format!("changing the owner of {kind} {name}")));
            }
        }
    }
    Ok(mine)
}

/// Whether the owner is still there, and to stay.
async fn lives<O: Object>(client: &Client, owner: &O) -> anyhow::Result<bool> {
    let api: Api<O> = Api::namespaced(client.clone(), meta::namespace(owner.meta()));
    let fresh =
        api.get_opt(meta::name(owner.meta())).await.context("re-reading the owner before adopting")?;
    Ok(fresh.is_some_and(|f| f.meta().uid == owner.meta().uid && f.meta().deletion_timestamp.is_none()))
}

/// Strategic merge patch that makes `owner` the controller of the object with `uid`.
fn adopt_patch<O: Object>(owner: &O, uid: &str, finalizer: Option<&str>) -> Value {
    let mut patch = json!({"metadata": {"uid": uid, "ownerReferences": [meta::controller_ref(owner)]}});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    patch
}

/// Strategic merge patch that takes the owner away again.
fn release_patch(owner_uid: &str, uid: &str, finalizer: Option<&str>) -> Value {
    let mut patch =
        json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn meta(uid: &str, label: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            namespace: Some("ns".into()),
            labels: Some([("app".to_owned(), label.to_owned())].into()),
            owner_references: owner.map(|o| {
                vec![OwnerReference { uid: o.into(), controller: Some(true), ..OwnerReference::default() }]
            }),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn all_cases() {
        let selector = Selector::from_map(Some(&[("app".to_owned(), "x".to_owned())].into()));
        let owner = meta("o", "", None);
        let case = |label, by| judge(&meta("p", label, by), &owner, &selector);
        assert_eq!(case("x", Some("o")), Claim::Keep);
        assert_eq!(case("x", Some("other")), Claim::Ignore);
        assert_eq!(case("y", Some("o")), Claim::Release);
        assert_eq!(case("x", None), Claim::Adopt);
        assert_eq!(case("y", None), Claim::Ignore);
        let mut leaving = owner.clone();
        leaving.deletion_timestamp = Some(super::super::meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(judge(&meta("p", "x", None), &leaving, &selector), Claim::Ignore);
        assert_eq!(judge(&meta("p", "y", Some("o")), &leaving, &selector), Claim::Ignore);
        assert_eq!(judge(&meta("p", "x", Some("o")), &leaving, &selector), Claim::Keep);
    }
}
