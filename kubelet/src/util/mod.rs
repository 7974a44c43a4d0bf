//! Small helpers shared by the kubelet's modules: quantities, timestamps, hashes, files.

pub mod file;
pub mod quantity;

pub use component_base::file_watch;
use jiff::Timestamp;

/// RFC 3339 with whole seconds, the form of `metav1.Time`.
pub fn rfc3339(ts: Timestamp) -> String {
    ts.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A CRI timestamp (nanoseconds since the epoch; 0 means unset).
pub fn from_nanos(nanos: i64) -> Option<Timestamp> {
    if nanos <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanos)).ok() }
}

/// FNV-1a, 32 bit: stable across builds, used for container hashes written into annotations.
pub fn fnv32a(data: &[u8]) -> u32 {
    data.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// Renders a list the way upstream prints Go slices in messages: `[a b]`.
pub fn go_list<S: AsRef<str>>(items: &[S]) -> String {
    let joined: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", joined.join(" "))
}
