use super::*;
use crate::lookup::testing::Objects;
use crate::lookup::{self, Resource};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::time::Duration;

struct Ca {
    pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let cert = params.self_signed(&key).unwrap();
    Ca { pem: cert.pem().into_bytes(), issuer: Issuer::new(params, key) }
}

fn leaf(ca: &Ca, cn: &str, org: &str, usage: ExtendedKeyUsagePurpose, days: i64) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !cn.is_empty() {
        params.distinguished_name.push(DnType::CommonName, cn);
    }
    params.distinguished_name.push(DnType::OrganizationName, org);
    params.extended_key_usages = vec![usage];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after =
        if days > 0 { rcgen::date_time_ymd(2099, 1, 1) } else { rcgen::date_time_ymd(2021, 1, 1) };
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

fn request(path: &str, headers: &[(&'static str, String)]) -> Parts {
    let mut b = http::Request::builder().uri(path);
    for (k, v) in headers {
        b = b.header(*k, v);
    }
    b.body(()).unwrap().into_parts().0
}

fn authenticator(config: Config, objects: Objects) -> Authenticator {
    Authenticator::new(config, Arc::new(objects)).unwrap()
}

#[tokio::test]
async fn client_certificates() {
    let ours = ca();
    let a = authenticator(
        Config { client_ca: Some(ours.pem.clone()), anonymous: Anonymous::Everywhere, ..Config::default() },
        Objects::default(),
    );
    let ask =
        async |cert: CertificateDer<'static>| a.authenticate(&request("/api", &[]), Some(&[cert])).await;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let cert = leaf(&ours, "jane", "dev", client.clone(), 1);
    for _ in 0..2 {
        let u = ask(cert.clone()).await.unwrap();
        assert_eq!(
            (u.name.as_str(), &u.groups[..]),
            ("jane", &["dev".to_owned(), "system:authenticated".to_owned()][..])
        );
        assert!(u.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        assert_eq!(u.extra[CREDENTIAL_ID][0].len(), 11 + 64);
    }
    // Wrong ones are refused although anonymous requests may pass.
    assert_eq!(ask(leaf(&ca(), "jane", "dev", client.clone(), 1)).await.unwrap_err().code, 401);
    assert_eq!(ask(leaf(&ours, "jane", "dev", client.clone(), -1)).await.unwrap_err().code, 401);
    assert_eq!(
        ask(leaf(&ours, "jane", "dev", ExtendedKeyUsagePurpose::ServerAuth, 1)).await.unwrap_err().code,
        401
    );
    assert_eq!(ask(leaf(&ours, "", "dev", client, 1)).await.unwrap_err().code, 401);
    assert_eq!(a.authenticate(&request("/api", &[]), None).await.unwrap().name, ANONYMOUS);
}

/// A CA and a certificate of version 1 that it signed, as `openssl x509 -req` makes it.
const VERSION1_CA: &str = include_str!("testdata/version1-ca.pem");
const VERSION1: &str = include_str!("testdata/version1-client.pem");

#[test]
fn certificates_of_version_1() {
    let at = |seconds| std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    let cert = x509::certificates("f", VERSION1.as_bytes()).unwrap();
    let ours = x509::X509::new("f", VERSION1_CA.as_bytes()).unwrap();
    let user = ours.authenticate(&cert, at(2_000_000_000)).unwrap();
    assert_eq!((user.name.as_str(), &user.groups[..]), ("old-style", &["dev".to_owned()][..]));
    let ours = x509::X509::new("f", VERSION1_CA.as_bytes()).unwrap();
    assert!(ours.authenticate(&cert, at(1_000_000_000)).unwrap_err().contains("not valid at this time"));
    assert!(ours.authenticate(&cert, at(9_900_000_000)).is_err());
    let other = x509::X509::new("f", &ca().pem).unwrap();
    assert!(
        other.authenticate(&cert, at(2_000_000_000)).unwrap_err().contains("no CA of the file signed it")
    );
}

#[tokio::test]
async fn anonymous_reaches_health_only_by_default() {
    let a = authenticator(Config::default(), Objects::default());
    for (path, ok) in [("/healthz", true), ("/readyz", true), ("/livez/ping", false), ("/api", false)] {
        let r = a.authenticate(&request(path, &[]), None).await;
        assert_eq!(r.is_ok(), ok, "{path}");
    }
    // A bad token is no anonymous request.
    let r = a.authenticate(&request("/healthz", &[("authorization", "Bearer x".into())]), None).await;
    assert_eq!(r.unwrap_err().code, 401);
}

#[tokio::test]
async fn front_proxy() {
    let (proxies, clients) = (ca(), ca());
    let a = authenticator(
        Config {
            client_ca: Some(clients.pem.clone()),
            request_header: Some(request_header::Config {
                client_ca: proxies.pem.clone(),
                allowed_names: vec!["proxy".into()],
                username_headers: vec!["X-Remote-User".into()],
                group_headers: vec!["X-Remote-Group".into()],
                extra_headers_prefixes: vec!["X-Remote-Extra-".into()],
                ..request_header::Config::default()
            }),
            ..Config::default()
        },
        Objects::default(),
    );
    let headers = [
        ("x-remote-user", "jane".to_owned()),
        ("x-remote-group", "dev".to_owned()),
        ("x-remote-extra-scopes%2fa", "view".to_owned()),
    ];
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let by = async |cert| a.authenticate(&request("/api", &headers), Some(&[cert])).await;
    let u = by(leaf(&proxies, "proxy", "x", client.clone(), 1)).await.unwrap();
    assert_eq!((u.name.as_str(), u.groups[0].as_str()), ("jane", "dev"));
    assert_eq!(u.extra["scopes/a"], ["view"]);
    assert_eq!(by(leaf(&proxies, "other", "x", client.clone(), 1)).await.unwrap_err().code, 401);
    // An ordinary client cannot name someone else: he stays himself.
    assert_eq!(by(leaf(&clients, "bob", "x", client, 1)).await.unwrap().name, "bob");
}

const ISSUER: &str = "https://kubernetes.default.svc";

fn sa_objects() -> Objects {
    let o = |r: Resource, ns: &str, name: &str, uid: &str, spec: Value| {
        (r, json!({"metadata":{"name":name,"namespace":ns,"uid":uid},"spec":spec}))
    };
    Objects::with([
        o(lookup::SERVICE_ACCOUNTS, "ns", "sa", "sa-uid", json!({})),
        o(lookup::PODS, "ns", "pod", "pod-uid", json!({"serviceAccountName":"sa","nodeName":"n1"})),
        o(lookup::NODES, "", "n1", "n1-uid", json!({})),
    ])
}

fn signer() -> keys::SigningKey {
    keys::SigningKey::from_pem("key", KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
}

async fn issue(objects: &Arc<Objects>, spec: Value) -> (ApiResult<Value>, Authenticator) {
    let key = signer();
    let config = service_account::Config {
        issuers: vec![ISSUER.into()],
        keys: vec![key.public().clone()],
        api_audiences: Vec::new(),
    };
    let a =
        Authenticator::new(Config { service_account: Some(config), ..Config::default() }, objects.clone())
            .unwrap();
    let issuer = token_request::Issuer {
        issuer: ISSUER.into(),
        key,
        api_audiences: vec![ISSUER.into()],
        max_seconds: 0,
        extend: true,
        objects: objects.clone(),
    };
    let mut request = json!({"spec": spec});
    let out = async {
        issuer.prepare("ns", "sa", &mut request).await?;
        Ok(issuer.issue("ns", "sa", request, SystemTime::now()).await?.0)
    };
    (out.await, a)
}

fn token(request: &Value) -> String {
    request["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn service_account_tokens() {
    let objects = Arc::new(sa_objects());
    let spec = json!({"expirationSeconds":3607,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod","uid":"pod-uid"}});
    let (request, a) = issue(&objects, spec).await;
    let request = request.unwrap();
    assert_eq!(request["spec"]["audiences"], json!([ISSUER]));
    let token = token(&request);
    let found = a.authenticate_token(&token, &[]).await.unwrap().unwrap();
    assert_eq!(found.user.name, "system:serviceaccount:ns:sa");
    assert_eq!(found.user.uid, "sa-uid");
    assert_eq!(found.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
    assert_eq!(found.user.extra[service_account::POD_NAME], ["pod"]);
    assert_eq!(found.user.extra[service_account::NODE_UID], ["n1-uid"]);
    assert!(found.user.extra[CREDENTIAL_ID][0].starts_with("JTI="));
    let header = request_with(&token);
    assert!(a.authenticate(&header, None).await.unwrap().in_group(AUTHENTICATED_GROUP));
    // Another audience, a broken signature, another's issuer.
    assert!(a.authenticate_token(&token, &["vault".into()]).await.is_err());
    let mut broken = token.clone();
    broken.truncate(broken.len() - 4);
    broken.push_str("AAAA");
    assert!(a.authenticate_token(&broken, &[]).await.is_err());
    assert_eq!(a.authenticate_token("a.b.c", &[]).await.unwrap(), None);
    // A pod's token is extended by a year, and lives no longer than the pod.
    let sa = a.service_accounts().unwrap();
    let in_a_month = SystemTime::now() + Duration::from_secs(30 * 86400);
    assert!(sa.authenticate(&token, &[], in_a_month).await.is_ok());
    let in_two_years = SystemTime::now() + Duration::from_secs(2 * 365 * 86400);
    assert_eq!(
        sa.authenticate(&token, &[], in_two_years).await.unwrap_err(),
        "service account token has expired"
    );
    objects.put(lookup::PODS, json!({"metadata":{"name":"pod","namespace":"ns","uid":"new"}}));
    assert!(a.authenticate_token(&token, &[]).await.unwrap_err().contains("pod UID (new) does not match"));
    crate::lookup::ObjectWriter::delete(&*objects, lookup::PODS, "ns", "pod", None).await.unwrap();
    assert_eq!(
        a.authenticate_token(&token, &[]).await.unwrap_err(),
        "service account token has been invalidated"
    );
}

fn request_with(token: &str) -> Parts {
    request("/api", &[("authorization", format!("Bearer {token}"))])
}

#[tokio::test]
async fn token_requests_are_checked() {
    let objects = Arc::new(sa_objects());
    let e = issue(&objects, json!({"expirationSeconds":10})).await.0.unwrap_err();
    assert_eq!(
        e.message,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes"
    );
    let bind = |name: &str, uid: &str| json!({"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":name,"uid":uid}});
    assert_eq!(issue(&objects, bind("gone", "")).await.0.unwrap_err().code, 404);
    assert_eq!(issue(&objects, bind("pod", "other")).await.0.unwrap_err().code, 409);
    objects.put(
        lookup::PODS,
        json!({"metadata":{"name":"p2","namespace":"ns"},"spec":{"serviceAccountName":"x"}}),
    );
    assert_eq!(issue(&objects, bind("p2", "")).await.0.unwrap_err().code, 400);
    let (r, a) = issue(&objects, json!({})).await;
    let r = r.unwrap();
    assert_eq!(r["spec"]["expirationSeconds"], 3600);
    assert!(a.authenticate_token(&token(&r), &[]).await.unwrap().is_some());
}

#[tokio::test]
async fn token_reviews() {
    let objects = Arc::new(sa_objects());
    let (r, a) = issue(&objects, json!({})).await;
    let review = token_review::review(&a, json!({"spec":{"token":token(&r.unwrap())}})).await.unwrap();
    assert_eq!(review["status"]["authenticated"], true);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:ns:sa");
    assert_eq!(review["status"]["audiences"], json!([ISSUER]));
    let review = token_review::review(&a, json!({"spec":{"token":"zzz"}})).await.unwrap();
    assert!(review["status"].get("authenticated").is_none());
    assert!(token_review::review(&a, json!({"spec":{}})).await.is_err());
}

#[test]
fn key_files_and_discovery() {
    let key = signer();
    let pem = KeyPair::generate().unwrap();
    let both = keys::public_keys("f", format!("{}{}", pem.serialize_pem(), pem.public_key_pem()).as_bytes())
        .unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(both[0].id, both[1].id);
    assert_ne!(both[0].id, key.public().id);
    let doc = keys::openid_configuration(ISSUER, "https://x/openid/v1/jwks", &both).unwrap();
    assert_eq!(doc["id_token_signing_alg_values_supported"], json!(["ES256"]));
    assert_eq!(keys::jwks(&both)["keys"][0]["kty"], "EC");
    assert!(keys::openid_configuration("kubernetes", "x", &both).is_none());
    assert!(keys::public_keys("f", b"").is_err());
}

#[test]
fn websocket_bearer_tokens() {
    let p = request(
        "/",
        &[(
            "sec-websocket-protocol",
            format!("v5.channel.k8s.io, {WEBSOCKET_BEARER}{}", URL_SAFE_NO_PAD.encode("tok")),
        )],
    );
    assert_eq!(bearer_token(&p.headers).as_deref(), Some("tok"));
    let mut headers = p.headers;
    strip_websocket_bearer(&mut headers);
    assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    let p = request("/", &[("authorization", "Basic abc".to_owned())]);
    assert_eq!(bearer_token(&p.headers), None);
    // A token alone: no protocol is left to agree on.
    let alone = format!("{WEBSOCKET_BEARER}{}", URL_SAFE_NO_PAD.encode("tok"));
    let p = request("/", &[("sec-websocket-protocol", alone)]);
    assert_eq!(bearer_token(&p.headers), None);
}
