//! Values of the libraries: addresses, URLs, quantities, versions, formats, and what an `authorizer` gives.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::quantity::Quantity;

use super::authority::{Decided, PathCheck, ResourceCheck, Subject};
use super::library::format::Format;
use super::semver::Version;
use super::types::names;
use super::url::Url;
use super::value::{EvalError, EvalResult};

/// A value that only functions can look into.
#[derive(Debug, Clone)]
pub enum Native {
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Url),
    Quantity(Quantity),
    Semver(Version),
    Format(&'static Format),
    Authorizer(Arc<dyn Subject>),
    PathCheck(PathCheck),
    /// An API group that is about to be asked about.
    GroupCheck(Arc<dyn Subject>, Arc<str>),
    ResourceCheck(ResourceCheck),
    Decision(Decided),
}

impl Native {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Ip(_) => names::IP,
            Self::Cidr(..) => names::CIDR,
            Self::Url(_) => names::URL,
            Self::Quantity(_) => names::QUANTITY,
            Self::Semver(_) => names::SEMVER,
            Self::Format(_) => names::FORMAT,
            Self::Authorizer(_) => names::AUTHORIZER,
            Self::PathCheck(_) => names::PATH_CHECK,
            Self::GroupCheck(..) => names::GROUP_CHECK,
            Self::ResourceCheck(_) => names::RESOURCE_CHECK,
            Self::Decision(_) => names::DECISION,
        }
    }

    /// Size as costs reckon it: the bytes of an address; 1 otherwise.
    pub fn cost_size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(_, bits) => u64::from(bits.div_ceil(8)),
            _ => 1,
        }
    }
}

impl PartialEq for Native {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, m), Self::Cidr(b, n)) => a == b && m == n,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.precedence(b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Decision(a), Self::Decision(b)) => a == b,
            // Two authorizers, or checks of theirs, are nobody's idea of equal.
            _ => false,
        }
    }
}

/// The bytes of base64 text.
pub fn from_base64(s: &str) -> Option<Vec<u8>> {
    STANDARD.decode(s).ok()
}

/// The base64 text of bytes.
pub fn to_base64(b: &[u8]) -> String {
    STANDARD.encode(b)
}

/// A quantity from its text.
pub fn quantity<'a>(s: &str) -> EvalResult<'a> {
    let q: Quantity = s.parse().map_err(|e: proto::quantity::Error| EvalError::new(e.to_string()))?;
    Ok(Native::Quantity(q).into())
}
