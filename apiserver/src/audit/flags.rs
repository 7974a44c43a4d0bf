//! `--audit-*`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use component_base::duration::GoDuration;

use super::backend::{Backend, Batching, Mode, Target, Truncation};
use super::log::{Format, Log};
use super::rotate::Limits;
use super::webhook::Webhook;
use super::{Auditor, Metrics, Policy};

/// Flags of the audit policy and its backends.
#[derive(Debug, Clone, Args)]
pub struct AuditFlags {
    /// File with the audit policy; without, nothing is audited
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,

    /// File for audit events; "-" is the standard output
    #[arg(long)]
    pub audit_log_path: Option<String>,
    /// Format of the audit log: "legacy" is a line of text, "json" is JSON
    #[arg(long, default_value = "json")]
    pub audit_log_format: String,
    /// Days to keep old audit logs; 0 for ever
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: i64,
    /// Number of old audit logs to keep; 0 for all
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: i64,
    /// Megabytes after which the audit log is rotated; 0 for never
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: i64,
    /// Compress old audit logs with gzip
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub audit_log_compress: bool,
    /// How events get to the log: batch, blocking or blocking-strict
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: String,
    /// Events that may wait for the log in batch mode
    #[arg(long, default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: i64,
    /// Most events of one batch for the log
    #[arg(long, default_value_t = 1)]
    pub audit_log_batch_max_size: i64,
    /// How long a batch for the log may wait to be full
    #[arg(long, default_value = "0s")]
    pub audit_log_batch_max_wait: GoDuration,
    /// Bound the rate of batches for the log
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub audit_log_batch_throttle_enable: bool,
    /// Batches per second for the log
    #[arg(long, default_value_t = 0.0)]
    pub audit_log_batch_throttle_qps: f32,
    /// Batches for the log that may come at once
    #[arg(long, default_value_t = 0)]
    pub audit_log_batch_throttle_burst: i64,
    /// Cut large events for the log
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub audit_log_truncate_enabled: bool,
    /// Most bytes of one batch for the log
    #[arg(long, default_value_t = 10_485_760)]
    pub audit_log_truncate_max_batch_size: i64,
    /// Most bytes of one event for the log
    #[arg(long, default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: i64,
    /// API version of events in the log
    #[arg(long, default_value = "audit.k8s.io/v1")]
    pub audit_log_version: String,

    /// Kubeconfig of the audit webhook
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Time before the first new attempt at a failed delivery
    #[arg(long, default_value = "10s")]
    pub audit_webhook_initial_backoff: GoDuration,
    /// How events get to the webhook: batch, blocking or blocking-strict
    #[arg(long, default_value = "batch")]
    pub audit_webhook_mode: String,
    /// Events that may wait for the webhook in batch mode
    #[arg(long, default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: i64,
    /// Most events of one batch for the webhook
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: i64,
    /// How long a batch for the webhook may wait to be full
    #[arg(long, default_value = "30s")]
    pub audit_webhook_batch_max_wait: GoDuration,
    /// Bound the rate of batches for the webhook
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches per second for the webhook
    #[arg(long, default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches for the webhook that may come at once
    #[arg(long, default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: i64,
    /// Cut large events for the webhook
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub audit_webhook_truncate_enabled: bool,
    /// Most bytes of one batch for the webhook
    #[arg(long, default_value_t = 10_485_760)]
    pub audit_webhook_truncate_max_batch_size: i64,
    /// Most bytes of one event for the webhook
    #[arg(long, default_value_t = 102_400)]
    pub audit_webhook_truncate_max_event_size: i64,
    /// API version of events for the webhook
    #[arg(long, default_value = "audit.k8s.io/v1")]
    pub audit_webhook_version: String,
}

/// The flags that both backends have.
struct Common<'a> {
    name: &'static str,
    mode: &'a str,
    buffer: i64,
    size: i64,
    wait: Duration,
    throttle: Option<(f32, i64)>,
    truncate: Option<(i64, i64)>,
    version: &'a str,
}

/// A positive number in its own type.
fn positive<T: TryFrom<i64>>(n: i64, what: impl FnOnce() -> String) -> anyhow::Result<T> {
    match T::try_from(n) {
        Ok(v) if n > 0 => Ok(v),
        _ => bail!("invalid audit {} {n}, must be a positive number", what()),
    }
}

impl Common<'_> {
    fn read(&self) -> anyhow::Result<(Mode, Batching, Option<Truncation>)> {
        let name = self.name;
        let mode = match self.mode {
            "batch" => Mode::Batch,
            "blocking" => Mode::Blocking,
            "blocking-strict" => Mode::BlockingStrict,
            m => bail!("invalid audit {name} mode {m}, allowed modes are \"batch,blocking,blocking-strict\""),
        };
        if self.version != "audit.k8s.io/v1" {
            bail!("invalid group version, allowed versions are [\"audit.k8s.io/v1\"]");
        }
        let mut batching = Batching { buffer: 1, size: 1, wait: self.wait, throttle: None };
        if mode == Mode::Batch {
            batching.buffer = positive(self.buffer, || format!("batch {name} buffer size"))?;
            batching.size = positive(self.size, || format!("batch {name} max batch size"))?;
            if let Some((qps, burst)) = self.throttle {
                if qps.is_nan() || qps <= 0.0 {
                    bail!("invalid audit batch {name} throttle QPS {qps}, must be a positive number");
                }
                batching.throttle = Some((qps, positive(burst, || format!("batch {name} throttle burst"))?));
            }
        }
        let truncation = match self.truncate {
            None => None,
            Some((event, batch)) => {
                let event = positive(event, || format!("truncate {name} max event size"))?;
                let batch = usize::try_from(batch).unwrap_or(0);
                if batch < event {
                    bail!(
                        "invalid audit truncate {name} max batch size {batch}, must be greater than max event size ({event})"
                    );
                }
                Some(Truncation { event, batch })
            }
        };
        Ok((mode, batching, truncation))
    }
}

impl AuditFlags {
    fn log(&self) -> Common<'_> {
        Common {
            name: "log",
            mode: &self.audit_log_mode,
            buffer: self.audit_log_batch_buffer_size,
            size: self.audit_log_batch_max_size,
            wait: self.audit_log_batch_max_wait.0,
            throttle: self
                .audit_log_batch_throttle_enable
                .then_some((self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst)),
            truncate: self
                .audit_log_truncate_enabled
                .then_some((self.audit_log_truncate_max_event_size, self.audit_log_truncate_max_batch_size)),
            version: &self.audit_log_version,
        }
    }

    fn webhook(&self) -> Common<'_> {
        Common {
            name: "webhook",
            mode: &self.audit_webhook_mode,
            buffer: self.audit_webhook_batch_buffer_size,
            size: self.audit_webhook_batch_max_size,
            wait: self.audit_webhook_batch_max_wait.0,
            throttle: self
                .audit_webhook_batch_throttle_enable
                .then_some((self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst)),
            truncate: self.audit_webhook_truncate_enabled.then_some((
                self.audit_webhook_truncate_max_event_size,
                self.audit_webhook_truncate_max_batch_size,
            )),
            version: &self.audit_webhook_version,
        }
    }

    /// Checks the flags of the backends that are on.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.audit_log_path.as_deref().is_some_and(|p| !p.is_empty()) {
            self.log().read()?;
            if !matches!(self.audit_log_format.as_str(), "json" | "legacy") {
                bail!(
                    "invalid audit log format {}, allowed formats are \"legacy,json\"",
                    self.audit_log_format
                );
            }
            for (flag, n) in [
                ("maxage", self.audit_log_maxage),
                ("maxbackup", self.audit_log_maxbackup),
                ("maxsize", self.audit_log_maxsize),
            ] {
                if n < 0 {
                    bail!("--audit-log-{flag} {n} can't be a negative number");
                }
            }
        }
        if self.audit_webhook_config_file.is_some() {
            self.webhook().read()?;
        }
        Ok(())
    }

    /// What the flags ask for; nothing without a policy or without a backend.
    pub fn build(&self, metrics: &Metrics) -> anyhow::Result<Option<Arc<Auditor>>> {
        let Some(file) = &self.audit_policy_file else {
            if self.audit_log_path.is_some() || self.audit_webhook_config_file.is_some() {
                tracing::warn!("no audit policy file provided: no events will be recorded");
            }
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("loading audit policy file: {}", file.display()))?;
        let policy =
            Policy::parse(&text).with_context(|| format!("loading audit policy file: {}", file.display()))?;
        let mut backends = Vec::new();
        if let Some(path) = self.audit_log_path.as_deref().filter(|p| !p.is_empty()) {
            let (mode, batching, truncation) = self.log().read()?;
            let whole = |n: i64| u64::try_from(n).unwrap_or(0);
            let limits = Limits {
                size: whole(self.audit_log_maxsize) << 20,
                backups: usize::try_from(self.audit_log_maxbackup).unwrap_or(0),
                days: whole(self.audit_log_maxage),
                compress: self.audit_log_compress,
            };
            let format = if self.audit_log_format == "legacy" { Format::Legacy } else { Format::Json };
            let log = Log::open(path, format, limits).with_context(|| format!("--audit-log-path: {path}"))?;
            backends.push(Backend::new(Target::Log(log), mode, batching, truncation, metrics.clone()));
        }
        if let Some(config) = &self.audit_webhook_config_file {
            let (mode, batching, truncation) = self.webhook().read()?;
            let hook = Webhook::new(config, self.audit_webhook_initial_backoff.0)?;
            backends.push(Backend::new(
                Target::Webhook(Box::new(hook)),
                mode,
                batching,
                truncation,
                metrics.clone(),
            ));
        }
        if backends.is_empty() {
            return Ok(None);
        }
        Ok(Some(Auditor::new(policy, backends, metrics.clone())))
    }
}
