//! Every namespace has a config map `kube-root-ca.crt` with the CA that pods verify the API server by.

use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::context::{Context, synced};
use crate::util::{errors, meta};

/// Name of the config map.
pub const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const ABOUT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(ConfigMap),
    Replace(ConfigMap),
}

/// What a namespace needs.
fn plan(namespace: Option<&Namespace>, current: Option<&ConfigMap>, ca: &str) -> Action {
    match namespace {
        Some(ns) if ns.metadata.deletion_timestamp.is_none() => {}
        _ => return Action::Nothing,
    }
    let data = [(KEY.to_owned(), ca.to_owned())].into();
    let about = ("kubernetes.io/description".to_owned(), ABOUT.to_owned());
    let Some(current) = current else {
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            annotations: Some([about].into()),
            ..ObjectMeta::default()
        };
        return Action::Create(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
    };
    if current.data.as_ref() == Some(&data)
        && current.binary_data.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
        && meta::annotation(&current.metadata, &about.0).is_some()
    {
        return Action::Nothing;
    }
    let mut wanted = current.clone();
    wanted.data = Some(data);
    wanted.binary_data = None;
    wanted.metadata.annotations.get_or_insert_default().insert(about.0, about.1);
    Action::Replace(wanted)
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let ca = ctx.root_ca()?;
    let queue: WorkQueue<String> = WorkQueue::default();
    let namespaces = ctx.informers.of::<Namespace>();
    let maps = ctx.informers.of::<ConfigMap>();
    let q = queue.clone();
    namespaces.on_change(move |d| {
        if !d.is_deleted() {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let q = queue.clone();
    maps.on_change(move |d| q.add(meta::namespace(&d.object().metadata).to_owned()));
    let client = ctx.client("root-ca-cert-publisher")?;
    let stores = (namespaces.store(), maps.store());
    ctx.work("root_ca_cert_publisher", &queue, 1, vec![synced(&namespaces), synced(&maps)], move |ns| {
        let (client, ca, (namespaces, maps)) = (client.clone(), ca.clone(), stores.clone());
        async move {
            let api: Api<ConfigMap> = Api::namespaced(client, &ns);
            let done = match plan(namespaces.get(&ns).as_deref(), maps.find(&ns, NAME).as_deref(), &ca) {
                Action::Nothing => return Ok(()),
                Action::Create(map) => api.create(&PostParams::default(), &map).await,
                Action::Replace(map) => api.replace(NAME, &PostParams::default(), &map).await,
            };
            match done {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(s))
                    if s.code == 409 || s.code == 404 || errors::namespace_terminating(&s) =>
                {
                    Ok(())
                }
                Err(e) => {
                    Err(anyhow::Error::from(e).context(format!("publishing the root CA to namespace {ns}")))
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_repaired_and_left_alone() {
        let ns = Namespace::default();
        let Action::Create(made) = plan(Some(&ns), None, "CA") else { panic!("must be created") };
        assert_eq!(plan(Some(&ns), Some(&made), "CA"), Action::Nothing);
        let mut spoiled = made.clone();
        spoiled.data = None;
        let Action::Replace(repaired) = plan(Some(&ns), Some(&spoiled), "CA") else {
            panic!("must be repaired")
        };
        assert_eq!(repaired.data, made.data);
        assert_eq!(plan(None, None, "CA"), Action::Nothing);
    }
}
