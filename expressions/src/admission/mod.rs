//! Expressions of admission policies and match conditions, as far as more than the API server needs them: the variables
//! that they can name with their types, and ([`typecheck`]) what is wrong with a policy for the types that it matches.

pub mod typecheck;

use std::sync::LazyLock;

use crate::types::names;
use crate::{DeclType, Env, Type};

fn strings() -> DeclType {
    DeclType::list(DeclType::string())
}

/// `AdmissionRequest` without the objects and its identifier.
fn request() -> DeclType {
    let string = DeclType::string;
    let kind = DeclType::object(
        "kubernetes.GroupVersionKind",
        [("group", string()), ("version", string()), ("kind", string())],
    );
    let resource = DeclType::object(
        "kubernetes.GroupVersionResource",
        [("group", string()), ("version", string()), ("resource", string())],
    );
    let user = DeclType::object(
        "kubernetes.UserInfo",
        [
            ("username", string()),
            ("uid", string()),
            ("groups", strings()),
            ("extra", DeclType::map(strings())),
        ],
    );
    DeclType::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", string()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", string()),
            ("name", string()),
            ("namespace", string()),
            ("operation", string()),
            ("userInfo", user),
            ("dryRun", DeclType::BOOL),
            ("options", DeclType::DYN),
        ],
    )
}

/// The parts of a `Namespace` that expressions see.
fn namespace() -> DeclType {
    let string = DeclType::string;
    let condition = DeclType::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", string()),
            ("type", string()),
            ("lastTransitionTime", DeclType::timestamp()),
            ("message", string()),
            ("reason", string()),
        ],
    );
    let metadata = DeclType::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", string()),
            ("generateName", string()),
            ("namespace", string()),
            ("labels", DeclType::map(string())),
            ("annotations", DeclType::map(string())),
            ("UID", string()),
            ("creationTimestamp", DeclType::timestamp()),
            ("deletionGracePeriodSeconds", DeclType::INT),
            ("deletionTimestamp", DeclType::timestamp()),
            ("generation", DeclType::INT),
            ("resourceVersion", string()),
            ("finalizers", strings()),
        ],
    );
    DeclType::object(
        "kubernetes.Namespace",
        [
            ("metadata", metadata),
            ("spec", DeclType::object("kubernetes.NamespaceSpec", [("finalizers", strings())])),
            (
                "status",
                DeclType::object(
                    "kubernetes.NamespaceStatus",
                    [("conditions", DeclType::list(condition)), ("phase", string())],
                ),
            ),
        ],
    )
}

/// The environment of an expression, with or without `params` and `authorizer`.
pub fn environment(params: bool, authorizer: bool) -> Env {
    static BASE: LazyLock<Env> = LazyLock::new(|| {
        Env::default()
            .variable("object", DeclType::DYN)
            .variable("oldObject", DeclType::DYN)
            .variable("namespaceObject", namespace())
            .variable("request", request())
    });
    let mut env = BASE.clone();
    if params {
        env = env.variable("params", DeclType::DYN);
    }
    if authorizer {
        env = env
            .variable("authorizer", DeclType::named(names::AUTHORIZER))
            .variable("authorizer.requestResource", DeclType::named(names::RESOURCE_CHECK));
    }
    env
}

/// Declares `variables.NAME`, the variable of a policy that comes after those named `before`, which it can use.
pub fn declare(env: Env, name: &str, ty: Type, before: &[&str]) -> Env {
    let names = before.iter().copied().chain([name]);
    env.typed(&format!("variables.{name}"), ty).namespace("variables", names)
}
