//! The `continue` token of chunked lists: where to go on, and at which revision.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continue {
    /// The key to begin with.
    pub start: String,
    /// The revision of the first page; zero for "as it is now" after the first page's revision was compacted.
    pub revision: u64,
}

/// The token for a list that ended with `last` (a key under `prefix`).
pub fn encode(last: &str, prefix: &str, revision: i64) -> String {
    let rel = last.strip_prefix(prefix).unwrap_or(last);
    let t = Token { v: "meta.k8s.io/v1".to_owned(), rv: revision, start: format!("{rel}\0") };
    // Strings and a number always serialise.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&t).unwrap_or_default())
}

/// Reads a token back. The error is upstream's message.
pub fn decode(token: &str, prefix: &str) -> Result<Continue, String> {
    let bad = |m: String| format!("continue key is not valid: {m}");
    // As lenient about what is left over in the last character as upstream's decoder.
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let raw = GeneralPurpose::new(&URL_SAFE, lenient)
        .decode(token)
        .map_err(|_| bad(format!("illegal base64 data at input byte {}", corrupt_at(token))))?;
    let t: Token = serde_json::from_slice(&raw).map_err(|_| match raw.first() {
        Some(&b) if b != b'{' => {
            bad(format!("invalid character {} looking for beginning of value", quoted(b)))
        }
        _ => bad("unexpected end of JSON input".to_owned()),
    })?;
    if t.v != "meta.k8s.io/v1" {
        return Err(bad(format!("server does not recognize this encoded version {}", t.v)));
    }
    if t.start.is_empty() {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)".to_owned()));
    }
    if t.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned()));
    }
    if t.start.split('/').any(|p| p == "..") {
        return Err(bad(t.start));
    }
    // Upstream's servers leave a slash before it.
    let start = t.start.strip_prefix('/').unwrap_or(&t.start);
    Ok(Continue { start: format!("{prefix}{start}"), revision: u64::try_from(t.rv).unwrap_or(0) })
}

/// Where a token stops being base64: at the first foreign byte, else at the lone character of its end.
fn corrupt_at(token: &str) -> usize {
    let foreign = |b: u8| !(b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    token.bytes().position(foreign).unwrap_or(token.len().saturating_sub(1))
}

/// A byte as Go quotes it in its JSON errors.
pub fn quoted(b: u8) -> String {
    match b {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x20..=0x7e => format!("'{}'", b as char),
        b'\n' => "'\\n'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        0x80.. => format!("'{}'", char::from(b)),
        _ => format!("'\\x{b:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let t = encode("/registry/pods/default/a", "/registry/pods/", 7);
        assert_eq!(
            decode(&t, "/registry/pods/"),
            Ok(Continue { start: "/registry/pods/default/a\0".into(), revision: 7 })
        );
        // As upstream writes it for a list of one namespace.
        let theirs = URL_SAFE_NO_PAD.encode(br#"{"v":"meta.k8s.io/v1","rv":577,"start":"/np21\u0000"}"#);
        assert_eq!(decode(&theirs, "/registry/pods/ns/").unwrap().start, "/registry/pods/ns/np21\0");
        assert!(decode("ab!c", "/").unwrap_err().ends_with("illegal base64 data at input byte 2"));
        assert!(decode("abcde", "/").unwrap_err().ends_with("at input byte 4"));
        assert_eq!(
            decode("zzz", "/"),
            Err("continue key is not valid: invalid character '\u{cf}' looking for beginning of value".into())
        );
    }
}
