//! Objects from files, folders and standard input, in YAML or JSON, several to a file; lists are taken apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// Reads every object that `-f` names.
///
/// # Errors
/// A file cannot be read, is no YAML, holds something that is no object, or there is no object at all.
pub fn read(files: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            objects.extend(parse(&text).context("standard input")?);
        } else if file.is_dir() {
            for f in manifests_in(file, recursive)? {
                objects.extend(read_file(&f)?);
            }
        } else {
            objects.extend(read_file(file)?);
        }
    }
    if objects.is_empty() {
        bail!("no objects passed: give a file with -f");
    }
    Ok(objects)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("error parsing {}", path.display()))
}

fn manifests_in(dir: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("reading folder {}", dir.display()))?
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    entries.sort();
    let mut out = Vec::new();
    for path in entries {
        if path.is_dir() {
            if recursive {
                out.extend(manifests_in(&path, true)?);
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    Ok(out)
}

/// The objects of a text.
///
/// # Errors
/// It is no YAML, or a document is no object.
pub fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut out = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("it is not valid YAML or JSON")?;
        match value {
            Value::Null => {}
            Value::Object(_) => flatten(value, &mut out),
            other => bail!("a document must be an object with apiVersion and kind, but is {other}"),
        }
    }
    Ok(out)
}

fn flatten(value: Value, out: &mut Vec<Value>) {
    let is_list = value["kind"].as_str().is_some_and(|k| k.ends_with("List"));
    match value {
        Value::Object(mut map) if is_list && map.get("items").is_some_and(Value::is_array) => {
            if let Some(Value::Array(items)) = map.remove("items") {
                items.into_iter().for_each(|i| flatten(i, out));
            }
        }
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "---\nkind: A\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n";
        let kinds: Vec<_> =
            parse(text).unwrap().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(parse(r#"{"kind":"D"}"#).unwrap().len(), 1);
        assert!(parse("a: [").is_err());
        assert!(parse("just words").is_err());
    }
}
