//! Pure part: which slices to make, change and delete so that they hold the wanted endpoints with few writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// Endpoints that share ports and address family, and so may share slices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub address_type: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// What every slice of a service must have: labels, and the parts of a new one.
pub struct Frame {
    /// A slice without ports and endpoints; its labels and annotations are wanted on all slices.
    pub empty: EndpointSlice,
    pub max: usize,
    /// Whether labels and annotations of existing slices are right.
    pub fits: fn(&EndpointSlice, &EndpointSlice) -> bool,
    /// Whether a family without endpoints still gets one empty slice.
    pub placeholder: bool,
}

/// The endpoints of a slice.
pub fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

type PortKey = BTreeSet<(String, String, i32, String)>;

fn port_key(ports: &[EndpointPort]) -> PortKey {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    ports
        .iter()
        .map(|p| (text(&p.name), text(&p.protocol), p.port.unwrap_or(-1), text(&p.app_protocol)))
        .collect()
}

/// Two endpoints of equal identity are the same pod behind the same address.
fn identity(e: &Endpoint) -> (Vec<String>, String, String) {
    let mut addresses = e.addresses.clone();
    addresses.sort_unstable();
    let target = e.target_ref.as_ref().map(|t| {
        format!("{}/{}", t.namespace.as_deref().unwrap_or_default(), t.name.as_deref().unwrap_or_default())
    });
    (addresses, e.hostname.clone().unwrap_or_default(), target.unwrap_or_default())
}

/// Compares wanted groups with the slices there are. `families` are the address types the service has.
pub fn plan(
    frame: &Frame,
    families: &[String],
    groups: Vec<Group>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let mut by_key: BTreeMap<(String, PortKey), Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        if !families.contains(&slice.address_type) {
            changes.delete.push(slice.clone());
            continue;
        }
        let key = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
        by_key.entry(key).or_default().push(slice);
    }
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for group in merge(groups) {
        let mine = by_key.remove(&(group.address_type.clone(), port_key(&group.ports))).unwrap_or_default();
        let deleted = changes.delete.len();
        let made = changes.create.len();
        let count = mine.len();
        let family = group.address_type.clone();
        fill(frame, group, mine, &mut changes);
        if count + (changes.create.len() - made) > changes.delete.len() - deleted {
            kept.insert(family);
        }
    }
    let mut leftovers: Vec<&Arc<EndpointSlice>> = by_key.into_values().flatten().collect();
    for family in families.iter().filter(|f| frame.placeholder && !kept.contains(*f)) {
        let is_placeholder = |s: &EndpointSlice| {
            s.address_type == *family
                && endpoints_of(s).is_empty()
                && s.ports.as_ref().is_none_or(Vec::is_empty)
                && (frame.fits)(s, &frame.empty)
        };
        match leftovers.iter().position(|s| is_placeholder(s)) {
            Some(i) => {
                leftovers.swap_remove(i);
            }
            None => changes.create.push(new_slice(frame, family, Vec::new())),
        }
    }
    changes.delete.extend(leftovers.into_iter().cloned());
    changes
}

fn merge(groups: Vec<Group>) -> Vec<Group> {
    let mut merged: BTreeMap<(String, PortKey), Group> = BTreeMap::new();
    for g in groups {
        let key = (g.address_type.clone(), port_key(&g.ports));
        match merged.get_mut(&key) {
            Some(there) => there.endpoints.extend(g.endpoints),
            None => {
                merged.insert(key, g);
            }
        }
    }
    merged.into_values().filter(|g| !g.endpoints.is_empty()).collect()
}

fn new_slice(frame: &Frame, address_type: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        address_type: address_type.to_owned(),
        ports: Some(ports),
        endpoints: Some(Vec::new()),
        ..frame.empty.clone()
    }
}

fn framed(frame: &Frame, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut s = slice.clone();
    s.endpoints = Some(endpoints);
    s.metadata.labels = frame.empty.metadata.labels.clone();
    s.metadata.annotations = frame.empty.metadata.annotations.clone();
    s
}

fn fill(frame: &Frame, group: Group, existing: Vec<&Arc<EndpointSlice>>, changes: &mut Changes) {
    // Keyed and ordered, so that the same input always gives the same slices.
    let mut wanted: BTreeMap<_, Endpoint> = group.endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut changed: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<&Arc<EndpointSlice>> = Vec::new();
    for slice in existing {
        let mut keep = Vec::with_capacity(endpoints_of(slice).len());
        let mut differs = false;
        for e in endpoints_of(slice) {
            if let Some(now) = wanted.remove(&identity(e)) {
                differs |= now != *e;
                keep.push(now);
            }
        }
        differs |= keep.len() != endpoints_of(slice).len();
        if keep.is_empty() {
            changes.delete.push(slice.clone());
        } else if differs || !(frame.fits)(slice, &frame.empty) {
            changed.push(framed(frame, slice, keep));
        } else {
            unchanged.push(slice);
        }
    }
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    // Slices that are written anyway take what they can, the fullest first.
    changed.sort_by_key(|s| std::cmp::Reverse(endpoints_of(s).len()));
    for slice in &mut changed {
        let room = frame.max.saturating_sub(endpoints_of(slice).len()).min(rest.len());
        slice.endpoints.get_or_insert_default().extend(rest.drain(..room));
    }
    // Then one slice with room for all the rest, the fullest of those.
    if !rest.is_empty() {
        let fitting = unchanged.iter().filter(|s| endpoints_of(s).len() + rest.len() <= frame.max);
        if let Some(slice) = fitting.max_by_key(|s| endpoints_of(s).len()) {
            let mut endpoints = endpoints_of(slice).to_vec();
            endpoints.append(&mut rest);
            changed.push(framed(frame, slice, endpoints));
        }
    }
    // A slice whose content was all replaced is better changed than deleted and made anew.
    while !rest.is_empty() {
        let part: Vec<Endpoint> = rest.drain(..rest.len().min(frame.max.max(1))).collect();
        let reuse = changes.delete.iter().position(|d| {
            d.address_type == group.address_type
                && port_key(d.ports.as_deref().unwrap_or_default()) == port_key(&group.ports)
        });
        match reuse {
            Some(i) => {
                let slice = changes.delete.swap_remove(i);
                changed.push(framed(frame, &slice, part));
            }
            None => {
                let mut slice = new_slice(frame, &group.address_type, group.ports.clone());
                slice.endpoints = Some(part);
                changes.create.push(slice);
            }
        }
    }
    changes.update.append(&mut changed);
}

/// Endpoints by slice size, for checks.
#[cfg(test)]
fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut all: Vec<usize> = slices.iter().map(|s| endpoints_of(s).len()).collect();
    all.sort_unstable();
    all
}

/// Applies changes to slices, as the server would.
#[cfg(test)]
fn apply(slices: &mut Vec<Arc<EndpointSlice>>, changes: Changes, counter: &mut u32) {
    let mut by_name: std::collections::HashMap<String, Arc<EndpointSlice>> =
        slices.drain(..).map(|s| (s.metadata.name.clone().unwrap_or_default(), s)).collect();
    for d in changes.delete {
        assert!(by_name.remove(&d.metadata.name.clone().unwrap_or_default()).is_some(), "deleted twice");
    }
    for mut c in changes.create {
        *counter += 1;
        c.metadata.name = Some(format!("s{counter}"));
        by_name.insert(format!("s{counter}"), Arc::new(c));
    }
    for u in changes.update {
        let name = u.metadata.name.clone().unwrap_or_default();
        assert!(by_name.insert(name, Arc::new(u)).is_some(), "updated what is not there");
    }
    slices.extend(by_name.into_values());
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn frame(max: usize) -> Frame {
        Frame { empty: EndpointSlice::default(), max, fits: |_, _| true, placeholder: true }
    }

    fn group(port: i32, endpoints: &[(u32, bool)]) -> Group {
        let endpoints = endpoints.iter().map(|(n, up)| Endpoint {
            addresses: vec![format!("10.0.{}.{}", n / 256, n % 256)],
            conditions: Some(k8s_openapi::api::discovery::v1::EndpointConditions {
                ready: Some(*up),
                ..Default::default()
            }),
            ..Endpoint::default()
        });
        Group {
            address_type: "IPv4".into(),
            ports: vec![EndpointPort { port: Some(port), ..EndpointPort::default() }],
            endpoints: endpoints.collect(),
        }
    }

    fn families() -> Vec<String> {
        vec!["IPv4".into()]
    }

    #[test]
    fn random_changes_converge_in_one_step() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut slices, mut counter) = (Vec::new(), 0);
        for _ in 0..300 {
            let n = rng.random_range(0..60);
            let chosen: BTreeMap<u32, bool> =
                (0..n).map(|_| (rng.random_range(0..80), rng.random_bool(0.5))).collect();
            let wanted: Vec<(u32, bool)> = chosen.into_iter().collect();
            let port = 80 + i32::from(rng.random_bool(0.1));
            let changes = plan(&frame(10), &families(), vec![group(port, &wanted)], &slices);
            apply(&mut slices, changes, &mut counter);
            let mut have: Vec<Endpoint> = slices.iter().flat_map(|s| endpoints_of(s).to_vec()).collect();
            have.sort_by_key(identity);
            let mut want = group(port, &wanted).endpoints;
            want.sort_by_key(identity);
            assert_eq!(have, want);
            assert!(sizes(&slices).iter().all(|n| *n <= 10));
            let again = plan(&frame(10), &families(), vec![group(port, &wanted)], &slices);
            assert_eq!(again, Changes::default(), "nothing is left to do");
            assert!(!slices.is_empty(), "a placeholder at least");
        }
    }

    #[test]
    fn one_change_writes_one_slice() {
        let all: Vec<(u32, bool)> = (0..250).map(|n| (n, true)).collect();
        let (mut slices, mut counter) = (Vec::new(), 0);
        apply(&mut slices, plan(&frame(100), &families(), vec![group(80, &all)], &[]), &mut counter);
        assert_eq!(sizes(&slices), [50, 100, 100]);
        let mut one_down = all.clone();
        one_down[7].1 = false;
        let changes = plan(&frame(100), &families(), vec![group(80, &one_down)], &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        let mut one_more = all;
        one_more.push((999, true));
        let changes = plan(&frame(100), &families(), vec![group(80, &one_more)], &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
    }

    #[test]
    fn a_family_that_is_gone_loses_its_slices() {
        let (mut slices, mut counter) = (Vec::new(), 0);
        apply(&mut slices, plan(&frame(100), &families(), vec![group(80, &[(1, true)])], &[]), &mut counter);
        let changes = plan(&frame(100), &["IPv6".to_owned()], vec![], &slices);
        assert_eq!(changes.delete.len(), 1);
        assert_eq!(changes.create.len(), 1, "placeholder of the new family");
        assert_eq!(changes.create[0].address_type, "IPv6");
    }
}
