//! What must never be in logs, at any verbosity: tokens, passwords, and what secrets hold (CVE-2019-11250,
//! CVE-2020-8563 to 8566, of upstream's components and their client). A file of its own: the logger of a process can be set
//! once.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use common::TestServer;
use http::Method;
use serde_json::json;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(b);
        Ok(b.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_no_log() {
    let log = Log::default();
    let writer = log.clone();
    // More than any --v shows: everything of ours, and of the libraries.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let s = TestServer::start(&[]).await;
    let (token, value) = ("TOKENTHATNOBODYMAYSEE", "VALUETHATNOBODYMAYSEE");
    let anonymous = s.anonymous();
    let authorization = [("authorization", "Bearer TOKENTHATNOBODYMAYSEE")];
    assert_eq!(anonymous.send(Method::GET, "/api", &authorization, "").await.code, 401);
    let basic = [("authorization", "Basic dTpWQUxVRVRIQVROT0JPRFlNQVlTRUU=")];
    assert_eq!(anonymous.send(Method::GET, "/api", &basic, "").await.code, 401);
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    s.admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": value}});
    s.admin.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    s.admin.get("/api/v1/namespaces/default/secrets/s").await.expect(200);
    // A value that does not fit is refused, and the refusal may be logged, the value not.
    let bad = json!({"metadata": {"name": "bad"}, "data": {"k": value, "l": "%"}});
    s.admin.post("/api/v1/namespaces/default/secrets", &bad).await.expect(400);
    let text = String::from_utf8_lossy(&log.0.lock().expect("the log")).into_owned();
    assert!(text.len() > 10_000, "nothing was logged");
    let encoded = base64::engine::general_purpose::STANDARD.encode(value);
    for hidden in [token, value, encoded.trim_end_matches('='), "dTpWQUxVRVRIQVROT0JPRFlNQVlTRUU"] {
        let line = text.lines().find(|l| l.contains(hidden));
        assert!(line.is_none(), "{hidden}: {}", line.unwrap_or_default());
    }
}
