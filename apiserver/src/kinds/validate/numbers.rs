//! Checks of numbers and of numbers that may be percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::text;
use crate::field::{Error, ErrorList, Path};

/// Refuses negative numbers.
pub fn non_negative(value: impl Into<i64>, path: &Path) -> ErrorList {
    let value = value.into();
    let mut errors = ErrorList::new();
    if value < 0 {
        errors.push(Error::invalid(path, value, "must be greater than or equal to 0"));
    }
    errors
}

/// [`non_negative`] of a number that may be absent.
pub fn non_negative_opt(value: Option<impl Into<i64>>, path: &Path) -> ErrorList {
    value.map_or_else(ErrorList::new, |v| non_negative(v, path))
}

/// Refuses what is not between one and `u32`-sized bounds that are given.
pub fn in_range(value: i64, low: i64, high: i64, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if value < low || value > high {
        errors.push(Error::invalid(path, value, text::between(low, high)));
    }
    errors
}

/// Port number from 1 to 65535.
pub fn port(value: i32, path: &Path) -> ErrorList {
    in_range(i64::from(value), 1, 65535, path)
}

/// Port by number or by name.
pub fn port_or_name(value: &IntOrString, path: &Path) -> ErrorList {
    match value {
        IntOrString::Int(n) => port(*n, path),
        IntOrString::String(s) => super::invalid_each(path, s, text::port_name(s)),
    }
}

/// The percentage that `value` tells, if it is one.
pub fn percent(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(s) => s.strip_suffix('%')?.parse().ok().filter(|n| *n >= 0),
        IntOrString::Int(_) => None,
    }
}

/// A number that is not negative, or a percentage.
pub fn positive_int_or_percent(value: &IntOrString, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    match value {
        IntOrString::Int(n) => errors.extend(non_negative(*n, path)),
        IntOrString::String(s) => {
            if percent(value).is_none() {
                errors.push(Error::invalid(
                    path,
                    s,
                    text::regex_sentence(
                        "a valid percent string must be a numeric string followed by an ending '%'",
                        "[0-9]+%",
                        &["1%", "93%"],
                    ),
                ));
            }
        }
    }
    errors
}

/// Refuses percentages above one hundred.
pub fn not_more_than_100_percent(value: &IntOrString, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if percent(value).is_some_and(|p| p > 100) {
        errors.push(Error::invalid(path, value, "must not be greater than 100%"));
    }
    errors
}

/// The number, or the number before the percent sign.
pub fn plain_value(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(_) => percent(value).unwrap_or(0),
    }
}
