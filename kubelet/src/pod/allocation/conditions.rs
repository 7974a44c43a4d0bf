//! What a pod's status says of a resize: `PodResizePending` until it is allocated, `PodResizeInProgress` until the
//! containers run with it. Both may hold at once.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use crate::pod::spec;

pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";
/// Reason of a pending resize that may fit later.
pub const DEFERRED: &str = "Deferred";
/// Reason of a resize whose actuation failed.
pub const ERROR: &str = "Error";

/// One condition that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub reason: String,
    pub message: String,
    /// The generation of the spec that asks for it.
    pub generation: Option<i64>,
    /// Since when it holds for this reason.
    pub since: Timestamp,
}

impl Condition {
    fn next(
        old: Option<&Self>,
        reason: &str,
        message: &str,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.to_owned(),
            generation,
            since: old.filter(|c| c.reason == reason).map_or(now, |c| c.since),
        }
    }
}

/// The conditions of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    pub pending: Option<Condition>,
    pub in_progress: Option<Condition>,
}

impl Conditions {
    /// Those in a status.
    pub fn of(status: Option<&PodStatus>) -> Self {
        let find = |kind: &str| {
            let c = status?.conditions.as_ref()?.iter().find(|c| c.type_ == kind && c.status == "True")?;
            Some(Condition {
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                generation: c.observed_generation,
                since: c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
            })
        };
        Self { pending: find(PENDING), in_progress: find(IN_PROGRESS) }
    }

    /// The resize must wait. True if that is news: it did not, or it was another resize.
    pub fn defer(&mut self, message: &str, generation: Option<i64>, now: Timestamp) -> bool {
        let old = self.pending.take();
        let news = old.as_ref().is_none_or(|c| c.reason != DEFERRED || c.generation != generation);
        self.pending = Some(Condition::next(old.as_ref(), DEFERRED, message, generation, now));
        news
    }

    /// A resize was allocated: what was said of an earlier one holds no more.
    pub fn begin(&mut self, generation: Option<i64>, now: Timestamp) {
        self.pending = None;
        self.in_progress = Some(Condition::next(None, "", "", generation, now));
    }

    /// Containers do not run with what is allocated yet. An error stays until the resize is over or replaced.
    pub fn progress(&mut self, generation: Option<i64>, now: Timestamp) {
        if self.in_progress.is_none() {
            self.in_progress = Some(Condition::next(None, "", "", generation, now));
        }
    }

    /// Actuation failed. The generation of the resize, if the error is news.
    pub fn fail(&mut self, message: &str, generation: Option<i64>, now: Timestamp) -> Option<Option<i64>> {
        let old = self.in_progress.take();
        let generation = old.as_ref().map_or(generation, |c| c.generation);
        let news = old.as_ref().is_none_or(|c| c.reason != ERROR || c.message != message);
        self.in_progress = Some(Condition::next(old.as_ref(), ERROR, message, generation, now));
        news.then_some(generation)
    }

    /// All containers run with what is allocated to the spec of `generation`; the generation of the resize that this
    /// ends, if one was under way. One of a later spec is not the one that ended.
    pub fn end(&mut self, generation: Option<i64>) -> Option<Option<i64>> {
        let ended = self.in_progress.take_if(|c| c.generation <= generation)?;
        Some(ended.generation)
    }

    /// As the API shows them.
    pub fn list(&self) -> Vec<PodCondition> {
        let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        [(PENDING, &self.pending), (IN_PROGRESS, &self.in_progress)]
            .into_iter()
            .filter_map(|(kind, c)| Some((kind, c.as_ref()?)))
            .map(|(kind, c)| PodCondition {
                type_: kind.into(),
                status: "True".into(),
                reason: text(&c.reason),
                message: text(&c.message),
                last_transition_time: Some(spec::time(c.since)),
                observed_generation: c.generation,
                ..PodCondition::default()
            })
            .collect()
    }
}
