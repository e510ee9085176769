//! The program's log: text on standard error, with a filter that can be changed while it runs.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

/// Changes the filter of the running log. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct LogControl {
    current: Arc<Mutex<String>>,
    handle: Option<reload::Handle<Targets, Registry>>,
}

/// The filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a filter.
    #[error("{filter:?} is not a log filter ({problem}); write for example info, or warn,proxy=debug")]
    Malformed {
        /// What was given.
        filter: String,
        /// Why it is none.
        problem: String,
    },
    /// The log was set up by someone else.
    #[error("the log of this process cannot be changed")]
    Fixed,
}

/// Starts the log with a filter such as `info` or `warn,proxy=debug`.
pub fn init(filter: &str) -> Result<LogControl, LogError> {
    let targets = parse(filter)?;
    let (layer, handle) = reload::Layer::new(targets);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(true);
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(|_| LogError::Fixed)?;
    Ok(LogControl { current: Arc::new(Mutex::new(filter.trim().to_owned())), handle: Some(handle) })
}

impl LogControl {
    /// A control with no log behind it, for programs that set up their own.
    pub fn fixed(filter: &str) -> Self {
        Self { current: Arc::new(Mutex::new(filter.to_owned())), handle: None }
    }

    /// The filter in force.
    pub fn current(&self) -> String {
        self.current.lock().clone()
    }

    /// Puts another filter in force.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let targets = parse(filter)?;
        let handle = self.handle.as_ref().ok_or(LogError::Fixed)?;
        handle.reload(targets).map_err(|_| LogError::Fixed)?;
        filter.trim().clone_into(&mut self.current.lock());
        Ok(())
    }
}

fn parse(filter: &str) -> Result<Targets, LogError> {
    let malformed =
        |problem: String| LogError::Malformed { filter: filter.chars().take(100).collect::<String>(), problem };
    if filter.trim().is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    // A bare word is either a level or a target; `inof` would silently become a target that switches everything off.
    for part in filter.trim().split(',') {
        let level = !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        if !level && !part.contains('=') {
            return Err(malformed(format!("{part:?} is no level")));
        }
    }
    filter.trim().parse().map_err(|error: tracing_subscriber::filter::ParseError| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_is_not_a_target() {
        for good in ["info", "off", "warn,proxy=debug", "proxy::http=trace,info"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,,", "proxy=loud"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
