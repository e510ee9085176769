//! The last picture of the world, on disk: a restarted proxy serves from it with no controller at all.
//!
//! One file, replaced at once, with a checksum: magic, SHA-256 of the rest, when the picture was last known to be live,
//! the mark, and every accepted update as it came. A file that is not exactly that is ignored.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{Buf as _, Bytes};
use prost::Message as _;
use proto::discovery::{Progress, Update};
use tokio::time::Instant;

use super::Discovery;
use super::state::{ControlState, since_1970};

/// Saves the picture when it changes.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    discovery: Discovery,
    state: ControlState,
    updates: Vec<Bytes>,
    mark: Progress,
    saved_at: Option<Instant>,
    failing: bool,
}

/// Why there is no picture to begin with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged ({problem}); beginning without a picture")]
    Damaged { path: PathBuf, problem: &'static str },
}

impl Keeper {
    pub(crate) fn new(directory: &Path, discovery: Discovery, state: ControlState) -> Self {
        Self {
            path: directory.join(FILE),
            discovery,
            state,
            updates: Vec::new(),
            mark: Progress::default(),
            saved_at: None,
            failing: false,
        }
    }

    /// Takes over what an earlier process saved. Returns the number of values.
    pub(crate) fn restore(&self, now: SystemTime) -> Result<usize, PictureError> {
        let damaged = |problem| PictureError::Damaged { path: self.path.clone(), problem };
        let mut content = Vec::new();
        match File::open(&self.path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content)) {
            Ok(length) if length as u64 > LARGEST => return Err(damaged("it is too large")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(PictureError::Read { path: self.path.clone(), source }),
        }
        let Picture { live_at, mark, updates } = decode(content.into()).map_err(damaged)?;
        let age = now.duration_since(live_at).unwrap_or_default();
        self.state.restored(age, &mark);
        Ok(self.discovery.store().restore(&mark, updates))
    }

    /// Saves whenever something changed, at most once per [`EVERY`]. Never returns.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.save_if_due(Instant::now());
        }
    }

    fn save_if_due(&mut self, now: Instant) {
        let changed = self.discovery.store().take_unsaved();
        let refresh = self.saved_at.is_some_and(|at| now.duration_since(at) >= REFRESH);
        if let Some((mark, updates)) = changed {
            (self.mark, self.updates) = (mark, updates);
        } else if !refresh {
            return;
        }
        // Without values there is nothing a restart could use.
        if self.updates.is_empty() {
            return;
        }
        self.saved_at = Some(now);
        let content = encode(self.state.live_at(SystemTime::now()), &self.mark, &self.updates);
        let saved = identity::write_private(&self.path, &content, 0o600);
        if let (Err(error), false) = (&saved, self.failing) {
            tracing::warn!(path = %self.path.display(), %error, "cannot save the picture; a restart will need a controller");
        }
        self.failing = saved.is_err();
    }
}

struct Picture {
    live_at: SystemTime,
    mark: Progress,
    updates: Vec<Update>,
}

fn encode(live_at: SystemTime, mark: &Progress, updates: &[Bytes]) -> Vec<u8> {
    let mut body = since_1970(live_at).to_be_bytes().to_vec();
    let mut append = |message: &[u8]| {
        body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(message);
    };
    append(&mark.encode_to_vec());
    updates.iter().for_each(|update| append(update));
    let mut content = MAGIC.to_vec();
    content.extend(digest(&SHA256, &body).as_ref());
    content.extend(body);
    content
}

fn decode(mut content: Bytes) -> Result<Picture, &'static str> {
    if !content.starts_with(MAGIC) || content.len() < MAGIC.len() + CHECKSUM {
        return Err("it is of another version");
    }
    content.advance(MAGIC.len());
    let checksum = content.split_to(CHECKSUM);
    if digest(&SHA256, &content).as_ref() != checksum {
        return Err("its checksum is wrong");
    }
    let live_at = UNIX_EPOCH + Duration::from_millis(content.try_get_u64().map_err(|_| CUT)?);
    let mark = Progress::decode(next(&mut content)?).map_err(|_| CUT)?;
    let mut updates = Vec::new();
    while content.has_remaining() {
        updates.push(Update::decode(next(&mut content)?).map_err(|_| CUT)?);
    }
    Ok(Picture { live_at, mark, updates })
}

fn next(content: &mut Bytes) -> Result<Bytes, &'static str> {
    let length = usize::try_from(content.try_get_u32().map_err(|_| CUT)?).map_err(|_| CUT)?;
    if length > content.len() {
        return Err(CUT);
    }
    Ok(content.split_to(length))
}

const FILE: &str = "picture";
const MAGIC: &[u8] = b"mesh picture 1\n";
const CHECKSUM: usize = 32;
const CUT: &str = "it ends too early";
const LARGEST: u64 = 64 * 1024 * 1024;
const EVERY: Duration = Duration::from_secs(1);
/// How often the time at which the picture was live is brought up to date though no value changed.
const REFRESH: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Known;
    use crate::control::key::Key;
    use proto::discovery as wire;

    fn keeper(directory: &Path) -> Keeper {
        Keeper::new(directory, Discovery::default(), ControlState::new("spiffe://a/ns/b/sa/c"))
    }

    fn update() -> Update {
        let target = Some(wire::outbound::Target::Foreign(wire::Unit {}));
        Update {
            key: Some(Key::Outbound("10.0.0.1:80".parse().unwrap()).to_wire()),
            hash: vec![1; 16].into(),
            as_of: Some(Progress { positions: [("services".to_owned(), 7)].into() }),
            value: Some(wire::update::Value::Outbound(wire::Outbound { target })),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_finds_everything_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut before = keeper(directory.path());
        drop(before.discovery.outbound("10.0.0.1:80".parse().unwrap()));
        before.discovery.store().apply(update(), &Progress::default());
        before.save_if_due(Instant::now());

        let after = keeper(directory.path());
        assert_eq!(after.restore(SystemTime::now() + Duration::from_secs(100)).unwrap(), 1);
        let watch = after.discovery.outbound("10.0.0.1:80".parse().unwrap());
        assert!(matches!(watch.current(), Known::Value(_)));
        let (held, mark, _) = after.discovery.store().begin();
        assert_eq!(held[0].hash, vec![1; 16]);
        assert_eq!(mark.positions["services"], 7);
        assert!(after.state.discovery(&after.discovery).age_ms >= 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn damage_is_noticed_and_nothing_taken() {
        let directory = tempfile::tempdir().unwrap();
        let whole = encode(UNIX_EPOCH, &Progress::default(), &[update().encode_to_vec().into()]);
        for damaged in [&whole[..whole.len() - 1], &whole[..20], b"", b"mesh picture 2\n"] {
            std::fs::write(directory.path().join(FILE), damaged).unwrap();
            assert!(matches!(keeper(directory.path()).restore(UNIX_EPOCH), Err(PictureError::Damaged { .. })));
        }
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        std::fs::write(directory.path().join(FILE), flipped).unwrap();
        assert!(keeper(directory.path()).restore(UNIX_EPOCH).is_err());
        std::fs::write(directory.path().join(FILE), whole).unwrap();
        assert_eq!(keeper(directory.path()).restore(UNIX_EPOCH).unwrap(), 1);
    }
}
