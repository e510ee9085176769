//! Files with secrets: written whole or not at all, and readable by their owner only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes a file by way of a temporary neighbour and a rename, so a reader sees the old or the new one, never half.
/// `mode` is the new file's permission bits, such as 0o600.
pub fn write_private(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    place(path, content, mode, |temporary, path| std::fs::rename(temporary, path))
}

/// Writes a file unless there is one; says whether it did. Of several at once exactly one succeeds.
pub(crate) fn create_private(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let placed = place(path, content, mode, |temporary, path| {
        std::fs::hard_link(temporary, path)?;
        std::fs::remove_file(temporary)
    });
    match placed {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

fn place(path: &Path, content: &[u8], mode: u32, put: fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{:08x}", std::process::id(), rand::random::<u32>()));
    let temporary = path.with_file_name(temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| put(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell; a leftover is harmless and has a name of its own.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Makes a directory for its owner only, unless it is there.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a file of at most `limit` bytes; a larger one is an error, so a wrong path can't fill the memory.
pub(crate) fn read_limited(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut file = File::open(path)?.take(limit as u64 + 1);
    file.read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn written_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_private(&path, b"one", 0o600).unwrap();
        write_private(&path, b"two", 0o600).unwrap();
        assert_eq!(read_limited(&path, 3).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!create_private(&path, b"three", 0o600).unwrap());
        assert_eq!(read_limited(&path, 3).unwrap(), b"two");
        assert!(create_private(&directory.path().join("new"), b"one", 0o600).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(read_limited(&path, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
