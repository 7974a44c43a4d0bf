//! Who the members are, and how they prove it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use super::super::members::Peer;
use super::proto;
use crate::StoreError;

/// PEM files of a member. The certificate is used as server and as client.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A group of several members.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// This member's name, unique for ever: a member that was removed comes back under another.
    pub name: String,
    /// Where the others reach this member.
    pub listen: SocketAddr,
    /// Name and `host:port` of every member, this one included.
    pub initial: BTreeMap<String, String>,
    /// Whether the group is there already, and has been told of this member.
    pub join: bool,
    /// None only where all traffic stays on the loopback interface.
    pub tls: Option<TlsFiles>,
    /// Bytes a second at which snapshots are sent.
    pub snapshot_rate: u64,
}

/// The number that goes with a name (FNV-1a, 64 bit).
pub fn member_id(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // Zero means nobody, one is the member of a store that was made without a group.
    hash.max(2)
}

impl GroupConfig {
    /// `NAME=HOST:PORT,…`
    pub fn parse_members(list: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let refuse = |what: String| StoreError::Unavailable(what);
        let mut members = BTreeMap::new();
        for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, address) =
                part.split_once('=').ok_or_else(|| refuse(format!("{part:?} is not NAME=HOST:PORT")))?;
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if name.is_empty() || port.is_none() {
                return Err(refuse(format!("{part:?} is not NAME=HOST:PORT")));
            }
            if members.insert(name.to_owned(), address.to_owned()).is_some() {
                return Err(refuse(format!("the member {name} is there twice")));
            }
        }
        Ok(members)
    }

    /// Checks what its parts mean together.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |what: String| Err(StoreError::Unavailable(what));
        if !self.initial.contains_key(&self.name) {
            return refuse(format!("the member {} is not in the list of members", self.name));
        }
        let local = |address: &String| {
            address.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_loopback())
                || address.starts_with("localhost:")
        };
        if self.tls.is_none() && !(self.listen.ip().is_loopback() && self.initial.values().all(local)) {
            return refuse("members that are not all on the loopback interface need certificates".to_owned());
        }
        Ok(())
    }

    /// The members by number. `me`: the number of this one.
    pub fn peers(&self, me: u64) -> BTreeMap<u64, Peer> {
        let id = |name: &String| if *name == self.name { me } else { member_id(name) };
        let peer = |(name, address): (&String, &String)| {
            (id(name), Peer { name: name.clone(), address: address.clone() })
        };
        self.initial.iter().map(peer).collect()
    }

    /// The number of the store that these members make: the same for each of them.
    pub fn store_id(&self) -> u64 {
        let all: Vec<_> = self.initial.iter().map(|(name, address)| format!("{name}={address}")).collect();
        member_id(&all.join(","))
    }
}

/// Whether the group expects this member, which has nothing yet.
pub fn check_expected(config: &GroupConfig, group: &proto::Description) -> Result<(), StoreError> {
    let refuse = |what: String| Err(StoreError::Refused(what));
    let (name, id) = (&config.name, member_id(&config.name));
    if group.removed.contains(&id) {
        return refuse(format!(
            "the member {name} was removed from the store, and a name is used once: add a member of another name \
             (ctl store add) and start this server with that --store-name"
        ));
    }
    let Some(expected) = group.members.iter().find(|m| m.id == id) else {
        let own = config.initial.get(name).map_or("HOST:PORT", String::as_str);
        return refuse(format!(
            "the store does not know a member {name}: tell it first, with ctl store add {name} --address={own}"
        ));
    };
    match config.initial.get(name) {
        Some(own) if *own != expected.address => refuse(format!(
            "the store was told that {name} is reached at {}, but this server's --store-initial-cluster says {own}",
            expected.address
        )),
        _ => Ok(()),
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::Unavailable(format!("reading {}: {e}", path.display())))
}

impl TlsFiles {
    pub fn client(&self) -> Result<ClientTlsConfig, StoreError> {
        let identity = Identity::from_pem(read(&self.cert)?, read(&self.key)?);
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?)).identity(identity))
    }

    pub fn server(&self) -> Result<ServerTlsConfig, StoreError> {
        let identity = Identity::from_pem(read(&self.cert)?, read(&self.key)?);
        Ok(ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(read(&self.ca)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_members() {
        let members = GroupConfig::parse_members("a=10.0.0.1:2380, b=node-b:2380").unwrap();
        assert_eq!(members["b"], "node-b:2380");
        for wrong in ["a", "a=x", "=x:1", "a=x:port", "a=x:1,a=y:2"] {
            assert!(GroupConfig::parse_members(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_joins_must_be_expected() {
        let config = GroupConfig {
            name: "b".to_owned(),
            listen: "127.0.0.1:2".parse().unwrap(),
            initial: GroupConfig::parse_members("a=127.0.0.1:1,b=127.0.0.1:2").unwrap(),
            join: true,
            tls: None,
            snapshot_rate: 1,
        };
        let member = |name: &str, address: &str| proto::Member {
            id: member_id(name),
            name: name.to_owned(),
            address: address.to_owned(),
            learner: true,
        };
        let mut group =
            proto::Description { members: vec![member("a", "127.0.0.1:1")], ..Default::default() };
        let refused = |group: &proto::Description| check_expected(&config, group).unwrap_err().to_string();
        assert!(refused(&group).contains("ctl store add b --address=127.0.0.1:2"));
        group.members.push(member("b", "127.0.0.1:3"));
        assert!(refused(&group).contains("reached at 127.0.0.1:3"));
        group.members[1].address = "127.0.0.1:2".to_owned();
        check_expected(&config, &group).unwrap();
        group.removed.push(member_id("b"));
        assert!(refused(&group).contains("was removed"));
    }

    #[test]
    fn traffic_that_leaves_the_machine_needs_certificates() {
        let config = |list: &str| GroupConfig {
            name: "a".to_owned(),
            listen: "127.0.0.1:1".parse().unwrap(),
            initial: GroupConfig::parse_members(list).unwrap(),
            join: false,
            tls: None,
            snapshot_rate: 1,
        };
        config("a=127.0.0.1:1,b=127.0.0.1:2").check().unwrap();
        assert!(config("a=127.0.0.1:1,b=10.0.0.2:2").check().is_err());
        assert!(config("b=127.0.0.1:2").check().is_err());
    }
}
