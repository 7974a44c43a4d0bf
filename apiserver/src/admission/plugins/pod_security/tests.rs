use super::*;
use crate::admission::plugins::testing::{Write, environment};
use crate::lookup::Resource;

fn findings(level: Level, version: Option<u32>, pod: &Value) -> String {
    checks::detail(&checks::evaluate(&LevelVersion { level, version }, pod))
}

fn good() -> Value {
    json!({"spec":{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},
        "containers":[{"name":"a","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}],
        "volumes":[{"name":"v","emptyDir":{}}]}})
}

fn with(patch: Value) -> Value {
    let mut p = good();
    json_patch::merge(&mut p, &patch);
    p
}

#[test]
fn baseline() {
    let container = |c: Value| json!({"spec":{"containers":[c]}});
    for (pod, want) in [
        (good(), ""),
        (json!({"spec":{"containers":[{"name":"a"}]}}), ""),
        (
            json!({"spec":{"hostNetwork":true,"hostPID":true,"containers":[]}}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            container(
                json!({"name":"a","securityContext":{"privileged":true,"capabilities":{"add":["NET_ADMIN","CHOWN"]}}}),
            ),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"spec":{"volumes":[{"name":"h","hostPath":{"path":"/"}}],"containers":[]}}),
            "hostPath volumes (volume \"h\")",
        ),
        (
            container(json!({"name":"a","ports":[{"hostPort":80},{"hostPort":443},{"hostPort":0}]})),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
        ),
        (
            container(json!({"name":"a","livenessProbe":{"httpGet":{"host":"10.0.0.1"}}})),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            container(json!({"name":"a","securityContext":{"procMount":"Unmasked"}})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"spec":{"securityContext":{"seLinuxOptions":{"type":"x","user":"u"}},"containers":[]}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            container(json!({"name":"a","securityContext":{"seccompProfile":{"type":"Unconfined"}}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"spec":{"securityContext":{"sysctls":[{"name":"kernel.msgmax"},{"name":"net.ipv4.tcp_rmem"}]},"containers":[]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"spec":{"securityContext":{"windowsOptions":{"hostProcess":true},"appArmorProfile":{"type":"Unconfined"}},"containers":[]}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\"), hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(findings(Level::Baseline, None, &pod), want);
        assert_eq!(findings(Level::Privileged, None, &pod), "");
    }
    let sysctl =
        json!({"spec":{"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_rmem"}]},"containers":[]}});
    assert_eq!(findings(Level::Baseline, Some(31), &sysctl), "forbidden sysctls (net.ipv4.tcp_rmem)");
}

#[test]
fn restricted() {
    for (pod, want) in [
        (good(), ""),
        (
            json!({"spec":{"containers":[{"name":"a"},{"name":"b"}]}}),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
        (
            with(json!({"spec":{"volumes":[{"name":"h","hostPath":{}},{"name":"n","nfs":{}}]}})),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            with(json!({"spec":{"securityContext":{"runAsUser":0,"runAsNonRoot":false}}})),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (with(json!({"spec":{"hostUsers":false,"securityContext":{"runAsNonRoot":null,"runAsUser":0}}})), ""),
    ] {
        assert_eq!(findings(Level::Restricted, None, &pod), want);
    }
    let old = with(json!({"spec":{"securityContext":{"runAsUser":0}}}));
    assert_eq!(findings(Level::Restricted, Some(22), &old), "");
}

fn namespace(labels: Value) -> (Resource, Value) {
    (lookup::NAMESPACES, json!({"metadata":{"name":"ns","labels":labels}}))
}

#[tokio::test]
async fn enforce_and_warn() {
    let labels = json!({"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/warn":"restricted",
        "pod-security.kubernetes.io/enforce-version":"v1.30"});
    let (env, _) = environment([namespace(labels)]);
    let p = build(&env);
    let mut bad = good();
    bad["metadata"] = json!({"name":"p"});
    bad["spec"]["hostPID"] = true.into();
    let w = Write::create(lookup::PODS, "ns");
    let e = w.run(&*p, Some(bad.clone())).await.unwrap_err();
    assert_eq!(
        e.message,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostPID=true)"
    );
    // Controllers are only warned about.
    let deployments = Resource { group: "apps", version: "v1", resource: "deployments", kind: "Deployment" };
    let user = w.user.clone();
    let attrs = Attributes {
        user: &user,
        group: "apps",
        version: "v1",
        resource: deployments.resource,
        kind: "Deployment",
        subresource: "",
        namespace: "ns",
        name: "d",
        operation: Operation::Create,
        dry_run: false,
        old: None,
        options: Default::default(),
        warnings: Default::default(),
        reinvocation: Default::default(),
    };
    p.validate(&attrs, Some(&json!({"spec":{"template":bad}}))).await.unwrap();
    assert_eq!(
        attrs.warnings.take(),
        ["would violate PodSecurity \"restricted:latest\": host namespaces (hostPID=true)"]
    );
    // An update that adds no container passes.
    let mut update = Write::create(lookup::PODS, "ns");
    (update.operation, update.old) = (Operation::Update, Some(bad.clone()));
    assert!(update.run(&*p, Some(bad)).await.is_ok());
}

#[tokio::test]
async fn labels_are_checked_and_tried_on_existing_pods() {
    let pod = (
        lookup::PODS,
        json!({"metadata":{"name":"p","namespace":"ns"},"spec":{"hostPID":true,"containers":[]}}),
    );
    let (env, _) = environment([pod, namespace(json!({}))]);
    let p = build(&env);
    let w = Write::create(lookup::NAMESPACES, "");
    let label = |v: &str| namespace(json!({"pod-security.kubernetes.io/enforce":v})).1;
    let e = w.run(&*p, Some(label("strict"))).await.unwrap_err();
    assert_eq!(
        e.message,
        "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let (old, new) = (namespace(json!({})).1, label("baseline"));
    let attrs = Attributes {
        user: &w.user,
        group: "",
        version: "v1",
        resource: "namespaces",
        kind: "Namespace",
        subresource: "",
        namespace: "ns",
        name: "ns",
        operation: Operation::Update,
        dry_run: false,
        old: Some(&old),
        options: Default::default(),
        warnings: Default::default(),
        reinvocation: Default::default(),
    };
    p.validate(&attrs, Some(&new)).await.unwrap();
    assert_eq!(
        attrs.warnings.take(),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "p: host namespaces"
        ]
    );
}
