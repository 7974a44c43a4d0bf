//! gRPC probes: `grpc.health.v1.Health/Check`.

use std::time::Duration;

use tonic::transport::Endpoint;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Success, or the failure in upstream's words.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> (bool, String) {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{host}:{port}");
    match tokio::time::timeout(timeout, call(&address, service)).await {
        Err(_) => (
            false,
            format!(
                "timeout: failed to connect service {address:?} within {}: context deadline exceeded",
                component_base::duration::GoDuration(timeout)
            ),
        ),
        Ok(Ok(SERVING)) => (true, "service healthy".into()),
        Ok(Ok(other)) => {
            let name = match other {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            (false, format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(e)) => (false, e),
    }
}

async fn call(address: &str, service: &str) -> Result<i32, String> {
    let failed = |e: &dyn std::fmt::Display| format!("error: health rpc probe failed: {e}");
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| failed(&e))?
        .connect()
        .await
        .map_err(|_| format!("timeout: failed to connect service {address:?}: connection refused"))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| failed(&e))?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service: service.into() });
    match grpc.unary(request, path, codec).await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(failed(&status.message())),
    }
}
