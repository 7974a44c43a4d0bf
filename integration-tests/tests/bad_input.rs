//! Bad input is answered with upstream's status, reason and causes, and changes nothing.

use integration_tests::TestCluster;

#[test]
fn bad_input_is_refused_and_nothing_is_applied_by_half() {
    let c = TestCluster::start();
    let post = |body: &str, what: &str| {
        let out = c.kubectl("1.36", &["create", "--raw", what, "-f", "-"], Some(body));
        out.fails()
    };
    let pods = "/api/v1/namespaces/default/pods";
    for (body, expected) in [
        ("{\"kind\": ", "BadRequest"),
        ("[]", "BadRequest"),
        (r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}"#, "cannot be handled as a Pod"),
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"UPPER"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
            "a lowercase RFC 1123 subdomain",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[]}}"#,
            "spec.containers: Required value",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"other"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
            "does not match",
        ),
    ] {
        let said = post(body, pods);
        assert!(said.contains(expected), "{body}: {said}");
    }
    let huge = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"huge"}},"data":{{"k":"{}"}}}}"#,
        "x".repeat(3 << 20)
    );
    let said = post(&huge, "/api/v1/namespaces/default/configmaps");
    assert!(said.contains("RequestEntityTooLarge") || said.contains("too large"), "{said}");
    // Some of several objects being bad does not stop the good ones, and the bad ones leave no trace.
    let mixed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\nsurprise: true\n";
    let out = c.ctl_with_input(&["create", "-f", "-"], Some(mixed));
    assert!(out.stdout.contains("configmap/good created"), "{out:?}");
    assert!(out.fails().contains("unknown field \"surprise\""));
    assert_eq!(
        c.ctl(&["get", "configmaps", "-o", "name"])
            .ok()
            .lines()
            .filter(|l| !l.contains("kube-root-ca"))
            .collect::<Vec<_>>(),
        ["configmap/good"]
    );
    let warned = c.ctl_with_input(
        &["create", "--validate=warn", "-f", "-"],
        Some("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: warned}\nsurprise: true\n"),
    );
    assert!(warned.stderr.contains("Warning: unknown field \"surprise\""), "{warned:?}");
    for (path, expected) in [
        ("/api/v1/pods?labelSelector=a%20in%20(", "unable to parse requirement"),
        ("/api/v1/pods?fieldSelector=spec.nope%3Dx", "field label not supported"),
        ("/api/v1/pods?limit=x", "BadRequest"),
        ("/apis/nope/v1/things", "NotFound"),
    ] {
        let said = c.kubectl("1.36", &["get", "--raw", path], None).fails();
        assert!(said.contains(expected), "{path}: {said}");
    }
}
