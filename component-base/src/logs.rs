//! Logging set-up: structured records on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Flags that every daemon takes for its logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogFlags {
    /// Number for the log level verbosity: 0 warnings, 2 information, 4 debugging, 6 tracing
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 2)]
    pub v: u8,
    /// Sets the log format: "text" or "json"
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub logging_format: String,
}

/// Installs the process-wide logger. A second call keeps the first.
///
/// `RUST_LOG`, where set, replaces what `--v` says.
pub fn init(flags: &LogFlags) {
    let level = match flags.v {
        0 | 1 => "warn",
        2 | 3 => "info",
        4 | 5 => "debug",
        _ => "trace",
    };
    // The libraries below us log per frame and per request from debug on: of use only at the highest level.
    let noisy = if flags.v >= 8 { "trace" } else { "warn" };
    let default = format!(
        "{level},hyper={noisy},hyper_util={noisy},h2={noisy},rustls={noisy},tower={noisy},tonic={noisy},kube_client={noisy},kube_runtime={noisy},sled={noisy},raft={noisy}"
    );
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Only a logger that is already there makes this fail, and that one may stay.
    let _ = match flags.logging_format.as_str() {
        "json" => builder.json().flatten_event(true).try_init(),
        _ => builder.with_ansi(false).try_init(),
    };
}
