//! Files of one volume that would be written over each other, or inside each other.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use crate::kinds::semantic::{items, text};

/// A file of a volume, and what it comes from where several sources feed one volume.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source.as_str() {
            "" => write!(f, "{:?}", self.path),
            source => write!(f, "{:?} ({source})", self.path),
        }
    }
}

fn file(path: &str, source: &str) -> File {
    File { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
}

fn keys(list: Option<&Vec<KeyToPath>>, source: &str) -> Vec<File> {
    list.into_iter().flatten().map(|k| file(&k.path, source)).collect()
}

fn fields(list: Option<&Vec<DownwardAPIVolumeFile>>, source: &str) -> Vec<File> {
    list.into_iter().flatten().map(|k| file(&k.path, source)).collect()
}

/// Whether one is the other, or a directory above it.
fn collide(a: &str, b: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !a.is_empty() && !b.is_empty() && (inside(a, b) || inside(b, a))
}

fn tell(volume: &Volume, what: &str, files: &[File], out: &mut Vec<String>) {
    for (i, f) in files.iter().enumerate() {
        for earlier in files[..i].iter().filter(|e| collide(&e.path, &f.path)) {
            out.push(format!("volume {:?} ({what}): overlapping paths: {f} with {earlier}", volume.name));
        }
    }
}

/// Warnings of all volumes of a pod.
pub fn warnings(volumes: &[Volume], out: &mut Vec<String>) {
    for v in volumes {
        if let Some(m) = &v.config_map {
            tell(v, &format!("ConfigMap {:?}", m.name), &keys(m.items.as_ref(), ""), out);
        }
        if let Some(s) = &v.secret {
            tell(v, &format!("Secret {:?}", text(&s.secret_name)), &keys(s.items.as_ref(), ""), out);
        }
        if let Some(d) = &v.downward_api {
            tell(v, "DownwardAPI", &fields(d.items.as_ref(), ""), out);
        }
        if let Some(p) = &v.projected {
            let mut files = Vec::new();
            for source in items(&p.sources) {
                if *source == VolumeProjection::default() {
                    out.push(format!("volume {:?} (Projected) has no sources provided", v.name));
                }
                files.extend(projected(source));
            }
            tell(v, "Projected", &files, out);
        }
    }
}

fn projected(s: &VolumeProjection) -> Vec<File> {
    if let Some(m) = s.config_map.as_ref().filter(|m| m.items.is_some()) {
        return keys(m.items.as_ref(), &format!("ConfigMap {:?}", m.name));
    }
    if let Some(m) = s.secret.as_ref().filter(|m| m.items.is_some()) {
        return keys(m.items.as_ref(), &format!("Secret {:?}", m.name));
    }
    if let Some(d) = s.downward_api.as_ref().filter(|d| d.items.is_some()) {
        return fields(d.items.as_ref(), "DownwardAPI");
    }
    if let Some(t) = &s.service_account_token {
        return vec![file(&t.path, "ServiceAccountToken")];
    }
    if let Some(b) = &s.cluster_trust_bundle {
        let name = b.name.as_ref().or(b.signer_name.as_ref()).map(String::as_str).unwrap_or_default();
        return vec![file(&b.path, &format!("ClusterTrustBundle {name:?}"))];
    }
    let Some(c) = &s.pod_certificate else { return Vec::new() };
    let parts = [
        (&c.certificate_chain_path, "PodCertificate chain"),
        (&c.key_path, "PodCertificate key"),
        (&c.credential_bundle_path, "PodCertificate credential bundle"),
    ];
    parts.into_iter().filter(|(p, _)| !text(p).is_empty()).map(|(p, what)| file(text(p), what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_each_others_way() {
        let volume: Volume =
            serde_json::from_value(serde_json::json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}},
            {"downwardAPI": {"items": [{"path": "t/x"}, {"path": "tx"}]}},
            {}]}}))
            .unwrap();
        let mut out = Vec::new();
        warnings(&[volume], &mut out);
        assert_eq!(
            out,
            [
                "volume \"v\" (Projected) has no sources provided",
                "volume \"v\" (Projected): overlapping paths: \"t/x\" (DownwardAPI) with \"t\" \
                 (ServiceAccountToken)"
            ]
        );
    }
}
