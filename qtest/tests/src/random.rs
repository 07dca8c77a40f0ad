// SPDX-License-Identifier: GPL-2.0-or-later
//! Random numbers that are the same every time.

/// A small generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One that begins with `seed`, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as u32) % n.max(1)
    }
}
