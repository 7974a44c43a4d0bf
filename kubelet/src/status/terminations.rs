//! Which containers have ended between two statuses of a pod, for `kubelet_terminated_containers_total`.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

type Statuses = Option<Vec<ContainerStatus>>;

fn ended<'a>(statuses: &'a Statuses, name: &str) -> Option<&'a ContainerStateTerminated> {
    let status = statuses.iter().flatten().find(|s| s.name == name)?;
    status.state.as_ref()?.terminated.as_ref()
}

fn lists(s: &PodStatus) -> [(&'static str, &Statuses); 3] {
    [
        ("init_container", &s.init_container_statuses),
        ("container", &s.container_statuses),
        ("ephemeral_container", &s.ephemeral_container_statuses),
    ]
}

/// The containers that have ended in `new` and had not in `old`: of which type, and how.
pub fn between<'a>(old: &PodStatus, new: &'a PodStatus) -> Vec<(&'static str, &'a ContainerStateTerminated)> {
    let mut found = Vec::new();
    for ((kind, after), (_, before)) in lists(new).into_iter().zip(lists(old)) {
        let fresh = after.iter().flatten().filter(|s| ended(before, &s.name).is_none());
        found.extend(fresh.filter_map(|s| Some((kind, ended(after, &s.name)?))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(init: bool, main: bool) -> PodStatus {
        let state = |ended: bool| match ended {
            true => serde_json::json!({"terminated": {"exitCode": 139, "reason": "Error"}}),
            false => serde_json::json!({"running": {}}),
        };
        let one = |name: &str, ended| {
            serde_json::json!([{"name": name, "state": state(ended), "image": "", "imageID": "",
                "ready": false, "restartCount": 0}])
        };
        serde_json::from_value(serde_json::json!({
            "initContainerStatuses": one("i", init), "containerStatuses": one("c", main)}))
        .unwrap()
    }

    #[test]
    fn each_end_is_told_once() {
        let of = |old: &PodStatus, new: &PodStatus| {
            between(old, new).into_iter().map(|(kind, t)| (kind, t.exit_code)).collect::<Vec<_>>()
        };
        assert_eq!(of(&PodStatus::default(), &status(true, false)), [("init_container", 139)]);
        assert_eq!(of(&status(true, false), &status(true, true)), [("container", 139)]);
        assert_eq!(of(&status(true, true), &status(true, true)), []);
        assert_eq!(of(&status(true, true), &status(true, false)), []);
    }
}
