// SPDX-License-Identifier: GPL-2.0-or-later
//! MSI-X of one function: table, pending bits, masks.
//!
//! A front end may take the part of the interrupt controller (as VFIO does): it then says which
//! vectors have a trigger, which counts as enabled and unmasked. Without that the table and the
//! control word in configuration space decide, as in hardware.

use virtio_modern_spec::bytes::put_u32;
use virtio_pci_spec::bytes::get_u32;
use virtio_pci_spec::pci::msix::ENTRY_LEN;

const ENTRY_CONTROL: usize = 12;
const ENTRY_MASKED: u32 = 1;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// It is to be sent.
    Send,
    /// Its pending bit is set.
    Pended,
}

#[derive(Debug)]
pub(crate) struct Msix {
    vectors: u16,
    /// Empty until it is written to: all entries are masked and hold zeroes.
    table: Vec<u8>,
    pending: Vec<u64>,
    any_pending: bool,
    triggers: Option<Vec<bool>>,
    control_enable: bool,
    function_mask: bool,
}

impl Msix {
    pub(crate) fn new(vectors: u16) -> Self {
        Msix {
            vectors,
            table: Vec::new(),
            pending: Vec::new(),
            any_pending: false,
            triggers: None,
            control_enable: false,
            function_mask: false,
        }
    }

    /// Function level reset: everything masked, nothing pending. Triggers are the front end's.
    pub(crate) fn reset(&mut self) {
        self.table = Vec::new();
        self.clear_pending();
        self.control_enable = false;
        self.function_mask = false;
    }

    /// What was held back is not sent any more.
    pub(crate) fn clear_pending(&mut self) {
        self.pending.fill(0);
        self.any_pending = false;
    }

    pub(crate) fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Bytes that somebody wrote to.
    pub(crate) fn private_bytes(&self) -> usize {
        self.table.len()
    }

    fn table_len(&self) -> usize {
        usize::from(self.vectors) * ENTRY_LEN
    }

    /// The table, to be written to.
    fn table_mut(&mut self) -> &mut [u8] {
        if self.table.is_empty() {
            self.table = vec![0; self.table_len()];
            for entry in self.table.chunks_exact_mut(ENTRY_LEN) {
                let _fits = put_u32(entry, ENTRY_CONTROL, ENTRY_MASKED);
            }
        }
        &mut self.table
    }

    /// MSI-X is in use.
    pub(crate) fn enabled(&self) -> bool {
        self.control_enable || self.triggers.is_some()
    }

    pub(crate) fn set_control(&mut self, enable: bool, function_mask: bool) {
        self.control_enable = enable;
        self.function_mask = function_mask;
    }

    /// The front end has (or has no) trigger for each vector from `first`.
    pub(crate) fn set_triggers(&mut self, first: u16, present: &[bool]) {
        let n = usize::from(self.vectors());
        let all = self.triggers.get_or_insert_with(|| vec![false; n]);
        for (slot, p) in all.iter_mut().skip(usize::from(first)).zip(present) {
            *slot = *p;
        }
    }

    /// The front end stopped delivering MSI-X.
    pub(crate) fn clear_triggers(&mut self) {
        self.triggers = None;
    }

    fn open(&self, vector: u16) -> bool {
        if self.function_mask {
            return false;
        }
        let v = usize::from(vector);
        match &self.triggers {
            Some(t) => t.get(v).copied().unwrap_or(false),
            None => {
                self.control_enable
                    && self
                        .table
                        .get(v * ENTRY_LEN..)
                        .and_then(|e| get_u32(e, ENTRY_CONTROL))
                        .is_some_and(|c| c & ENTRY_MASKED == 0)
            }
        }
    }

    /// An event mapped to `vector` (inside the table) happened.
    pub(crate) fn raise(&mut self, vector: u16, may_write: bool) -> Raised {
        if may_write && self.open(vector) {
            return Raised::Send;
        }
        if self.pending.is_empty() {
            self.pending = vec![0; usize::from(self.vectors).div_ceil(64)];
        }
        if let Some(word) = self.pending.get_mut(usize::from(vector) / 64) {
            *word |= 1 << (vector % 64);
            self.any_pending = true;
        }
        Raised::Pended
    }

    /// Takes the vectors whose messages may be sent now, one by one.
    pub(crate) fn take_pending(&mut self) -> Option<u16> {
        if !self.any_pending || !self.enabled() || self.function_mask {
            return None;
        }
        for i in 0..self.pending.len() {
            let mut bits = self.pending.get(i).copied().unwrap_or(0);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let vector = (i * 64) as u16 + bit as u16;
                if self.open(vector) {
                    if let Some(word) = self.pending.get_mut(i) {
                        *word &= !(1 << bit);
                    }
                    return Some(vector);
                }
            }
        }
        self.any_pending = self.pending.iter().any(|w| *w != 0);
        None
    }

    #[cfg(test)]
    pub(crate) fn is_pending(&self, vector: u16) -> bool {
        let word = self.pending.get(usize::from(vector) / 64);
        word.is_some_and(|w| w & (1 << (vector % 64)) != 0)
    }

    /// Offset of the pending bit array behind the table.
    pub(crate) fn pba_offset(&self) -> u64 {
        pba_offset(self.vectors())
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        for (i, b) in buf.iter_mut().enumerate() {
            *b = offset.checked_add(i as u64).map_or(0, |at| self.byte(at));
        }
    }

    fn byte(&self, at: u64) -> u8 {
        let pba = self.pba_offset();
        if at < pba {
            let i = usize::try_from(at).unwrap_or(usize::MAX);
            return match self.table.get(i) {
                Some(b) => *b,
                None if i < self.table_len() && i % ENTRY_LEN == ENTRY_CONTROL => {
                    ENTRY_MASKED as u8
                }
                None => 0,
            };
        }
        let i = usize::try_from(at - pba).unwrap_or(usize::MAX);
        let word = self.pending.get(i / 8).copied().unwrap_or(0);
        word.to_le_bytes()[i % 8]
    }

    /// Writes to the table; the pending bits are read-only.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (n, b) in data.iter().enumerate() {
            let at = offset.checked_add(n as u64);
            let Some(i) = at.and_then(|at| usize::try_from(at).ok()) else {
                return;
            };
            // Only bit 0 of the control word exists.
            let value = match i % ENTRY_LEN {
                ENTRY_CONTROL => b & ENTRY_MASKED as u8,
                13..=15 => 0,
                _ => *b,
            };
            if i >= self.table_len() {
                return;
            }
            if let Some(slot) = self.table_mut().get_mut(i) {
                *slot = value;
            }
        }
    }
}

/// Offset of the pending bit array behind a table of `vectors` entries, page-aligned.
pub(crate) fn pba_offset(vectors: u16) -> u64 {
    (u64::from(vectors) * ENTRY_LEN as u64).next_multiple_of(0x1000)
}

/// Size of a BAR that holds the table and the pending bits.
pub(crate) fn bar_size(vectors: u16) -> u64 {
    (pba_offset(vectors) + u64::from(vectors).div_ceil(64) * 8).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmask(m: &mut Msix, vector: u64) {
        m.write(vector * 16 + 12, &0u32.to_le_bytes());
    }

    #[test]
    fn masked_messages_wait_in_the_pending_bits() {
        let mut m = Msix::new(70);
        m.set_control(true, false);
        assert_eq!(m.raise(65, true), Raised::Pended);
        let mut pba = [0; 16];
        m.read(m.pba_offset(), &mut pba);
        assert_eq!(pba[8], 2);
        assert_eq!(m.take_pending(), None);
        unmask(&mut m, 65);
        assert_eq!(m.take_pending(), Some(65));
        assert_eq!(m.take_pending(), None);
        assert_eq!(m.raise(65, true), Raised::Send);
        assert_eq!(m.raise(65, false), Raised::Pended, "no bus master");
        m.set_control(true, true);
        assert_eq!(m.take_pending(), None, "function mask");
    }

    #[test]
    fn triggers_replace_the_table() {
        let mut m = Msix::new(4);
        assert!(!m.enabled());
        m.set_triggers(1, &[true, false, true, true, true]);
        assert!(m.enabled());
        assert_eq!(m.raise(1, true), Raised::Send);
        assert_eq!(m.raise(2, true), Raised::Pended);
        m.set_triggers(2, &[true]);
        assert_eq!(m.take_pending(), Some(2));
        m.clear_triggers();
        assert!(!m.enabled());
    }

    #[test]
    fn the_table_is_made_when_it_is_written_to() {
        let mut m = Msix::new(3);
        let mut fresh = [0; 64];
        m.read(0, &mut fresh);
        assert!(m.table.is_empty());
        // The pending bits are no part of it.
        m.write(m.pba_offset(), &[1]);
        assert!(m.table.is_empty());
        m.write(0, &[0]);
        assert_eq!(m.table.len(), 48);
        let mut made = [0; 64];
        m.read(0, &mut made);
        assert_eq!(made, fresh);
        m.reset();
        assert!(m.table.is_empty());
    }

    #[test]
    fn table_accesses_of_any_shape_are_harmless() {
        let mut m = Msix::new(3);
        m.write(40, &[0xff; 64]);
        m.write(u64::MAX, &[0xff; 4]);
        m.write(m.pba_offset(), &[0xff; 8]);
        let mut b = [0x55; 64];
        m.read(40, &mut b);
        assert_eq!(b[..8], [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        m.read(u64::MAX - 2, &mut b);
        assert!(!m.is_pending(0));
        assert_eq!(bar_size(1), 0x2000);
        assert_eq!(bar_size(0x800), 0x10000);
    }
}
