// SPDX-License-Identifier: GPL-2.0-or-later
//! Capture files in the classic pcap format (nanosecond variant), as Wireshark and tcpdump read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a capture file unless told otherwise.
pub const DEFAULT_LIMIT: u64 = 256 << 20;
/// Magic number of the format with nanoseconds, in the writer's byte order.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINK_TYPE_ETHERNET: u32 = 1;
const SNAP_LENGTH: usize = 262_144;

/// A capture file that is being written.
pub struct Pcap<W: Write = BufWriter<File>> {
    out: Option<W>,
    written: u64,
    limit: u64,
    /// Frames not written because the file is full or broken.
    pub dropped: u64,
    dirty: bool,
}

impl Pcap {
    /// Creates the file; it grows to at most `limit` bytes.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?), limit)
    }
}

impl<W: Write> Pcap<W> {
    /// Writes the file header to `out`.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(mut out: W, limit: u64) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&MAGIC_NANOSECONDS.to_ne_bytes());
        header.extend_from_slice(&2u16.to_ne_bytes());
        header.extend_from_slice(&4u16.to_ne_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&(SNAP_LENGTH as u32).to_ne_bytes());
        header.extend_from_slice(&LINK_TYPE_ETHERNET.to_ne_bytes());
        out.write_all(&header)?;
        out.flush()?;
        Ok(Self {
            out: Some(out),
            written: header.len() as u64,
            limit,
            dropped: 0,
            dirty: false,
        })
    }

    /// Adds a frame with the time of now.
    pub fn frame(&mut self, frame: &[u8]) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let shown = frame.get(..SNAP_LENGTH).unwrap_or(frame);
        let size = 16 + shown.len() as u64;
        let Some(out) = self
            .out
            .as_mut()
            .filter(|_| self.written + size <= self.limit)
        else {
            if self.dropped == 0 {
                tracing::warn!("the capture file is full; frames are no longer written to it");
            }
            self.dropped += 1;
            return;
        };
        let mut header = [0; 16];
        let fields = [
            now.as_secs() as u32,
            now.subsec_nanos(),
            shown.len() as u32,
            u32::try_from(frame.len()).unwrap_or(u32::MAX),
        ];
        for (dst, field) in header.chunks_exact_mut(4).zip(fields) {
            dst.copy_from_slice(&field.to_ne_bytes());
        }
        let result = out.write_all(&header).and_then(|()| out.write_all(shown));
        self.after(result);
        self.written += size;
        self.dirty = true;
    }

    /// Puts what is buffered into the file.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let result = self.out.as_mut().map_or(Ok(()), Write::flush);
            self.after(result);
        }
    }

    fn after(&mut self, result: io::Result<()>) {
        if let Err(e) = result {
            tracing::error!("capture file: {e}; capturing ends");
            self.out = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_file_has_the_layout_that_readers_expect() {
        let mut bytes = Vec::new();
        let mut pcap = Pcap::new(&mut bytes, 1000).unwrap();
        pcap.frame(&[1; 60]);
        pcap.frame(&[2; 42]);
        pcap.flush();
        assert_eq!(word(&bytes, 0), 0xa1b2_3c4d);
        assert_eq!(bytes[4..8], [2, 0, 4, 0]);
        assert_eq!(word(&bytes, 20), 1);
        assert_eq!((word(&bytes, 32), word(&bytes, 36)), (60, 60));
        assert!(word(&bytes, 28) < 1_000_000_000);
        assert_eq!(bytes[40], 1);
        assert_eq!(word(&bytes, 40 + 60 + 8), 42);
        assert_eq!(bytes.len(), 24 + 2 * 16 + 60 + 42);
    }

    #[test]
    fn the_file_does_not_grow_past_its_limit() {
        let mut bytes = Vec::new();
        let mut pcap = Pcap::new(&mut bytes, 200).unwrap();
        for _ in 0..10 {
            pcap.frame(&[0; 60]);
        }
        assert_eq!(pcap.dropped, 8);
        assert_eq!(bytes.len(), 24 + 2 * 76);
    }
}
