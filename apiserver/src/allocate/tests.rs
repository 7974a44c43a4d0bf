use jiff::Timestamp;

use super::*;
use crate::lookup::ObjectLookup as _;
use crate::lookup::testing::Objects;
use crate::store::testing::MemoryStore;

fn services(range: &str, ports: &str) -> (Services, Arc<Objects>) {
    let store = Arc::new(Objects::default());
    (Services::new(Config::parse(range, ports).unwrap(), store.clone(), MemoryStore::new()), store)
}

fn svc(name: &str, spec: Value) -> Value {
    json!({"metadata":{"name":name,"namespace":"ns"},"spec":spec})
}

async fn create(s: &Services, store: &Objects, name: &str, spec: Value) -> ApiResult<Value> {
    let mut service = svc(name, spec);
    let guard = s.create(&mut service, false).await?;
    store.put(lookup::SERVICES, service.clone());
    guard.commit().await;
    Ok(service)
}

#[tokio::test]
async fn every_service_gets_its_own_address_until_the_range_is_full() {
    let (s, store) = services("10.0.0.0/29", "30000-30099");
    let mut seen = HashSet::new();
    for i in 0..6 {
        let out = create(&s, &store, &format!("s{i}"), json!({"ports":[{"port":80}]})).await.unwrap();
        assert!(seen.insert(out["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        assert_eq!(out["spec"]["clusterIPs"], json!([out["spec"]["clusterIP"]]));
        assert_eq!(out["spec"]["ipFamilies"], json!(["IPv4"]));
    }
    let e = create(&s, &store, "s7", json!({})).await.unwrap_err();
    assert_eq!(
        e.message,
        "Internal error occurred: failed to allocate a serviceIP for Service \"s7\": range is full"
    );
    let first = svc("s0", json!({"clusterIP":"10.0.0.3","clusterIPs":["10.0.0.3"]}));
    s.release(&first).await;
    let out = create(&s, &store, "s8", json!({})).await.unwrap();
    assert_eq!(out["spec"]["clusterIP"], "10.0.0.3");
}

#[tokio::test]
async fn explicit_addresses_and_their_errors() {
    let (s, store) = services("10.0.0.0/24", "30000-30099");
    create(&s, &store, "a", json!({"clusterIP":"10.0.0.10"})).await.unwrap();
    assert_eq!(store.names(lookup::IP_ADDRESSES), ["10.0.0.10"]);
    let e = create(&s, &store, "b", json!({"clusterIP":"10.0.0.10"})).await.unwrap_err();
    assert_eq!(
        e.message,
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.10\"]: failed to allocate IP 10.0.0.10: provided IP is already allocated"
    );
    let e = create(&s, &store, "b", json!({"clusterIP":"10.9.0.1"})).await.unwrap_err();
    assert!(
        e.message.ends_with(
            "failed to allocate IP 10.9.0.1: the provided network does not match the current range"
        )
    );
    let e = create(&s, &store, "b", json!({"clusterIP":"10.0.0.0"})).await.unwrap_err();
    assert_eq!(e.code, 422);
    let headless = create(&s, &store, "h", json!({"clusterIP":"None"})).await.unwrap();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = create(&s, &store, "x", json!({"type":"ExternalName","externalName":"e"})).await.unwrap();
    assert!(external["spec"].get("clusterIP").is_none());
    assert_eq!(store.names(lookup::IP_ADDRESSES).len(), 1);
}

#[tokio::test]
async fn a_failed_write_gives_everything_back() {
    let (s, store) = services("10.0.0.0/24", "30000-30009");
    let mut service = svc("a", json!({"type":"NodePort","ports":[{"port":80,"nodePort":30001}]}));
    let guard = s.create(&mut service, false).await.unwrap();
    assert_eq!(store.names(lookup::IP_ADDRESSES).len(), 1);
    guard.revert().await;
    assert!(store.names(lookup::IP_ADDRESSES).is_empty());
    let guard = s
        .create(&mut svc("b", json!({"type":"NodePort","ports":[{"port":80,"nodePort":30001}]})), false)
        .await;
    drop(guard.unwrap());
    tokio::task::yield_now().await;
    assert!(store.names(lookup::IP_ADDRESSES).is_empty());
    // A refusal in the middle keeps nothing.
    let spec = json!({"type":"NodePort","ports":[{"port":80,"nodePort":30001},{"port":81,"nodePort":80}]});
    let Err(e) = s.create(&mut svc("c", spec), false).await else { panic!("port 80 was given out") };
    assert_eq!(
        e.message,
        "Service \"c\" is invalid: spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30009"
    );
    tokio::task::yield_now().await;
    assert!(store.names(lookup::IP_ADDRESSES).is_empty());
    create(&s, &store, "d", json!({"type":"NodePort","ports":[{"port":80,"nodePort":30001}]})).await.unwrap();
}

#[tokio::test]
async fn dry_runs_take_nothing() {
    let (s, store) = services("10.0.0.0/24", "30000-30099");
    let mut service = svc("a", json!({"type":"NodePort","ports":[{"port":80},{"port":81,"nodePort":80}]}));
    s.create(&mut service, true).await.unwrap().commit().await;
    assert_eq!(service["spec"]["clusterIP"], "10.0.0.0");
    assert_eq!(fields::node_ports(&service), [32769, 80]);
    assert!(store.names(lookup::IP_ADDRESSES).is_empty());
}

#[tokio::test]
async fn node_ports() {
    let (s, store) = services("10.0.0.0/24", "30000-30003");
    let dns = json!({"type":"NodePort","ports":[{"name":"u","port":53,"protocol":"UDP"},{"name":"t","port":53,"protocol":"TCP"}]});
    let out = create(&s, &store, "dns", dns).await.unwrap();
    let p = fields::node_ports(&out);
    assert_eq!(p[0], p[1]);
    let taken = json!({"type":"NodePort","ports":[{"port":80,"nodePort":p[0]}]});
    let e = create(&s, &store, "b", taken).await.unwrap_err();
    assert!(e.message.contains("spec.ports[0].nodePort: Invalid value"), "{}", e.message);
    assert!(e.message.ends_with("provided port is already allocated"));
    let three = json!({"type":"NodePort","ports":[{"port":1},{"port":2},{"port":3}]});
    create(&s, &store, "c", three).await.unwrap();
    let e = create(&s, &store, "d", json!({"type":"NodePort","ports":[{"port":1}]})).await.unwrap_err();
    assert_eq!(e.message, "Internal error occurred: failed to allocate a nodePort: range is full");
    let lb = json!({"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[{"port":1}]});
    assert!(fields::node_ports(&create(&s, &store, "lb", lb).await.unwrap()).is_empty());
}

#[tokio::test]
async fn updates_follow_the_type() {
    let (s, store) = services("10.0.0.0/24", "30000-30000");
    let old = create(&s, &store, "a", json!({"type":"NodePort","ports":[{"port":80}]})).await.unwrap();
    // The same manifest again.
    let mut again = svc("a", json!({"type":"NodePort","ports":[{"port":80}]}));
    s.update(&old, &mut again, false).await.unwrap().commit().await;
    assert_eq!(again["spec"], old["spec"]);
    // Without node ports the port is free for others.
    let mut plain = svc("a", json!({"type":"ClusterIP","ports":[{"port":80}]}));
    s.update(&old, &mut plain, false).await.unwrap().commit().await;
    assert_eq!(plain["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    create(&s, &store, "b", json!({"type":"NodePort","ports":[{"port":80}]})).await.unwrap();
    // Away with the address, and a new one.
    let mut external = plain.clone();
    external["spec"]["type"] = "ExternalName".into();
    s.update(&plain, &mut external, false).await.unwrap().commit().await;
    assert!(external["spec"].get("clusterIP").is_none());
    assert_eq!(store.names(lookup::IP_ADDRESSES).len(), 1);
    let mut back = external.clone();
    back["spec"]["type"] = "ClusterIP".into();
    s.update(&external, &mut back, false).await.unwrap().commit().await;
    assert!(back["spec"]["clusterIP"].is_string());
    // The address stays.
    let mut moved = back.clone();
    let other = if back["spec"]["clusterIP"] == "10.0.0.200" { "10.0.0.201" } else { "10.0.0.200" };
    moved["spec"]["clusterIP"] = other.into();
    let Err(e) = s.update(&back, &mut moved, false).await else { panic!("the address changed") };
    assert_eq!(
        e.message,
        format!(
            "Service \"a\" is invalid: spec.clusterIPs[0]: Invalid value: [\"{other}\"]: may not change once set"
        )
    );
    // A failed update changes nothing.
    let mut gone = back.clone();
    gone["spec"]["type"] = "ExternalName".into();
    s.update(&back, &mut gone, false).await.unwrap().revert().await;
    assert_eq!(store.names(lookup::IP_ADDRESSES).len(), 2);
}

#[tokio::test]
async fn health_check_ports_come_and_go() {
    let (s, store) = services("10.0.0.0/24", "30000-30001");
    let lb = json!({"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":80}]});
    let old = create(&s, &store, "lb", lb).await.unwrap();
    assert!(fields::health_check_port(&old) >= 30000);
    let mut new = old.clone();
    new["spec"]["externalTrafficPolicy"] = "Cluster".into();
    s.update(&old, &mut new, false).await.unwrap().commit().await;
    assert_eq!(fields::health_check_port(&new), 0);
    create(&s, &store, "b", json!({"type":"NodePort","ports":[{"port":80}]})).await.unwrap();
}

#[tokio::test]
async fn dual_stack() {
    let (s, store) = services("10.0.0.0/24,fd00::/112", "30000-30001");
    let old = create(&s, &store, "a", json!({"ipFamilyPolicy":"PreferDualStack"})).await.unwrap();
    assert_eq!(fields::cluster_ips(&old).len(), 2);
    let mut single = old.clone();
    single["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    s.update(&old, &mut single, false).await.unwrap().commit().await;
    assert_eq!(fields::cluster_ips(&single), fields::cluster_ips(&old)[..1]);
    assert_eq!(store.names(lookup::IP_ADDRESSES).len(), 1);
    let mut dual = single.clone();
    dual["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    s.update(&single, &mut dual, false).await.unwrap().commit().await;
    assert_eq!(fields::cluster_ips(&dual).len(), 2);
    assert!(Config::parse("10.0.0.0/24,10.1.0.0/24", "1-2").is_err());
}

#[tokio::test]
async fn a_restart_repairs_after_a_crash() {
    let (s, store) = services("10.0.0.0/24", "30000-30001");
    let spec = json!({"clusterIP":"10.0.0.66","type":"NodePort","ports":[{"port":80,"nodePort":30000}]});
    let kept = create(&s, &store, "a", spec).await.unwrap();
    // Crashed between address and service; just now, and a while ago.
    for (name, ip, created) in [
        ("late", "10.0.0.77", Timestamp::now().to_string()),
        ("lost", "10.0.0.78", "2026-01-01T00:00:00Z".into()),
    ] {
        std::mem::forget(s.create(&mut svc(name, json!({"clusterIP": ip})), false).await.unwrap());
        let mut address = (*store.get(lookup::IP_ADDRESSES, "", ip).await.unwrap().unwrap()).clone();
        address["metadata"]["creationTimestamp"] = created.into();
        store.put(lookup::IP_ADDRESSES, address);
    }
    // A service whose address object is missing, and a port that is not allocated.
    let bare = json!({"clusterIP":"10.0.0.88","clusterIPs":["10.0.0.88"],"type":"NodePort","ports":[{"nodePort":30001}]});
    store.put(lookup::SERVICES, svc("bare", bare));
    let s = Services::new(
        Config::parse("10.0.0.0/24", "30000-30001").unwrap(),
        store.clone(),
        MemoryStore::new(),
    );
    s.repair(&mut Leaks::default()).await.unwrap();
    let mut want =
        vec![kept["spec"]["clusterIP"].as_str().unwrap().to_owned(), "10.0.0.77".into(), "10.0.0.88".into()];
    want.sort();
    let mut have = store.names(lookup::IP_ADDRESSES);
    have.sort();
    assert_eq!(have, want);
    for port in [30000, 30001] {
        let spec = json!({"type":"NodePort","ports":[{"port":80,"nodePort":port}]});
        assert_eq!(create(&s, &store, "b", spec).await.unwrap_err().code, 422);
    }
}

#[tokio::test]
async fn an_address_of_another_server_is_found_free() {
    let (s, store) = services("10.0.0.0/30", "30000-30001");
    create(&s, &store, "a", json!({})).await.unwrap();
    let b = create(&s, &store, "b", json!({})).await.unwrap();
    assert!(create(&s, &store, "c", json!({})).await.is_err());
    // Another server deletes the service: nobody tells this one.
    let ip = b["spec"]["clusterIP"].as_str().unwrap();
    store.delete(lookup::IP_ADDRESSES, "", ip, None).await.unwrap();
    assert_eq!(create(&s, &store, "c", json!({})).await.unwrap()["spec"]["clusterIP"], ip);
}

#[tokio::test]
async fn what_may_be_in_use_is_not_given_away() {
    let (s, store) = services("10.0.0.0/24", "30000-30009");
    let spec = json!({"clusterIP":"10.0.0.9","type":"NodePort","ports":[{"port":80,"nodePort":30001}]});
    let mut guard = s.create(&mut svc("a", spec), false).await.unwrap();
    guard.writing();
    guard.written::<()>(&Err(crate::status::ApiError::new(500, "", "the leader does not answer"))).await;
    assert_eq!(store.names(lookup::IP_ADDRESSES), ["10.0.0.9"]);
    let same_port = json!({"type":"NodePort","ports":[{"port":80,"nodePort":30001}]});
    assert_eq!(create(&s, &store, "b", same_port).await.unwrap_err().code, 422);
    // Nor when the client went away in the middle.
    let mut guard = s.create(&mut svc("c", json!({"clusterIP":"10.0.0.10"})), false).await.unwrap();
    guard.writing();
    drop(guard);
    tokio::task::yield_now().await;
    assert!(store.names(lookup::IP_ADDRESSES).contains(&"10.0.0.10".to_owned()));
}

#[tokio::test]
async fn concurrent_creates_never_share() {
    let (s, store) = services("10.0.0.0/25", "30000-30199");
    let jobs: Vec<_> = (0..100)
        .map(|i| {
            let (s, store) = (s.clone(), store.clone());
            tokio::spawn(async move {
                create(&s, &store, &format!("s{i}"), json!({"type":"NodePort","ports":[{"port":80}]}))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let (mut ips, mut ports) = (HashSet::new(), HashSet::new());
    for j in jobs {
        let out = j.await.unwrap();
        assert!(ips.insert(fields::cluster_ip(&out).to_owned()));
        assert!(ports.insert(fields::node_ports(&out)[0]));
    }
}
