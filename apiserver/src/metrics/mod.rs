//! The server's metrics, under upstream's names.
//!
//! | file | what |
//! | --- | --- |
//! | `requests.rs` | what every request counts |
//! | `parts.rs` | what single parts of the server count: admission, storage, watches |
//! | `state.rs` | what is read from the server when it is scraped |

pub mod parts;
pub mod requests;
pub mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::http::Response;
use crate::http::deprecation::Deprecated;
use crate::http::query::Query;
use crate::request::RequestInfo;

pub use requests::Observed;

/// All metrics of the server.
pub struct Metrics {
    shared: component_base::metrics::Metrics,
    requests: Arc<requests::Requests>,
}

impl Default for Metrics {
    fn default() -> Self {
        let shared = component_base::metrics::Metrics::default();
        let requests = requests::Requests::new(&shared);
        parts::register(&shared);
        Self { shared, requests }
    }
}

impl Metrics {
    /// The registry that other parts add theirs to.
    pub fn shared(&self) -> &component_base::metrics::Metrics {
        &self.shared
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        self.shared.render()
    }

    /// Begins to measure a request.
    pub fn begin(&self, app: &App, info: &RequestInfo, query: &Query, apply: bool) -> Observed {
        self.requests.begin(app, info, query, apply)
    }

    /// Ends the measurement; of what runs long, with the end of its body.
    pub fn end(&self, o: Observed, response: Response, started: Instant) -> Response {
        self.requests.end(o, response, started)
    }

    /// A request that the server ended before it was done.
    pub fn terminated(&self, o: &Observed, code: u16) {
        self.requests.terminated(o, code);
    }

    /// Time that a filter took.
    pub fn filter(&self, name: &'static str, took: Duration) {
        self.requests.filter(name, took);
    }

    /// Somebody asked for a deprecated resource.
    pub fn deprecated(&self, d: &Deprecated, info: &RequestInfo) {
        self.requests.deprecated(d, info);
    }

    /// Requests running and waiting at most in the last second.
    pub fn set_in_flight(&self, executing: [i64; 2], waiting: [i64; 2]) {
        self.requests.set_in_flight(executing, waiting);
    }
}
