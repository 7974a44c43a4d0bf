//! Importing an image archive (an OCI layout, or what `docker save` writes) into containerd through its API:
//! blobs go to the content store, then each image name is pointed at its manifest. The runtime unpacks an image
//! when a container first needs it.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, Image, InfoRequest, UpdateImageRequest, WriteAction,
    WriteContentRequest,
};
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request};
use containerd_client::types::Descriptor;
use serde_json::{Value, json};

use super::archive::Blob;

/// The containerd namespace that the CRI plugin, and so the kubelet, looks in.
const NAMESPACE: &str = "k8s.io";
/// Bytes of a blob sent in one message; gRPC messages end at 4 MiB.
const CHUNK: usize = 1 << 20;
/// How long containerd keeps what an import that broke off has written.
const LEASE: std::time::Duration = std::time::Duration::from_secs(3600);

/// An archive's content.
pub(crate) struct Archive {
    pub images: Vec<Named>,
    pub blobs: HashMap<String, Vec<u8>>,
}

/// An image name with the manifest (or index) that it stands for.
pub(crate) struct Named {
    pub name: String,
    media_type: String,
    digest: String,
}

/// Imports every image of the archive and returns their names.
///
/// # Errors
/// The archive is no image archive or is damaged, or containerd refuses: its own words are in the error.
pub async fn import(socket: &Path, archive: impl Read) -> anyhow::Result<Vec<String>> {
    let archive = read_archive(archive)?;
    let channel = containerd_client::connect(socket)
        .await
        .with_context(|| format!("connecting to containerd at {}: is it running?", socket.display()))?;
    // Until an image points at them, only a lease keeps new blobs from containerd's garbage collector.
    let mut leases = LeasesClient::new(channel.clone());
    let expiry = jiff::Timestamp::now() + LEASE;
    let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry.to_string())]);
    let id = format!("import-{}", uuid::Uuid::new_v4());
    leases.create(scoped(CreateRequest { id: id.clone(), labels }, None)?).await.context("taking a lease")?;
    let result = write_all(&archive, channel, &id).await;
    // The lease expires by itself if this fails.
    let _ = leases.delete(scoped(DeleteRequest { id, sync: false }, None)?).await;
    result
}

async fn write_all(archive: &Archive, channel: Channel, lease: &str) -> anyhow::Result<Vec<String>> {
    let mut content = ContentClient::new(channel.clone());
    let mut images = ImagesClient::new(channel);
    let mut names = Vec::new();
    for image in &archive.images {
        // Children first: a labelled parent keeps what it refers to.
        for (digest, labels) in tree(archive, &image.digest)? {
            let data = &archive.blobs[&digest];
            write(&mut content, lease, &digest, data, labels)
                .await
                .with_context(|| format!("writing {digest}"))?;
        }
        point(&mut images, image, archive).await.with_context(|| format!("naming image {}", image.name))?;
        names.push(image.name.clone());
    }
    Ok(names)
}

/// Adds the namespace header that every containerd call needs, and the lease that new content belongs to.
fn scoped<T>(message: T, lease: Option<&str>) -> anyhow::Result<Request<T>> {
    let mut r = Request::new(message);
    r.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(id) = lease {
        r.metadata_mut().insert("containerd-lease", id.parse().context("lease name")?);
    }
    Ok(r)
}

async fn write(
    content: &mut ContentClient<Channel>,
    lease: &str,
    digest: &str,
    data: &[u8],
    labels: HashMap<String, String>,
) -> anyhow::Result<()> {
    match content.info(scoped(InfoRequest { digest: digest.to_owned() }, Some(lease))?).await {
        Ok(_) => return Ok(()),
        Err(s) if s.code() == Code::NotFound => {}
        Err(s) => return Err(s.into()),
    }
    let total = data.len() as i64;
    let reference = format!("import-{digest}");
    let mut messages = Vec::new();
    let mut offset = 0;
    for chunk in data.chunks(CHUNK) {
        messages.push(WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.clone(),
            total,
            expected: digest.to_owned(),
            offset,
            data: chunk.to_vec(),
            labels: HashMap::new(),
        });
        offset += chunk.len() as i64;
    }
    messages.push(WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: reference,
        total,
        expected: digest.to_owned(),
        offset,
        data: Vec::new(),
        labels,
    });
    let answers = content.write(scoped(futures::stream::iter(messages), Some(lease))?).await;
    let mut answers = match answers {
        Err(s) if s.code() == Code::AlreadyExists => return Ok(()),
        other => other?.into_inner(),
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(s) if s.code() == Code::AlreadyExists => return Ok(()),
            Err(s) => return Err(s.into()),
        }
    }
}

async fn point(images: &mut ImagesClient<Channel>, named: &Named, archive: &Archive) -> anyhow::Result<()> {
    let image = Image {
        name: named.name.clone(),
        target: Some(Descriptor {
            media_type: named.media_type.clone(),
            digest: named.digest.clone(),
            size: archive.blobs[&named.digest].len() as i64,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
    match images.create(scoped(create, None)?).await {
        Ok(_) => Ok(()),
        Err(s) if s.code() == Code::AlreadyExists => {
            images
                .update(scoped(UpdateImageRequest { image: Some(image), ..Default::default() }, None)?)
                .await?;
            Ok(())
        }
        Err(s) => Err(s.into()),
    }
}

/// All blobs below `root` in the archive, children before parents, with their garbage collection labels.
fn tree(archive: &Archive, root: &str) -> anyhow::Result<Vec<(String, HashMap<String, String>)>> {
    let data = archive.blobs.get(root).ok_or_else(|| anyhow!("the archive lacks blob {root}"))?;
    let Ok(json) = serde_json::from_slice::<Value>(data) else {
        return Ok(vec![(root.to_owned(), HashMap::new())]);
    };
    let mut out = Vec::new();
    let mut labels = HashMap::new();
    let mut child = |key: String, descriptor: &Value, leaf: bool| -> anyhow::Result<()> {
        let digest =
            descriptor["digest"].as_str().ok_or_else(|| anyhow!("{root}: a descriptor has no digest"))?;
        if !archive.blobs.contains_key(digest) {
            // An index may list platforms that were not saved.
            if leaf { bail!("the archive lacks blob {digest}") } else { return Ok(()) }
        }
        if leaf {
            out.push((digest.to_owned(), HashMap::new()));
        } else {
            out.extend(tree(archive, digest)?);
        }
        labels.insert(format!("containerd.io/gc.ref.content.{key}"), digest.to_owned());
        Ok(())
    };
    if let Some(manifests) = json["manifests"].as_array() {
        for (i, m) in manifests.iter().enumerate() {
            child(format!("m.{i}"), m, false)?;
        }
    } else if json["config"]["digest"].is_string() {
        child("config".into(), &json["config"], true)?;
        for (i, l) in json["layers"].as_array().into_iter().flatten().enumerate() {
            child(format!("l.{i}"), l, true)?;
        }
    }
    out.push((root.to_owned(), labels));
    Ok(out)
}

/// Reads a (possibly gzipped) archive whole, verifying digests.
pub(crate) fn read_archive(reader: impl Read) -> anyhow::Result<Archive> {
    let mut reader = std::io::BufReader::new(reader);
    let gzip = std::io::BufRead::fill_buf(&mut reader)?.starts_with(&[0x1f, 0x8b]);
    let mut files = BTreeMap::new();
    let source: Box<dyn Read + '_> =
        if gzip { Box::new(flate2::read::GzDecoder::new(reader)) } else { Box::new(reader) };
    let mut tar = tar::Archive::new(source);
    for entry in tar.entries().context("reading the archive: it is no tar file")? {
        let mut entry = entry.context("reading the archive")?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() {
            let mut data = Vec::with_capacity(entry.size() as usize);
            entry.read_to_end(&mut data).with_context(|| format!("reading {path} of the archive"))?;
            files.insert(path, data);
        }
    }
    if let Some(index) = files.get("index.json") {
        let index: Value = serde_json::from_slice(index).context("index.json of the archive")?;
        return oci(&index, files);
    }
    if let Some(manifest) = files.get("manifest.json") {
        let manifest: Value = serde_json::from_slice(manifest).context("manifest.json of the archive")?;
        return docker(&manifest, &files);
    }
    bail!("it is no image archive: it has neither index.json (OCI layout) nor manifest.json (docker save)")
}

fn oci(index: &Value, files: BTreeMap<String, Vec<u8>>) -> anyhow::Result<Archive> {
    let mut blobs = HashMap::new();
    for (path, data) in files {
        if let Some(rest) = path.strip_prefix("blobs/sha256/") {
            let blob = Blob::new(data);
            if blob.digest != format!("sha256:{rest}") {
                bail!("blob {path} is damaged: its digest is {}", blob.digest);
            }
            blobs.insert(blob.digest, blob.data);
        }
    }
    let mut images = Vec::new();
    for m in index["manifests"].as_array().into_iter().flatten() {
        let annotation = |k: &str| m["annotations"][k].as_str();
        let Some(name) =
            annotation("io.containerd.image.name").or(annotation("org.opencontainers.image.ref.name"))
        else {
            continue;
        };
        let digest = m["digest"].as_str().unwrap_or_default().to_owned();
        if !blobs.contains_key(&digest) {
            bail!("the archive lacks manifest {digest} of image {name}");
        }
        let media_type = m["mediaType"].as_str().unwrap_or_default().to_owned();
        images.push(Named { name: normalize(name), media_type, digest });
    }
    if images.is_empty() {
        bail!("no image in the archive has a name (annotation io.containerd.image.name)");
    }
    Ok(Archive { images, blobs })
}

fn docker(manifest: &Value, files: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<Archive> {
    let mut archive = Archive { images: Vec::new(), blobs: HashMap::new() };
    let file = |path: &Value| -> anyhow::Result<Blob> {
        let path = path.as_str().unwrap_or_default();
        let data = files.get(path).ok_or_else(|| anyhow!("the archive lacks {path}"))?;
        Ok(Blob::new(data.clone()))
    };
    for image in manifest.as_array().into_iter().flatten() {
        let config = file(&image["Config"])?;
        let mut layers = Vec::new();
        for path in image["Layers"].as_array().into_iter().flatten() {
            let layer = file(path)?;
            let gzip = layer.data.starts_with(&[0x1f, 0x8b]);
            layers.push(json!({
                "mediaType": if gzip { "application/vnd.docker.image.rootfs.diff.tar.gzip" } else { "application/vnd.docker.image.rootfs.diff.tar" },
                "digest": layer.digest, "size": layer.data.len(),
            }));
            archive.blobs.insert(layer.digest, layer.data);
        }
        let media_type = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = Blob::new(
            json!({
                "schemaVersion": 2, "mediaType": media_type, "layers": layers,
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config.digest, "size": config.data.len()},
            })
            .to_string()
            .into_bytes(),
        );
        archive.blobs.insert(config.digest, config.data);
        for tag in image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            archive.images.push(Named {
                name: normalize(tag),
                media_type: media_type.to_owned(),
                digest: manifest.digest.clone(),
            });
        }
        archive.blobs.insert(manifest.digest, manifest.data);
    }
    if archive.images.is_empty() {
        bail!("no image in the archive has a tag");
    }
    Ok(archive)
}

/// The full form of a short reference: `busybox` is `docker.io/library/busybox:latest`.
fn normalize(name: &str) -> String {
    let (domain, rest) = match name.split_once('/') {
        Some((d, rest)) if d.contains(['.', ':']) || d == "localhost" => (d, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let tagged = rest.contains('@') || rest.rsplit('/').next().is_some_and(|last| last.contains(':'));
    format!("{domain}/{rest}{}", if tagged { "" } else { ":latest" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_their_registry_and_tag() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ] {
            assert_eq!(normalize(short), full);
        }
    }

    #[test]
    fn what_is_no_archive_or_is_damaged_is_refused() {
        assert!(read_archive(&b"no tar"[..]).is_err());
        let mut tar = tar::Builder::new(Vec::new());
        for (path, data) in [("index.json", &br#"{"manifests":[]}"#[..]), ("blobs/sha256/00", &b"x"[..])] {
            let mut h = tar::Header::new_gnu();
            h.set_size(data.len() as u64);
            h.set_mode(0o644);
            tar.append_data(&mut h, path, data).unwrap();
        }
        let err = read_archive(&tar.into_inner().unwrap()[..]).err().unwrap().to_string();
        assert!(err.contains("damaged"), "{err}");
    }
}
