//! Custom resource definitions as upstream's API server keeps them in etcd: JSON of version v1beta1, which nobody
//! serves any more. There, what all versions have in common stands once beside the list of versions.

use serde_json::{Map, Value, json};

/// Moves a definition to version v1, if it is of the old one.
pub fn to_v1(definition: &mut Value) {
    if definition.get("apiVersion").and_then(Value::as_str) != Some("apiextensions.k8s.io/v1beta1") {
        return;
    }
    definition["apiVersion"] = "apiextensions.k8s.io/v1".into();
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let version = spec.remove("version");
    let mut shared = Map::new();
    for (old, new) in [
        ("validation", "schema"),
        ("subresources", "subresources"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ] {
        if let Some(value) = spec.remove(old).filter(|v| !v.is_null()) {
            shared.insert(new.to_owned(), value);
        }
    }
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if let (Some(list), Some(name)) = (versions.as_array_mut(), version)
        && list.is_empty()
    {
        list.push(json!({"name": name, "served": true, "storage": true}));
    }
    for v in versions.as_array_mut().into_iter().flatten() {
        let Some(v) = v.as_object_mut() else { continue };
        v.extend(shared.clone());
        for column in
            v.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut).into_iter().flatten()
        {
            rename(column, "JSONPath", "jsonPath");
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    if let Some(conversion) = spec.get_mut("conversion") {
        let mut webhook = Map::new();
        for (old, new) in [
            ("webhookClientConfig", "clientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ] {
            if let Some(value) = conversion.as_object_mut().and_then(|c| c.remove(old)) {
                webhook.insert(new.to_owned(), value);
            }
        }
        if !webhook.is_empty() {
            conversion["webhook"] = Value::Object(webhook);
        }
    }
}

fn rename(object: &mut Value, old: &str, new: &str) {
    if let Some(o) = object.as_object_mut()
        && let Some(value) = o.remove(old)
    {
        o.insert(new.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_share_goes_to_each() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let mut definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b"},
            "spec": {
                "group": "b", "version": "v1", "validation": schema, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "n", "type": "string", "JSONPath": ".spec.n"}],
                "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]},
                "preserveUnknownFields": false,
            },
        });
        to_v1(&mut definition);
        assert_eq!(definition["apiVersion"], "apiextensions.k8s.io/v1");
        let spec = &definition["spec"];
        for v in spec["versions"].as_array().unwrap() {
            assert_eq!(v["schema"], schema);
            assert_eq!(v["subresources"], json!({"status": {}}));
            assert_eq!(
                v["additionalPrinterColumns"],
                json!([{"name": "n", "type": "string", "jsonPath": ".spec.n"}])
            );
        }
        let webhook = json!({"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]});
        assert_eq!(spec["conversion"], json!({"strategy": "Webhook", "webhook": webhook}));
        for gone in
            ["version", "validation", "subresources", "additionalPrinterColumns", "preserveUnknownFields"]
        {
            assert!(spec.get(gone).is_none(), "{gone}");
        }
    }

    #[test]
    fn other_shapes() {
        let mut own = json!({
            "apiVersion": "apiextensions.k8s.io/v1beta1",
            "spec": {"version": "v1", "versions": [
                {"name": "v1", "schema": {"a": 1}, "additionalPrinterColumns": [{"JSONPath": ".x"}]},
                {"name": "v2", "schema": {"a": 2}},
            ]},
        });
        to_v1(&mut own);
        assert_eq!(own["spec"]["versions"][1]["schema"], json!({"a": 2}));
        assert_eq!(own["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"], ".x");
        let mut single = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {"version": "v1"}});
        to_v1(&mut single);
        assert_eq!(single["spec"]["versions"], json!([{"name": "v1", "served": true, "storage": true}]));
        let v1 = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {"validation": 1}});
        let mut same = v1.clone();
        to_v1(&mut same);
        assert_eq!(same, v1);
        for bad in [
            json!(1),
            json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {"versions": 3, "conversion": 4}}),
        ] {
            to_v1(&mut bad.clone());
        }
    }
}
