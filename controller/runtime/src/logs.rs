//! Logs: to standard error, one line per event.

use tracing_subscriber::EnvFilter;

/// The flags every control-plane program has for its logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What is logged: a level, or levels by module, such as info,controller=debug
    #[arg(long, env = "MESH_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "MESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl LogArgs {
    /// Starts logging; call once, first thing.
    pub fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| {
            anyhow::anyhow!("--log {:?} is not a filter such as info,controller=debug: {error}", self.log)
        })?;
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        let started = match self.log_format {
            LogFormat::Text => logs.try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
    }
}
