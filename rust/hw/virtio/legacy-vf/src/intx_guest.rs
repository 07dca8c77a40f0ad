// SPDX-License-Identifier: GPL-2.0-or-later

//! When the VF's vectors change hands: what the guest and the machine do that has to do with `INTx`.

use std::{
    ffi::CString,
    os::fd::AsFd,
    sync::{atomic::Ordering, Arc, PoisonError},
};

use pci::{report, with_bql, FdHandler};
use util::{Error, Result};
use vfio::{irq, CONFIG_REGION};
use virtio_pci_spec::{
    pci::{header, msix, CAP_ID_MSIX, COMMAND_INTX_DISABLE, STATUS_INTERRUPT},
    status::ISR_CONFIG,
};

use crate::{
    events,
    identity::enables_msix,
    intx::{Intx, Pin},
    legacy::{pci, vfio, LegacyVf},
    link::{lock, Link},
    place::Kind,
    stats::Stats,
};

/// Decides what `intx=` means for this VF, shows the pin, and begins to watch. Undone by
/// [`detach`].
pub fn attach<D: LegacyVf>(
    dev: &D,
    wanted: Option<bool>,
    stats: &Arc<Stats>,
    of: &str,
) -> Result<Option<Arc<Intx>>> {
    let (pci, vfio, state) = (pci(dev), vfio(dev), &dev.state().intx);
    let mut own = [0];
    vfio.region_read(CONFIG_REGION, header::INTERRUPT_PIN as u64, &mut own)
        .map_err(|e| Error::msg(format!("{of}: cannot read its interrupt pin: {e}")))?;
    let cap = pci.find_capability(CAP_ID_MSIX);
    let vectors = pci.msix_vectors();
    let show = |pin| *state.pin.write().unwrap_or_else(PoisonError::into_inner) = pin;
    let cannot = match (wanted, cap) {
        (Some(false), _) => {
            show(Pin::Shown(0));
            return Ok(None);
        }
        (_, Some(cap)) if own == [0] && vectors > 0 => {
            let name = CString::new(pci.label()).unwrap_or_default();
            let intx = Intx::new(name, cap, vectors, stats.clone())
                .map_err(|e| Error::msg(format!("{of}: cannot make an eventfd for INTx: {e}")))?;
            let intx = Arc::new(intx);
            watch(dev, &intx);
            show(Pin::Shown(1));
            pci.use_pin_a();
            // Of these the device has nothing: the guest gets QEMU's.
            vfio.emulate_config_bits(header::INTERRUPT_LINE, 0xff);
            for (at, bits) in [
                (header::COMMAND, COMMAND_INTX_DISABLE),
                (header::STATUS, STATUS_INTERRUPT),
            ] {
                let [low, high] = bits.to_le_bytes();
                vfio.emulate_config_bits(at, low);
                vfio.emulate_config_bits(at + 1, high);
            }
            *state.intx.write().unwrap_or_else(PoisonError::into_inner) = Some(intx.clone());
            return Ok(Some(intx));
        }
        _ if own != [0] => "it has an interrupt pin of its own",
        _ => "it has no MSI-X vectors",
    };
    if wanted == Some(true) {
        return Err(Error::msg(format!(
            "{of}: intx=on is not possible for this VF: {cannot}; leave intx= out"
        )));
    }
    if own == [0] {
        report::warn_report(&format!(
            "{of}: {cannot}, so the guest's driver has to poll"
        ));
    }
    Ok(None)
}

fn watch<D: LegacyVf>(dev: &D, intx: &Arc<Intx>) {
    let mut handlers = lock(&dev.state().intx.handlers);
    for (index, event) in intx.events.iter().enumerate() {
        let (intx, held) = (intx.clone(), pci(dev).hold());
        let signalled = move || intx.signalled(&held, index);
        handlers.push(FdHandler::new(event.descriptor().clone(), signalled));
    }
}

/// The device goes away.
pub fn detach<D: LegacyVf>(dev: &D) {
    let state = &dev.state().intx;
    if let Some(intx) = state.get() {
        release(dev, &intx);
    }
    *state.intx.write().unwrap_or_else(PoisonError::into_inner) = None;
    let handlers = std::mem::take(&mut *lock(&state.handlers));
    drop(handlers);
}

/// What the guest reads in configuration space, given what it would read without `INTx`.
pub fn config_read<D: LegacyVf>(dev: &D, address: u32, len: u8, value: u32) -> u32 {
    let state = &dev.state().intx;
    let pin = *state.pin.read().unwrap_or_else(PoisonError::into_inner);
    let at = header::INTERRUPT_PIN as u32;
    match (pin, at.checked_sub(address)) {
        (Pin::Shown(pin), Some(byte)) if byte < u32::from(len) => {
            value & !(0xff << (8 * byte)) | u32::from(pin) << (8 * byte)
        }
        _ => value,
    }
}

/// The guest is about to write configuration space. If it enables MSI-X, it gets the VF's vectors
/// back before; the result is for [`msix_switched`].
pub fn before_config_write<D: LegacyVf>(
    dev: &D,
    link: &Link,
    address: u32,
    value: u32,
    len: u8,
) -> Vec<u16> {
    let Some(intx) = &link.intx else {
        return Vec::new();
    };
    let held = intx.held.load(Ordering::Acquire);
    if !held || !enables_msix(intx.msix_cap, address, value, len) {
        return Vec::new();
    }
    let vectors = link.give_back(intx);
    release(dev, intx);
    vectors
}

/// The guest has switched MSI-X on or off. `vectors` are those it has mapped, if the device held
/// the VF's: what was still pending, or happened while vectors changed hands, is told once more by
/// each of them.
pub fn msix_switched<D: LegacyVf>(dev: &D, link: &Link, vectors: &[u16]) {
    if let Some(intx) = &link.intx {
        let mut told = lock(&intx.told);
        told.extend(vectors.iter().filter(|v| pci(dev).notify_msix(**v)));
        drop(told);
    }
    update(dev, link);
    link.settle();
}

/// Takes the vectors if the guest drives the device with MSI-X off, or lets go of them. Needs the
/// big QEMU lock.
pub fn update<D: LegacyVf>(dev: &D, link: &Link) {
    let Some(intx) = &link.intx else { return };
    // An access that was under way may have noted a driver that a reset has ended since.
    let wanted = intx.driven.load(Ordering::Acquire)
        && !link.was_reset.load(Ordering::Acquire)
        && !pci(dev).msix_enabled()
        && !intx.failed.load(Ordering::Acquire);
    match (intx.held.load(Ordering::Acquire), wanted) {
        (false, true) => take(dev, link, intx),
        (true, false) => release(dev, intx),
        _ => {}
    }
}

fn take<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx) {
    intx.clear(pci(dev));
    let events = intx.events.iter().take(intx.vectors.into());
    let fds: Vec<_> = events.map(AsFd::as_fd).collect();
    if let Err(e) = irq::signal(vfio(dev), irq::MSIX_INDEX, &fds) {
        intx.failed.store(true, Ordering::Release);
        link.log.report(report::warn_report, || {
            format!(
                "{}: cannot have the {} interrupt vectors that INTx needs: {e}; the guest gets no \
                 interrupts until it enables MSI-X or resets the device",
                link.label, intx.vectors
            )
        });
        return;
    }
    write_control(dev, intx, Some(msix::CONTROL_ENABLE));
    intx.held.store(true, Ordering::Release);
    intx.wanted.store(true, Ordering::Release);
    events::trace_virtio_legacy_vf_intx_take(&intx.name, intx.vectors.into());
}

/// Messages that a mask holds back do not outlive a reset. Needs the big QEMU lock.
fn forget_told<D: LegacyVf>(dev: &D, intx: &Intx) {
    let told = std::mem::take(&mut *lock(&intx.told));
    for vector in told {
        pci(dev).forget_msix(vector);
    }
}

/// Lets go of the vectors and forgets what is pending. Needs the big QEMU lock.
pub fn release<D: LegacyVf>(dev: &D, intx: &Intx) {
    intx.wanted.store(false, Ordering::Release);
    if intx.held.swap(false, Ordering::AcqRel) {
        irq::disable(vfio(dev), irq::MSIX_INDEX);
        write_control(dev, intx, None);
        events::trace_virtio_legacy_vf_intx_release(&intx.name);
    }
    intx.clear(pci(dev));
    forget_told(dev, intx);
}

/// A vfio-user server sees the MSI-X control word as the guest writes it; the kernel keeps its own.
/// While the device has the vectors, MSI-X is on whatever the guest has written.
fn write_control<D: LegacyVf>(dev: &D, intx: &Intx, control: Option<u16>) {
    if D::KIND != Kind::User {
        return;
    }
    let at = usize::from(intx.msix_cap) + msix::CONTROL;
    let mut bytes = [0; 2];
    pci(dev).config_image(at, &mut bytes);
    if let Some(control) = control {
        bytes = control.to_le_bytes();
    }
    // A server that is gone has no interrupts either.
    let _gone = vfio(dev).region_write(CONFIG_REGION, at as u64, &bytes, false);
}

/// The guest has accessed BAR0, `msix` being its MSI-X Enable; `reset` if it reset the device. Runs
/// without the big QEMU lock.
pub fn after_access<D: LegacyVf>(dev: &D, link: &Link, msix: bool, reset: bool) {
    let Some(intx) = &link.intx else { return };
    if reset {
        intx.failed.store(false, Ordering::Release);
    }
    let driven = intx.driven.load(Ordering::Acquire);
    let wanted = driven && !msix && !intx.failed.load(Ordering::Acquire);
    let forget = reset && !lock(&intx.told).is_empty();
    if wanted == intx.held.load(Ordering::Acquire) && !forget {
        return;
    }
    with_bql(|| {
        // Unplugged while this waited for the lock.
        if dev.state().link().is_some() {
            update(dev, link);
            if forget {
                forget_told(dev, intx);
            }
        }
    });
    link.settle();
}

/// The guest reads the ISR with MSI-X off. Runs without the big QEMU lock, and waits for nobody
/// unless the VF has a single vector.
pub fn read_isr<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx, size: u8) -> u64 {
    link.stats.accesses.add();
    let (mut isr, unsure) = intx.take_isr();
    if unsure && link.config_changed() {
        isr |= ISR_CONFIG;
    }
    let field = virtio_pci_spec::legacy::field_of(virtio_pci_spec::legacy::Register::IsrStatus);
    events::trace_virtio_legacy_vf_read(&link.name, field.offset.into(), size.into(), isr.into());
    if intx.level() {
        with_bql(|| {
            if dev.state().link().is_some() {
                intx.update_pin(pci(dev));
            }
        });
    }
    isr.into()
}

/// The device is being reset with its bus or by the guest. Needs the big QEMU lock.
pub fn reset<D: LegacyVf>(dev: &D, link: &Link) {
    if let Some(intx) = &link.intx {
        intx.driven.store(false, Ordering::Release);
        intx.failed.store(false, Ordering::Release);
        release(dev, intx);
    }
}
