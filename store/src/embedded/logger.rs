//! The raft library logs through `slog`; this hands it on to `tracing`.

/// A `slog` logger whose lines become `tracing` events. Raft's notes on its own elections are for debugging.
pub fn logger() -> slog::Logger {
    slog::Logger::root(slog::Fuse(Tracing), slog::o!())
}

struct Tracing;

impl slog::Drain for Tracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{}", record.msg()),
            slog::Level::Warning => tracing::warn!(target: "raft", "{}", record.msg()),
            slog::Level::Info | slog::Level::Debug => tracing::debug!(target: "raft", "{}", record.msg()),
            slog::Level::Trace => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}
