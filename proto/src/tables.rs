//! The generated tables. Nothing but data: see `build.rs` for how it is made from `data/`.

use std::borrow::Cow;

use crate::resources::{Column, Resource, Subresource};
use crate::schema::{
    Field, Gvk, Kind, ListDef, ListType, MapDef, Presence, Slot, Struct, Target, TypeDef, TypeRef,
};

include!(concat!(env!("OUT_DIR"), "/tables.rs"));
