// SPDX-License-Identifier: GPL-2.0-or-later
//! The legacy registers of a VF through admin commands (LEG, and LIO and INI where the device side
//! answers for them).

use virtio_modern_spec::admin::{group, opcode, qualifier, status};
use virtio_modern_spec::common as reg;
use virtio_pci_spec::{config as layout, DeviceType};
use virtio_pf_model::testing::{AdminClient, Buffer, Driver, DriverRing, TestMemory};
use virtio_pf_model::{DeviceControl, FunctionId, ModelConfig, Violation};

use crate::{config, memory, ready, vf, violations, BASE};

const BAD: (u16, u16) = (status::EINVAL, qualifier::INVALID_FIELD);

// Covers: LEG-03
#[test]
fn data_is_little_endian() {
    let (mut m, mut c) = ready(config(1), 1);
    let sectors = 0x0102_0304_0506_0708;
    m.control(vf(1), &DeviceControl::Resize { sectors })
        .unwrap();
    let d = c.config_read(&mut m, 1, 0, 8);
    assert_eq!(d.result(), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(c.config_read(&mut m, 1, 4, 4).result(), [4, 3, 2, 1]);
    let d = c.common_read(&mut m, 1, 12, 2);
    assert_eq!(d.result(), [16, 0]);
}

// Covers: LEG-04, LEG-06, LEG-11, LIO-02
#[test]
fn header_accesses_lie_in_one_field() {
    let (mut m, mut c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for msix in [false, true, false] {
        d.set_msix(&mut m, msix, false);
        for (at, n, fits) in [
            (0u8, 4usize, true),
            (1, 2, true),
            (3, 1, true),
            (2, 4, false),
            (0, 8, false),
            (0, 0, false),
            (12, 2, true),
            (12, 4, false),
            (18, 1, true),
            (18, 2, false),
            (19, 1, true),
            (20, 2, msix),
            (22, 2, msix),
            (23, 1, msix),
            (20, 4, false),
            (24, 1, false),
            (255, 1, false),
            (255, 255, false),
        ] {
            let got = c.common_read(&mut m, 1, at, n);
            let want = if fits { (0, 0) } else { BAD };
            assert_eq!(got.status(), want, "read ({at},{n}) msix {msix}");
            assert_eq!(got.used as usize, 8 + n, "zeros where it failed");
            if at != 18 && n <= 8 {
                let got = c.common_write(&mut m, 1, at, &vec![0; n]);
                assert_eq!(got.status(), want, "write ({at},{n}) msix {msix}");
            }
        }
    }
}

// What drivers are held to: LEG-12
// Covers: LEG-05, RNG-01
#[test]
fn configuration_accesses_lie_in_one_field() {
    type Rows = &'static [(u8, usize, bool)];
    let cases: [(DeviceType, Rows); 4] = [
        (
            DeviceType::Net,
            &[
                (0, 6, true),
                (2, 3, true),
                (4, 4, false),
                (6, 2, true),
                (8, 2, true),
                (10, 2, true),
                (5, 2, false),
                (28, 1, false),
                (27, 2, false),
                (0, 0, false),
            ],
        ),
        (
            DeviceType::Block,
            &[
                (0, 8, true),
                (4, 4, true),
                (4, 8, false),
                (57, 3, true),
                (56, 2, false),
            ],
        ),
        (
            DeviceType::Entropy,
            &[(0, 1, false), (0, 0, false), (200, 4, false)],
        ),
        (
            DeviceType::P9,
            &[(0, 2, true), (2, 8, true), (2, 9, false), (1, 2, false)],
        ),
    ];
    for (t, rows) in cases {
        let (mut m, mut c) = ready(ModelConfig::new(t, 1), 1);
        for (at, n, fits) in rows {
            let got = c.config_read(&mut m, 1, *at, *n);
            let want = if *fits { (0, 0) } else { BAD };
            assert_eq!(got.status(), want, "{t:?} read ({at},{n})");
            if *n > 0 {
                let got = c.config_write(&mut m, 1, *at, &vec![0x77; *n]);
                assert_eq!(got.status(), want, "{t:?} write ({at},{n})");
            }
        }
        let crossed = violations(&mut m)
            .iter()
            .any(|v| matches!(v, Violation::CrossesFields { .. }));
        assert!(crossed);
    }
}

// Open points: O-18
// Covers: LEG-06, VRG-02, LIO-05, LIO-06
#[test]
fn registers_read_back() {
    let (mut m, mut c) = ready(config(1), 1);
    let offered = c.get(&mut m, 1, 0, 4);
    // Driver features: what was offered of what was written, the last write counts.
    c.set(&mut m, 1, 4, 4, 0xffff_ffff);
    assert_eq!(c.get(&mut m, 1, 4, 4), offered);
    c.set(&mut m, 1, 4, 4, 0x2001_0005);
    assert_eq!(c.get(&mut m, 1, 4, 4), 0x2000_0005);
    c.set(&mut m, 1, 7, 1, 0);
    assert_eq!(c.get(&mut m, 1, 4, 4), 5, "one byte of it");
    // Read-only fields.
    for (at, n) in [(0, 4), (12, 2), (19, 1)] {
        let before = c.get(&mut m, 1, at, n);
        c.set(&mut m, 1, at, n, 0xffff_ffff);
        assert_eq!(c.get(&mut m, 1, at, n), before);
    }
    // Queues.
    for q in [0, 1] {
        c.set(&mut m, 1, 14, 2, q);
        assert!(c.get(&mut m, 1, 12, 2).is_power_of_two());
        c.set(&mut m, 1, 8, 4, 0x100 + q);
    }
    for q in [0, 1] {
        c.set(&mut m, 1, 14, 2, q);
        assert_eq!(c.get(&mut m, 1, 8, 4), 0x100 + q);
    }
    // Notify reads what was written last.
    assert_eq!(c.get(&mut m, 1, 16, 2), 0);
    c.set(&mut m, 1, 16, 2, 1);
    assert_eq!(c.get(&mut m, 1, 16, 2), 1);
}

// Open points: O-24, O-25
#[test]
fn queue_address_zero_and_queues_that_do_not_exist() {
    let (mut m, mut c) = ready(config(1), 1);
    for q in [0, 1] {
        c.set(&mut m, 1, 14, 2, q);
        c.set(&mut m, 1, 8, 4, 0x200);
    }
    c.set(&mut m, 1, 8, 4, 0);
    assert_eq!(c.get(&mut m, 1, 8, 4), 0);
    c.set(&mut m, 1, 14, 2, 0);
    assert_eq!(c.get(&mut m, 1, 8, 4), 0x200, "only that queue");
    for q in [2u64, 1024, 0xffff] {
        c.set(&mut m, 1, 14, 2, q);
        assert_eq!(c.get(&mut m, 1, 14, 2), q);
        assert_eq!(c.get(&mut m, 1, 12, 2), 0);
        c.set(&mut m, 1, 8, 4, 0x300);
        assert_eq!(c.get(&mut m, 1, 8, 4), 0);
    }
}

/// A legacy driver's queue 0, set up by admin commands only.
fn legacy_queue(
    m: &mut virtio_pf_model::Model,
    c: &mut AdminClient,
    mem: &std::sync::Arc<TestMemory>,
) -> DriverRing {
    let _d = Driver::new(m, vf(1), mem);
    c.set(m, 1, 14, 2, 0);
    let size = c.get(m, 1, 12, 2) as u16;
    let ring = DriverRing::legacy(mem, size);
    c.set(m, 1, 8, 4, ring.pfn().into());
    ring
}

fn echo(ring: &mut DriverRing) -> (u64, u64) {
    let (a, b) = (ring.memory.alloc(8, 8), ring.memory.alloc(8, 8));
    ring.memory.put(a, b"request!");
    ring.add(&[Buffer::readable(a, 8), Buffer::writable(b, 8)]);
    (a, b)
}

// Covers: LEG-07, INI-10, INI-12, VRG-01, LIO-07, FEA-03
#[test]
fn a_vf_works_by_admin_commands_alone() {
    let (mut m, mut c) = ready(config(1), 1);
    let mem = memory();
    let mut ring = legacy_queue(&mut m, &mut c, &mem);
    c.set(&mut m, 1, 18, 1, 3);
    // No features, no DRIVER_OK: old drivers did that.
    let (_, b) = echo(&mut ring);
    c.set(&mut m, 1, 16, 2, 0);
    assert_eq!(ring.poll(), Some((0, 8)));
    assert_eq!(mem.get(b, 8), b"request!");
    c.set(&mut m, 1, 4, 4, 1);
    c.set(&mut m, 1, 18, 1, 7);
    let (_, b) = echo(&mut ring);
    c.set(&mut m, 1, 16, 2, 0);
    assert_eq!(ring.poll(), Some((2, 8)));
    assert_eq!(mem.get(b, 8), b"request!");
    let n = m.function_counters(vf(1)).unwrap();
    assert_eq!((n.doorbells_command, n.dma_forbidden), (2, 0));
}

// What drivers are held to: LIO-09
// Covers: LEG-08, IRQ-03
#[test]
fn reading_the_isr_clears_it() {
    let (mut m, mut c) = ready(config(1), 1);
    let mem = memory();
    let mut ring = legacy_queue(&mut m, &mut c, &mem);
    c.set(&mut m, 1, 18, 1, 7);
    echo(&mut ring);
    c.set(&mut m, 1, 16, 2, 0);
    assert!(!c.common_read(&mut m, 1, 18, 2).ok());
    assert!(!c.common_read(&mut m, 1, 19, 2).ok());
    assert_eq!(c.get(&mut m, 1, 19, 1), 1);
    assert_eq!(c.get(&mut m, 1, 19, 1), 0);
    // Both kinds in one read.
    echo(&mut ring);
    c.set(&mut m, 1, 16, 2, 0);
    m.control(vf(1), &DeviceControl::Resize { sectors: 9 })
        .unwrap();
    assert_eq!(c.get(&mut m, 1, 19, 1), 3);
}

// Covers: LEG-09, LEG-10, LIO-03, INI-11, CON-02
#[test]
fn device_configuration_offsets_do_not_depend_on_msix() {
    let (mut m, mut c) = ready(ModelConfig::new(DeviceType::Console, 1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for msix in [false, true] {
        d.set_msix(&mut m, msix, false);
        let value = [1, 2, 3, 4u8 + u8::from(msix)];
        assert!(c.config_write(&mut m, 1, 8, &value).ok());
        assert_eq!(c.config_read(&mut m, 1, 8, 4).result(), value);
        assert!(c.config_write(&mut m, 1, 9, &[0x55]).ok());
        assert_eq!(c.config_read(&mut m, 1, 8, 2).result(), [1, 0x55]);
    }
}

// Covers: LEG-10, INI-13
#[test]
fn both_views_show_the_same_configuration() {
    for t in DeviceType::ALL {
        let (mut m, mut c) = ready(ModelConfig::new(t, 1), 1);
        let d = Driver::new(&mut m, vf(1), &memory());
        let cap = d.capability(&mut m, 9, Some(4));
        if t == DeviceType::Entropy {
            assert_eq!(cap, 0, "no device structure");
            continue;
        }
        let start = d.config(&mut m, cap + 8, 4);
        for f in layout::fields(t) {
            let n = usize::from(f.len()).min(8);
            let legacy = c.config_read(&mut m, 1, f.offset as u8, n);
            assert!(legacy.ok(), "{t:?} {}", f.name);
            let mut modern = vec![0; n];
            let at = start + u64::from(f.offset);
            m.bar_read(vf(1), 2, at, &mut modern);
            assert_eq!(legacy.result(), modern, "{t:?} {}", f.name);
        }
    }
}

// Open points: O-18
// Covers: LEG-09
#[test]
fn read_only_configuration_keeps_its_value() {
    let (mut m, mut c) = ready(config(1), 1);
    violations(&mut m);
    let before = c.config_read(&mut m, 1, 0, 8);
    assert!(c.config_write(&mut m, 1, 0, &[0xff; 8]).ok());
    assert_eq!(c.config_read(&mut m, 1, 0, 8), before);
    assert_eq!(
        violations(&mut m),
        [Violation::ReadOnlyField {
            structure: "device",
            offset: 0
        }]
    );
}

// Covers: LEG-11
#[test]
fn the_width_is_the_length_of_the_data() {
    let (mut m, mut c) = ready(config(1), 1);
    // Padding to 8 makes it an access of another width.
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_WRITE, group::SRIOV, 1);
    h.push(18);
    h.resize(40, 0);
    assert_eq!(c.run(&mut m, &h, 8).status(), BAD);
    h.truncate(33);
    h[32] = 3;
    assert!(c.run(&mut m, &h, 8).ok());
    h.truncate(32);
    assert_eq!(c.run(&mut m, &h, 8).status(), BAD, "no data at all");
    // A read of 24 to 32 readable bytes is one and the same.
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
    h.push(18);
    for n in 25..=40 {
        h.resize(n, 0);
        let d = c.run(&mut m, &h, 9);
        assert_eq!((d.ok(), d.result()), (true, &[3u8][..]), "{n}");
    }
    assert_eq!(c.run(&mut m, &h, 8).status(), BAD, "no room for data");
    assert_eq!(c.run(&mut m, &h, 4096).status(), BAD);
}

// Open points: O-27
// Covers: FEA-13, INI-10
#[test]
fn one_state_behind_both_interfaces() {
    let (mut m, mut c) = ready(config(1), 1);
    let mem = memory();
    let d = Driver::new(&mut m, vf(1), &mem);
    assert!(d.negotiate(&mut m, 1 << 32 | 1 << 63 | 5));
    let _ring = d.queue(&mut m, 0, 0xffff);
    d.driver_ok(&mut m);
    assert_eq!(c.get(&mut m, 1, 18, 1), 0xf);
    assert_eq!(c.get(&mut m, 1, 4, 4), 5);
    // queue_select is each interface's own.
    d.set(&mut m, reg::QUEUE_SELECT, 1);
    assert_eq!(c.get(&mut m, 1, 14, 2), 0);
    // A legacy reset resets the modern side.
    c.set(&mut m, 1, 18, 1, 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0);
    d.set(&mut m, reg::QUEUE_SELECT, 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    // A legacy driver's features have no upper half.
    c.set(&mut m, 1, 4, 4, 0xffff_ffff);
    d.set(&mut m, reg::DRIVER_FEATURE_SELECT, 1);
    assert_eq!(d.get(&mut m, reg::DRIVER_FEATURE), 0);
    // The queue address of a legacy queue shows as three addresses.
    c.set(&mut m, 1, 8, 4, 0x123);
    assert_eq!(d.get(&mut m, reg::QUEUE_DESC), 0x12_3000);
    assert_eq!(d.get(&mut m, reg::QUEUE_DRIVER), 0x12_3100);
    assert_eq!(d.get(&mut m, reg::QUEUE_DEVICE), 0x12_4000);
    // A modern reset resets the legacy side.
    c.set(&mut m, 1, 18, 1, 3);
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
    assert_eq!(c.get(&mut m, 1, 8, 4), 0);
}

// Open points: O-47
#[test]
fn legacy_status_is_stored_as_written() {
    let (mut m, mut c) = ready(config(1), 1);
    for s in [1, 3, 0x0b, 0x1f, 0x83, 1] {
        c.set(&mut m, 1, 18, 1, s);
        assert_eq!(c.get(&mut m, 1, 18, 1), s);
    }
}

// Open points: O-26
// Covers: LIO-08, SRV-04
#[test]
fn legacy_reset_clears_every_register() {
    let (mut m, mut c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for how in 0..2 {
        d.set_msix(&mut m, true, false);
        c.set(&mut m, 1, 4, 4, 5);
        c.set(&mut m, 1, 14, 2, 1);
        c.set(&mut m, 1, 8, 4, 0x200);
        c.set(&mut m, 1, 20, 2, 0);
        c.set(&mut m, 1, 22, 2, 1);
        c.set(&mut m, 1, 16, 2, 1);
        c.set(&mut m, 1, 18, 1, 7);
        m.control(vf(1), &DeviceControl::Resize { sectors: 1 })
            .unwrap();
        if how == 0 {
            c.set(&mut m, 1, 18, 1, 0);
        } else {
            d.function_level_reset(&mut m);
            d.set_msix(&mut m, true, false);
        }
        for (at, n, value) in [
            (4, 4, 0),
            (14, 2, 0),
            (16, 2, 0),
            (18, 1, 0),
            (19, 1, 0),
            (20, 2, 0xffff),
            (22, 2, 0xffff),
        ] {
            assert_eq!(c.get(&mut m, 1, at, n), value, "offset {at}, reset {how}");
        }
        for q in [0, 1] {
            c.set(&mut m, 1, 14, 2, q);
            assert_eq!(c.get(&mut m, 1, 8, 4), 0);
            assert_eq!(c.get(&mut m, 1, 22, 2), 0xffff);
        }
        c.set(&mut m, 1, 14, 2, 0);
    }
    assert_eq!(d.function, FunctionId::Vf(1));
}

// Covers: VRG-01, VRG-03
#[test]
fn the_legacy_ring_is_found_by_the_formula_alone() {
    use virtio_pf_model::testing::EchoDevice;
    use virtio_pf_model::{Model, NoSwitch};
    for size in [1u16, 2, 16, 128, 256, 1024] {
        let mut make = |_| {
            let d = EchoDevice::new(DeviceType::Block).with_queues(&[size]);
            Ok(Box::new(d) as _)
        };
        let mut m = Model::with_devices(config(1), &mut make, Box::new(NoSwitch)).unwrap();
        let mut c = AdminClient::ready(&mut m, &memory(), 1);
        let mem = TestMemory::new(BASE, 0x20_0000);
        let mut ring = legacy_queue(&mut m, &mut c, &mem);
        assert_eq!(ring.size, size);
        let (a, b) = (mem.alloc(8, 8), mem.alloc(8, 8));
        mem.put(a, b"abcdefgh");
        if size == 1 {
            ring.add_indirect(&[Buffer::readable(a, 8), Buffer::writable(b, 8)]);
            c.set(&mut m, 1, 4, 4, 1 << 28);
        } else {
            ring.add(&[Buffer::readable(a, 8), Buffer::writable(b, 8)]);
        }
        c.set(&mut m, 1, 16, 2, 0);
        let got = ring.poll();
        if size == 1 {
            // Two descriptors in a table are more than a queue of one entry allows.
            assert_eq!(got, None);
        } else {
            assert_eq!(got, Some((0, 8)), "size {size}");
            assert_eq!(mem.get(b, 8), b"abcdefgh");
        }
    }
}
