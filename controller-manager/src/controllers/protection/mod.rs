//! Protection of storage objects in use: a finalizer holds a deleted claim until no pod uses it, a deleted volume until
//! it is bound to no claim, and a deleted attributes class until no claim or volume refers to it.
//!
//! Admission gives new objects their finalizer; these controllers give it to older ones, and take it away at the end.

pub mod attributes_class;
pub mod claim;
pub mod volume;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::util::{errors, meta};

/// What is to be done about a finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The object lives without it.
    Add,
    /// The object waits for it to be taken away, if nobody uses the object.
    Release,
}

fn need(metadata: &ObjectMeta, finalizer: &str) -> Need {
    let has = metadata.finalizers.iter().flatten().any(|f| f == finalizer);
    match (metadata.deletion_timestamp.is_some(), has) {
        (false, false) => Need::Add,
        (true, true) => Need::Release,
        _ => Need::Nothing,
    }
}

/// Adds the finalizer, or takes it away.
async fn write<K>(api: &Api<K>, obj: &K, finalizer: &str, add: bool) -> kube::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let mut changed = obj.clone();
    let finalizers = changed.meta_mut().finalizers.get_or_insert_default();
    finalizers.retain(|f| f != finalizer);
    if add {
        finalizers.push(finalizer.to_owned());
    }
    match api.replace(meta::name(obj.meta()), &PostParams::default(), &changed).await {
        Err(e) if errors::not_found(&e) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn added_while_alive_released_when_deleted() {
        let mut m = ObjectMeta::default();
        assert_eq!(need(&m, "a/b"), Need::Add);
        m.finalizers = Some(vec!["x/y".into(), "a/b".into()]);
        assert_eq!(need(&m, "a/b"), Need::Nothing);
        m.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(need(&m, "a/b"), Need::Release);
        m.finalizers = None;
        assert_eq!(need(&m, "a/b"), Need::Nothing, "nothing can be added to what is being deleted");
    }
}
