//! HTTP: the filter chain in upstream's order, content negotiation and the rendering of answers.
//! What a request *does* lives in [`crate::registry`], [`crate::discovery`] and [`crate::connect`].

pub mod body;
pub mod deadline;
pub mod debug;
pub mod deprecation;
pub mod edge;
pub mod filters;
pub mod flags;
pub mod inflight;
pub mod lifecycle;
pub mod negotiate;
pub mod operation;
pub mod pretty;
pub mod query;
pub mod request_info;
pub mod respond;
pub mod router;
pub mod traffic;
pub mod verbs;

pub use body::Body;

/// Answer of every handler.
pub type Response = http::Response<Body>;
