//! Devices that have to be got ready before a pod can be bound (KEP-5007): the conditions that their driver or
//! another controller sets in the claim's status.

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::claims::allocation;

fn results(c: &api::ResourceClaim) -> impl Iterator<Item = &api::DeviceRequestAllocationResult> {
    let devices = allocation(c).and_then(|a| a.devices.as_ref());
    devices.into_iter().flat_map(|d| d.results.iter().flatten())
}

fn waits(r: &api::DeviceRequestAllocationResult) -> bool {
    r.binding_conditions.as_ref().is_some_and(|b| !b.is_empty())
}

/// Whether some device of the claim has conditions to wait for.
#[must_use]
pub fn has_conditions(c: &api::ResourceClaim) -> bool {
    results(c).any(waits)
}

fn conditions<'c>(
    c: &'c api::ResourceClaim,
    r: &api::DeviceRequestAllocationResult,
) -> Option<&'c [Condition]> {
    let mut devices = c.status.iter().flat_map(|s| s.devices.iter().flatten());
    let d = devices.find(|d| d.device == r.device && d.driver == r.driver && d.pool == r.pool)?;
    Some(d.conditions.as_deref().unwrap_or_default())
}

/// Whether all devices of an allocated claim are ready.
///
/// # Errors
/// A device says that it will not become ready: the text for the pod.
pub fn ready(c: &api::ResourceClaim) -> Result<bool, String> {
    if allocation(c).is_none() {
        return Ok(false);
    }
    for r in results(c).filter(|r| waits(r)) {
        let Some(known) = conditions(c, r) else { return Ok(false) };
        let is_true = |name: &String| known.iter().find(|x| x.type_ == *name && x.status == "True");
        if let Some(failed) = r.binding_failure_conditions.iter().flatten().find_map(is_true) {
            return Err(format!(
                "device binding failed: claim={}, reason={}, message={:?}",
                c.metadata.name.as_deref().unwrap_or(""),
                failed.reason,
                failed.message
            ));
        }
        if !r.binding_conditions.iter().flatten().all(|name| is_true(name).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether devices have had more than `timeout` to become ready. Times are in seconds, the present one since the epoch.
#[must_use]
pub fn timed_out(c: &api::ResourceClaim, now: i64, timeout: i64) -> bool {
    let Some(since) = allocation(c).and_then(|a| a.allocation_timestamp.as_ref()) else { return false };
    results(c).any(|r| r.binding_conditions.is_some()) && since.0.as_second().saturating_add(timeout) < now
}
