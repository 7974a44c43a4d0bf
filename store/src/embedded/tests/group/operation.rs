//! Operation of a running group: members come and go, snapshots are saved.

use std::time::Duration;

use super::Group;
use crate::conformance::put;
use crate::embedded::{Engine, GroupConfig};
use crate::{Operation, Store, StoreError};

impl Group {
    fn operation(&self, name: &str) -> std::sync::Arc<dyn Operation> {
        self.engines[name].operation().unwrap()
    }

    /// An address for one more member.
    fn extend(&mut self, name: &str) -> String {
        let (rest, port) = self.addresses["m0"].rsplit_once(':').unwrap();
        let (net, _) = rest.rsplit_once('.').unwrap();
        let address = format!("{net}.{}:{port}", self.addresses.len() + 100);
        self.addresses.insert(name.to_owned(), address.clone());
        address
    }

    pub(super) fn config(&self, name: &str, join: bool) -> GroupConfig {
        GroupConfig {
            name: name.to_owned(),
            listen: self.addresses[name].parse().unwrap(),
            initial: self.addresses.clone(),
            join,
            tls: None,
            snapshot_rate: 1 << 30,
        }
    }

    async fn opened(&self, name: &str, join: bool) -> Result<std::sync::Arc<Engine>, StoreError> {
        let config = crate::embedded::Config::new(self.dir.join(name));
        Engine::open_group(config, self.config(name, join)).await
    }
}

fn refused<T>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(StoreError::Refused(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was allowed"),
    }
}

async fn promoted(group: &Group, at: &str, name: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match group.operation(at).promote(name).await {
            Ok(members) => {
                assert!(members.iter().any(|m| m.name == name && !m.learner), "{members:?}");
                return;
            }
            Err(StoreError::Refused(why)) if why.contains("nearly in step") => {
                assert!(std::time::Instant::now() < deadline, "{why}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// `forget`: the log is gone when the new member comes, so that it gets a snapshot.
async fn a_member_comes_leads_and_goes(forget: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    let follower = group.engines.keys().find(|n| **n != leader).unwrap().clone();
    let mut revision = put(&group.store(&leader), "/r/a", "1", 0).await;
    if forget {
        let filler = "x".repeat(50_000);
        for _ in 0..20 {
            revision = put(&group.store(&leader), "/r/a", &filler, revision).await;
        }
        group.operation(&leader).snapshot().await.unwrap();
    }

    let address = group.extend("m9");
    let stranger = group.opened("m9", true).await.map(|_| ()).unwrap_err().to_string();
    assert!(stranger.contains("ctl store add m9"), "{stranger}");
    // At a follower: the leader makes the change.
    let members = group.operation(&follower).add("m9", &address).await.unwrap();
    assert!(members.iter().any(|m| m.name == "m9" && m.learner), "{members:?}");
    assert!(refused(group.operation(&leader).add("m9", "10.0.0.9:2380").await).contains("is there already"));
    assert!(refused(group.operation(&leader).add("m8", &address).await).contains("is there already"));
    assert!(refused(group.operation(&leader).add("m/8", "10.0.0.9:2380").await).contains("no name"));
    assert!(refused(group.operation(&leader).add("m8", "10.0.0.9").await).contains("HOST:PORT"));
    assert!(refused(group.operation(&leader).transfer_leader("m9").await).contains("promote it first"));

    group.start("m9", true).await;
    group.engines["m9"].ready().await.unwrap();
    assert_eq!(group.store("m9").get("/r/a", 0).await.unwrap().unwrap().mod_revision, revision);
    promoted(&group, &follower, "m9").await;
    group.operation(&follower).transfer_leader("m9").await.unwrap();
    assert!(group.engines["m9"].proposer.leader.borrow().is_me);
    let revision = put(&group.store(&follower), "/r/b", "1", 0).await;

    // The new one knows all others, also after a restart.
    group.kill("m9");
    group.start("m9", true).await;
    group.engines["m9"].ready().await.unwrap();
    let status = group.operation("m9").status().await.unwrap();
    assert_eq!(status.len(), 4);
    for m in &status {
        let s = m.status.as_ref().unwrap_or_else(|e| panic!("{}: {e}", m.member.name));
        assert!(s.revision >= revision && s.leader != 0, "{m:?}");
    }

    let mut text = String::new();
    group.engines["m9"].render_metrics(&mut text);
    let sent = text.lines().filter(|l| l.starts_with("etcd_network_peer_sent_bytes_total{To="));
    assert_eq!(sent.count(), 3, "{text}");
    assert!(text.contains("etcd_server_is_learner 0\n"), "{text}");

    // The one that led first goes; asked at itself.
    group.operation(&leader).transfer_leader(&leader).await.unwrap();
    let members = group.operation(&leader).remove(&leader).await.unwrap();
    assert!(members.len() == 3 && members.iter().all(|m| m.name != leader), "{members:?}");
    put(&group.store("m9"), "/r/c", "1", 0).await;
    let left = group.operation("m9").members().await.unwrap();
    assert!(left.len() == 3 && left.iter().all(|m| m.name != leader), "{left:?}");
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while group.engines[&leader].health().is_ok()
            || !group.engines[&leader].health().unwrap_err().to_string().contains("was removed")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.expect("a member that was removed says so");

    // It does not come back: not with what it had, not under its name.
    group.kill(&leader);
    let back = group.opened(&leader, false).await.unwrap();
    let why = back.ready().await.unwrap_err().to_string();
    assert!(why.contains("was removed from the store"), "{why}");
    tokio::task::block_in_place(|| drop(back));
    std::fs::remove_dir_all(dir.path().join(&leader)).unwrap();
    let why = group.opened(&leader, true).await.map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("a name is used once"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    a_member_comes_leads_and_goes(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_starts_from_a_snapshot() {
    a_member_comes_leads_and_goes(true).await;
}

/// One that was away while it was removed hears of it from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removed_in_its_absence_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    let away = group.engines.keys().find(|n| **n != leader).unwrap().clone();
    group.kill(&away);
    let members = group.operation(&leader).remove(&away).await.unwrap();
    assert_eq!(members.len(), 2);
    group.start(&away, false).await;
    let ready = group.engines[&away].ready();
    let why = tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap().unwrap_err().to_string();
    assert!(why.contains("was removed from the store"), "{why}");
    put(&group.store(&leader), "/r/a", "1", 0).await;
}

/// A removal that would leave no majority is refused; one of a member that is gone is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_leave_a_majority() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    let mut others = group.engines.keys().filter(|n| **n != leader).cloned().collect::<Vec<_>>();
    let (stays, dies) = (others.pop().unwrap(), others.pop().unwrap());
    group.kill(&dies);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let why = refused(group.operation(&leader).remove(&stays).await);
    assert!(why.contains("start the others first"), "{why}");
    group.operation(&stays).remove(&dies).await.unwrap();
    let status = group.operation(&leader).status().await.unwrap();
    assert!(status.len() == 2 && status.iter().all(|m| m.status.is_ok()), "{status:?}");
    let status = group.operation(&leader).remove("nobody").await;
    assert!(refused(status).contains("no member"));
}

/// A snapshot is what a store restores from, and holds what was acknowledged before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_saved_at_any_member() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    let follower = group.engines.keys().find(|n| **n != leader).unwrap().clone();
    let revision = put(&group.store(&leader), "/r/a", &"x".repeat(100_000), 0).await;
    let (one, two) = tokio::join!(async { group.operation(&follower).snapshot().await.unwrap() }, async {
        group.operation(&follower).snapshot().await.unwrap()
    });
    for saved in [one, two] {
        assert_eq!(saved.revision(), revision);
        let mut bytes = 0;
        loop {
            let piece = saved.read(bytes, 4096).unwrap();
            if piece.is_empty() {
                break;
            }
            bytes += piece.len() as u64;
        }
        assert!(bytes == saved.size() && bytes > 100_000);
    }
}

/// A store that stands alone says what to do before others can join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_alone_grows() {
    let dir = tempfile::tempdir().unwrap();
    let mut group =
        Group { dir: dir.path().to_owned(), addresses: super::addresses(1), engines: Default::default() };
    let config = crate::embedded::Config::new(dir.path().join("m0"));
    let alone = Engine::open(config).unwrap();
    let operation = alone.operation().unwrap();
    assert!(refused(operation.add("m1", "127.0.0.1:2380").await).contains("--store-initial-cluster"));
    let status = operation.status().await.unwrap();
    assert!(
        status.len() == 1 && status[0].status.as_ref().unwrap().leader == status[0].member.id,
        "{status:?}"
    );
    let store: std::sync::Arc<dyn Store> = alone.clone();
    put(&store, "/r/a", "1", 0).await;
    alone.close().await.unwrap();
    drop((store, operation));
    tokio::task::block_in_place(|| drop(alone));

    group.start("m0", false).await;
    group.engines["m0"].ready().await.unwrap();
    let address = group.extend("m1");
    group.operation("m0").add("m1", &address).await.unwrap();
    group.start("m1", true).await;
    group.engines["m1"].ready().await.unwrap();
    promoted(&group, "m1", "m1").await;
    group.operation("m0").transfer_leader("m1").await.unwrap();
    assert!(group.store("m1").get("/r/a", 0).await.unwrap().is_some());
    // By number, where names are not known.
    let first = group.operation("m1").members().await.unwrap().into_iter().find(|m| m.id == 1).unwrap();
    assert_eq!(first.name, "m0");
    group.operation("m1").remove(&format!("{:016x}", first.id)).await.unwrap();
    put(&group.store("m1"), "/r/b", "1", 0).await;
}
