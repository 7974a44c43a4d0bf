//! What becomes of an object whose owners were looked up. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::graph::{FOREGROUND, ORPHAN};

/// State of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists.
    Solid,
    /// It does not, or is another object by now.
    Gone,
    /// It is being deleted in the foreground and waits for this object.
    Waiting,
}

/// How to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    /// Take these owners' references away, for others still hold it.
    DropOwners(Vec<String>),
    Delete {
        propagation: Propagation,
        /// References to owners must stop blocking first, or two objects would wait for each other.
        unblock: bool,
    },
}

/// Decides about an object by its owners (uid and state). `dependents` is whether it has dependents, and
/// `dependent_waits` whether one of them is itself in foreground deletion.
pub fn decide(
    object: &ObjectMeta,
    owners: &[(String, OwnerState)],
    dependents: bool,
    dependent_waits: bool,
) -> Decision {
    let any = |s| owners.iter().any(|(_, state)| *state == s);
    if owners.is_empty() {
        return Decision::Keep;
    }
    if any(OwnerState::Solid) {
        let dropped: Vec<String> =
            owners.iter().filter(|(_, s)| *s != OwnerState::Solid).map(|(uid, _)| uid.clone()).collect();
        return if dropped.is_empty() { Decision::Keep } else { Decision::DropOwners(dropped) };
    }
    if any(OwnerState::Waiting) && dependents {
        return Decision::Delete { propagation: Propagation::Foreground, unblock: dependent_waits };
    }
    let has = |name: &str| object.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == name));
    let propagation = if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Decision::Delete { propagation, unblock: false }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Gone, Solid, Waiting};
    use super::*;

    fn case(states: &[OwnerState], dependents: bool, dependent_waits: bool) -> Decision {
        let owners: Vec<_> = states.iter().enumerate().map(|(i, s)| (i.to_string(), *s)).collect();
        decide(&ObjectMeta::default(), &owners, dependents, dependent_waits)
    }

    #[test]
    fn all_combinations() {
        let delete = |propagation, unblock| Decision::Delete { propagation, unblock };
        assert_eq!(case(&[], false, false), Decision::Keep);
        assert_eq!(case(&[Solid, Solid], true, true), Decision::Keep);
        assert_eq!(
            case(&[Gone, Solid, Waiting], true, true),
            Decision::DropOwners(vec!["0".into(), "2".into()])
        );
        assert_eq!(case(&[Gone], true, false), delete(Propagation::Background, false));
        assert_eq!(case(&[Waiting], false, false), delete(Propagation::Background, false));
        assert_eq!(case(&[Waiting], true, false), delete(Propagation::Foreground, false));
        assert_eq!(case(&[Waiting, Gone], true, true), delete(Propagation::Foreground, true));
    }

    #[test]
    fn finalizers_already_there_are_honoured() {
        let orphan = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        let owners = [("o".to_owned(), Gone)];
        assert_eq!(
            decide(&orphan, &owners, false, false),
            Decision::Delete { propagation: Propagation::Orphan, unblock: false }
        );
    }
}
