//! API clients over HTTP/2: all requests and watches of a client share one TLS connection, which keeps the memory of
//! both ends small. Servers without HTTP/2 are spoken to in HTTP/1.1.
//!
//! Servers allow about a hundred streams at a time on a connection: who watches more kinds takes several clients.
//! For WebSockets (exec, attach, port-forward) use [`crate::kubeconfig::client`]: they need HTTP/1.1.

use std::time::Duration;

use anyhow::Context;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// The HTTP client below an API client.
pub type Http = HttpClient<hyper_rustls::HttpsConnector<HttpConnector>, Body>;

/// The HTTP client below the API client: no credentials but the client certificate.
///
/// # Errors
/// The TLS material of the configuration is bad.
pub fn transport(config: &Config) -> anyhow::Result<Http> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let tls = config.rustls_client_config().context("TLS settings of the kubeconfig")?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector = match config.tls_server_name.clone() {
        Some(name) => {
            let name = name.try_into().context("tls-server-name of the kubeconfig")?;
            connector.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
        }
        None => connector,
    };
    let connector = connector.enable_all_versions().wrap_connector(tcp);
    Ok(HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Notices a dead server in the middle of quiet watches.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15))
        .build(connector))
}

/// An API client on a connection of its own.
///
/// # Errors
/// As [`transport`]; or the credentials are bad.
pub fn client(config: &Config) -> anyhow::Result<Client> {
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("credentials of the kubeconfig")?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(transport(config)?);
    Ok(Client::new(service, config.default_namespace.clone()))
}
