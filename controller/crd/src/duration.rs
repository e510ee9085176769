//! Gateway API's durations (GEP-2257): one to four of `1h`, `30m`, `10s`, `500ms`, each number of at most five digits.

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write 1h, 30m, 10s, 500ms or up to four of them together, such as 1m30s")]
pub struct InvalidDuration(String);

/// Milliseconds of a duration; 0 means "none" where Gateway API uses durations as time limits.
pub fn parse(text: &str) -> Result<u64, InvalidDuration> {
    let invalid = || InvalidDuration(text.chars().take(40).collect());
    let mut rest = text;
    let (mut total, mut parts) = (0_u64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(invalid());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = &rest[digits..];
        // `ms` before `m`: the longer unit first.
        let (scale, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b'h', ..] => (3_600_000, 1),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1000, 1),
            _ => return Err(invalid()),
        };
        total += number * scale;
        rest = &unit[length..];
    }
    if parts == 0 { Err(invalid()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_proposal_has_it() {
        let good =
            [("0s", 0), ("1h", 3_600_000), ("1m30s", 90_000), ("500ms", 500), ("1s1ms", 1001), ("10s10s", 20_000)];
        for (text, expected) in good {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in ["", "1", "s", "1.5s", "-1s", "100000s", "1us", "1s2s3s4s5s", "1 s", "1d", "1ä"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
