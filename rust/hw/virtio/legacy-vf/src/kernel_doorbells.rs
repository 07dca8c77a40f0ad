// SPDX-License-Identifier: GPL-2.0-or-later

//! Doorbells that never leave the kernel: KVM matches the guest's write, VFIO makes the store.

use std::{
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Mutex,
    },
};

use pci::report;
use system::MemoryRegion;
use vfio::{doorbell::KernelDoorbell, VfioPciBase};
use virtio_pci_spec::legacy::{field_of, Register};

use crate::{link::lock, ratelimit::RateLimit};

/// Each takes an eventfd of the process, of which a guest must not use up all; VFIO stops at 1000
/// per device. Queues beyond it are notified by QEMU.
const MAX_QUEUES: usize = 128;

/// A VF's notify address: BAR and offset.
pub type Address = (u8, u64);

/// The doorbells of one device, none at first.
#[derive(Default)]
pub struct KernelDoorbells {
    armed: Mutex<Armed>,
    /// How many, for who does not want to wait.
    count: AtomicUsize,
}

#[derive(Default)]
struct Armed {
    address: Address,
    doorbells: Vec<KernelDoorbell>,
    /// The kernel cannot do it, so it is not asked again.
    refused: bool,
}

impl KernelDoorbells {
    /// How many queues are notified by the kernel. Any thread.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Makes the kernel notify these queues at this address, and no others. Needs the big QEMU
    /// lock; `log` and `of`, the device, are for messages.
    pub fn update(
        &self,
        vfio: &VfioPciBase,
        bar0: &MemoryRegion,
        address: Option<Address>,
        queues: &[u16],
        (log, of): (&RateLimit, &str),
    ) {
        let mut armed = lock(&self.armed);
        let target = address.filter(|_| !armed.refused && vfio.kernel_doorbells_allowed());
        let queues = if target.is_some() {
            queues.get(..MAX_QUEUES).unwrap_or(queues)
        } else {
            &[]
        };
        let moved = target.is_some_and(|t| t != armed.address);
        let (keep, drop): (Vec<_>, Vec<_>) = std::mem::take(&mut armed.doorbells)
            .into_iter()
            .partition(|d| !moved && queues.contains(&d.value()));
        for doorbell in drop {
            doorbell.remove(vfio, bar0);
        }
        armed.doorbells = keep;
        if let Some((bar, offset)) = target {
            armed.address = (bar, offset);
            let port = field_of(Register::QueueNotify).offset.into();
            for queue in queues {
                if armed.doorbells.iter().any(|d| d.value() == *queue) {
                    continue;
                }
                match KernelDoorbell::new(vfio, bar0, port, *queue, bar, offset) {
                    Ok(doorbell) => armed.doorbells.push(doorbell),
                    Err(e) => {
                        armed.refused = !is_shortage(&e);
                        // The guest causes another attempt with each queue that it sets up.
                        log.report(report::info_report, || {
                            format!(
                                "{of}: the kernel does not notify queue {queue} by itself ({e}); \
                                 QEMU does it, with an exit of the guest each time"
                            )
                        });
                        break;
                    }
                }
            }
        }
        self.count.store(armed.doorbells.len(), Ordering::Relaxed);
    }
}

/// Whether it may work another time.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC)
    )
}
