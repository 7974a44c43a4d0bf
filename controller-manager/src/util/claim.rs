//! Adoption and release: which objects a controller owns, takes, or lets go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::meta::controller_of;
use super::selector::Selector;

/// What to do about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is owned and matches.
    Keep,
    /// It matches and nobody owns it.
    Adopt,
    /// It is owned and matches no more.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Judges an object for the controller `owner`.
pub fn judge(object: &ObjectMeta, owner: &ObjectMeta, selector: &Selector) -> Claim {
    let matches = selector.matches(object.labels.as_ref());
    let owner_leaves = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_leaves || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Strategic merge patch that makes `owner` the controller of the object with `uid`.
pub fn adopt_patch(owner: &OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [owner]}})
}

/// Strategic merge patch that takes the owner away again.
pub fn release_patch(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, label: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            namespace: Some("ns".into()),
            labels: Some([("app".to_owned(), label.to_owned())].into()),
            owner_references: owner.map(|o| {
                vec![OwnerReference { uid: o.into(), controller: Some(true), ..OwnerReference::default() }]
            }),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn all_cases() {
        let selector = Selector::from_map(Some(&[("app".to_owned(), "x".to_owned())].into()));
        let owner = meta("o", "", None);
        let case = |label, by| judge(&meta("p", label, by), &owner, &selector);
        assert_eq!(case("x", Some("o")), Claim::Keep);
        assert_eq!(case("x", Some("other")), Claim::Ignore);
        assert_eq!(case("y", Some("o")), Claim::Release);
        assert_eq!(case("x", None), Claim::Adopt);
        assert_eq!(case("y", None), Claim::Ignore);
        let mut leaving = owner.clone();
        leaving.deletion_timestamp = Some(super::super::meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(judge(&meta("p", "x", None), &leaving, &selector), Claim::Ignore);
        assert_eq!(judge(&meta("p", "y", Some("o")), &leaving, &selector), Claim::Ignore);
        assert_eq!(judge(&meta("p", "x", Some("o")), &leaving, &selector), Claim::Keep);
    }
}
