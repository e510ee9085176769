//! The directory source: manifests in one directory, read again when they change.
//!
//! Files are found by polling, which works on every file system. A change is read at once where it was made by renaming a
//! whole file into place or by removing one, else after 200 ms of quiet, and after 1 s at the latest. What is published is
//! always all of the directory as of one position: the newest time of modification of the directory or a file in it, in
//! nanoseconds. Replicas that read the same directory are thereby comparable. (A directory restored with older times puts
//! every replica behind what proxies have seen: `touch` it.)
//!
//! Only regular files directly in the directory count, with names in `.yaml`, `.yml` or `.json` that don't begin with a
//! dot. A file that can't be used keeps its last good content in force. A controller that finds such a file when it starts
//! publishes nothing until it is mended: it can't know what the file said before, and proxies keep what they have.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use controller_runtime::health::Readiness;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::progress::Progress;

pub mod picture;

use picture::{FileError, Picture};

/// Why the directory can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there, or not readable.
    #[error("cannot read the directory {directory}: {cause}")]
    List {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Far too many files.
    #[error("{directory} holds more than {MAX_FILES} manifests")]
    TooManyFiles {
        /// The directory.
        directory: PathBuf,
    },
}

/// Reads a directory's changes.
#[derive(Debug)]
pub struct DirectoryReader {
    directory: PathBuf,
    /// What was there when the picture was made.
    read: Option<Listing>,
    /// What was there at the last look, and when it changed first and last since the picture was made.
    seen: Option<Listing>,
    changed: Option<(Instant, Instant)>,
    picture: Picture,
    position: u64,
    /// When the first change of the newest picture was seen.
    heard: Option<Instant>,
}

/// Files by name, and the newest time of modification.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listing {
    files: BTreeMap<String, Stamp>,
    position: u64,
}

/// What tells that a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: u64,
    size: u64,
}

/// What a look at the directory brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new, or not quiet yet.
    Unchanged,
    /// The picture is new. What is broken and was not so before:
    Changed(Vec<FileError>),
}

impl DirectoryReader {
    /// A reader that has not read anything yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            read: None,
            seen: None,
            changed: None,
            picture: Picture::default(),
            position: 0,
            heard: None,
        }
    }

    /// Looks for changes, and reads them if it is time.
    pub fn look(&mut self, now: Instant) -> Result<Look, DirectoryError> {
        let listing = list(&self.directory)?;
        if self.read.as_ref() == Some(&listing) {
            (self.seen, self.changed) = (None, None);
            return Ok(Look::Unchanged);
        }
        if self.seen.as_ref() != Some(&listing) {
            let first = self.changed.map_or(now, |(first, _)| first);
            self.changed = Some((first, now));
            self.seen = Some(listing.clone());
        }
        let (first, last) = self.changed.expect("set whenever something differs");
        let whole = self.read.as_ref().is_none_or(|read| listing.only_whole_files_since(read));
        if !whole && now - last < QUIET && now - first < PATIENCE {
            return Ok(Look::Unchanged);
        }
        self.heard = Some(first);
        self.read_all(listing, now - first < PATIENCE)
    }

    /// Reads what is there now, quiet or not: for tools that look once.
    pub fn look_at_once(&mut self) -> Result<Look, DirectoryError> {
        let listing = list(&self.directory)?;
        self.read_all(listing, false)
    }

    fn read_all(&mut self, listing: Listing, wait_for_quiet: bool) -> Result<Look, DirectoryError> {
        let texts = self.texts(&listing);
        // What changed while it was read is read again at the next look, all of it or not at all.
        if wait_for_quiet && list(&self.directory)? != listing {
            return Ok(Look::Unchanged);
        }
        let removed = self.picture.files().filter(|name| !listing.files.contains_key(*name)).map(str::to_owned);
        let removed = removed.collect::<Vec<_>>();
        let errors = self.picture.update(texts, &removed);
        self.position = self.position.max(listing.position);
        (self.read, self.seen, self.changed) = (Some(listing), None, None);
        Ok(Look::Changed(errors))
    }

    /// What was read.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// How far.
    pub fn progress(&self) -> Progress {
        Progress::of(WATCH, self.position)
    }

    fn texts(&self, listing: &Listing) -> BTreeMap<String, Result<String, String>> {
        let before = self.read.as_ref();
        let changed = listing
            .files
            .iter()
            .filter(|(name, stamp)| before.and_then(|before| before.files.get(*name)) != Some(*stamp));
        changed.map(|(name, _)| (name.clone(), read(&self.directory.join(name)))).collect()
    }
}

impl Listing {
    /// Whether every difference came about at once: a file renamed over another, or removed.
    fn only_whole_files_since(&self, before: &Self) -> bool {
        self.files.iter().all(|(name, stamp)| {
            before.files.get(name).is_some_and(|before| before == stamp || before.inode != stamp.inode)
        })
    }
}

/// Follows the directory until the process ends.
pub async fn follow(mut reader: DirectoryReader, hub: Hub, readiness: Readiness, metrics: Metrics) {
    let mut published = false;
    let mut failing = false;
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    readiness.wait_for(CONDITION, "the directory has not been read yet");
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            let look = reader.look(now);
            (reader, look)
        });
        let look;
        (reader, look) = looked.await.expect("reading does not panic");
        metrics.source_age.set(hub.age(now).as_secs_f64());
        match look {
            Ok(look) => {
                hub.live(now);
                failing = false;
                if let Look::Changed(errors) = look {
                    published |= publish(&reader, &errors, published, &hub, &metrics);
                    report(&reader, published, &readiness);
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "keeping what was read before");
            }
            Err(_) => {}
        }
    }
}

fn publish(reader: &DirectoryReader, errors: &[FileError], published: bool, hub: &Hub, metrics: &Metrics) -> bool {
    let picture = reader.picture();
    for error in errors {
        tracing::error!(%error, "the file's last good content stays in force");
    }
    for (kind, file) in picture.newly_ignored() {
        tracing::info!(kind, file, "the mesh does not read objects of this kind");
    }
    for (file, unknown) in picture.newly_unknown() {
        tracing::warn!(file, line = unknown.line, field = unknown.field, "nobody reads this field: it has no effect");
    }
    metrics.broken_files.set(i64::try_from(picture.errors().count()).unwrap_or(i64::MAX));
    if !published && picture.errors().next().is_some() {
        return false;
    }
    let facts = resolve::Facts::new(picture.objects());
    metrics.objects.set(i64::try_from(facts.len()).unwrap_or(i64::MAX));
    metrics.changes.inc();
    tracing::info!(objects = facts.len(), progress = %reader.progress(), "facts in force");
    hub.publish(facts, reader.progress(), reader.heard.unwrap_or_else(Instant::now))
}

fn report(reader: &DirectoryReader, published: bool, readiness: &Readiness) {
    match reader.picture().errors().next() {
        Some(error) if !published => readiness.wait_for(CONDITION, error.to_string()),
        _ => readiness.met(CONDITION),
    }
}

fn list(directory: &Path) -> Result<Listing, DirectoryError> {
    let failed = |cause| DirectoryError::List { directory: directory.to_owned(), cause };
    let mut position = modified(&std::fs::metadata(directory).map_err(failed)?);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        if name.starts_with('.') || ![".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        // A link counts as what it leads to: mounted ConfigMaps are links. Gone since it was listed: gone.
        let Ok(metadata) = std::fs::metadata(directory.join(&name)) else { continue };
        if !metadata.is_file() {
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(DirectoryError::TooManyFiles { directory: directory.to_owned() });
        }
        position = position.max(modified(&metadata));
        files.insert(name, Stamp { inode: metadata.ino(), modified: modified(&metadata), size: metadata.size() });
    }
    Ok(Listing { files, position })
}

/// Nanoseconds since 1970.
fn modified(metadata: &std::fs::Metadata) -> u64 {
    let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is larger than {} MiB; split it", MAX_FILE_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "is not text in UTF-8".to_owned())
}

/// The watch's name in progress.
pub const WATCH: &str = "directory";
const CONDITION: &str = "directory";
const POLL: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1);
const MAX_FILES: usize = 10_000;
const MAX_FILE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests;
