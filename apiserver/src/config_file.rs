//! Configuration files of the `apiserver.config.k8s.io` group: YAML or JSON documents with an apiVersion and a kind,
//! read strictly: a field that is not known is an error, because it is most likely a misspelt one.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Group of the authentication, authorization and encryption configurations.
pub const GROUP: &str = "apiserver.config.k8s.io";

/// Reads a document of `kind` in one of `versions` of `group`. Returns the version with it.
///
/// # Errors
/// What is wrong, without the file's name.
pub fn read<T: DeserializeOwned>(
    contents: &[u8],
    group: &str,
    kind: &str,
    versions: &[&str],
) -> Result<(String, T), String> {
    let mut v: Value = serde_yaml::from_slice(contents)
        .map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    let Some(o) = v.as_object_mut() else {
        return Err(format!("the file must hold one object of kind {kind}"));
    };
    let mut take = |key: &str| match o.remove(key) {
        Some(Value::String(s)) => s,
        _ => String::new(),
    };
    let (api_version, found) = (take("apiVersion"), take("kind"));
    if found.is_empty() {
        return Err("Object 'Kind' is missing".to_owned());
    }
    if api_version.is_empty() {
        return Err("Object 'apiVersion' is missing".to_owned());
    }
    let version = api_version.strip_prefix(group).and_then(|v| v.strip_prefix('/'));
    match version.filter(|v| versions.contains(v) && found == kind) {
        Some(version) => {
            let version = version.to_owned();
            let value = serde_json::from_value(v).map_err(|e| format!("strict decoding error: {e}"))?;
            Ok((version, value))
        }
        None => Err(format!("no kind \"{found}\" is registered for version \"{api_version}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        n: u8,
    }

    #[test]
    fn documents() {
        let ask = |s: &str| read::<Config>(s.as_bytes(), "g", "Config", &["v1", "v2"]);
        let (version, c) = ask("apiVersion: g/v2\nkind: Config\nn: 3\n").unwrap();
        assert_eq!((version.as_str(), c.n), ("v2", 3));
        for (bad, why) in [
            ("apiVersion: g/v3\nkind: Config\nn: 3\n", "no kind \"Config\" is registered"),
            ("apiVersion: g/v1\nkind: Other\n", "no kind \"Other\" is registered"),
            ("apiVersion: g/v1\nkind: Config\nn: 3\nm: 4\n", "strict decoding error: unknown field `m`"),
            ("kind: Config\n", "apiVersion"),
            ("[]", "one object"),
            ("a: [", "json parse error"),
        ] {
            let e = ask(bad).unwrap_err();
            assert!(e.contains(why), "{bad}: {e}");
        }
    }
}
