//! What a PriorityLevelConfiguration says, checked for what the queues rely on.

use serde_json::Value;

use super::queueset::Response;
use super::shuffle;
use crate::lookup::text;

/// The spec of one level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub response: Response,
    /// Nominal concurrency shares.
    pub shares: u32,
    pub lendable_percent: u32,
    /// None: no bound.
    pub borrowing_percent: Option<u32>,
}

impl Spec {
    /// The level that there always is, whose requests are not limited.
    pub const EXEMPT: Self =
        Self { response: Response::Exempt, shares: 0, lendable_percent: 0, borrowing_percent: None };
    /// The level that there always is for what nothing else matches.
    pub const CATCH_ALL: Self =
        Self { response: Response::Reject, shares: 5, lendable_percent: 0, borrowing_percent: None };

    pub fn is_exempt(&self) -> bool {
        self.response == Response::Exempt
    }

    /// Reads a level. Errors name what is wrong with a spec that validation should have refused.
    pub fn parse(object: &Value) -> Result<Self, String> {
        let spec = &object["spec"];
        let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let exempt = text(spec, "/type") == "Exempt";
        if exempt != (text(object, "/metadata/name") == "exempt") {
            return Err("only the level named exempt is of type Exempt".to_owned());
        }
        if exempt {
            return Ok(Self {
                shares: number(&spec["exempt"]["nominalConcurrencyShares"]).unwrap_or(0),
                lendable_percent: number(&spec["exempt"]["lendablePercent"]).unwrap_or(0).min(100),
                ..Self::EXEMPT
            });
        }
        let limited = &spec["limited"];
        if !limited.is_object() {
            return Err("spec.limited is missing".to_owned());
        }
        let queuing = &limited["limitResponse"]["queuing"];
        let response = if text(limited, "/limitResponse/type") == "Queue" {
            let queues = number(&queuing["queues"]).unwrap_or(64) as usize;
            let hand = number(&queuing["handSize"]).unwrap_or(8) as usize;
            let length = number(&queuing["queueLengthLimit"]).unwrap_or(50) as usize;
            if !shuffle::fits(queues, hand) || queues > 10_000_000 {
                return Err(format!("a hand of {hand} cannot be dealt from {queues} queues"));
            }
            Response::Queue { queues, hand, length }
        } else {
            Response::Reject
        };
        Ok(Self {
            response,
            shares: number(&limited["nominalConcurrencyShares"]).unwrap_or(30),
            lendable_percent: number(&limited["lendablePercent"]).unwrap_or(0).min(100),
            borrowing_percent: number(&limited["borrowingLimitPercent"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn specs() {
        let queue = Spec::parse(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 40, "lendablePercent": 25, "borrowingLimitPercent": 50,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}}));
        assert_eq!(
            queue,
            Ok(Spec {
                response: Response::Queue { queues: 64, hand: 6, length: 50 },
                shares: 40,
                lendable_percent: 25,
                borrowing_percent: Some(50)
            })
        );
        let bad = json!({"metadata": {"name": "a"}, "spec": {"type": "Exempt", "exempt": {}}});
        assert!(Spec::parse(&bad).is_err());
        let bad = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": {"queues": 2, "handSize": 6}}}}});
        assert!(Spec::parse(&bad).is_err());
        let exempt = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {}}});
        assert_eq!(Spec::parse(&exempt), Ok(Spec::EXEMPT));
    }
}
