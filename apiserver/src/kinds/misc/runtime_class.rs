//! Runtime classes.

use k8s_openapi::api::node::v1 as api;

use crate::field::{ErrorList, Path};
use crate::kinds::podspec::validate::{resources, scheduling};
use crate::kinds::quantity::canonical_list;
use crate::kinds::semantic::items;
use crate::kinds::validate::{immutable, invalid_each, selector, text};
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

    fn validate(&self, _cx: &mut Context, c: &api::RuntimeClass) -> ErrorList {
        let mut errors = invalid_each(&Path::new("handler"), &c.handler, text::dns1123_label(&c.handler));
        if let Some(o) = c.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()) {
            resources::list(o, &Path::new("overhead").child("podFixed"), &mut errors);
        }
        if let Some(s) = &c.scheduling {
            let path = Path::new("scheduling");
            errors.extend(selector::labels(s.node_selector.as_ref(), &path.child("nodeSelector")));
            scheduling::tolerations(items(&s.tolerations), &path.child("tolerations"), &mut errors);
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
