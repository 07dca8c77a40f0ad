// SPDX-License-Identifier: GPL-2.0-or-later
//! The queue against a device that can be told to break any rule.

use std::collections::VecDeque;

use pci_transport::{DeviceView, DmaPool, Order};
use virtio_modern_spec::ring::{DESC_F_NEXT, DESC_F_WRITE};

use super::*;

const IOVA: u64 = 0x7000_0000;

/// The device side, written from the specification's layout and not from the driver's code.
struct Device {
    memory: DeviceView,
    at: QueueAddresses,
    size: u16,
    seen: u16,
    used: u16,
}

#[derive(Debug, PartialEq, Eq)]
struct Chain {
    head: u16,
    /// (address, length, writable)
    elements: Vec<(u64, u32, bool)>,
}

impl Device {
    fn u16(&self, at: u64) -> u16 {
        let mut b = [0; 2];
        assert!(self.memory.read(at, &mut b));
        u16::from_le_bytes(b)
    }

    fn take(&mut self) -> Option<Chain> {
        if self.u16(self.at.driver + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let head = self.u16(self.at.driver + 4 + 2 * slot);
        let mut elements = Vec::new();
        let mut next = head;
        loop {
            assert!(elements.len() < usize::from(self.size), "loop");
            let mut d = [0; 16];
            assert!(self
                .memory
                .read(self.at.desc + 16 * u64::from(next), &mut d));
            let addr = u64::from_le_bytes(d[..8].try_into().unwrap());
            let len = u32::from_le_bytes(d[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes([d[12], d[13]]);
            elements.push((addr, len, flags & DESC_F_WRITE != 0));
            if flags & DESC_F_NEXT == 0 {
                return Some(Chain { head, elements });
            }
            next = u16::from_le_bytes([d[14], d[15]]);
        }
    }

    fn complete(&mut self, id: u32, len: u32) {
        let slot = u64::from(self.used % self.size);
        let mut e = id.to_le_bytes().to_vec();
        e.extend(len.to_le_bytes());
        assert!(self.memory.write(self.at.device + 4 + 8 * slot, &e));
        self.set_used(self.used.wrapping_add(1));
    }

    fn set_used(&mut self, idx: u16) {
        self.used = idx;
        assert!(self.memory.write(self.at.device + 2, &idx.to_le_bytes()));
    }

    fn set_flags(&self, flags: u16) {
        assert!(self.memory.write(self.at.device, &flags.to_le_bytes()));
    }

    fn set_avail_event(&self, event: u16) {
        let at = self.at.device + 4 + 8 * u64::from(self.size);
        assert!(self.memory.write(at, &event.to_le_bytes()));
    }

    fn used_event(&self) -> u16 {
        self.u16(self.at.driver + 4 + 2 * u64::from(self.size))
    }
}

fn queue(size: u16, event_idx: bool) -> (SplitQueue, Device, DmaPool) {
    let pool = DmaPool::new("test".into(), 64 * 1024, IOVA).unwrap();
    let ring = pool.alloc(Layout::new(size).unwrap().total).unwrap();
    let q = SplitQueue::new(
        ring,
        QueueConfig {
            size,
            event_idx,
            barriers: Barriers::Platform,
        },
    )
    .unwrap();
    let d = Device {
        memory: pool.device_view(),
        at: q.addresses(),
        size,
        seen: 0,
        used: 0,
    };
    (q, d, pool)
}

fn readable(len: u32) -> Buffer {
    Buffer {
        iova: 0x1000,
        len,
        writable: false,
    }
}

fn writable(len: u32) -> Buffer {
    Buffer {
        iova: 0x2000,
        len,
        writable: true,
    }
}

// Covers: VRG-05, AVQ-04
#[test]
fn a_buffer_arrives_as_it_was_given() {
    let (mut q, mut d, _pool) = queue(8, false);
    q.add(&[readable(24), readable(9), writable(8), writable(2)], 1)
        .unwrap();
    let chain = d.take().unwrap();
    assert_eq!(
        chain.elements,
        [
            (0x1000, 24, false),
            (0x1000, 9, false),
            (0x2000, 8, true),
            (0x2000, 2, true)
        ]
    );
    assert_eq!(d.take(), None);
    d.complete(chain.head.into(), 10);
    let used = q.pop_used().unwrap().unwrap();
    assert_eq!((used.token, used.len, used.late), (1, 10, false));
    assert_eq!(q.pop_used().unwrap(), None);
    assert_eq!((q.free(), q.in_flight()), (8, 0));
}

// Covers: VRG-05
#[test]
fn buffers_that_break_the_framing_are_refused() {
    let (mut q, mut d, _pool) = queue(4, false);
    let too_long = [readable(u32::MAX), writable(1)];
    let cases: [(&[Buffer], &str); 5] = [
        (&[], "no elements"),
        (&[writable(1), readable(1)], "readable element follows"),
        (&[readable(0)], "empty"),
        (&[readable(1); 5], "more elements"),
        (&too_long, "2^32"),
    ];
    for (elements, text) in cases {
        let e = q.add(elements, 0).unwrap_err();
        assert!(
            matches!(&e, AddError::Invalid(what) if what.contains(text)),
            "{text}: {e}"
        );
    }
    assert_eq!((q.free(), q.avail_idx()), (4, 0));
    q.add(&[readable(1), writable(1)], 0).unwrap();
    q.add(&[readable(1)], 1).unwrap();
    assert_eq!(
        q.add(&[readable(1), writable(1)], 2),
        Err(AddError::Full { want: 2, free: 1 })
    );
    assert!(d.take().is_some() && d.take().is_some() && d.take().is_none());
    assert!(q.broken().is_none());
}

// Covers: VRG-08
#[test]
fn many_in_flight_out_of_order_across_the_wrap() {
    let (mut q, mut d, _pool) = queue(16, true);
    let mut in_flight: VecDeque<(u16, u64, u32)> = VecDeque::new();
    let mut token = 0u64;
    let mut popped = 0u64;
    // Indexes wrap at 65536; sizes vary, so chains get scattered.
    for round in 0..40_000u64 {
        let shape: &[Buffer] = match round % 3 {
            0 => &[readable(3), writable(5)],
            1 => &[writable(7)],
            _ => &[readable(1), readable(2), writable(11)],
        };
        while q.add(shape, token).is_ok() {
            let chain = d.take().unwrap();
            assert_eq!(chain.elements.len(), shape.len());
            let len = shape.last().unwrap().len;
            in_flight.push_back((chain.head, token, len));
            token += 1;
        }
        // Complete some, sometimes the newest first.
        for _ in 0..=(round % 4) {
            let pick = if round % 5 == 0 {
                in_flight.pop_back()
            } else {
                in_flight.pop_front()
            };
            let Some((head, token, len)) = pick else {
                break;
            };
            d.complete(head.into(), len);
            let used = q.pop_used().unwrap().unwrap();
            assert_eq!((used.token, used.len), (token, len));
            popped += 1;
        }
        assert_eq!(usize::from(q.in_flight()), in_flight.len());
    }
    assert!(popped > 66_000, "{popped}: the indexes wrapped");
}

// Covers: VRG-08
#[test]
fn what_a_device_must_not_do_breaks_the_queue() {
    type Breach = fn(&mut Device, u16);
    type Expected = fn(&QueueError) -> bool;
    let cases: [(Breach, Expected); 7] = [
        (
            |d, _| d.complete(8, 0),
            |e| matches!(e, QueueError::IdOutOfRange { id: 8, size: 8, .. }),
        ),
        (
            |d, head| d.complete(0x1_0000 + u32::from(head), 0),
            |e| matches!(e, QueueError::IdOutOfRange { id, .. } if *id >= 0x1_0000),
        ),
        (
            // The second descriptor of the chain.
            |d, head| d.complete(u32::from(head) + 1, 0),
            |e| matches!(e, QueueError::NotInFlight { .. }),
        ),
        (
            |d, _| d.complete(7, 0),
            |e| matches!(e, QueueError::NotInFlight { id: 7, .. }),
        ),
        (
            |d, head| d.complete(head.into(), 9),
            |e| {
                matches!(
                    e,
                    QueueError::UsedLength {
                        len: 9,
                        writable: 8,
                        ..
                    }
                )
            },
        ),
        (
            |d, _| d.set_used(3),
            |e| {
                matches!(
                    e,
                    QueueError::UsedIndex {
                        from: 0,
                        to: 3,
                        in_flight: 2
                    }
                )
            },
        ),
        (
            |d, _| d.set_used(0xffff),
            |e| matches!(e, QueueError::UsedIndex { to: 0xffff, .. }),
        ),
    ];
    for (i, (breach, expected)) in cases.into_iter().enumerate() {
        let (mut q, mut d, _pool) = queue(8, false);
        q.add(&[readable(24), writable(8)], 1).unwrap();
        q.add(&[readable(24), writable(8)], 2).unwrap();
        let head = d.take().unwrap().head;
        breach(&mut d, head);
        let e = q.pop_used().unwrap_err();
        assert!(expected(&e), "case {i}: {e}");
        // For ever, with the first cause.
        d.set_used(0);
        assert_eq!(q.pop_used().unwrap_err(), e);
        assert_eq!(q.broken(), Some(&e));
        assert_eq!(
            q.add(&[writable(1)], 3),
            Err(AddError::Broken(e.clone())),
            "case {i}"
        );
        assert_eq!(q.needs_notify(), Err(e.clone()));
        assert_eq!(q.enable_notifications(), Err(e));
    }
}

// Covers: VRG-08
#[test]
fn a_buffer_used_twice_breaks_the_queue() {
    let (mut q, mut d, _pool) = queue(8, false);
    q.add(&[writable(8)], 1).unwrap();
    q.add(&[writable(8)], 2).unwrap();
    let head = d.take().unwrap().head;
    d.complete(head.into(), 1);
    d.complete(head.into(), 1);
    assert_eq!(q.pop_used().unwrap().unwrap().token, 1);
    let e = q.pop_used().unwrap_err();
    assert_eq!(e, QueueError::NotInFlight { slot: 1, id: head });
}

#[test]
fn the_descriptor_table_belongs_to_the_driver_even_if_the_device_scribbles() {
    let (mut q, mut d, _pool) = queue(4, false);
    q.add(&[readable(1), writable(2)], 1).unwrap();
    let head = d.take().unwrap().head;
    for at in 0..64 {
        assert!(d.memory.write(d.at.desc + at, &[0xff]));
    }
    d.complete(head.into(), 2);
    assert_eq!(q.pop_used().unwrap().unwrap().len, 2);
    // All four descriptors are usable again, with sound links.
    q.add(&[readable(1), readable(1), writable(1), writable(1)], 2)
        .unwrap();
    assert_eq!(d.take().unwrap().elements.len(), 4);
}

// Covers: IRQ-11
#[test]
fn the_device_is_notified_only_if_it_wants_that() {
    let (mut q, d, _pool) = queue(8, false);
    assert!(!q.needs_notify().unwrap(), "nothing was added");
    q.add(&[writable(1)], 0).unwrap();
    assert!(q.has_unannounced());
    assert!(q.needs_notify().unwrap());
    assert!(!q.needs_notify().unwrap(), "once per addition");
    d.set_flags(1);
    q.add(&[writable(1)], 0).unwrap();
    assert!(!q.needs_notify().unwrap());
    d.set_flags(0);
    q.add(&[writable(1)], 0).unwrap();
    assert!(q.needs_notify().unwrap());

    let (mut q, d, _pool) = queue(8, true);
    d.set_flags(1); // meaningless with EVENT_IDX
    q.add(&[writable(1)], 0).unwrap();
    assert!(q.needs_notify().unwrap(), "avail_event is 0");
    q.add(&[writable(1)], 0).unwrap();
    assert!(!q.needs_notify().unwrap(), "avail_event has been passed");
    d.set_avail_event(3);
    q.add(&[writable(1)], 0).unwrap();
    assert!(!q.needs_notify().unwrap());
    q.add(&[writable(1)], 0).unwrap();
    q.add(&[writable(1)], 0).unwrap();
    assert!(q.needs_notify().unwrap(), "a batch that passes avail_event");
}

// Covers: IRQ-11, IRQ-12
#[test]
fn interrupts_are_asked_for_without_losing_a_buffer() {
    let (mut q, mut d, _pool) = queue(8, false);
    assert_eq!(d.u16(d.at.driver), 0, "wanted at first");
    q.disable_notifications().unwrap();
    assert_eq!(d.u16(d.at.driver), 1);
    q.add(&[writable(1)], 0).unwrap();
    let head = d.take().unwrap().head;
    d.complete(head.into(), 0);
    assert!(q.enable_notifications().unwrap(), "one is there already");
    assert_eq!(d.u16(d.at.driver), 0);
    q.pop_used().unwrap().unwrap();
    assert!(!q.enable_notifications().unwrap());

    let (mut q, mut d, _pool) = queue(8, true);
    assert_eq!(d.used_event(), 0);
    q.disable_notifications().unwrap();
    assert_eq!(d.used_event(), 0xffff);
    q.add(&[writable(1)], 0).unwrap();
    let head = d.take().unwrap().head;
    d.complete(head.into(), 0);
    q.pop_used().unwrap().unwrap();
    assert!(!q.enable_notifications().unwrap());
    assert_eq!(d.used_event(), 1);
    assert_eq!(d.u16(d.at.driver), 0, "flags stay 0 with EVENT_IDX");
}

// Covers: VRG-11
#[test]
fn a_given_up_buffer_stays_with_the_device_until_it_is_used_or_reset() {
    let (mut q, mut d, pool) = queue(4, false);
    let id = q.add(&[readable(1), writable(4)], 7).unwrap();
    let head = d.take().unwrap().head;
    assert!(q.quarantine(id));
    assert!(!q.quarantine(id), "once");
    assert!(!q.quarantine(3) && !q.quarantine(99));
    assert_eq!((q.in_flight(), q.quarantined(), q.free()), (1, 1, 2));
    // Its descriptors are not used for others.
    let other = q.add(&[readable(1), writable(4)], 8).unwrap();
    assert_ne!(other, id);
    assert!(q.add(&[writable(1)], 9).is_err());
    d.complete(head.into(), 4);
    let used = q.pop_used().unwrap().unwrap();
    assert!(used.late && used.token == 7);
    assert_eq!((q.in_flight(), q.quarantined(), q.free()), (1, 0, 2));
    q.release_after_reset();
    assert_eq!(pool.stats().live, 0);
    assert_eq!(pool.stats().leaked, 0);
}

#[test]
fn ring_memory_must_be_large_enough() {
    let pool = DmaPool::new("test".into(), 4096, IOVA).unwrap();
    let ring = pool.alloc(4096).unwrap();
    assert_eq!(ring.load_u64(0, Order::Relaxed).unwrap(), 0);
    let config = QueueConfig {
        size: 256,
        event_idx: false,
        barriers: Barriers::Processor,
    };
    assert!(matches!(
        SplitQueue::new(ring, config),
        Err(QueueError::Internal(_))
    ));
}
