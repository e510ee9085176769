//! What a long command is doing, on standard error: a line that changes on a terminal, lines that stay elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// Tells how far a command is.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    frame: usize,
    last: String,
}

impl Progress {
    /// Looks at what standard error is.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), frame: 0, last: String::new() }
    }

    /// Something is under way; call it again and again for a sign of life.
    pub fn wait(&mut self, text: &str) {
        let text = crate::table::one_line(text);
        if self.terminal {
            self.frame = (self.frame + 1) % FRAMES.len();
            let shown: String = text.chars().take(WIDTH).collect();
            write(&format!("\r\x1b[K{} {shown}", FRAMES[self.frame]));
        } else if text != self.last && !PASSING.iter().any(|start| text.starts_with(start)) {
            write(&format!("  {text}\n"));
        }
        self.last = text;
    }

    /// How many of many there were; only for whoever watches.
    pub fn count(&mut self, what: &str, done: usize, all: usize) {
        if self.terminal {
            self.wait(&format!("{done} of {all} {what}"));
        }
    }

    /// Something is done.
    pub fn done(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        write(&format!("{clear}√ {}\n", crate::table::one_line(text)));
        self.last.clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// The next thing printed stands on a line of its own.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            write("\r\x1b[K");
        }
    }
}

/// Nobody may be there to read it, which is no reason to stop.
fn write(text: &str) {
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
    std::io::stderr().lock().flush().ok();
}

/// Over before anybody reads it, and listed at the end.
const PASSING: [&str; 2] = ["applying ", "deleting "];
const FRAMES: [char; 4] = ['|', '/', '-', '\\'];
/// What does not fit on the line would not be cleared.
const WIDTH: usize = 76;
