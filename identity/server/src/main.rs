//! identity/server
fn main() {}
