//! Component configuration files (`KubeletConfiguration` and its siblings): YAML or JSON, one object, strict.

use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

/// Reads a configuration file of the given `apiVersion` and `kind`.
///
/// Unknown fields are errors if `T` denies them (`#[serde(deny_unknown_fields)]`); `T` must not have
/// `apiVersion` and `kind` fields itself.
///
/// # Errors
/// The file cannot be read, is no YAML, is of another kind or version, or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path, api_versions: &[&str], kind: &str) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading configuration file {}", path.display()))?;
    parse(&text, api_versions, kind).with_context(|| format!("configuration file {}", path.display()))
}

fn parse<T: DeserializeOwned>(text: &str, api_versions: &[&str], kind: &str) -> anyhow::Result<T> {
    let mut value: serde_json::Value = serde_yaml::from_str(text).context("it is not valid YAML")?;
    let Some(object) = value.as_object_mut() else { bail!("it must hold one {kind} object") };
    let version = object.remove("apiVersion").unwrap_or_default();
    let found_kind = object.remove("kind").unwrap_or_default();
    if found_kind != kind || !api_versions.iter().any(|v| version == *v) {
        bail!(
            "it must be of kind {kind} and apiVersion {}, but is {found_kind} {version}",
            api_versions.join(" or ")
        );
    }
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Demo {
        #[allow(dead_code)]
        a: u32,
    }

    #[test]
    fn refuses_other_kinds_and_unknown_fields() {
        let ok = "apiVersion: x/v1\nkind: Demo\na: 3\n";
        assert_eq!(parse::<Demo>(ok, &["x/v1"], "Demo").unwrap().a, 3);
        for bad in [
            "apiVersion: x/v2\nkind: Demo\na: 3\n",
            "kind: Other\na: 1",
            "a: [",
            "3",
            "apiVersion: x/v1\nkind: Demo\na: 1\nb: 2\n",
        ] {
            assert!(parse::<Demo>(bad, &["x/v1"], "Demo").is_err(), "{bad}");
        }
    }
}
