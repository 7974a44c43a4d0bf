//! `AlwaysPullImages`: every pod pulls its images anew, so that nobody runs another tenant's private image only
//! because it lies on the node already.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::field::{Error, Path};
use crate::lookup::{items, text};
use crate::status::{ApiError, ApiResult};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const ALWAYS: &str = "Always";

struct AlwaysPullImages;

pub(crate) fn build(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(AlwaysPullImages)
}

fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    LISTS.iter().flat_map(move |list| {
        items(pod, &format!("/spec/{list}")).iter().enumerate().map(move |(i, c)| (*list, i, c))
    })
}

/// Updates that bring no new image are let through, or pods older than the plugin could not be changed.
fn applies(attrs: &Attributes<'_>, pod: &Value) -> bool {
    if !attrs.is("", "pods", "") || !matches!(attrs.operation, Operation::Create | Operation::Update) {
        return false;
    }
    let Some(old) = attrs.old.filter(|_| attrs.operation == Operation::Update) else { return true };
    let known: Vec<&str> = containers(old).map(|(_, _, c)| text(c, "/image")).collect();
    containers(pod).any(|(_, _, c)| !known.contains(&text(c, "/image")))
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|p| applies(attrs, p)) else { return Ok(()) };
        for list in LISTS {
            let list = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
            for c in list.into_iter().flatten().filter_map(Value::as_object_mut) {
                c.insert("imagePullPolicy".to_owned(), ALWAYS.into());
            }
        }
        let volumes = pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
        for image in volumes.into_iter().flatten().filter_map(|v| v.get_mut("image")?.as_object_mut()) {
            image.insert("pullPolicy".to_owned(), ALWAYS.into());
        }
        Ok(())
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|p| applies(attrs, p)) else { return Ok(()) };
        let spec = Path::new("spec");
        let mut wrong = Vec::new();
        for (list, i, c) in containers(pod) {
            let at = spec.child(list).index(i).child("imagePullPolicy");
            wrong.push((at, text(c, "/imagePullPolicy")));
        }
        for (i, v) in items(pod, "/spec/volumes").iter().enumerate() {
            if let Some(image) = v.get("image").filter(|i| i.is_object()) {
                let at = spec.child("volumes").index(i).child("image").child("pullPolicy");
                wrong.push((at, text(image, "/pullPolicy")));
            }
        }
        let refusals: Vec<ApiError> = wrong
            .iter()
            .filter(|(_, policy)| *policy != ALWAYS)
            .map(|(at, policy)| {
                attrs.forbidden(object, Error::not_supported(at, policy, &[ALWAYS]).to_string())
            })
            .collect();
        match refusals.as_slice() {
            [] => Ok(()),
            // An aggregate has no reason and code of its own.
            [one] => Err(ApiError::new(500, "", one.message.clone())),
            several => {
                let all: Vec<&str> = several.iter().map(|e| e.message.as_str()).collect();
                Err(ApiError::new(500, "", format!("[{}]", all.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::lookup;
    use serde_json::json;

    #[tokio::test]
    async fn images_are_pulled_always() {
        let p = build(&environment([]).0);
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"image": "a", "imagePullPolicy": "Never"}], "initContainers": [{"image": "b"}],
            "volumes": [{"name": "v", "image": {"reference": "r"}}]}});
        let out = Write::create(lookup::PODS, "ns").run(&*p, Some(pod.clone())).await.unwrap().unwrap();
        assert_eq!(out["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(out["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(out["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
        // An old pod stays as it is while its images do.
        let mut w = Write::create(lookup::PODS, "ns");
        (w.operation, w.old) = (Operation::Update, Some(pod.clone()));
        assert_eq!(w.run(&*p, Some(pod.clone())).await.unwrap().unwrap(), pod);
        let w = Write::create(lookup::PODS, "ns");
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"imagePullPolicy": "Never"}]}});
        assert_eq!(
            p.validate(&w.attributes(), Some(&one)).await.unwrap_err().message,
            "pods \"p\" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
    }
}
