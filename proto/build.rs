//! Compiles the `.proto` files with protox, so that no `protoc` is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in ["ledger.proto", "cluster.proto", "admin.proto"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut plain = prost_build::Config::new();
    plain.bytes(["."]);
    plain.compile_fds(protox::compile(["ledger.proto"], ["."])?)?;
    if std::env::var_os("CARGO_FEATURE_SERVICES").is_some() {
        tonic_prost_build::configure()
            .bytes(".")
            .extern_path(".holdfast.ledger.v1", "crate::ledger")
            .compile_fds(protox::compile(["cluster.proto", "admin.proto"], ["."])?)?;
    }
    Ok(())
}
