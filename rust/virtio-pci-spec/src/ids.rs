// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! PCI and virtio identifiers ("PCI Device Discovery", "Device Types").

/// PCI vendor ID of every virtio device.
pub const VENDOR: u16 = 0x1af4;
/// First modern PCI device ID; the virtio device ID is added to it.
pub const MODERN_DEVICE_BASE: u16 = 0x1040;
/// Revision ID of a transitional device.
pub const TRANSITIONAL_REVISION: u8 = 0;

/// The device types that have a transitional PCI device ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceType {
    /// Network card.
    Net,
    /// Block device.
    Block,
    /// Console.
    Console,
    /// Entropy source.
    Entropy,
    /// Traditional memory balloon.
    Balloon,
    /// SCSI host.
    Scsi,
    /// 9P transport.
    P9,
}

impl DeviceType {
    /// All transitional types, in order of virtio device ID.
    pub const ALL: [DeviceType; 7] = [
        DeviceType::Net,
        DeviceType::Block,
        DeviceType::Console,
        DeviceType::Entropy,
        DeviceType::Balloon,
        DeviceType::Scsi,
        DeviceType::P9,
    ];

    /// The type with this virtio device ID, if it has a transitional form.
    pub fn from_virtio_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.virtio_id() == id)
    }

    /// The type behind a PCI device ID, modern (0x1040 + ID) or transitional.
    pub fn from_pci_id(device: u16) -> Option<Self> {
        let is = |t: &Self| [t.modern_pci_id(), t.transitional_pci_id()].contains(&device);
        Self::ALL.into_iter().find(is)
    }

    /// Virtio device ID, transitional PCI device ID, short name.
    const fn facts(self) -> (u16, u16, &'static str) {
        match self {
            Self::Net => (1, 0x1000, "net"),
            Self::Block => (2, 0x1001, "blk"),
            Self::Console => (3, 0x1003, "console"),
            Self::Entropy => (4, 0x1005, "rng"),
            Self::Balloon => (5, 0x1002, "balloon"),
            Self::Scsi => (8, 0x1004, "scsi"),
            Self::P9 => (9, 0x1009, "9p"),
        }
    }

    /// The virtio device ID; also the subsystem device ID of a transitional device.
    pub const fn virtio_id(self) -> u16 {
        self.facts().0
    }

    /// The modern PCI device ID.
    pub const fn modern_pci_id(self) -> u16 {
        MODERN_DEVICE_BASE + self.virtio_id()
    }

    /// The transitional PCI device ID.
    pub const fn transitional_pci_id(self) -> u16 {
        self.facts().1
    }

    /// Short lower-case name, as used on command lines and in logs.
    pub const fn name(self) -> &'static str {
        self.facts().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: PCI-01, PCI-02
    #[test]
    fn every_type_is_found_by_each_of_its_ids() {
        for t in DeviceType::ALL {
            assert_eq!(DeviceType::from_virtio_id(t.virtio_id()), Some(t));
            assert_eq!(DeviceType::from_pci_id(t.modern_pci_id()), Some(t));
            assert_eq!(DeviceType::from_pci_id(t.transitional_pci_id()), Some(t));
            assert!((0x1000..0x1040).contains(&t.transitional_pci_id()));
        }
        assert_eq!(DeviceType::from_pci_id(0x1006), None);
        assert_eq!(DeviceType::from_pci_id(0x1040), None);
        assert_eq!(DeviceType::from_pci_id(0x1059), None);
        assert_eq!(DeviceType::from_virtio_id(26), None);
    }
}
