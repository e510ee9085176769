//! proxy/policy
