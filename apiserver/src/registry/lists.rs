//! The answers to lists. A long one is written piece by piece while the client reads it (KEP-5116): what a list takes
//! for itself is one piece, however many objects there are. Short ones, and those that people read, are written at
//! once, so that they have a length.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use proto::envelope;
use serde_json::Value;

use super::render::{self, ListMeta};
use super::resource::Resource;
use super::write::Stored;
use crate::http::negotiate::{Format, Shape, Wanted};
use crate::http::{Body, Response, respond};
use crate::status::ApiResult;
use crate::table;

/// Lists of so many stored bytes are written at once.
const SHORT: usize = 64 * 1024;
/// A piece is sent when it has this size.
const PIECE: usize = 64 * 1024;

/// Writes one object of the list.
type Write = Box<dyn FnMut(&Stored, &mut Vec<u8>) -> ApiResult<()> + Send>;

/// A list that is being written.
struct Pieces {
    head: Vec<u8>,
    items: std::vec::IntoIter<Stored>,
    write: Write,
    separator: &'static [u8],
    tail: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    First,
    More,
    Done,
}

impl Pieces {
    /// The next piece, at least of the given size unless it is the last.
    fn piece(&mut self, size: usize) -> ApiResult<Option<Vec<u8>>> {
        if self.state == State::Done {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(size.min(PIECE) + PIECE / 8);
        if self.state == State::Head {
            out.append(&mut self.head);
            self.state = State::First;
        }
        while out.len() < size {
            let Some(item) = self.items.next() else {
                out.append(&mut self.tail);
                self.state = State::Done;
                break;
            };
            if self.state == State::More {
                out.extend_from_slice(self.separator);
            }
            self.state = State::More;
            (self.write)(&item, &mut out)?;
        }
        Ok(Some(out))
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.piece(PIECE) {
            Ok(piece) => piece.map(|p| Ok(p.into())),
            Err(e) => {
                // The answer has begun: all that can be done is to end it in a way that the client notices.
                tracing::error!(error = %e, "a list could not be written to its end");
                self.state = State::Done;
                Some(Err(io::Error::other(e.message)))
            }
        }
    }
}

/// The answer with a list.
pub fn answer(
    r: &Arc<Resource>,
    items: Vec<Stored>,
    meta: &ListMeta,
    wanted: Wanted,
    include: table::Include,
) -> ApiResult<Response> {
    let items = if matches!(wanted.shape, Shape::Table { .. }) { in_rows(r, items)? } else { items };
    let size: usize = items.iter().map(|s| s.bytes.len()).sum();
    let mut pieces = if wanted.format == Format::Protobuf && !matches!(wanted.shape, Shape::Table { .. }) {
        protobuf(r, items, meta, wanted.shape)?
    } else {
        json(r, items, meta, wanted.shape, include)
    };
    let for_people = wanted.pretty || wanted.format == Format::Yaml;
    let media = wanted.format.media_type();
    if size <= SHORT || for_people {
        let whole = pieces.piece(usize::MAX)?.unwrap_or_default();
        return Ok(match wanted.format {
            Format::Protobuf => respond::bytes(200, media, whole),
            _ => respond::json_text(200, wanted, whole.into()),
        });
    }
    Ok(respond::bytes(200, media, Body::Pieces(Box::new(pieces))))
}

/// Objects in the order of their rows: that of a list, but flow schemas as requests are held against them.
fn in_rows(r: &Arc<Resource>, items: Vec<Stored>) -> ApiResult<Vec<Stored>> {
    if (r.group, r.resource) != ("flowcontrol.apiserver.k8s.io", "flowschemas") {
        return Ok(items);
    }
    let precedence = |s: &Stored| -> ApiResult<i64> {
        let v = render::value(r, s)?;
        Ok(v.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(0))
    };
    let mut ranked: Vec<(i64, Stored)> =
        items.into_iter().map(|s| Ok((precedence(&s)?, s))).collect::<ApiResult<_>>()?;
    // Those of one precedence stay in the order of their names.
    ranked.sort_by_key(|(p, _)| *p);
    Ok(ranked.into_iter().map(|(_, s)| s).collect())
}

fn pieces(head: String, items: Vec<Stored>, write: Write) -> Pieces {
    Pieces {
        head: head.into_bytes(),
        items: items.into_iter(),
        write,
        separator: b",",
        tail: b"]}".to_vec(),
        state: State::Head,
    }
}

fn json(
    r: &Arc<Resource>,
    items: Vec<Stored>,
    meta: &ListMeta,
    shape: Shape,
    include: table::Include,
) -> Pieces {
    let about = meta.to_json(r.custom.is_some() && shape == Shape::Object);
    let r = Arc::clone(r);
    match shape {
        Shape::Object if r.custom.is_some() => {
            // Custom resources say their kind each, and their fields are in the order of their names.
            let head = format!("{{\"apiVersion\":\"{}\",\"items\":[", r.api_version());
            let tail = format!("],\"kind\":\"{}\",\"metadata\":{about}}}", r.list_kind());
            let write: Write = Box::new(|s, out| {
                out.extend_from_slice(&s.bytes);
                Ok(())
            });
            Pieces { tail: tail.into_bytes(), ..pieces(head, items, write) }
        }
        Shape::Object => {
            let version = r.api_version();
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{version}\",\"metadata\":{about},\"items\":[",
                r.kind
            );
            // Items do not repeat kind and apiVersion, with which a rendered object begins.
            let typed = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{version}\",", r.kind);
            let write: Write = Box::new(move |s, out| {
                let one = render::json_once(&r, s)?;
                match one.strip_prefix(typed.as_bytes()) {
                    Some(rest) => {
                        out.push(b'{');
                        out.extend_from_slice(rest);
                    }
                    None => out.extend_from_slice(&one),
                }
                Ok(())
            });
            pieces(head, items, write)
        }
        Shape::Metadata { beta, .. } => {
            let version = render::meta_version(beta);
            let head = format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{version}\",\"metadata\":{about},\"items\":["
            );
            let write: Write = Box::new(move |s, out| {
                value(&render::partial(&render::value(&r, s)?, beta), out);
                Ok(())
            });
            pieces(head, items, write)
        }
        Shape::Table { beta } => {
            let version = render::meta_version(beta);
            let columns = table::columns(&r);
            let head = format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{about},\"columnDefinitions\":{columns},\"rows\":["
            );
            let now = jiff::Timestamp::now();
            let write: Write = Box::new(move |s, out| {
                value(&table::row(&r, &render::value(&r, s)?, beta, include, now), out);
                Ok(())
            });
            pieces(head, items, write)
        }
    }
}

fn value(v: &Value, out: &mut Vec<u8>) {
    // Values serialise, and writing to memory does not fail.
    let _ = serde_json::to_writer(out, v);
}

/// Length of a field with content: key, length, content.
fn field_len(content: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(content as u64) + content
}

/// The length of the whole stands at its beginning, so that every item is looked at twice.
fn protobuf(r: &Arc<Resource>, items: Vec<Stored>, meta: &ListMeta, shape: Shape) -> ApiResult<Pieces> {
    let partial = matches!(shape, Shape::Metadata { .. });
    let (version, kind) = match shape {
        Shape::Metadata { beta, .. } => {
            (render::meta_version(beta).to_owned(), "PartialObjectMetadataList".to_owned())
        }
        _ => (r.api_version(), r.list_kind()),
    };
    let mut length = 0;
    for s in &items {
        length += field_len(render::message(r, s, partial)?.len());
    }
    let empty = envelope::list(&version, &kind, &meta.to_wire(), std::iter::empty());
    let (head, tail) = around(&empty, length);
    let r = Arc::clone(r);
    let write: Write = Box::new(move |s, out| {
        let message = render::message(&r, s, partial)?;
        out.push(0x12);
        prost::encoding::encode_varint(message.len() as u64, out);
        out.extend_from_slice(&message);
        Ok(())
    });
    Ok(Pieces { head, items: items.into_iter(), write, separator: b"", tail, state: State::Head })
}

/// What comes before and after so many bytes of items, made from a list without any.
fn around(empty: &[u8], items: usize) -> (Vec<u8>, Vec<u8>) {
    let Ok(e) = envelope::unwrap(empty) else { return (empty.to_vec(), Vec::new()) };
    let meta = e.raw;
    // The list's message is the field before the last two, which are empty.
    let tail = 4;
    let start = empty.len() - tail - field_len(meta.len());
    let mut head = empty[..start].to_vec();
    head.push(0x12);
    prost::encoding::encode_varint((meta.len() + items) as u64, &mut head);
    head.extend_from_slice(meta);
    (head, empty[empty.len() - tail..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_pieces_are_the_same() {
        let meta = envelope::ListMeta { resource_version: "7".into(), ..Default::default() };
        let items: Vec<Vec<u8>> = (0..300usize).map(|i| vec![0x0a; i]).collect();
        let whole = envelope::list("v1", "PodList", &meta, items.iter().map(Vec::as_slice));
        let length = items.iter().map(|i| field_len(i.len())).sum();
        let (mut out, tail) = around(&envelope::list("v1", "PodList", &meta, std::iter::empty()), length);
        for i in &items {
            out.push(0x12);
            prost::encoding::encode_varint(i.len() as u64, &mut out);
            out.extend_from_slice(i);
        }
        out.extend(tail);
        assert_eq!(out, whole);
    }

    #[test]
    fn pieces_are_bounded_and_complete() {
        let stored = |n: usize| Stored { key: n.to_string(), bytes: Bytes::new(), revision: 0, shared: None };
        let write: Write = Box::new(|s, out| {
            out.extend_from_slice(s.key.as_bytes());
            Ok(())
        });
        let mut p = pieces("[".to_owned(), (0..1000).map(stored).collect(), write);
        let mut all = Vec::new();
        while let Some(piece) = p.piece(100).expect("a piece") {
            assert!(piece.len() < 110);
            all.extend(piece);
        }
        let numbers: Vec<String> = (0..1000).map(|n: usize| n.to_string()).collect();
        assert_eq!(String::from_utf8(all).expect("text"), format!("[{}]}}", numbers.join(",")));
    }
}
