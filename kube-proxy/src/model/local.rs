//! How to tell whether traffic comes from a pod of this node.

use super::net::{Cidr, Family};

/// What marks traffic of this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalDetector {
    /// Nothing is known: no traffic is taken for local.
    #[default]
    None,
    /// Its source is in one of these ranges.
    Cidrs(Vec<Cidr>),
    /// It comes in through this bridge.
    Bridge(String),
    /// It comes in through an interface whose name begins so.
    Prefix(String),
}

impl LocalDetector {
    fn cidr(cidrs: &[Cidr], family: Family) -> Option<&Cidr> {
        cidrs.iter().find(|c| c.family() == family)
    }

    /// iptables arguments that match local traffic (or, negated, the rest); `None` if nothing can be told.
    #[must_use]
    pub fn iptables(&self, family: Family, negate: bool) -> Option<String> {
        let not = if negate { "! " } else { "" };
        match self {
            Self::None => None,
            Self::Cidrs(c) => Self::cidr(c, family).map(|c| format!("{not}-s {c}")),
            Self::Bridge(name) => Some(format!("{not}-i {name}")),
            Self::Prefix(p) => Some(format!("{not}-i {p}+")),
        }
    }

    /// The same for nftables.
    #[must_use]
    pub fn nftables(&self, family: Family, negate: bool) -> Option<String> {
        let not = if negate { "!= " } else { "" };
        match self {
            Self::None => None,
            Self::Cidrs(c) => {
                let ip = if family == Family::V4 { "ip" } else { "ip6" };
                Self::cidr(c, family).map(|c| format!("{ip} saddr {not}{c}"))
            }
            Self::Bridge(name) => Some(format!("iif {not}{name}")),
            Self::Prefix(p) => Some(format!("iifname {not}\"{p}*\"")),
        }
    }
}
