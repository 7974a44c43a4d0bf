//! The controllers: which there are, which are asked for, and starting them.

pub mod attach_detach;
pub mod bootstrap_tokens;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub mod garbage;
pub mod horizontal;
pub mod job;
pub mod legacy_token_cleaner;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod policy_status;
pub mod protection;
pub mod replicaset;
pub mod resource_claim;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_account_tokens;
pub mod service_cidr;
pub mod service_lb;
pub mod statefulset;
pub mod taint_eviction;
pub mod ttl;
pub mod ttl_after_finished;
pub mod volume_binder;
pub mod volume_expander;

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

use crate::context::Context;

/// A controller that exists here.
struct Entry {
    /// Name for `--controllers`.
    name: &'static str,
    /// The name it had in older releases.
    alias: &'static str,
    start: fn(&Context) -> anyhow::Result<()>,
    /// Whether `*` means it.
    by_default: bool,
}

const fn entry(name: &'static str, alias: &'static str, start: fn(&Context) -> anyhow::Result<()>) -> Entry {
    Entry { name, alias, start, by_default: true }
}

/// One that runs only if it is named.
const fn optional(
    name: &'static str,
    alias: &'static str,
    start: fn(&Context) -> anyhow::Result<()>,
) -> Entry {
    Entry { name, alias, start, by_default: false }
}

const CONTROLLERS: &[Entry] = &[
    entry("namespace-controller", "namespace", namespace::start),
    entry("serviceaccount-controller", "serviceaccount", service_account::start),
    entry("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", root_ca::start),
    entry("replicaset-controller", "replicaset", replicaset::start_replica_sets),
    entry(
        "replicationcontroller-controller",
        "replicationcontroller",
        replicaset::start_replication_controllers,
    ),
    entry("deployment-controller", "deployment", deployment::start),
    entry("job-controller", "job", job::start),
    entry("cronjob-controller", "cronjob", cronjob::start),
    entry("statefulset-controller", "statefulset", statefulset::start),
    entry("daemonset-controller", "daemonset", daemonset::start),
    entry("disruption-controller", "disruption", disruption::start),
    entry("endpointslice-controller", "endpointslice", endpointslice::start),
    entry("endpointslice-mirroring-controller", "endpointslicemirroring", endpointslice_mirroring::start),
    entry("endpoints-controller", "endpoint", endpoints::start),
    entry("garbage-collector-controller", "garbagecollector", garbage::start),
    entry("node-lifecycle-controller", "nodelifecycle", node_lifecycle::start),
    entry("taint-eviction-controller", "", taint_eviction::start),
    entry("node-ipam-controller", "nodeipam", node_ipam::start),
    entry("pod-garbage-collector-controller", "podgc", pod_gc::start),
    entry("clusterrole-aggregation-controller", "clusterrole-aggregation", cluster_role_aggregation::start),
    entry("resourcequota-controller", "resourcequota", resource_quota::start),
    entry("certificatesigningrequest-signing-controller", "csrsigning", certificates::signing::start),
    entry("certificatesigningrequest-approving-controller", "csrapproving", certificates::approving::start),
    entry("certificatesigningrequest-cleaner-controller", "csrcleaner", certificates::cleaning::start),
    entry("serviceaccount-token-controller", "serviceaccount-token", service_account_tokens::start),
    entry(
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        legacy_token_cleaner::start,
    ),
    optional("bootstrap-signer-controller", "bootstrapsigner", bootstrap_tokens::signing::start),
    optional("token-cleaner-controller", "tokencleaner", bootstrap_tokens::cleaning::start),
    entry("ttl-controller", "ttl", ttl::start),
    entry("service-cidr-controller", "", service_cidr::start),
    entry("service-lb-controller", "service", service_lb::start),
    entry("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", horizontal::start),
    entry("validatingadmissionpolicy-status-controller", "", policy_status::start),
    entry("ttl-after-finished-controller", "ttl-after-finished", ttl_after_finished::start),
    entry("persistentvolume-binder-controller", "persistentvolume-binder", volume_binder::start),
    entry("persistentvolume-attach-detach-controller", "attachdetach", attach_detach::start),
    entry("persistentvolume-expander-controller", "persistentvolume-expander", volume_expander::start),
    entry("persistentvolumeclaim-protection-controller", "pvc-protection", protection::claim::start),
    entry("persistentvolume-protection-controller", "pv-protection", protection::volume::start),
    entry("volumeattributesclass-protection-controller", "", protection::attributes_class::start),
    entry("ephemeral-volume-controller", "ephemeral-volume", ephemeral_volume::start),
    entry("device-taint-eviction-controller", "", device_taint_eviction::start),
    entry("resourceclaim-controller", "resource-claim-controller", resource_claim::start),
];

/// Controllers that upstream starts only with a feature gate that is off by default, or with a cloud provider (name, old
/// name, what is missing). Naming them is fine and, as there, does nothing but tell so.
const DORMANT: &[(&str, &str, &str)] = &[
    ("podcertificaterequest-cleaner-controller", "", "the feature PodCertificateRequest is off"),
    ("podgroup-protection-controller", "", "the feature GenericWorkload is off"),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        "",
        "the feature ClusterTrustBundle is off",
    ),
    (
        "storageversion-garbage-collector-controller",
        "storage-version-gc",
        "the feature StorageVersionAPI is off",
    ),
    ("storage-version-migrator-controller", "", "the feature StorageVersionMigrator is off"),
    ("resourcepoolstatusrequest-controller", "", "the feature DRAResourcePoolStatus is off"),
    ("node-route-controller", "route", "there is no cloud provider"),
    ("cloud-node-lifecycle-controller", "cloud-node-lifecycle", "there is no cloud provider"),
];

/// Controllers of upstream that are not here (name and old name): leaving them out is fine, asking for them is an
/// error.
const ABSENT: &[(&str, &str)] = &[("selinux-warning-controller", "")];

/// The names of the controllers to run.
///
/// # Errors
/// `--controllers` names one that does not exist, or not here.
pub fn enabled(flag: &[String]) -> anyhow::Result<BTreeSet<&'static str>> {
    let mut on: BTreeSet<&'static str> = BTreeSet::new();
    if flag.iter().any(|f| f == "*") {
        on.extend(CONTROLLERS.iter().filter(|e| e.by_default).map(|e| e.name));
    }
    for item in flag.iter().filter(|f| *f != "*" && !f.is_empty()) {
        let (off, name) = item.strip_prefix('-').map_or((false, item.as_str()), |n| (true, n));
        if let Some(e) = CONTROLLERS.iter().find(|e| e.name == name || (!name.is_empty() && e.alias == name))
        {
            if off {
                on.remove(e.name);
            } else {
                on.insert(e.name);
            }
        } else if let Some((name, _, why)) =
            DORMANT.iter().find(|(n, alias, _)| *n == name || (!alias.is_empty() && *alias == name))
        {
            if !off {
                tracing::warn!(controller = name, "not started: {why}");
            }
        } else if !ABSENT.iter().any(|(n, alias)| *n == name || (!alias.is_empty() && *alias == name)) {
            let known: Vec<_> = CONTROLLERS.iter().map(|e| e.name).collect();
            bail!(
                "--controllers: \"{name}\" is not in the list of known controllers; there are: {}",
                known.join(", ")
            );
        } else if !off {
            bail!(
                "--controllers: {name} is not part of this controller manager; remove it from the flag, \
                 or run it in upstream's kube-controller-manager with --controllers={name} and another --leader-elect-resource-name"
            );
        }
    }
    Ok(on)
}

/// Sets up the controllers named; their watches begin when the caller starts the informers.
///
/// # Errors
/// A controller's flags or files are unusable.
pub async fn start(ctx: &Context, enabled: &BTreeSet<&'static str>) -> anyhow::Result<()> {
    for e in CONTROLLERS.iter().filter(|e| enabled.contains(e.name)) {
        (e.start)(ctx).with_context(|| format!("starting {}", e.name))?;
        ctx.health.add_live(e.name, || Ok(()));
        tracing::debug!(controller = e.name, "started");
    }
    tracing::info!(controllers = enabled.len(), "controllers started");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(flag: &str) -> anyhow::Result<BTreeSet<&'static str>> {
        enabled(&flag.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn stars_names_and_exceptions() {
        let all = names("*").unwrap_or_default();
        assert_eq!(all.len(), CONTROLLERS.iter().filter(|e| e.by_default).count());
        assert!(!all.contains("token-cleaner-controller"));
        assert!(names("*,tokencleaner,route").unwrap_or_default().contains("token-cleaner-controller"));
        let without = names("*,-deployment").unwrap_or_default();
        assert!(!without.contains("deployment-controller"));
        assert_eq!(without.len(), all.len() - 1);
        let one = names("namespace-controller").unwrap_or_default();
        assert_eq!(one.into_iter().collect::<Vec<_>>(), ["namespace-controller"]);
    }

    #[test]
    fn unknown_and_absent_names_are_told_apart() {
        let e = names("*,nonsense").map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("not in the list of known controllers"), "{e}");
        for (name, _) in ABSENT {
            let e = names(&format!("*,{name}")).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains("not part of this controller manager"), "{e}");
            assert!(names(&format!("*,-{name}")).is_ok());
        }
        assert_eq!(
            names("*,cloud-node-lifecycle").unwrap(),
            names("*").unwrap(),
            "there is nothing to start"
        );
    }
}
