//! Success policies of indexed jobs (KEP-3998).

use k8s_openapi::api::batch::v1::{SuccessPolicy, SuccessPolicyRule};

use super::MAX_RULES;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::numbers;
use crate::kinds::validate::printed::{json, list, object};

/// Longest list of indexes, in bytes.
const MAX_INDEXES: usize = 64 * 1024;

/// `completions`: none is an error of its own, and nothing can be held against it.
pub fn policy(p: &SuccessPolicy, completions: Option<i32>, path: &Path, errors: &mut ErrorList) {
    let at = path.child("rules");
    if p.rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(&at, why));
    }
    if p.rules.len() > MAX_RULES {
        errors.push(Error::too_many(&at, p.rules.len(), MAX_RULES));
    }
    let Some(completions) = completions else { return };
    for (i, r) in p.rules.iter().enumerate() {
        rule(r, completions, &at.index(i), errors);
    }
}

fn rule(r: &SuccessPolicyRule, completions: i32, path: &Path, errors: &mut ErrorList) {
    if r.succeeded_count.is_none() && r.succeeded_indexes.is_none() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(Error::required(path, why));
    }
    let mut total = 0;
    if let Some(list) = &r.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if list.len() > MAX_INDEXES {
            errors.push(Error::too_long(&at, MAX_INDEXES as i64));
        }
        match count(list, completions) {
            Ok(n) => total = n,
            Err(why) => {
                errors.push(Error::invalid(&at, list, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(wanted) = r.succeeded_count else { return };
    let at = path.child("succeededCount");
    errors.extend(numbers::non_negative(wanted, &at));
    if wanted > completions {
        let why =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(&at, wanted, why));
    }
    if r.succeeded_indexes.is_some() && wanted > total {
        let why = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(Error::invalid(&at, wanted, why));
    }
}

/// How many indexes `1,3-5` names; they must rise and be below `completions`.
fn count(list: &str, completions: i32) -> Result<i32, String> {
    let (mut last, mut total) = (None, 0);
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.len() > 2 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts \
                 separated by '-'"
            ));
        }
        let index = |s: &str| match s.parse::<i64>() {
            Err(_) => Err(format!("cannot convert string to integer for index: {s:?}")),
            Ok(n) => {
                let small = i32::try_from(n).ok().filter(|n| *n < completions);
                small.ok_or_else(|| format!("too large index: {s:?}"))
            }
        };
        let rises = |before: i32, now: i32| match before < now {
            true => Ok(()),
            false => Err(format!("non-increasing order, previous: {before}, current: {now}")),
        };
        let first = index(ends[0])?;
        let mut end = first;
        if let Some(s) = ends.get(1) {
            end = index(s)?;
            rises(first, end)?;
        }
        if let Some(before) = last {
            rises(before, first)?;
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// In upstream's internal form, as its messages show it.
pub fn shown(p: &SuccessPolicy) -> String {
    let rule = |r: &SuccessPolicyRule| {
        object(&[
            ("SucceededIndexes", json(&r.succeeded_indexes)),
            ("SucceededCount", json(&r.succeeded_count)),
        ])
    };
    object(&[("Rules", list(Some(&p.rules), rule))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_indexes() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0-2,4", 5), Ok(4));
        assert_eq!(count("0-5", 5).unwrap_err(), "too large index: \"5\"");
        assert_eq!(count("3,2", 5).unwrap_err(), "non-increasing order, previous: 3, current: 2");
        assert!(count("1-2-3", 5).unwrap_err().starts_with("the fragment \"1-2-3\" violates"));
        assert_eq!(count("x", 5).unwrap_err(), "cannot convert string to integer for index: \"x\"");
    }
}
