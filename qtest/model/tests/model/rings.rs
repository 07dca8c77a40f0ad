// SPDX-License-Identifier: GPL-2.0-or-later
//! Descriptor chains, good and broken (VRG), and what DMA may touch.

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features;
use virtio_modern_spec::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use virtio_pci_spec::pci;
use virtio_pf_model::testing::{Buffer, Driver, DriverRing, TestMemory, MODERN_FEATURES};
use virtio_pf_model::{Access, Event, Model, RingFault, Violation};

use crate::{config, memory, ready, vf, violations, BASE, MEMORY};

const N: u16 = DESC_F_NEXT;
const W: u16 = DESC_F_WRITE;
const I: u16 = DESC_F_INDIRECT;

struct Setup {
    m: Model,
    d: Driver,
    ring: DriverRing,
}

fn setup_with(bits: u64, lenient: bool) -> Setup {
    let mut cfg = config(1);
    if lenient {
        cfg.leniency.enable("lenient-chain").unwrap();
    }
    let (mut m, _c) = ready(cfg, 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, bits));
    let ring = d.queue(&mut m, 0, 0xffff);
    d.driver_ok(&mut m);
    m.drain_events();
    Setup { m, d, ring }
}

fn setup() -> Setup {
    setup_with(MODERN_FEATURES, false)
}

impl Setup {
    fn broken(&mut self) -> Option<RingFault> {
        let f = self.m.drain_events().find_map(|r| match r.event {
            Event::NeedsReset { ring, .. } => ring,
            _ => None,
        });
        if f.is_some() {
            assert!(self.d.get(&mut self.m, reg::DEVICE_STATUS) & 64 != 0);
        }
        f
    }
}

// What drivers are held to: VRG-05
// Covers: VRG-06, INI-06
#[test]
fn broken_rings_stop_the_device_by_name() {
    let far = 0xdead_0000_0000;
    type Case = (&'static str, fn(&mut Setup, u64), fn(RingFault) -> bool);
    let cases: [Case; 15] = [
        (
            "head outside",
            |s, _| s.ring.publish(16),
            |f| f == RingFault::DescriptorIndex { index: 16 },
        ),
        (
            "next outside",
            |s, a| {
                s.ring.set_desc(0, a, 8, N, 16);
                s.ring.publish(0);
            },
            |f| f == RingFault::DescriptorIndex { index: 16 },
        ),
        (
            "loop",
            |s, a| {
                s.ring.set_desc(0, a, 8, N, 1);
                s.ring.set_desc(1, a, 8, N, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::ChainTooLong,
        ),
        (
            "readable after writable",
            |s, a| {
                s.ring.set_desc(0, a, 8, N | W, 1);
                s.ring.set_desc(1, a, 8, 0, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::ReadableAfterWritable,
        ),
        (
            "too many bytes",
            |s, a| {
                s.ring.set_desc(0, a, u32::MAX, N, 1);
                s.ring.set_desc(1, a, 2, 0, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::ChainTooBig,
        ),
        (
            "indirect with next",
            |s, a| {
                s.ring.set_desc(0, a, 16, I | N, 1);
                s.ring.publish(0);
            },
            |f| f == RingFault::Indirect,
        ),
        (
            "nested indirect",
            |s, a| {
                s.ring.put_desc(a, 0, a, 16, I, 0);
                s.ring.set_desc(0, a, 16, I, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::Indirect,
        ),
        (
            "odd indirect table",
            |s, a| {
                s.ring.set_desc(0, a, 24, I, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::IndirectLength { len: 24 },
        ),
        (
            "empty indirect table",
            |s, a| {
                s.ring.set_desc(0, a, 0, I, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::IndirectLength { len: 0 },
        ),
        (
            "indirect table longer than the queue",
            |s, a| {
                s.ring.set_desc(0, a, 17 * 16, I, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::IndirectLength { len: 17 * 16 },
        ),
        (
            "indirect next outside the table",
            |s, a| {
                s.ring.put_desc(a, 0, a, 8, N, 1);
                s.ring.set_desc(0, a, 16, I, 0);
                s.ring.publish(0);
            },
            |f| f == RingFault::DescriptorIndex { index: 1 },
        ),
        (
            "indirect table out of reach",
            |s, _| {
                s.ring.set_desc(0, 0xdead_0000_0000, 16, I, 0);
                s.ring.publish(0);
            },
            |f| matches!(f, RingFault::DescriptorUnreachable { .. }),
        ),
        (
            "indirect table at the end of the address space",
            |s, _| {
                s.ring.set_desc(0, u64::MAX - 7, 32, I, 0);
                s.ring.publish(0);
            },
            |f| matches!(f, RingFault::DescriptorUnreachable { .. }),
        ),
        (
            "avail.idx jumps",
            |s, _| s.ring.set_avail_idx(17),
            |f| f == RingFault::AvailIndex { idx: 17, seen: 0 },
        ),
        (
            "avail.idx goes back",
            |s, _| s.ring.set_avail_idx(0xffff),
            |f| matches!(f, RingFault::AvailIndex { .. }),
        ),
    ];
    for (name, make, expected) in cases {
        let mut s = setup();
        let a = s.ring.memory.alloc(64, 16);
        make(&mut s, a);
        s.d.kick(&mut s.m, 0);
        let fault = s.broken();
        assert!(fault.is_some_and(expected), "{name}: {fault:?}");
        assert_eq!(s.ring.used_idx(), 0, "{name}");
        // It stays stopped until a reset, and works after one.
        s.ring.set_avail_idx(0);
        s.d.kick(&mut s.m, 0);
        assert_eq!(s.broken(), None, "{name}: once");
        assert!(s.d.negotiate(&mut s.m, MODERN_FEATURES));
        let mut ring = s.d.queue(&mut s.m, 0, 0xffff);
        s.d.driver_ok(&mut s.m);
        ring.add(&[Buffer::readable(a, 8), Buffer::writable(a + 8, 8)]);
        s.d.kick(&mut s.m, 0);
        assert_eq!(ring.poll(), Some((0, 8)), "{name}");
    }
    assert!(far > BASE);
}

// Covers: VRG-06
#[test]
fn unreachable_rings_and_buffers() {
    for part in 0..3 {
        let (mut m, _c) = ready(config(1), 1);
        let d = Driver::new(&mut m, vf(1), &memory());
        assert!(d.negotiate(&mut m, MODERN_FEATURES));
        let mut ring = d.queue(&mut m, 1, 0xffff);
        d.set(&mut m, reg::QUEUE_RESET, 1);
        let far = 0x7777_0000;
        for (i, (f, at)) in [
            (reg::QUEUE_DESC, ring.place.desc),
            (reg::QUEUE_DRIVER, ring.place.avail),
            (reg::QUEUE_DEVICE, ring.place.used),
        ]
        .into_iter()
        .enumerate()
        {
            d.set(&mut m, f, if i == part { far } else { at });
        }
        d.set(&mut m, reg::QUEUE_ENABLE, 1);
        d.driver_ok(&mut m);
        let at = d.memory.alloc(16, 8);
        ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
        d.kick(&mut m, 1);
        assert_eq!(d.get(&mut m, reg::DEVICE_STATUS) & 64, 64, "part {part}");
    }
    for (read, write) in [(0x99, BASE), (BASE, 0x99), (BASE + MEMORY as u64 - 4, BASE)] {
        let mut s = setup();
        s.ring
            .add(&[Buffer::readable(read, 8), Buffer::writable(write, 8)]);
        s.d.kick(&mut s.m, 0);
        let fault = s.broken();
        assert!(
            matches!(fault, Some(RingFault::BufferUnreachable { .. })),
            "{fault:?}"
        );
    }
}

// Covers: VRG-06, VRG-09
#[test]
fn flags_that_do_not_matter_are_ignored() {
    let mut s = setup();
    let a = s.ring.memory.alloc(64, 16);
    // WRITE on the descriptor of an indirect table; a chain that ends in one.
    s.ring.put_desc(a, 0, a + 32, 4, W, 0);
    s.ring.set_desc(0, a + 40, 8, N, 1);
    s.ring.set_desc(1, a, 16, I | W, 7);
    s.ring.publish(0);
    s.d.kick(&mut s.m, 0);
    assert_eq!(s.broken(), None);
    assert_eq!(s.ring.poll(), Some((0, 4)), "what was really written");
}

// What drivers are held to: VRG-05
#[test]
fn indirect_needs_its_feature() {
    let mut s = setup_with(1 << features::VERSION_1, false);
    let a = s.ring.memory.alloc(64, 16);
    s.ring
        .add_indirect(&[Buffer::readable(a, 8), Buffer::writable(a + 8, 8)]);
    s.d.kick(&mut s.m, 0);
    assert_eq!(s.broken(), Some(RingFault::Indirect));
}

// What drivers are held to: VRG-05
#[test]
fn long_chains_are_a_leniency() {
    for lenient in [false, true] {
        let mut s = setup_with(MODERN_FEATURES, lenient);
        let a = s.ring.memory.alloc(64, 16);
        let mut pieces = vec![Buffer::readable(a, 1); 20];
        pieces.push(Buffer::writable(a + 32, 20));
        s.ring.add_indirect(&pieces);
        s.d.kick(&mut s.m, 0);
        assert_eq!(s.broken().is_none(), lenient);
        assert_eq!(s.ring.poll().is_some(), lenient);
    }
}

// Covers: VRG-07, VRG-09, VRG-10
#[test]
fn any_layout_gives_the_same_bytes() {
    let mut s = setup();
    let text: Vec<u8> = (0..200).collect();
    let a = s.ring.memory.alloc(200, 16);
    s.ring.memory.put(a, &text);
    for cut in [1usize, 13, 25, 50, 200] {
        for indirect in [false, true] {
            let b = s.ring.memory.alloc(256, 16);
            let mut pieces = Vec::new();
            let limit = if cut == 1 { 8 } else { 200 };
            for at in (0..limit).step_by(cut) {
                let n = cut.min(limit - at) as u32;
                pieces.push(Buffer::readable(a + at as u64, n));
            }
            for at in (0..limit).step_by(limit.div_ceil(3)) {
                pieces.push(Buffer::writable(b + at as u64, limit.div_ceil(3) as u32));
            }
            if pieces.len() > 16 {
                continue;
            }
            if indirect {
                s.ring.add_indirect(&pieces);
            } else {
                s.ring.add(&pieces);
            }
            s.d.kick(&mut s.m, 0);
            let got = s.ring.poll();
            assert_eq!(got.map(|g| g.1 as usize), Some(limit), "{cut} {indirect}");
            assert_eq!(s.ring.memory.get(b, limit), text[..limit]);
        }
    }
}

// Covers: VRG-06
#[test]
fn only_what_the_ring_gives_is_touched() {
    let mem = TestMemory::recording(BASE, MEMORY);
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &mem);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut ring = d.queue(&mut m, 0, 0xffff);
    d.driver_ok(&mut m);
    let (a, b) = (mem.alloc(8, 8), mem.alloc(16, 8));
    let pieces = [
        Buffer::readable(a, 4),
        Buffer::readable(a + 4, 4),
        Buffer::writable(b, 16),
    ];
    let head = ring.add_indirect(&pieces);
    let table = u64::from(mem.get32(ring.place.desc + 16 * u64::from(head)));
    mem.touches();
    d.kick(&mut m, 0);
    let size = u64::from(ring.size);
    let p = ring.place;
    for t in mem.touches() {
        let end = t.iova + t.len as u64;
        let within = |start: u64, len: u64| t.iova >= start && end <= start + len;
        let allowed = match t.access {
            Access::Read => {
                within(p.desc, 16 * size)
                    || within(p.avail, 6 + 2 * size)
                    || within(a, 8)
                    || within(table, 48)
                    || within(p.used, 6 + 8 * size)
            }
            Access::Write => within(b, 16) || within(p.used, 6 + 8 * size),
        };
        assert!(allowed, "{t:x?}");
    }
    assert_eq!(ring.poll(), Some((0, 8)));
    assert_eq!(mem.get(b + 8, 8), [0; 8], "behind the data");
}

// What drivers are held to: VRG-11
// Covers: INI-07
#[test]
fn bus_master_gates_dma() {
    let mut s = setup();
    s.d.set_command(&mut s.m, pci::COMMAND_MEMORY);
    let a = s.ring.memory.alloc(16, 8);
    s.ring
        .add(&[Buffer::readable(a, 8), Buffer::writable(a + 8, 8)]);
    violations(&mut s.m);
    s.d.kick(&mut s.m, 0);
    assert_eq!(s.ring.poll(), None);
    assert_eq!(violations(&mut s.m), [Violation::BusMasterOff { queue: 0 }]);
    s.d.set_command(&mut s.m, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
    assert_eq!(s.ring.poll(), Some((0, 8)), "served when it may be");
    assert_eq!(s.m.function_counters(vf(1)).unwrap().dma_forbidden, 0);
}

// Covers: IRQ-12
#[test]
fn a_driver_that_refills_forever_does_not_keep_the_model() {
    // 16 entries can never hold more than the budget; the index is what a driver could race with.
    let mut s = setup();
    let a = s.ring.memory.alloc(16, 8);
    for _ in 0..20_000 {
        s.ring
            .add(&[Buffer::readable(a, 8), Buffer::writable(a + 8, 8)]);
        s.d.kick(&mut s.m, 0);
        assert!(s.ring.poll().is_some());
    }
    assert_eq!(s.m.function_counters(vf(1)).unwrap().buffers, 20_000);
}

// What drivers are held to: VRG-05
#[test]
fn a_chain_may_be_as_long_as_the_queue() {
    for (direct, indirect, fits) in [(14, 2, true), (15, 2, false), (0, 16, true)] {
        let mut s = setup();
        let a = s.ring.memory.alloc(64, 16);
        let table = s.ring.memory.alloc(16 * indirect, 16);
        for i in 0..indirect as u16 {
            let last = u64::from(i) + 1 == indirect;
            let (flags, at) = if last { (W, a + 32) } else { (N, a) };
            s.ring.put_desc(table, i, at, 1, flags, i + 1);
        }
        for i in 0..direct {
            s.ring.set_desc(i, a, 1, N, i + 1);
        }
        s.ring.set_desc(direct, table, 16 * indirect as u32, I, 0);
        s.ring.publish(0);
        s.d.kick(&mut s.m, 0);
        let fault = s.broken();
        let want = (!fits).then_some(RingFault::ChainTooLong);
        assert_eq!(fault, want, "{direct} and {indirect}");
        assert_eq!(s.ring.poll().is_some(), fits);
    }
}
