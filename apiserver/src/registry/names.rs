//! Name formats: which strings may name objects, labels and finalizers, with upstream's sentences for those
//! that may not.

use expressions::text::{matches_label, matches_label_key};

const ALNUM_HINT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

fn result(errors: Vec<String>) -> Result<(), Vec<String>> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    let mut s = format!("{message} (e.g. ");
    for (i, e) in examples.iter().enumerate() {
        if i > 0 {
            s.push_str(" or ");
        }
        s.push_str(&format!("'{e}', "));
    }
    s.push_str(&format!("regex used for validation is '{format}')"));
    s
}

/// A lowercase RFC 1123 label.
pub fn dns1123_label(s: &str) -> Result<(), Vec<String>> {
    let mut e = Vec::new();
    if s.len() > 63 {
        e.push(too_long(63));
    }
    if !matches_label(s) {
        if s.split('.').all(matches_label) {
            e.push("must not contain dots".to_owned());
        } else {
            e.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            ));
        }
    }
    result(e)
}

/// A lowercase RFC 1123 subdomain.
pub fn dns1123_subdomain(s: &str) -> Result<(), Vec<String>> {
    let mut e = Vec::new();
    if s.len() > 253 {
        e.push(too_long(253));
    }
    if !s.split('.').all(matches_label) {
        e.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    result(e)
}

/// An RFC 1035 label.
pub fn dns1035_label(s: &str) -> Result<(), Vec<String>> {
    let mut e = Vec::new();
    if s.len() > 63 {
        e.push(too_long(63));
    }
    if !(matches_label(s) && s.as_bytes().first().is_some_and(u8::is_ascii_lowercase)) {
        e.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    result(e)
}

/// A string that can stand between two slashes of a path.
pub fn path_segment(s: &str) -> Result<(), Vec<String>> {
    path_segment_prefix(s, false)
}

fn path_segment_prefix(s: &str, prefix: bool) -> Result<(), Vec<String>> {
    if !prefix && (s == "." || s == "..") {
        return Err(vec![format!("may not be '{s}'")]);
    }
    result(['/', '%'].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect())
}

/// A label key, annotation key or finalizer: an optional subdomain and slash, then a name.
pub fn qualified_name(s: &str) -> Result<(), Vec<String>> {
    let mut e = Vec::new();
    let mut parts = s.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                e.push("prefix part must be non-empty".to_owned());
            } else if let Err(m) = dns1123_subdomain(first) {
                e.extend(m.into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let m = regex_error(ALNUM_HINT, KEY_FMT, &["MyName", "my.name", "123-abc"]);
            return Err(vec![format!(
                "a valid label key {m} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )]);
        }
    };
    if name.is_empty() {
        e.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        e.push(format!("name part {}", too_long(63)));
    }
    if !matches_label_key(name) {
        e.push(format!("name part {}", regex_error(ALNUM_HINT, KEY_FMT, &["MyName", "my.name", "123-abc"])));
    }
    result(e)
}

/// The value of a label.
pub fn label_value(s: &str) -> Result<(), Vec<String>> {
    let mut e = Vec::new();
    if s.len() > 63 {
        e.push(too_long(63));
    }
    if !s.is_empty() && !matches_label_key(s) {
        e.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({KEY_FMT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    result(e)
}

/// A name from `generateName`: the base, cut so that the whole fits 63 characters, and five random characters
/// out of which no words can be made.
pub fn generate(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut end = base.len().min(58);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut s = base[..end].to_owned();
    for _ in 0..5 {
        s.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording() {
        assert_eq!(
            dns1123_subdomain("Bad_Name").expect_err("bad"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns1123_label("a.b").expect_err("dots"), ["must not contain dots"]);
        assert!(dns1123_label("a-b").is_ok() && dns1123_subdomain("a.b-c.9").is_ok());
        assert!(dns1123_subdomain("a..b").is_err() && dns1123_subdomain("-a").is_err());
        assert_eq!(path_segment("a/b%").expect_err("path"), ["may not contain '/'", "may not contain '%'"]);
        assert!(path_segment("system:node:x").is_ok() && path_segment("..").is_err());
        assert!(qualified_name("kubernetes.io/x").is_ok() && qualified_name("a/b/c").is_err());
        assert!(label_value("").is_ok() && label_value("b c").is_err());
    }

    #[test]
    fn generates() {
        let n = generate("g-");
        assert_eq!(n.len(), 7);
        assert!(dns1123_label(&n).is_ok() && n.starts_with("g-"));
        assert_eq!(generate(&"x".repeat(200)).len(), 63);
        assert!(dns1123_subdomain("g-").is_err());
    }
}
