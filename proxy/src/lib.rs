//! proxy

pub mod http;
