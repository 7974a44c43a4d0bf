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

/// For each request which of its alternatives, and with which devices.
#[derive(Clone, Debug, Default, PartialEq)]
struct Solution {
    alternatives: Vec<usize>,
    chosen: Vec<Vec<usize>>,
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

    /// The first solution: each request's alternatives in their order, for each the devices in theirs, and only then
    /// another choice for the request before. A request's preference does not undo what an earlier one chose.
    fn first(&self) -> Option<Solution> {
        let mut s = Solution::default();
        self.complete(&mut s).then_some(s)
    }

    fn complete(&self, s: &mut Solution) -> bool {
        let Some(request) = self.requests.get(s.alternatives.len()) else {
            return self.solves(&s.alternatives, &s.chosen);
        };
        request.iter().enumerate().any(|(alternative, ask)| {
            s.alternatives.push(alternative);
            let found = self.sets(ask.count).into_iter().any(|set| {
                s.chosen.push(set);
                let found = self.complete(s);
                if !found {
                    s.chosen.pop();
                }
                found
            });
            if !found {
                s.alternatives.pop();
            }
            found
        })
    }

    /// All sets of so many devices, in the order of their devices.
    fn sets(&self, count: usize) -> Vec<Vec<usize>> {
        let sets = (0..1usize << self.devices.len()).filter(|set| set.count_ones() as usize == count);
        let mut out: Vec<Vec<usize>> =
            sets.map(|set| (0..self.devices.len()).filter(|d| set & (1 << d) != 0).collect()).collect();
        out.sort();
        out
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
        let found = found.map(|found| {
            let results = found[0].devices.clone().and_then(|d| d.results).unwrap_or_default();
            let requests = p.requests.len();
            let mut s = Solution { alternatives: vec![0; requests], chosen: vec![Vec::new(); requests] };
            for r in results {
                let (request, alternative) = r.request.split_once('/').unwrap_or((&r.request, "a0"));
                let i: usize = request[1..].parse().expect("a request");
                s.alternatives[i] = alternative[1..].parse().expect("an alternative");
                s.chosen[i].push(r.device[1..].parse().expect("a device"));
            }
            s
        });
        prop_assert_eq!(found, p.first());
    }
}
