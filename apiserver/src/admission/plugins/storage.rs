//! `DefaultStorageClass`, `StorageObjectInUseProtection`, `PersistentVolumeClaimResize`, and `DefaultIngressClass`,
//! which works as the first of them.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectLookup, Resource, text};
use crate::status::ApiResult;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Fills in the class that is marked as default.
struct DefaultClass {
    name: &'static str,
    objects: Arc<dyn ObjectLookup>,
    /// Group and resource of what gets a class.
    of: (&'static str, &'static str),
    classes: Resource,
    /// Annotations that mark a class as default.
    marks: &'static [&'static str],
    /// Spec field, and annotation that also counts as a class.
    field: &'static str,
    annotation: &'static str,
}

struct InUseProtection;
struct Resize {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build_default_storage_class(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(DefaultClass {
        name: "DefaultStorageClass",
        objects: env.objects.clone(),
        of: ("", "persistentvolumeclaims"),
        classes: lookup::STORAGE_CLASSES,
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
        field: "storageClassName",
        annotation: CLASS_ANNOTATION,
    })
}

pub(crate) fn build_default_ingress_class(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(DefaultClass {
        name: "DefaultIngressClass",
        objects: env.objects.clone(),
        of: ("networking.k8s.io", "ingresses"),
        classes: lookup::INGRESS_CLASSES,
        marks: &["ingressclass.kubernetes.io/is-default-class"],
        field: "ingressClassName",
        annotation: "kubernetes.io/ingress.class",
    })
}

pub(crate) fn build_in_use_protection(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(InUseProtection)
}

pub(crate) fn build_resize(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Resize { objects: env.objects.clone() })
}

#[async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| attrs.is(self.of.0, self.of.1, "")) else { return Ok(()) };
        let annotated = object["metadata"]["annotations"].get(self.annotation).is_some();
        // An empty class is a choice too: none.
        if attrs.operation != Operation::Create || annotated || !object["spec"][self.field].is_null() {
            return Ok(());
        }
        let all = self.objects.list(self.classes, "").await?;
        let marked =
            |c: &Value| self.marks.iter().any(|m| c["metadata"]["annotations"][*m].as_str() == Some("true"));
        let newest = all.iter().filter(|c| marked(c)).min_by(|a, b| {
            let (x, y) = (text(a, "/metadata/creationTimestamp"), text(b, "/metadata/creationTimestamp"));
            y.cmp(x).then_with(|| text(a, "/metadata/name").cmp(text(b, "/metadata/name")))
        });
        if let Some(class) = newest {
            object["spec"][self.field] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for InUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let finalizer = match (attrs.group, attrs.resource, attrs.subresource) {
            ("", "persistentvolumes", "") => "kubernetes.io/pv-protection",
            ("", "persistentvolumeclaims", "") => "kubernetes.io/pvc-protection",
            ("storage.k8s.io", "volumeattributesclasses", "") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        let Some(object) = object.filter(|_| attrs.operation == Operation::Create) else { return Ok(()) };
        let slot = &mut object["metadata"]["finalizers"];
        if slot.is_null() {
            *slot = json!([]);
        }
        if let Some(list) = slot.as_array_mut()
            && !list.iter().any(|f| f == finalizer)
        {
            list.push(finalizer.into());
        }
        Ok(())
    }
}

fn class_of(claim: &Value) -> &str {
    match claim["metadata"]["annotations"].get(CLASS_ANNOTATION).and_then(Value::as_str) {
        Some(c) => c,
        None => text(claim, "/spec/storageClassName"),
    }
}

#[async_trait]
impl Plugin for Resize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let (Some(new), Some(old)) = (object, attrs.old) else { return Ok(()) };
        if !attrs.is("", "persistentvolumeclaims", "") || attrs.operation != Operation::Update {
            return Ok(());
        }
        let size =
            |c: &Value| Amount::parse(text(c, "/spec/resources/requests/storage")).unwrap_or(Amount::ZERO);
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(attrs.forbidden(object, "Only bound persistent volume claims can be expanded"));
        }
        let class = class_of(new);
        let mut allowed = false;
        if !class.is_empty() && class == class_of(old) {
            let found = self.objects.get(lookup::STORAGE_CLASSES, "", class).await?;
            allowed = found.is_some_and(|c| c["allowVolumeExpansion"].as_bool() == Some(true));
        }
        if allowed {
            return Ok(());
        }
        Err(attrs.forbidden(
            object,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};

    fn class(name: &str, created: &str, default: bool) -> (Resource, Value) {
        (
            lookup::STORAGE_CLASSES,
            json!({"metadata":{"name":name,"creationTimestamp":created,
                "annotations":{"storageclass.kubernetes.io/is-default-class":default.to_string()}},
                "allowVolumeExpansion":name == "new"}),
        )
    }

    #[tokio::test]
    async fn the_newest_default_class() {
        let (env, _) = environment([
            class("old", "2024-01-01T00:00:00Z", true),
            class("new", "2025-01-01T00:00:00Z", true),
            class("newest", "2026-01-01T00:00:00Z", false),
        ]);
        let p = build_default_storage_class(&env);
        let run = async |spec: Value| {
            let claim = Some(json!({"spec":spec}));
            let out = Write::create(lookup::PERSISTENT_VOLUME_CLAIMS, "ns").run(&*p, claim).await.unwrap();
            out.unwrap()["spec"].clone()
        };
        assert_eq!(run(json!({})).await["storageClassName"], "new");
        assert_eq!(run(json!({"storageClassName":""})).await["storageClassName"], "");
        assert_eq!(run(json!({"storageClassName":"x"})).await["storageClassName"], "x");
    }

    #[tokio::test]
    async fn protection_and_resize() {
        let (env, _) = environment([class("new", "", false), class("fixed", "", false)]);
        let p = build_in_use_protection(&env);
        let w = Write::create(lookup::PERSISTENT_VOLUME_CLAIMS, "ns");
        let out = w.run(&*p, Some(json!({"metadata":{"name":"c"}}))).await.unwrap().unwrap();
        assert_eq!(out["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        let p = build_resize(&env);
        let claim = |class: &str, size: &str, phase: &str| {
            json!({"metadata":{"name":"c"},"spec":{"storageClassName":class,"resources":{"requests":{"storage":size}}},
                "status":{"phase":phase}})
        };
        let resize = async |old: Value, new: Value| {
            let mut w = Write::create(lookup::PERSISTENT_VOLUME_CLAIMS, "ns");
            (w.operation, w.old) = (Operation::Update, Some(old));
            w.run(&*p, Some(new)).await
        };
        assert!(resize(claim("new", "1Gi", "Bound"), claim("new", "2Gi", "Bound")).await.is_ok());
        assert!(resize(claim("fixed", "1Gi", "Bound"), claim("fixed", "1024Mi", "Bound")).await.is_ok());
        assert!(resize(claim("fixed", "1Gi", "Bound"), claim("fixed", "2Gi", "Bound")).await.is_err());
        let e = resize(claim("new", "1Gi", "Pending"), claim("new", "2Gi", "Pending")).await.unwrap_err();
        assert!(e.message.ends_with("Only bound persistent volume claims can be expanded"));
    }
}
