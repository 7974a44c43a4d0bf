use super::*;
use crate::admission::config::Configs;
use crate::admission::plugins::testing::{Write, environment};
use crate::lookup::testing::Objects;
use crate::lookup::{ObjectLookup as _, Resource};

/// The status of a quota that the controller has counted: nothing is used.
fn counted(spec: &Value) -> Value {
    let used: serde_json::Map<String, Value> =
        spec["hard"].as_object().unwrap().keys().map(|k| (k.clone(), "0".into())).collect();
    json!({"hard": spec["hard"], "used": used})
}

fn quota(spec: Value) -> (Resource, Value) {
    let status = counted(&spec);
    (lookup::RESOURCE_QUOTAS, json!({"metadata":{"name":"q","namespace":"ns"},"spec":spec,"status":status}))
}

fn setup(spec: Value) -> (Arc<dyn Plugin>, Arc<Objects>) {
    let (env, store) = environment([quota(spec)]);
    (build(&env), store)
}

fn pod(cpu: &str) -> Value {
    let resources =
        if cpu.is_empty() { json!({}) } else { json!({"requests":{"cpu":cpu},"limits":{"cpu":cpu}}) };
    json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a","resources":resources}]}})
}

async fn create(p: &Arc<dyn Plugin>, resource: Resource, object: Value) -> Result<(), String> {
    Write::create(resource, "ns").run(&**p, Some(object)).await.map(drop).map_err(|e| e.message)
}

async fn used(store: &Objects) -> Value {
    store.get(lookup::RESOURCE_QUOTAS, "ns", "q").await.unwrap().unwrap()["status"]["used"].clone()
}

#[tokio::test]
async fn usage_is_reserved_and_bounded() {
    let (p, store) = setup(json!({"hard":{"pods":"2","requests.cpu":"1"}}));
    create(&p, lookup::PODS, pod("600m")).await.unwrap();
    assert_eq!(used(&store).await, json!({"pods":"1","requests.cpu":"600m"}));
    assert_eq!(
        create(&p, lookup::PODS, pod("600m")).await.unwrap_err(),
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    create(&p, lookup::PODS, pod("400m")).await.unwrap();
    assert_eq!(
        create(&p, lookup::PODS, pod("")).await.unwrap_err(),
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: a"
    );
}

#[tokio::test]
async fn nothing_is_enforced_that_the_controller_has_not_seen() {
    let unseen = json!({"metadata":{"name":"q","namespace":"ns"},"spec":{"hard":{"pods":"0"}}});
    let (env, _) = environment([(lookup::RESOURCE_QUOTAS, unseen.clone())]);
    create(&build(&env), lookup::PODS, pod("")).await.unwrap();
    let mut uncounted = unseen;
    uncounted["status"] = json!({"hard":{"pods":"1"}});
    let (env, _) = environment([(lookup::RESOURCE_QUOTAS, uncounted)]);
    assert_eq!(
        create(&build(&env), lookup::PODS, pod("")).await.unwrap_err(),
        "pods \"p\" is forbidden: status unknown for quota: q, resources: pods"
    );
}

#[tokio::test]
async fn a_charged_write_counts_before_it_is_stored() {
    // Nothing of what is admitted is ever stored here, as if every write were still under way.
    let (p, _) = setup(json!({"hard":{"pods":"2"}}));
    create(&p, lookup::PODS, pod("")).await.unwrap();
    create(&p, lookup::PODS, pod("")).await.unwrap();
    assert!(create(&p, lookup::PODS, pod("")).await.is_err());
}

#[tokio::test]
async fn a_dry_run_reserves_nothing() {
    let (p, store) = setup(json!({"hard":{"pods":"1"}}));
    let mut w = Write::create(lookup::PODS, "ns");
    w.dry_run = true;
    w.run(&*p, Some(pod(""))).await.unwrap();
    assert_eq!(used(&store).await, json!({"pods":"0"}));
}

#[tokio::test]
async fn counts_of_other_kinds() {
    let (p, _) =
        setup(json!({"hard":{"configmaps":"1","count/widgets.example.com":"1","services.nodeports":"2",
        "gold.storageclass.storage.k8s.io/requests.storage":"5Gi"}}));
    let maps = Resource { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap" };
    create(&p, maps, json!({"metadata":{"name":"a"}})).await.unwrap();
    assert!(
        create(&p, maps, json!({"metadata":{"name":"b"}})).await.unwrap_err().contains(
            "exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
        )
    );
    let widgets = Resource { group: "example.com", version: "v1", resource: "widgets", kind: "Widget" };
    create(&p, widgets, json!({"metadata":{"name":"a"}})).await.unwrap();
    assert!(create(&p, widgets, json!({"metadata":{"name":"b"}})).await.is_err());
    let service = json!({"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{},{},{}]}});
    assert!(create(&p, lookup::SERVICES, service).await.unwrap_err().contains("services.nodeports=3"));
    let claim = |class: &str| json!({"metadata":{"name":"c"},"spec":{"storageClassName":class,"resources":{"requests":{"storage":"6Gi"}}}});
    assert!(create(&p, lookup::PERSISTENT_VOLUME_CLAIMS, claim("gold")).await.is_err());
    create(&p, lookup::PERSISTENT_VOLUME_CLAIMS, claim("tin")).await.unwrap();
}

#[tokio::test]
async fn updates_pay_the_difference() {
    let (p, store) = setup(json!({"hard":{"requests.storage":"10Gi"}}));
    let claim = |size: &str| json!({"metadata":{"name":"c","namespace":"ns"},"spec":{"resources":{"requests":{"storage":size}}}});
    create(&p, lookup::PERSISTENT_VOLUME_CLAIMS, claim("4Gi")).await.unwrap();
    store.put(lookup::PERSISTENT_VOLUME_CLAIMS, claim("4Gi"));
    let mut w = Write::create(lookup::PERSISTENT_VOLUME_CLAIMS, "ns");
    (w.operation, w.old) = (Operation::Update, Some(claim("4Gi")));
    w.run(&*p, Some(claim("9Gi"))).await.unwrap();
    assert_eq!(used(&store).await, json!({"requests.storage":"9Gi"}));
    w.run(&*p, Some(claim("2Gi"))).await.unwrap();
    assert!(w.run(&*p, Some(claim("20Gi"))).await.is_err());
}

#[tokio::test]
async fn a_deadline_brings_a_pod_under_another_quota() {
    let (p, store) = setup(json!({"hard":{"pods":"1"},"scopes":["Terminating"]}));
    create(&p, lookup::PODS, pod("1")).await.unwrap();
    let mut deadline = pod("1");
    deadline["spec"]["activeDeadlineSeconds"] = json!(3600);
    let mut w = Write::create(lookup::PODS, "ns");
    (w.operation, w.old) = (Operation::Update, Some(pod("1")));
    w.run(&*p, Some(deadline.clone())).await.unwrap();
    assert_eq!(used(&store).await["pods"], "1");
    w.old = Some(deadline.clone());
    w.run(&*p, Some(deadline.clone())).await.unwrap();
    assert_eq!(used(&store).await["pods"], "1", "it has paid");
    assert!(create(&p, lookup::PODS, deadline).await.unwrap_err().contains("exceeded quota"));
}

#[tokio::test]
async fn scopes() {
    for (spec, counted) in [
        (json!({"scopes":["BestEffort"]}), false),
        (json!({"scopes":["NotBestEffort"]}), true),
        (json!({"scopes":["Terminating"]}), false),
        (
            json!({"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["high"]}]}}),
            true,
        ),
        (
            json!({"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"NotIn","values":["high"]}]}}),
            false,
        ),
    ] {
        let mut spec = spec;
        spec["hard"] = json!({"pods":"0"});
        let (p, _) = setup(spec.clone());
        let mut pod = pod("1");
        pod["spec"]["priorityClassName"] = "high".into();
        assert_eq!(create(&p, lookup::PODS, pod).await.is_err(), counted, "{spec}");
    }
}

#[tokio::test]
async fn concurrent_writes_stay_within() {
    let (p, store) = setup(json!({"hard":{"count/widgets.example.com":"5"}}));
    let widgets = Resource { group: "example.com", version: "v1", resource: "widgets", kind: "Widget" };
    let jobs: Vec<_> = (0..8)
        .map(|i| {
            let p = p.clone();
            tokio::spawn(async move {
                create(&p, widgets, json!({"metadata":{"name":i.to_string()}})).await.is_ok()
            })
        })
        .collect();
    let mut admitted = 0;
    for j in jobs {
        admitted += usize::from(j.await.unwrap());
    }
    assert_eq!(admitted, 5);
    assert_eq!(used(&store).await, json!({"count/widgets.example.com":"5"}));
}

#[tokio::test]
async fn limited_resources_need_a_quota() {
    let config = json!({"limitedResources": [
        {"resource": "pods", "matchContains": ["pods"]},
        {"resource": "pods", "matchScopes": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}]});
    let quota = |name: &str, spec: Value| {
        let status = counted(&spec);
        (
            lookup::RESOURCE_QUOTAS,
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec, "status": status}),
        )
    };
    let pod = |class: &str| {
        Some(
            json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": class, "containers": [{"name": "c"}]}}),
        )
    };
    let run = async |quotas: Vec<(lookup::Resource, Value)>, class: &str| {
        let (mut env, _) = environment(quotas);
        env.configs = Arc::new(Configs {
            resource_quota: serde_json::from_value(config.clone()).unwrap(),
            ..Configs::default()
        });
        Write::create(lookup::PODS, "n").run(&*build(&env), pod(class)).await.map(drop).map_err(|e| e.message)
    };
    assert_eq!(
        run(vec![], "").await.unwrap_err(),
        "pods \"p\" is forbidden: insufficient quota to consume: count/pods,pods"
    );
    let all = json!({"hard": {"pods": "9", "count/pods": "9"}});
    assert_eq!(run(vec![quota("q", all.clone())], "").await, Ok(()));
    assert_eq!(
        run(vec![quota("q", all.clone())], "high").await.unwrap_err(),
        "insufficient quota to match these scopes: [{PriorityClass In [high]}]"
    );
    let high = json!({"hard": {"pods": "9"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    assert_eq!(run(vec![quota("q", all), quota("h", high)], "high").await, Ok(()));
}
