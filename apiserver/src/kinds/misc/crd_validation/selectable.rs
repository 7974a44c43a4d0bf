//! Selectable fields of a version.

use crate::crd::schema::paths::resolve;
use crate::crd::schema::props::Props;
use crate::field::{Error, ErrorList, Path};

/// Most selectable fields per version.
const MAX_SELECTABLE: usize = 8;

/// Selectable fields lead to single values outside of metadata.
pub fn check(paths: &[String], schema: Props<'_>, many: bool, path: &Path, errors: &mut ErrorList) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, p) in paths.iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        if p.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let (found, target) = match resolve(p, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(&at, p, format!("is an invalid path: {why}")));
                continue;
            }
        };
        let found = found.to_string();
        if found.split(['.', '[']).next() == Some("metadata") {
            errors.push(Error::invalid(&at, p, "must not point to fields in metadata"));
        }
        if !target.is_some_and(|t| matches!(t.ty(), "string" | "boolean" | "integer")) {
            errors.push(Error::invalid(
                &at,
                p,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                 formats are allowed.",
            ));
        }
        if !seen.insert(found) {
            errors.push(Error::duplicate(&at, p));
        }
    }
    if seen.len() > MAX_SELECTABLE && !many {
        errors.push(Error::too_many(path, seen.len(), MAX_SELECTABLE));
    }
}

/// More selectable fields than allowed: older definitions may have them.
pub fn too_many(n: usize) -> bool {
    n > MAX_SELECTABLE
}
