//! What may change in the pod template of a job: nothing, but while it is suspended and has no pods, where the next ones go
//! and what they use (KEP-2926, KEP-5440).

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Affinity, Container, PodSpec};

use crate::field::{ErrorList, Path};
use crate::kinds::semantic::same;
use crate::kinds::validate::immutable;

/// Judges a change of the template at `path`.
pub fn update(new: &JobSpec, old: &JobSpec, status: Option<&JobStatus>, path: &Path) -> ErrorList {
    match (&new.template.spec, &old.template.spec) {
        (Some(n), Some(o)) if rests(old, status) => {
            if same(&settled(n, o), o) {
                ErrorList::new()
            } else {
                immutable(n, o, &path.child("spec"))
            }
        }
        _ => immutable(&new.template, &old.template, path),
    }
}

/// Suspended, and without pods that would differ from the next ones.
fn rests(job: &JobSpec, status: Option<&JobStatus>) -> bool {
    let is_suspended = job.suspend == Some(true);
    let Some(s) = status else { return is_suspended };
    let mut conditions = s.conditions.iter().flatten();
    let told = conditions.any(|c| c.type_ == "Suspended" && c.status == "True");
    is_suspended && (s.start_time.is_none() || told) && s.active.unwrap_or(0) == 0
}

/// The new pods with all that may change as it was.
fn settled(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut n = new.clone();
    n.node_selector.clone_from(&old.node_selector);
    n.tolerations.clone_from(&old.tolerations);
    n.scheduling_gates.clone_from(&old.scheduling_gates);
    let had = old.affinity.clone().unwrap_or_default();
    let affinity = Affinity { node_affinity: had.node_affinity, ..n.affinity.unwrap_or_default() };
    n.affinity = (old.affinity.is_some() || affinity != Affinity::default()).then_some(affinity);
    settle(&mut n.containers, &old.containers);
    if let (Some(n), Some(o)) = (&mut n.init_containers, &old.init_containers) {
        settle(n, o);
    }
    n
}

fn settle(new: &mut [Container], old: &[Container]) {
    if new.len() == old.len() {
        let same_name = new.iter_mut().zip(old).filter(|(n, o)| n.name == o.name);
        same_name.for_each(|(n, o)| n.resources.clone_from(&o.resources));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(suspend: bool, pod: Value) -> JobSpec {
        serde_json::from_value(json!({"suspend": suspend, "template": {"spec": pod}})).expect("a job's spec")
    }

    fn status(v: Value) -> JobStatus {
        serde_json::from_value(v).expect("a status")
    }

    #[test]
    fn a_resting_job_may_be_steered_and_resized() {
        let pod = |cpu: &str, zone: &str, image: &str| {
            json!({"nodeSelector": {"zone": zone}, "containers": [
                {"name": "a", "image": image, "resources": {"requests": {"cpu": cpu}}}]})
        };
        let told = |suspended: bool, s: Option<Value>, new: Value| {
            let (new, old) = (job(suspended, new), job(suspended, pod("1", "a", "x")));
            let errors = update(&new, &old, s.map(status).as_ref(), &Path::new("template"));
            errors
                .iter()
                .map(|e| e.to_string().split(':').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(true, None, pod("2", "b", "x")), [""; 0]);
        assert_eq!(told(true, None, pod("2", "b", "y")), ["template.spec"]);
        assert_eq!(told(false, None, pod("2", "a", "x")), ["template"]);
        let started = json!({"startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(told(true, Some(started.clone()), pod("2", "a", "x")), ["template"]);
        let mut stopped = started;
        stopped["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
        assert_eq!(told(true, Some(stopped.clone()), pod("2", "b", "x")), [""; 0]);
        stopped["active"] = json!(1);
        assert_eq!(told(true, Some(stopped), pod("2", "a", "x")), ["template"]);
    }

    #[test]
    fn only_the_choice_of_nodes_is_open_in_an_affinity() {
        let pod = |affinity: Value| json!({"affinity": affinity, "containers": [{"name": "a"}]});
        let nodes = json!({"nodeAffinity": {}});
        let pods = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}});
        let ok = |new: &Value, old: &Value| {
            update(&job(true, pod(new.clone())), &job(true, pod(old.clone())), None, &Path::new("t"))
                .is_empty()
        };
        assert!(ok(&nodes, &Value::Null));
        assert!(ok(&Value::Null, &nodes));
        assert!(!ok(&pods, &Value::Null));
        assert!(!ok(&Value::Null, &pods));
    }
}
