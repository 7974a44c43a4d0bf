//! One feature of requests, slices and devices after the other.

use serde_json::{Value, json};

use super::{add_class, allocate, allocate_on, claim, cluster, give, one, plain, settle, slice};
use crate::model::Labels;

fn strings(s: &[&str]) -> Vec<String> {
    s.iter().map(|x| (*x).to_owned()).collect()
}

fn exactly(more: Value) -> Value {
    let mut e = json!({"deviceClassName": "gpu"});
    for (k, v) in more.as_object().into_iter().flatten() {
        e[k] = v.clone();
    }
    e
}

fn selector(expression: &str) -> Value {
    json!([{"cel": {"expression": expression}}])
}

#[test]
fn the_first_free_device_is_taken() {
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b"])}))]);
    assert_eq!(settle(&mut dra, &one("x")), Ok(strings(&["r=p/a"])));
    assert_eq!(settle(&mut dra, &one("y")), Ok(strings(&["r=p/b"])));
    assert_eq!(settle(&mut dra, &one("z")), Err("no".into()));
    // Two claims at once do not get the same.
    let dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b"])}))]);
    assert_eq!(allocate(&dra, &[&one("x"), &one("y")]), Ok(strings(&["r=p/a", "r=p/b"])));
}

#[test]
fn pending_allocations_count_until_they_are_written_or_given_up() {
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a"])}))]);
    let x = one("x");
    dra.claims.set(std::sync::Arc::new(x.clone())).expect("new");
    let a = allocate_on(&dra, "n", &Labels::default(), &[&x]).expect("fine").expect("found").remove(0);
    dra.claims.reserve(&"uid-x".into(), a.clone());
    assert_eq!(allocate(&dra, &[&one("y")]), Err("no".into()));
    // An echo of the claim from before changes nothing.
    dra.claims.set(std::sync::Arc::new(x.clone())).expect("as old as what is known");
    assert_eq!(allocate(&dra, &[&one("y")]), Err("no".into()));
    assert!(dra.claims.release("uid-x"));
    assert!(allocate(&dra, &[&one("y")]).is_ok());
    // Written, then released: it counts once, and no more once the claim is gone.
    dra.claims.reserve(&"uid-x".into(), a.clone());
    give(&mut dra, &x, a);
    assert!(dra.claims.release("uid-x"));
    assert_eq!(allocate(&dra, &[&one("y")]), Err("no".into()));
    dra.claims.remove(&"default".into(), &"x".into());
    assert!(allocate(&dra, &[&one("y")]).is_ok());
}

#[test]
fn older_versions_of_a_claim_are_left_aside() {
    let mut dra = cluster([]);
    let mut at = |version: &str| {
        let mut c = one("x");
        c.metadata.resource_version = Some(version.into());
        dra.claims.set(std::sync::Arc::new(c)).is_ok()
    };
    assert_eq!([at("10"), at("9"), at("10"), at("100")], [true, false, true, true]);
}

#[test]
fn selectors_of_class_and_request_must_match() {
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b", "c"])}))]);
    add_class(
        &mut dra,
        "odd",
        json!({"selectors": selector("device.attributes['gpu.example.com'].index % 2 == 1")}),
    );
    let of = |class: &str, s: &str| {
        let e = json!({"deviceClassName": class, "selectors": selector(s)});
        claim("x", json!({"requests": [{"name": "r", "exactly": e}]}))
    };
    let last = "device.attributes['gpu.example.com'].index == 2";
    assert_eq!(allocate(&dra, &[&of("gpu", last)]), Ok(strings(&["r=p/c"])));
    assert_eq!(allocate(&dra, &[&of("odd", last)]), Err("no".into()));
    assert_eq!(allocate(&dra, &[&of("odd", "true")]), Ok(strings(&["r=p/b"])));
    assert_eq!(
        allocate(&dra, &[&of("gpu", "device.attributes['gpu.example.com'].none")]),
        Err("claim default/x: selector #0: CEL runtime error: no such key: none".into())
    );
    let broken = allocate(&dra, &[&of("gpu", "1 +")]).expect_err("does not compile");
    assert!(
        broken.starts_with("claim default/x: selector #0: CEL compile error: compilation failed: ERROR"),
        "{broken}"
    );
    let missing = "claim default/x, request r: could not retrieve device class none: deviceclass.resource.k8s.io \"none\" not found";
    assert_eq!(allocate(&dra, &[&of("none", "true")]), Err(missing.into()));
}

#[test]
fn all_devices_or_none() {
    let all = claim(
        "x",
        json!({"requests": [{"name": "r", "exactly": exactly(json!({"allocationMode": "All"}))}]}),
    );
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b"])}))]);
    assert_eq!(allocate(&dra, &[&all]), Ok(strings(&["r=p/a", "r=p/b"])));
    assert_eq!(allocate(&dra, &[&one("y"), &all]), Err("no".into()));
    settle(&mut dra, &one("y")).expect("a device");
    assert_eq!(allocate(&dra, &[&all]), Err("no".into()));
    assert_eq!(allocate(&cluster([]), &[&all]), Err("no".into()), "of none there are not all");
    // Nobody can tell as long as a slice is missing.
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let part = cluster([slice("s", "p", json!({"devices": plain(&["a"]), "pool": pool}))]);
    let text = "claim default/x, request r: asks for all devices, but resource pool gpu.example.com/p is currently being updated";
    assert_eq!(allocate(&part, &[&all]), Err(text.into()));
}

#[test]
fn too_many_devices_are_refused() {
    let many =
        |n: i64| claim("x", json!({"requests": [{"name": "r", "exactly": exactly(json!({"count": n}))}]}));
    let names: Vec<String> = (0..40).map(|i| format!("d{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let dra = cluster([slice("s", "p", json!({"devices": plain(&names)}))]);
    assert_eq!(allocate(&dra, &[&many(32)]).map(|d| d.len()), Ok(32));
    let text = "claim default/x: number of requested devices 33 exceeds the claim limit of 32";
    assert_eq!(allocate(&dra, &[&many(33)]), Err(text.into()));
    // An alternative that is too large is passed over.
    let of = |name: &str, count: i64| json!({"name": name, "deviceClassName": "gpu", "count": count});
    let x =
        claim("x", json!({"requests": [{"name": "r", "firstAvailable": [of("big", 33), of("small", 1)]}]}));
    assert_eq!(allocate(&dra, &[&x]), Ok(strings(&["r/small=p/d00"])));
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b"])}))]);
    let of = |name: &str, count: i64| json!({"name": name, "deviceClassName": "gpu", "count": count});
    let x = claim(
        "x",
        json!({"requests": [
            {"name": "r", "firstAvailable": [of("three", 3), of("two", 2), of("one", 1)]},
            {"name": "q", "exactly": {"deviceClassName": "gpu"}},
        ]}),
    );
    // Two would be there, but then nothing is left for the other request.
    assert_eq!(allocate(&dra, &[&x]), Ok(strings(&["r/one=p/a", "q=p/b"])));
}

#[test]
fn administrators_share_with_everybody_but_themselves() {
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a"])}))]);
    settle(&mut dra, &one("user")).expect("a device");
    let admin = |name: &str, count: i64| {
        let e = exactly(json!({"adminAccess": true, "count": count}));
        claim(name, json!({"requests": [{"name": "r", "exactly": e}]}))
    };
    assert_eq!(settle(&mut dra, &admin("x", 1)), Ok(strings(&["r=p/a"])));
    assert_eq!(allocate(&dra, &[&admin("y", 1)]), Ok(strings(&["r=p/a"])));
    assert_eq!(allocate(&dra, &[&admin("z", 2)]), Err("no".into()));
    let free = cluster([slice("s", "p", json!({"devices": plain(&["a"])}))]);
    let a = allocate_on(&free, "n", &Labels::default(), &[&admin("x", 1)]).expect("fine").expect("found");
    let devices = a[0].devices.clone().expect("devices");
    assert_eq!(devices.results.expect("results")[0].admin_access, Some(true));
}

#[test]
fn constraints_hold_across_requests() {
    let device = |name: &str, board: &str, version: &str| json!({"name": name, "attributes": {"board": {"string": board}, "example.com/v": {"version": version}}});
    let devices = json!([device("a", "x", "1.0.0"), device("b", "y", "1.0.0"), device("c", "y", "2.0.0"), {"name": "d"}]);
    let dra = cluster([slice("s", "p", json!({"devices": devices}))]);
    let pair = |constraint: Value| {
        let r = |n: &str| json!({"name": n, "exactly": {"deviceClassName": "gpu"}});
        claim("x", json!({"requests": [r("r"), r("q")], "constraints": [constraint]}))
    };
    let same_board = pair(json!({"matchAttribute": "gpu.example.com/board"}));
    assert_eq!(allocate(&dra, &[&same_board]), Ok(strings(&["r=p/b", "q=p/c"])));
    let other_board = pair(json!({"distinctAttribute": "gpu.example.com/board"}));
    assert_eq!(allocate(&dra, &[&other_board]), Ok(strings(&["r=p/a", "q=p/b"])));
    let other_version = pair(json!({"distinctAttribute": "example.com/v"}));
    assert_eq!(allocate(&dra, &[&other_version]), Ok(strings(&["r=p/a", "q=p/c"])));
    // It concerns the requests it lists; a device without the attribute does for the others.
    let one_of_them = pair(json!({"requests": ["q"], "matchAttribute": "gpu.example.com/board"}));
    assert_eq!(allocate(&dra, &[&one_of_them]), Ok(strings(&["r=p/a", "q=p/b"])));
    let nobody_has_it = pair(json!({"matchAttribute": "gpu.example.com/colour"}));
    assert_eq!(allocate(&dra, &[&nobody_has_it]), Err("no".into()));
    let three = claim(
        "x",
        json!({
            "requests": [{"name": "r", "exactly": exactly(json!({"count": 3}))}],
            "constraints": [{"distinctAttribute": "gpu.example.com/board"}],
        }),
    );
    assert_eq!(allocate(&dra, &[&three]), Err("no".into()), "there are two boards");
}

#[test]
fn taints_keep_claims_away_that_do_not_tolerate_them() {
    let tainted = |effect: &str| {
        let taint = json!({"key": "example.com/broken", "value": "yes", "effect": effect});
        cluster([slice("s", "p", json!({"devices": [{"name": "a", "taints": [taint]}]}))])
    };
    let with = |t: Value| {
        claim("x", json!({"requests": [{"name": "r", "exactly": exactly(json!({"tolerations": [t]}))}]}))
    };
    assert_eq!(allocate(&tainted("NoSchedule"), &[&one("x")]), Err("no".into()));
    assert_eq!(allocate(&tainted("NoExecute"), &[&one("x")]), Err("no".into()));
    assert!(allocate(&tainted("None"), &[&one("x")]).is_ok(), "for people to read");
    for (toleration, fits) in [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "example.com/broken", "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "example.com/broken", "operator": "Equal", "value": "yes"}), true),
        (json!({"key": "example.com/broken", "value": "no"}), false),
    ] {
        assert_eq!(
            allocate(&tainted("NoSchedule"), &[&with(toleration.clone())]).is_ok(),
            fits,
            "{toleration}"
        );
    }
}

#[test]
fn pools_are_used_when_they_are_whole_and_current() {
    let part = |name: &str, generation: i64, count: i64, devices: &[&str]| {
        let pool = json!({"name": "p", "generation": generation, "resourceSliceCount": count});
        slice(name, "p", json!({"devices": plain(devices), "pool": pool}))
    };
    assert_eq!(allocate(&cluster([part("s1", 1, 2, &["a"])]), &[&one("x")]), Err("no".into()));
    let mut dra = cluster([part("s1", 1, 1, &["old"]), part("s2", 2, 1, &["new"])]);
    assert_eq!(allocate(&dra, &[&one("x")]), Ok(strings(&["r=p/new"])));
    dra.slices.remove("s2");
    assert_eq!(allocate(&dra, &[&one("x")]), Ok(strings(&["r=p/old"])));
    // The rest of the pool is on another node.
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let there = slice("s0", "p", json!({"nodeName": "m", "devices": plain(&["b"]), "pool": pool}));
    assert_eq!(allocate(&cluster([there, part("s1", 1, 2, &["a"])]), &[&one("x")]), Ok(strings(&["r=p/a"])));
    let twice = cluster([part("s1", 1, 2, &["a"]), part("s2", 1, 2, &["a"])]);
    assert_eq!(allocate(&twice, &[&one("x")]), Err("InvalidPools".into()));
}

#[test]
fn devices_say_where_they_can_be_used() {
    let labels = Labels::from([("zone", "east")]);
    let east = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["east"]}]}]});
    let on = |spec: Value, labels: &Labels| {
        let found = allocate_on(&cluster([slice("s", "p", spec)]), "n", labels, &[&one("x")]).expect("fine");
        found.map(|f| serde_json::to_value(&f[0].node_selector).expect("JSON"))
    };
    let name = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    let devices = plain(&["a"]);
    assert_eq!(on(json!({"devices": devices}), &labels), Some(name.clone()));
    assert_eq!(on(json!({"devices": devices, "nodeName": "m"}), &labels), None);
    assert_eq!(on(json!({"devices": devices, "allNodes": true}), &labels), Some(Value::Null));
    assert_eq!(on(json!({"devices": devices, "nodeSelector": east}), &labels), Some(east.clone()));
    assert_eq!(on(json!({"devices": devices, "nodeSelector": east}), &Labels::default()), None);
    let each = |more: Value| {
        let mut d = json!({"name": "a"});
        for (k, v) in more.as_object().into_iter().flatten() {
            d[k] = v.clone();
        }
        json!({"perDeviceNodeSelection": true, "devices": [d]})
    };
    assert_eq!(on(each(json!({"nodeName": "n"})), &labels), Some(name.clone()));
    assert_eq!(on(each(json!({"nodeName": "m"})), &labels), None);
    assert_eq!(on(each(json!({"nodeSelector": east})), &labels), Some(east));
    assert_eq!(on(each(json!({"allNodes": true})), &labels), Some(Value::Null));
    assert_eq!(on(each(json!({"allNodes": true, "bindsToNode": true})), &labels), Some(name));
}

#[test]
fn partitions_of_a_device_share_its_counters() {
    let takes = |name: &str, memory: &str| {
        let counters = json!([{"counterSet": "card", "counters": {"memory": {"value": memory}}}]);
        json!({"name": name, "consumesCounters": counters})
    };
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let counters = json!([{"name": "card", "counters": {"memory": {"value": "40Gi"}}}]);
    let counters = slice("s1", "p", json!({"sharedCounters": counters, "pool": pool}));
    let devices = json!([takes("whole", "40Gi"), takes("half1", "20Gi"), takes("half2", "20Gi")]);
    let devices = slice("s2", "p", json!({"devices": devices, "pool": pool}));
    let mut dra = cluster([counters, devices]);
    // With the whole card taken there is nothing for the second: two halves are found.
    assert_eq!(allocate(&dra, &[&one("x"), &one("y")]), Ok(strings(&["r=p/half1", "r=p/half2"])));
    assert_eq!(settle(&mut dra, &one("x")), Ok(strings(&["r=p/whole"])));
    assert_eq!(allocate(&dra, &[&one("y")]), Err("no".into()));
}

#[test]
fn capacity_is_shared_until_it_is_used_up() {
    let device = json!({"name": "nic", "allowMultipleAllocations": true, "capacity": {
        "bandwidth": {"value": "10G", "requestPolicy": {"default": "1G", "validRange": {"min": "1G", "step": "1G"}}},
    }});
    let mut dra = cluster([slice("s", "p", json!({"devices": [device]}))]);
    let asks = |name: &str, amount: &str| {
        let e = exactly(json!({"capacity": {"requests": {"bandwidth": amount}}}));
        claim(name, json!({"requests": [{"name": "r", "exactly": e}]}))
    };
    let found = allocate_on(&dra, "n", &Labels::default(), &[&asks("x", "5500M"), &one("y")]);
    let found = found.expect("fine").expect("found");
    let told: Vec<Value> = found.iter().map(|a| serde_json::to_value(&a.devices).expect("JSON")).collect();
    let rounded = told[0]["results"][0]["consumedCapacity"]["bandwidth"].as_str().expect("an amount");
    assert_eq!(rounded.parse(), "6G".parse::<proto::quantity::Quantity>(), "{rounded}");
    assert_eq!(
        (&told[0]["results"][0]["shareID"], &told[1]["results"][0]["shareID"]),
        (&json!("share-1"), &json!("share-2"))
    );
    assert_eq!(told[1]["results"][0]["consumedCapacity"], json!({"bandwidth": "1G"}));
    settle(&mut dra, &asks("a", "6G")).expect("six of ten");
    assert_eq!(settle(&mut dra, &asks("b", "5G")), Err("no".into()));
    settle(&mut dra, &asks("c", "4G")).expect("the rest");
    assert_eq!(settle(&mut dra, &one("d")), Err("no".into()));
    dra.claims.remove(&"default".into(), &"a".into());
    settle(&mut dra, &asks("b", "5G")).expect("free again");
    let unknown = claim(
        "x",
        json!({"requests": [{"name": "r", "exactly": exactly(json!({"capacity": {"requests": {"none": "1"}}}))}]}),
    );
    assert_eq!(allocate(&dra, &[&unknown]), Err("no".into()));
}

#[test]
fn configurations_come_from_the_class_and_the_claim() {
    let mut dra = cluster([slice("s", "p", json!({"devices": plain(&["a", "b"])}))]);
    let opaque = |what: &str| json!({"opaque": {"driver": "gpu.example.com", "parameters": {"kind": what}}});
    add_class(&mut dra, "gpu", json!({"config": [opaque("class")]}));
    let mut own = opaque("claim");
    own["requests"] = json!(["q"]);
    let r = |n: &str| json!({"name": n, "exactly": {"deviceClassName": "gpu"}});
    let x = claim("x", json!({"requests": [r("r"), r("q")], "config": [own, opaque("all")]}));
    let found = allocate_on(&dra, "n", &Labels::default(), &[&x]).expect("fine").expect("found");
    let config =
        serde_json::to_value(found[0].devices.as_ref().expect("devices").config.as_ref()).expect("JSON");
    let told: Vec<(Value, Value, Value)> = config
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| (c["source"].clone(), c["requests"].clone(), c["opaque"]["parameters"]["kind"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!("FromClass"), json!(["r", "q"]), json!("class")),
            (json!("FromClaim"), json!(["q"]), json!("claim")),
            (json!("FromClaim"), Value::Null, json!("all")),
        ]
    );
}

#[test]
fn devices_that_must_be_got_ready_come_last() {
    let ready = slice("s2", "z-ready", json!({"devices": plain(&["a"])}));
    let waits =
        json!([{"name": "b", "bindingConditions": ["attached"], "bindingFailureConditions": ["broken"]}]);
    let waits = slice("s1", "a-waits", json!({"devices": waits}));
    let mut dra = cluster([ready, waits]);
    assert_eq!(settle(&mut dra, &one("x")), Ok(strings(&["r=z-ready/a"])));
    assert_eq!(settle(&mut dra, &one("y")), Ok(strings(&["r=a-waits/b"])));
    let y = dra.claims.get(&"default".into(), &"y".into()).expect("claim");
    let mut y = (**y).clone();
    assert_eq!(super::super::binding::ready(&y), Ok(false));
    let mut set = |conditions: Value| {
        let status = json!([{"driver": "gpu.example.com", "pool": "a-waits", "device": "b", "conditions": conditions}]);
        y.status.as_mut().expect("status").devices = Some(super::object(status));
        super::super::binding::ready(&y)
    };
    let is = |t: &str, s: &str| json!({"type": t, "status": s, "reason": "Because", "message": "so", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(set(json!([is("attached", "False")])), Ok(false));
    assert_eq!(set(json!([is("attached", "True")])), Ok(true));
    let failed = "device binding failed: claim=y, reason=Because, message=\"so\"";
    assert_eq!(set(json!([is("attached", "True"), is("broken", "True")])), Err(failed.into()));
}
