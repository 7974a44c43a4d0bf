//! Several API servers over one store: they start together, answer alike, give nothing out twice, and go on when one of
//! them is killed.
// Its helpers are test code as well.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use integration_tests::Group;
use integration_tests::group::Config;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What every server must show alike once all have started.
const BOOTSTRAP: [&str; 9] = [
    "/api/v1/namespaces",
    "/api/v1/services",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/scheduling.k8s.io/v1/priorityclasses",
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
    "/apis/apiregistration.k8s.io/v1/apiservices",
    "/apis/networking.k8s.io/v1/servicecidrs",
    "/apis/networking.k8s.io/v1/ipaddresses",
];

fn of<T: k8s_openapi::serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    of(json!({"metadata": {"name": name}, "data": {"v": name}}))
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, "default")
}

/// Tries until it succeeds.
async fn soon<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    seconds: u64,
    mut check: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match check().await {
            Ok(value) => return value,
            Err(e) if Instant::now() > end => panic!("not within {seconds} s: {what}: {e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn endpoints(client: Client) -> Result<Vec<String>, String> {
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let slice = slices.get("kubernetes").await.map_err(|e| e.to_string())?;
    Ok(slice.endpoints.into_iter().flatten().flat_map(|e| e.addresses).collect())
}

async fn wait_endpoints(group: &Group, at: u32, members: &[u32], seconds: u64) {
    let wanted: Vec<String> = members.iter().map(|n| group.address(*n)).collect();
    soon("the endpoints of the kubernetes service", seconds, || async {
        let have = endpoints(group.client(at)).await?;
        if have == wanted { Ok(()) } else { Err(format!("{have:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_start_together_and_answer_alike() {
    let group = Group::start(Config::default()).await.unwrap();
    for path in BOOTSTRAP {
        let mut seen = Vec::new();
        for n in group.members() {
            let list: Value = serde_json::from_str(&group.get(n, path).await.unwrap()).unwrap();
            seen.push(list["items"].clone());
        }
        assert!(!seen[0].as_array().unwrap().is_empty(), "{path} is empty");
        assert!(seen.iter().all(|s| *s == seen[0]), "{path} differs");
    }
    for n in group.members() {
        wait_endpoints(&group, n, &[1, 2, 3], 15).await;
    }
    // Watches at all servers see one order, whoever writes.
    let start =
        maps(group.client(1)).list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watches = group.members().map(|n| watch(group.client(n), start.clone(), 60));
    let watches: Vec<_> = watches.map(tokio::spawn).collect();
    for i in 0..30 {
        let (at, by) = (1 + i % 3, 1 + (i + 1) % 3);
        let name = format!("c{i}");
        let made = maps(group.client(at)).create(&PostParams::default(), &config_map(&name)).await.unwrap();
        // What one has acknowledged the next one knows.
        let read = maps(group.client(by)).get(&name).await.unwrap();
        assert_eq!(read.resource_version(), made.resource_version());
        let mut new = read.clone();
        new.data = Some([("v".to_owned(), "new".to_owned())].into());
        maps(group.client(by)).replace(&name, &PostParams::default(), &new).await.unwrap();
        let stale = maps(group.client(at)).replace(&name, &PostParams::default(), &read).await.unwrap_err();
        assert!(matches!(&stale, kube::Error::Api(e) if e.code == 409), "{stale}");
    }
    let seen: Vec<_> = join_all(watches).await.into_iter().map(Result::unwrap).collect();
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:?}");
    assert!(seen[0].is_sorted() && seen[0].iter().collect::<HashSet<_>>().len() == 60, "{:?}", seen[0]);
    // A token of one server is good at the others.
    let accounts: Api<ServiceAccount> = Api::namespaced(group.client(1), "default");
    accounts.create(&PostParams::default(), &of(json!({"metadata": {"name": "robot"}}))).await.unwrap();
    let request: TokenRequest = of(json!({"metadata": {}, "spec": {"audiences": []}}));
    let token = accounts.create_token_request("robot", &PostParams::default(), &request).await.unwrap();
    let token = token.status.unwrap().token;
    for n in group.members() {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token},
        });
        let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews");
        let request =
            request.header("content-type", "application/json").body(review.to_string().into_bytes());
        let review: Value = group.client(n).request(request.unwrap()).await.unwrap();
        assert_eq!(review["status"]["authenticated"], true, "server {n}: {review}");
    }
    group.down().await.unwrap();
}

/// The revisions of the first `count` events after `start`.
async fn watch(client: Client, start: String, count: usize) -> Vec<u64> {
    use futures::StreamExt as _;
    let maps = maps(client);
    let params = WatchParams::default().timeout(30).disable_bookmarks();
    let mut stream = std::pin::pin!(maps.watch(&params, &start).await.unwrap());
    let mut out = Vec::new();
    while out.len() < count {
        match stream.next().await.expect("the watch ended").unwrap() {
            WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o) => {
                out.push(o.resource_version().unwrap().parse().unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    out
}

/// Creates so many services with a node port, at all servers at once; those that were made.
async fn make_services(clients: &[Client], prefix: &str, count: usize) -> Vec<Service> {
    let jobs = (0..count).map(|i| {
        let services: Api<Service> = Api::namespaced(clients[i % clients.len()].clone(), "default");
        let service = json!({
            "metadata": {"name": format!("{prefix}{i}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        });
        async move { services.create(&PostParams::default(), &of(service)).await.ok() }
    });
    join_all(jobs).await.into_iter().flatten().collect()
}

fn node_port(s: &Service) -> i32 {
    s.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port.unwrap()
}

fn cluster_ip(s: &Service) -> String {
    s.spec.as_ref().unwrap().cluster_ip.clone().unwrap()
}

async fn nothing_is_given_out_twice(clients: &[Client]) {
    let made = make_services(clients, "s", 60).await;
    // The range has forty ports.
    assert_eq!(made.len(), 40);
    let unique = |of: &dyn Fn(&Service) -> String| made.iter().map(of).collect::<HashSet<_>>().len();
    assert_eq!((unique(&cluster_ip), unique(&|s| node_port(s).to_string())), (40, 40));
    // What one server gives free the others may take, all of it and no more.
    let first: Api<Service> = Api::namespaced(clients[0].clone(), "default");
    for s in made.iter().take(10) {
        first.delete(&s.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let again = make_services(&clients[1..], "t", 20).await;
    assert_eq!(again.len(), 10);
    let before: HashSet<i32> = made.iter().take(10).map(node_port).collect();
    assert_eq!(again.iter().map(node_port).collect::<HashSet<_>>(), before);
    // A quota holds for all servers together.
    let quotas: Api<ResourceQuota> = Api::namespaced(clients[0].clone(), "kube-public");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "12"}}});
    quotas.create(&PostParams::default(), &of(quota)).await.unwrap();
    let there = Api::<ConfigMap>::namespaced(clients[0].clone(), "kube-public");
    let before = there.list(&ListParams::default()).await.unwrap().items.len();
    // What the quota controller would have counted.
    let counted = json!({"status": {
        "hard": {"count/configmaps": "12"}, "used": {"count/configmaps": before.to_string()}}});
    quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(&counted)).await.unwrap();
    let jobs = (0..30).map(|i| {
        let maps: Api<ConfigMap> = Api::namespaced(clients[i % clients.len()].clone(), "kube-public");
        async move {
            for _ in 0..20 {
                match maps.create(&PostParams::default(), &config_map(&format!("q{i}"))).await {
                    Ok(_) => return true,
                    // Too many at the same time: to be tried again.
                    Err(kube::Error::Api(e)) if e.code == 409 => {}
                    Err(kube::Error::Api(e)) if e.message.contains("exceeded quota: q") => return false,
                    Err(e) => panic!("{e}"),
                }
            }
            panic!("a create was put off twenty times")
        }
    });
    let made = join_all(jobs).await.into_iter().filter(|made| *made).count();
    assert_eq!(made + before, 12);
}

/// The whole range of a small cluster, so that it can be used up.
fn small_range() -> Vec<String> {
    vec!["--service-node-port-range=31000-31039".into()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_port_or_quota_is_given_out_twice() {
    let group = Group::start(Config { flags: small_range(), ..Config::default() }).await.unwrap();
    let clients: Vec<_> = group.members().map(|n| group.client(n)).collect();
    nothing_is_given_out_twice(&clients).await;
    group.down().await.unwrap();
}

/// What the writers have heard of one server.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, String>,
    refused: Vec<String>,
    /// Without an acknowledged write, at most.
    gap: Duration,
}

/// Writes at one server until `end`.
async fn write(client: Client, server: u32, end: Instant) -> Told {
    let maps = maps(client);
    let mut told = Told::default();
    let mut last = Instant::now();
    for i in 0.. {
        if Instant::now() > end {
            break;
        }
        let name = format!("w{server}-{i}");
        let params = PostParams::default();
        let map = config_map(&name);
        let done = tokio::time::timeout(Duration::from_secs(5), maps.create(&params, &map)).await;
        match done {
            Ok(Ok(made)) => {
                told.gap = told.gap.max(last.elapsed());
                last = Instant::now();
                told.acknowledged.insert(name, made.resource_version().unwrap());
            }
            // Said to have done nothing, or not known.
            Ok(Err(kube::Error::Api(e))) => {
                assert!(matches!(e.code, 500 | 503 | 504), "{e:?}");
                if e.code == 503 {
                    told.refused.push(name);
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    told.gap = told.gap.max(last.elapsed());
    told
}

/// How long any server may be without a write that succeeds: a few elections, on however slow a machine. How long it takes
/// is measured by `make bench PARTS=store`.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills `victim` under load; what the others said meanwhile is kept, and they go on.
async fn kill_under_load(group: &Group, victim: u32, round: u32) {
    let others: Vec<u32> = group.members().filter(|n| *n != victim).collect();
    let end = Instant::now() + PATIENCE + Duration::from_secs(3);
    let writers: Vec<_> =
        group.members().map(|n| tokio::spawn(write(group.client(n), round * 10 + n, end))).collect();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(group.signal(victim, Signal::SIGKILL).await);
    let told: Vec<Told> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    for n in &others {
        let waited = told[*n as usize - 1].gap;
        println!("server {victim} killed: server {n} waited {waited:?} for a write at most");
        assert!(
            waited < PATIENCE,
            "after server {victim} was killed, server {n} took {waited:?} for a write"
        );
    }
    group.spawn(victim).unwrap();
    group.wait_ready(victim, Duration::from_secs(20)).await.unwrap();
    for n in group.members() {
        let there = maps(group.client(n)).list(&ListParams::default()).await.unwrap().items;
        let there: BTreeMap<_, _> =
            there.iter().map(|m| (m.name_any(), m.resource_version().unwrap_or_default())).collect();
        for t in &told {
            assert!(t.acknowledged.len() > 3, "hardly anything was written");
            for (name, revision) in &t.acknowledged {
                assert_eq!(
                    there.get(name),
                    Some(revision),
                    "{name} was acknowledged, and is lost at server {n}"
                );
            }
            for name in &t.refused {
                assert!(!there.contains_key(name), "{name} was refused, and is there at server {n}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_servers_are_replaced_and_come_back() {
    let group = Group::start(Config::default()).await.unwrap();
    wait_endpoints(&group, 1, &[1, 2, 3], 15).await;
    let leader = group.leader().await.expect("a leader");
    kill_under_load(&group, leader, 1).await;
    let leader = group.leader().await.expect("a leader");
    let follower = group.members().find(|n| *n != leader).unwrap();
    kill_under_load(&group, follower, 2).await;
    // One that is gone for longer leaves the endpoints, and comes back to them.
    let leader = group.leader().await.expect("a leader");
    let gone = group.members().find(|n| *n != leader).unwrap();
    group.signal(gone, Signal::SIGKILL).await;
    let left: Vec<u32> = group.members().filter(|n| *n != gone).collect();
    wait_endpoints(&group, leader, &left, 40).await;
    group.spawn(gone).unwrap();
    group.wait_ready(gone, Duration::from_secs(20)).await.unwrap();
    wait_endpoints(&group, leader, &[1, 2, 3], 15).await;
    // One that ends by itself leaves them at once.
    group.signal(gone, Signal::SIGTERM).await;
    wait_endpoints(&group, leader, &left, 2).await;
    // Without a majority nothing is acknowledged, nor read; and it says why.
    let last = left.iter().copied().find(|n| *n != leader).unwrap();
    group.signal(last, Signal::SIGKILL).await;
    let lonely = async || {
        let (maps, map, params) = (maps(group.client(leader)), config_map("lonely"), PostParams::default());
        let answer = maps.create(&params, &map);
        match tokio::time::timeout(Duration::from_secs(15), answer).await {
            Ok(Err(kube::Error::Api(e))) => e,
            other => panic!("one of three servers answers {other:?}"),
        }
    };
    // The first may be on its way when the leader notices: the others may yet hear of it.
    let first = lonely().await;
    let unknown = first.code == 500 && first.message.contains("whether the write happened is not known");
    assert!(first.code == 503 || unknown, "{first:?}");
    let second = lonely().await;
    assert_eq!(second.code, 503, "{second:?}");
    group.spawn(last).unwrap();
    group.wait_ready(leader, Duration::from_secs(20)).await.unwrap();
    group.down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_an_etcd() {
    let config = Config { servers: 2, flags: small_range(), etcd: true, ..Config::default() };
    let group = Group::prepare(config).await.unwrap();
    group.start_etcd().await.unwrap();
    for n in group.members() {
        group.spawn(n).unwrap();
    }
    for n in group.members() {
        group.wait_ready(n, Duration::from_secs(40)).await.unwrap();
    }
    for n in group.members() {
        wait_endpoints(&group, n, &[1, 2], 15).await;
    }
    let clients: Vec<_> = group.members().map(|n| group.client(n)).collect();
    nothing_is_given_out_twice(&clients).await;
    // One that is killed leaves nothing behind that stops the other, and finds everything when it comes back.
    let end = Instant::now() + Duration::from_secs(2);
    let writer = tokio::spawn(write(group.client(1), 1, end));
    tokio::time::sleep(Duration::from_millis(500)).await;
    group.signal(2, Signal::SIGKILL).await;
    let told = writer.await.unwrap();
    assert!(told.acknowledged.len() > 10 && told.gap < Duration::from_secs(1), "{:?}", told.gap);
    group.spawn(2).unwrap();
    group.wait_ready(2, Duration::from_secs(20)).await.unwrap();
    let there = maps(group.client(2)).list(&ListParams::default()).await.unwrap().items;
    let there: HashSet<_> = there.iter().map(ResourceExt::name_any).collect();
    assert!(told.acknowledged.keys().all(|name| there.contains(name)));
    group.down().await.unwrap();
}
