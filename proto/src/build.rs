//! Generates the gRPC messages with protox, so that nobody needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["mesh/v1/discovery.proto", "mesh/v1/identity.proto", "mesh/v1/preface.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // Maps are sorted so that equal values encode to equal bytes: discovery hashes them.
    tonic_prost_build::configure().btree_map(".").bytes(".").compile_fds(descriptors)?;
    Ok(())
}
