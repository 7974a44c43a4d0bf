//! Logging set-up: structured records on standard error, as text or JSON.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// Flags that every daemon takes for its logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogFlags {
    /// Number for the log level verbosity: 0 to 3 information, 4 debugging, 6 tracing
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub v: u8,
    /// Sets the log format: "text" or "json"
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub logging_format: String,
}

/// Installs the process-wide logger. A second call keeps the first.
///
/// `RUST_LOG`, where set, replaces what `--v` says.
pub fn init(flags: &LogFlags) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| of_level(flags.v));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // Only a logger that is already there makes this fail, and that one may stay.
    let (set, reload): (_, Reload) = match flags.logging_format.as_str() {
        "json" => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |f| handle.reload(f).map_err(|e| e.to_string())))
        }
        _ => {
            let builder = builder.with_ansi(false).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |f| handle.reload(f).map_err(|e| e.to_string())))
        }
    };
    if set.is_ok() {
        let _ = RELOAD.set(reload);
    }
}

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Changes the level of the running logger to what `--v` would have set.
///
/// # Errors
/// The logger is not ours.
pub fn set_level(v: u8) -> Result<(), String> {
    match RELOAD.get() {
        Some(reload) => reload(of_level(v)),
        None => Err("the log level of this process cannot be changed".to_owned()),
    }
}

fn of_level(v: u8) -> EnvFilter {
    let level = match v {
        0..=3 => "info",
        4 | 5 => "debug",
        _ => "trace",
    };
    // The libraries below us log per frame and per request from debug on: of use only at the highest level.
    let noisy = if v >= 8 { "trace" } else { "warn" };
    EnvFilter::new(format!(
        "{level},hyper={noisy},hyper_util={noisy},h2={noisy},rustls={noisy},tower={noisy},tonic={noisy},kube_client={noisy},kube_runtime={noisy},sled={noisy},raft={noisy}"
    ))
}
