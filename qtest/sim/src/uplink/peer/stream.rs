// SPDX-License-Identifier: GPL-2.0-or-later
//! The fixed pseudo-random stream of ports 9002 and 9003.

use sha2::{Digest, Sha256};

/// Most MiB that can be asked for.
pub(super) const MAX_MIB: u64 = 4096;

/// Bytes `8 * i .. 8 * i + 8` of the stream are SplitMix64's output number `i`, little-endian.
fn word(i: u64) -> [u8; 8] {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// Fills `buf` with the stream from byte `offset` on.
pub(super) fn fill(offset: u64, buf: &mut [u8]) {
    let mut at = offset;
    let mut rest = buf;
    while !rest.is_empty() {
        let skip = (at % 8) as usize;
        let bytes = word(at / 8);
        let from = bytes.get(skip..).unwrap_or(&[]);
        let n = from.len().min(rest.len());
        let (dst, tail) = rest.split_at_mut(n);
        for (d, s) in dst.iter_mut().zip(from) {
            *d = *s;
        }
        at += n as u64;
        rest = tail;
    }
}

/// The SHA-256 of the stream's first bytes, computed a piece at a time.
pub(super) struct StreamHash {
    hash: Sha256,
    done: u64,
    total: u64,
}

impl StreamHash {
    pub(super) fn new(total: u64) -> Self {
        Self {
            hash: Sha256::new(),
            done: 0,
            total,
        }
    }

    /// Hashes up to `budget` bytes more; the hex text once all is done.
    pub(super) fn advance(&mut self, budget: usize) -> Option<String> {
        let mut chunk = [0; 8192];
        let mut left = budget;
        while self.done < self.total && left > 0 {
            let n = (self.total - self.done)
                .min(chunk.len() as u64)
                .min(left as u64) as usize;
            if let Some(part) = chunk.get_mut(..n) {
                fill(self.done, part);
                self.hash.update(part);
            }
            self.done += n as u64;
            left -= n;
        }
        (self.done >= self.total).then(|| hex(self.hash.clone()))
    }
}

/// The digest in lower-case hex.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 1000];
        fill(3, &mut whole);
        let mut parts = [0; 1000];
        let mut at = 0;
        for n in [1, 7, 8, 9, 100, 875] {
            fill(3 + at as u64, &mut parts[at..at + n]);
            at += n;
        }
        assert_eq!(at, 1000);
        assert_eq!(whole[..], parts[..]);
    }

    #[test]
    fn the_hash_does_not_depend_on_the_budget() {
        let mut all = vec![0; 100_000];
        fill(0, &mut all);
        let want = hex(Sha256::new().chain_update(&all));
        let mut hash = StreamHash::new(100_000);
        assert_eq!(hash.advance(99_999), None);
        assert_eq!(hash.advance(1).as_deref(), Some(want.as_str()));
        assert_eq!(StreamHash::new(0).advance(0), Some(hex(Sha256::new())));
    }
}
