//! The kubelet's plugin registration API v1, and calls over a plugin's socket.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// One call may take this long; CSI drivers that format or copy need minutes.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A plugin's socket. Cheap to clone; connects when it is used.
#[derive(Clone)]
pub struct Socket(Channel);

impl Socket {
    /// The socket at this path.
    pub fn new(path: PathBuf) -> Self {
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        };
        Self(
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(connect)),
        )
    }

    /// Calls `method` (`/package.Service/Method`).
    pub async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let exchange = async {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = http::uri::PathAndQuery::from_static(method);
            grpc.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(tonic::Status::deadline_exceeded("context deadline exceeded")),
        }
    }
}

/// As upstream words a failed call.
pub fn shown(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
