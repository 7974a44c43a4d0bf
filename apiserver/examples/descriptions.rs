//! Makes `data/descriptions-v1.36.txt` anew: the descriptions of all types and fields of the API, as the crate
//! k8s-openapi has them in the schemas of its feature `schemars`. They are read from the crate's source, where each
//! stands on a line of its own, because there is no list of its types to ask.
//!
//! `cargo run -p apiserver --example descriptions > apiserver/data/descriptions-v1.36.txt`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Description of a type, and of its fields by name.
type Described = (String, BTreeMap<String, String>);

fn main() -> anyhow::Result<()> {
    let metadata = Command::new(env!("CARGO")).args(["metadata", "--format-version=1"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let manifest = packages
        .iter()
        .find(|p| p["name"] == "k8s-openapi")
        .and_then(|p| p["manifest_path"].as_str())
        .context("k8s-openapi is no dependency")?;
    let root = Path::new(manifest).parent().context("a folder")?.join("src/v1_36");
    let mut types: BTreeMap<String, Described> = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                read(&std::fs::read_to_string(&path)?, &mut types)
                    .with_context(|| path.display().to_string())?;
            }
        }
    }
    for (name, (about, fields)) in types {
        println!("{name}\t{}", one_line(&about));
        for (field, about) in fields {
            println!("\t{field}\t{}", one_line(&about));
        }
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

/// The string literal that ends a line, where the line begins with `before` and closes it with `after`.
fn literal(line: &str, before: &str, after: &str) -> anyhow::Result<Option<String>> {
    let Some(text) = line.strip_prefix(before).and_then(|l| l.strip_suffix(after)) else { return Ok(None) };
    // The escapes in use are those of JSON.
    serde_json::from_str(text).map(Some).with_context(|| format!("{text} is no string"))
}

fn read(source: &str, types: &mut BTreeMap<String, Described>) -> anyhow::Result<()> {
    let (mut name, mut field) = (String::new(), String::new());
    for line in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        if let Some(n) = literal(text, "", ".into()")?.filter(|n| indent == 8 && n.starts_with("io.k8s.")) {
            (name, field) = (n, String::new());
        } else if indent == 12 && text.starts_with("\"description\"") {
            let about = literal(text, "\"description\": ", ",")?.context("a description")?;
            types.entry(name.clone()).or_default().0 = about;
        } else if indent == 16 && text.starts_with('"') && text.contains("\": ") {
            field = text.split('"').nth(1).unwrap_or_default().to_owned();
        } else if indent == 20 {
            let plain = literal(text, "\"description\": ", ",")?;
            let insert = "schema_obj.ensure_object().insert(\"description\".into(), ";
            if let Some(about) = plain.map_or_else(|| literal(text, insert, ".into());"), |p| Ok(Some(p)))? {
                types.entry(name.clone()).or_default().1.insert(field.clone(), about);
            }
        }
    }
    Ok(())
}
