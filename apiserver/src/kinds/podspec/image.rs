//! Image references: which of them mean "whatever is newest".

/// True if the reference names the tag `latest` or neither tag nor digest. What is no reference names nothing.
pub fn is_latest(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let at = reference.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match reference[at..].split_once(':') {
        None => (reference, "latest"),
        Some((last, tag)) => (&reference[..at + last.len()], tag),
    };
    tag == "latest" && is_name(name)
}

/// A repository's name: an optional host, then lower case components with single separators between letters and digits
/// (the grammar of the distribution specification).
fn is_name(name: &str) -> bool {
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_host_like(first) => (Some(first), rest),
        _ => (None, name),
    };
    name.len() <= 255 && host.is_none_or(is_host) && path.split('/').all(is_component)
}

/// Whether the first component of a name is meant as a host.
fn is_host_like(s: &str) -> bool {
    s.contains(['.', ':']) || s == "localhost" || s.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(s: &str) -> bool {
    let (name, port) = match s.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (s, None),
    };
    let label = |l: &str| {
        let b = l.as_bytes();
        let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        edge(b.first()) && edge(b.last()) && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    let v6 = |s: &str| {
        s.strip_prefix('[')
            .and_then(|s| s.strip_suffix(']'))
            .is_some_and(|a| !a.is_empty() && a.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'))
    };
    port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
        && (v6(name) || name.split('.').all(label))
}

fn is_component(s: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = s.split(|c: char| c.is_ascii() && plain(c as u8)).filter(|p| !p.is_empty());
    let edge = |b: Option<u8>| b.is_some_and(plain);
    edge(s.bytes().next())
        && edge(s.bytes().next_back())
        && separators.into_iter().all(|p| matches!(p, "." | "_" | "__") || p.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn tags() {
        for (image, want) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.2", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:2", false),
            ("nginx@sha256:aa", false),
            ("nginx:latest@sha256:aa", false),
            ("a.b:80/c-d/e_f", true),
            ("Bad_Name!", false),
            ("host/UPPER", false),
            ("a..b", false),
            (" nginx", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
