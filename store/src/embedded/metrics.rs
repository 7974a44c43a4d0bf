//! What the engine counts, under upstream's (etcd's) names where the meaning is the same.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that goes up, or up and down.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration buckets, in microseconds: doubling from 62.5 µs would do for a fast disk, etcd's begin
/// at 1 ms; both are covered.
const BOUNDS_US: [u64; 12] =
    [125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 128_000, 512_000, 2_048_000];

/// Durations in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Count; BOUNDS_US.len()],
    count: Count,
    sum_us: Count,
}

impl Durations {
    pub fn observe(&self, d: Duration) {
        let us = u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        if let Some(i) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[i].add(1);
        }
        self.count.add(1);
        self.sum_us.add(us);
    }
}

/// The engine's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    pub proposals_committed: Count,
    pub proposals_applied: Count,
    pub proposals_pending: Count,
    pub proposals_failed: Count,
    /// Writes of this member that another one, which led, has made.
    pub proposals_forwarded: Count,
    pub wal_fsync: Durations,
    pub backend_commit: Durations,
    pub leader_changes: Count,
    pub puts: Count,
    pub deletes: Count,
    pub ranges: Count,
    pub expired: Count,
    pub watchers: Count,
    pub events_sent: Count,
    /// Reads of history from disk for watches that had fallen behind.
    pub slow_reads: Count,
    pub snapshots: Count,
    /// Time and sync of whole snapshots.
    pub snapshot_save: Durations,
    /// Batches that took more than a tenth of a second to apply.
    pub slow_applies: Count,
    /// Bytes written to the log.
    pub wal_written: Count,
}

impl Metrics {
    /// Appends the counters in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let counters = [
            ("etcd_server_leader_changes_seen_total", &self.leader_changes),
            ("etcd_server_proposals_failed_total", &self.proposals_failed),
            ("etcd_debugging_mvcc_put_total", &self.puts),
            ("etcd_debugging_mvcc_delete_total", &self.deletes),
            ("etcd_debugging_mvcc_range_total", &self.ranges),
            ("etcd_debugging_mvcc_events_total", &self.events_sent),
            ("etcd_debugging_lease_ttl_expired_total", &self.expired),
            ("etcd_mvcc_put_total", &self.puts),
            ("etcd_mvcc_delete_total", &self.deletes),
            ("etcd_mvcc_range_total", &self.ranges),
            ("etcd_server_slow_apply_total", &self.slow_applies),
            ("coxswain_store_proposals_forwarded_total", &self.proposals_forwarded),
            ("coxswain_store_watch_history_reads_total", &self.slow_reads),
            ("coxswain_store_snapshots_total", &self.snapshots),
        ];
        let gauges = [
            ("etcd_server_proposals_committed_total", &self.proposals_committed),
            ("etcd_server_proposals_applied_total", &self.proposals_applied),
            ("etcd_server_proposals_pending", &self.proposals_pending),
            ("etcd_debugging_mvcc_watcher_total", &self.watchers),
            ("etcd_disk_wal_write_bytes_total", &self.wal_written),
        ];
        for (name, count) in counters {
            let _ = writeln!(out, "# TYPE {name} counter\n{name} {}", count.get());
        }
        for (name, count) in gauges {
            let _ = writeln!(out, "# TYPE {name} gauge\n{name} {}", count.get());
        }
        for (name, d) in [
            ("etcd_disk_wal_fsync_duration_seconds", &self.wal_fsync),
            ("etcd_disk_backend_commit_duration_seconds", &self.backend_commit),
            ("etcd_debugging_snap_save_total_duration_seconds", &self.snapshot_save),
        ] {
            let _ = writeln!(out, "# TYPE {name} histogram");
            let mut total = 0;
            for (bound, bucket) in BOUNDS_US.iter().zip(&d.buckets) {
                total += bucket.get();
                let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {total}", *bound as f64 / 1e6);
            }
            let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", d.count.get());
            let _ =
                writeln!(out, "{name}_sum {}\n{name}_count {}", d.sum_us.get() as f64 / 1e6, d.count.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_cumulative_buckets() {
        let m = Metrics::default();
        m.wal_fsync.observe(Duration::from_micros(100));
        m.wal_fsync.observe(Duration::from_micros(300));
        m.wal_fsync.observe(Duration::from_secs(10));
        let mut out = String::new();
        m.render(&mut out);
        assert!(out.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.000125\"} 1\n"));
        assert!(out.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.0005\"} 2\n"));
        assert!(out.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"2.048\"} 2\n"));
        assert!(out.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 3\n"));
    }
}
