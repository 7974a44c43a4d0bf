//! Runtime classes.

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::api::node::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{resources, scheduling};
use crate::kinds::podspec::warnings::label_advice;
use crate::kinds::quantity::canonical_list;
use crate::kinds::semantic::items;
use crate::kinds::validate::{immutable, invalid_each, printed, selector, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of runtime classes.
pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    type Object = api::RuntimeClass;

    fn default(&self, c: &mut api::RuntimeClass) {
        if let Some(o) = &mut c.overhead {
            canonical_list(&mut o.pod_fixed);
        }
    }

    fn validate(&self, cx: &mut Context, c: &api::RuntimeClass) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("handler");
        if c.handler.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            errors.extend(invalid_each(&at, &c.handler, text::dns1123_label(&c.handler)));
        }
        if let Some(o) = c.overhead.as_ref().and_then(|o| o.pod_fixed.clone()) {
            // What pods take beside their containers is judged as the limits of one are, and told of as such.
            let limits = ResourceRequirements { limits: Some(o), ..Default::default() };
            resources::container(&limits, &Default::default(), &Path::new("overhead"), &mut errors);
        }
        if let Some(s) = &c.scheduling {
            let path = Path::new("scheduling");
            errors.extend(selector::labels(s.node_selector.as_ref(), &path.child("nodeSelector")));
            let (list, at) = (items(&s.tolerations), path.child("tolerations"));
            scheduling::tolerations(list, &at, &mut errors);
            let key = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
            for (i, t) in list.iter().enumerate().filter(|(i, t)| list[..*i].iter().any(|o| key(o) == key(t)))
            {
                let mut e = Error::duplicate(&at.index(i), "");
                e.value = printed::toleration(t);
                errors.push(e);
            }
        }
        let labels = c.scheduling.iter().flat_map(|s| s.node_selector.iter().flatten());
        if errors.is_empty() {
            let advice = labels.filter_map(|(label, _)| label_advice(label));
            cx.warnings.extend(advice.map(|why| format!("scheduling.nodeSelector: {why}")));
        }
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::RuntimeClass,
        old: &api::RuntimeClass,
    ) -> ErrorList {
        immutable(&c.handler, &old.handler, &Path::new("handler"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_differ_and_overhead_is_told_as_limits() {
        let told = |v: serde_json::Value| {
            let mut c = serde_json::json!({"metadata": {"name": "c"}, "handler": "h"});
            c.as_object_mut().expect("an object").extend(v.as_object().expect("an object").clone());
            let c = serde_json::from_value(c).expect("a class");
            RuntimeClass.validate(&mut Context::default(), &c).aggregate()
        };
        let t = serde_json::json!({"key": "k", "operator": "Exists"});
        let twice = told(serde_json::json!({"scheduling": {"tolerations": [t, t]}}));
        assert!(twice.starts_with("scheduling.tolerations[1]: Duplicate value: {\"Key\":\"k\""), "{twice}");
        let wrong = told(serde_json::json!({"overhead": {"podFixed": {"cpu": "-1"}}}));
        assert!(wrong.starts_with("overhead.limits[cpu]: Invalid value"), "{wrong}");
        assert_eq!(told(serde_json::json!({"handler": ""})), "handler: Required value");
    }
}
