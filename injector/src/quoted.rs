//! Text of others in sentences of ours: as much of it as one needs to know which it is.
//!
//! Who asks the webhook need not be an API server, and what is said of the answer is read in events, logs and terminals.

/// Its first 64 characters.
pub fn shortened(text: &str) -> String {
    let mut shortened: String = text.chars().take(LONGEST).collect();
    if shortened.len() < text.len() {
        shortened.push('…');
    }
    shortened
}

/// The same in quotation marks, with escapes for what is not printed.
pub fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_one_needs() {
        assert_eq!(quoted("a\n\u{1b}"), r#""a\n\u{1b}""#);
        assert_eq!(shortened(&"é".repeat(65)), "é".repeat(64) + "…");
        assert_eq!(shortened(&"é".repeat(64)), "é".repeat(64));
    }
}
