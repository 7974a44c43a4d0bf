//! How an aggregated server learns who asks: headers that it believes because of this server's client certificate.
//! Whatever a client sent under these names is removed first.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::request::UserInfo;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Headers by which a client asks to be somebody else.
const IMPERSONATE: &str = "impersonate-";

/// Puts the user in. A value that no header can carry is an error: the request must not go on as somebody else.
///
/// # Errors
/// Names the value.
pub fn set(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), String> {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|k| {
            let k = k.as_str();
            // Some servers take an underscore for a dash.
            let k = k.replace('_', "-");
            k == USER || k == UID || k == GROUP || k.starts_with(EXTRA) || k.starts_with(IMPERSONATE)
        })
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    headers.remove(http::header::AUTHORIZATION);
    let value = |what: &str, v: &str| {
        HeaderValue::from_bytes(v.as_bytes())
            .map_err(|_| format!("the user's {what} cannot be passed on: {v:?}"))
    };
    headers.insert(USER, value("name", &user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value("uid", &user.uid)?);
    }
    for g in &user.groups {
        headers.append(GROUP, value("group", g)?);
    }
    for (k, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{EXTRA}{}", escape(k)).as_bytes())
            .map_err(|_| format!("the user's extra {k:?} cannot be passed on"))?;
        for v in values {
            headers.append(name.clone(), value("extra", v)?);
        }
    }
    Ok(())
}

/// Percent-encodes what a header's name may not have, and the percent sign.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for b in key.bytes() {
        if b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_replaced() {
        let mut h = HeaderMap::new();
        for (k, v) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x_remote_group", "system:masters"),
            ("x-remote_uid", "0"),
            ("impersonate-user", "root"),
            ("authorization", "Bearer x"),
            ("accept", "*/*"),
        ] {
            h.insert(HeaderName::from_static(k), HeaderValue::from_static(v));
        }
        let user = UserInfo {
            name: "jane".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/Key%".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into(),
            ..UserInfo::default()
        };
        set(&mut h, &user).unwrap();
        assert_eq!(h["x-remote-user"], "jane");
        let all = |n: &str| h.get_all(n).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-example.com%2fkey%25"), ["1", "2"]);
        for gone in [
            "x-remote-uid",
            "x_remote_group",
            "x-remote_uid",
            "x-remote-extra-scopes",
            "impersonate-user",
            "authorization",
        ] {
            assert!(!h.contains_key(gone), "{gone}");
        }
        assert_eq!(h["accept"], "*/*");
        let broken = UserInfo { name: "a\nx-remote-group: system:masters".into(), ..UserInfo::default() };
        assert!(set(&mut h, &broken).unwrap_err().contains("name"));
    }
}
