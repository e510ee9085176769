//! A real directory, and a clock of the test's own.

use std::fs;

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    reader: DirectoryReader,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reader = DirectoryReader::new(directory.path());
        Self { directory, reader, now: Instant::now() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A whole file put into place at once.
    fn replace(&self, name: &str, text: &str) {
        self.write(".next", text);
        fs::rename(self.path(".next"), self.path(name)).unwrap();
    }

    /// Looks after so many milliseconds; whether the picture changed.
    fn look_after(&mut self, milliseconds: u64) -> bool {
        self.now += Duration::from_millis(milliseconds);
        matches!(self.reader.look(self.now).unwrap(), Look::Changed(_))
    }

    fn names(&self) -> Vec<String> {
        self.reader.picture().objects().iter().map(|object| object.id().name).collect()
    }

    fn position(&self) -> u64 {
        self.reader.progress().positions()[WATCH]
    }
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

#[test]
fn written_files_are_read_after_a_quiet_time() {
    let mut fixture = Fixture::new();
    assert!(fixture.look_after(0), "an empty directory is a picture as well");
    let empty = fixture.position();
    fixture.write("a.yaml", "apiVersion: v1\nkind: Name");
    assert!(!fixture.look_after(100));
    fixture.write("a.yaml", &namespace("a"));
    assert!(!fixture.look_after(100), "it changed again");
    assert!(!fixture.look_after(100));
    assert!(fixture.look_after(100));
    assert_eq!(fixture.names(), ["a"]);
    assert!(fixture.position() > empty);
    assert!(!fixture.look_after(1000), "nothing new");
}

#[test]
fn a_file_that_never_rests_is_read_after_a_second() {
    let mut fixture = Fixture::new();
    fixture.look_after(0);
    let mut read = 0;
    for round in 0..12 {
        fixture.write("a.yaml", &(namespace("a") + &"#".repeat(round)));
        read += usize::from(fixture.look_after(100));
    }
    assert_eq!(read, 1);
}

#[test]
fn replaced_and_removed_files_are_read_at_once() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &namespace("a"));
    fixture.write("b.json", "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}");
    assert!(fixture.look_after(0), "the first picture waits for nobody");
    let before = fixture.position();
    fixture.replace("a.yaml", &namespace("a2"));
    assert!(fixture.look_after(1));
    assert_eq!(fixture.names(), ["a2", "b"]);
    fs::remove_file(fixture.path("b.json")).unwrap();
    assert!(fixture.look_after(1));
    assert_eq!(fixture.names(), ["a2"]);
    assert!(fixture.position() >= before);
}

#[test]
fn what_is_not_a_manifest_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.write("notes.txt", "x");
    fixture.write(".hidden.yaml", "x: [");
    fs::create_dir(fixture.path("deeper.yaml")).unwrap();
    make_pipe(&fixture.path("pipe.yaml"));
    assert!(fixture.look_after(0));
    assert!(fixture.names().is_empty() && fixture.reader.picture().errors().next().is_none());
}

/// A named pipe, which would hang whoever reads it.
fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn unreadable_files_are_errors_with_a_name() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path("a.yaml"), [0xff, 0xfe]).unwrap();
    let huge = fs::File::create(fixture.path("b.yaml")).unwrap();
    huge.set_len(MAX_FILE_BYTES + 1).unwrap();
    fixture.reader.look_at_once().unwrap();
    let errors: Vec<String> = fixture.reader.picture().errors().map(ToString::to_string).collect();
    assert_eq!(errors, ["a.yaml: is not text in UTF-8", "b.yaml: is larger than 4 MiB; split it"]);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_starts_with_a_broken_file_publishes_nothing() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", &namespace("a"));
    fixture.write("b.yaml", "kind: Namespace\n");
    let hub = Hub::new(crate::serve::session::tests::mesh(), Instant::now());
    let readiness = Readiness::new();
    let reader = DirectoryReader::new(fixture.directory.path());
    let following = tokio::spawn(follow(reader, hub.clone(), readiness.clone(), Metrics::default()));
    let mut worlds = hub.worlds();
    tokio::time::timeout(Duration::from_secs(5), worlds.changed()).await.expect_err("nothing is published");
    assert!(!readiness.is_ready());
    fixture.write("b.yaml", &namespace("b"));
    worlds.changed().await.unwrap();
    assert_eq!(worlds.borrow_and_update().as_ref().unwrap().facts().len(), 2);
    fixture.replace("b.yaml", "kind: Namespace\n");
    fixture.replace("a.yaml", &namespace("a2"));
    worlds.changed().await.unwrap();
    let world = worlds.borrow_and_update().clone().unwrap();
    assert!(world.facts().namespace("b").is_some(), "the last good content stays");
    assert!(world.facts().namespace("a2").is_some() && readiness.is_ready());
    following.abort();
}
