//! Versions as errors show them: in upstream's internal form, where what all versions agree on is not with each.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;
use serde::Serialize;

use super::version::agree;
use crate::kinds::validate::printed::{json, list, object};

type Version = api::CustomResourceDefinitionVersion;

/// The versions of a definition.
pub fn versions(all: &[Version]) -> String {
    // What is not with each version is absent. Where versions differ, schemas show in their API form.
    fn part<T: PartialEq + Serialize>(
        all: &[Version],
        v: &Version,
        of: impl Fn(&Version) -> &Option<T>,
    ) -> String {
        if agree(all, &of) { "null".to_owned() } else { json(of(v)) }
    }
    list(Some(all).filter(|l| !l.is_empty()), |v| {
        object(&[
            ("Name", json(&v.name)),
            ("Served", json(&v.served)),
            ("Storage", json(&v.storage)),
            ("Deprecated", json(&v.deprecated.unwrap_or_default())),
            ("DeprecationWarning", json(&v.deprecation_warning)),
            ("Schema", part(all, v, |v| &v.schema)),
            ("Subresources", part(all, v, |v| &v.subresources)),
            ("AdditionalPrinterColumns", part(all, v, |v| &v.additional_printer_columns)),
            ("SelectableFields", part(all, v, |v| &v.selectable_fields)),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_share_is_left_out() {
        let v = |name: &str| Version { name: name.into(), served: true, ..Default::default() };
        let shown = versions(&[v("v1")]);
        assert!(
            shown.starts_with(r#"[{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"#),
            "{shown}"
        );
        assert!(shown.ends_with(r#""SelectableFields":null}]"#), "{shown}");
        assert_eq!(versions(&[]), "null");
    }
}
