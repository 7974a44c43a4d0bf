//! Over the store's model; KMS plugins are small gRPC servers on a unix socket.

use super::*;
use crate::store::testing::MemoryStore;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_service::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusResponse};
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::HashMap;

fn config(rules: &str) -> Configuration {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:";
    Configuration::parse(format!("{head} {rules}\n").as_bytes()).unwrap()
}

fn key(name: &str, byte: u8) -> String {
    format!("{{name: {name}, secret: {}}}", STANDARD.encode([byte; 32]))
}

async fn put(store: &dyn Store, key: &str, expected: Revision, value: &'static str) -> Revision {
    let op = Op::Put { value: Bytes::from_static(value.as_bytes()), ttl_seconds: 0 };
    match store.txn(Txn { key: key.to_owned(), expected, op }).await.unwrap() {
        TxnResult::Done(r) => r,
        TxnResult::Conflict(c) => panic!("conflict: {c:?}"),
    }
}

async fn value(store: &dyn Store, key: &str) -> String {
    let kv = store.get(key, 0).await.unwrap().unwrap();
    String::from_utf8_lossy(&kv.value).into_owned()
}

const SECRET: &str = "/registry/secrets/ns/a";

#[tokio::test]
async fn what_is_written_is_encrypted_and_read_back() {
    let inner: Arc<dyn Store> = MemoryStore::new();
    for (provider, prefix) in [
        ("aesgcm", "k8s:enc:aesgcm:v1:k1:"),
        ("aescbc", "k8s:enc:aescbc:v1:k1:"),
        ("secretbox", "k8s:enc:secretbox:v1:k1:"),
    ] {
        let c = config(&format!(
            "[{{resources: [secrets, pandas.bears.example, '*.apps'], providers: [{{{provider}: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]",
            key("k1", 1)
        ));
        let store = Encrypted::new(inner.clone(), &c).await.unwrap();
        for encrypted in [SECRET, "/registry/bears.example/pandas/ns/a", "/registry/deployments/ns/a"] {
            let expected = inner.get(encrypted, 0).await.unwrap().map_or(0, |kv| kv.mod_revision);
            put(&*store, encrypted, expected, "plain").await;
            assert!(value(&*inner, encrypted).await.starts_with(prefix), "{encrypted}");
            assert_eq!(value(&*store, encrypted).await, "plain");
            assert!(!store.is_stale(encrypted).await.unwrap());
            // Another place is another context, where the cipher knows of it.
            inner.txn(Txn { key: encrypted.to_owned(), expected: 0, op: Op::Delete }).await.unwrap();
        }
        let plain = format!("/registry/configmaps/ns/{provider}");
        put(&*store, &plain, 0, "plain").await;
        assert_eq!(value(&*inner, &plain).await, "plain");
    }
}

#[tokio::test]
async fn keys_rotate_and_old_values_are_stale() {
    let inner: Arc<dyn Store> = MemoryStore::new();
    put(&*inner, SECRET, 0, "old and plain").await;
    let rule = |providers: &str| config(&format!("[{{resources: [secrets], providers: [{providers}]}}]"));
    let store = Encrypted::new(
        inner.clone(),
        &rule(&format!("{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}", key("k1", 1))),
    )
    .await
    .unwrap();
    assert_eq!(value(&*store, SECRET).await, "old and plain");
    assert!(store.is_stale(SECRET).await.unwrap());
    let r = store.get(SECRET, 0).await.unwrap().unwrap().mod_revision;
    put(&*store, SECRET, r, "new").await;
    assert!(!store.is_stale(SECRET).await.unwrap());
    // A second key: the old one still reads, the new one writes.
    let both = format!("{{aesgcm: {{keys: [{}, {}]}}}}", key("k2", 2), key("k1", 1));
    store.reconfigure(&rule(&both)).await.unwrap();
    assert_eq!(value(&*store, SECRET).await, "new");
    assert!(store.is_stale(SECRET).await.unwrap());
    let r = store.get(SECRET, 0).await.unwrap().unwrap().mod_revision;
    put(&*store, SECRET, r, "newer").await;
    assert!(value(&*inner, SECRET).await.starts_with("k8s:enc:aesgcm:v1:k2:"));
    // The key is taken away.
    store.reconfigure(&rule(&format!("{{aesgcm: {{keys: [{}]}}}}", key("k3", 3)))).await.unwrap();
    let e = store.get(SECRET, 0).await.unwrap_err().to_string();
    assert!(e.contains("unable to transform key \"/registry/secrets/ns/a\""), "{e}");
    store.reconfigure(&rule("{identity: {}}")).await.unwrap();
    let e = store.get(SECRET, 0).await.unwrap_err().to_string();
    assert!(e.contains("identity transformer tried to read encrypted data"), "{e}");
}

#[tokio::test]
async fn lists_watches_and_conflicts_are_decrypted() {
    let inner: Arc<dyn Store> = MemoryStore::new();
    let c =
        config(&format!("[{{resources: ['*.*'], providers: [{{secretbox: {{keys: [{}]}}}}]}}]", key("k", 1)));
    let store = Encrypted::new(inner, &c).await.unwrap();
    let mut watch = store.watch("/registry/", "/registry0", 0).await.unwrap();
    let r = put(&*store, SECRET, 0, "one").await;
    put(&*store, SECRET, r, "two").await;
    let request =
        RangeRequest { start: "/registry/".into(), end: "/registry0".into(), revision: 0, limit: 0 };
    assert_eq!(&store.range(request).await.unwrap().items[0].value[..], b"two");
    let op = Op::Put { value: Bytes::from_static(b"x"), ttl_seconds: 0 };
    let conflict = store.txn(Txn { key: SECRET.into(), expected: 0, op }).await.unwrap();
    assert!(matches!(conflict, TxnResult::Conflict(Some(kv)) if &kv.value[..] == b"two"));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match watch.recv().await.unwrap().unwrap() {
            WatchBatch::Events(events) => seen.extend(events),
            WatchBatch::Progress(_) => {}
        }
    }
    assert_eq!(&seen[0].kv.value[..], b"one");
    assert_eq!((&seen[1].kv.value[..], seen[1].prev.as_deref()), (&b"two"[..], Some(&b"one"[..])));
}

/// A plugin whose key can be changed: it "encrypts" by turning every bit.
#[derive(Clone)]
struct Plugin {
    key_id: Arc<Mutex<String>>,
    healthz: Arc<Mutex<String>>,
    calls: Arc<Mutex<HashMap<String, u32>>>,
}

impl Plugin {
    fn serve(socket: &std::path::Path) -> Self {
        let plugin = Self {
            key_id: Arc::new(Mutex::new("key-1".into())),
            healthz: Arc::new(Mutex::new("ok".into())),
            calls: Arc::default(),
        };
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let p = plugin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let p = p.clone();
                let service = hyper::service::service_fn(move |r| p.clone().answer(r));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        plugin
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
    ) -> Result<
        http::Response<impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>>,
        std::convert::Infallible,
    > {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = &body[5..];
        *self.calls.lock().entry(method.clone()).or_default() += 1;
        let turn = |b: Vec<u8>| b.into_iter().map(|b| !b).collect::<Vec<u8>>();
        let message = match method.as_str() {
            "Status" => StatusResponse {
                version: "v2".into(),
                healthz: self.healthz.lock().clone(),
                key_id: self.key_id.lock().clone(),
            }
            .encode_to_vec(),
            "Encrypt" => EncryptResponse {
                ciphertext: turn(EncryptRequest::decode(body).unwrap().plaintext),
                key_id: self.key_id.lock().clone(),
                annotations: HashMap::from([("version.example".to_owned(), b"1".to_vec())]),
            }
            .encode_to_vec(),
            _ => {
                let request = DecryptRequest::decode(body).unwrap();
                assert_eq!(request.annotations["version.example"], b"1");
                DecryptResponse { plaintext: turn(request.ciphertext) }.encode_to_vec()
            }
        };
        let mut data = vec![0];
        data.extend((message.len() as u32).to_be_bytes());
        data.extend(message);
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let frames = [Ok(Frame::data(Bytes::from(data))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames));
        Ok(http::Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    }

    fn calls(&self, method: &str) -> u32 {
        self.calls.lock().get(method).copied().unwrap_or(0)
    }
}

#[tokio::test]
async fn kms_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kms.sock");
    let plugin = Plugin::serve(&socket);
    let c = config(&format!(
        "[{{resources: [secrets], providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}, {{identity: {{}}}}]}}]",
        socket.display()
    ));
    let inner: Arc<dyn Store> = MemoryStore::new();
    let store = Encrypted::new(inner.clone(), &c).await.unwrap();
    store.plugin_health().unwrap();
    let mut revision = 0;
    for v in ["one", "two", "three"] {
        revision = put(&*store, SECRET, revision, v).await;
        assert_eq!(value(&*store, SECRET).await, v);
    }
    assert!(value(&*inner, SECRET).await.starts_with("k8s:enc:kms:v2:vault:"));
    assert_eq!((plugin.calls("Encrypt"), plugin.calls("Decrypt")), (1, 0), "the seed is kept");
    // Another process has to ask for the seed, once.
    let other = Encrypted::new(inner.clone(), &c).await.unwrap();
    assert_eq!(value(&*other, SECRET).await, "three");
    assert_eq!(value(&*other, SECRET).await, "three");
    assert_eq!(plugin.calls("Decrypt"), 1);
    assert!(!other.is_stale(SECRET).await.unwrap());
    // The key is rotated.
    *plugin.key_id.lock() = "key-2".into();
    other.current.load().probe().await.unwrap();
    assert!(other.is_stale(SECRET).await.unwrap());
    put(&*other, SECRET, revision, "four").await;
    assert!(!other.is_stale(SECRET).await.unwrap());
    assert_eq!(value(&*store, SECRET).await, "four");
    // The plugin is ill.
    *plugin.healthz.lock() = "sealed".into();
    other.current.load().probe().await.unwrap_err();
    let e = other.plugin_health().unwrap_err();
    assert_eq!(e, "kms-provider vault: expected KMSv2 healthz status ok, got sealed");
}
