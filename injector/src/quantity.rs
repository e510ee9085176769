//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`), read only to check and compare them: they are passed on as written.

use std::cmp::Ordering;
use std::str::FromStr;

/// An amount of CPU or memory that is not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantity(f64);

impl Quantity {
    /// Which is more. Equal but for what a double rounds off.
    pub fn compare(self, other: Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }

    /// In cores or bytes, but for what a double rounds off.
    pub fn amount(self) -> f64 {
        self.0
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an amount such as 100m, 0.5 or 64Mi");
        if text.len() > LONGEST {
            return Err(format!("an amount has at most {LONGEST} characters"));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor = match SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            Some((_, factor)) => *factor,
            None => {
                let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(wrong)?;
                10f64.powi(exponent.parse::<i8>().map_err(|_| wrong())?.into())
            }
        };
        Ok(Self(number * factor))
    }
}

/// As long as the API server reads without complaint, and longer than anybody writes.
const LONGEST: usize = 32;

/// From `apimachinery/pkg/api/resource`: decimal, then binary.
const SUFFIXES: &[(&str, f64)] = &[
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<f64> {
        text.parse::<Quantity>().ok().map(|quantity| quantity.0)
    }

    #[test]
    fn what_kubernetes_reads_and_nothing_else() {
        for (text, expected) in
            [("100m", 0.1), ("1.5Gi", 1.5 * 1024f64.powi(3)), ("2e3", 2000.0), (".5", 0.5), ("1E", 1e18)]
        {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for wrong in
            ["", "m", "-1", "1 Gi", "1GB", "1..2", "inf", "nan", "1e", "1e999", "0x10", "1mi", "1".repeat(33).as_str()]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let (small, large) = ("999m".parse::<Quantity>().unwrap(), "1".parse().unwrap());
        assert_eq!(small.compare(large), Ordering::Less);
    }
}
