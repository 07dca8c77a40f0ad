// SPDX-License-Identifier: GPL-2.0-or-later
//! Times as options give them.

use std::time::Duration;

/// A number and a unit.
pub fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = Duration::from_millis;
        assert_eq!(parse_time("250us"), Some(Duration::from_micros(250)));
        assert_eq!(parse_time("5ms"), Some(ms(5)));
        assert_eq!(parse_time("2s"), Some(ms(2000)));
        assert_eq!(parse_time("3min"), Some(ms(180_000)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            " 1s",
            "1 s",
            "1h",
            "99999999999999999999s",
            "18446744073709551615min",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
