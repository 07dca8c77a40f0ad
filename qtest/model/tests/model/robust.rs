// SPDX-License-Identifier: GPL-2.0-or-later
//! Whatever a driver writes: no panic, no endless loop, no access outside its memory.

use proptest::prelude::*;
use virtio_modern_spec::admin::{group, Reply};
use virtio_modern_spec::common as reg;
use virtio_pf_model::testing::{echo_model, Buffer, Driver, TestMemory, MODERN_FEATURES};
use virtio_pf_model::{
    Access, Action, DeviceControl, FaultRule, FunctionId, Leniency, Model, NotifyLayout,
};

use crate::{config, memory, ready, vf, BASE, MEMORY};

#[derive(Clone, Debug)]
enum Op {
    ConfigRead(u8, u16, usize),
    ConfigWrite(u8, u16, Vec<u8>),
    BarRead(u8, u8, u64, usize),
    BarWrite(u8, u8, u64, Vec<u8>),
    Common(u8, usize, u64),
    Memory(u64, Vec<u8>),
    Tick(u64),
    Reset(u8),
    Disconnect(u8),
    Triggers(u8, u16, Vec<bool>),
    NoIrqs(u8),
    Hold(u8, bool),
    Resize(u8, u64),
    Frame(Vec<u8>),
    Fault(u16, u8),
    NoFaults,
    Break(u8),
}

fn bytes(n: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..n)
}

/// Offsets that mean something, and any other.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..0x80,
        2 => prop::sample::select(vec![0x1000u64, 0x2000, 0x2004, 0x2008, 0x3000, 0x3020, 0x40, 0x80]),
        1 => 0u64..0x8000,
        1 => any::<u64>(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let f = 0u8..4;
    let bar = prop_oneof![8 => Just(2u8), 3 => Just(1), 3 => Just(4), 1 => any::<u8>()];
    let space = prop_oneof![4 => 0u16..0x180, 1 => any::<u16>()];
    prop_oneof![
        (f.clone(), space.clone(), 0usize..40).prop_map(|(f, o, n)| Op::ConfigRead(f, o, n)),
        (f.clone(), space, bytes(12)).prop_map(|(f, o, d)| Op::ConfigWrite(f, o, d)),
        (f.clone(), bar.clone(), offset(), 0usize..16)
            .prop_map(|(f, b, o, n)| Op::BarRead(f, b, o, n)),
        (f.clone(), bar, offset(), bytes(10)).prop_map(|(f, b, o, d)| Op::BarWrite(f, b, o, d)),
        (
            f.clone(),
            0usize..20,
            prop_oneof![0u64..20, (0u64..128).prop_map(|p| BASE + p * 0x1000)]
        )
            .prop_map(|(f, r, v)| Op::Common(f, r, v)),
        (0u64..0x3000, bytes(80)).prop_map(|(o, d)| Op::Memory(BASE + o, d)),
        any::<u32>().prop_map(|t| Op::Tick(t.into())),
        f.clone().prop_map(Op::Reset),
        f.clone().prop_map(Op::Disconnect),
        (
            f.clone(),
            0u16..5,
            prop::collection::vec(any::<bool>(), 0..6)
        )
            .prop_map(|(f, a, v)| Op::Triggers(f, a, v)),
        f.clone().prop_map(Op::NoIrqs),
        (f.clone(), any::<bool>()).prop_map(|(f, up)| Op::Hold(f, up)),
        (f.clone(), any::<u64>()).prop_map(|(f, s)| Op::Resize(f, s)),
        bytes(64).prop_map(Op::Frame),
        (0u16..9, 0u8..7).prop_map(|(o, a)| Op::Fault(o, a)),
        Just(Op::NoFaults),
        f.prop_map(Op::Break),
    ]
}

fn id(f: u8) -> FunctionId {
    match f {
        0 => FunctionId::Pf,
        n => vf(n.into()),
    }
}

fn action(n: u8) -> Action {
    match n {
        0 => Action::Status {
            status: 5,
            qualifier: 9,
        },
        1 => Action::Delay { ms: 1 },
        2 => Action::Drop,
        3 => Action::ShortReply { len: 5 },
        4 => Action::UsedLength { len: 77 },
        5 => Action::Stuck,
        _ => Action::NeedsReset,
    }
}

fn apply(m: &mut Model, mem: &TestMemory, op: &Op) {
    match op {
        Op::ConfigRead(f, o, n) => m.config_read(id(*f), *o, &mut vec![0; *n]),
        Op::ConfigWrite(f, o, d) => m.config_write(id(*f), *o, d),
        Op::BarRead(f, b, o, n) => m.bar_read(id(*f), *b, *o, &mut vec![0; *n]),
        Op::BarWrite(f, b, o, d) => m.bar_write(id(*f), *b, *o, d),
        Op::Common(f, r, v) => {
            let (at, n) = reg::FIELDS[*r % reg::FIELDS.len()];
            let n = usize::from(n.min(4));
            m.bar_write(id(*f), 2, at, &v.to_le_bytes()[..n]);
        }
        Op::Memory(at, d) => mem.put(*at, d),
        Op::Tick(t) => m.tick(*t),
        Op::Reset(f) => m.reset_function(id(*f)),
        Op::Disconnect(f) => m.disconnected(id(*f)),
        Op::Triggers(f, a, v) => m.set_irq_triggers(id(*f), *a, v),
        Op::NoIrqs(f) => m.disable_irqs(id(*f)),
        Op::Hold(f, up) => {
            let _done = m.control(id(*f), &DeviceControl::Link { up: *up });
        }
        Op::Resize(f, sectors) => {
            let sectors = *sectors;
            let _done = m.control(id(*f), &DeviceControl::Resize { sectors });
        }
        Op::Frame(d) => m.rx_frame(d),
        Op::Fault(o, a) => {
            let _full = m.faults().add(FaultRule::on(*o, action(*a)));
        }
        Op::NoFaults => m.faults().clear(),
        Op::Break(f) => m.break_function(id(*f), "random"),
    }
}

/// A descriptor that is half sensible.
type Desc = (u64, u32, u16, u16);

fn desc() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        6 => (0u64..0x400).prop_map(|o| BASE + 0x4000 + o * 16),
        1 => Just(BASE + MEMORY as u64 - 8),
        1 => any::<u64>(),
        1 => Just(u64::MAX - 3),
    ];
    let len = prop_oneof![6 => 0u32..96, 2 => (0u32..20).prop_map(|n| n * 16), 1 => any::<u32>()];
    (addr, len, 0u16..8, 0u16..18)
}

fn raw(d: &Desc) -> Vec<u8> {
    let mut b = d.0.to_le_bytes().to_vec();
    b.extend_from_slice(&d.1.to_le_bytes());
    b.extend_from_slice(&d.2.to_le_bytes());
    b.extend_from_slice(&d.3.to_le_bytes());
    b
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // Covers: IRQ-12, VRG-06, ADM-04
    #[test]
    fn any_sequence_of_accesses_is_survived(
        ops in prop::collection::vec(op(), 1..120),
        started in any::<bool>(),
        delay in prop::sample::select(vec![0u64, 1_000_000]),
    ) {
        let mut cfg = config(2);
        cfg.layout = NotifyLayout::MemberFirst;
        cfg.leniency = Leniency { width: started, ..Leniency::default() };
        cfg.knobs.reset_delay_ns = delay;
        cfg.knobs.pf_intx = true;
        let mem = memory();
        let mut m = if started {
            let (mut m, c) = ready(cfg, 2);
            m.set_memory(FunctionId::Pf, mem.clone());
            drop(c);
            m
        } else {
            echo_model(cfg).unwrap()
        };
        for n in 0..=2 {
            m.set_memory(id(n), mem.clone());
        }
        let mut seen = 0;
        for o in &ops {
            apply(&mut m, &mem, o);
            seen += m.drain_effects().count();
            let _next = m.next_deadline();
        }
        // Held buffers completed after a reset are the test device's own doing; nothing else may
        // ask for memory that is out of reach.
        let held = ops.iter().any(|o| matches!(o, Op::Hold(..)));
        for n in 0..=2 {
            let k = m.function_counters(id(n)).unwrap();
            prop_assert!(held || k.dma_forbidden == 0);
        }
        prop_assert!(seen <= ops.len() * 200);
    }

    // What drivers are held to: VRG-05
    // Covers: VRG-06
    #[test]
    fn a_random_ring_is_served_or_stops_the_device(
        direct in prop::collection::vec(desc(), 16),
        tables in prop::collection::vec(desc(), 24),
        head in 0u16..18,
        legacy in any::<bool>(),
    ) {
        let (mut m, mut c) = ready(config(1), 1);
        let mem = TestMemory::recording(BASE, MEMORY);
        let d = Driver::new(&mut m, vf(1), &mem);
        let mut ring = if legacy {
            c.set(&mut m, 1, 4, 4, 1 << 28);
            let r = virtio_pf_model::testing::DriverRing::legacy(&mem, 16);
            c.set(&mut m, 1, 8, 4, r.pfn().into());
            r
        } else {
            prop_assert!(d.negotiate(&mut m, MODERN_FEATURES));
            let r = d.queue(&mut m, 0, 0xffff);
            d.driver_ok(&mut m);
            r
        };
        for (i, x) in tables.iter().enumerate() {
            mem.put(BASE + 0x4000 + 16 * i as u64, &raw(x));
        }
        for (i, x) in direct.iter().enumerate() {
            mem.put(ring.place.desc + 16 * i as u64, &raw(x));
        }
        // Where the device may write: what any writable descriptor names.
        let mut writable: Vec<(u64, u64)> = vec![(ring.place.used, 6 + 8 * 16)];
        let mut consider = |x: &Desc| {
            if x.2 & 2 != 0 {
                writable.push((x.0, x.1.into()));
            }
        };
        for x in &direct {
            consider(x);
            if x.2 & 4 != 0 {
                for k in 0..u64::from(x.1 / 16).min(64) {
                    let at = x.0.wrapping_add(16 * k);
                    if at >= BASE && at.checked_add(16).is_some_and(|e| e <= BASE + MEMORY as u64) {
                        let b = mem.get(at, 16);
                        let word = |i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap());
                        let tail = word(8);
                        consider(&(word(0), tail as u32, (tail >> 32) as u16, (tail >> 48) as u16));
                    }
                }
            }
        }
        mem.touches();
        ring.publish(head);
        if legacy {
            c.set(&mut m, 1, 16, 2, 0);
        } else {
            d.kick(&mut m, 0);
        }
        for t in mem.touches() {
            let end = t.iova + t.len as u64;
            let ok = t.access == Access::Read
                || writable.iter().any(|(a, n)| t.iova >= *a && end <= a.saturating_add(*n));
            prop_assert!(ok, "{t:x?}");
        }
        let broken = c.get(&mut m, 1, 18, 1) & 64 != 0;
        prop_assert_eq!(ring.poll().is_some(), !broken);
        prop_assert_eq!(m.function_counters(vf(1)).unwrap().dma_forbidden, 0);
        // A reset heals.
        c.set(&mut m, 1, 18, 1, 0);
        let mut again = virtio_pf_model::testing::DriverRing::legacy(&mem, 16);
        c.set(&mut m, 1, 8, 4, again.pfn().into());
        let at = mem.alloc(16, 8);
        again.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
        c.set(&mut m, 1, 16, 2, 0);
        prop_assert_eq!(again.poll(), Some((0, 8)));
    }

    // Covers: ADM-04, ADM-05, AVQ-05, AVQ-08
    #[test]
    fn any_command_gets_a_consistent_answer(
        opcode in prop_oneof![8 => 0u16..8, 1 => any::<u16>()],
        group_type in prop_oneof![6 => Just(group::SRIOV), 1 => 0u16..4],
        member in prop_oneof![6 => 1u64..3, 1 => any::<u64>()],
        at in any::<u8>(),
        data in bytes(40),
        readable in 0usize..80,
        writable in 0usize..100,
        cuts in (1usize..40, 1usize..40),
    ) {
        // Opcode 1 with a wild list would only block what follows.
        let (mut m, mut c) = ready(config(2), 2);
        let mut h = virtio_modern_spec::admin::Request { opcode, group_type, member }
            .encode()
            .to_vec();
        h.push(at % 40);
        h.resize(32, 0);
        h.extend_from_slice(&data);
        h.truncate(readable.max(1));
        let before = registers(&mut m);
        let cuts = (cuts.0.max(h.len().div_ceil(50)), cuts.1.max(writable.div_ceil(50)));
        let done = c.send_cut(&mut m, &h, writable, cuts, false);
        prop_assert!(done.is_some(), "every command completes");
        let done = done.unwrap();
        prop_assert!(done.used as usize <= writable);
        prop_assert!(done.bytes[done.used as usize..].iter().all(|b| *b == 0xaa));
        if writable < 8 {
            prop_assert_eq!(done.used as usize, writable);
            return Ok(());
        }
        let reply = Reply::decode(&done.bytes).unwrap();
        prop_assert_eq!(reply.status == 0, reply.qualifier == 0);
        prop_assert_eq!(&done.bytes[4..8], &[0; 4]);
        if reply.status != 0 {
            prop_assert_eq!(reply.status, 22);
            prop_assert_eq!(registers(&mut m), before);
        }
        prop_assert_eq!(c.pf.get(&mut m, reg::DEVICE_STATUS), 0xf);
    }
}

/// Everything of both VFs that shows without side effects.
fn registers(m: &mut Model) -> Vec<u8> {
    let mut all = Vec::new();
    for n in 1..=2 {
        for (at, len) in reg::FIELDS {
            if at == reg::CONFIG_GENERATION {
                continue;
            }
            for half in (0..len).step_by(4) {
                let mut b = vec![0; len.min(4).into()];
                m.bar_read(vf(n), 2, at + u64::from(half), &mut b);
                all.extend(b);
            }
        }
        let mut config = vec![0; 96];
        m.bar_read(vf(n), 2, 0x3000, &mut config);
        all.extend(config);
    }
    all
}
