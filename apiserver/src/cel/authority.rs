//! Answers to what the `authorizer` library asks: may this user do that?

use std::sync::Arc;

pub use expressions::authority::{Decided, PathCheck, ResourceCheck, Subject};

use crate::authz::{self, Authorizer, selector};
use crate::request::UserInfo;

/// Answers the checks of expressions, which cannot wait.
pub trait Authority: Send + Sync {
    fn authorize(&self, attributes: &authz::Attributes<'_>) -> authz::Decision;
}

impl Authority for Authorizer {
    fn authorize(&self, attributes: &authz::Attributes<'_>) -> authz::Decision {
        self.authorize_blocking(attributes)
    }
}

/// A user, and whom to ask about them.
pub fn subject(authority: Arc<dyn Authority>, user: UserInfo) -> Arc<dyn Subject> {
    Arc::new(Asked { authority, user })
}

struct Asked {
    authority: Arc<dyn Authority>,
    user: UserInfo,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("user", &self.user.name).finish_non_exhaustive()
    }
}

fn decided(d: authz::Decision) -> Decided {
    Decided { allowed: d.is_allowed(), reason: d.reason().to_owned(), error: d.error().to_owned() }
}

impl Subject for Asked {
    fn check_path(&self, path: &str, verb: &str) -> Decided {
        let mut a = authz::Attributes::resource(&self.user, verb, "", "", "");
        a.is_resource = false;
        a.api_version = "";
        a.path = path;
        decided(self.authority.authorize(&a))
    }

    fn check_resource(&self, c: &ResourceCheck, verb: &str) -> Decided {
        let mut a = authz::Attributes::resource(&self.user, verb, &c.group, &c.resource, &c.name);
        a.subresource = &c.subresource;
        a.namespace = &c.namespace;
        if !c.field_selector.is_empty() {
            a.field_selector = selector::parse_fields(&c.field_selector);
        }
        if !c.label_selector.is_empty() {
            a.label_selector = selector::parse_labels(&c.label_selector);
        }
        decided(self.authority.authorize(&a))
    }

    fn service_account(&self, namespace: &str, name: &str) -> Arc<dyn Subject> {
        let user = UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            ..UserInfo::default()
        };
        subject(self.authority.clone(), user)
    }
}

#[cfg(test)]
mod tests {
    use expressions::native::Native;
    use expressions::types::names;
    use expressions::{DeclType, Env, compile};

    use super::*;

    #[test]
    fn authorizer_checks() {
        struct Fixed;
        impl Authority for Fixed {
            fn authorize(&self, a: &authz::Attributes<'_>) -> authz::Decision {
                let resource = a.is_resource
                    && (a.api_group, a.resource, a.namespace, a.verb, &*a.user.name)
                        == ("apps", "deployments", "ns", "create", "system:serviceaccount:ns:sa");
                if resource || (a.path == "/healthz" && a.verb == "get") {
                    authz::Decision::Allow("because".into())
                } else {
                    authz::Decision::NoOpinion(String::new())
                }
            }
        }
        let env = Env::default().variable("authorizer", DeclType::named(names::AUTHORIZER));
        let subject = subject(Arc::new(Fixed), UserInfo::default());
        let vars = [("authorizer", Native::Authorizer(subject).into())];
        for (expression, wanted) in [
            (
                "authorizer.serviceAccount('ns', 'sa').group('apps').resource('deployments').namespace('ns').check('create').allowed()",
                true,
            ),
            (
                "authorizer.group('apps').resource('deployments').namespace('ns').check('create').allowed()",
                false,
            ),
            ("authorizer.path('/healthz').check('get').reason() == 'because'", true),
            ("authorizer.group('').resource('pods').fieldSelector('a=b').check('get').errored()", false),
        ] {
            let program = compile(expression, &env).unwrap_or_else(|e| panic!("{e}")).program().unwrap();
            assert_eq!(program.run(&vars).0.unwrap().as_bool(), Some(wanted), "{expression}");
        }
    }
}
