//! The life of a daemon process: runtime, signals, systemd notification, exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::logs::{self, LogFlags};

/// Becomes cancelled when the process must stop (SIGTERM, SIGINT).
pub type Shutdown = CancellationToken;

/// Runs a daemon to its end: installs logger and TLS provider, starts a runtime with two workers, cancels the
/// [`Shutdown`] it hands to `main` on SIGTERM or SIGINT, and turns an error into a log line and exit code 1.
///
/// `main` calls [`ready`] when it serves, and must return soon after cancellation.
pub fn run<F, Fut>(component: &'static str, flags: &LogFlags, main: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    run_boxed(component, flags, Box::new(|shutdown| Box::pin(main(shutdown))))
}

type Main<'a> = Box<dyn FnOnce(Shutdown) -> LocalBoxFuture<'a, anyhow::Result<()>> + 'a>;

fn run_boxed(component: &'static str, flags: &LogFlags, main: Main<'_>) -> ExitCode {
    logs::init(flags);
    install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            error!(component, error = %e, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let shutdown = Shutdown::new();
    info!(component, version = crate::version::GIT_VERSION, pid = std::process::id(), "starting");
    let result = runtime.block_on(async {
        watch_signals(shutdown.clone())?;
        main(shutdown).await
    });
    // What still runs then is background work that nobody waits for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => {
            info!(component, "stopped");
            ExitCode::SUCCESS
        }
        Err(e) => {
            error!(component, error = format!("{e:#}"), "failed");
            ExitCode::FAILURE
        }
    }
}

/// Makes ring the TLS provider of the process. Safe to repeat.
pub fn install_crypto() {
    // Fails only when a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn watch_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        info!(signal = name, "shutting down");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        shutdown.cancel();
    });
    Ok(())
}

/// Tells systemd, where it started us, that the daemon serves. What only start-up needed is given back when that is over.
pub fn ready() {
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(error = %e, "cannot notify systemd");
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(crate::memory::settle_when_quiet());
    }
}
