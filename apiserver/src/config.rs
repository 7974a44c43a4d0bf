//! Command-line flags, named as upstream's; what they mean together is checked in [`Flags::check`].

pub mod auth;
pub mod etcd;
pub mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Parser};
use component_base::duration::GoDuration;
use component_base::flags;
use component_base::logs::LogFlags;
use component_base::metrics::MetricsFlags;

/// The flags of upstream that have no effect (see [`component_base::flags`]).
pub const INERT: &str = include_str!("flags.txt");

/// The Kubernetes API server.
#[derive(Debug, Clone, Parser)]
#[command(name = "kube-apiserver", version = component_base::version::LINE, disable_version_flag = true)]
pub struct Flags {
    /// Print version information and quit
    #[arg(long, action = ArgAction::Version)]
    pub version: Option<bool>,
    #[command(flatten)]
    pub metrics: MetricsFlags,
    #[command(flatten)]
    pub logs: LogFlags,
    #[command(flatten)]
    pub auth: auth::AuthFlags,
    /// What the command line was.
    #[arg(skip)]
    pub given: Shown,
    #[command(flatten)]
    pub serving: crate::http::flags::ServingFlags,
    #[command(flatten)]
    pub audit: crate::audit::AuditFlags,

    /// Directory of the embedded store
    #[arg(long, default_value = "/var/lib/kube-apiserver")]
    pub data_dir: PathBuf,
    /// List of etcd servers to connect with; the embedded store is used without
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    #[command(flatten)]
    pub etcd: etcd::EtcdFlags,
    #[command(flatten)]
    pub store: store::StoreFlags,

    /// The port on which to serve HTTPS
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The IP address on which to listen
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The IP address on which to advertise the apiserver to members of the cluster
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// File with the x509 certificate for HTTPS, then its CA chain
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// File with the private key of --tls-cert-file
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Clients with a certificate signed by one of these authorities are known by its common name
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,

    /// CIDR of the cluster IPs of services, or two of both families
    #[arg(long, default_value = "10.0.0.0/24")]
    pub service_cluster_ip_range: String,
    /// Port range for services with NodePort visibility
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Identifier of the issuer of service account tokens; the first issues, all are accepted
    #[arg(long, action = ArgAction::Append)]
    pub service_account_issuer: Vec<String>,
    /// File with keys that verify service account tokens
    #[arg(long, action = ArgAction::Append)]
    pub service_account_key_file: Vec<PathBuf>,
    /// File with the private key that signs service account tokens
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// URL at which the keys are published, where it is not this server's
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Longest validity of a token that is issued on request
    #[arg(long, default_value = "0s")]
    pub service_account_max_token_expiration: GoDuration,
    /// Give the tokens of pods a year, for clients that do not reload them
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// Identifiers of the API in tokens
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,

    /// File with the client certificate for kubelets
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// File with the client key for kubelets
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// How long to wait for a connection to a kubelet
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub kubelet_timeout: GoDuration,
    /// File with the certificate authority of kubelets
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Which of a node's addresses to use for its kubelet, in order
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
    )]
    pub kubelet_preferred_address_types: Vec<String>,

    /// Ordered list of authorizers; Node,RBAC where neither this nor --authorization-config is given
    #[arg(long, value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// Admission plugins to run beside the default ones
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to run
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Deprecated: the admission plugins to run, and no others
    #[arg(long, value_delimiter = ',')]
    pub admission_control: Vec<String>,
    /// File with the configurations of admission plugins (AdmissionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// How long pods stay on a node that is not ready, where they do not say
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// How long pods stay on a node that is unreachable, where they do not say
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// Let requests without credentials through to authorization; health checks alone where this is not given
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Accept bootstrap tokens
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub enable_bootstrap_token_auth: bool,
    /// File of static tokens
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Allow privileged containers
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub allow_privileged: bool,

    /// Certificate authority of front proxies
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that front proxies may have
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with more about the user
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate for aggregated API servers
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Client key for aggregated API servers
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,

    /// Groups and versions to turn on or off: api/all, api/beta, GROUP/VERSION, each =true or =false
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Feature gates, each NAME=true or =false
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Host name under which clients reach the server, in discovery and the addresses of keys
    #[arg(long, value_name = "HOST", default_value = "")]
    pub external_hostname: String,
    /// Node port of the kubernetes service; 0 makes it a service of type ClusterIP
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub kubernetes_service_node_port: u16,
    /// Workers for a request that deletes a collection; each has up to 16 deletes on their way to the store
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub delete_collection_workers: usize,
    /// How the endpoints of the kubernetes service are kept: lease, master-count or none
    #[arg(long, default_value = "lease", value_parser = ["lease", "master-count", "none"])]
    pub endpoint_reconciler_type: String,
    /// Reach aggregated API servers through their endpoints
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub enable_aggregator_routing: bool,
    /// Do not pass on redirects of aggregated API servers
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub aggregator_reject_forwarding_redirect: bool,
    /// Fair queuing of requests
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub enable_priority_and_fairness: bool,
    /// Profiling endpoints
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub profiling: bool,

    /// Most non-mutating requests in flight; 0 for no limit
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Most mutating requests in flight; 0 for no limit
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// How long events are kept
    #[arg(long, default_value = "1h")]
    pub event_ttl: GoDuration,
    /// How long a request may take
    #[arg(long, default_value = "60s")]
    pub request_timeout: GoDuration,
}

/// The flags as they were given, for those who look at the running server.
#[derive(Debug, Clone, Default)]
pub struct Shown(BTreeMap<String, String>);

impl Shown {
    /// Every flag with its value, given or default.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for a in flags::command::<Flags>(INERT).get_arguments() {
            let default: Vec<_> = a.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            if let Some(name) = a.get_long() {
                all.insert(name.to_owned(), default.join(","));
            }
        }
        all.extend(self.0.clone());
        all
    }
}

impl Flags {
    /// Reads the command line, and which flags without effect it has; ends the process where it is wrong or asks for
    /// help.
    pub fn of_process() -> (Self, Vec<flags::Unused>) {
        let (mut flags, unused, matches) = flags::matches::<Self>(INERT);
        for a in flags::command::<Self>(INERT).get_arguments() {
            let (Some(name), Ok(Some(values))) = (a.get_long(), matches.try_get_raw(a.get_id().as_str()))
            else {
                continue;
            };
            let values: Vec<_> = values.map(|v| v.to_string_lossy()).collect();
            flags.given.0.insert(name.to_owned(), values.join(","));
        }
        (flags, unused)
    }

    /// Checks what clap cannot.
    pub fn check(&self) -> anyhow::Result<()> {
        self.etcd.check(&self.etcd_servers)?;
        if self.store.group()?.is_some() && !self.etcd_servers.is_empty() {
            bail!("--store-initial-cluster is of the embedded store, --etcd-servers puts etcd in its place");
        }
        if self.tls_cert_file.is_some() != self.tls_private_key_file.is_some() {
            bail!("--tls-cert-file and --tls-private-key-file must be given together");
        }
        if self.service_account_signing_key_file.is_some() && self.service_account_issuer.is_empty() {
            bail!("--service-account-signing-key-file needs --service-account-issuer");
        }
        for f in self.feature_gates.iter().filter(|f| !f.is_empty()) {
            let (name, value) =
                f.split_once('=').with_context(|| format!("--feature-gates: {f:?} is not NAME=BOOL"))?;
            value
                .parse::<bool>()
                .with_context(|| format!("--feature-gates: the value of {name} is not a boolean"))?;
        }
        RuntimeConfig::parse(&self.runtime_config)?;
        self.auth.check(self)?;
        self.serving.check()?;
        self.audit.check()
    }

    /// Where clients reach the server, as a host.
    pub fn advertised(&self) -> IpAddr {
        match (self.advertise_address, self.bind_address) {
            (Some(a), _) => a,
            (None, b) if !b.is_unspecified() => b,
            // The address from which this machine would reach others.
            (None, b) => outbound_address().unwrap_or(b),
        }
    }

    pub fn request_timeout(&self) -> Duration {
        self.request_timeout.0
    }
}

/// The local address of the default route. Connecting a datagram socket sends nothing.
fn outbound_address() -> Option<IpAddr> {
    let s = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    s.connect(("192.0.2.1", 9)).ok()?;
    s.local_addr().ok().map(|a| a.ip()).filter(|a| !a.is_unspecified())
}

/// `--runtime-config`: which groups and versions are served.
#[derive(Debug, Clone, Default)]
pub struct RuntimeConfig(Vec<(String, bool)>);

impl RuntimeConfig {
    pub fn parse(entries: &[String]) -> anyhow::Result<Self> {
        let mut out = Vec::new();
        for e in entries.iter().filter(|e| !e.is_empty()) {
            let (key, value) = e.split_once('=').unwrap_or((e, "true"));
            let on = match value {
                "" | "true" => true,
                "false" => false,
                other => bail!("--runtime-config: {key}={other}: the value must be true or false"),
            };
            let special = matches!(key, "api/all" | "api/ga" | "api/beta" | "api/alpha" | "api/legacy");
            let known = special || key == "v1" || proto::resources().iter().any(|r| key == r.api_version());
            if !known {
                bail!("--runtime-config: {key} is no group and version that this server knows");
            }
            out.push((key.to_owned(), on));
        }
        Ok(Self(out))
    }

    /// Whether a version is served: stable ones are by default, others when asked for. The most specific entry wins.
    pub fn enabled(&self, group: &str, version: &str) -> bool {
        let stage = if version.contains("alpha") {
            "api/alpha"
        } else if version.contains("beta") {
            "api/beta"
        } else {
            "api/ga"
        };
        let exact = proto::resources::api_version(group, version);
        for key in [exact.as_str(), stage, "api/all"] {
            if let Some((_, on)) = self.0.iter().rev().find(|(k, _)| k == key) {
                return *on;
            }
        }
        stage == "api/ga"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_config() {
        let of = |s: &[&str]| RuntimeConfig::parse(&s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let none = of(&[]).expect("empty");
        assert!(none.enabled("apps", "v1") && !none.enabled("resource.k8s.io", "v1beta1"));
        let beta = of(&["api/beta=true", "resource.k8s.io/v1beta1=false"]).expect("beta");
        assert!(beta.enabled("resource.k8s.io", "v1beta2") && !beta.enabled("resource.k8s.io", "v1beta1"));
        assert!(!of(&["apps/v1=false"]).expect("off").enabled("apps", "v1"));
        assert!(of(&["nope/v1=true"]).is_err() && of(&["apps/v1=maybe"]).is_err());
    }

    #[test]
    fn every_flag_of_upstream_is_there() {
        // More secure, or what upstream takes where nothing is given.
        let known = ["anonymous-auth", "authorization-mode", "service-cluster-ip-range"];
        let found = component_base::flags::facts::differences::<Flags>("kube-apiserver", INERT, &known);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn flags() {
        let f = Flags::try_parse_from([
            "kube-apiserver",
            "--secure-port=7",
            "--event-ttl=10m",
            "--allow-privileged",
        ])
        .expect("flags");
        assert_eq!((f.secure_port, f.event_ttl.0.as_secs()), (7, 600));
        assert!(Flags::try_parse_from(["kube-apiserver", "--no-such-flag"]).is_err());
        let of = |args: &[&str]| Flags::try_parse_from(["kube-apiserver"].iter().chain(args)).expect("flags");
        let etcd = of(&[
            "--etcd-servers=http://a:2379,http://b:2379",
            "--etcd-prefix=x",
            "--etcd-compaction-interval=0",
        ]);
        etcd.check().expect("etcd");
        let config = etcd.etcd.config(&etcd.etcd_servers).expect("settings");
        assert_eq!(
            (config.servers.len(), config.prefix.as_str(), config.compaction_interval.as_secs()),
            (2, "x", 0)
        );
        for wrong in [
            &["--etcd-servers=a:2379"][..],
            &["--etcd-servers=http://a", "--etcd-certfile=c"],
            &["--storage-backend=etcd2"],
            &["--etcd-prefix=/elsewhere"],
        ] {
            assert!(of(wrong).check().is_err(), "{wrong:?}");
        }
    }
}
