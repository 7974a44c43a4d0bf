//! Flags of the way of requests: limits, timeouts, shutdown, what browsers may do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use component_base::duration::GoDuration;
use component_base::serving::listener;

use super::edge::Edge;
use super::lifecycle::Settings;
use crate::trace;

/// See the module.
#[derive(Debug, Clone, Args)]
pub struct ServingFlags {
    /// Seconds that a watch lives at least, where its client does not say; up to twice that by chance
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// How long to go on as before after the signal to stop, with /readyz failing
    #[arg(long, default_value = "0s")]
    pub shutdown_delay_duration: GoDuration,
    /// Turn new requests away with 429 and Retry-After, instead of closing the port, while running ones finish
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub shutdown_send_retry_after: bool,
    /// Time over which watches are ended at shutdown
    #[arg(long, default_value = "0s")]
    pub shutdown_watch_termination_grace_period: GoDuration,
    /// How long after the start /livez passes although the server is not yet started
    #[arg(long, default_value = "0s")]
    pub livez_grace_period: GoDuration,
    /// File with the configuration of traces
    #[arg(long)]
    pub tracing_config_file: Option<PathBuf>,
    /// The share of HTTP/2 requests after which a connection is closed, at most 0.02; 0 for never
    #[arg(long, default_value_t = 0.0)]
    pub goaway_chance: f64,
    /// Requests that one HTTP/2 connection may carry at a time; 0 for the server's own choice
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// Serve HTTP/1.1 only
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub disable_http2_serving: bool,
    /// Directives of the Strict-Transport-Security header
    #[arg(long, value_delimiter = ',')]
    pub strict_transport_security_directives: Vec<String>,
    /// Regular expressions of origins whose pages may call this server
    #[arg(long, value_delimiter = ',')]
    pub cors_allowed_origins: Vec<String>,
}

impl ServingFlags {
    pub fn check(&self) -> anyhow::Result<()> {
        if self.shutdown_watch_termination_grace_period.0 > Duration::from_secs(300) {
            bail!("shutdown-watch-termination-grace-period, if provided, can not be greater than 5 minutes");
        }
        self.edge().map(drop)
    }

    /// Starts traces, where they are configured.
    pub fn tracer(&self) -> anyhow::Result<Option<trace::Tracer>> {
        let Some(file) = &self.tracing_config_file else { return Ok(None) };
        let of = || format!("--tracing-config-file: {}", file.display());
        let text = std::fs::read_to_string(file).with_context(of)?;
        let config = trace::config::Config::parse(&text).with_context(of)?;
        trace::Tracer::start(&config).with_context(of).map(Some)
    }

    pub fn edge(&self) -> anyhow::Result<Edge> {
        Edge::new(&self.cors_allowed_origins, &self.strict_transport_security_directives, self.goaway_chance)
    }

    pub fn lifecycle(&self, request_timeout: Duration) -> Settings {
        Settings {
            delay: self.shutdown_delay_duration.0,
            send_retry_after: self.shutdown_send_retry_after,
            watch_grace: self.shutdown_watch_termination_grace_period.0,
            request_timeout,
        }
    }

    pub fn listener(&self, request_timeout: Duration) -> listener::Options {
        listener::Options {
            max_streams: match self.http2_max_streams_per_connection {
                0 => listener::MAX_STREAMS,
                n => n,
            },
            http2: !self.disable_http2_serving,
            drain: request_timeout,
            ..listener::Options::default()
        }
    }
}
