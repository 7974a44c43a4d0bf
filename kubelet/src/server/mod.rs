//! The kubelet's HTTPS server (port 10250) and its loopback health port (10248).
//!
//! [`routes`] maps paths to handlers, [`auth`] decides who may; the handlers live in [`logs`], [`files`],
//! [`stats`] and [`streaming`].

pub mod auth;
mod files;
pub mod follow;
pub mod logs;
pub mod routes;
pub mod stats;
pub mod streaming;

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use component_base::{
    pki::{self, Pair},
    process::Shutdown,
    serving::{delegated::Delegated, health::Health, listener, tls},
};
use tokio::net::TcpListener;

use crate::{context::Context, pod::PodManager};

/// What handlers work with.
#[derive(Clone)]
pub struct Server {
    pub ctx: Arc<Context>,
    pub pods: Arc<PodManager>,
    pub health: Health,
    pub auth: Arc<auth::Auth>,
}

/// The serving certificate: the configured files, else one of our own in the certificate folder.
fn serving_pair(ctx: &Context, cert_dir: &Path) -> anyhow::Result<Pair> {
    let c = &ctx.config;
    if !c.tls_cert_file.is_empty() || !c.tls_private_key_file.is_empty() {
        return tls::read_pair(Path::new(&c.tls_cert_file), Path::new(&c.tls_private_key_file));
    }
    let (cert, key) = (cert_dir.join("kubelet.crt"), cert_dir.join("kubelet.key"));
    if cert.exists() && key.exists() {
        return tls::read_pair(&cert, &key);
    }
    let ips = ctx.node_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let pair = pki::self_signed(&ctx.node_name, vec![ctx.node_name.clone()], ips)?;
    std::fs::create_dir_all(cert_dir).with_context(|| format!("creating {}", cert_dir.display()))?;
    std::fs::write(&cert, &pair.cert).with_context(|| format!("writing {}", cert.display()))?;
    write_private(&key, &pair.key).with_context(|| format!("writing {}", key.display()))?;
    Ok(pair)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Starts both servers; returns once they listen.
pub async fn start(
    ctx: Arc<Context>,
    pods: Arc<PodManager>,
    health: Health,
    cert_dir: &Path,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let c = ctx.config.clone();
    if c.healthz_port != 0 {
        let address =
            SocketAddr::new(c.healthz_bind_address.parse().context("healthzBindAddress")?, c.healthz_port);
        component_base::serving::health::serve(address, None, health.clone(), None, shutdown.clone()).await?;
    }
    if !c.enable_server {
        return Ok(());
    }
    let ca_file = &c.authentication.x509.client_ca_file;
    let ca = match ca_file.as_str() {
        "" => None,
        file => Some(std::fs::read_to_string(file).with_context(|| format!("reading clientCAFile {file}"))?),
    };
    let config = tls::server_config(&serving_pair(&ctx, cert_dir)?, ca.as_deref())?;
    let address = SocketAddr::new(c.address.parse().context("address")?, c.port);
    let socket = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: is another kubelet running on this machine?"))?;
    let auth = Arc::new(auth::Auth::new(&c, ctx.client.clone().map(Delegated::new), &ctx.node_name));
    let server = Server { ctx, pods, health, auth };
    let handler = {
        let server = server.clone();
        move |request| {
            let server = server.clone();
            async move { routes::handle(&server, request).await }
        }
    };
    tokio::spawn(listener::serve(socket, Some(Arc::new(config)), handler, shutdown.clone()));
    if c.read_only_port != 0 {
        let address = SocketAddr::new(c.address.parse().context("address")?, c.read_only_port);
        let socket = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let handler = move |request| {
            let server = server.clone();
            async move { routes::handle_read_only(&server, request).await }
        };
        tokio::spawn(listener::serve(socket, None, handler, shutdown));
    }
    Ok(())
}
