//! An open loop: every request starts when its time has come, however the earlier ones fare.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::client::{Client, Prepared, Protocol};
use super::response::{Connection, Response};
use super::told_to_stop;

/// What to send, and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadOptions {
    /// `address:port` to connect to; several take turns.
    #[arg(long, required = true, value_delimiter = ',')]
    pub target: Vec<String>,
    /// Leaves out the targets that start so: the client itself, where the same options serve all peers. Waits until the names
    /// of the others mean something.
    #[arg(long)]
    pub except: Option<String>,
    /// What is spoken. For gRPC and Redis, `path` is what is sent, and there are no headers.
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// Host header.
    #[arg(long, default_value = "test")]
    pub host: String,
    /// Path of every request.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// More headers, each `name: value`.
    #[arg(long = "header")]
    pub headers: Vec<String>,
    /// Requests per second.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Out of 100 requests, how many open a connection of their own; the others keep theirs alive.
    #[arg(long, default_value_t = 20)]
    pub fresh: u32,
    /// Seconds to run; without it, until SIGTERM.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// When the seconds are over, reports and stays until SIGTERM: for a container that is not to be started again.
    #[arg(long)]
    pub stay: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests started.
    pub sent: u64,
    /// Requests answered with 200 in full.
    pub succeeded: u64,
    /// All others, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// Answers by the name of the server.
    pub served: BTreeMap<String, Served>,
    /// Connections opened.
    pub connections: u64,
    /// Median from the scheduled start to the end of the response, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, likewise.
    pub p99_us: u64,
    /// The longest, likewise.
    pub max_us: u64,
}

/// One server's share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Answers.
    pub count: u64,
    /// When the request of the first answer was sent, in milliseconds since 1970.
    pub first_ms: u64,
    /// When the request of the last answer was sent, in milliseconds since 1970.
    pub last_ms: u64,
}

impl LoadReport {
    /// Requests that did not end in a whole 200.
    pub fn failed(&self) -> u64 {
        self.sent - self.succeeded
    }
}

/// Runs until the time is over or SIGTERM, lets what is in flight finish, and reports.
pub async fn run(options: &LoadOptions) -> anyhow::Result<LoadReport> {
    if options.rate == 0 {
        bail!("--rate must be at least 1");
    }
    let state = Rc::new(State {
        protocol: options.protocol,
        targets: named_targets(options).await?,
        request: Prepared::new(options),
        idle: RefCell::default(),
        report: RefCell::default(),
        latencies: RefCell::default(),
    });
    let over = Duration::from_secs(options.seconds.unwrap_or(u64::MAX / 4));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            tokio::select! {
                _ = timeout(over, start_requests(&state, options)) => {}
                stopped = told_to_stop() => stopped?,
            }
            anyhow::Ok(())
        })
        .await?;
    tasks.await;
    let latencies = state.latencies.take();
    let mut report = state.report.take();
    summarize(&mut report, latencies);
    Ok(report)
}

/// One GET, and no second try: the length of its body. Anything but 200 is an error.
pub async fn get(target: &str, path: &str) -> anyhow::Result<usize> {
    let mut connection = timeout(PATIENCE, Connection::open(target)).await.context("not connected in time")??;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let response = timeout(PATIENCE, connection.exchange(request.as_bytes())).await.context("no answer in time")??;
    ensure!(response.status == 200, "{} {}", response.status, response.proxy_status);
    Ok(response.length)
}

/// Shared by the requests of one run, all on one thread.
#[derive(Debug)]
struct State {
    protocol: Protocol,
    targets: Vec<String>,
    request: Prepared,
    /// By target.
    idle: RefCell<BTreeMap<usize, Vec<Client>>>,
    report: RefCell<LoadReport>,
    latencies: RefCell<Vec<u64>>,
}

async fn start_requests(state: &Rc<State>, options: &LoadOptions) {
    let mut ticks = interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        let due = ticks.tick().await;
        // Spread evenly: 20 of 100 means every fifth.
        let share = u64::from(options.fresh);
        let fresh = (number + 1) * share / 100 != number * share / 100;
        tokio::task::spawn_local(one(state.clone(), due, number, fresh));
    }
}

async fn one(state: Rc<State>, due: Instant, number: u64, fresh: bool) {
    state.report.borrow_mut().sent += 1;
    let sent_ms = now_ms();
    let outcome = exchange(&state, number, fresh).await;
    let mut report = state.report.borrow_mut();
    match outcome {
        Ok(response) if response.status == 200 => {
            report.succeeded += 1;
            let first = Served { count: 0, first_ms: sent_ms, last_ms: sent_ms };
            let served = report.served.entry(response.served_by).or_insert(first);
            served.count += 1;
            served.first_ms = served.first_ms.min(sent_ms);
            served.last_ms = served.last_ms.max(sent_ms);
        }
        Ok(response) => {
            let what = format!("{} {}", response.status, response.proxy_status);
            *report.failures.entry(what).or_default() += 1;
        }
        Err(error) => *report.failures.entry(format!("{error:#}")).or_default() += 1,
    }
    let took = Instant::now().duration_since(due).as_micros();
    state.latencies.borrow_mut().push(u64::try_from(took).unwrap_or(u64::MAX));
}

async fn exchange(state: &State, number: u64, fresh: bool) -> anyhow::Result<Response> {
    let turn = usize::try_from(number % state.targets.len() as u64).expect("it was a usize before");
    let kept = if fresh { None } else { kept_alive(state, turn) };
    let reused = kept.is_some();
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            state.report.borrow_mut().connections += 1;
            let opened = timeout(PATIENCE, Client::open(state.protocol, &state.targets[turn])).await;
            opened.context("not connected in time")??
        }
    };
    let response = timeout(PATIENCE, connection.exchange(&state.request)).await.context("no answer in time");
    let response = response.and_then(|inner| inner).context(if reused {
        "on a kept connection"
    } else {
        "on a new connection"
    })?;
    if response.reusable && !fresh {
        state.idle.borrow_mut().entry(turn).or_default().push(connection);
    }
    Ok(response)
}

/// The connection used last among those that still stand.
fn kept_alive(state: &State, turn: usize) -> Option<Client> {
    let mut idle = state.idle.borrow_mut();
    while let Some(connection) = idle.get_mut(&turn)?.pop() {
        if connection.is_usable() {
            return Some(connection);
        }
    }
    None
}

/// The targets, once all their names mean something where that has to be waited for.
async fn named_targets(options: &LoadOptions) -> anyhow::Result<Vec<String>> {
    let Some(except) = &options.except else { return Ok(options.target.clone()) };
    let targets: Vec<String> =
        options.target.iter().filter(|target| !target.starts_with(except.as_str())).cloned().collect();
    ensure!(!targets.is_empty(), "--except {except} leaves no target");
    let named = async {
        for target in &targets {
            while tokio::net::lookup_host(target).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    timeout(Duration::from_secs(120), named).await.with_context(|| format!("{targets:?} are not all known"))?;
    Ok(targets)
}

fn summarize(report: &mut LoadReport, mut latencies: Vec<u64>) {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get((latencies.len() * percent / 100).min(latencies.len().max(1) - 1)).copied();
    report.p50_us = at(50).unwrap_or_default();
    report.p99_us = at(99).unwrap_or_default();
    report.max_us = at(100).unwrap_or_default();
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit for 500 million years")
}

const PATIENCE: Duration = Duration::from_secs(10);
