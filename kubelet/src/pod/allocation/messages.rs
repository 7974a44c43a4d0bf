//! Texts of the events of a resize: a word, and the resources that the pod's spec asks for, as JSON.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceClaim, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::Serialize;

use crate::pod::spec;

/// In the order of fields that readers of upstream's events know.
#[derive(Serialize)]
struct Resources<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a BTreeMap<String, Quantity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<&'a BTreeMap<String, Quantity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<&'a Vec<ResourceClaim>>,
}

#[derive(Serialize)]
struct OfContainer<'a> {
    name: &'a str,
    resources: Resources<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<OfContainer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<OfContainer<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

fn one(c: &Container) -> OfContainer<'_> {
    static NONE: ResourceRequirements = ResourceRequirements { claims: None, limits: None, requests: None };
    let r = c.resources.as_ref().unwrap_or(&NONE);
    OfContainer {
        name: &c.name,
        resources: Resources {
            limits: r.limits.as_ref().filter(|l| !l.is_empty()),
            requests: r.requests.as_ref().filter(|l| !l.is_empty()),
            claims: r.claims.as_ref().filter(|l| !l.is_empty()),
        },
    }
}

/// `word` is what happened: `started`, `completed`, `error`, or why the resize waits.
pub fn message(pod: &Pod, word: &str, generation: Option<i64>, error: &str) -> String {
    let s = spec::spec(pod);
    let summary = Summary {
        init_containers: s.init_containers.iter().flatten().map(one).collect(),
        containers: s.containers.iter().map(one).collect(),
        generation: generation.unwrap_or(0),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(json) => format!("Pod resize {word}: {json}"),
        Err(_) => format!("Pod resize {word}"),
    }
}
