//! Service accounts: identities of pods.

use k8s_openapi::api::core::v1 as api;

use crate::registry::strategy::{Context, Strategy};

/// Rules of service accounts.
pub struct ServiceAccount;

/// Of the references to secrets only the names count.
fn names_only(sa: &mut api::ServiceAccount) {
    for s in sa.secrets.iter_mut().flatten() {
        *s = api::ObjectReference { name: s.name.take(), ..Default::default() };
    }
}

impl Strategy for ServiceAccount {
    type Object = api::ServiceAccount;

    fn prepare_create(&self, _cx: &mut Context, sa: &mut api::ServiceAccount) {
        names_only(sa);
    }

    fn prepare_update(&self, _cx: &mut Context, sa: &mut api::ServiceAccount, _old: &api::ServiceAccount) {
        names_only(sa);
    }
}
