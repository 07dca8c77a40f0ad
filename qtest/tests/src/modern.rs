// SPDX-License-Identifier: GPL-2.0-or-later
//! The modern interface of the same function, to compare with.

use anyhow::{Context, Result};
use qtest_harness::{PciDevice, Qtest};
use virtio_pci_spec::config::fields;
use virtio_pci_spec::pci::CAP_ID_VENDOR;
use virtio_pci_spec::DeviceType;

/// A structure that a virtio capability points at.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    /// cfg_type of the capability.
    pub kind: u8,
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// All structures of a mapped function.
///
/// # Errors
/// If QEMU is gone or a capability names a BAR that is not there.
pub fn structures(qtest: &Qtest, device: &PciDevice) -> Result<Vec<Structure>> {
    let mut out = Vec::new();
    for (id, at) in device.capabilities(qtest)? {
        if id != CAP_ID_VENDOR {
            continue;
        }
        let kind = u8::try_from(device.read(qtest, at + 3, 1)?)?;
        if kind == 5 {
            continue;
        }
        let bar = device.bar(u8::try_from(device.read(qtest, at + 4, 1)?)?)?;
        out.push(Structure {
            kind,
            address: u64::from(bar.base) + u64::from(device.read(qtest, at + 8, 4)?),
            len: device.read(qtest, at + 12, 4)?,
        });
    }
    Ok(out)
}

/// The bytes of the device configuration as the modern interface shows them, read field by field.
///
/// # Errors
/// If there is no such structure.
pub fn device_config(qtest: &Qtest, device: &PciDevice) -> Result<Vec<u8>> {
    let id = u16::try_from(device.read(qtest, 2, 2)?)?;
    let kind = DeviceType::from_pci_id(id).context("not a virtio device")?;
    if fields(kind).is_empty() {
        return Ok(Vec::new());
    }
    let at = structures(qtest, device)?
        .into_iter()
        .find(|s| s.kind == 4)
        .context("no device configuration capability")?;
    let mut bytes = Vec::new();
    for field in fields(kind) {
        let width = field.elem.min(4);
        let mut offset = u64::from(field.offset);
        let mut end = offset + u64::from(field.len());
        if end > u64::from(at.len) {
            // A byte array ends with the structure; of other fields there is all or nothing.
            if field.elem > 1 {
                break;
            }
            end = at.len.into();
        }
        while offset < end {
            let value = qtest.read(at.address + offset, width)?;
            bytes.extend(value.to_le_bytes().iter().take(usize::from(width)));
            offset += u64::from(width);
        }
    }
    Ok(bytes)
}
