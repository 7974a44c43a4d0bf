//! Chain names, derived as upstream derives them, so that tools and eyes find what they expect.

use sha2::{Digest, Sha256};

pub const SERVICES: &str = "KUBE-SERVICES";
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
pub const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub const FORWARD: &str = "KUBE-FORWARD";
pub const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
pub const CANARY: &str = "KUBE-PROXY-CANARY";
/// Shared with the kubelet: never removed by us.
pub const KUBELET_FIREWALL: &str = "KUBE-FIREWALL";

const SVC: &str = "KUBE-SVC-";
const SVL: &str = "KUBE-SVL-";
const EXT: &str = "KUBE-EXT-";
const FW: &str = "KUBE-FW-";
const SEP: &str = "KUBE-SEP-";

/// The first `len` characters of the base32 form of the SHA-256 of `text`.
#[must_use]
pub fn hash(text: &str, len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let mut out = String::with_capacity(len);
    let (mut bits, mut have) = (0u32, 0u32);
    for byte in digest {
        bits = (bits << 8) | u32::from(byte);
        have += 8;
        while have >= 5 && out.len() < len {
            have -= 5;
            out.push(char::from(ALPHABET[(bits >> have) as usize & 31]));
        }
        bits &= 0xff;
    }
    out
}

/// The chains of one service port. `port` is `namespace/name:port`, `protocol` in lower case.
#[derive(Clone, Debug)]
pub struct ServiceChains {
    pub cluster: String,
    pub local: String,
    pub external: String,
    pub firewall: String,
}

impl ServiceChains {
    #[must_use]
    pub fn new(port: &str, protocol: &str) -> Self {
        let h = hash(&format!("{port}{protocol}"), 16);
        Self {
            cluster: format!("{SVC}{h}"),
            local: format!("{SVL}{h}"),
            external: format!("{EXT}{h}"),
            firewall: format!("{FW}{h}"),
        }
    }
}

/// The chain of one endpoint of a service port.
#[must_use]
pub fn endpoint_chain(port: &str, protocol: &str, address: &str) -> String {
    format!("{SEP}{}", hash(&format!("{port}{protocol}{address}"), 16))
}

/// Whether a chain belongs to a service, and so goes when the service goes.
#[must_use]
pub fn is_service_chain(name: &str) -> bool {
    [SVC, SVL, EXT, FW, SEP].iter().any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_upstream() {
        // As any cluster shows them for the kubernetes service and for cluster DNS.
        assert_eq!(
            ServiceChains::new("default/kubernetes:https", "tcp").cluster,
            "KUBE-SVC-NPX46M4PTMTKRN6Y"
        );
        assert_eq!(
            ServiceChains::new("kube-system/kube-dns:dns", "udp").cluster,
            "KUBE-SVC-TCOU7JCQXEZGVUNU"
        );
        assert_eq!(
            ServiceChains::new("kube-system/kube-dns:dns-tcp", "tcp").cluster,
            "KUBE-SVC-ERIFXISQEP7F7OF4"
        );
        assert_eq!(endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80"), "KUBE-SEP-SXIVWICOYRO3J4NJ");
        assert!(is_service_chain("KUBE-SEP-X") && !is_service_chain("KUBE-SERVICES"));
    }
}
