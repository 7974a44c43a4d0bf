//! Command-line flags, merged with the configuration file into [`Settings`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use component_base::duration::GoDuration;
use component_base::logs::LogFlags;
use component_base::metrics::{Choice, MetricsFlags};

use crate::config::{self, Configuration};

/// The flags of upstream that have no effect (see [`component_base::flags`]).
pub const INERT: &str = include_str!("flags.txt");

/// The Kubernetes scheduler: decides on which node each pod runs.
#[derive(Debug, Parser)]
#[command(name = "kube-scheduler", version = component_base::version::GIT_VERSION, disable_version_flag = true)]
pub struct Flags {
    /// The path to the configuration file (KubeSchedulerConfiguration)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub metrics: MetricsFlags,
    /// Serve /debug/pprof/: memory, tasks and threads of this process; --config says it by enableProfiling
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: Option<bool>,
    /// Write the configuration in use to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Kubeconfig file with authorization and API server location; ignored if --config names one
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// The IP address on which to listen for --secure-port
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS; 0 switches it off
    #[arg(long, value_name = "PORT", default_value_t = 10259)]
    pub secure_port: u16,
    /// The directory where TLS certificates are located, as kube-scheduler.crt and kube-scheduler.key
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// File with the x509 certificate for HTTPS
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// File with the private key of --tls-cert-file
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Authorities whose client certificates are accepted
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Kubeconfig for TokenReview requests
    #[arg(long, value_name = "FILE")]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig for SubjectAccessReview requests
    #[arg(long, value_name = "FILE")]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Start a leader election client and gain leadership before scheduling
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: Option<bool>,
    /// How long non-leaders wait before they take over from a leader that does not renew
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_lease_duration: Option<GoDuration>,
    /// How long the leader tries to renew before it stops
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_renew_deadline: Option<GoDuration>,
    /// How long to wait between tries to acquire or renew
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_retry_period: Option<GoDuration>,
    /// The type of the lock object: leases
    #[arg(long, value_name = "TYPE")]
    pub leader_elect_resource_lock: Option<String>,
    /// The name of the lock object
    #[arg(long, value_name = "NAME")]
    pub leader_elect_resource_name: Option<String>,
    /// The namespace of the lock object
    #[arg(long, value_name = "NAMESPACE")]
    pub leader_elect_resource_namespace: Option<String>,
    /// QPS to use while talking with the API server
    #[arg(long, value_name = "QPS")]
    pub kube_api_qps: Option<f32>,
    /// Burst to use while talking with the API server
    #[arg(long, value_name = "BURST")]
    pub kube_api_burst: Option<i32>,
    #[command(flatten)]
    pub logs: LogFlags,
    /// Print version information and quit
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Everything the scheduler needs to know to run.
#[derive(Debug)]
pub struct Settings {
    pub config: Configuration,
    pub kubeconfig: PathBuf,
    /// Where to serve HTTPS.
    pub serve: Option<SocketAddr>,
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<PathBuf>,
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Which metrics are shown.
    pub metrics: Choice,
}

impl Flags {
    /// Reads the configuration file, lets flags override it, and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong with flags and file.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut c: Configuration = match &self.config {
            Some(path) => component_base::config::load(path, config::VERSIONS, config::KIND)?,
            None => Configuration::default(),
        };
        c.set_defaults();
        if let Some(on) = self.profiling.filter(|_| self.config.is_none()) {
            c.enable_profiling = Some(on);
        }
        c.pass_over_managed();
        let set = |to: &mut GoDuration, from: Option<GoDuration>| {
            if let Some(v) = from {
                *to = v;
            }
        };
        let l = &mut c.leader_election;
        l.leader_elect = self.leader_elect.unwrap_or(l.leader_elect);
        set(&mut l.lease_duration, self.leader_elect_lease_duration);
        set(&mut l.renew_deadline, self.leader_elect_renew_deadline);
        set(&mut l.retry_period, self.leader_elect_retry_period);
        let name = |to: &mut String, from: &Option<String>| {
            if let Some(v) = from {
                to.clone_from(v);
            }
        };
        name(&mut l.resource_lock, &self.leader_elect_resource_lock);
        name(&mut l.resource_name, &self.leader_elect_resource_name);
        name(&mut l.resource_namespace, &self.leader_elect_resource_namespace);
        if self.config.is_none() {
            c.client_connection.qps = self.kube_api_qps.unwrap_or(c.client_connection.qps);
            c.client_connection.burst = self.kube_api_burst.unwrap_or(c.client_connection.burst);
        }
        let problems = c.problems();
        if !problems.is_empty() {
            anyhow::bail!("invalid configuration: {}", problems.join("; "));
        }
        if self.master.is_some() {
            anyhow::bail!("--master is not supported: put the API server's address into the kubeconfig file");
        }
        let kubeconfig = match (c.client_connection.kubeconfig.as_str(), &self.kubeconfig) {
            ("", Some(path)) => path.clone(),
            ("", None) => anyhow::bail!(
                "no kubeconfig: give --kubeconfig, or clientConnection.kubeconfig in the file of --config"
            ),
            (path, _) => path.into(),
        };
        let certificate = match (&self.tls_cert_file, &self.tls_private_key_file, &self.cert_dir) {
            (Some(c), Some(k), _) => Some((c.clone(), k.clone())),
            (None, None, Some(dir)) => {
                let pair = (dir.join("kube-scheduler.crt"), dir.join("kube-scheduler.key"));
                (pair.0.exists() && pair.1.exists()).then_some(pair)
            }
            (None, None, None) => None,
            _ => anyhow::bail!("--tls-cert-file and --tls-private-key-file must be given together"),
        };
        Ok(Settings {
            config: c,
            kubeconfig,
            serve: (self.secure_port != 0).then(|| SocketAddr::new(self.bind_address, self.secure_port)),
            certificate,
            client_ca: self.client_ca_file.clone(),
            authorization_kubeconfig: self
                .authorization_kubeconfig
                .clone()
                .or_else(|| self.authentication_kubeconfig.clone()),
            metrics: self.metrics.choice()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use component_base::flags::facts;

    use super::*;

    #[test]
    fn every_flag_of_upstream_is_there() {
        assert_eq!(facts::differences::<Flags>("kube-scheduler", INERT, &[]), [""; 0]);
    }
}
