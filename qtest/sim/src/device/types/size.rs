// SPDX-License-Identifier: GPL-2.0-or-later
//! Amounts of bytes on the command line.

/// Parses an amount of bytes with an optional suffix k, M, G or T (powers of 1024).
///
/// # Errors
/// The text is not such an amount.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        Some((at, 't' | 'T')) => (text.get(..at), 40),
        _ => (Some(text), 0),
    };
    digits
        .and_then(|d| d.parse::<u64>().ok())
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is not a size such as 512M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "M", "-1", "1.5G", "99999999999T", "é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
