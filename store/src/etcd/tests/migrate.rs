//! Everything from an etcd into the embedded store and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{Client, GetOptions, PutOptions, TxnOp};

use super::server::Server;
use crate::embedded::offline::{Source, Target};
use crate::embedded::{Config as Embedded, Engine};
use crate::etcd::{Config, Etcd};
use crate::{RangeRequest, Store, StoreError, migrate};

fn registry() -> RangeRequest {
    RangeRequest { start: "/registry/".into(), end: "/registry0".into(), ..RangeRequest::default() }
}

/// Keys and bytes, as etcd has them.
async fn held(client: &mut Client) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let answer = client.get("/registry/", Some(GetOptions::new().with_prefix())).await.unwrap();
    answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_etcd_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(&dir.path().join("old"));
    let mut client = Client::connect([server.url()], None).await.unwrap();
    for i in 0..2500u32 {
        // Of all sizes, and bytes that are no text.
        let value: Vec<u8> = (0..i % 700).map(|b| (b * 7 + i) as u8).collect();
        client.put(format!("/registry/pods/ns{}/p{i}", i % 7), value, None).await.unwrap();
    }
    client.delete("/registry/pods/ns0/p7", None).await.unwrap();
    let two = [TxnOp::put("/registry/x/1", "one", None), TxnOp::put("/registry/x/2", "two", None)];
    client.txn(etcd_client::Txn::new().and_then(two)).await.unwrap();
    let lease = client.lease_grant(3600, None).await.unwrap().id();
    client.put("/registry/events/a/e", "soon", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.put("compact_rev_key", "7", None).await.unwrap();
    let before = held(&mut client).await;
    let revision = client.get("\0", None).await.unwrap().header().unwrap().revision() as u64;

    let target = Target { dir: dir.path().join("data"), group: None, token: String::new(), bump: 1_000_000 };
    let config = Config::new(vec![server.url()]);
    let nothing = Config { prefix: "/nowhere".into(), ..config.clone() };
    let why = migrate::from_etcd(nothing, target.clone(), &mut |_| {}).await.unwrap_err();
    assert!(why.to_string().contains("nothing below /nowhere"), "{why}");
    let (moved, made) = migrate::from_etcd(config, target.clone(), &mut |_| {}).await.unwrap();
    assert_eq!((moved.keys, moved.from), (before.len() as u64, revision));
    assert!(made.revision > revision + 1_000_000 - 1, "{made:?}");

    let engine = Engine::open(Embedded::new(&target.dir)).unwrap();
    let store: Arc<dyn Store> = engine.clone();
    let range = store.range(registry()).await.unwrap();
    let there: BTreeMap<Vec<u8>, Vec<u8>> =
        range.items.iter().map(|kv| (kv.key.clone().into_bytes(), kv.value.to_vec())).collect();
    assert!(there == before, "keys or bytes differ");
    for item in range.items.iter().filter(|kv| !kv.key.starts_with("/registry/x/")) {
        let answer = client.get(item.key.as_str(), None).await.unwrap();
        let kv = answer.kvs().first().unwrap();
        assert_eq!(
            (kv.mod_revision() as u64, kv.create_revision() as u64),
            (item.mod_revision, item.create_revision)
        );
        if item.mod_revision > 40 {
            break;
        }
    }
    let gone = store.watch("/registry/", "/registry0", revision).await.unwrap_err();
    assert!(matches!(gone, StoreError::Compacted { .. }), "{gone}");
    engine.close().await.unwrap();
    drop(store);
    tokio::task::block_in_place(|| drop(engine));

    // Back: into another, empty one, which must not be filled twice. Few revisions lie between, as few fit in a test.
    let small = Target { dir: dir.path().join("small"), bump: 10, ..target };
    migrate::from_etcd(Config::new(vec![server.url()]), small.clone(), &mut |_| {}).await.unwrap();
    let new = Server::alone(&dir.path().join("new"));
    let config = Config::new(vec![new.url()]);
    let source = Source::Directory(small.dir);
    std::fs::create_dir(dir.path().join("scratch")).unwrap();
    let scratch = dir.path().join("scratch");
    // On one thread, as the command line has it.
    let moved = tokio::task::spawn_blocking({
        let (source, scratch, config) = (source.clone(), scratch.clone(), config.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(migrate::to_etcd(&source, &scratch, config, &mut |_| {}))
        }
    });
    let moved = moved.await.unwrap().unwrap();
    assert_eq!(moved.keys, before.len() as u64);
    let mut other = Client::connect([new.url()], None).await.unwrap();
    assert!(held(&mut other).await == before, "keys or bytes differ");
    let e = other.get("/registry/events/a/e", None).await.unwrap();
    let kv = e.kvs().first().unwrap();
    assert!(kv.mod_revision() as u64 > revision, "an object came back at an old revision");
    let left = other.lease_time_to_live(kv.lease(), None).await.unwrap().ttl();
    assert!((3000..=3600).contains(&left), "{left}");
    assert!(other.get("coxswain_migration", None).await.unwrap().kvs().is_empty());
    let again = migrate::to_etcd(&source, &scratch, config.clone(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(&again, StoreError::Refused(w) if w.contains("holds /registry/")), "{again}");

    // Who watched the old store is told to list anew.
    let etcd = Etcd::connect(config).await.unwrap();
    let gone = match etcd.watch("/registry/", "/registry0", revision).await {
        Err(e) => e,
        Ok(mut w) => w.recv().await.unwrap().unwrap_err(),
    };
    assert!(matches!(gone, StoreError::Compacted { .. }), "{gone}");
}
