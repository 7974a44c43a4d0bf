//! What the watches tell the core.

use std::collections::HashSet;
use std::sync::Arc;

use crate::cache::Budget;
use crate::dra::claims::Shared;
use crate::dra::{Class as DeviceClass, Slice};
use crate::model::volume::{Capacity, Claim, Class, Volume};
use crate::model::{Labels, NodeFacts, PodInfo, Selector, Str};

/// Identity of an object: namespace (empty for cluster-scoped kinds) and name. For pods the name is the UID.
pub type Key = (Str, Str);

/// A change of one kind.
#[derive(Debug)]
pub enum Msg<T> {
    /// New or changed.
    Set(Key, T),
    /// Gone.
    Gone(Key),
    /// The watch began or began again: these exist, all others don't.
    Synced(HashSet<Key>),
}

/// A change of any kind.
#[derive(Debug)]
pub enum Change {
    Pod(Msg<Box<PodInfo>>),
    Node(Msg<Box<NodeFacts>>),
    Namespace(Msg<Labels>),
    Service(Msg<Selector>),
    ReplicaSet(Msg<Selector>),
    StatefulSet(Msg<Selector>),
    ReplicationController(Msg<Selector>),
    Claim(Msg<Box<Claim>>),
    Volume(Msg<Box<Volume>>),
    Class(Msg<Box<Class>>),
    CsiNode(Msg<Vec<(Str, Option<i64>)>>),
    Budget(Msg<Budget>),
    CsiDriver(Msg<bool>),
    Capacity(Msg<Capacity>),
    ResourceClaim(Msg<Shared>),
    ResourceSlice(Msg<Arc<Slice>>),
    DeviceClass(Msg<DeviceClass>),
}

impl Change {
    /// Whether this ends the first listing of a kind.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        fn s<T>(m: &Msg<T>) -> bool {
            matches!(m, Msg::Synced(_))
        }
        match self {
            Self::Pod(m) => s(m),
            Self::Node(m) => s(m),
            Self::Namespace(m) => s(m),
            Self::Service(m)
            | Self::ReplicaSet(m)
            | Self::StatefulSet(m)
            | Self::ReplicationController(m) => s(m),
            Self::Claim(m) => s(m),
            Self::Volume(m) => s(m),
            Self::Class(m) => s(m),
            Self::CsiNode(m) => s(m),
            Self::Budget(m) => s(m),
            Self::CsiDriver(m) => s(m),
            Self::Capacity(m) => s(m),
            Self::ResourceClaim(m) => s(m),
            Self::ResourceSlice(m) => s(m),
            Self::DeviceClass(m) => s(m),
        }
    }
}
