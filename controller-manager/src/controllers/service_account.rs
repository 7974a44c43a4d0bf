//! Every namespace has a service account named `default`.

use component_base::controller::informer::{Delta, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::context::{Context, synced};
use crate::util::meta;

const NAME: &str = "default";

/// Whether the account must be made.
fn missing(namespace: Option<&Namespace>, account: Option<&ServiceAccount>) -> bool {
    let Some(ns) = namespace else { return false };
    let active = ns.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Active") == "Active";
    active && ns.metadata.deletion_timestamp.is_none() && account.is_none()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let queue: WorkQueue<String> = WorkQueue::default();
    let namespaces = ctx.informers.of::<Namespace>();
    let accounts = ctx.informers.of::<ServiceAccount>();
    let q = queue.clone();
    namespaces.on_change(move |d| {
        if !d.is_deleted() {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let q = queue.clone();
    accounts.on_change(move |d| {
        if let Delta::Deleted(account) = d
            && meta::name(&account.metadata) == NAME
        {
            q.add(meta::namespace(&account.metadata).to_owned());
        }
    });
    let client = ctx.client("service-account-controller")?;
    let stores = (namespaces.store(), accounts.store());
    let ready = vec![synced(&namespaces), synced(&accounts)];
    ctx.work("serviceaccount", &queue, 1, ready, move |key| {
        let (client, (namespaces, accounts)) = (client.clone(), stores.clone());
        async move {
            let (_, ns) = split_key(&key);
            if !missing(namespaces.get(ns).as_deref(), accounts.find(ns, NAME).as_deref()) {
                return Ok(());
            }
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            match Api::<ServiceAccount>::namespaced(client, ns).create(&PostParams::default(), &account).await
            {
                Ok(_) => Ok(()),
                // It is there already, or the namespace began to go away.
                Err(kube::Error::Api(s)) if s.code == 409 || s.code == 404 => Ok(()),
                Err(kube::Error::Api(s)) if crate::util::errors::namespace_terminating(&s) => Ok(()),
                Err(e) => {
                    Err(anyhow::Error::from(e).context(format!("creating service account {ns}/{NAME}")))
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
    fn only_active_namespaces_without_one() {
        let mut ns = Namespace::default();
        assert!(missing(Some(&ns), None));
        assert!(!missing(Some(&ns), Some(&ServiceAccount::default())));
        assert!(!missing(None, None));
        ns.metadata.deletion_timestamp = Some(meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        assert!(!missing(Some(&ns), None));
    }
}
