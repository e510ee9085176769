//! Sockets and streams: everything that knows bytes and addresses, and nothing about protocols.

pub mod copy;
pub mod keepalive;
pub mod listen;
pub mod orig_dst;
pub mod orphans;
pub mod pacing;
pub mod prefixed;
pub mod read_ahead;
