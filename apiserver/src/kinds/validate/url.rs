//! URLs as Go's `url.Parse` takes them apart, which takes more than the WHATWG's rules do, with its errors.
//! Expressions have URLs of their own, which are read as those of requests are.

/// The parts of a URL that rules look at; empty where it has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Url<'a> {
    pub scheme: String,
    pub host: &'a str,
    pub user: Option<&'a str>,
    pub query: &'a str,
    pub fragment: &'a str,
}

/// Takes a URL apart.
///
/// # Errors
/// The sentence that Go's parser has, with the URL in it.
pub fn parse(given: &str) -> Result<Url<'_>, String> {
    let (whole, fragment) = given.split_once('#').unwrap_or((given, ""));
    let mut url = without_fragment(whole).map_err(|why| format!("parse {whole:?}: {why}"))?;
    escapes(fragment).map_err(|why| format!("parse {given:?}: {why}"))?;
    url.fragment = fragment;
    Ok(url)
}

fn without_fragment(s: &str) -> Result<Url<'_>, String> {
    if s.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let mut url = Url::default();
    let (scheme, rest) = scheme(s)?;
    url.scheme = scheme.to_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    url.query = query;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let mut path = rest;
    let authority = rest.strip_prefix("//").filter(|r| !url.scheme.is_empty() || !r.starts_with('/'));
    if let Some(after) = authority {
        let end = after.find('/').unwrap_or(after.len());
        path = &after[end..];
        let (user, host) = match after[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &after[..end]),
        };
        check_host(host)?;
        if let Some(u) = user {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !u.chars().all(fine) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            escapes(u)?;
        }
        (url.user, url.host) = (user, host);
    }
    escapes(path)?;
    Ok(url)
}

/// The scheme, if there is one, and what follows.
fn scheme(s: &str) -> Result<(&str, &str), String> {
    for (i, c) in s.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&s[..i], &s[i + 1..])),
            _ => break,
        }
    }
    Ok(("", s))
}

/// Refuses a percent sign that no two hexadecimal digits follow.
fn escapes(s: &str) -> Result<(), String> {
    let b = s.as_bytes();
    for (i, _) in s.match_indices('%') {
        let hex = |at: usize| b.get(at).is_some_and(u8::is_ascii_hexdigit);
        if !(hex(i + 1) && hex(i + 2)) {
            return Err(bad_escape(&s[i..]));
        }
    }
    Ok(())
}

fn bad_escape(from: &str) -> String {
    format!("invalid URL escape {:?}", from.chars().take(3).collect::<String>())
}

fn check_host(host: &str) -> Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(_) => {
            let end = host.rfind(']').ok_or("missing ']' in host")?;
            &host[end + 1..]
        }
        None => host.rfind(':').map_or("", |i| &host[i..]),
    };
    let digits = port.strip_prefix(':').map_or(port.is_empty(), |p| p.bytes().all(|b| b.is_ascii_digit()));
    if !digits {
        return Err(format!("invalid port {port:?} after host"));
    }
    escapes(host)?;
    // Escapes in hosts stand for what is not ASCII, or for the percent sign before a zone.
    for (i, _) in host.match_indices('%') {
        if host.as_bytes()[i + 1] < b'8' && !host[i..].starts_with("%25") {
            return Err(bad_escape(&host[i..]));
        }
    }
    let fine = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "$&'()*+,;=:[]<>\"-_.~%!".contains(c);
    match host.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let u = parse("https://u:p@a.b:443/c?d=e#f").expect("a url");
        assert_eq!((u.scheme.as_str(), u.host, u.user), ("https", "a.b:443", Some("u:p")));
        assert_eq!((u.query, u.fragment), ("d=e", "f"));
        for odd in ["", "Bad_Name!", " x ", "a/b/c", "../x", "-1"] {
            assert_eq!(parse(odd), Ok(Url::default()), "{odd}");
        }
        assert_eq!(parse("mailto:x").expect("a url").host, "");
    }

    #[test]
    fn errors() {
        let why = |s| parse(s).expect_err("refused");
        assert_eq!(why("150%"), r#"parse "150%": invalid URL escape "%""#);
        assert_eq!(why(":x"), r#"parse ":x": missing protocol scheme"#);
        assert_eq!(why("1a:b"), r#"parse "1a:b": first path segment in URL cannot contain colon"#);
        assert_eq!(why("https://a:b/"), r#"parse "https://a:b/": invalid port ":b" after host"#);
        assert_eq!(why("https://a b/"), r#"parse "https://a b/": invalid character " " in host name"#);
        assert!(why("https://[::1").contains("missing ']' in host"));
    }
}
