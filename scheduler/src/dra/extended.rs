//! Extended resources that a device class stands for (KEP-5004): a pod asks for them as it asks for what device plugins
//! report, and on nodes where none does it gets devices through a claim that the scheduler makes for it.
//!
//! A class stands for the resource that it names, and for one with its own name behind a prefix of the API.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::model::Class;
use super::state::Dra;
use crate::model::{PodInfo, Str, quantity};

/// Before the name of a class, a resource that the class stands for (`ResourceDeviceClassPrefix`).
const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// Marks a claim that was made for extended resources.
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// Whether a device class may stand for a resource of this name.
#[must_use]
pub fn possible(name: &str) -> bool {
    let foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    foreign || name.starts_with(OF_CLASS)
}

/// What a container asks for of resources that a class may stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    pub container: Str,
    /// Its place among all containers, those that initialize first.
    pub index: usize,
    /// It ends before the next one starts.
    pub passing: bool,
    pub resources: Box<[Ask]>,
}

/// An amount of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub name: Str,
    /// Its place among everything that the container asks for, by name.
    pub rank: usize,
    pub count: i64,
}

impl Asks {
    fn of(&self, resource: &str) -> Option<&Ask> {
        self.resources.iter().find(|a| a.name.as_ref() == resource)
    }
}

/// What the containers of a pod ask for; those that ask for nothing of the kind are left out.
#[must_use]
pub fn asks(spec: &core::PodSpec) -> Box<[Asks]> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| (c, c.restart_policy.as_deref() != Some("Always")));
    let all = init.chain(spec.containers.iter().map(|c| (c, false))).enumerate();
    let asks = all.filter_map(|(index, (c, passing))| {
        // In the order of names, as a map of the API has them.
        let list = c.resources.as_ref()?.requests.as_ref()?.iter().enumerate();
        let ask = |(rank, (name, q)): (usize, (&String, _))| {
            let count = quantity::value(q);
            (count > 0 && possible(name)).then(|| Ask { name: name.as_str().into(), rank, count })
        };
        let resources: Box<[Ask]> = list.filter_map(ask).collect();
        (!resources.is_empty()).then(|| Asks { container: c.name.as_str().into(), index, passing, resources })
    });
    asks.collect()
}

/// The class that stands for a resource. Of several that name it, it is the newest; of those the first by name.
#[must_use]
pub fn class_of<'a>(dra: &'a Dra, resource: &str) -> Option<&'a Class> {
    if let Some(name) = resource.strip_prefix(OF_CLASS) {
        return dra.classes.get(name);
    }
    let naming = dra.classes.values().filter(|c| c.extended.as_deref() == Some(resource));
    naming.min_by_key(|c| (Reverse(c.created), &c.name))
}

/// The resources that a pod asks for and a class stands for, by name.
#[must_use]
pub fn backed<'a>(dra: &'a Dra, pod: &PodInfo) -> Vec<(Str, &'a Class)> {
    let asked = pod.requests.asked.scalar.iter().filter(|(name, n)| *n > 0 && possible(name));
    asked.filter_map(|(name, _)| Some((name.clone(), class_of(dra, name)?))).collect()
}

/// Their names.
#[must_use]
pub fn backed_names(dra: &Dra, pod: &PodInfo) -> Vec<Str> {
    backed(dra, pod).into_iter().map(|(name, _)| name).collect()
}

/// Whether a claim was made for extended resources.
#[must_use]
pub fn is_for_resources(c: &api::ResourceClaim) -> bool {
    c.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION)).is_some_and(|v| v == "true")
}

/// The UID of the pod that a claim for extended resources was made for.
#[must_use]
pub fn made_for(c: &api::ResourceClaim) -> Option<&str> {
    let mut owners = c.metadata.owner_references.iter().flatten();
    let owner = owners.find(|o| o.controller == Some(true))?;
    is_for_resources(c).then_some(owner.uid.as_str())
}

/// Which request of the claim a container has for a resource.
pub type Mapping = core::ContainerExtendedResourceRequest;

/// The claim for some of a pod's resources, not created yet, and what its containers get of it. Until it is created it
/// has the UID of the pod.
#[must_use]
pub fn claim(pod: &PodInfo, resources: &[(Str, &Class)]) -> (api::ResourceClaim, Vec<Mapping>) {
    let (requests, mappings) = requests(&pod.want().extended, resources);
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        namespace: Some(pod.namespace.to_string()),
        generate_name: Some(format!("{}-extended-resources-", pod.name)),
        name: Some("<extended-resources>".into()),
        uid: Some(pod.uid.to_string()),
        owner_references: Some(vec![owner]),
        annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
        ..Default::default()
    };
    let devices = api::DeviceClaim { requests: Some(requests), ..Default::default() };
    let spec = api::ResourceClaimSpec { devices: Some(devices) };
    (api::ResourceClaim { metadata, spec, status: None }, mappings)
}

/// A request that is being put together: its name and how many devices.
struct Request {
    name: String,
    count: i64,
}

/// The requests for some resources, by name, and which container has which.
///
/// A container that ends before the next one starts has the devices of later ones that stay; what it needs beyond these
/// comes from one request that all such containers share.
fn requests(asks: &[Asks], resources: &[(Str, &Class)]) -> (Vec<api::DeviceRequest>, Vec<Mapping>) {
    let mut requests = Vec::new();
    let mut mappings = Vec::new();
    for (resource, class) in resources {
        let asking = |passing: bool| {
            let of = asks.iter().filter(move |a| a.passing == passing);
            of.filter_map(|a| Some((a, a.of(resource)?)))
        };
        let name = |a: &Asks, r: &Ask| format!("container-{}-request-{}", a.index, r.rank);
        let mut map = |a: &Asks, request: &str| {
            mappings.push(Mapping {
                container_name: a.container.to_string(),
                resource_name: resource.to_string(),
                request_name: request.to_owned(),
            });
        };
        let staying: Vec<(usize, Request)> =
            asking(false).map(|(a, r)| (a.index, Request { name: name(a, r), count: r.count })).collect();
        for ((a, _), (_, r)) in asking(false).zip(&staying) {
            map(a, &r.name);
        }
        let missing = |a: &Asks, r: &Ask| {
            let later = staying.iter().filter(|(i, _)| *i > a.index);
            r.count - later.map(|(_, s)| s.count).sum::<i64>()
        };
        let more = asking(true).map(|(a, r)| Request { name: name(a, r), count: missing(a, r) });
        // The first of the largest.
        let shared = more.filter(|r| r.count > 0).min_by_key(|r| Reverse(r.count));
        for (a, r) in asking(true) {
            let mut has = 0;
            for (_, s) in staying.iter().filter(|(i, _)| *i > a.index) {
                if has >= r.count {
                    break;
                }
                has += s.count;
                map(a, &s.name);
            }
            if let Some(s) = shared.as_ref().filter(|_| has < r.count) {
                map(a, &s.name);
            }
        }
        let all = shared.into_iter().chain(staying.into_iter().map(|(_, r)| r));
        requests.extend(all.map(|r| api::DeviceRequest {
            name: r.name,
            exactly: Some(api::ExactDeviceRequest {
                device_class_name: class.name.to_string(),
                allocation_mode: Some("ExactCount".into()),
                count: Some(r.count),
                ..Default::default()
            }),
            first_available: None,
        }));
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    (requests, mappings)
}
