//! `DenyServiceExternalIPs`: no new external IPs on services, with which anybody could draw traffic of others to
//! themselves (CVE-2020-8554). Those that are there may stay.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::items;
use crate::status::ApiResult;

struct DenyServiceExternalIps;

pub(crate) fn build(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(DenyServiceExternalIps)
}

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let Some(service) = object.filter(|_| written && attrs.is("", "services", "")) else { return Ok(()) };
        let before = attrs.old.map_or(&[][..], |old| items(old, "/spec/externalIPs"));
        if items(service, "/spec/externalIPs").iter().all(|ip| before.contains(ip)) {
            return Ok(());
        }
        Err(attrs.forbidden(object, "Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::lookup;
    use serde_json::json;

    #[tokio::test]
    async fn old_ones_stay() {
        let p = build(&environment([]).0);
        let svc = |ips: Value| Some(json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}}));
        let mut w = Write::create(lookup::SERVICES, "ns");
        assert!(w.run(&*p, svc(Value::Null)).await.is_ok());
        assert_eq!(
            w.run(&*p, svc(json!(["1.1.1.1"]))).await.unwrap_err().message,
            "services \"s\" is forbidden: Use of external IPs is denied by admission control"
        );
        (w.operation, w.old) = (Operation::Update, svc(json!(["1.1.1.1", "2.2.2.2"])));
        assert!(w.run(&*p, svc(json!(["2.2.2.2"]))).await.is_ok());
        assert!(w.run(&*p, svc(json!(["2.2.2.2", "3.3.3.3"]))).await.is_err());
    }
}
