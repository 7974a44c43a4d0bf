//! Services and endpoints as the proxy sees them, and which endpoints a service uses on this node.
//!
//! Everything here is pure: objects are converted at the edge ([`convert`]), [`state`] follows changes, and
//! [`topology`] picks endpoints. The rules for netfilter are made from the result by [`crate::iptables`] and
//! [`crate::nftables`].

pub mod convert;
pub mod local;
pub mod net;
pub mod state;
pub mod topology;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

pub use local::LocalDetector;
pub use net::{Cidr, Family};

/// Namespace and name of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Parses the API's name.
    #[must_use]
    pub fn parse(s: Option<&str>) -> Option<Self> {
        match s {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As netfilter writes it.
    #[must_use]
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// 0 if there is none.
    pub node_port: u16,
}

/// A service, in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub cluster_ip: IpAddr,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    /// Whence the load balancer addresses may be reached; empty for everywhere.
    pub source_ranges: Vec<Cidr>,
    /// Session affinity by client address lasts so many seconds.
    pub sticky: Option<u32>,
    pub internal_local: bool,
    pub external_local: bool,
    /// 0 if there is none.
    pub health_check_node_port: u16,
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Whether something outside the cluster can reach `port`.
    #[must_use]
    pub fn external(&self, port: &ServicePort) -> bool {
        port.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether endpoints on any node are used by some kind of traffic to `port`. Pods on this node reach
    /// external addresses through all endpoints, too.
    #[must_use]
    pub fn uses_cluster(&self, port: &ServicePort) -> bool {
        !self.internal_local || self.external(port)
    }

    /// Whether some kind of traffic to `port` is restricted to endpoints on this node.
    #[must_use]
    pub fn uses_local(&self, port: &ServicePort) -> bool {
        self.internal_local || (self.external_local && self.external(port))
    }
}

/// An address that serves a service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    /// It is on this node.
    pub local: bool,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub zones: BTreeSet<Box<str>>,
    pub nodes: BTreeSet<Box<str>>,
}

impl Endpoint {
    /// `address:port`, as rules write it.
    #[must_use]
    pub fn address(&self) -> String {
        std::net::SocketAddr::new(self.ip, self.port).to_string()
    }
}

/// Which node this is, as far as endpoint choice goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    pub node: Box<str>,
    pub zone: Box<str>,
}

/// `namespace/name:port`, or without the port's name if it has none.
#[must_use]
pub fn port_name(service: &ServiceName, port: &ServicePort) -> String {
    if port.name.is_empty() { service.to_string() } else { format!("{service}:{}", port.name) }
}
