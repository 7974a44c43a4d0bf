//! What a resize may change: cpu and memory of containers and of the pod, and nothing that was there goes away (KEP-1287).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerResizePolicy, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::MIRROR;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::resources::qos_class;
use crate::kinds::semantic::{items, same};

type Amounts = Option<BTreeMap<String, Quantity>>;

/// A change through the `resize` subresource.
pub fn resize(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let (Some(n), Some(o)) = (&new.spec, &old.spec) else { return errors };
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        return refused("static pods cannot be resized");
    }
    if o.os.as_ref().is_some_and(|os| os.name == "windows") {
        return refused("windows pods cannot be resized");
    }
    let class =
        old.status.as_ref().and_then(|s| s.qos_class.clone()).unwrap_or_else(|| qos_class(o).to_owned());
    if qos_class(n) != class {
        errors.push(Error::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !is_supported(old) {
        errors.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    pod_level(n, o, &path, &mut errors);
    let (new_init, old_init) = (items(&n.init_containers), items(&o.init_containers));
    let ordered = errors.len();
    in_order("containers", &n.containers, &o.containers, &path, &mut errors);
    in_order("initContainers", new_init, old_init, &path, &mut errors);
    if errors.len() > ordered {
        return errors;
    }
    removals(new_init, old_init, &path.child("initContainers"), &mut errors);
    removals(&n.containers, &o.containers, &path.child("containers"), &mut errors);
    for (n, o) in n.containers.iter().zip(&o.containers) {
        if !same(&masked(n, o), o) {
            errors.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
        }
    }
    for (i, (n, o)) in new_init.iter().zip(old_init).enumerate() {
        init_container(n, o, &path.child("initContainers").index(i), &mut errors);
    }
    errors
}

fn refused(why: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.push(Error::forbidden(&Path::new(""), why));
    errors
}

/// Whether the node reports what containers run with, which those that cannot resize do not.
fn is_supported(pod: &Pod) -> bool {
    let all = pod.status.iter().flat_map(|s| items(&s.container_statuses));
    let mut running = all.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    running.next().is_none_or(|c| c.resources.is_some())
}

fn pod_level(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let at = path.child("resources");
    let (n, o) = match (&new.resources, &old.resources) {
        (None, None) => return,
        (None, Some(o)) if is_empty(o) => return,
        (None, Some(_)) => {
            errors.push(Error::forbidden(&at, "pod-level resources cannot be removed"));
            return;
        }
        (Some(n), o) => (n, o.as_ref()),
    };
    let had = o.cloned().unwrap_or_default();
    removed("pod-level resource", n, &had, &at, errors);
    let kept = kept(n, &had);
    let unchanged = same(&kept, &had) || (o.is_none() && is_empty(&kept));
    if !unchanged {
        errors.push(Error::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
}

fn is_empty(r: &ResourceRequirements) -> bool {
    let none = |a: &Amounts| a.as_ref().is_none_or(BTreeMap::is_empty);
    none(&r.requests) && none(&r.limits) && items(&r.claims).is_empty()
}

fn in_order(list: &str, new: &[Container], old: &[Container], path: &Path, errors: &mut ErrorList) {
    let at = path.child(list);
    if new.len() != old.len() {
        errors.push(Error::forbidden(&at, format!("{list} may not be added or removed on resize")));
        return;
    }
    for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (n, o))| n.name != o.name) {
        let message = format!("{list} may not be renamed or reordered on resize");
        errors.push(Error::forbidden(&at.index(i).child("name"), message));
    }
}

fn removals(new: &[Container], old: &[Container], path: &Path, errors: &mut ErrorList) {
    for (i, (n, o)) in new.iter().zip(old).enumerate() {
        let (n, o) = (n.resources.clone().unwrap_or_default(), o.resources.clone().unwrap_or_default());
        removed("resource", &n, &o, &path.index(i).child("resources"), errors);
    }
}

/// What `old` asks for and `new` does not. `what` begins the sentences.
fn removed(
    what: &str,
    new: &ResourceRequirements,
    old: &ResourceRequirements,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, new, old) in
        [("requests", &new.requests, &old.requests), ("limits", &new.limits, &old.limits)]
    {
        let has = |name| new.as_ref().is_some_and(|n| n.contains_key(name));
        if old.iter().flatten().any(|(name, _)| !has(name)) {
            errors.push(Error::forbidden(&path.child(field), format!("{what} {field} cannot be removed")));
        }
    }
}

fn init_container(new: &Container, old: &Container, path: &Path, errors: &mut ErrorList) {
    if !same(&masked(new, old), old) {
        let message = "only cpu and memory resources for init or sidecar containers are mutable";
        errors.push(Error::forbidden(path, message));
    }
    let is_sidecar = new.restart_policy.as_deref() == Some("Always");
    let restarts = |p: &&ContainerResizePolicy| p.restart_policy == "RestartContainer";
    if !is_sidecar && !same(new, old) {
        for _ in items(&new.resize_policy).iter().filter(restarts) {
            let message =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(Error::forbidden(path, message));
        }
    }
}

/// The new container with the old one's cpu and memory.
fn masked(new: &Container, old: &Container) -> Container {
    let none = ResourceRequirements::default();
    let resources = kept(new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
    // Claims of a container are not compared, as upstream has it.
    let resources =
        ResourceRequirements { claims: old.resources.as_ref().and_then(|r| r.claims.clone()), ..resources };
    let resources = (old.resources.is_some() || !is_empty(&resources)).then_some(resources);
    Container { resources, ..new.clone() }
}

fn kept(new: &ResourceRequirements, old: &ResourceRequirements) -> ResourceRequirements {
    let amounts = |new: &Amounts, old: &Amounts| {
        let mut kept = new.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            kept.remove(name);
            if let Some(had) = old.as_ref().and_then(|o| o.get(name)) {
                kept.insert(name.to_owned(), had.clone());
            }
        }
        (!kept.is_empty() || old.is_some()).then_some(kept)
    };
    ResourceRequirements {
        requests: amounts(&new.requests, &old.requests),
        limits: amounts(&new.limits, &old.limits),
        claims: new.claims.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value, init: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init},
            "status": {"qosClass": "Burstable"}}))
        .expect("a pod")
    }

    fn told(new: &Pod, old: &Pod) -> Vec<String> {
        resize(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_cpu_and_memory_move() {
        let c = |name: &str, requests: Value| json!({"name": name, "resources": {"requests": requests}});
        let old = pod(
            json!([c("a", json!({"cpu": "1", "example.com/x": "1"})), c("b", json!({"memory": "1Mi"}))]),
            json!([]),
        );
        let grown = pod(
            json!([
                c("a", json!({"cpu": "2", "memory": "1Gi", "example.com/x": "1"})),
                c("b", json!({"cpu": "1", "memory": "2Mi"}))
            ]),
            json!([]),
        );
        assert_eq!(told(&grown, &old), [""; 0]);
        let gone =
            pod(json!([c("a", json!({"example.com/x": "1"})), c("b", json!({"memory": "1Mi"}))]), json!([]));
        assert_eq!(
            told(&gone, &old),
            ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
        );
        let other = pod(
            json!([c("a", json!({"cpu": "1", "example.com/x": "2"})), c("b", json!({"memory": "1Mi"}))]),
            json!([]),
        );
        assert_eq!(told(&other, &old), ["spec: Forbidden: only cpu and memory resources are mutable"]);
        let swapped = pod(
            json!([c("b", json!({"memory": "1Mi"})), c("a", json!({"cpu": "1", "example.com/x": "1"}))]),
            json!([]),
        );
        assert_eq!(
            told(&swapped, &old),
            [0, 1].map(|i| format!(
                "spec.containers[{i}].name: Forbidden: containers may not be renamed or reordered on resize"
            ))
        );
        let fewer = pod(json!([c("a", json!({"cpu": "1"}))]), json!([]));
        assert_eq!(
            told(&fewer, &old),
            ["spec.containers: Forbidden: containers may not be added or removed on resize"]
        );
    }

    #[test]
    fn init_containers_and_pods_of_files_have_rules_of_their_own() {
        let init = |cpu: &str| {
            json!([{"name": "i", "resources": {"requests": {"cpu": cpu}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}])
        };
        let main = json!([{"name": "a"}]);
        let (old, new) = (pod(main.clone(), init("1")), pod(main.clone(), init("2")));
        assert_eq!(
            told(&new, &old),
            [
                "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer \
              cannot be resized"
            ]
        );
        let mut of_a_file = old.clone();
        of_a_file.metadata.annotations = Some([(MIRROR.to_owned(), String::new())].into());
        assert!(told(&new, &of_a_file)[0].ends_with("static pods cannot be resized"));
        let mut silent = pod(main.clone(), json!([]));
        silent.status = serde_json::from_value(json!({"qosClass": "BestEffort", "containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}))
        .expect("a status");
        assert_eq!(
            told(&silent, &silent),
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
        let mut whole = pod(main, json!([]));
        whole.spec.as_mut().expect("a spec").resources =
            serde_json::from_value(json!({"requests": {"cpu": "1"}})).expect("resources");
        let bare = |p: &Pod| {
            let mut p = p.clone();
            p.spec.as_mut().expect("a spec").resources = None;
            p
        };
        assert_eq!(
            told(&bare(&whole), &whole).last().expect("an error"),
            "spec.resources: Forbidden: pod-level resources cannot be removed"
        );
        let mut grown = whole.clone();
        grown.spec.as_mut().expect("a spec").resources =
            serde_json::from_value(json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}))
                .expect("resources");
        assert_eq!(told(&grown, &whole), [""; 0]);
    }
}
