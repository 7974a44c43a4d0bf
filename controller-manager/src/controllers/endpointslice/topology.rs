//! Hints of services that ask for `service.kubernetes.io/topology-mode: Auto` (KEP-2433). Pure.
//!
//! Every zone gets as large a share of the endpoints as it has of the nodes' CPU, so that no endpoint has more than a
//! fifth more to do than without hints. An endpoint serves its own zone as far as the shares allow; what a zone has
//! too many of serves zones that lack some. Where that cannot be done there are no hints, and an event says why.

use std::collections::{BTreeMap, HashMap};

use component_base::quantity::amount;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

use crate::controllers::node_lifecycle::judge;

/// By how much an endpoint's load may exceed the average.
const OVERLOAD: f64 = 0.2;

const NO_NODE_INFO: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const TOO_FEW: &str = "Insufficient number of endpoints";
const OVERLOADED: &str =
    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// Each zone's part of the allocatable CPU; the sum is 1.
pub type Shares = BTreeMap<String, f64>;

/// Whether the service asks for hints by zone, by the annotation or the one it was called before.
pub fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|a| {
        a.get("service.kubernetes.io/topology-aware-hints")
            .or_else(|| a.get("service.kubernetes.io/topology-mode"))
    });
    mode.is_some_and(|m| m == "Auto" || m == "auto")
}

/// What a node adds to its zone.
#[derive(Debug, PartialEq)]
pub enum Weight {
    /// It is not ready, or no pods of services run there.
    None,
    /// It does not say its zone or its CPU, so nothing can be said of any zone.
    Unknown,
    Milli(String, i64),
}

/// The zone of a node, where it says one.
pub fn zone(node: &Node) -> Option<String> {
    let zone = node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone");
    zone.filter(|z| !z.is_empty()).cloned()
}

/// What a node adds to its zone.
pub fn weight(node: &Node) -> Weight {
    let has = |name: &str| node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(name));
    let excluded = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
    let ready = judge::condition(node, "Ready").is_some_and(|c| c.status == "True");
    if !ready || excluded.iter().any(|l| has(l)) {
        return Weight::None;
    }
    let cpu = node.status.as_ref().and_then(|s| s.allocatable.as_ref()?.get("cpu"));
    let milli = cpu.map_or(0, |q| amount(q).milli());
    match zone(node) {
        Some(zone) if milli > 0 => Weight::Milli(zone, milli),
        _ => Weight::Unknown,
    }
}

/// The zones' shares; none with fewer than two zones, or when some node is unknown.
pub fn shares(weights: impl Iterator<Item = Weight>) -> Option<Shares> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for weight in weights {
        match weight {
            Weight::None => {}
            Weight::Unknown => return None,
            Weight::Milli(zone, milli) => *sums.entry(zone).or_default() += milli,
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let total = sums.values().sum::<i64>() as f64;
    #[allow(clippy::cast_precision_loss)]
    let share = |milli: i64| milli as f64 / total;
    (sums.len() > 1).then(|| sums.into_iter().map(|(zone, milli)| (zone, share(milli))).collect())
}

/// How many endpoints may serve a zone.
struct Bounds {
    least: usize,
    most: usize,
    desired: f64,
}

fn bounds(shares: Option<&Shares>, count: usize) -> Result<BTreeMap<&str, Bounds>, String> {
    let shares = shares.ok_or(NO_NODE_INFO)?;
    let why = |text: &str| format!("{text} ({count} endpoints, {} zones)", shares.len());
    if shares.len() > count {
        return Err(why(TOO_FEW));
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mut of: BTreeMap<&str, Bounds> = shares
        .iter()
        .map(|(zone, share)| {
            let desired = share * count as f64;
            let least = (desired / (1.0 + OVERLOAD)).ceil();
            (zone.as_str(), Bounds { least: least as usize, most: 0, desired: desired.max(least) })
        })
        .collect();
    let least: usize = of.values().map(|b| b.least).sum();
    let spare = count.checked_sub(least).ok_or_else(|| why(OVERLOADED))?;
    of.values_mut().for_each(|b| b.most = b.least + spare);
    Ok(of)
}

/// Gives each ready endpoint of one address family the zone it is to serve. `had` tells what endpoints serve now, by
/// first address: that stays while the shares allow it, so that few slices are written.
///
/// # Errors
/// Why there can be no hints; the endpoints then have none.
pub fn assign(
    shares: Option<&Shares>,
    had: &HashMap<&str, &str>,
    endpoints: &mut [&mut Endpoint],
) -> Result<(), String> {
    let mut ready: Vec<&mut &mut Endpoint> = endpoints
        .iter_mut()
        .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
        .collect();
    let bounds = bounds(shares, ready.len())?;
    let own: Vec<String> = ready.iter().map(|e| e.zone.clone().ok_or(NO_ZONE)).collect::<Result<_, _>>()?;
    let kept: Vec<Option<&str>> = ready
        .iter()
        .map(|e| had.get(e.addresses.first()?.as_str()).copied().filter(|z| bounds.contains_key(z)))
        .collect();
    let mut zones = serve(&bounds, &own, &kept);
    if !are_within(&bounds, &zones) {
        zones = serve(&bounds, &own, &vec![None; own.len()]);
    }
    for (endpoint, zone) in ready.iter_mut().zip(zones) {
        let for_zones = Some(vec![ForZone { name: zone.to_owned() }]);
        endpoint.hints = Some(EndpointHints { for_zones, for_nodes: None });
    }
    Ok(())
}

fn count<'a>(zones: &[&'a str]) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    zones.iter().for_each(|z| *counts.entry(*z).or_default() += 1);
    counts
}

fn are_within(bounds: &BTreeMap<&str, Bounds>, zones: &[&str]) -> bool {
    let counts = count(zones);
    bounds.iter().all(|(zone, b)| (b.least..=b.most).contains(&counts.get(zone).copied().unwrap_or_default()))
}

/// The zone each endpoint serves: what it kept, or its own, or where that has too many, one that lacks some.
fn serve<'a>(
    bounds: &BTreeMap<&'a str, Bounds>,
    own: &'a [String],
    kept: &[Option<&'a str>],
) -> Vec<&'a str> {
    let mut zones: Vec<&str> = own.iter().zip(kept).map(|(own, kept)| kept.unwrap_or(own)).collect();
    let (mut giving, mut receiving) = moves(bounds, &count(&zones));
    for (zone, kept) in zones.iter_mut().zip(kept) {
        let Some(left) = giving.get_mut(zone).filter(|left| kept.is_none() && **left > 0) else { continue };
        let Some((to, lacks)) = receiving.iter_mut().find(|(_, lacks)| **lacks > 0) else { break };
        *left -= 1;
        *lacks -= 1;
        *zone = to;
    }
    zones
}

/// How many endpoints which zones give away, and how many which zones get.
#[allow(clippy::cast_precision_loss)]
fn moves<'a>(
    bounds: &BTreeMap<&'a str, Bounds>,
    counts: &BTreeMap<&str, usize>,
) -> (BTreeMap<&'a str, usize>, BTreeMap<&'a str, usize>) {
    let mut excess: BTreeMap<&str, f64> = bounds
        .iter()
        .map(|(zone, b)| (*zone, counts.get(zone).copied().unwrap_or_default() as f64 - b.desired))
        .collect();
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let most = excess.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(z, x)| (*z, *x));
        let least = excess.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(z, x)| (*z, -x));
        let (Some((from, surplus)), Some((to, lack))) = (most, least) else { break };
        // Shares are no whole numbers: half an endpoint is not worth a move, and two halves aren't either.
        if (surplus < 1.0 && lack < 1.0) || surplus < 0.5 || lack < 0.5 {
            break;
        }
        *giving.entry(from).or_default() += 1;
        *receiving.entry(to).or_default() += 1;
        excess.entry(from).and_modify(|x| *x -= 1.0);
        excess.entry(to).and_modify(|x| *x += 1.0);
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    fn cpu(of: &[(&str, i64)]) -> Option<Shares> {
        shares(of.iter().map(|(z, m)| Weight::Milli((*z).to_owned(), *m)))
    }

    fn endpoints(zones: &[&str]) -> Vec<Endpoint> {
        let of = |(i, zone): (usize, &&str)| Endpoint {
            addresses: vec![format!("10.0.0.{i}")],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            zone: Some((*zone).to_owned()).filter(|z| !z.is_empty()),
            ..Endpoint::default()
        };
        zones.iter().enumerate().map(of).collect()
    }

    fn zones(all: &[Endpoint]) -> Vec<String> {
        let of = |e: &Endpoint| e.hints.as_ref()?.for_zones.as_ref().map(|z| z[0].name.clone());
        all.iter().map(|e| of(e).unwrap_or_default()).collect()
    }

    fn run(cpu: Option<Shares>, had: &[&str], all: &mut [Endpoint]) -> Result<Vec<String>, String> {
        let keys: Vec<String> = (0..had.len()).map(|i| format!("10.0.0.{i}")).collect();
        let had: HashMap<&str, &str> = keys.iter().map(String::as_str).zip(had.iter().copied()).collect();
        let result = assign(cpu.as_ref(), &had, &mut all.iter_mut().collect::<Vec<_>>());
        result.map(|()| zones(all))
    }

    #[test]
    fn zones_serve_themselves_when_balanced() {
        let mut all = endpoints(&["a", "a", "b", "b", "c", "c"]);
        let served = run(cpu(&[("a", 2000), ("b", 2000), ("c", 2000)]), &[], &mut all);
        assert_eq!(served, Ok(["a", "a", "b", "b", "c", "c"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_zone_with_too_many_serves_one_with_too_few() {
        let mut all = endpoints(&["a", "a", "a", "a", "a", "b"]);
        let served = run(cpu(&[("a", 4000), ("b", 4000)]), &[], &mut all).expect("hints");
        assert_eq!(count(&served.iter().map(String::as_str).collect::<Vec<_>>())["b"], 3);
        assert_eq!(served[5], "b");
    }

    #[test]
    fn what_was_served_stays_within_the_shares() {
        let zones = ["a", "a", "a", "a", "b", "b"];
        let (cpu, had) = (cpu(&[("a", 1000), ("b", 1000)]), ["b", "a", "a", "a", "b", "b"]);
        assert_eq!(run(cpu.clone(), &had, &mut endpoints(&zones)), Ok(had.map(str::to_owned).to_vec()));
        let far = ["b", "b", "b", "b", "b", "b"];
        let anew = run(cpu, &far, &mut endpoints(&zones)).expect("hints");
        assert_eq!(anew, ["b", "a", "a", "a", "b", "b"], "all anew");
    }

    #[test]
    fn reasons_for_no_hints() {
        let two = || cpu(&[("a", 1000), ("b", 1000)]);
        let why = |cpu, zones: &[&str]| run(cpu, &[], &mut endpoints(zones)).expect_err("no hints");
        assert_eq!(why(cpu(&[("a", 1)]), &["a", "a"]), NO_NODE_INFO);
        assert_eq!(why(two(), &["a"]), "Insufficient number of endpoints (1 endpoints, 2 zones)");
        assert_eq!(why(two(), &["a", "b", "b", ""]), NO_ZONE);
        let three = cpu(&[("a", 1000), ("b", 1000), ("c", 1000)]);
        assert_eq!(why(three, &["a", "b", "c", "a"]), format!("{OVERLOADED} (4 endpoints, 3 zones)"));
        let mut unready = endpoints(&["a", "b", "a"]);
        unready[0].conditions = None;
        assert_eq!(run(two(), &[], &mut unready), Ok(["", "b", "a"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn nodes_count_when_ready_and_known() {
        let node = |labels: &[(&str, &str)], ready: &str, cpu: Option<&str>| {
            let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
            let allocatable = cpu.map(|c| serde_json::json!({"cpu": c}));
            let conditions = serde_json::json!([{"type": "Ready", "status": ready}]);
            serde_json::from_value::<Node>(serde_json::json!({
                "metadata": {"name": "n", "labels": labels},
                "status": {"allocatable": allocatable, "conditions": conditions},
            }))
            .map(|n| weight(&n))
            .expect("a node")
        };
        let zone = ("topology.kubernetes.io/zone", "a");
        assert_eq!(node(&[zone], "True", Some("1500m")), Weight::Milli("a".into(), 1500));
        assert_eq!(node(&[zone], "False", Some("1")), Weight::None);
        assert_eq!(node(&[zone], "True", None), Weight::Unknown);
        assert_eq!(node(&[], "True", Some("1")), Weight::Unknown);
        assert_eq!(node(&[("node-role.kubernetes.io/control-plane", "")], "True", Some("1")), Weight::None);
        assert_eq!(shares([Weight::Milli("a".into(), 1), Weight::Unknown].into_iter()), None);
    }
}
