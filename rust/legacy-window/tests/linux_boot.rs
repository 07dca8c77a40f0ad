// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! How many commands a legacy Linux driver costs.

#![allow(
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code
)]

mod common;

use common::{Device, Machine};
use virtio_pci_spec::DeviceType;

/// What the driver core and virtio_net of Linux do to the registers when they bind, with one queue
/// pair and the control queue. `control_vector`: whether the control queue gets a vector, too
/// (Linux gives it none). Returns how many accesses there were besides kicks.
fn bind(m: &mut Machine, control_vector: bool) -> usize {
    let before = m.accesses;
    m.msix = false;
    let status = |m: &mut Machine, bit: u64| {
        let old = m.read(18, 1);
        m.write(18, 1, old | bit);
    };
    m.write(18, 1, 0);
    assert_eq!(m.read(18, 1), 0);
    status(m, 1);
    status(m, 2);
    assert_eq!(m.read(0, 4), u64::from(m.device.features));
    m.write(4, 4, u64::from(m.device.features));
    for i in 0..6 {
        m.read(20 + i, 1);
    }
    m.msix = true;
    m.write(20, 2, 0);
    assert_eq!(m.read(20, 2), 0);
    for (q, size) in [(0u64, 256u64), (1, 256), (2, 64)] {
        m.write(14, 2, q);
        assert_eq!(m.read(12, 2), size);
        m.write(14, 2, q);
        assert_eq!(m.read(8, 4), 0);
        m.write(14, 2, q);
        m.write(8, 4, 0x1000 + q);
        if q < 2 || control_vector {
            m.write(14, 2, q);
            m.write(22, 2, q + 1);
            assert_eq!(m.read(22, 2), q + 1);
        }
    }
    // Link state, byte by byte.
    m.read(30, 1);
    m.read(31, 1);
    status(m, 4);
    m.write(16, 2, 0);
    m.accesses - before
}

fn machine() -> Machine {
    let device = Device::new(&[256, 256, 64], vec![1; 28]);
    Machine::new(DeviceType::Net, device)
}

/// One access is one command where nothing is remembered: 47, with a vector for each queue.
/// Remembering saves four selections per queue but one, and each check of the queue address;
/// reading fields in one saves four bytes of the MAC address and one of the link state.
#[test]
fn commands_of_one_boot() {
    let mut m = machine();
    assert_eq!(bind(&mut m, true), 47);
    assert_eq!(m.commands().len(), 30);
    let mut m = machine();
    assert_eq!(bind(&mut m, false), 44);
    let log = m.commands();
    assert_eq!(log.len(), 28);
    // What is left has to reach the device: status and the like 8, configuration 3, features 2,
    // vectors and their verification 6, and per queue select, size and address.
    let count =
        |f: &dyn Fn(&(bool, u8, u8, Option<u64>)) -> bool| log.iter().filter(|c| f(c)).count();
    assert_eq!(count(&|c| c.0 && c.1 == 18), 8);
    assert_eq!(count(&|c| !c.0), 3);
    assert_eq!(count(&|c| c.0 && c.1 < 8), 2);
    assert_eq!(count(&|c| c.0 && c.1 >= 20), 6);
    assert_eq!(count(&|c| c.0 && (8..16).contains(&c.1)), 9);
    assert_eq!(m.device.notified, [0]);
}

/// Binding again after unbinding: the device's features are known.
#[test]
fn commands_of_the_next_bind() {
    let mut m = machine();
    bind(&mut m, false);
    m.commands();
    bind(&mut m, false);
    assert_eq!(m.commands().len(), 27);
    assert_eq!(m.device.status, 7);
    assert_eq!(m.device.address, [0x1000, 0x1001, 0x1002]);
    assert_eq!(m.device.vector, [1, 2, 0xffff]);
}
