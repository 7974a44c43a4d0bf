//! What a backend reports, and the choice between backends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::state::State;
use crate::model::{Family, Here, LocalDetector, ServiceName};
use crate::{iptables, nftables};

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything was written anew.
    pub full: bool,
    /// Rules (or elements) written or deleted.
    pub written: usize,
    /// Rules of services now installed.
    pub total: usize,
}

/// A proxier of one family.
pub enum Backend {
    Iptables(iptables::backend::Backend),
    Nftables(nftables::backend::Backend),
}

impl Backend {
    /// Brings the kernel in line with `state`, of which `dirty` services changed.
    ///
    /// # Errors
    /// A tool failed.
    pub async fn sync(&mut self, state: &State, dirty: &BTreeSet<ServiceName>) -> anyhow::Result<Outcome> {
        match self {
            Self::Iptables(b) => b.sync(state, dirty).await,
            Self::Nftables(b) => b.sync(state, dirty).await,
        }
    }

    /// Whether our rules are still there.
    pub async fn alive(&self) -> bool {
        match self {
            Self::Iptables(b) => b.canary_lives().await,
            Self::Nftables(b) => b.alive().await,
        }
    }

    /// The next sync writes everything.
    pub fn force_full(&mut self) {
        match self {
            Self::Iptables(b) => b.force_full(),
            Self::Nftables(b) => b.force_full(),
        }
    }

    /// What rules depend on besides services.
    pub fn set_node(
        &mut self,
        here: &Here,
        detector: &LocalDetector,
        node_ips: Vec<IpAddr>,
        node_port_ips: Option<Vec<IpAddr>>,
    ) {
        match self {
            Self::Iptables(b) => {
                let c = b.config_mut();
                c.here.clone_from(here);
                c.detector.clone_from(detector);
                (c.node_ips, c.node_port_ips) = (node_ips, node_port_ips);
            }
            Self::Nftables(b) => {
                let c = b.config_mut();
                c.here.clone_from(here);
                c.detector.clone_from(detector);
                (c.node_ips, c.node_port_ips) = (node_ips, node_port_ips);
            }
        }
    }
}

/// Address families with their names for logs.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
