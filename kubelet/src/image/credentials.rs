//! Registry credentials from `imagePullSecrets` (`kubernetes.io/dockerconfigjson` and `dockercfg`). Pure.

use base64::Engine;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let Some(data) = &secret.data else { return BTreeMap::new() };
    if let Some(json) = data.get(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(&json.0).unwrap_or_default().auths;
    }
    data.get(".dockercfg").and_then(|json| serde_json::from_slice(&json.0).ok()).unwrap_or_default()
}

/// `registry/path` of an image reference, without tag or digest, Docker Hub's short names spelt out.
pub fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    };
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn normalize(server: &str) -> String {
    let s = server.trim_start_matches("https://").trim_start_matches("http://");
    let s = s.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    s.replace("index.docker.io", "docker.io").replace("registry-1.docker.io", "docker.io")
}

fn matches(server: &str, repository: &str) -> bool {
    let server = normalize(server);
    let (want_host, want_path) = server.split_once('/').unwrap_or((&server, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    let parts: Vec<&str> = want_host.split('.').collect();
    let have: Vec<&str> = host.split('.').collect();
    let host_fits = parts.len() == have.len() && parts.iter().zip(&have).all(|(w, h)| *w == "*" || w == h);
    host_fits && (want_path.is_empty() || path == want_path || path.starts_with(&format!("{want_path}/")))
}

/// Credentials that fit the image, the most specific first.
pub fn lookup(secrets: &[&Secret], image: &str) -> Vec<AuthConfig> {
    let repo = repository(image);
    let mut found: Vec<(String, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (server, e) in entries(secret) {
            if !matches(&server, &repo) {
                continue;
            }
            let (mut username, mut password) = (e.username, e.password);
            if username.is_empty()
                && let Ok(raw) = base64::engine::general_purpose::STANDARD.decode(e.auth.trim())
                && let Some((u, p)) = String::from_utf8_lossy(&raw).split_once(':')
            {
                username = u.to_owned();
                password = p.trim_end_matches('\0').to_owned();
            }
            let auth = AuthConfig {
                username,
                password,
                identity_token: e.identitytoken,
                registry_token: e.registrytoken,
                server_address: server.clone(),
                ..AuthConfig::default()
            };
            found.push((normalize(&server), auth));
        }
    }
    found.sort_by_key(|(server, _)| std::cmp::Reverse(server.len()));
    found.into_iter().map(|(_, a)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_most_specific() {
        assert_eq!(repository("busybox"), "docker.io/library/busybox");
        assert_eq!(repository("a/b:1"), "docker.io/a/b");
        assert_eq!(repository("r.example:5000/x@sha256:0"), "r.example:5000/x");
        let json = r#"{"auths":{"r.example":{"auth":"dTpw"},"https://r.example/team/":{"username":"t","password":"x"},"*.other.io":{"username":"w"}}}"#;
        let data = serde_json::json!({"data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json)}});
        let secret: Secret = serde_json::from_value(data).unwrap();
        let users = |image: &str| -> Vec<String> {
            lookup(&[&secret], image).into_iter().map(|a| a.username).collect()
        };
        assert_eq!(users("r.example/team/app:1"), ["t", "u"]);
        assert_eq!(users("r.example/teams/app"), ["u"]);
        assert_eq!(users("eu.other.io/x"), ["w"]);
        assert!(users("busybox").is_empty());
    }
}
