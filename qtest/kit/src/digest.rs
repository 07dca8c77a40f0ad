// SPDX-License-Identifier: GPL-2.0-or-later
//! SHA-256 of files and of named inputs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// A key over named inputs. Names and lengths go in too, so that moving a byte from one input to
/// the next changes the key.
#[derive(Debug, Default, Clone)]
pub struct Digest(Sha256);

impl Digest {
    /// A digest of nothing yet.
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds one named input; the order matters.
    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// All 64 hexadecimal digits.
    pub fn full(&self) -> String {
        hex(&self.0.clone().finalize())
    }

    /// 12 hexadecimal digits, for directory names.
    pub fn short(&self) -> String {
        self.full().chars().take(12).collect()
    }
}

/// SHA-256 of a byte string, in hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(len) => hash.update(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of FIPS 180-4's example "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn bytes_and_file_agree_with_the_standard() {
        assert_eq!(of_bytes(b"abc"), ABC);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), ABC);
    }

    #[test]
    fn a_large_file_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let data = vec![7; (1 << 16) * 2 + 3];
        std::fs::write(&path, &data).unwrap();
        assert_eq!(of_file(&path).unwrap(), of_bytes(&data));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let key = |fields: &[(&str, &str)]| {
            let mut digest = Digest::new();
            for (name, value) in fields {
                digest.field(name, value);
            }
            digest.full()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(
            key(&[("a", "b"), ("c", "d")]),
            key(&[("c", "d"), ("a", "b")])
        );
        assert_ne!(key(&[("a", "")]), key(&[]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        assert_eq!(Digest::new().field("a", "b").short().len(), 12);
    }
}
