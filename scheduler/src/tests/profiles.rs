//! Configuration files and profiles.

use serde_json::json;

use crate::config::{Configuration, ProfileConfig};
use crate::framework::Profile;
use crate::testing::{choose, cluster, node_with, pod, profile};

fn made(v: serde_json::Value) -> Result<Profile, String> {
    let p: ProfileConfig = serde_json::from_value(v).map_err(|e| e.to_string())?;
    Profile::new(&p, 0)
}

#[test]
fn plugins_are_switched_and_weighed() {
    let p = profile(json!({"plugins": {"multiPoint": {"disabled": [{"name": "TaintToleration"}]},
        "score": {"enabled": [{"name": "NodeAffinity", "weight": 7}], "disabled": [{"name": "ImageLocality"}]}}}));
    let names: Vec<(&str, i64)> = p.scores().map(|(x, w)| (x.name(), w)).collect();
    assert!(
        names.contains(&("NodeAffinity", 7)) && !names.iter().any(|n| n.0 == "ImageLocality"),
        "{names:?}"
    );
    assert!(p.filters().all(|x| x.name() != "TaintToleration"));
    let c = cluster([node_with("a", json!({}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}))]);
    assert_eq!(choose(&c, &p, &pod("p", json!({}))), Ok("a".into()));
    assert!(choose(&c, &profile(json!({})), &pod("p", json!({}))).is_err());
}

#[test]
fn mistakes_are_told() {
    for (bad, why) in [
        (json!({"plugins": {"filter": {"enabled": [{"name": "Nope"}]}}}), "plugin \"Nope\" does not exist"),
        (json!({"plugins": {"multiPoint": {"disabled": [{"name": "*"}]}}}), "enable PrioritySort"),
        (json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"x": 1}}]}), "unknown field `x`"),
        (
            json!({"pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}]}),
            "0 and 100",
        ),
        (json!({"pluginz": {}}), "unknown field `pluginz`"),
    ] {
        let e = made(bad).err().expect("refused");
        assert!(e.contains(why), "{e}");
    }
    let mut c: Configuration = serde_json::from_value(json!({
        "percentageOfNodesToScore": 101, "podInitialBackoffSeconds": 5, "podMaxBackoffSeconds": 1,
        "extenders": [{"urlPrefix": "http://x", "prioritizeVerb": "p", "bindVerb": "b", "preemptVerb": "v"},
            {"urlPrefix": "http://y", "bindVerb": "b"}],
        "profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}],
    }))
    .expect("file");
    c.set_defaults();
    let problems = c.problems().join("\n");
    for part in [
        "percentageOfNodesToScore",
        "podMaxBackoffSeconds",
        "extenders[0].weight: Invalid value: 0",
        "found 2 extenders implementing bind",
        "Duplicate value",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
}

#[test]
fn a_large_cluster_is_searched_in_part() {
    use crate::decide::enough;
    assert_eq!((enough(0, 50), enough(0, 1000), enough(0, 10_000), enough(70, 1000)), (50, 420, 500, 700));
    assert_eq!(enough(1, 1000), 100);
}

#[test]
fn what_an_extender_manages_is_left_to_it() {
    let mut c: Configuration = serde_json::from_value(json!({"extenders": [{"urlPrefix": "http://x",
        "managedResources": [{"name": "example.com/tape", "ignoredByScheduler": true}]}]}))
    .expect("file");
    c.set_defaults();
    c.pass_over_managed();
    let p = Profile::new(&c.profiles[0], 0).expect("profile");
    let requests = json!({"limits": {"example.com/tape": "1"}, "requests": {"example.com/tape": "1"}});
    let pod = crate::testing::pod("p", json!({"containers": [{"name": "c", "resources": requests}]}));
    let cluster = crate::testing::cluster([crate::testing::node("a", json!({}))]);
    assert_eq!(crate::testing::choose(&cluster, &p, &pod), Ok("a".into()));
}
