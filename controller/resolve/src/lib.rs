//! controller/resolve
