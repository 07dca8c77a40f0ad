// SPDX-License-Identifier: GPL-2.0-or-later
//! What the fuzz targets do with their bytes. The targets themselves only call these functions,
//! so that the same runs can be repeated from a test or a debugger.
//!
//! A broken promise is a panic here: that is how a fuzzer learns of it.

pub mod host_texts;
pub mod hostile_device;
pub mod hostile_pf;
pub mod p9;
pub mod proto_decode;
pub mod reactor;
pub mod session;
pub mod vfio_user_peer;
pub mod vfio_user_wire;
pub mod window;

/// Bytes to decide with. After the last one, every answer is 0, which by convention means the
/// ordinary thing.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// From the fuzzer's input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Choices { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Up to `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken.to_vec()
    }
}
