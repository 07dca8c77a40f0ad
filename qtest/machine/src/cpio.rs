// SPDX-License-Identifier: GPL-2.0-or-later
//! Writer of cpio archives in the "newc" form, which Linux unpacks as its first file system.
//!
//! Owner, time and inode numbers do not come from the machine, so that equal content gives an equal
//! archive.

use std::collections::BTreeSet;
use std::io::{self, Write};

/// Kinds of entries, as in `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive that is being written. Directories above an entry are made as needed.
pub(crate) struct Archive<W: Write> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        if name.is_empty() || !self.directories.insert(name.to_owned()) {
            return Ok(());
        }
        self.parents(name)?;
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A regular file.
    pub(crate) fn file(&mut self, name: &str, executable: bool, data: &[u8]) -> io::Result<()> {
        self.parents(name)?;
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(name, REGULAR | mode, (0, 0), data)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.parents(name)?;
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub(crate) fn character_device(
        &mut self,
        name: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.parents(name)?;
        self.entry(name, CHARACTER | 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, name: &str) -> io::Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "file of 4 GiB or more"))?;
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Magic, then 13 fields of 8 hexadecimal digits.
        let mut head = String::from("070701");
        let name_size = name.len() as u32 + 1;
        for field in [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ] {
            head += &format!("{field:08x}");
        }
        head += name;
        head.push('\0');
        self.padded(head.as_bytes())?;
        self.padded(data)
    }

    /// Header with name, and data, each fill up to four bytes.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let fill = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all([0; 3].get(..fill).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file("bin/tool", true, b"hello").unwrap();
        archive.file("bin/data", false, b"").unwrap();
        archive.link("sbin", "bin").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.finish().unwrap()
    }

    /// (name, mode, size) of every entry, by the format's rules.
    fn list(bytes: &[u8]) -> Vec<(String, u32, usize)> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let head = &bytes[at..at + 110];
            assert_eq!(&head[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&head[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            entries.push((String::from_utf8(name.to_vec()).unwrap(), mode, size));
            at = (at + 110 + name_size).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn entries_have_their_directories_in_front() {
        let found = list(&archive());
        let expected = [
            ("bin", 0o040_755, 0),
            ("bin/tool", 0o100_755, 5),
            ("bin/data", 0o100_644, 0),
            ("sbin", 0o120_777, 3),
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 0),
            ("TRAILER!!!", 0, 0),
        ];
        assert_eq!(found.len(), expected.len());
        for (entry, expected) in found.iter().zip(expected) {
            assert_eq!((entry.0.as_str(), entry.1, entry.2), expected);
        }
        assert_eq!(archive(), archive());
    }
}
