//! Metrics of aggregation, under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    name: String,
    reason: String,
}

/// See the module.
#[derive(Default)]
pub struct Metrics {
    unavailable: Family<Name, Gauge>,
    /// A gauge, since a counter would share its family's name with the other one.
    turned: Family<Reason, Gauge>,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, metrics: &component_base::metrics::Metrics) {
        metrics.register(|r| {
            r.register(
                "aggregator_unavailable_apiservice",
                "Gauge of APIServices which are marked as unavailable broken down by APIService name",
                self.unavailable.clone(),
            );
            r.register(
                "aggregator_unavailable_apiservice_total",
                "Counter of APIServices which are marked as unavailable broken down by APIService name and reason",
                self.turned.clone(),
            );
        });
    }

    /// Notes how an API service is now.
    pub fn set(&self, name: &str, available: bool) {
        self.unavailable.get_or_create(&Name { name: name.to_owned() }).set(i64::from(!available));
    }

    /// Notes that an API service became unavailable.
    pub fn turned(&self, name: &str, reason: &str) {
        self.turned.get_or_create(&Reason { name: name.to_owned(), reason: reason.to_owned() }).inc();
    }

    /// Forgets an API service that is gone.
    pub fn forget(&self, name: &str) {
        self.unavailable.remove(&Name { name: name.to_owned() });
    }
}
