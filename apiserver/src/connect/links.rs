//! Links in what proxied servers answer: they believe to be at the root of their address, but the client sees them
//! below `…/proxy`. Absolute paths in `Location` and in the links of HTML pages get that prefix, as upstream does.
//!
//! Pages are rewritten while they pass, a tag at a time; what is not understood goes on as it came. A whole HTML
//! rewriter as a dependency would bring a CSS engine for the few attributes that matter here.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;

use crate::http::Body;

/// A tag longer than this goes on as it is.
const MAX_TAG: usize = 64 << 10;

/// Elements whose content is no markup.
const RAW: [&str; 8] = ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// How the client and the server see one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the proxy as the client sees it, without a slash at the end.
    pub prefix: String,
    /// `HOST:PORT` of the server.
    pub server: String,
    /// The host that the client asked.
    pub client: String,
}

impl Place {
    /// The link as the client has to see it; none where it is right as it is.
    fn seen(&self, link: &str) -> Option<String> {
        let authority = match link.strip_prefix("//") {
            Some(rest) => Some(rest),
            None => link.split_once("://").filter(|(s, _)| is_scheme(s)).map(|(_, rest)| rest),
        };
        let (origin, rest) = match authority {
            Some(after) => {
                let host = after.split(['/', '?', '#']).next().unwrap_or_default();
                if !host.is_empty() && host != self.server && host != self.client {
                    return None;
                }
                let at = link.len() - after.len() + host.len();
                // The client's own address stays; the server's is of no use to it.
                (if host == self.client { &link[..at] } else { "" }, &link[at..])
            }
            None => ("", link),
        };
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if !path.starts_with('/') {
            return None;
        }
        let tail = &rest[path.len()..];
        let path = if path.starts_with(&self.prefix) { path.to_owned() } else { join(&self.prefix, path) };
        Some(format!("{origin}{path}{tail}")).filter(|new| new != link)
    }

    /// Puts the headers of an answer right.
    pub fn headers(&self, headers: &mut HeaderMap) {
        let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
        if let Some(new) = location.and_then(|l| self.seen(l)).and_then(|l| HeaderValue::from_str(&l).ok()) {
            headers.insert(header::LOCATION, new);
        }
    }

    /// Puts the links of a page right, while it passes. Other content, and compression that is not known, is left
    /// alone.
    pub fn body(self, headers: &mut HeaderMap, body: Incoming) -> Body {
        let text = |h| headers.get(h).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default().trim();
        let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        let page = kind == "text/html" && !headers.contains_key(header::LOCATION);
        let coding = match text(header::CONTENT_ENCODING) {
            _ if !page => None,
            "" => Some(Coding::Plain),
            "gzip" => Some(Coding::Gzip(
                Box::new(GzDecoder::new(Vec::new())),
                GzEncoder::new(Vec::new(), Compression::default()),
            )),
            "deflate" => Some(Coding::Deflate(
                DeflateDecoder::new(Vec::new()),
                DeflateEncoder::new(Vec::new(), Compression::default()),
            )),
            _ => None,
        };
        let Some(coding) = coding else {
            return Body::Boxed(body.map_err(std::io::Error::other).boxed_unsync());
        };
        headers.remove(header::CONTENT_LENGTH);
        let state = Some((body, coding, Links::new(self)));
        let frames = futures::stream::try_unfold(state, |state| async move {
            let Some((mut body, mut coding, mut links)) = state else { return Ok(None) };
            loop {
                let Some(frame) = body.frame().await.transpose().map_err(std::io::Error::other)? else {
                    let rest = coding.finish(&mut links)?;
                    return Ok::<_, std::io::Error>(Some((rest, None)));
                };
                if let Ok(data) = frame.into_data() {
                    let out = coding.pass(&data, &mut links)?;
                    if !out.is_empty() {
                        return Ok(Some((out, Some((body, coding, links)))));
                    }
                }
            }
        });
        let frames = frames.map_ok(|data| Frame::data(Bytes::from(data)));
        Body::Boxed(StreamBody::new(frames).boxed_unsync())
    }
}

/// Whether `s` can be the scheme of a URL.
fn is_scheme(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `path` below `prefix`, without dots and doubled slashes, and never above the root.
fn join(prefix: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

/// How a page is compressed: what takes it apart and what puts it together again.
enum Coding {
    Plain,
    Gzip(Box<GzDecoder<Vec<u8>>>, GzEncoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>, DeflateEncoder<Vec<u8>>),
}

impl Coding {
    fn pass(&mut self, data: &[u8], links: &mut Links) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Plain => links.feed(data, &mut out),
            Self::Gzip(from, to) => {
                // In small steps, so that little input cannot become much memory at once.
                for part in data.chunks(1024) {
                    from.write_all(part)?;
                    let plain = std::mem::take(from.get_mut());
                    let mut page = Vec::new();
                    links.feed(&plain, &mut page);
                    to.write_all(&page)?;
                }
                out = std::mem::take(to.get_mut());
            }
            Self::Deflate(from, to) => {
                for part in data.chunks(1024) {
                    from.write_all(part)?;
                    let plain = std::mem::take(from.get_mut());
                    let mut page = Vec::new();
                    links.feed(&plain, &mut page);
                    to.write_all(&page)?;
                }
                out = std::mem::take(to.get_mut());
            }
        }
        Ok(out)
    }

    fn finish(self, links: &mut Links) -> std::io::Result<Vec<u8>> {
        let mut page = Vec::new();
        match self {
            Self::Plain => {
                links.end(&mut page);
                Ok(page)
            }
            Self::Gzip(from, mut to) => {
                links.feed(&from.finish()?, &mut page);
                links.end(&mut page);
                to.write_all(&page)?;
                to.finish()
            }
            Self::Deflate(from, mut to) => {
                links.feed(&from.finish()?, &mut page);
                links.end(&mut page);
                to.write_all(&page)?;
                to.finish()
            }
        }
    }
}

/// Rewrites a page that comes in pieces.
struct Links {
    place: Place,
    /// The beginning of a tag whose end has not come yet.
    held: Vec<u8>,
    /// Inside this element, whose content is no markup.
    raw: Option<&'static str>,
}

/// What begins at a `<`.
enum Piece {
    /// Not all of it is there.
    Partial,
    /// So many bytes that stay as they are.
    Other(usize),
    /// A start tag of so many bytes.
    Tag(usize),
}

impl Links {
    fn new(place: Place) -> Self {
        Self { place, held: Vec::new(), raw: None }
    }

    fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(data);
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            if let Some(tag) = self.raw {
                match find_end_tag(rest, tag) {
                    Some(at) => {
                        out.extend_from_slice(&rest[..at]);
                        rest = &rest[at..];
                        self.raw = None;
                    }
                    None => {
                        // Its end tag may begin in the last bytes.
                        let keep = rest.len().min(tag.len() + 1);
                        out.extend_from_slice(&rest[..rest.len() - keep]);
                        rest = &rest[rest.len() - keep..];
                        break;
                    }
                }
                continue;
            }
            let Some(at) = rest.iter().position(|b| *b == b'<') else {
                out.extend_from_slice(rest);
                return;
            };
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            match piece(rest) {
                Piece::Partial if rest.len() < MAX_TAG => break,
                Piece::Partial => {
                    out.push(b'<');
                    rest = &rest[1..];
                }
                Piece::Other(n) => {
                    out.extend_from_slice(&rest[..n]);
                    rest = &rest[n..];
                }
                Piece::Tag(n) => {
                    self.tag(&rest[..n], out);
                    rest = &rest[n..];
                }
            }
        }
        self.held = rest.to_vec();
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// One start tag, from `<` to `>`.
    fn tag(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        let name_end = tag.iter().skip(1).position(|b| ends_name(*b)).map_or(tag.len(), |n| n + 1);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        self.raw = RAW.iter().copied().find(|r| *r == name);
        let links = link_attributes(&name);
        let mut done = 0;
        let mut at = name_end;
        while let Some((attribute, value)) = next_attribute(tag, &mut at) {
            let attribute = String::from_utf8_lossy(&tag[attribute]).to_ascii_lowercase();
            if !links.contains(&attribute.as_str()) {
                continue;
            }
            let Ok(text) = std::str::from_utf8(&tag[value.clone()]) else { continue };
            let Some(new) = self.place.seen(&text.replace("&amp;", "&")) else { continue };
            let mark = tag[value.start - 1];
            let bare = !matches!(mark, b'"' | b'\'');
            out.extend_from_slice(&tag[done..value.start]);
            let new = new.replace('&', "&amp;");
            let new = if mark == b'\'' { new.replace('\'', "&#39;") } else { new.replace('"', "&#34;") };
            let around: &[u8] = if bare { b"\"" } else { b"" };
            out.extend_from_slice(around);
            out.extend_from_slice(new.as_bytes());
            out.extend_from_slice(around);
            done = value.end;
        }
        out.extend_from_slice(&tag[done..]);
    }
}

fn ends_name(b: u8) -> bool {
    b.is_ascii_whitespace() || matches!(b, b'/' | b'>')
}

/// The next attribute of a tag and its value, as ranges; attributes without value are passed over.
fn next_attribute(tag: &[u8], at: &mut usize) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let skip = |at: &mut usize, f: &dyn Fn(u8) -> bool| {
        while tag.get(*at).is_some_and(|b| f(*b)) {
            *at += 1;
        }
    };
    loop {
        skip(at, &|b| b.is_ascii_whitespace() || b == b'/');
        let start = *at;
        skip(at, &|b| b != b'=' && !ends_name(b));
        let name = start..*at;
        skip(at, &|b| b.is_ascii_whitespace());
        match tag.get(*at)? {
            b'=' => {}
            b'>' => return None,
            // A name alone.
            _ => continue,
        }
        *at += 1;
        skip(at, &|b| b.is_ascii_whitespace());
        let value = match tag.get(*at)? {
            q @ (b'"' | b'\'') => {
                let start = *at + 1;
                let end = start + tag[start..].iter().position(|b| b == q)?;
                *at = end + 1;
                start..end
            }
            _ => {
                let start = *at;
                skip(at, &|b| !b.is_ascii_whitespace() && b != b'>');
                start..*at
            }
        };
        return Some((name, value));
    }
}

/// What begins with the `<` at the start of `text`.
fn piece(text: &[u8]) -> Piece {
    let through = |end: &[u8], from: usize| {
        let found = text.get(from..).and_then(|t| t.windows(end.len()).position(|w| w == end));
        found.map_or(Piece::Partial, |n| Piece::Other(from + n + end.len()))
    };
    match text.get(1) {
        None => Piece::Partial,
        Some(b'!') if text.starts_with(b"<!--") => through(b"-->", 4),
        Some(b'!') if b"<!--".starts_with(text) => Piece::Partial,
        Some(b'!' | b'/' | b'?') => through(b">", 2),
        Some(b) if b.is_ascii_alphabetic() => {
            let mut quote = None;
            let mut before = 0;
            for (i, b) in text.iter().enumerate().skip(1) {
                match quote {
                    Some(q) if q == *b => quote = None,
                    Some(_) => {}
                    None if *b == b'>' => return Piece::Tag(i + 1),
                    // Quotes count only where a value begins.
                    None if matches!(b, b'"' | b'\'') && before == b'=' => quote = Some(*b),
                    None => {}
                }
                if !b.is_ascii_whitespace() {
                    before = *b;
                }
            }
            Piece::Partial
        }
        Some(_) => Piece::Other(1),
    }
}

/// Where the end tag of `name` begins.
fn find_end_tag(text: &[u8], name: &str) -> Option<usize> {
    text.windows(name.len() + 2)
        .position(|w| w.starts_with(b"</") && w[2..].eq_ignore_ascii_case(name.as_bytes()))
}

/// The attributes of an element that hold links (HTML 4 and 5).
fn link_attributes(element: &str) -> &'static [&'static str] {
    match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { prefix: "/p/proxy".into(), server: "10.0.0.1:80".into(), client: "api:6443".into() }
    }

    #[test]
    fn links_are_seen_from_the_client() {
        for (link, seen) in [
            ("/x", "/p/proxy/x"),
            ("/x/?q=/y#/z", "/p/proxy/x/?q=/y#/z"),
            ("/", "/p/proxy/"),
            ("/../../etc", "/etc"),
            ("/p/proxy/x", "/p/proxy/x"),
            ("x/y", "x/y"),
            ("?q", "?q"),
            ("#top", "#top"),
            ("", ""),
            ("mailto:a@b", "mailto:a@b"),
            ("javascript:go('/x://y')", "javascript:go('/x://y')"),
            ("http://10.0.0.1:80/x", "/p/proxy/x"),
            ("//10.0.0.1:80/x", "/p/proxy/x"),
            ("https://api:6443/x", "https://api:6443/p/proxy/x"),
            ("http://elsewhere/x", "http://elsewhere/x"),
        ] {
            assert_eq!(place().seen(link).unwrap_or_else(|| link.to_owned()), seen, "{link}");
        }
    }

    fn rewritten(page: &str, step: usize) -> String {
        let (mut links, mut out) = (Links::new(place()), Vec::new());
        for part in page.as_bytes().chunks(step) {
            links.feed(part, &mut out);
        }
        links.end(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn pages_in_any_pieces() {
        for (page, seen) in [
            ("<a href=\"/rewriteme\">test</a>", "<a href=\"/p/proxy/rewriteme\">test</a>"),
            ("<A title='>' HREF='/x?a=1&amp;b'>", "<A title='>' HREF='/p/proxy/x?a=1&amp;b'>"),
            ("<img async src=/i.png alt=/x>", "<img async src=\"/p/proxy/i.png\" alt=/x>"),
            ("<img src=\"/a\" usemap = \"/b\"/>", "<img src=\"/p/proxy/a\" usemap = \"/p/proxy/b\"/>"),
            ("<!-- <a href=\"/x\"> --><p href=\"/x\">a < b", "<!-- <a href=\"/x\"> --><p href=\"/x\">a < b"),
            (
                "<script src=\"/s\">'<a href=\"/x\">'</Script><a href=/y>",
                "<script src=\"/p/proxy/s\">'<a href=\"/x\">'</Script><a href=\"/p/proxy/y\">",
            ),
            ("<a href=\"/never ended", "<a href=\"/never ended"),
            ("<a href", "<a href"),
            ("<a = href=\"\" <>", "<a = href=\"\" <>"),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                assert_eq!(rewritten(page, step), seen, "in steps of {step}");
            }
        }
        let endless = format!("<a {}", "x".repeat(MAX_TAG * 2));
        assert_eq!(rewritten(&endless, 4096), endless);
    }

    #[test]
    fn compressed_pages_stay_compressed() {
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(b"<a href=\"/x\">").expect("gzip");
        let page = gz.finish().expect("gzip");
        let mut coding = Coding::Gzip(
            Box::new(GzDecoder::new(Vec::new())),
            GzEncoder::new(Vec::new(), Compression::default()),
        );
        let mut links = Links::new(place());
        let mut out = coding.pass(&page, &mut links).expect("gzip");
        out.extend(coding.finish(&mut links).expect("gzip"));
        let mut plain = GzDecoder::new(Vec::new());
        plain.write_all(&out).expect("gunzip");
        assert_eq!(plain.finish().expect("gunzip"), b"<a href=\"/p/proxy/x\">");
    }
}
