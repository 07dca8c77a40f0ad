// SPDX-License-Identifier: GPL-2.0-or-later
//! The protocol's integers, strings and qids: little-endian, strings with a 16-bit length.

/// Bytes of size, type and tag, with which every message begins.
pub(crate) const HEADER_LEN: usize = 7;
/// Bytes of a qid.
pub(crate) const QID_LEN: usize = 13;
/// Bytes of a reply that only tells an error.
pub(crate) const ERROR_LEN: usize = HEADER_LEN + 4;

/// What the server knows a file by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Qid {
    /// 0x80 directory, 0x02 symbolic link, 0 anything else.
    pub(crate) kind: u8,
    /// Changes when the file changes.
    pub(crate) version: u32,
    /// Inode number.
    pub(crate) path: u64,
}

/// The bytes end before the value that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CutOff;

/// Takes values from the front of a message.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], CutOff> {
        let (now, rest) = self.0.split_at_checked(len).ok_or(CutOff)?;
        self.0 = rest;
        Ok(now)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CutOff> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| CutOff)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CutOff> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CutOff> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CutOff> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CutOff> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn string(&mut self) -> Result<&'a [u8], CutOff> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Puts a reply together; the header is filled in at the end.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
}

impl<'a> Writer<'a> {
    /// A reply of at most `room` bytes.
    pub(crate) fn new(out: &'a mut Vec<u8>, room: usize) -> Self {
        out.clear();
        out.extend([0; HEADER_LEN]);
        Writer { out, room }
    }

    pub(crate) fn u8(&mut self, v: u8) {
        self.out.push(v);
    }

    pub(crate) fn u16(&mut self, v: u16) {
        self.out.extend(v.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.out.extend(v.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, v: u64) {
        self.out.extend(v.to_le_bytes());
    }

    /// A string; what does not fit the length field is cut (no name or link target is that long).
    pub(crate) fn string(&mut self, s: &[u8]) {
        let len = u16::try_from(s.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.out.extend(s.iter().take(len.into()));
    }

    pub(crate) fn qid(&mut self, q: &Qid) {
        self.u8(q.kind);
        self.u32(q.version);
        self.u64(q.path);
    }

    /// Bytes that still fit.
    pub(crate) fn left(&self) -> usize {
        self.room.saturating_sub(self.out.len())
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    /// Overwrites the 16 bits at `at`.
    pub(crate) fn put_u16(&mut self, at: usize, v: u16) {
        if let Some(slot) = self.out.get_mut(at..at + 2) {
            slot.copy_from_slice(&v.to_le_bytes());
        }
    }

    /// Overwrites the 32 bits at `at`.
    pub(crate) fn put_u32(&mut self, at: usize, v: u32) {
        if let Some(slot) = self.out.get_mut(at..at + 4) {
            slot.copy_from_slice(&v.to_le_bytes());
        }
    }

    /// Appends `len` bytes, filled by `f`, which says how many of them it used.
    pub(crate) fn fill<E>(
        &mut self,
        len: usize,
        f: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let at = self.out.len();
        self.out.resize(at + len, 0);
        let used = f(self.out.get_mut(at..).unwrap_or_default())?.min(len);
        self.out.truncate(at + used);
        Ok(used)
    }
}

/// Fills in the header of a reply; `false` if it is longer than `room`.
pub(crate) fn finish(out: &mut [u8], kind: u8, tag: u16, room: usize) -> bool {
    let Ok(len) = u32::try_from(out.len()) else {
        return false;
    };
    if out.len() > room || out.len() < HEADER_LEN {
        return false;
    }
    let mut header = [0; HEADER_LEN];
    let [a, b, c, d] = len.to_le_bytes();
    let [t, u] = tag.to_le_bytes();
    header.copy_from_slice(&[a, b, c, d, kind, t, u]);
    if let Some(slot) = out.get_mut(..HEADER_LEN) {
        slot.copy_from_slice(&header);
    }
    true
}
