//! Between the wire's types and the engine's.

use raft::eraftpb::Message;

use super::super::apply::Outcome;
use super::super::core::{NOT_LEADING, not_leading};
use super::super::members::Peer;
use super::super::node::Description;
use super::proto;
use crate::{KeyValue, StoreError, TxnResult};

/// Raft's message as bytes.
pub fn encode(message: &Message) -> Option<bytes::Bytes> {
    protobuf::Message::write_to_bytes(message).ok().map(bytes::Bytes::from)
}

/// Raft's message of bytes.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let mut message = Message::default();
    protobuf::Message::merge_from_bytes(&mut message, bytes).ok()?;
    Some(message)
}

pub fn outcome_to_wire(outcome: Outcome) -> proto::Outcome {
    use proto::outcome::Kind;
    let plain = |kind: Kind| proto::Outcome { kind: kind.into(), ..proto::Outcome::default() };
    match outcome {
        Ok(TxnResult::Done(revision)) => proto::Outcome { revision, ..plain(Kind::Done) },
        Ok(TxnResult::Conflict(there)) => proto::Outcome {
            there: there.map(|kv| proto::KeyValue {
                key: kv.key,
                value: kv.value,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
            }),
            ..plain(Kind::Conflict)
        },
        Err(StoreError::Compacted { requested, oldest }) => {
            proto::Outcome { revision: requested, bound: oldest, ..plain(Kind::Compacted) }
        }
        Err(StoreError::Future { requested, current }) => {
            proto::Outcome { revision: requested, bound: current, ..plain(Kind::Future) }
        }
        Err(StoreError::Unavailable(message)) if message == NOT_LEADING => plain(Kind::NotLeading),
        Err(StoreError::Unavailable(message)) => proto::Outcome { message, ..plain(Kind::Unavailable) },
        Err(StoreError::Unknown(message)) => {
            proto::Outcome { message, unknown: true, ..plain(Kind::Unavailable) }
        }
        Err(e) => proto::Outcome { message: e.to_string(), ..plain(Kind::Unavailable) },
    }
}

pub fn outcome_of_wire(o: proto::Outcome) -> Outcome {
    use proto::outcome::Kind;
    match o.kind() {
        Kind::Done => Ok(TxnResult::Done(o.revision)),
        Kind::Conflict => Ok(TxnResult::Conflict(o.there.map(|kv| KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
        }))),
        Kind::NotLeading => Err(not_leading()),
        Kind::Compacted => Err(StoreError::Compacted { requested: o.revision, oldest: o.bound }),
        Kind::Future => Err(StoreError::Future { requested: o.revision, current: o.bound }),
        Kind::Unavailable if o.unknown => Err(StoreError::Unknown(o.message)),
        Kind::Unavailable => Err(StoreError::Unavailable(o.message)),
    }
}

/// Number, name and address of each member that a description tells of.
pub fn told(d: &proto::Description) -> std::collections::BTreeMap<u64, Peer> {
    let peer = |m: &proto::Member| (m.id, Peer { name: m.name.clone(), address: m.address.clone() });
    d.members.iter().map(peer).collect()
}

pub fn members(d: &Description) -> Vec<proto::Member> {
    let member = |(id, peer): (&u64, &Peer)| proto::Member {
        id: *id,
        name: peer.name.clone(),
        address: peer.address.clone(),
        learner: d.members.learners().contains(id),
    };
    d.members.peers().iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back() {
        let kv = KeyValue {
            key: "/a".into(),
            value: bytes::Bytes::from_static(b"v"),
            create_revision: 3,
            mod_revision: 4,
        };
        for outcome in [
            Ok(TxnResult::Done(7)),
            Ok(TxnResult::Conflict(None)),
            Ok(TxnResult::Conflict(Some(kv))),
            Err(StoreError::Compacted { requested: 1, oldest: 2 }),
            Err(StoreError::Future { requested: 3, current: 2 }),
            Err(StoreError::Unavailable("why".into())),
            Err(StoreError::Unknown("why".into())),
            Err(not_leading()),
        ] {
            let back = outcome_of_wire(outcome_to_wire(outcome.clone()));
            assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
        }
    }
}
