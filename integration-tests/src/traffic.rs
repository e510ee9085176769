//! Clients and servers for the tests and the benchmark.
