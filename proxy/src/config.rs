//! [`Config`]: what the proxy starts from, read once and strictly from one environment variable.

use proto::Bootstrap;
use proto::bootstrap::BootstrapError;
use proto::names;

/// The bootstrap in force, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As the injector, the demo or a test wrote it.
    pub bootstrap: Bootstrap,
    /// Own SPIFFE id.
    pub id: String,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody wrote it.
    #[error(
        "the environment variable {} is not set; the injector and meshctl demo write it",
        names::BOOTSTRAP_VARIABLE
    )]
    Missing,
    /// It was written wrongly.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

impl Config {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        let json = std::env::var(names::BOOTSTRAP_VARIABLE).map_err(|_| ConfigError::Missing)?;
        Ok(Self::new(Bootstrap::parse(&json)?))
    }

    /// From a bootstrap that was checked.
    pub fn new(bootstrap: Bootstrap) -> Self {
        Self { id: bootstrap.workload_id(), bootstrap }
    }
}
