// SPDX-License-Identifier: GPL-2.0-or-later
//! Which pages of a driver are in the balloon.

use std::collections::HashMap;

/// Pages in one piece of the map.
const PIECE: u32 = 32768;
const WORDS: usize = PIECE as usize / 64;
/// Pieces at most: 4 KiB each, and enough for 512 GiB of memory in one part. A driver that scatters
/// its pages over more than that is told no.
const MAX_PIECES: usize = 4096;

/// A set of page numbers that takes memory for the parts in use only.
#[derive(Debug, Default)]
pub struct PageSet {
    pieces: HashMap<u32, Piece>,
    len: u32,
}

#[derive(Debug)]
struct Piece {
    words: Box<[u64; WORDS]>,
    /// Bits set in them.
    pages: u32,
}

/// What became of a page that was to go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It was not in the balloon and is now.
    New,
    /// It was there already.
    Present,
    /// The map is full.
    NoRoom,
}

fn place(page: u32) -> (u32, usize, u64) {
    let inside = page % PIECE;
    (page / PIECE, inside as usize / 64, 1 << (inside % 64))
}

impl PageSet {
    /// Pages in the balloon.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a page in.
    pub fn insert(&mut self, page: u32) -> Insert {
        let (piece, word, bit) = place(page);
        if self.pieces.len() >= MAX_PIECES && !self.pieces.contains_key(&piece) {
            return Insert::NoRoom;
        }
        let piece = self.pieces.entry(piece).or_insert_with(|| Piece {
            words: Box::new([0; WORDS]),
            pages: 0,
        });
        match piece.words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                piece.pages += 1;
                self.len = self.len.saturating_add(1);
                Insert::New
            }
            _ => Insert::Present,
        }
    }

    /// Takes a page out; `false` if it was not there.
    pub fn remove(&mut self, page: u32) -> bool {
        let (number, word, bit) = place(page);
        let Some(piece) = self.pieces.get_mut(&number) else {
            return false;
        };
        let word = piece.words.get_mut(word).filter(|word| **word & bit != 0);
        let Some(word) = word else {
            return false;
        };
        *word &= !bit;
        self.len = self.len.saturating_sub(1);
        piece.pages = piece.pages.saturating_sub(1);
        if piece.pages == 0 {
            self.pieces.remove(&number);
        }
        true
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..200_000), 0..400)) {
            let mut pages = PageSet::default();
            let mut model = HashSet::new();
            for (put, page) in steps {
                // Few different pages, so that they meet, and far apart.
                let page = page % 40 * 32_767;
                if put {
                    let want = if model.insert(page) { Insert::New } else { Insert::Present };
                    prop_assert_eq!(pages.insert(page), want);
                } else {
                    prop_assert_eq!(pages.remove(page), model.remove(&page));
                }
                prop_assert_eq!(pages.len() as usize, model.len());
            }
        }
    }

    #[test]
    fn its_memory_is_bounded_and_given_back() {
        let mut pages = PageSet::default();
        for n in 0..MAX_PIECES as u32 {
            assert_eq!(pages.insert(n * PIECE), Insert::New);
        }
        assert_eq!(pages.insert(u32::MAX), Insert::NoRoom);
        assert_eq!(pages.insert(1), Insert::New);
        assert!(pages.remove(0) && pages.remove(1));
        assert_eq!(pages.insert(u32::MAX), Insert::New);
        pages.clear();
        assert!(pages.is_empty() && pages.pieces.is_empty());
    }
}
