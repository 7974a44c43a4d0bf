//! The search against trying everything.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{allocate_on, claim, cluster, give, one, slice};
use crate::model::Labels;

/// A device: the value of its attribute (or none), its share of the counter, whether somebody has it.
#[derive(Clone, Debug)]
struct Device {
    board: Option<u8>,
    takes: i64,
    used: bool,
}

/// An alternative: how many devices, and the least index they may have.
#[derive(Clone, Debug)]
struct Ask {
    count: usize,
    from: usize,
}

#[derive(Clone, Debug)]
struct Problem {
    devices: Vec<Device>,
    counter: i64,
    /// Requests with their alternatives.
    requests: Vec<Vec<Ask>>,
    /// None, the same board for all, or different ones.
    constraint: Option<bool>,
}

fn problems() -> impl Strategy<Value = Problem> {
    let device = (prop::option::weighted(0.9, 0..3u8), 0..4i64, prop::bool::weighted(0.15));
    let device = device.prop_map(|(board, takes, used)| Device { board, takes, used });
    let ask = (1..4usize, 0..3usize).prop_map(|(count, from)| Ask { count, from });
    let requests = prop::collection::vec(prop::collection::vec(ask, 1..3), 1..4);
    (prop::collection::vec(device, 1..7), 1..12i64, requests, prop::option::of(any::<bool>())).prop_map(
        |(devices, counter, requests, constraint)| Problem { devices, counter, requests, constraint },
    )
}

impl Problem {
    /// Whether these devices, one list per request, are a solution for these alternatives.
    fn solves(&self, alternatives: &[usize], chosen: &[Vec<usize>]) -> bool {
        let all: Vec<usize> = chosen.iter().flatten().copied().collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        let boards: Option<Vec<u8>> = all.iter().map(|d| self.devices[*d].board).collect();
        let constrained = match (self.constraint, boards) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(true), Some(b)) => b.windows(2).all(|w| w[0] == w[1]),
            (Some(false), Some(mut b)) => {
                b.sort_unstable();
                b.windows(2).all(|w| w[0] != w[1])
            }
        };
        let asked = chosen.iter().zip(&self.requests).zip(alternatives).all(|((c, r), a)| {
            let ask = &r[*a];
            c.len() == ask.count && c.iter().all(|d| *d >= ask.from)
        });
        let used = |takes: &dyn Fn(usize, &Device) -> bool| -> i64 {
            self.devices.iter().enumerate().filter(|(i, d)| takes(*i, d)).map(|(_, d)| d.takes).sum()
        };
        unique.len() == all.len()
            && all.iter().all(|d| !self.devices[*d].used)
            && constrained
            && asked
            // A device that takes nothing can be had even if the counter is exhausted.
            && (used(&|i, _| all.contains(&i)) == 0
                || used(&|i, d| d.used || all.contains(&i)) <= self.counter)
    }

    /// The first alternatives, in the order of preference, for which there is a solution.
    fn best(&self) -> Option<Vec<usize>> {
        let mut alternatives = vec![0; self.requests.len()];
        loop {
            if self.possible(&alternatives, &mut Vec::new()) {
                return Some(alternatives);
            }
            let next =
                (0..alternatives.len()).rev().find(|i| alternatives[*i] + 1 < self.requests[*i].len())?;
            alternatives[next] += 1;
            alternatives[next + 1..].fill(0);
        }
    }

    fn possible(&self, alternatives: &[usize], chosen: &mut Vec<Vec<usize>>) -> bool {
        let i = chosen.len();
        if i == self.requests.len() {
            return self.solves(alternatives, chosen);
        }
        let count = self.requests[i][alternatives[i]].count;
        (0..1usize << self.devices.len()).filter(|set| set.count_ones() as usize == count).any(|set| {
            chosen.push((0..self.devices.len()).filter(|d| set & (1 << d) != 0).collect());
            let found = self.possible(alternatives, chosen);
            chosen.pop();
            found
        })
    }

    fn devices(&self) -> Value {
        let device = |(i, d): (usize, &Device)| {
            let mut attributes = json!({"index": {"int": i}});
            if let Some(b) = d.board {
                attributes["board"] = json!({"int": b});
            }
            let mut out = json!({"name": format!("d{i}"), "attributes": attributes});
            if d.takes > 0 {
                let counters = json!({"units": {"value": d.takes.to_string()}});
                out["consumesCounters"] = json!([{"counterSet": "c", "counters": counters}]);
            }
            out
        };
        Value::Array(self.devices.iter().enumerate().map(device).collect())
    }

    fn spec(&self) -> Value {
        let selector = |from: usize| json!([{"cel": {"expression": format!("device.attributes['gpu.example.com'].index >= {from}")}}]);
        let ask =
            |a: &Ask| json!({"deviceClassName": "gpu", "count": a.count, "selectors": selector(a.from)});
        let request = |(i, list): (usize, &Vec<Ask>)| match list.as_slice() {
            [only] => json!({"name": format!("r{i}"), "exactly": ask(only)}),
            several => {
                let named = several.iter().enumerate().map(|(k, a)| {
                    let mut a = ask(a);
                    a["name"] = json!(format!("a{k}"));
                    a
                });
                json!({"name": format!("r{i}"), "firstAvailable": named.collect::<Vec<_>>()})
            }
        };
        let mut out = json!({"requests": self.requests.iter().enumerate().map(request).collect::<Vec<_>>()});
        if let Some(same) = self.constraint {
            let key = if same { "matchAttribute" } else { "distinctAttribute" };
            out["constraints"] = json!([{key: "gpu.example.com/board"}]);
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_can_be_had_is_found_and_nothing_else(p in problems()) {
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let counters = json!([{"name": "c", "counters": {"units": {"value": p.counter.to_string()}}}]);
        let mut dra = cluster([
            slice("s0", "p", json!({"sharedCounters": counters, "pool": pool})),
            slice("s1", "p", json!({"devices": p.devices(), "pool": pool})),
        ]);
        for (i, _) in p.devices.iter().enumerate().filter(|(_, d)| d.used) {
            let result = json!({"request": "r", "driver": super::DRIVER, "pool": "p", "device": format!("d{i}")});
            let other = one(&format!("other{i}"));
            give(&mut dra, &other, super::object(json!({"devices": {"results": [result]}})));
        }
        let c = claim("x", p.spec());
        let found = allocate_on(&dra, "n", &Labels::default(), &[&c]).expect("fine");
        let best = p.best();
        let Some(found) = found else {
            prop_assert_eq!(best, None, "there is a solution");
            return Ok(());
        };
        let results = found[0].devices.clone().and_then(|d| d.results).unwrap_or_default();
        let mut alternatives = vec![0; p.requests.len()];
        let mut chosen = vec![Vec::new(); p.requests.len()];
        for r in results {
            let (request, alternative) = r.request.split_once('/').unwrap_or((&r.request, "a0"));
            let i: usize = request[1..].parse().expect("a request");
            alternatives[i] = alternative[1..].parse().expect("an alternative");
            chosen[i].push(r.device[1..].parse().expect("a device"));
        }
        prop_assert!(p.solves(&alternatives, &chosen), "{:?} {:?} is no solution", alternatives, chosen);
        prop_assert_eq!(best, Some(alternatives));
    }
}
