//! The pod phase from its container statuses, by upstream's rules.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodSpec};

use crate::pod::spec::{self, Role};

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// `has_initialized`: a regular container has started in the present sandbox.
/// `ended`: nothing of the pod runs, and nothing will.
pub fn phase(
    pod_spec: &PodSpec,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    ended: bool,
    is_static: bool,
    has_initialized: bool,
) -> &'static str {
    let empty = ContainerState::default();
    let state = |s: &'_ ContainerStatus| s.state.clone().unwrap_or_else(|| empty.clone());
    let (mut pending_init, mut pending_sidecar, mut failed_init) = (0, 0, 0);
    let (mut unknown, mut running, mut waiting) = (0, 0, 0);
    for (role, c) in spec::init_containers(pod_spec) {
        let Some(status) = find(init, &c.name) else {
            if role == Role::Sidecar {
                unknown += 1
            } else {
                pending_init += 1
            }
            continue;
        };
        let s = state(status);
        if role == Role::Sidecar {
            if s.running.is_some() {
                pending_sidecar += usize::from(status.started != Some(true));
                running += 1;
            } else if s.waiting.is_some() && last_exit(status).is_none() {
                pending_sidecar += 1;
                waiting += 1;
            }
            continue;
        }
        let exit = match (&s.terminated, &s.waiting) {
            (Some(t), _) => Some(t.exit_code),
            (None, Some(_)) => last_exit(status),
            _ => None,
        };
        match exit {
            None => pending_init += 1,
            Some(0) => {}
            Some(code) => failed_init += usize::from(!spec::init_should_restart(pod_spec, c, code)),
        }
        // A failed init container that will run again keeps the pod pending.
        if exit.is_some_and(|code| code != 0 && spec::init_should_restart(pod_spec, c, code)) {
            pending_init += 1;
        }
    }
    let (mut stopped, mut for_good, mut succeeded) = (0, 0, 0);
    for c in &pod_spec.containers {
        let Some(status) = find(regular, &c.name) else {
            unknown += 1;
            continue;
        };
        let s = state(status);
        if s.running.is_some() {
            running += 1;
        } else if let Some(t) = &s.terminated {
            stopped += 1;
            succeeded += usize::from(t.exit_code == 0);
            for_good += usize::from(!spec::should_restart(pod_spec, c, t.exit_code));
        } else if s.waiting.is_some() {
            match last_exit(status) {
                Some(code) => {
                    stopped += 1;
                    for_good += usize::from(!spec::should_restart(pod_spec, c, code));
                }
                None => waiting += 1,
            }
        } else {
            unknown += 1;
        }
    }
    if failed_init > 0 {
        return "Failed";
    }
    if ((pending_init > 0 || pending_sidecar > 0) && !has_initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        if ended && !is_static {
            return if stopped == succeeded { "Succeeded" } else { "Failed" };
        }
        if stopped != for_good {
            return "Running";
        }
        return if stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: &str, init: serde_json::Value, regular: serde_json::Value, ended: bool) -> &'static str {
        let names = |v: &serde_json::Value| -> Vec<serde_json::Value> {
            v.as_array().unwrap().iter().map(|s| serde_json::json!({"name": s["name"]})).collect()
        };
        let pod_spec: PodSpec = serde_json::from_value(serde_json::json!({
            "restartPolicy": policy, "initContainers": names(&init), "containers": names(&regular)}))
        .unwrap();
        let list = |v: serde_json::Value| -> Vec<ContainerStatus> {
            v.as_array()
                .unwrap()
                .iter()
                .map(|s| {
                    let mut s = s.clone();
                    for (k, v) in [
                        ("image", "i".into()),
                        ("imageID", "".into()),
                        ("ready", false.into()),
                        ("restartCount", 0.into()),
                    ] {
                        s[k] = v;
                    }
                    serde_json::from_value(s).unwrap()
                })
                .collect()
        };
        phase(&pod_spec, &list(init), &list(regular), ended, false, false)
    }

    #[test]
    fn phases() {
        let j = |s: &str| -> serde_json::Value { serde_json::from_str(s).unwrap() };
        let run = j(r#"[{"name":"a","state":{"running":{}}}]"#);
        let ok = j(r#"[{"name":"a","state":{"terminated":{"exitCode":0}}}]"#);
        let bad = j(r#"[{"name":"a","state":{"terminated":{"exitCode":1}}}]"#);
        let wait = j(r#"[{"name":"a","state":{"waiting":{}}}]"#);
        let crash = j(r#"[{"name":"a","state":{"waiting":{}},"lastState":{"terminated":{"exitCode":1}}}]"#);
        let none = j("[]");
        assert_eq!(of("Always", none.clone(), run.clone(), false), "Running");
        assert_eq!(of("Always", none.clone(), wait.clone(), false), "Pending");
        assert_eq!(of("Always", none.clone(), crash, false), "Running");
        assert_eq!(of("Always", none.clone(), bad.clone(), false), "Running");
        assert_eq!(of("Always", none.clone(), bad.clone(), true), "Failed");
        assert_eq!(of("Never", none.clone(), bad.clone(), false), "Failed");
        assert_eq!(of("OnFailure", none.clone(), bad, false), "Running");
        assert_eq!(of("OnFailure", none, ok, false), "Succeeded");
        let init_run = j(r#"[{"name":"i","state":{"running":{}}}]"#);
        let init_bad = j(r#"[{"name":"i","state":{"terminated":{"exitCode":1}}}]"#);
        assert_eq!(of("Always", init_run, wait.clone(), false), "Pending");
        assert_eq!(of("Never", init_bad.clone(), wait.clone(), false), "Failed");
        assert_eq!(of("Always", init_bad, wait, false), "Pending");
    }
}
