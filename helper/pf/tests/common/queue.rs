// SPDX-License-Identifier: GPL-2.0-or-later
//! Device side of a split ring.

use pci_transport::DeviceView;

#[derive(Default)]
pub(crate) struct DeviceQueue {
    pub size: u16,
    pub enabled: u16,
    pub vector: u16,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
    seen: u16,
    used: u16,
    /// Tell the driver not to notify.
    pub no_notify: bool,
}

/// A buffer: its head and its elements (address, length, writable).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub head: u16,
    pub elements: Vec<(u64, u32, bool)>,
    /// Of which admin queue, from 0.
    pub queue: usize,
    closed: bool,
}

fn read16(memory: &DeviceView, at: u64) -> u16 {
    let mut b = [0; 2];
    assert!(memory.read(at, &mut b), "{at:#x} is not mapped");
    u16::from_le_bytes(b)
}

fn write16(memory: &DeviceView, at: u64, value: u16) {
    assert!(memory.write(at, &value.to_le_bytes()));
}

impl DeviceQueue {
    pub(crate) fn misaligned(&self) -> Option<String> {
        let bad = self.desc % 16 != 0 || self.driver % 2 != 0 || self.device % 4 != 0;
        bad.then(|| format!("{:#x} {:#x} {:#x}", self.desc, self.driver, self.device))
    }

    pub(crate) fn take(&mut self, memory: &DeviceView, event_idx: bool) -> Option<Chain> {
        let flags = u16::from(self.no_notify && !event_idx);
        write16(memory, self.device, flags);
        if event_idx {
            let at = self.device + 4 + 8 * u64::from(self.size);
            let event = if self.no_notify {
                self.seen.wrapping_sub(1)
            } else {
                self.seen
            };
            write16(memory, at, event);
        }
        if read16(memory, self.driver + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        let head = read16(memory, self.driver + 4 + 2 * slot);
        self.seen = self.seen.wrapping_add(1);
        if event_idx && !self.no_notify {
            let at = self.device + 4 + 8 * u64::from(self.size);
            write16(memory, at, self.seen);
        }
        let mut elements = Vec::new();
        let mut next = head;
        let mut closed = false;
        while elements.len() < usize::from(self.size) {
            let mut d = [0; 16];
            assert!(memory.read(self.desc + 16 * u64::from(next), &mut d));
            let (addr, rest) = d.split_at(8);
            let flags = u16::from_le_bytes([rest[4], rest[5]]);
            elements.push((
                u64::from_le_bytes(addr.try_into().unwrap()),
                u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]),
                flags & 2 != 0,
            ));
            if flags & 1 == 0 {
                closed = flags & 4 == 0;
                break;
            }
            next = u16::from_le_bytes([rest[6], rest[7]]);
        }
        Some(Chain {
            head,
            elements,
            queue: 0,
            closed,
        })
    }

    /// Puts an element on the used ring; `true` if the driver wants an interrupt.
    pub(crate) fn push_used(
        &mut self,
        memory: &DeviceView,
        id: u32,
        len: u32,
        event_idx: bool,
    ) -> bool {
        let slot = u64::from(self.used % self.size);
        let mut e = id.to_le_bytes().to_vec();
        e.extend(len.to_le_bytes());
        assert!(memory.write(self.device + 4 + 8 * slot, &e));
        let old = self.used;
        self.used = self.used.wrapping_add(1);
        write16(memory, self.device + 2, self.used);
        if event_idx {
            let event = read16(memory, self.driver + 4 + 2 * u64::from(self.size));
            self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(old)
        } else {
            read16(memory, self.driver) & 1 == 0
        }
    }
}

impl Chain {
    /// What is wrong with it, if anything.
    pub(crate) fn breach(&self) -> Option<String> {
        let mut writable = false;
        for (_, len, w) in &self.elements {
            if *len == 0 || (writable && !w) {
                return Some(format!("{self:?}"));
            }
            writable |= w;
        }
        (!self.closed || !writable).then(|| format!("{self:?}"))
    }

    pub(crate) fn writable_len(&self) -> usize {
        let writable = self.elements.iter().filter(|e| e.2);
        writable.map(|e| e.1 as usize).sum()
    }

    pub(crate) fn read(&self, memory: &DeviceView) -> Vec<u8> {
        let mut out = Vec::new();
        for (addr, len, writable) in &self.elements {
            if !writable {
                let mut part = vec![0; *len as usize];
                assert!(memory.read(*addr, &mut part));
                out.extend(part);
            }
        }
        out
    }

    pub(crate) fn write(&self, memory: &DeviceView, mut bytes: &[u8]) {
        for (addr, len, writable) in &self.elements {
            if *writable {
                let (part, rest) = bytes.split_at(bytes.len().min(*len as usize));
                assert!(memory.write(*addr, part));
                bytes = rest;
            }
        }
    }
}
