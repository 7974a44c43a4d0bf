//! An OCI image layout as one tar archive, made from a list of files. The result is the same for the same input,
//! so that an image that did not change keeps its digest.
//!
//! Source: OCI image format specification, "Image Layout" and "Image Configuration".

use std::io::Write;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

/// One entry of the image's single layer.
#[derive(Debug, Clone)]
pub enum Entry {
    Directory { path: String, mode: u32 },
    File { path: String, mode: u32, data: Vec<u8> },
    Symlink { path: String, target: String },
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full reference, such as `registry.k8s.io/pause:3.10.1`.
    pub name: String,
    pub entries: Vec<Entry>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: Vec<String>,
    /// `uid:gid`; empty for root.
    pub user: String,
}

/// A blob with its digest, as image formats name content.
pub(crate) struct Blob {
    pub digest: String,
    pub data: Vec<u8>,
}

impl Blob {
    pub fn new(data: Vec<u8>) -> Self {
        Self { digest: format!("sha256:{}", hex(&Sha256::digest(&data))), data }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The images as one OCI layout archive, for `ctl image import` and every tool that reads OCI layouts.
///
/// # Errors
/// A path does not fit a tar header.
pub fn build(images: &[Image]) -> anyhow::Result<Vec<u8>> {
    let mut manifests = Vec::new();
    let mut blobs = Vec::new();
    for image in images {
        let (manifest, mut parts) =
            build_one(image).with_context(|| format!("building image {}", image.name))?;
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest, "size": manifest.data.len(),
            "annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name},
        }));
        blobs.push(manifest);
        blobs.append(&mut parts);
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    blobs.dedup_by(|a, b| a.digest == b.digest);
    for blob in &blobs {
        append(&mut tar, &format!("blobs/{}", blob.digest.replace(':', "/")), 0o644, &blob.data)?;
    }
    Ok(tar.into_inner()?)
}

fn build_one(image: &Image) -> anyhow::Result<(Blob, Vec<Blob>)> {
    let layer = layer(&image.entries)?;
    let diff_id = Blob::new(layer.clone()).digest;
    let mut gz = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
    gz.write_all(&layer)?;
    let layer = Blob::new(gz.finish()?);
    let config = json!({
        "architecture": component_base::version::ARCHITECTURE, "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Cmd": image.command, "Env": image.env, "User": image.user},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = Blob::new(config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.data.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.data.len()}],
    });
    Ok((Blob::new(manifest.to_string().into_bytes()), vec![config, layer]))
}

fn layer(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for e in entries {
        match e {
            Entry::File { path, mode, data } => append(&mut tar, path, *mode, data)?,
            Entry::Directory { path, mode } => {
                let mut h = header(*mode, 0);
                h.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut h, format!("{}/", path.trim_end_matches('/')), std::io::empty())?;
            }
            Entry::Symlink { path, target } => {
                let mut h = header(0o777, 0);
                h.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut h, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) -> anyhow::Result<()> {
    let mut h = header(mode, data.len() as u64);
    tar.append_data(&mut h, path, data).with_context(|| format!("adding {path}"))
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    h.set_mode(mode);
    h.set_size(size);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_makes_the_same_archive_and_every_digest_is_there() {
        let image = Image {
            name: "example.test/a:1".into(),
            entries: vec![
                Entry::Directory { path: "bin".into(), mode: 0o755 },
                Entry::File { path: "bin/a".into(), mode: 0o755, data: b"x".to_vec() },
                Entry::Symlink { path: "bin/b".into(), target: "a".into() },
            ],
            entrypoint: vec!["/bin/a".into()],
            command: vec![],
            env: vec![],
            user: String::new(),
        };
        let one = build(std::slice::from_ref(&image)).unwrap();
        assert_eq!(one, build(&[image]).unwrap());
        let parsed = crate::image::import::read_archive(&one[..]).unwrap();
        assert_eq!(parsed.images.len(), 1);
        assert_eq!(parsed.images[0].name, "example.test/a:1");
        assert_eq!(parsed.blobs.len(), 3);
    }
}
