//! Custom resources, over HTTP: the life of a definition, and all verbs on its objects.

mod common;

use std::time::Duration;

use common::{Answer, Client, TestServer};
use http::Method;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "stable.example.com";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/crontabs";

/// A definition with two versions of one schema, and every extra.
fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "cronSpec": {"type": "string", "pattern": "^\\S+$"},
            "replicas": {"type": "integer", "minimum": 0, "default": 1},
            "color": {"type": "string"},
            "ports": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "required": ["port"], "properties": {
                    "port": {"type": "integer"}, "name": {"type": "string"}}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
    }}});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": schema,
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [
                {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
            ],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("crontabs.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [version("v1", true), version("v2", false)],
        },
    })
}

fn tab(name: &str, color: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "CronTab", "metadata": {"name": name, "labels": {"c": color}},
        "spec": {"cronSpec": "*****", "color": color},
    })
}

fn text(a: &Answer) -> String {
    String::from_utf8_lossy(&a.body).into_owned()
}

fn condition(crd: &Value, kind: &str) -> (String, String) {
    let all = crd["status"]["conditions"].as_array();
    let c = all.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    let text = |f: &str| c[f].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Asks until the answer is as wanted.
async fn until(c: &Client, path: &str, what: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    for _ in 0..500 {
        let a = c.get(path).await;
        let (code, body) = (a.code, serde_json::from_slice(&a.body).unwrap_or_default());
        if wanted(code, &body) {
            return body;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} never was {what}: {}", text(&c.get(path).await));
}

async fn establish(c: &Client, crd: &Value) -> Value {
    c.post(CRDS, crd).await.expect(201);
    let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().expect("a name"));
    until(c, &path, "established", |_, o| condition(o, "Established").0 == "True").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_of_a_definition() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    assert_eq!(c.get(V1).await.code, 404);
    let crd = establish(c, &definition()).await;
    assert_eq!(condition(&crd, "NamesAccepted"), ("True".into(), "NoConflicts".into()));
    assert_eq!(condition(&crd, "Established").1, "InitialNamesAccepted");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");

    let group = c.get(&format!("/apis/{GROUP}")).await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let groups = c.get("/apis").await.expect(200);
    assert_eq!(groups["groups"].as_array().and_then(|g| g.last()).map(|g| &g["name"]), Some(&json!(GROUP)));
    let resources = c.get(&format!("/apis/{GROUP}/v1")).await.expect(200);
    let names: Vec<&str> = resources["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    assert_eq!(resources["resources"][2]["group"], "autoscaling");
    let all = c
        .get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        .await
        .expect(200);
    let found = all["items"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|g| g["metadata"]["name"] == GROUP)
        .expect("the group");
    assert_eq!(
        found["versions"][0]["resources"][0]["responseKind"],
        json!({"group": GROUP, "version": "v2", "kind": "CronTab"})
    );

    c.post(V1, &tab("a", "blue")).await.expect(201);
    let mut held = tab("held", "red");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(V1, &held).await.expect(201);
    let mut watch = c.watch(&format!("{V1}?watch=true&resourceVersion=0")).await;
    assert_eq!(watch.step().await, ("ADDED".into(), "a".into()));
    assert_eq!(watch.step().await, ("ADDED".into(), "held".into()));

    let path = format!("{CRDS}/crontabs.{GROUP}");
    let going = c.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&going, "Terminating"), ("True".into(), "InstanceDeletionPending".into()));
    until(c, &format!("{V1}/a"), "gone", |code, _| code == 404).await;
    assert_eq!(watch.step().await, ("DELETED".into(), "a".into()));
    assert_eq!(watch.step().await, ("MODIFIED".into(), "held".into()));
    let late = c.post(V1, &tab("late", "blue")).await.expect(403);
    assert_eq!(
        late["message"],
        "crontabs.stable.example.com \"late\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    let resources = c.get(&format!("/apis/{GROUP}/v1")).await.expect(200);
    assert_eq!(
        resources["resources"][0]["verbs"],
        json!(["delete", "deletecollection", "get", "list", "watch"])
    );
    c.get(&path).await.expect(200);
    c.merge(&format!("{V1}/held"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    until(c, &path, "gone", |code, _| code == 404).await;
    until(c, V1, "gone", |code, _| code == 404).await;
    assert_eq!(c.get(&format!("/apis/{GROUP}")).await.code, 404);
    while watch.next().await.is_some() {}

    establish(c, &definition()).await;
    assert_eq!(c.get(V1).await.expect(200)["items"], json!([]), "nothing came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;

    let mut sent = tab("a", "blue");
    sent["status"] = json!({"replicas": 7});
    sent["spec"]["free"] = json!({"anything": [1, 2]});
    let made = c.post(V1, &sent).await.expect(201);
    assert_eq!(made["spec"]["replicas"], 1, "defaulted");
    assert!(made.get("status").is_none(), "the status is set through its own endpoint");
    assert_eq!(
        (made["metadata"]["generation"].as_i64(), &made["spec"]["free"]),
        (Some(1), &sent["spec"]["free"])
    );
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], format!("{GROUP}/v1"));
    assert_eq!(c.post(V1, &sent).await.expect(409)["reason"], "AlreadyExists");
    let path = format!("{V1}/a");
    assert_eq!(c.get(&path).await.expect(200), made);
    let list = c.get(V1).await.expect(200);
    assert_eq!(
        (list["kind"].as_str(), list["items"][0]["kind"].as_str()),
        (Some("CronTabList"), Some("CronTab"))
    );

    let mut o = made.clone();
    o["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    let refused = c.put(&path, &o).await.expect(422);
    assert!(
        refused["message"].as_str().is_some_and(|m| m.contains("must be specified for an update")),
        "{refused}"
    );
    o = made.clone();
    o["metadata"]["annotations"] = json!({"k": "v"});
    o = c.put(&path, &o).await.expect(200);
    assert_eq!(o["metadata"]["generation"], 1, "metadata does not count");
    o["spec"]["color"] = json!("red");
    o = c.put(&path, &o).await.expect(200);
    assert_eq!(o["metadata"]["generation"], 2);
    let again = c.put(&path, &o).await.expect(200);
    assert_eq!(
        again["metadata"]["resourceVersion"], o["metadata"]["resourceVersion"],
        "a no-op writes nothing"
    );

    let merged = c.merge(&path, &json!({"spec": {"cronSpec": "x"}})).await.expect(200);
    assert_eq!(
        (merged["spec"]["cronSpec"].as_str(), merged["metadata"]["generation"].as_i64()),
        (Some("x"), Some(3))
    );
    let kind = [("content-type", "application/json-patch+json")];
    let patched =
        c.send(Method::PATCH, &path, &kind, r#"[{"op":"remove","path":"/spec/color"}]"#).await.expect(200);
    assert!(patched["spec"].get("color").is_none());
    let kind = [("content-type", "application/strategic-merge-patch+json")];
    c.send(Method::PATCH, &path, &kind, "{}").await.expect(415);

    let wrong = c.post(V1, &json!({"apiVersion": format!("{GROUP}/v1"), "kind": "CronTab", "metadata": {"name": "w"}, "spec": {"cronSpec": "a b", "replicas": "1"}})).await.expect(422);
    let mut causes: Vec<&str> = wrong["details"]["causes"]
        .as_array()
        .expect("causes")
        .iter()
        .filter_map(|c| c["field"].as_str())
        .collect();
    causes.sort_unstable();
    assert_eq!(causes, [".spec.replicas", "spec.cronSpec", "spec.replicas"], "{wrong}");
    let other = c
        .post(V1, &json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Other", "metadata": {"name": "w"}}))
        .await
        .expect(422);
    assert!(
        other["message"]
            .as_str()
            .is_some_and(|m| m.contains("kind: Invalid value: \"Other\": must be CronTab")),
        "{other}"
    );
    let untyped = c.post(V1, &json!({"metadata": {"name": "w"}})).await.expect(400);
    assert!(untyped["message"].as_str().is_some_and(|m| m.contains("Object 'Kind' is missing")), "{untyped}");
    let unknown = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "CronTab", "metadata": {"name": "u", "nope": 1}, "spec": {"nope": 1}});
    let strict = c.post(&format!("{V1}?fieldValidation=Strict"), &unknown).await.expect(400);
    assert!(
        strict["message"].as_str().is_some_and(|m| m.ends_with(
            "strict decoding error: unknown field \"metadata.nope\", unknown field \"spec.nope\""
        )),
        "{strict}"
    );
    let pruned = c.post(&format!("{V1}?dryRun=All"), &unknown).await.expect(201);
    assert!(pruned["spec"].get("nope").is_none());
    c.get(&format!("{V1}/u")).await.expect(404);

    let generated =
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "CronTab", "metadata": {"generateName": "g-"}});
    let generated = c.post(V1, &generated).await.expect(201);
    assert!(generated["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("g-") && n.len() > 2));
    c.post(V1, &tab("b", "green")).await.expect(201);
    let green = c.get(&format!("{V1}?fieldSelector=spec.color%3Dgreen")).await.expect(200);
    assert_eq!(
        (green["items"].as_array().map(Vec::len), &green["items"][0]["metadata"]["name"]),
        (Some(1), &json!("b"))
    );
    let labelled = c.get(&format!("{V1}?labelSelector=c%3Dgreen")).await.expect(200);
    assert_eq!(labelled["items"], green["items"]);
    let no = c.get(&format!("{V1}?fieldSelector=spec.cronSpec%3Dx")).await.expect(400);
    assert!(
        no["message"].as_str().is_some_and(|m| m.contains("field label not supported: spec.cronSpec")),
        "{no}"
    );
    let page = c.get(&format!("{V1}?limit=1")).await.expect(200);
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    let gone = c.delete(&path).await.expect(200);
    assert_eq!(gone["details"]["group"], GROUP);
    c.delete(V1).await.expect(200);
    assert_eq!(c.get(V1).await.expect(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_scale() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    let mut o = c.post(V1, &tab("a", "blue")).await.expect(201);
    o["status"] = json!({"replicas": 2, "selector": "app=x"});
    o["spec"]["color"] = json!("red");
    let path = format!("{V1}/a");
    let o = c.put(&format!("{path}/status"), &o).await.expect(200);
    assert_eq!((o["status"]["replicas"].as_i64(), o["spec"]["color"].as_str()), (Some(2), Some("blue")));
    assert_eq!(o["metadata"]["generation"], 1);
    let kept = c.merge(&path, &json!({"status": {"replicas": 9}})).await.expect(200);
    assert_eq!(kept["status"]["replicas"], 2);

    let scale = c.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(
        (scale["apiVersion"].as_str(), scale["kind"].as_str()),
        (Some("autoscaling/v1"), Some("Scale"))
    );
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 1}), &json!({"replicas": 2, "selector": "app=x"}))
    );
    let scaled = c.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    let o = c.get(&path).await.expect(200);
    assert_eq!((o["spec"]["replicas"].as_i64(), o["metadata"]["generation"].as_i64()), (Some(5), Some(2)));
    c.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": -1}})).await.expect(422);
    c.get(&format!("{path}/other")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    let path = format!("{V1}/a");
    let send = |manager: &str, spec: Value, more: &str| {
        let body = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "CronTab", "metadata": {"name": "a"}, "spec": spec});
        let path = format!("{path}?fieldManager={manager}{more}");
        async move {
            let kind = [("content-type", "application/apply-patch+yaml")];
            c.send(Method::PATCH, &path, &kind, body.to_string()).await
        }
    };
    let one =
        send("one", json!({"cronSpec": "x", "ports": [{"port": 80, "name": "web"}]}), "").await.expect(201);
    assert_eq!(one["metadata"]["managedFields"][0]["operation"], "Apply");
    let two = send("two", json!({"ports": [{"port": 81}]}), "").await.expect(200);
    assert_eq!(two["spec"]["ports"].as_array().map(Vec::len), Some(2), "lists with keys merge");
    let conflict = send("two", json!({"cronSpec": "y"}), "").await.expect(409);
    assert!(conflict["message"].as_str().is_some_and(|m| m.contains(".spec.cronSpec")), "{conflict}");
    let forced = send("two", json!({"cronSpec": "y"}), "&force=true").await.expect(200);
    assert_eq!(forced["spec"]["cronSpec"], "y");
    assert_eq!(forced["spec"]["ports"].as_array().map(Vec::len), Some(1), "what is no longer applied goes");
    let odd = send("two", json!({"nope": 1}), "&force=true").await;
    assert!(text(&odd).contains(".spec.nope: field not declared in schema"), "{}", text(&odd));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_metadata_and_formats() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    c.post(V1, &tab("a", "blue")).await.expect(201);
    let table = c.get_as(V1, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let heads: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(heads, ["Name", "Spec", "Replicas"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "*****", 1]));
    let partial = c
        .get_as(&format!("{V1}/a"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
        .await
        .expect(200);
    assert_eq!((partial["kind"].as_str(), partial.get("spec")), (Some("PartialObjectMetadata"), None));
    let wire = c
        .get_as(V1, "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .await;
    assert_eq!((wire.code, &wire.body[..4]), (200, b"k8s\0".as_slice()));
    let fallen = c.get_as(V1, "application/vnd.kubernetes.protobuf,application/json").await.expect(200);
    assert_eq!(fallen["kind"], "CronTabList");
    assert_eq!(c.get_as(V1, "application/vnd.kubernetes.protobuf").await.code, 406);
    let yaml = c.get_as(&format!("{V1}/a"), "application/yaml").await;
    assert!(text(&yaml).contains("cronSpec:"), "{}", text(&yaml));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_without_conversion() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let mut crd = definition();
    crd["spec"]["versions"][0]["deprecated"] = json!(true);
    establish(c, &crd).await;
    let made = c.post(V1, &tab("a", "blue")).await;
    assert_eq!(
        made.headers.get("warning").and_then(|v| v.to_str().ok()),
        Some("299 - \"stable.example.com/v1 CronTab is deprecated; use stable.example.com/v2 CronTab\"")
    );
    let made = made.expect(201);
    let mut second = c.get(&format!("{V2}/a")).await.expect(200);
    assert_eq!(second["apiVersion"], format!("{GROUP}/v2"));
    assert_eq!(second["metadata"]["uid"], made["metadata"]["uid"]);
    let mut watch = c.watch(&format!("{V2}?watch=true")).await;
    assert_eq!(watch.next().await.expect("an event")["object"]["apiVersion"], format!("{GROUP}/v2"));
    second["spec"]["color"] = json!("red");
    c.put(&format!("{V2}/a"), &second).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["object"]["apiVersion"], &event["object"]["spec"]["color"]),
        (&json!(format!("{GROUP}/v2")), &json!("red"))
    );
    assert_eq!(c.get(&format!("{V1}/a")).await.expect(200)["spec"]["color"], "red");

    // The other version becomes the stored one, and then the first is no longer served.
    let path = format!("{CRDS}/crontabs.{GROUP}");
    let mut crd = c.get(&path).await.expect(200);
    crd["spec"]["versions"][0]["storage"] = json!(false);
    crd["spec"]["versions"][1]["storage"] = json!(true);
    let crd = c.put(&path, &crd).await.expect(200);
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    while watch.next().await.is_some() {}
    until(c, &format!("{V2}/a"), "served in v2", |code, o| {
        code == 200 && o["apiVersion"] == format!("{GROUP}/v2")
    })
    .await;
    let merge = [("content-type", "application/merge-patch+json")];
    let patched =
        c.send(Method::PATCH, &format!("{V1}/a"), &merge, r#"{"spec":{"replicas":3}}"#).await.expect(200);
    assert_eq!(
        (&patched["apiVersion"], &patched["spec"]["replicas"]),
        (&json!(format!("{GROUP}/v1")), &json!(3))
    );
    let kind = [("content-type", "application/json-patch+json")];
    c.send(
        Method::PATCH,
        &path,
        &kind,
        r#"[{"op":"replace","path":"/spec/versions/0/served","value":false}]"#,
    )
    .await
    .expect(200);
    until(c, V1, "gone", |code, _| code == 404).await;
    assert_eq!(c.get(&format!("{V2}/a")).await.expect(200)["spec"]["replicas"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_belong_to_the_first() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = json!(format!("crons.{GROUP}"));
    other["spec"]["names"] =
        json!({"plural": "crons", "singular": "cron", "kind": "CronTab", "shortNames": ["ct"]});
    c.post(CRDS, &other).await.expect(201);
    let path = format!("{CRDS}/crons.{GROUP}");
    let crd = until(c, &path, "judged", |_, o| condition(o, "NamesAccepted").0 == "False").await;
    assert_eq!(condition(&crd, "NamesAccepted").1, "ListKindConflict");
    assert_eq!(condition(&crd, "Established"), ("False".into(), "NotAccepted".into()));
    assert_eq!(c.get(&format!("/apis/{GROUP}/v1/crons")).await.code, 404);
    c.delete(&format!("{CRDS}/crontabs.{GROUP}")).await.expect(200);
    until(c, &path, "established", |_, o| condition(o, "Established").0 == "True").await;
    c.get(&format!("/apis/{GROUP}/v1/crons")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_reach_stored_objects() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    c.post(V1, &tab("a", "blue")).await.expect(201);
    let path = format!("{CRDS}/crontabs.{GROUP}");
    let kind = [("content-type", "application/json-patch+json")];
    // In both versions: where their schemas differ, upstream takes no selectable fields that are the same.
    let add = |i: usize| {
        let at = format!("/spec/versions/{i}/schema/openAPIV3Schema/properties/spec/properties/size");
        json!({"op": "add", "path": at, "value": {"type": "string", "default": "big"}})
    };
    let add = json!([add(0), add(1)]).to_string();
    c.send(Method::PATCH, &path, &kind, add).await.expect(200);
    until(c, &format!("{V1}/a"), "defaulted", |_, o| o["spec"]["size"] == "big").await;
    assert_eq!(c.get(V1).await.expect(200)["items"][0]["spec"]["size"], "big");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    establish(c, &definition()).await;
    let place = |index: &Value| {
        let path = index["paths"][format!("apis/{GROUP}/v1")]["serverRelativeURL"].as_str();
        path.unwrap_or_default().to_owned()
    };
    let first = place(&c.get("/openapi/v3").await.expect(200));
    let document = c.get(&first).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": GROUP, "version": "v1", "kind": "CronTab"}])
    );
    assert_eq!(schema["properties"]["spec"]["properties"]["cronSpec"]["pattern"], "^\\S+$");
    assert_eq!(
        schema["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let path = format!("/apis/{GROUP}/v1/namespaces/{{namespace}}/crontabs/{{name}}");
    for below in ["", "/status", "/scale"] {
        assert!(document["paths"][format!("{path}{below}")]["patch"].is_object(), "{below}");
    }
    assert!(document["components"]["schemas"]["com.example.stable.v1.CronTabList"].is_object());
    let v2 = c.get_as("/openapi/v2", "application/json").await.expect(200);
    let schema = &v2["definitions"]["com.example.stable.v1.CronTab"];
    assert!(
        schema["properties"]["spec"]["properties"]["replicas"].get("default").is_none(),
        "v2 has no defaults"
    );
    assert_eq!(
        schema["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );

    let path = format!("{CRDS}/crontabs.{GROUP}");
    let kind = [("content-type", "application/json-patch+json")];
    let replace = |i: usize| {
        let at = format!("/spec/versions/{i}/schema/openAPIV3Schema/properties/spec/description");
        json!({"op": "add", "path": at, "value": "What is wanted."})
    };
    let replace = json!([replace(0), replace(1)]).to_string();
    c.send(Method::PATCH, &path, &kind, replace).await.expect(200);
    let index = until(c, "/openapi/v3", "new", |_, o| place(o) != first).await;
    let document = c.get(&place(&index)).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["description"], "What is wanted.");
    c.delete(&path).await.expect(200);
    until(c, "/openapi/v3", "without the group", |_, o| place(o).is_empty()).await;
}
