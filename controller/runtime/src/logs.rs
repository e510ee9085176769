//! Logs to standard error: one filter, as text for people or JSON for collectors.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Flags that every control-plane program has; flatten them into its own.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What to log: a level, or levels per part, such as `info,controller=debug`.
    #[arg(long, env = "MESH_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How to log.
    #[arg(long, env = "MESH_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging can't start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be parsed.
    #[error("--log {filter:?} is not a log filter: {cause}; write a level such as info, or info,controller=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        cause: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else is already logging in this process.
    #[error("logging has already been started")]
    AlreadyStarted,
}

impl LogArgs {
    /// Starts logging for the whole process.
    pub fn start(&self) -> Result<(), LogError> {
        // The client logs each failed call, as an error, without saying which; whoever made the call says more.
        let filter = if self.log.contains("kube") { self.log.clone() } else { format!("{},{QUIET}", self.log) };
        let filter =
            EnvFilter::builder().parse(filter).map_err(|cause| LogError::Filter { filter: self.log.clone(), cause })?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
        };
        started.map_err(|_| LogError::AlreadyStarted)
    }
}

const QUIET: &str = "kube_client::client::builder=off";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_says_what_a_good_one_is() {
        let args = LogArgs { log: "info,x=loud".to_owned(), log_format: LogFormat::Text };
        let message = args.start().unwrap_err().to_string();
        assert!(message.contains("x=loud") && message.contains("info,controller=debug"), "{message}");
    }
}
