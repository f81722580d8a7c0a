//! Compiles `muster/v1/*.proto` with a compiler written in Rust, so that no `protoc` is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["common", "project", "session", "worker", "admin", "identity", "audit", "task"]
        .map(|name| format!("muster/v1/{name}.proto"));
    for proto in &protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(&protos, ["."])?;
    // compile_fds does not write the descriptor set, which gRPC reflection serves.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("muster.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false) // its `connect` constructor would collide with the RPC of that name
        .bytes(".muster.v1.OutputChunk.data")
        .bytes(".muster.v1.ReadOutputResponse.data")
        .bytes(".muster.v1.FetchBundleResponse.data")
        .bytes(".muster.v1.AnswerQueryRequest.data")
        .compile_fds(descriptors)?;
    Ok(())
}
