//! Authentication, authorization, encryption at rest and TLS of a running server, with the services that these ask:
//! a token issuer and webhooks, on loopback.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use apiserver::authn::keys::{SigningKey, jwks};
use bytes::Bytes;
use common::{Client, TestServer};
use component_base::pki::{Authority, Subject};
use component_base::process::Shutdown;
use component_base::serving::{listener, tls};
use http::{Method, Response};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A service on loopback with a certificate of its own authority; it ends with this.
struct Service {
    url: String,
    ca: String,
    stop: Shutdown,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Service {
    /// `answer` takes path and body, and gives what is sent.
    async fn start(answer: impl Fn(&str, Value) -> Value + Send + Sync + 'static) -> Self {
        component_base::process::install_crypto();
        let authority = Authority::generate("service-ca").expect("a CA");
        let pair = authority
            .issue(&Subject {
                common_name: "service".into(),
                ips: vec!["127.0.0.1".parse().expect("address")],
                server: true,
                ..Subject::default()
            })
            .expect("a certificate");
        let config = tls::server_config(&pair, None).expect("TLS");
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", socket.local_addr().expect("address"));
        let answer = Arc::new(answer);
        let handler = move |request: http::Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let body = Bytes::from(answer(&path, body).to_string());
                let body = Full::new(body).map_err(|e| match e {}).boxed_unsync();
                Response::builder().header("content-type", "application/json").body(body).expect("an answer")
            }
        };
        let stop = Shutdown::new();
        tokio::spawn(listener::serve(socket, Some(Arc::new(config)), handler, stop.clone()));
        Self { url, ca: authority.pair().cert.clone(), stop }
    }

    /// A kubeconfig file for it.
    fn kubeconfig(&self, dir: &Path, path: &str) -> PathBuf {
        let file = dir.join("webhook.kubeconfig");
        std::fs::write(dir.join("webhook-ca.crt"), &self.ca).expect("a file");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("{}{path}", self.url),
                "certificate-authority": dir.join("webhook-ca.crt").display().to_string()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "x"}}],
        });
        std::fs::write(&file, text.to_string()).expect("a file");
        file
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs()
}

fn key() -> SigningKey {
    SigningKey::from_pem("key", Authority::generate("k").expect("a key").pair().key.as_bytes())
        .expect("a key")
}

async fn whoami(client: &Client, token: &str) -> (u16, Value) {
    let auth = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", auth.as_str())];
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = client.send(Method::POST, path, &headers, review.to_string()).await;
    (answer.code, answer.json()["status"]["userInfo"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_issuer() {
    let signer = Arc::new(Mutex::new(Arc::new(key())));
    let url = Arc::new(Mutex::new(String::new()));
    let (keys, own) = (signer.clone(), url.clone());
    let issuer = Service::start(move |path, _| match path {
        "/.well-known/openid-configuration" => {
            let own = own.lock().clone();
            json!({"issuer": own, "jwks_uri": format!("{own}/keys")})
        }
        "/keys" => jwks(&[keys.lock().public().clone()]),
        _ => json!({}),
    })
    .await;
    url.lock().clone_from(&issuer.url);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("authentication.yaml");
    let config = |prefix: &str| {
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": issuer.url, "audiences": ["me", "us"], "audienceMatchPolicy": "MatchAny",
                    "certificateAuthority": issuer.ca},
                "claimMappings": {"username": {"claim": "sub", "prefix": prefix},
                    "groups": {"claim": "groups", "prefix": "g:"},
                    "extra": [{"key": "example.org/office", "valueExpression": "claims.?office.orValue([])"}]},
                "userValidationRules": [
                    {"expression": "!user.username.endsWith(':root')", "message": "no root"}],
                "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}],
            }],
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        });
        std::fs::write(&file, config.to_string()).expect("a file");
    };
    config("oidc:");
    let server = TestServer::start(&[&format!("--authentication-config={}", file.display())]).await;
    let client = server.anonymous();
    let claims = |more: Value| {
        let mut c = json!({"iss": issuer.url, "aud": "us", "sub": "jane", "hd": "example.com",
            "exp": now() + 600, "groups": ["dev"], "jti": "7"});
        for (k, v) in more.as_object().expect("claims") {
            c[k] = v.clone();
        }
        c
    };
    let token = |more: Value| signer.lock().sign(&claims(more)).expect("a token");
    eventually("the issuer is found", async || whoami(&client, &token(json!({}))).await.0 == 201).await;
    let (_, user) = whoami(&client, &token(json!({}))).await;
    assert_eq!(user["username"], "oidc:jane");
    assert_eq!(user["groups"], json!(["g:dev", "system:authenticated"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/credential-id"], json!(["JTI=7"]));
    let (_, user) = whoami(&client, &token(json!({"office": ["a", "b"]}))).await;
    assert_eq!(user["extra"]["example.org/office"], json!(["a", "b"]));
    for bad in [
        json!({"sub": "root"}),
        json!({"aud": "others"}),
        json!({"exp": now() - 1}),
        json!({"nbf": now() + 3600}),
        json!({"hd": "other.com"}),
        json!({"iss": "https://other"}),
    ] {
        assert_eq!(whoami(&client, &token(bad.clone())).await.0, 401, "{bad}");
    }
    // A token by another's key, then that key made the issuer's.
    let next = Arc::new(key());
    let early = next.sign(&claims(json!({"sub": "joe"}))).expect("a token");
    assert_eq!(whoami(&client, &early).await.0, 401);
    *signer.lock() = next;
    eventually("the new key is learned", async || whoami(&client, &early).await.0 == 201).await;
    // Without credentials: where the file says so.
    assert_eq!(client.get("/livez").await.code, 200);
    assert_eq!(client.get("/readyz").await.code, 401);
    // The file changes.
    config("new:");
    eventually("the file is read again", async || {
        whoami(&client, &token(json!({"jti": "8"}))).await.1["username"] == "new:jane"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_for_tokens_and_access() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let hooks = Service::start(move |path, review| match path {
        "/token" => {
            assert_eq!(review["kind"], "TokenReview");
            let good = review["spec"]["token"] == "opensesame";
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "status": {"authenticated": good, "user": {"username": "ali", "groups": ["forty"]}}})
        }
        _ => {
            count.fetch_add(1, Ordering::Relaxed);
            let spec = &review["spec"];
            let status = match spec["resourceAttributes"]["resource"].as_str() {
                Some("configmaps") => {
                    json!({"allowed": spec["resourceAttributes"]["labelSelector"]["requirements"][0]["key"] == "mine"})
                }
                Some("nodes") => json!({"allowed": false, "denied": true, "reason": "no nodes"}),
                _ => json!({"allowed": true}),
            };
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status})
        }
    })
    .await;
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = dir.path().join("t");
    std::fs::create_dir(&tokens).expect("a directory");
    let token_config = hooks.kubeconfig(&tokens, "/token");
    let access_config = hooks.kubeconfig(dir.path(), "/access");
    let file = dir.path().join("authorization.yaml");
    let webhook = |failure: &str, config: &Path| {
        json!({"type": "Webhook", "name": "hook", "webhook": {
            "matchConditionSubjectAccessReviewVersion": "v1",
            "matchConditions": [
                {"expression": "has(request.resourceAttributes)"},
                {"expression": "request.resourceAttributes.resource != 'endpoints'"}],
            "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": failure,
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": config.display().to_string()}}})
    };
    let write = |authorizers: Value| {
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthorizationConfiguration", "authorizers": authorizers});
        std::fs::write(&file, config.to_string()).expect("a file");
    };
    write(json!([{"type": "RBAC", "name": "rbac"}]));
    let server = TestServer::start(&[
        &format!("--authorization-config={}", file.display()),
        &format!("--authentication-token-webhook-config-file={}", token_config.display()),
        "--authentication-token-webhook-version=v1",
    ])
    .await;
    let client = server.anonymous();
    assert_eq!(whoami(&client, "opensesame").await.1["username"], "ali");
    assert_eq!(whoami(&client, "open barley").await.0, 401);

    let jane = server.user("jane", &[]);
    assert_eq!(jane.get("/api/v1/pods").await.code, 403);
    write(json!([webhook("Deny", &access_config), {"type": "RBAC", "name": "rbac"}]));
    eventually("the webhook is asked", async || jane.get("/api/v1/pods").await.code == 200).await;
    let before = asked.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(jane.get("/api/v1/pods").await.code, 200);
    }
    assert_eq!(asked.load(Ordering::Relaxed), before, "answers are remembered");
    let refused = jane.get("/api/v1/nodes").await.expect(403);
    assert!(refused["message"].as_str().is_some_and(|m| m.ends_with(": no nodes")), "{refused}");
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(jane.get("/api/v1/endpoints").await.code, 403);
    assert_eq!(asked.load(Ordering::Relaxed), before, "conditions exclude this");
    assert_eq!(jane.get("/api/v1/configmaps").await.code, 403);
    assert_eq!(jane.get("/api/v1/configmaps?labelSelector=mine").await.code, 200);
    // A review tells what the webhook said; masters are not asked about.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "nodes"}}});
    let said =
        server.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect(201);
    assert_eq!(said["status"], json!({"allowed": false, "denied": true, "reason": "no nodes"}));
    // A file that is wrong changes nothing.
    write(json!([]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(jane.get("/api/v1/pods").await.code, 200);
    // The service is gone: closed or open, as the file says.
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).expect("a directory");
    let gone = Service { url: "https://127.0.0.1:1".into(), ca: hooks.ca.clone(), stop: Shutdown::new() }
        .kubeconfig(&gone, "/");
    write(json!([webhook("Deny", &gone), {"type": "AlwaysAllow", "name": "all"}]));
    eventually("failing closed", async || jane.get("/api/v1/pods").await.code == 500).await;
    write(json!([webhook("NoOpinion", &gone), {"type": "AlwaysAllow", "name": "all"}]));
    eventually("failing open", async || jane.get("/api/v1/nodes").await.code == 200).await;
    let metrics = server.admin.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for name in [
        "apiserver_authorization_decisions_total{decision=\"denied\",name=\"hook\",type=\"Webhook\"}",
        "apiserver_authorization_webhook_evaluations_fail_open_total{name=\"hook\"",
        "apiserver_authorization_config_controller_automatic_reloads_total{status=\"failure\"}",
        "authorization_attempts_total{result=\"allowed\"}",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_written_anew_under_a_new_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("encryption.yaml");
    let write = |keys: &[&str]| {
        let keys: Vec<Value> = keys
            .iter()
            .map(|k| json!({"name": k, "secret": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}))
            .collect();
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}]});
        std::fs::write(&file, config.to_string()).expect("a file");
    };
    write(&["one"]);
    let server = TestServer::start(&[
        &format!("--encryption-provider-config={}", file.display()),
        "--encryption-provider-config-automatic-reload=true",
    ])
    .await;
    let admin = &server.admin;
    let path = "/api/v1/namespaces/default/secrets";
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "eA=="}});
    let made = admin.post(path, &secret).await.expect(201);
    let version = |o: &Value| o["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let path = format!("{path}/s");
    assert_eq!(admin.get(&path).await.expect(200)["data"]["a"], "eA==");
    assert_eq!(version(&admin.put(&path, &made).await.expect(200)), version(&made));
    write(&["two", "one"]);
    let mut last = made.clone();
    eventually("the value is written anew", async || {
        let now = admin.put(&path, &last).await.expect(200);
        let changed = version(&now) != version(&last);
        last = now;
        changed
    })
    .await;
    assert_eq!(version(&admin.put(&path, &last).await.expect(200)), version(&last));
    assert_eq!(admin.get(&path).await.expect(200)["data"]["a"], "eA==");
    assert_eq!(admin.get("/healthz/kms-providers").await.code, 200);
    let metrics = admin.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics
            .contains("apiserver_storage_transformation_operations_total{transformation_type=\"to_storage\"")
    );
}

/// The certificate that the server shows for a name.
async fn shown(server: &TestServer, name: &str) -> Vec<u8> {
    let stream =
        tokio::net::TcpStream::connect(server.base.trim_start_matches("https://")).await.expect("a stream");
    let config =
        apiserver::webhook::tls::config(&apiserver::webhook::tls::Trust::Nothing, None, &[]).expect("TLS");
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
    tls.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_by_name_and_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::generate("other").expect("a CA");
    let issue = |file: &str, name: &str| {
        let subject = Subject {
            common_name: name.into(),
            dns_names: vec![name.into()],
            server: true,
            ..Subject::default()
        };
        let pair = authority.issue(&subject).expect("a certificate");
        std::fs::write(dir.path().join(format!("{file}.key")), &pair.key).expect("a file");
        std::fs::write(dir.path().join(format!("{file}.crt")), &pair.cert).expect("a file");
        tls::certificates(&pair.cert).expect("a certificate")[0].to_vec()
    };
    let named = issue("a", "a.example");
    let (a, d) = (dir.path().join("a").display().to_string(), dir.path().display().to_string());
    let server = TestServer::start(&[
        &format!("--tls-sni-cert-key={a}.crt,{a}.key"),
        "--tls-min-version=VersionTLS13",
    ])
    .await;
    assert_eq!(shown(&server, "a.example").await, named);
    assert_ne!(shown(&server, "b.example").await, named);
    let again = issue("a", "a.example");
    eventually("the new certificate is shown", async || shown(&server, "a.example").await == again).await;
    assert!(d.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_other_networks_cannot_connect() {
    use tokio::io::AsyncReadExt as _;
    let server = TestServer::start(&["--client-allow-cidrs=192.0.2.0/24,::1"]).await;
    let mut stream =
        tokio::net::TcpStream::connect(server.base.trim_start_matches("https://")).await.expect("a stream");
    let mut buffer = [0; 8];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect("an end");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let server = TestServer::start(&["--client-deny-cidrs=192.0.2.0/24"]).await;
    assert_eq!(server.admin.get("/version").await.code, 200);
}
