//! Who belongs to the group: raft's configuration, and name and address of each member. Kept in the applied state,
//! changed by entries of the log, one at a time.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use super::codec::{Malformed, Reader, put_bytes, put_int};
use crate::StoreError;

/// Key of [`Members`] in the applied state.
pub const MEMBERS: &[u8] = b"c";

/// One member, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub name: String,
    /// `host:port` of its peer listener.
    pub address: String,
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member, which receives everything and does not vote yet.
    Add {
        id: u64,
        peer: Peer,
    },
    /// A learner begins to vote.
    Promote {
        id: u64,
    },
    Remove {
        id: u64,
    },
}

impl Change {
    pub fn conf_change(&self) -> ConfChangeV2 {
        let (kind, id) = match self {
            Change::Add { id, .. } => (ConfChangeType::AddLearnerNode, *id),
            Change::Promote { id } => (ConfChangeType::AddNode, *id),
            Change::Remove { id } => (ConfChangeType::RemoveNode, *id),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id;
        let mut cc = ConfChangeV2::default();
        cc.changes.push(single);
        cc
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Change::Add { id, peer } => {
                out.push(1);
                put_int(&mut out, *id);
                put_bytes(&mut out, peer.name.as_bytes());
                put_bytes(&mut out, peer.address.as_bytes());
            }
            Change::Promote { id } => {
                out.push(2);
                put_int(&mut out, *id);
            }
            Change::Remove { id } => {
                out.push(3);
                put_int(&mut out, *id);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Change, Malformed> {
        let mut r = Reader::new(bytes);
        Ok(match r.byte()? {
            1 => {
                let id = r.int()?;
                Change::Add { id, peer: Peer { name: r.str()?.to_owned(), address: r.str()?.to_owned() } }
            }
            2 => Change::Promote { id: r.int()? },
            3 => Change::Remove { id: r.int()? },
            _ => return Err(Malformed),
        })
    }
}

/// The group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Members {
    conf: ConfState,
    peers: BTreeMap<u64, Peer>,
    /// Members of former times: their numbers are never given again.
    removed: Vec<u64>,
}

impl Members {
    /// A group of voters.
    pub fn new(peers: BTreeMap<u64, Peer>) -> Members {
        let conf = ConfState { voters: peers.keys().copied().collect(), ..ConfState::default() };
        Members { conf, peers, removed: Vec::new() }
    }

    /// A group known by its voters' numbers only.
    pub fn of_voters(voters: &[u64]) -> Members {
        Members::new(voters.iter().map(|id| (*id, Peer::default())).collect())
    }

    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    pub fn voters(&self) -> &[u64] {
        &self.conf.voters
    }

    pub fn learners(&self) -> &[u64] {
        &self.conf.learners
    }

    pub fn peers(&self) -> &BTreeMap<u64, Peer> {
        &self.peers
    }

    pub fn removed(&self) -> &[u64] {
        &self.removed
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// Takes raft's configuration.
    pub fn set_conf(&mut self, conf: &ConfState) {
        self.conf = conf.clone();
        // A `BTreeMap` in raft hands them out in no order.
        self.conf.voters.sort_unstable();
        self.conf.learners.sort_unstable();
    }

    /// Gives addresses to members that have none: those of a first start come from flags.
    pub fn complete(&mut self, known: &BTreeMap<u64, Peer>) {
        for (id, peer) in known {
            if let Some(there) = self.peers.get_mut(id)
                && there.address.is_empty()
            {
                there.clone_from(peer);
            }
        }
    }

    /// Takes what raft does not know.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Add { id, peer } => {
                self.peers.insert(*id, peer.clone());
            }
            Change::Promote { .. } => {}
            Change::Remove { id } => {
                self.peers.remove(id);
                self.removed.push(*id);
            }
        }
    }

    /// Refuses a change that makes no sense, or would leave nobody to vote.
    pub fn check(&self, change: &Change) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Refused(why));
        match change {
            Change::Add { id, .. } if self.is_removed(*id) => {
                refuse(format!("member {id:016x} was removed; a member returns as a new one"))
            }
            Change::Add { id, .. } if self.peers.contains_key(id) => {
                refuse(format!("member {id:016x} is there already"))
            }
            Change::Add { peer, .. } if self.peers.values().any(|p| p.address == peer.address) => {
                refuse(format!("a member with the address {} is there already", peer.address))
            }
            Change::Add { peer, .. } if self.peers.values().any(|p| p.name == peer.name) => {
                refuse(format!("a member of the name {} is there already", peer.name))
            }
            Change::Promote { id } if !self.conf.learners.contains(id) => {
                refuse(format!("member {id:016x} is no learner"))
            }
            Change::Remove { id } if !self.peers.contains_key(id) => {
                refuse(format!("there is no member {id:016x}"))
            }
            Change::Remove { id } if self.conf.voters == [*id] => {
                refuse("the only member that votes cannot be removed".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let c = &self.conf;
        for list in [&c.voters, &c.learners, &c.voters_outgoing, &c.learners_next, &self.removed] {
            put_int(&mut out, list.len() as u64);
            for v in list {
                put_int(&mut out, *v);
            }
        }
        out.push(u8::from(c.auto_leave));
        put_int(&mut out, self.peers.len() as u64);
        for (id, peer) in &self.peers {
            put_int(&mut out, *id);
            put_bytes(&mut out, peer.name.as_bytes());
            put_bytes(&mut out, peer.address.as_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Members, Malformed> {
        let mut r = Reader::new(bytes);
        let list =
            |r: &mut Reader<'_>| -> Result<Vec<u64>, Malformed> { (0..r.int()?).map(|_| r.int()).collect() };
        let conf = ConfState {
            voters: list(&mut r)?,
            learners: list(&mut r)?,
            voters_outgoing: list(&mut r)?,
            learners_next: list(&mut r)?,
            ..ConfState::default()
        };
        let removed = list(&mut r)?;
        let conf = ConfState { auto_leave: r.byte()? != 0, ..conf };
        let mut peers = BTreeMap::new();
        for _ in 0..r.int()? {
            let id = r.int()?;
            peers.insert(id, Peer { name: r.str()?.to_owned(), address: r.str()?.to_owned() });
        }
        Ok(Members { conf, peers, removed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u64) -> Peer {
        Peer { name: format!("m{n}"), address: format!("10.0.0.{n}:2380") }
    }

    #[test]
    fn members_and_changes_come_back() {
        let mut members = Members::new([(1, peer(1)), (2, peer(2))].into());
        members.note(&Change::Add { id: 7, peer: peer(7) });
        members.note(&Change::Remove { id: 2 });
        let conf = ConfState { voters: vec![1], learners: vec![7], ..ConfState::default() };
        members.set_conf(&conf);
        assert_eq!(Members::decode(&members.encode()).unwrap(), members);
        for change in
            [Change::Add { id: 7, peer: peer(7) }, Change::Promote { id: 7 }, Change::Remove { id: 1 }]
        {
            assert_eq!(Change::decode(&change.encode()), Ok(change));
        }
        let bytes = members.encode();
        for cut in 0..bytes.len() {
            assert_eq!(Members::decode(&bytes[..cut]), Err(Malformed));
        }
    }

    #[test]
    fn senseless_changes_are_refused() {
        let mut members = Members::new([(1, peer(1)), (2, peer(2))].into());
        members.note(&Change::Remove { id: 2 });
        members.set_conf(&ConfState { voters: vec![1], ..ConfState::default() });
        let refused = |change: Change| members.check(&change).unwrap_err().to_string();
        assert!(refused(Change::Add { id: 2, peer: peer(2) }).contains("was removed"));
        assert!(refused(Change::Add { id: 1, peer: peer(3) }).contains("there already"));
        assert!(refused(Change::Add { id: 3, peer: peer(1) }).contains("10.0.0.1:2380"));
        assert!(refused(Change::Promote { id: 1 }).contains("no learner"));
        assert!(refused(Change::Remove { id: 1 }).contains("only member"));
        members.check(&Change::Add { id: 3, peer: peer(3) }).unwrap();
    }
}
