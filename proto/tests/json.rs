//! JSON bodies as clients send them: what is dropped, reported and refused, and in which words.
#![allow(clippy::unwrap_used)]

use proto::json::{DecodeError, Strictness, decode, interpret, strict_error};
use proto::schema::{TypeDef, by_gvk};
use serde_json::{Value, json};

fn pod() -> &'static TypeDef {
    by_gvk("", "v1", "Pod").unwrap()
}

fn refused(body: &str) -> String {
    decode(body.as_bytes(), pod(), Strictness::Ignore).unwrap_err().to_string()
}

#[test]
fn mismatches_name_the_field() {
    for (body, want) in [
        (
            r#"{"spec":{"containers":[{"name":"c","image":5}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"restartPolicy":true}}"#,
            "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"spec":{"terminationGracePeriodSeconds":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"spec":{"priority":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"volumes":[{"name":"v","hostPath":5}]}}"#,
            "json: cannot unmarshal number into Go struct field Volume.spec.volumes.VolumeSource.hostPath of type v1.HostPathVolumeSource",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        ("[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"x"}}"#,
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
        ),
    ] {
        assert_eq!(refused(body), want, "{body}");
    }
}

#[test]
fn syntax_errors_come_before_others() {
    for (body, want) in [
        (r#"{"spec":{"containers":5},"#, "unexpected end of JSON input"),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (r#"{"a":1 "b":2}"#, "invalid character '\"' after object key:value pair"),
        (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
        (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
        (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
        (r#"{} x"#, "invalid character 'x' after top-level value"),
        ("{\"a\":\"\n\"}", r"invalid character '\n' in string literal"),
        (r#"{"a":"\q"}"#, "invalid character 'q' in string escape code"),
        (r#"{"a":1.}"#, "invalid character '}' after decimal point in numeric literal"),
        (r#"{,}"#, "invalid character ',' looking for beginning of object key string"),
        (r#"{"a":}"#, "invalid character '}' looking for beginning of value"),
    ] {
        assert_eq!(refused(body), want, "{body}");
    }
    let deep = format!("{}{}", r#"{"a":"#.repeat(100_000), "1");
    assert_eq!(refused(&deep), "exceeded max depth");
}

#[test]
fn bodies_without_a_kind_are_unrecognized() {
    let message = |body: &str| {
        let e = interpret(body.as_bytes()).unwrap_err();
        assert!(matches!(e, DecodeError::Unrecognized(_)));
        e.message("Pod", "", "", body.as_bytes())
    };
    assert_eq!(
        message("{nope"),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
         invalid character 'n' looking for beginning of object key string ({nope)"
    );
    assert_eq!(
        message(""),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
         unexpected end of JSON input (<empty>)"
    );
    assert_eq!(interpret(br#"{"kind":"Pod","apiVersion":"v1","x":[{}]}"#), Ok(("v1".into(), "Pod".into())));
}

#[test]
fn strictness_names_unknown_and_duplicate_fields() {
    let body = r#"{"spek":1,"metadata":{"name":"p","name":"q","labels":{"a":"1","a":"2"}},
        "spec":{"containers":[{"name":"c","Image":"x"},{"name":"d","name":"d"}]}}"#;
    let d = decode(body.as_bytes(), pod(), Strictness::Strict).unwrap();
    assert_eq!(
        strict_error(&d.strict_errors),
        "strict decoding error: unknown field \"spek\", duplicate field \"metadata.name\", \
         duplicate field \"metadata.labels.a\", unknown field \"spec.containers[0].Image\", \
         duplicate field \"spec.containers[1].name\""
    );
    assert_eq!(d.value["metadata"]["name"], "q");
    assert!(d.value.get("spek").is_none());
    assert!(decode(body.as_bytes(), pod(), Strictness::Ignore).unwrap().strict_errors.is_empty());
}

#[test]
fn values_come_out_canonical() {
    let body = json!({
        "metadata": {"name": "p", "namespace": "", "labels": {}, "creationTimestamp": null, "annotations": null},
        "spec": {
            "nodeName": "", "hostNetwork": false, "priority": 0, "containers": [{
                "name": "c", "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}, "tty": false,
                "livenessProbe": {"httpGet": {"port": "x"}, "periodSeconds": 0},
                "readinessProbe": {"tcpSocket": {"port": 80}}
            }]
        }
    });
    let d = decode(body.to_string().as_bytes(), pod(), Strictness::Strict).unwrap();
    assert_eq!(
        d.value,
        json!({
            "metadata": {"name": "p"},
            "spec": {"priority": 0, "containers": [{
                "name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "x"}}, "readinessProbe": {"tcpSocket": {"port": 80}}
            }]},
            "status": {}
        })
    );
    let role = by_gvk("rbac.authorization.k8s.io", "v1", "Role").unwrap();
    let mut out = Vec::new();
    proto::json::encode(&json!({"metadata": {}}), role, &mut out);
    let out: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(out, json!({"metadata": {}, "rules": null}));
}
