//! What a claim asks for, read once per decision.

use k8s_openapi::api::resource::v1 as api;

use super::claims::shown;
use super::constraint::Constraint;
use super::model::{Amounts, Class, Taint, expressions, quantity};
use super::state::{Compiled, Dra};

/// Most devices of a claim (`AllocationResultsMaxSize`).
pub const MAX_RESULTS: usize = 32;

/// How many devices a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// That many.
    Exactly(usize),
    /// All that match.
    All,
}

/// A request, or an alternative of one.
#[derive(Debug)]
pub struct Request<'a> {
    pub name: &'a str,
    /// The request that this is an alternative of.
    pub parent: Option<&'a str>,
    pub class: &'a Class,
    /// Those of the class, then its own, with what messages say of where they stand.
    pub selectors: Vec<(Compiled, String)>,
    pub mode: Mode,
    /// Devices that others have will do (KEP-5018).
    pub admin: bool,
    pub tolerations: &'a [api::DeviceToleration],
    /// What it takes of a device's capacity.
    pub capacity: Option<Amounts>,
}

impl Request<'_> {
    /// The name as results and configurations refer to it.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.parent {
            Some(p) => format!("{p}/{}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// Whether it can live with a taint.
    #[must_use]
    pub fn tolerates(&self, t: &Taint) -> bool {
        self.tolerations.iter().any(|x| tolerates(x, t))
    }
}

/// Whether a toleration covers a taint.
fn tolerates(x: &api::DeviceToleration, t: &Taint) -> bool {
    let any_or = |mine: Option<&String>, its: &str| mine.is_none_or(|m| m.is_empty() || m == its);
    any_or(x.effect.as_ref(), &t.effect)
        && any_or(x.key.as_ref(), &t.key)
        && match x.operator.as_deref() {
            None | Some("" | "Equal") => x.value.as_deref().unwrap_or("") == t.value.as_ref(),
            Some("Exists") => true,
            Some(_) => false,
        }
}

/// A claim to allocate.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub claim: &'a api::ResourceClaim,
    /// For each request what will do for it, the best first: one, or the alternatives of `firstAvailable`.
    pub requests: Vec<Vec<Request<'a>>>,
    pub constraints: Vec<Constraint<'a>>,
}

/// Reads a claim.
///
/// # Errors
/// The claim asks for what cannot be understood.
pub fn read<'a>(dra: &'a Dra, claim: &'a api::ResourceClaim) -> Result<Wanted<'a>, String> {
    let of = shown(claim);
    let devices = claim.spec.devices.as_ref();
    let mut requests = Vec::new();
    for r in devices.iter().flat_map(|d| d.requests.iter().flatten()) {
        let read = |parts: Parts<'a>| parts.read(dra, &of);
        requests.push(match (&r.exactly, &r.first_available) {
            (Some(e), _) => vec![read(Parts::exactly(&r.name, e))?],
            (None, Some(list)) if !list.is_empty() => {
                list.iter().map(|s| read(Parts::alternative(&r.name, s))).collect::<Result<_, _>>()?
            }
            _ => return Err(format!("claim {of}, request {}: unknown request type", r.name)),
        });
    }
    let constraints = devices.iter().flat_map(|d| d.constraints.iter().flatten()).enumerate();
    let constraints = constraints.map(|(i, c)| {
        let unknown =
            || format!("claim {of}, constraint #{i}: empty constraint (unsupported constraint type?)");
        Constraint::new(c).ok_or_else(unknown)
    });
    let constraints = constraints.collect::<Result<_, _>>()?;
    Ok(Wanted { claim, requests, constraints })
}

/// The fields that both kinds of requests have.
struct Parts<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    admin: bool,
    selectors: Option<&'a Vec<api::DeviceSelector>>,
    tolerations: Option<&'a Vec<api::DeviceToleration>>,
    capacity: Option<&'a api::CapacityRequirements>,
}

impl<'a> Parts<'a> {
    fn exactly(name: &'a str, e: &'a api::ExactDeviceRequest) -> Self {
        Self {
            name,
            parent: None,
            class: &e.device_class_name,
            mode: e.allocation_mode.as_deref(),
            count: e.count,
            admin: e.admin_access.unwrap_or(false),
            selectors: e.selectors.as_ref(),
            tolerations: e.tolerations.as_ref(),
            capacity: e.capacity.as_ref(),
        }
    }

    fn alternative(parent: &'a str, s: &'a api::DeviceSubRequest) -> Self {
        Self {
            name: &s.name,
            parent: Some(parent),
            class: &s.device_class_name,
            mode: s.allocation_mode.as_deref(),
            count: s.count,
            admin: false,
            selectors: s.selectors.as_ref(),
            tolerations: s.tolerations.as_ref(),
            capacity: s.capacity.as_ref(),
        }
    }

    fn read(self, dra: &'a Dra, of: &str) -> Result<Request<'a>, String> {
        let at = format!("claim {of}, request {}", self.name);
        if self.class.is_empty() {
            return Err(format!("{at}: missing device class name (unsupported request type?)"));
        }
        let class = dra.classes.get(self.class).ok_or_else(|| {
            let (name, kind) = (self.class, "deviceclass.resource.k8s.io");
            format!("{at}: could not retrieve device class {name}: {kind} {name:?} not found")
        })?;
        let own = expressions(self.selectors);
        let mut selectors = Vec::new();
        let lists = [(&class.selectors, format!("class {}", class.name)), (&own, format!("claim {of}"))];
        for (list, whose) in lists {
            for (i, e) in list.iter().enumerate() {
                let Some(e) = e else {
                    return Err(format!(
                        "{at}, selector #{i}: CEL expression empty (unsupported selector type?)"
                    ));
                };
                selectors.push((dra.selector(e), format!("{whose}: selector #{i}")));
            }
        }
        let mode = match self.mode {
            None | Some("" | "ExactCount") => {
                let count = self.count.unwrap_or(1);
                Mode::Exactly(usize::try_from(count).unwrap_or(0))
            }
            Some("All") => Mode::All,
            Some(other) => return Err(format!("{at}: unsupported count mode {other}")),
        };
        let amounts = |c: &api::CapacityRequirements| {
            c.requests.iter().flatten().map(|(n, q)| (n.as_str().into(), quantity(q))).collect()
        };
        Ok(Request {
            name: self.name,
            parent: self.parent,
            class,
            selectors,
            mode,
            admin: self.admin,
            tolerations: self.tolerations.map(Vec::as_slice).unwrap_or_default(),
            capacity: self.capacity.map(amounts),
        })
    }
}
