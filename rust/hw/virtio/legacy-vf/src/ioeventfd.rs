// SPDX-License-Identifier: GPL-2.0-or-later

//! Doorbells that never leave the kernel: KVM matches the guest's write, VFIO makes the store.

use std::{io, sync::Mutex};

use pci::{memory, report};
use system::MemoryRegion;
use vfio::{doorbell::KernelDoorbell, VfioPciBase};
use virtio_pci_spec::legacy::{field_of, Register};

use crate::{
    doorbell::Address,
    link::{lock, Link},
};

/// Each takes an eventfd of the process, of which a guest must not use up all; VFIO stops at 1000
/// per device. Queues beyond it are notified by QEMU.
const MAX_QUEUES: usize = 128;

/// The doorbells of one device, none at first.
#[derive(Default)]
pub struct KernelDoorbells(Mutex<Armed>);

#[derive(Default)]
struct Armed {
    /// BAR and offset at which they store.
    target: Option<(u8, u64)>,
    doorbells: Vec<KernelDoorbell>,
    /// The kernel cannot do it, so it is not asked again.
    refused: bool,
}

impl KernelDoorbells {
    /// How many queues are notified by the kernel. Needs the big QEMU lock, or waits for who has it.
    pub fn count(&self) -> usize {
        lock(&self.0).doorbells.len()
    }

    /// Makes the kernel notify these queues at this address, and no others. Needs the big QEMU
    /// lock. Fails if the kernel does not notify one of them.
    fn update(
        &self,
        vfio: &VfioPciBase,
        bar0: &MemoryRegion,
        address: Address,
        queues: &[u16],
    ) -> Result<(), (u16, io::Error)> {
        let mut armed = lock(&self.0);
        let target = match address {
            Address::Vf(bar, offset) if !armed.refused && vfio.kernel_doorbells_allowed() => {
                Some((bar, offset))
            }
            Address::Vf(..) | Address::Helper => None,
        };
        let queues = target.map_or(&[][..], |_| queues.get(..MAX_QUEUES).unwrap_or(queues));
        let moved = target.is_some() && target != armed.target;
        let (mut doorbells, drop): (Vec<_>, Vec<_>) = std::mem::take(&mut armed.doorbells)
            .into_iter()
            .partition(|d: &KernelDoorbell| !moved && queues.contains(&d.value()));
        if !drop.is_empty() {
            // SAFETY: nobody opens a transaction around what leads here: an access to BAR0 or
            // configuration space, a reset, the end of the device, an event of the main loop.
            unsafe { KernelDoorbell::remove_all(drop, vfio, bar0) }
        }
        let mut result = Ok(());
        if let Some(target) = target.filter(|_| doorbells.len() < queues.len()) {
            result = memory::transaction(|| add(vfio, bar0, target, queues, &mut doorbells));
        }
        if let Err((_, e)) = &result {
            armed.refused = !is_shortage(e);
        }
        armed.target = target.or(armed.target);
        armed.doorbells = doorbells;
        result
    }

    /// Lets the kernel notify the queues that the guest's driver uses now, as far as it can. Needs
    /// the big QEMU lock.
    pub fn follow(&self, vfio: &VfioPciBase, bar0: &MemoryRegion, link: &Link) {
        let queues: Vec<u16> = link.guest().driver.notified().iter().collect();
        let address = link.doorbell.address();
        if let Err((queue, e)) = self.update(vfio, bar0, address, &queues) {
            // The guest causes another attempt with each queue that it sets up.
            link.say(
                &link.log_rare,
                report::info_report,
                format_args!(
                    "the kernel does not notify queue {queue} by itself ({e}); QEMU does it, with an \
                     exit of the guest each time"
                ),
            );
        }
    }

    /// Takes all of them back. Needs the big QEMU lock.
    pub fn remove(&self, vfio: &VfioPciBase, bar0: &MemoryRegion) {
        let _nothing_to_add = self.update(vfio, bar0, Address::Helper, &[]);
    }
}

fn add(
    vfio: &VfioPciBase,
    bar0: &MemoryRegion,
    (bar, offset): (u8, u64),
    queues: &[u16],
    doorbells: &mut Vec<KernelDoorbell>,
) -> Result<(), (u16, io::Error)> {
    let port = field_of(Register::QueueNotify).offset.into();
    for queue in queues {
        if doorbells.iter().any(|d| d.value() == *queue) {
            continue;
        }
        let doorbell = KernelDoorbell::new(vfio, bar0, port, *queue, bar, offset);
        doorbells.push(doorbell.map_err(|e| (*queue, e))?);
    }
    Ok(())
}

/// Whether it may work another time.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC)
    )
}
