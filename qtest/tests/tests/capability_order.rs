// SPDX-License-Identifier: GPL-2.0-or-later
//! The list of capabilities: MSI-X is its last member, as in QEMU's own virtio devices. iPXE's driver of
//! 2026 takes the pointer to the next one for a part of the control word, and believes MSI-X to be
//! enabled if there is a next one.

use anyhow::{ensure, Context, Result};
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, Machine, PciDevice, Qtest, Stack};
use serde_json::{json, Value};
use virtio_pci_spec::pci::{header, CAP_ID_MSIX, CAP_ID_VENDOR};

/// First byte behind the header.
const LIST: usize = 0x40;

/// What of a function is looked at.
struct Seen {
    bytes: Vec<u8>,
    capabilities: Vec<(u8, usize)>,
}

impl Seen {
    /// With the device in its usual slot.
    fn of(stack: &Stack, machine: Machine, device: &Value) -> Result<Self> {
        let qemu = stack.qemu_with(machine, device)?;
        let q = &qemu.qtest;
        let function = PciDevice::find(q, SLOT)?;
        let bytes = dump(q, &function)?;
        let capabilities = function.capabilities(q)?;
        for (id, at) in &capabilities {
            ensure!(
                bytes.get(*at) == Some(id),
                "list and dump differ at {at:#x}"
            );
            ensure!(*at >= LIST && at % 4 == 0, "a capability at {at:#x}");
            ensure!(
                find(&bytes, *id).is_some(),
                "capability {id:#x} is not found in the dump"
            );
        }
        Ok(Seen {
            bytes,
            capabilities,
        })
    }

    /// In the order of their places, with as many as each of them is there.
    fn sorted(&self) -> Vec<(u8, usize)> {
        let mut list = self.capabilities.clone();
        list.sort_by_key(|c| c.1);
        list
    }

    /// The bytes behind the header, without those that link the list.
    fn contents(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (_, at) in &self.capabilities {
            if let Some(next) = bytes.get_mut(at + 1) {
                *next = 0;
            }
        }
        bytes.split_off(LIST)
    }
}

/// The configuration space as a tool like `lspci -xxx` reads it; each width gives the same.
fn dump(q: &Qtest, function: &PciDevice) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for width in [1, 2, 4] {
        let mut bytes = Vec::new();
        while bytes.len() < 256 {
            let part = function.read(q, bytes.len(), width)?.to_le_bytes();
            bytes.extend(part.iter().take(width.into()));
        }
        ensure!(
            all.is_empty() || all == bytes,
            "reads of {width} bytes give something else"
        );
        all = bytes;
    }
    Ok(all)
}

/// The first capability of a kind, found as BIOSes and kernels do.
fn find(bytes: &[u8], id: u8) -> Option<usize> {
    let mut at = usize::from(*bytes.get(header::CAPABILITY_LIST)? & 0xfc);
    for _ in 0..48 {
        match (bytes.get(at), at) {
            (_, 0) => return None,
            (Some(found), _) if *found == id => return Some(at),
            _ => at = usize::from(*bytes.get(at + 1)? & 0xfc),
        }
    }
    None
}

fn stock(stack: &Stack) -> Value {
    json!({
        "driver": "vfio-user-pci",
        "addr": format!("{SLOT:#x}"),
        "socket": {"type": "unix", "path": stack.sim.vf_socket(1)},
    })
}

/// Nothing is lost, nothing moved, and nothing but links changed.
// Covers: PCI-09, PCI-08
#[test]
fn msix_is_the_last_capability_and_all_others_are_there() -> Result<()> {
    for kind in [
        DeviceKind::Net,
        DeviceKind::Block,
        DeviceKind::Console,
        DeviceKind::Rng,
        DeviceKind::Balloon,
        DeviceKind::Scsi,
        DeviceKind::P9,
    ] {
        let stack = Stack::start(kind, 1)?;
        for machine in [Machine::Pc, Machine::Q35] {
            let own = Seen::of(&stack, machine, &stock(&stack))?;
            for hidden in [false, true] {
                let what = format!("{kind:?} on {machine:?}, disable-modern={hidden}");
                let mut device = stack.device(1);
                device["disable-modern"] = json!(hidden);
                let seen = Seen::of(&stack, machine, &device).context(what.clone())?;
                let last = seen.capabilities.last().context("no capability")?;
                assert_eq!(last.0, CAP_ID_MSIX, "{what}: {:?}", seen.capabilities);
                assert_eq!(seen.bytes.get(last.1 + 1), Some(&0), "{what}");
                let shown = |c: &(u8, usize)| !hidden || c.0 != CAP_ID_VENDOR;
                let wanted: Vec<_> = own.sorted().into_iter().filter(shown).collect();
                assert_eq!(seen.sorted(), wanted, "{what}");
                if !hidden {
                    assert_eq!(seen.contents(), own.contents(), "{what}");
                }
            }
        }
    }
    Ok(())
}

/// The byte that such a driver takes for the upper half of the control word is 0 with MSI-X off, and
/// the real one tells the truth.
// Covers: PCI-09, IRQ-04
#[test]
fn the_link_stays_zero_when_msix_is_switched() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut vf = stack.device(1);
    vf["disable-modern"] = json!(true);
    let (qemu, device) = stack.mapped_with(Machine::Q35, &vf)?;
    let q = &qemu.qtest;
    let capabilities = device.capabilities(q)?;
    let at = find(&dump(q, &device)?, CAP_ID_MSIX).context("no MSI-X")?;
    let msix = device.msix(q)?;
    for on in [true, false, true, false] {
        msix.enable(q, &device, on)?;
        assert_eq!(device.read(q, at, 2)?, u32::from(CAP_ID_MSIX));
        assert_eq!(msix.is_enabled(q, &device)?, on);
        // The link is read-only.
        device.write(q, at + 1, 1, 0xff)?;
        assert_eq!(device.read(q, at + 1, 1)?, 0);
        assert_eq!(device.capabilities(q)?, capabilities);
    }
    Ok(())
}
