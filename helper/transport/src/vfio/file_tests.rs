// SPDX-License-Identifier: GPL-2.0-or-later
//! Accesses to a function, with a plain file in the place of VFIO's device file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::io::{pread, pwrite};

use super::{Host, VfioFunction};
use crate::error::Cause;
use crate::function::{DmaAddressing, FunctionEvent, PciFunction, Posted, Width};
use crate::PciAddress;

const CONFIG: u64 = 0x10000;
const BAR2: u64 = 0x20000;
const COMMAND: u16 = 4;

struct Rig {
    function: VfioFunction,
    file: OwnedFd,
    _dir: tempfile::TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let host = Host {
        sysfs: dir.path().join("sys"),
        ..Host::default()
    };
    let device = host.sysfs.join("bus/pci/devices/0000:03:00.0");
    std::fs::create_dir_all(device).unwrap();
    let file = memfd_create("device", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 0x22000).unwrap();
    let own = file.try_clone().unwrap();
    pwrite(&file, &0x1041_1af4u32.to_le_bytes(), CONFIG).unwrap();
    let device = host
        .device(PciAddress::parse("0000:03:00.0").unwrap())
        .unwrap();
    let function = VfioFunction::on_file(device, own).unwrap();
    Rig {
        function,
        file,
        _dir: dir,
    }
}

impl Rig {
    fn enable_memory(&self) {
        self.function
            .config_write(COMMAND, &6u16.to_le_bytes())
            .unwrap();
    }

    fn peek(&self, at: u64) -> u32 {
        let mut b = [0; 4];
        assert_eq!(pread(&self.file, &mut b, at).unwrap(), 4);
        u32::from_le_bytes(b)
    }

    fn poke(&self, at: u64, value: u32) {
        pwrite(&self.file, &value.to_le_bytes(), at).unwrap();
    }
}

#[test]
fn configuration_space_and_bars_are_where_the_regions_say() {
    let r = rig();
    let f = &r.function;
    let mut id = [0; 4];
    f.config_read(0, &mut id).unwrap();
    assert_eq!(u32::from_le_bytes(id), 0x1041_1af4);
    f.config_write(0x40, &[1, 2, 3]).unwrap();
    assert_eq!(r.peek(CONFIG + 0x40), 0x0003_0201);
    let mut tail = [7; 8];
    let e = f.config_read(4090, &mut tail).unwrap_err();
    assert_eq!(e.cause(), &Cause::OutOfRange { size: 4096 });
    assert_eq!(tail, [0; 8], "no stale bytes");

    r.enable_memory();
    // Mapped, and behind the mapping.
    for at in [0x10, 0x1010] {
        f.bar_write(2, at, Width::B4, 0x0807_0605, Posted::No)
            .unwrap();
        assert_eq!(r.peek(BAR2 + at), 0x0807_0605);
        assert_eq!(f.bar_read(2, at, Width::B2).unwrap(), 0x0605);
        assert_eq!(f.bar_read(2, at + 3, Width::B1).unwrap(), 8);
        f.bar_write(2, at + 2, Width::B1, 0xaa, Posted::Yes)
            .unwrap();
        assert_eq!(f.bar_read(2, at, Width::B4).unwrap(), 0x08aa_0605);
    }
    assert_eq!(f.bar(2).unwrap().size, 0x2000);
    assert_eq!(f.bar(0).unwrap_err().cause(), &Cause::NoSuchBar);
    for (bar, at, width, cause) in [
        (2, 0x1fff, Width::B2, Cause::OutOfRange { size: 0x2000 }),
        (2, u64::MAX, Width::B1, Cause::OutOfRange { size: 0x2000 }),
        (2, 1, Width::B4, Cause::Unaligned),
        (1, 0, Width::B1, Cause::NoSuchBar),
        (200, 0, Width::B1, Cause::NoSuchBar),
    ] {
        assert_eq!(f.bar_read(bar, at, width).unwrap_err().cause(), &cause);
        let e = f.bar_write(bar, at, width, 0, Posted::Yes).unwrap_err();
        assert_eq!(e.cause(), &cause);
    }
    assert_eq!(f.dma_addressing(), DmaAddressing::Iommu);
}

#[test]
fn registers_are_not_touched_while_memory_space_is_off() {
    let r = rig();
    let refused = |text: &str| {
        for at in [0, 0x1000] {
            let e = r.function.bar_read(2, at, Width::B1).unwrap_err();
            assert!(e.to_string().contains(text), "{e}");
            assert!(!e.is_fatal());
            let e = r.function.bar_write(2, at, Width::B1, 1, Posted::Yes);
            assert!(e.is_err());
        }
    };
    refused("memory space is off");
    r.enable_memory();
    assert_eq!(r.function.bar_read(2, 0, Width::B1).unwrap(), 0);
    // Also with one wide write over other registers.
    r.function.config_write(2, &[0; 4]).unwrap();
    refused("memory space is off");
    r.function.config_write(3, &[0, 2]).unwrap();
    assert_eq!(r.function.bar_read(2, 0, Width::B1).unwrap(), 0);
    // The high byte of COMMAND does not matter.
    r.function.config_write(5, &[0]).unwrap();
    assert_eq!(r.function.bar_read(2, 0, Width::B1).unwrap(), 0);
}

#[test]
fn ones_are_a_value_until_the_device_is_gone_and_then_the_end() {
    let mut r = rig();
    r.enable_memory();
    r.poke(BAR2 + 8, u32::MAX);
    r.poke(BAR2 + 0x1008, u32::MAX);
    for at in [8, 0x1008] {
        assert_eq!(r.function.bar_read(2, at, Width::B4).unwrap(), u32::MAX);
    }
    r.poke(CONFIG + 0x80, u32::MAX);
    let mut b = [0; 4];
    r.function.config_read(0x80, &mut b).unwrap();
    assert_eq!(b, [0xff; 4]);

    r.poke(CONFIG, u32::MAX);
    // Other values are not doubted.
    assert_eq!(r.function.bar_read(2, 16, Width::B4).unwrap(), 0);
    let e = r.function.bar_read(2, 8, Width::B1).unwrap_err();
    assert_eq!(e.cause(), &Cause::Gone);
    assert!(e.is_fatal());
    // For ever, even if it comes back.
    r.poke(CONFIG, 0x1041_1af4);
    let dead = |e: crate::Error| {
        assert!(matches!(e.cause(), Cause::Dead(_)), "{e}");
        assert!(e.is_fatal());
    };
    dead(r.function.bar_read(2, 16, Width::B4).unwrap_err());
    dead(
        r.function
            .bar_write(2, 16, Width::B4, 0, Posted::Yes)
            .unwrap_err(),
    );
    let mut b = [1; 4];
    dead(r.function.config_read(0, &mut b).unwrap_err());
    assert_eq!(b, [0; 4]);
    dead(r.function.config_write(4, &[0]).unwrap_err());
    dead(r.function.enable_irqs(1).unwrap_err());
    dead(r.function.function_reset().unwrap_err());
    dead(r.function.enable_vfs(1).unwrap_err());
    dead(r.function.set_vf_token(&[0; 16]).unwrap_err());
    dead(r.function.service().unwrap_err());
}

#[test]
fn all_ones_in_configuration_space_are_seen() {
    let r = rig();
    r.poke(CONFIG, u32::MAX);
    let mut b = [3; 2];
    let e = r.function.config_read(0, &mut b).unwrap_err();
    assert_eq!(e.cause(), &Cause::Gone);
    assert_eq!(b, [0; 2]);
}

#[test]
fn a_file_that_ends_is_an_error_and_no_zeros() {
    let r = rig();
    r.enable_memory();
    ftruncate(&r.file, BAR2 + 0x1004).unwrap();
    assert_eq!(r.function.bar_read(2, 0x1000, Width::B4).unwrap(), 0);
    let e = r.function.bar_read(2, 0x1004, Width::B4).unwrap_err();
    assert_eq!(e.cause(), &Cause::Short { got: 0, want: 4 });
}

#[test]
fn the_kernels_notices_become_events() {
    let mut r = rig();
    assert_eq!(r.function.event_fds().len(), 2);
    assert_eq!(r.function.service().unwrap(), []);
    let (request, error) = r.function.notices().unwrap();
    request.signal().unwrap();
    request.signal().unwrap();
    error.signal().unwrap();
    assert_eq!(
        r.function.service().unwrap(),
        [FunctionEvent::RemovalRequested, FunctionEvent::BusError]
    );
    assert_eq!(r.function.service().unwrap(), []);
    // An error of the bus that took the device with it.
    r.poke(CONFIG, u32::MAX);
    let (_, error) = r.function.notices().unwrap();
    error.signal().unwrap();
    assert_eq!(r.function.service().unwrap_err().cause(), &Cause::Gone);
}

#[test]
fn what_the_kernel_refuses_is_no_doorbell_and_no_vector() {
    let mut r = rig();
    r.enable_memory();
    // Mapped: a store is better. Not mapped: a plain file takes no ioeventfd.
    for at in [0, 0x1000] {
        let bell = r.function.doorbell(2, at, Width::B2, 3).unwrap();
        assert!(bell.is_none());
    }
    // The capability list is empty, so there is no vector, whatever VFIO says.
    assert_eq!(r.function.irq_count().unwrap(), 0);
    assert!(r.function.enable_irqs(1).is_err());
    r.function.disable_irqs().unwrap();
    let names: Vec<String> = r.function.keepers().into_iter().map(|k| k.0).collect();
    assert_eq!(names, ["device", "iommufd-1", "memory-1000"]);
    assert!(r.function.keepers()[0]
        .1
        .as_fd()
        .try_clone_to_owned()
        .is_ok());
}
