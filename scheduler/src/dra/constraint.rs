//! Constraints between the devices of a claim: all have the same value of an attribute, or all have different ones.

use expressions::device::Attribute;
use k8s_openapi::api::resource::v1 as api;

use super::model::Device;

/// A constraint and the devices that it has accepted.
#[derive(Clone, Debug)]
pub struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    values: Vec<&'a Attribute>,
}

impl<'a> Constraint<'a> {
    /// Reads a constraint; none for one of an unknown kind.
    #[must_use]
    pub fn new(c: &'a api::DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match (&c.match_attribute, &c.distinct_attribute) {
            (Some(a), _) => (a, false),
            (None, Some(a)) => (a, true),
            (None, None) => return None,
        };
        Some(Self {
            requests: c.requests.as_deref().unwrap_or_default(),
            attribute,
            distinct,
            values: Vec::new(),
        })
    }

    /// Whether it concerns the devices of a request; `parent` is the request whose alternative `name` is.
    fn concerns(&self, parent: Option<&str>, name: &str) -> bool {
        let listed = |n: &str| self.requests.iter().any(|r| r == n);
        self.requests.is_empty()
            || match parent {
                None => listed(name),
                Some(p) => {
                    listed(p)
                        || self.requests.iter().any(|r| r.split_once('/').is_some_and(|x| x == (p, name)))
                }
            }
    }

    /// Takes in a device, if that is possible.
    pub fn add(&mut self, parent: Option<&str>, name: &str, driver: &str, device: &'a Device) -> bool {
        if !self.concerns(parent, name) {
            return true;
        }
        let value = match lookup(self.attribute, driver, device) {
            None | Some(Attribute::Unsupported) => return false,
            Some(v) => v,
        };
        let fits = match self.distinct {
            true => !self.values.contains(&value),
            false => self.values.first().is_none_or(|first| *first == value),
        };
        if fits {
            self.values.push(value);
        }
        fits
    }

    /// Undoes the latest [`Self::add`], which was for a device of this request.
    pub fn remove(&mut self, parent: Option<&str>, name: &str) {
        if self.concerns(parent, name) {
            self.values.pop();
        }
    }
}

/// The attribute of that name. Where a device leaves the domain out, it is the driver's.
fn lookup<'a>(name: &str, driver: &str, device: &'a Device) -> Option<&'a Attribute> {
    device.attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        if domain == driver { device.attributes.get(id) } else { None }
    })
}
