// SPDX-License-Identifier: GPL-2.0-or-later

//! `INTx` for a guest that has MSI-X off.
//!
//! A VF has no interrupt pin. While the guest drives the device with MSI-X off, the device takes the
//! VF's first two vectors (or its only one) for itself, has the VF use them for queues and
//! configuration changes, keeps the ISR of which the guest knows, and moves the pin.
//!
//! One rule says who is to have the vectors, [`Guest::holder`](crate::link::Guest::holder), and one
//! function makes it so, [`hand_over`]; it needs the big QEMU lock, with which alone vectors change
//! hands. The VF's side, which waits for the helper, is in `vectors`; ISR and pin are in `isr`. The ISR is read by vCPUs
//! without the big lock, which they take only to lower the pin.

use std::{io, os::fd::AsFd};

use pci::with_bql;
use vfio::{irq, CONFIG_REGION};
use virtio_pci_spec::{pci::msix, status::ISR_CONFIG};

use crate::{
    events,
    isr::Intx,
    link::{Holder, Link},
    state::{pci, vfio, LegacyVf},
    vf::Kind,
};

/// Gives the vectors to whom they belong now. Needs the big QEMU lock.
pub fn hand_over<D: LegacyVf>(dev: &D, link: &Link) {
    let Some(intx) = &link.intx else { return };
    let (held, holder) = (intx.isr().held, link.guest().holder());
    match (held, holder) {
        (false, Holder::Device) => {
            if let Err(e) = take(dev, link, intx) {
                link.guest().no_vectors = true;
                link.warn(format_args!(
                    "cannot have the {} interrupt vectors that INTx needs: {e}; the guest gets no \
                     interrupts until it enables MSI-X or resets the device",
                    intx.vectors
                ));
            }
        }
        (true, Holder::Guest | Holder::Nobody) => {
            intx.set_held(pci(dev), false);
            link.guest().turn += 1;
            irq::disable(vfio(dev), irq::MSIX_INDEX);
            let mut control = [0; 2];
            pci(dev).config_image(usize::from(intx.msix_cap) + msix::CONTROL, &mut control);
            write_control(dev, intx, u16::from_le_bytes(control));
            // What was written to the VF meanwhile, it may have refused.
            link.guest().turn += 1;
            events::trace_virtio_legacy_vf_intx_release(&intx.name);
        }
        (true, Holder::Device) | (false, Holder::Guest | Holder::Nobody) => {}
    }
}

fn take<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx) -> io::Result<()> {
    let events = intx.events.iter().take(intx.vectors.into());
    let fds: Vec<_> = events.map(|event| event.descriptor().as_fd()).collect();
    irq::signal(vfio(dev), irq::MSIX_INDEX, &fds)?;
    write_control(dev, intx, msix::CONTROL_ENABLE);
    intx.set_held(pci(dev), true);
    link.guest().turn += 1;
    events::trace_virtio_legacy_vf_intx_take(&intx.name, intx.vectors.into());
    Ok(())
}

/// A vfio-user server sees the MSI-X control word as the guest writes it; the kernel keeps its own.
/// While the device has the vectors, MSI-X is on and nothing masked, whatever the guest writes.
fn write_control<D: LegacyVf>(dev: &D, intx: &Intx, control: u16) {
    if D::KIND == Kind::User {
        let at = u64::from(intx.msix_cap) + msix::CONTROL as u64;
        // A server that is gone has no interrupts either.
        let _gone = vfio(dev).region_write(CONFIG_REGION, at, &control.to_le_bytes(), false);
    }
}

/// The guest has written the MSI-X control word, and the device goes on having the vectors. Needs
/// the big QEMU lock.
pub fn keep_control<D: LegacyVf>(dev: &D, link: &Link) {
    if let Some(intx) = link.intx.as_ref().filter(|intx| intx.isr().held) {
        write_control(dev, intx, msix::CONTROL_ENABLE);
    }
}

/// Sends the guest once more the messages that may have been lost while the vectors changed hands.
/// In the main loop.
pub fn tell<D: LegacyVf>(dev: &D, link: &Link) {
    let vectors = {
        let mut guest = link.guest();
        let vectors = std::mem::take(&mut guest.tell);
        // Before they are sent: a driver that resets the device meanwhile has them forgotten after.
        guest.told.extend(&vectors);
        vectors
    };
    for vector in vectors {
        pci(dev).notify_msix(vector);
    }
}

/// Messages that a mask holds back do not outlive a reset, `reset`, nor MSI-X. Needs the big QEMU
/// lock.
pub fn forget_told<D: LegacyVf>(dev: &D, link: &Link, reset: bool) {
    let told = {
        let mut guest = link.guest();
        if !reset && guest.msix {
            return;
        }
        std::mem::take(&mut guest.told)
    };
    for vector in told {
        pci(dev).forget_msix(vector);
    }
}

/// The guest reads the ISR with MSI-X off. Runs without the big QEMU lock, and waits for nobody
/// unless the VF has a single vector.
pub fn read_isr<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx) -> u8 {
    let (mut bits, unsure, pin) = intx.take_bits();
    if unsure && link.config_changed() {
        bits |= ISR_CONFIG;
    }
    if pin {
        with_bql(|| {
            if !link.is_gone() {
                intx.sync_pin(pci(dev));
            }
        });
    }
    bits
}
