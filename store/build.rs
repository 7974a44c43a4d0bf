//! Generates the peers' protocol from `proto/peer.proto`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".coxswain.store.v1")
        .compile_protos(&["proto/peer.proto"], &["proto"])
}
