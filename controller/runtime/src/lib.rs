//! controller/runtime
