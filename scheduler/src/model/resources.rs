//! Amounts of node resources.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::labels::Str;
use super::quantity;

/// Amounts of resources: CPU in millicores, the rest in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    /// Extended resources, huge pages and attachable volumes, sorted by name.
    pub scalar: Vec<(Str, i64)>,
}

impl Resources {
    /// From a resource list of the API; `pods` is left out (nodes keep it apart).
    #[must_use]
    pub fn new(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut out = Self::default();
        for (name, q) in list.into_iter().flatten() {
            match name.as_str() {
                "pods" => {}
                "cpu" => out.cpu = quantity::milli(q),
                n => out.set(n, quantity::value(q)),
            }
        }
        out
    }

    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            n => self.position(n).map_or(0, |i| self.scalar[i].1),
        }
    }

    /// Sets the amount of one resource.
    pub fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral = amount,
            n => match self.position(n) {
                Ok(i) => self.scalar[i].1 = amount,
                Err(i) => self.scalar.insert(i, (n.into(), amount)),
            },
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.scalar.binary_search_by(|(n, _)| n.as_ref().cmp(name))
    }

    /// Adds.
    pub fn add(&mut self, o: &Self) {
        self.merge(o, |a, b| a.saturating_add(b));
    }

    /// Subtracts.
    pub fn sub(&mut self, o: &Self) {
        self.merge(o, |a, b| a.saturating_sub(b));
    }

    /// Takes the larger amount of each resource.
    pub fn max(&mut self, o: &Self) {
        self.merge(o, i64::max);
    }

    fn merge(&mut self, o: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu = f(self.cpu, o.cpu);
        self.memory = f(self.memory, o.memory);
        self.ephemeral = f(self.ephemeral, o.ephemeral);
        for (name, amount) in &o.scalar {
            let i = match self.position(name) {
                Ok(i) => i,
                Err(i) => {
                    self.scalar.insert(i, (name.clone(), 0));
                    i
                }
            };
            self.scalar[i].1 = f(self.scalar[i].1, *amount);
        }
    }
}
