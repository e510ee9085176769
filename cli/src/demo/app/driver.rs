//! Makes requests at an even rate and counts how they end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::{App, REPORT, write_file};

/// How requests have ended so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// With 200.
    pub(crate) succeeded: u64,
    /// With anything else, or without a response.
    pub(crate) failed: u64,
    /// Not made, because too many were still under way.
    pub(crate) skipped: u64,
    /// How the last one failed.
    pub(crate) last_failure: Option<String>,
}

/// Makes requests for ever.
pub(super) async fn drive(app: Arc<App>) -> anyhow::Result<()> {
    let report = Arc::new(Mutex::new(Report::default()));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tick = interval(Duration::from_secs(1) / app.spec.rps);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut write = interval(REPORT_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let Ok(place) = room.clone().try_acquire_owned() else {
                    report.lock().skipped += 1;
                    continue;
                };
                let (app, report) = (app.clone(), report.clone());
                tokio::spawn(async move {
                    let result = app.call_all("/").await;
                    let mut report = report.lock();
                    match result {
                        Ok(()) => report.succeeded += 1,
                        Err(problem) => {
                            report.failed += 1;
                            report.last_failure = Some(problem);
                        }
                    }
                    drop(place);
                });
            }
            _ = write.tick() => {
                let text = serde_json::to_vec(&*report.lock())?;
                write_file(&app.spec.directory, REPORT, &text)?;
            }
        }
    }
}

const AT_ONCE: usize = 256;
const REPORT_EVERY: Duration = Duration::from_millis(200);
