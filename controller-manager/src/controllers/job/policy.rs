//! Pod failure policies and success policies.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::util::meta;

/// What a failure policy says about a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No rule, or `Count`: an ordinary failure.
    Count,
    /// Does not count at all.
    Ignore,
    /// The index failed for good.
    FailIndex,
    /// The job failed; the message of its condition.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts towards limits.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Judges a failed pod: the first rule that matches decides.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (n, rule) in policy.into_iter().flat_map(|p| &p.rules).enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => {
                return Verdict::FailJob(format!("{what} matching FailJob rule at index {n}"));
            }
            // An action of a later release: not ours to follow.
            _ => {}
        }
    }
    Verdict::Count
}

/// What of the pod the rule matched, in words.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!("{}/{}", meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    if let Some(codes) = &rule.on_exit_codes {
        let all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let (container, code) = all.filter_map(|c| Some((c, exit_code(c, codes)?))).next()?;
        return Some(format!("Container {} for pod {name} failed with exit code {code}", container.name));
    }
    let wanted = rule.on_pod_conditions.as_ref()?;
    let hit = status.conditions.iter().flatten().find(|c| {
        wanted.iter().any(|w| w.type_ == c.type_ && w.status.as_deref().unwrap_or("True") == c.status)
    })?;
    Some(format!("Pod {name} has condition {}", hit.type_))
}

/// The exit code of a container, if the requirement matches it. Success matches nothing.
fn exit_code(c: &ContainerStatus, want: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = want.container_name.as_ref().is_none_or(|n| *n == c.name);
    let fits = match want.operator.as_str() {
        "In" => want.values.contains(&code),
        "NotIn" => !want.values.contains(&code),
        _ => false,
    };
    (code != 0 && named && fits).then_some(code)
}

/// Whether enough has succeeded: the message of the condition.
pub fn success(policy: Option<&SuccessPolicy>, completions: i32, done: &Indexes) -> Option<String> {
    if done.is_empty() {
        return None;
    }
    let met = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.common(done);
            !wanted.is_empty() && (have == wanted.len() || rule.succeeded_count.is_some_and(|n| have >= n))
        }
        None => rule.succeeded_count.is_some_and(|n| done.len() >= n),
    };
    let n = policy?.rules.iter().position(met)?;
    Some(format!("Matched rules at index {n}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::{PodFailurePolicyOnPodConditionsPattern, SuccessPolicyRule};
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, PodCondition, PodStatus};

    fn pod(container: &str, code: i32, conditions: &[&str]) -> Pod {
        let terminated = ContainerStateTerminated { exit_code: code, ..ContainerStateTerminated::default() };
        let status = ContainerStatus {
            name: container.into(),
            state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
            ..ContainerStatus::default()
        };
        let condition =
            |t: &&str| PodCondition { type_: (*t).into(), status: "True".into(), ..PodCondition::default() };
        let mut pod = Pod {
            status: Some(PodStatus {
                container_statuses: Some(vec![status]),
                conditions: Some(conditions.iter().map(condition).collect()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        pod
    }

    fn on_codes(
        action: &str,
        operator: &str,
        values: &[i32],
        container: Option<&str>,
    ) -> PodFailurePolicyRule {
        PodFailurePolicyRule {
            action: action.into(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: container.map(str::to_owned),
                operator: operator.into(),
                values: values.to_vec(),
            }),
            on_pod_conditions: None,
        }
    }

    fn on_condition(action: &str, type_: &str) -> PodFailurePolicyRule {
        PodFailurePolicyRule {
            action: action.into(),
            on_exit_codes: None,
            on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                type_: type_.into(),
                status: Some("True".into()),
            }]),
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = PodFailurePolicy {
            rules: vec![
                on_condition("Ignore", "DisruptionTarget"),
                on_codes("FailJob", "In", &[3], Some("main")),
                on_codes("FailIndex", "In", &[4], None),
                on_codes("Count", "NotIn", &[1], None),
                on_codes("Later", "NotIn", &[2], None),
            ],
        };
        let say = |p: Pod| judge(Some(&policy), &p);
        assert_eq!(say(pod("main", 3, &["DisruptionTarget"])), Verdict::Ignore);
        assert_eq!(
            say(pod("main", 3, &["Ready"])),
            Verdict::FailJob(
                "Container main for pod ns/p failed with exit code 3 matching FailJob rule at index 1".into()
            )
        );
        assert_eq!(say(pod("side", 3, &[])), Verdict::Count);
        assert_eq!(say(pod("side", 4, &[])), Verdict::FailIndex);
        assert_eq!(say(pod("side", 0, &[])), Verdict::Count, "success matches no rule of exit codes");
        assert_eq!(say(pod("side", 1, &[])), Verdict::Count, "an unknown action is passed over");
        assert_eq!(judge(None, &pod("side", 1, &[])), Verdict::Count);
    }

    #[test]
    fn success_rules() {
        let rule = |indexes: Option<&str>, count| SuccessPolicyRule {
            succeeded_indexes: indexes.map(str::to_owned),
            succeeded_count: count,
        };
        let policy = SuccessPolicy {
            rules: vec![rule(Some("0,2-3"), Some(2)), rule(Some("5"), None), rule(None, Some(4))],
        };
        let met = |done: &str| success(Some(&policy), 10, &Indexes::parse(done, 10));
        assert_eq!(met("0,1"), None);
        assert_eq!(met("0,3").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met("1,5").as_deref(), Some("Matched rules at index 1"));
        assert_eq!(met("6-9").as_deref(), Some("Matched rules at index 2"));
        assert_eq!(
            success(Some(&SuccessPolicy { rules: vec![rule(None, Some(0))] }), 10, &Indexes::default()),
            None
        );
    }
}
