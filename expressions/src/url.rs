//! URLs as Go's `url.ParseRequestURI` takes them: absolute, or an absolute path.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// The parts of a URL that expressions can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub scheme: String,
    /// Host and port, as written.
    pub host: String,
    /// The path, as written.
    pub path: String,
    query: String,
}

impl Url {
    /// Reads `s`; the error is a sentence.
    pub fn parse(s: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("parse {s:?}: {why}"));
        if s.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return wrong("net/url: invalid control character in URL");
        }
        if s.is_empty() {
            return wrong("empty url");
        }
        let (scheme, rest) = match scheme(s) {
            Ok((scheme, rest)) => (scheme, rest),
            Err(why) => return wrong(why),
        };
        if scheme.is_empty() && !rest.starts_with('/') {
            return wrong("invalid URI for request");
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: rest.to_owned(),
            query: query.to_owned(),
        };
        if !scheme.is_empty() && !rest.starts_with('/') {
            // `mailto:someone`: no host and no path.
            url.path.clear();
            return Ok(url);
        }
        if let Some(after) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            let end = after.find('/').unwrap_or(after.len());
            let authority = &after[..end];
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            if let Some(why) = host_problem(host) {
                return wrong(&why);
            }
            url.host = host.to_owned();
            url.path = after[end..].to_owned();
        }
        if let Some(bad) = bad_escape(&url.path) {
            return wrong(&format!("invalid URL escape {bad:?}"));
        }
        Ok(url)
    }

    /// The host without port and brackets.
    pub fn hostname(&self) -> &str {
        if let Some(rest) = self.host.strip_prefix('[') {
            return rest.split_once(']').map_or(rest, |(inner, _)| inner);
        }
        match self.host.rsplit_once(':') {
            Some((name, _)) => name,
            None => &self.host,
        }
    }

    /// The port, or nothing.
    pub fn port(&self) -> &str {
        let after = match self.host.rfind(']') {
            Some(i) => &self.host[i..],
            None => &self.host,
        };
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// The path with what needs it escaped.
    pub fn escaped_path(&self) -> String {
        let mut out = String::with_capacity(self.path.len());
        for b in self.path.bytes() {
            match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(b as char),
                b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@'
                | b'!' | b'\'' | b'(' | b')' | b'*' | b'%' | b'[' | b']' => out.push(b as char),
                _ => out.push_str(&format!("%{b:02X}")),
            }
        }
        out
    }

    /// The parameters of the query with all their values.
    pub fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            if bad_escape(k).is_some() || bad_escape(v).is_some() {
                continue;
            }
            let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
            out.entry(decode(k)).or_default().push(decode(v));
        }
        out
    }
}

fn scheme(s: &str) -> Result<(&str, &str), &'static str> {
    for (i, c) in s.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&s[..i], &s[i + 1..])),
            _ => return Ok(("", s)),
        }
    }
    Ok(("", s))
}

fn host_problem(host: &str) -> Option<String> {
    let after = match host.strip_prefix('[') {
        Some(rest) => match rest.rfind(']') {
            Some(i) => &rest[i + 1..],
            None => return Some("missing ']' in host".into()),
        },
        None => host.find(':').map_or("", |i| &host[i..]),
    };
    let digits = |p: &str| p.bytes().all(|b| b.is_ascii_digit());
    if !after.is_empty() && !after.strip_prefix(':').is_some_and(digits) {
        return Some(format!("invalid port {after:?} after host"));
    }
    if let Some(c) =
        host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
    {
        return Some(format!("invalid character {:?} in host name", c.to_string()));
    }
    bad_escape(host).map(|bad| format!("invalid URL escape {bad:?}"))
}

/// The first `%` without two hexadecimal digits after it.
fn bad_escape(s: &str) -> Option<String> {
    let b = s.as_bytes();
    for (i, _) in b.iter().enumerate().filter(|(_, c)| **c == b'%') {
        let ok = b.get(i + 1..i + 3).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
        if !ok {
            let end = (i + 3).min(b.len());
            return Some(String::from_utf8_lossy(&b[i..end]).into_owned());
        }
    }
    None
}
