//! The Lease by which this server says that it is alive: one per server in `kube-system`, renewed while the server
//! runs and taken away at its end. Leases of servers that ended without doing so are collected when they have expired.
//!
//! Source: KEP-1965 "kube-apiserver identity".

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::lookup::{LEASES, ObjectWriter, text};
use crate::status::ApiResult;

const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
/// How long a lease that is not renewed holds.
const DURATION: Duration = Duration::from_secs(3600);
const RENEW: Duration = Duration::from_secs(10);
/// How often expired leases are looked for: nothing but the clock makes a lease expire.
const COLLECT: Duration = Duration::from_secs(3600);

/// Who this server is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the lease: the same on every start of this machine's server.
    pub id: String,
    /// This very process.
    holder: String,
    hostname: String,
}

impl Identity {
    /// The server on the machine of that name.
    pub fn of(hostname: &str) -> Self {
        let digest = Sha256::digest(hostname);
        let id = format!("apiserver-{}", base32(&digest[..16]));
        let holder = format!("{id}_{}", uuid::Uuid::new_v4());
        Self { id, holder, hostname: hostname.to_owned() }
    }

    /// The server on this machine.
    ///
    /// # Errors
    /// The machine's name cannot be read.
    pub fn of_this_machine() -> std::io::Result<Self> {
        let name = nix::unistd::gethostname().map_err(std::io::Error::from)?;
        Ok(Self::of(&name.to_string_lossy()))
    }

    fn lease(&self, now: &str) -> Value {
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.id, "namespace": NAMESPACE},
            "spec": {},
        });
        self.hold(&mut lease, now);
        lease
    }

    /// Makes a lease ours, renewed at `now`.
    fn hold(&self, lease: &mut Value, now: &str) {
        lease["metadata"]["labels"][LABEL] = COMPONENT.into();
        lease["metadata"]["labels"]["kubernetes.io/hostname"] = self.hostname.as_str().into();
        lease["spec"]["holderIdentity"] = self.holder.as_str().into();
        lease["spec"]["leaseDurationSeconds"] = DURATION.as_secs().into();
        lease["spec"]["renewTime"] = now.into();
    }

    /// Writes the lease anew; with `known`, as it was last seen, that is one write.
    async fn renew(&self, writer: &dyn ObjectWriter, known: Option<Value>) -> ApiResult<Value> {
        let now = micro_time(jiff::Timestamp::now());
        if let Some(mut lease) = known {
            self.hold(&mut lease, &now);
            match writer.update(LEASES, NAMESPACE, lease).await {
                Err(e) if e.reason == "Conflict" || e.reason == "NotFound" => {}
                done => return done,
            }
        }
        match writer.get(LEASES, NAMESPACE, &self.id).await? {
            Some(found) => {
                let mut lease = (*found).clone();
                self.hold(&mut lease, &now);
                writer.update(LEASES, NAMESPACE, lease).await
            }
            None => writer.create(LEASES, NAMESPACE, self.lease(&now)).await,
        }
    }

    /// Keeps the lease, and collects those of others, until `stop`.
    pub fn keep(&self, writer: Arc<dyn ObjectWriter>, stop: CancellationToken) {
        let identity = self.clone();
        tokio::spawn(async move {
            // What an earlier process left is not carried on: its lease would show the wrong start.
            identity.withdraw(&*writer).await;
            let mut known = None;
            let mut renew = tokio::time::interval(RENEW);
            let mut collect = tokio::time::interval(COLLECT);
            renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = renew.tick() => match identity.renew(&*writer, known.take()).await {
                        Ok(lease) => known = Some(lease),
                        Err(e) => tracing::warn!(error = %e, lease = identity.id, "this server's lease could not be renewed"),
                    },
                    _ = collect.tick() => if let Err(e) = collect_expired(&*writer, jiff::Timestamp::now()).await {
                        tracing::warn!(error = %e, "expired leases of servers could not be collected");
                    },
                }
            }
        });
    }

    /// Takes the lease away: this server ends.
    pub async fn withdraw(&self, writer: &dyn ObjectWriter) {
        match writer.delete(LEASES, NAMESPACE, &self.id, None).await {
            Err(e) if e.reason != "NotFound" => {
                tracing::warn!(error = %e, lease = self.id, "this server's lease could not be deleted");
            }
            _ => {}
        }
    }
}

/// Whether a server's lease says that the server is gone. One without times was not written by a server.
fn expired(lease: &Value, now: jiff::Timestamp) -> bool {
    let renewed = text(lease, "/spec/renewTime").parse::<jiff::Timestamp>();
    let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64);
    let (Ok(renewed), Some(seconds)) = (renewed, seconds) else { return true };
    renewed.checked_add(jiff::SignedDuration::from_secs(seconds)).is_ok_and(|end| end < now)
}

async fn collect_expired(writer: &dyn ObjectWriter, now: jiff::Timestamp) -> ApiResult<()> {
    for lease in writer.list(LEASES, NAMESPACE).await? {
        let component = lease.pointer("/metadata/labels").and_then(|l| l.get(LABEL)).and_then(Value::as_str);
        if component != Some(COMPONENT) || !expired(&lease, now) {
            continue;
        }
        let name = text(&lease, "/metadata/name");
        match writer.delete(LEASES, NAMESPACE, name, Some(text(&lease, "/metadata/uid"))).await {
            // Another server was faster, or its owner is back.
            Err(e) if e.reason != "NotFound" && e.reason != "Conflict" => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn micro_time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// RFC 4648 base 32 in lower case, without padding: what names of objects may hold.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut out = String::new();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for b in bytes {
        buffer = (buffer << 8) | u32::from(*b);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[((buffer >> bits) & 31) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[((buffer << (5 - bits)) & 31) as usize]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ObjectLookup as _;
    use crate::lookup::testing::Objects;

    #[test]
    fn names_are_stable() {
        // RFC 4648, section 10.
        assert_eq!([base32(b"f"), base32(b"foobar")], ["my", "mzxw6ytboi"]);
        let (a, b) = (Identity::of("node-1"), Identity::of("node-1"));
        assert_eq!(a.id, b.id);
        assert_ne!(a.holder, b.holder);
        assert_eq!(a.id.len(), "apiserver-".len() + 26);
    }

    #[tokio::test]
    async fn renewed_by_whoever_runs() {
        let store = Objects::default();
        let me = Identity::of("node-1");
        let first = me.renew(&store, None).await.unwrap();
        assert_eq!(first["metadata"]["labels"][LABEL], "kube-apiserver");
        assert_eq!(first["metadata"]["labels"]["kubernetes.io/hostname"], "node-1");
        let second = me.renew(&store, Some(first.clone())).await.unwrap();
        // Somebody else wrote meanwhile: what is there is taken over.
        let third = me.renew(&store, Some(first)).await.unwrap();
        assert_ne!(second["metadata"]["resourceVersion"], third["metadata"]["resourceVersion"]);
        me.withdraw(&store).await;
        assert!(store.names(LEASES).is_empty());
        assert!(me.renew(&store, Some(third)).await.is_ok(), "deleted meanwhile");
    }

    #[tokio::test]
    async fn expired_leases_of_servers_go() {
        let lease = |name: &str, component: &str, spec: Value| {
            let labels = json!({LABEL: component});
            (
                LEASES,
                json!({"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "spec": spec}),
            )
        };
        let held = |at: &str| json!({"renewTime": at, "leaseDurationSeconds": 3600});
        let store = Objects::with([
            lease("gone", COMPONENT, held("2026-01-01T00:00:00.000000Z")),
            lease("alive", COMPONENT, held("2026-01-01T11:30:00.000000Z")),
            lease("broken", COMPONENT, json!({})),
            lease("other", "somebody", held("2026-01-01T00:00:00.000000Z")),
        ]);
        collect_expired(&store, "2026-01-01T12:00:00Z".parse().unwrap()).await.unwrap();
        assert_eq!(store.names(LEASES), ["alive", "other"]);
        assert!(store.get(LEASES, NAMESPACE, "gone").await.unwrap().is_none());
    }
}
