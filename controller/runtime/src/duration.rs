//! Durations on command lines: `20s`, `90m`, `24h`.

use std::time::Duration;

/// A whole number with a unit: s, m or h. What is wrong is said to a person.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("give a number with its unit, as in 20s, 90m or 24h".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "give a whole number, as in 20s, 90m or 24h".to_owned())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_and_nothing_else() {
        assert_eq!(parse("90m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "s", "5", "5d", "-5s", "1.5h", "99999999999999999999s", "9999999999999999999h", "5ß"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
