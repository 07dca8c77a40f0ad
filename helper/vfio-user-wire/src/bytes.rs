// SPDX-License-Identifier: GPL-2.0-or-later
//! Bounds-checked cursor over a payload and its counterpart for writing, in host byte order.

use crate::{Command, WireError};

/// Reads a payload front to back.
pub(crate) struct Reader<'a> {
    command: Command,
    buf: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `buf`, of which at least `want` bytes must be there.
    pub(crate) fn new(command: Command, buf: &'a [u8], want: usize) -> Result<Self, WireError> {
        if buf.len() < want {
            return Err(WireError::Truncated {
                command,
                got: buf.len(),
                want,
            });
        }
        Ok(Self {
            command,
            buf,
            at: 0,
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let end = self.at.saturating_add(N);
        match self.buf.get(self.at..end).and_then(|b| b.try_into().ok()) {
            Some(bytes) => {
                self.at = end;
                Ok(bytes)
            }
            None => Err(WireError::Truncated {
                command: self.command,
                got: self.buf.len(),
                want: end,
            }),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take()
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.buf.get(self.at..).unwrap_or(&[])
    }
}

/// Appends host-order integers to a message.
pub(crate) trait Put {
    fn put_u16(&mut self, v: u16);
    fn put_u32(&mut self, v: u32);
    fn put_u64(&mut self, v: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
}
