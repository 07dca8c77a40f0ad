// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! PCI classes, of which the specification sets none.

use virtio_pci_spec::DeviceType;

/// PCI class and subclass that QEMU's transitional devices of this type show.
pub const fn pci_class(device: DeviceType) -> u16 {
    match device {
        DeviceType::Net => 0x0200,
        DeviceType::Block | DeviceType::Scsi => 0x0100,
        DeviceType::Console => 0x0780,
        DeviceType::Entropy | DeviceType::Balloon => 0x00ff,
        DeviceType::P9 => 0x0002,
    }
}
