//! From a kubeconfig file to an API client.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Reads a kubeconfig and picks its current context.
///
/// Relative paths in the file are taken from the file's folder.
///
/// # Errors
/// The file cannot be read or names no usable cluster and user.
pub async fn config(path: &Path) -> anyhow::Result<Config> {
    let file =
        Kubeconfig::read_from(path).with_context(|| format!("reading kubeconfig {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("using kubeconfig {}", path.display()))?;
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(config)
}

/// The same with `user_agent` as the name the API server logs and, for field ownership, takes as the manager where none
/// is given.
///
/// # Errors
/// As [`config`].
pub async fn config_for(path: &Path, user_agent: &str) -> anyhow::Result<Config> {
    let mut config = config(path).await?;
    let agent = format!("{user_agent}/{} ({})", crate::version::GIT_VERSION, crate::version::platform());
    config.headers.push((http::header::USER_AGENT, agent.parse().context("user agent")?));
    Ok(config)
}

/// A client for the cluster of a kubeconfig, with a name as in [`config_for`].
///
/// # Errors
/// As [`config`]; or the TLS material is bad.
pub async fn client(path: &Path, user_agent: &str) -> anyhow::Result<Client> {
    let config = config_for(path, user_agent).await?;
    Client::try_from(config).with_context(|| format!("building a client from kubeconfig {}", path.display()))
}
