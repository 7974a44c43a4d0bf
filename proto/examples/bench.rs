//! Times the codec on one pod: `cargo run --release -p proto --example bench`.

use std::hint::black_box;
use std::time::Instant;

use proto::json::{self, Strictness};
use proto::{schema, wire};

const POD: &str = include_str!("../tests/data/pod.json");

fn time(name: &str, mut f: impl FnMut()) {
    for _ in 0..200 {
        f();
    }
    const N: u32 = 5000;
    let start = Instant::now();
    for _ in 0..N {
        f();
    }
    println!("{name:<32} {:>8.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(N));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let def = schema::by_gvk("", "v1", "Pod").ok_or("no Pod in the table")?;
    let value = json::decode(POD.as_bytes(), def, Strictness::Strict)?.value;
    let bytes = wire::to_proto(&value, def)?;
    let mut out = Vec::with_capacity(16 << 10);
    wire::proto_to_json(&bytes, def, "v1", "Pod", &mut out)?;
    println!("pod: {} bytes of protobuf, {} of JSON", bytes.len(), out.len());
    let text = out.clone();
    time("protobuf to JSON", || {
        out.clear();
        let _ = black_box(wire::proto_to_json(black_box(&bytes), def, "v1", "Pod", &mut out));
    });
    time("protobuf to value", || {
        let _ = black_box(wire::from_proto(black_box(&bytes), def));
    });
    time("value to protobuf", || {
        let _ = black_box(wire::to_proto(black_box(&value), def));
    });
    time("JSON to value, strict", || {
        let _ = black_box(json::decode(black_box(&text), def, Strictness::Strict));
    });
    time("JSON to value, serde_json", || {
        let _ = black_box(serde_json::from_slice::<serde_json::Value>(black_box(&text)));
    });
    time("metadata alone", || {
        let _ = black_box(wire::metadata(black_box(&bytes)));
    });
    time("set resourceVersion", || {
        let _ = black_box(wire::with_resource_version(black_box(&bytes), "123456"));
    });
    Ok(())
}
