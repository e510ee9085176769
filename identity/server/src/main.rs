//! `mesh-identity`: the certificate authority, and the small command that writes join tokens.

use clap::Parser;
use identity_server::args::Args;

fn main() -> anyhow::Result<()> {
    Args::parse().run()
}
