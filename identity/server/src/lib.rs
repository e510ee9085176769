//! identity/server
