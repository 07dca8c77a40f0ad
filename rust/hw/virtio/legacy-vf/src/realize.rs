// SPDX-License-Identifier: GPL-2.0-or-later

//! How a device comes and goes: realize and exit.

use std::{
    ffi::CString,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use legacy_window::Window;
use pci::{backends, memory, report, ChainedPciMethods, FdHandler};
use qom::prelude::*;
use util::{Error, Result};
use vfio::{VfioPciBase, CONFIG_REGION};
use virtio_pci_spec::{
    ids::{TRANSITIONAL_REVISION, VENDOR},
    pci::{header, COMMAND_IO},
};

use crate::{
    delivery::Bars,
    events,
    handshake::{fetch_token, Target},
    hide,
    identity::Identity,
    intx_guest,
    legacy::{pci, vfio, LegacyVf, Options},
    link::{lock, Link, LinkConfig, RunningLink},
    messages,
    place::{self, Kind, Place},
    ratelimit::RateLimit,
    runtime::update_doorbells,
};

/// Brings up the parent, then what this device adds.
pub fn realize<D: LegacyVf>(dev: &D) -> Result<()> {
    let options = dev.options();
    let name = format!("{} {}", dev.typename(), pci(dev).label());
    let helper = options.helper.as_deref();
    let place = place::find(D::KIND, vfio(dev), helper, options.vf, &name)?;
    let label = format!("{name}, {}", place.name());
    if !(10..=600_000).contains(&options.deadline_ms) {
        let ms = options.deadline_ms;
        let text = format!("{label}: helper-deadline-ms={ms} is out of range (10 to 600000)");
        return Err(Error::msg(text));
    }
    if D::KIND == Kind::User {
        let private = backends::unshared_guest_memory();
        if !private.is_empty() {
            return Err(Error::msg(format!(
                "{label}: guest RAM ({}) is not shared memory, so the process that emulates the \
                 VF cannot reach it; use -object memory-backend-memfd,id=mem,size=SIZE,share=on \
                 and -machine memory-backend=mem",
                private.join(", ")
            )));
        }
    }
    let vfio = vfio(dev);
    let mut fetched = false;
    if place.host.is_some() && !vfio.has_vf_token() {
        let deadline = Instant::now() + Duration::from_millis(options.deadline_ms.into());
        let token = fetch_token(&place.helper, place.member, deadline).map_err(|e| {
            let why = messages::no_token(&place, &e, options.deadline_ms);
            Error::msg(format!("{label}: {why}"))
        })?;
        vfio.set_vf_token(token);
        fetched = true;
    }
    let mut result = dev.parent_realize().map_err(|e| {
        let hint = messages::vfio_failed(&place, &e.to_string(), fetched);
        Error::msg(format!("{label}: {e}{hint}"))
    });
    if result.is_ok() {
        result = attach(dev, &options, place, &label);
        if result.is_err() {
            detach(dev);
            dev.parent_exit();
        }
    }
    if result.is_err() && fetched {
        vfio.set_vf_token([0; 16]);
    }
    result
}

/// Everything after the parent's realize. Whoever calls it undoes it with [`detach`].
fn attach<D: LegacyVf>(dev: &D, options: &Options, place: Place, label: &str) -> Result<()> {
    let (pci, vfio, state) = (pci(dev), vfio(dev), dev.state());
    let of = match place.host {
        Some(_) => label.to_owned(),
        None => format!("{label} ({})", vfio.vfio_name()),
    };
    let identity = identify(vfio, &of)?;
    let proof = vfio
        .device_file()
        .map_err(|e| Error::msg(format!("{of}: cannot pass on the VFIO device file: {e}")))?;
    let deadline = Duration::from_millis(options.deadline_ms.into());
    let target = Target {
        path: place.helper.clone(),
        member: place.member,
        virtio_id: identity.device.virtio_id(),
        serial: identity.serial,
        proof: proof.map(Arc::new),
    };
    let intx = intx_guest::attach(dev, options.intx, &state.stats, &of)?;
    let mut window = Window::new(identity.device, identity.config_len);
    if intx.is_some() {
        window.emulate_intx();
    }
    let link = Link::connect(LinkConfig {
        label: label.to_owned(),
        name: CString::new(pci.label()).unwrap_or_default(),
        stats: state.stats.clone(),
        target,
        deadline,
        window,
        intx,
        bars: Bars::of(vfio, D::KIND),
    })
    .map_err(|e| {
        let why = messages::connect_failed(&place, &e, options.deadline_ms);
        Error::msg(format!("{of}: {why}"))
    })?;
    compare_deadlines(&link, options, &of);
    let name = link.name.clone();
    let running = RunningLink::start(link)
        .map_err(|e| Error::msg(format!("{of}: cannot start a thread: {e}")))?;
    let shared = running.link().clone();
    *lock(&state.running) = Some(running);
    *lock(&state.moved) = Some(watch_address(dev, shared.clone()));

    show_as_transitional(vfio, &identity);
    if options.disable_modern {
        hide_modern(dev, &identity, &of)?;
    }
    state.blocker.add(&format!(
        "{of}: the state of a legacy virtio VF cannot be migrated; unplug the device first"
    ))?;
    let bar0_size = identity.bar0_size();
    events::trace_virtio_legacy_vf_realize(
        &name,
        identity.device.virtio_id().into(),
        identity.config_len.into(),
        bar0_size,
    );
    let _first_time = state.identity.set(identity);
    *state.link.write().unwrap_or_else(PoisonError::into_inner) = Some(shared);
    memory::set_size(dev.bar0(), bar0_size.into());
    memory::enable_lockless_io(dev.bar0());
    pci.register_io_bar(0, dev.bar0());
    Ok(())
}

/// Reads the VF's configuration space as the hardware has it.
fn identify(vfio: &VfioPciBase, of: &str) -> Result<Identity> {
    let own = vfio.bar_size(0);
    if own != 0 {
        return Err(Error::msg(format!(
            "{of}: the VF has a BAR0 of its own ({own} bytes), where the legacy registers must be; \
             it does not support legacy guests"
        )));
    }
    let mut space = vec![0; vfio.config_region_size().min(4096)];
    vfio.region_read(CONFIG_REGION, 0, &mut space)
        .map_err(|e| {
            Error::msg(format!(
                "{of}: cannot read its configuration space: {e}; see whether the VF or the \
                 process that emulates it is alive"
            ))
        })?;
    Identity::read(&space).map_err(|why| {
        Error::msg(format!(
            "{of}: {why}; use {} for this device",
            "vfio-pci or vfio-user-pci"
        ))
    })
}

/// The link's thread must not take the big QEMU lock, since the device's end waits for it: what it
/// learns about the kernel's doorbells is done by the main loop.
fn watch_address<D: LegacyVf>(dev: &D, link: Arc<Link>) -> FdHandler {
    let held = pci(dev).hold();
    FdHandler::new(link.moved.descriptor().clone(), move || {
        link.moved.take();
        if let Some(device) = held.dynamic_cast::<D>() {
            update_doorbells(device, &link);
        }
    })
}

fn compare_deadlines(link: &Link, options: &Options, of: &str) {
    let helper = link
        .lock()
        .connection
        .as_ref()
        .map(|c| c.opened().deadline_ms);
    if let Some(helper) = helper.filter(|ms| *ms >= options.deadline_ms) {
        report::warn_report(&format!(
            "{of}: helper-deadline-ms={} is not longer than the {helper} ms that the helper may \
             take; a slow PF will look like a lost helper",
            options.deadline_ms
        ));
    }
}

/// Changes the identity that the guest sees; class and capabilities stay.
fn show_as_transitional(vfio: &VfioPciBase, identity: &Identity) {
    let device = identity.device.transitional_pci_id();
    let subsystem = identity.device.virtio_id();
    for (offset, value) in [
        (header::DEVICE_ID, device),
        (header::SUBSYSTEM_VENDOR_ID, VENDOR),
        (header::SUBSYSTEM_ID, subsystem),
    ] {
        let [low, high] = value.to_le_bytes();
        vfio.emulate_config_byte(offset, low, 0xff, 0);
        vfio.emulate_config_byte(offset + 1, high, 0xff, 0);
    }
    vfio.emulate_config_byte(header::REVISION_ID, TRANSITIONAL_REVISION, 0xff, 0);
    // The VF has no I/O space, so it cannot remember this bit for the guest.
    vfio.emulate_config_bits(header::COMMAND, COMMAND_IO as u8);
    vfio.set_shown_ids(device, VENDOR, subsystem);
}

fn hide_modern<D: LegacyVf>(dev: &D, identity: &Identity, of: &str) -> Result<()> {
    let vfio = vfio(dev);
    let ranges = hide::ranges(&identity.caps, |bar| vfio.bar_size(bar)).map_err(|n| {
        Error::msg(format!(
            "{of}: disable-modern=on can hide {} modern structures, the VF has {n}",
            hide::MAX_HIDDEN
        ))
    })?;
    let mut image = [0; 256];
    pci(dev).config_image(0, &mut image);
    for change in hide::unlink(&image, &identity.caps) {
        vfio.emulate_config_byte(change.offset.into(), change.value, change.mask, 0);
    }
    for (range, cover) in ranges.into_iter().zip(dev.covers()) {
        memory::set_size(cover, range.length);
        if !vfio.cover_bar(range.bar, range.offset, cover) {
            return Err(Error::msg(format!(
                "{of}: disable-modern=on cannot hide the structure in BAR {}",
                range.bar
            )));
        }
        lock(&dev.state().covered).push(range);
    }
    Ok(())
}

/// Undoes what [`attach`] has done so far.
fn detach<D: LegacyVf>(dev: &D) {
    let state = dev.state();
    let link = state
        .link
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let log = (&RateLimit::default(), "");
    let (vfio, bar0) = (vfio(dev), dev.bar0());
    state.doorbells.update(vfio, bar0, None, &[], log);
    if let Some(link) = link {
        // From here on nothing touches the VF's mapped registers.
        link.set_asleep(|| true);
    }
    drop(lock(&state.moved).take());
    // Ends waits for the helper and the thread; a vCPU inside an access has its own reference.
    drop(lock(&state.running).take());
    intx_guest::detach(dev);
    let covered =
        std::mem::take(&mut *state.covered.lock().unwrap_or_else(PoisonError::into_inner));
    for (range, cover) in covered.iter().zip(dev.covers()) {
        vfio.uncover_bar(range.bar, cover);
    }
    state.blocker.remove();
}

/// The device is unplugged.
pub fn exit<D: LegacyVf>(dev: &D) {
    detach(dev);
    dev.parent_exit();
}
