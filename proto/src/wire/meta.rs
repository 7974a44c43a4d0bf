//! What the server looks at most in an object, read from its bytes without decoding the rest, and the one
//! thing it changes there.

use super::read::{entry, text, timestamp};
use super::{Cursor, Wire, WireError, put_bytes, put_message};
use crate::time::Timestamp;

/// The parts of `metadata` that storage, caches and selectors need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
    /// `metadata.generation`
    pub generation: i64,
    /// `metadata.creationTimestamp`
    pub creation_timestamp: Option<Timestamp>,
    /// `metadata.deletionTimestamp`
    pub deletion_timestamp: Option<Timestamp>,
    /// `metadata.deletionGracePeriodSeconds`
    pub deletion_grace_period_seconds: Option<i64>,
    /// `metadata.labels`, in the order of the bytes (sorted when this crate wrote them).
    pub labels: Vec<(String, String)>,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// `metadata.ownerReferences`
    pub owner_references: Vec<OwnerRef>,
}

/// One owner reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerRef {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Identity of the owner.
    pub uid: String,
    /// The owner that manages the object.
    pub controller: bool,
    /// Foreground deletion of the owner waits for the object.
    pub block_owner_deletion: bool,
}

/// Reads the metadata of an object's message (not of its envelope).
pub fn metadata(raw: &[u8]) -> Result<Metadata, WireError> {
    let mut m = Metadata::default();
    let mut cur = Cursor::new(raw);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => object_meta(w.bytes("metadata")?, &mut m)?,
            // Fields come in order, so nothing more can follow.
            _ => break,
        }
    }
    Ok(m)
}

fn object_meta(bytes: &[u8], m: &mut Metadata) -> Result<(), WireError> {
    let mut cur = Cursor::new(bytes);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => m.name = text(w.bytes("name")?),
            3 => m.namespace = text(w.bytes("namespace")?),
            5 => m.uid = text(w.bytes("uid")?),
            6 => m.resource_version = text(w.bytes("resourceVersion")?),
            7 => m.generation = w.int("generation")?,
            8 => m.creation_timestamp = timestamp(w.bytes("creationTimestamp")?, false)?,
            9 => m.deletion_timestamp = timestamp(w.bytes("deletionTimestamp")?, false)?,
            10 => m.deletion_grace_period_seconds = Some(w.int("deletionGracePeriodSeconds")?),
            11 => {
                let (k, v) = entry("labels", w)?;
                let v = match v {
                    Some(v) => text(v.bytes("labels")?),
                    None => String::new(),
                };
                m.labels.push((text(k), v));
            }
            13 => m.owner_references.push(owner(w)?),
            14 => m.finalizers.push(text(w.bytes("finalizers")?)),
            _ => {}
        }
    }
    Ok(())
}

fn owner(w: Wire<'_>) -> Result<OwnerRef, WireError> {
    let mut o = OwnerRef::default();
    let mut cur = Cursor::new(w.bytes("ownerReferences")?);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => o.kind = text(w.bytes("kind")?),
            3 => o.name = text(w.bytes("name")?),
            4 => o.uid = text(w.bytes("uid")?),
            5 => o.api_version = text(w.bytes("apiVersion")?),
            6 => o.controller = w.int("controller")? != 0,
            7 => o.block_owner_deletion = w.int("blockOwnerDeletion")? != 0,
            _ => {}
        }
    }
    Ok(o)
}

/// The same object's message with `metadata.resourceVersion` set to `version`.
pub fn with_resource_version(raw: &[u8], version: &str) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(raw.len() + version.len() + 8);
    let mut cur = Cursor::new(raw);
    let mut copied = 0;
    let mut done = false;
    while !done {
        let before = cur.pos();
        match cur.next()? {
            Some((1, w)) => {
                out.extend_from_slice(&raw[copied..before]);
                let meta = w.bytes("metadata")?;
                put_message(1, &mut out, |out| set_version(meta, version, out))?;
                copied = cur.pos();
                done = true;
            }
            Some(_) => {}
            None => {
                put_message(1, &mut out, |out| set_version(&[], version, out))?;
                done = true;
            }
        }
    }
    out.extend_from_slice(&raw[copied..]);
    Ok(out)
}

fn set_version(meta: &[u8], version: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut cur = Cursor::new(meta);
    let mut written = false;
    loop {
        let before = cur.pos();
        let next = cur.next()?;
        if !written && next.as_ref().is_none_or(|(tag, _)| *tag >= 6) {
            put_bytes(6, version.as_bytes(), out);
            written = true;
        }
        match next {
            Some((6, _)) => {}
            Some(_) => out.extend_from_slice(&meta[before..cur.pos()]),
            None => return Ok(()),
        }
    }
}
