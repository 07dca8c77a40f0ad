// SPDX-License-Identifier: GPL-2.0-or-later

//! How a device comes and goes: realize and exit.

use std::{ffi::CString, sync::Arc, time::Duration};

use legacy_window::Window;
use pci::{memory, report, ChainedPciMethods, FdHandler};
use qom::prelude::*;
use util::Error;
use vfio::{VfioPciBase, CONFIG_REGION};
use virtio_pci_spec::{
    ids::{TRANSITIONAL_REVISION, VENDOR},
    legacy::bar0_size,
    pci::{header, COMMAND_INTX_DISABLE, COMMAND_IO, STATUS_INTERRUPT},
};

use crate::{
    capabilities::Function,
    capability_list::{self, ByteChange, MAX_HIDDEN},
    connection::{fetch_token, LinkError, Target},
    events, intx,
    isr::Intx,
    link::{lock, Link},
    messages, platform,
    reconnect::RunningLink,
    state::{pci, vfio, LegacyVf, Options},
    vf::{self, Kind, Vf},
};

/// Longest wait for the helper while the user adds the device, which the whole machine shares.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Brings up the parent, then what this device adds.
pub fn realize<D: LegacyVf>(dev: &D) -> util::Result<()> {
    let (vfio, options) = (vfio(dev), dev.options());
    let mut label = format!("{} {}", dev.typename(), pci(dev).label());
    let error = |of: &str, why: String| Error::msg(format!("{of}: {why}"));
    let at = vf::find(D::KIND, vfio, options.helper.get().as_deref(), options.vf)
        .map_err(|why| error(&label, why))?;
    label = format!("{label}, {}", at.name());
    let fetched = prepare(dev, &options, &at).map_err(|why| error(&label, why))?;
    let result = dev.parent_realize().map_err(|e| {
        let hint = messages::vfio_failed(&at, &e.to_string(), fetched);
        error(&label, format!("{e}{hint}"))
    });
    let result = result.and_then(|parent| {
        let of = match at.host {
            Some(_) => label.clone(),
            None => format!("{label} ({})", vfio.vfio_name()),
        };
        attach(dev, &options, &at, label, &of).map_err(|why| {
            detach(dev);
            dev.parent_exit(parent);
            error(&of, why)
        })
    });
    if result.is_err() && fetched {
        vfio.set_vf_token([0; 16]);
    }
    result
}

/// Everything before the parent's realize. Whether the VF token is that of the helper.
fn prepare<D: LegacyVf>(dev: &D, options: &Options<'_>, at: &Vf) -> Result<bool, String> {
    let ms = options.deadline_ms;
    if !(10..=600_000).contains(&ms) {
        return Err(format!(
            "helper-deadline-ms={ms} is out of range (10 to 600000)"
        ));
    }
    platform::check(D::KIND)?;
    let fetch = at.host.is_some() && !vfio(dev).has_vf_token();
    if fetch {
        let token = fetch_token(&at.helper, at.member, patience(options));
        vfio(dev).set_vf_token(token.map_err(|e| messages::no_token(at, &e, ms))?);
    }
    Ok(fetch)
}

/// Longest wait for the helper at realize.
fn patience(options: &Options<'_>) -> Duration {
    Duration::from_millis(options.deadline_ms.into()).min(MOST_PATIENCE)
}

/// Everything after the parent's realize. Whoever calls it undoes it with [`detach`] if it fails.
/// `of` is the device in warnings at this time.
fn attach<D: LegacyVf>(
    dev: &D,
    options: &Options<'_>,
    at: &Vf,
    label: String,
    of: &str,
) -> Result<(), String> {
    let (pci, vfio, state) = (pci(dev), vfio(dev), dev.state());
    if let Some(warning) = platform::check_iommu(pci, options.disable_modern) {
        report::warn_report(&format!("{of}: {}", warning?));
    }
    let function = identify(vfio)?;
    let proof = vfio
        .device_file()
        .map_err(|e| format!("cannot pass on the VFIO device file: {e}"))?;
    let name = CString::new(pci.label()).unwrap_or_default();
    let (counters, shown) = (state.counters.clone(), name.clone());
    let target = Target {
        path: at.helper.clone(),
        member: at.member,
        virtio_id: function.device.virtio_id(),
        serial: function.serial,
        proof,
        events: Arc::new(move |event| {
            counters.events.add();
            events::trace_virtio_legacy_vf_event(&shown, event.kind.0.into(), event.detail);
        }),
    };
    let intx = show_pin(dev, options.intx, &function, of)?;
    let mut window = Window::new(function.device, function.config_len);
    if intx.is_some() {
        window.emulate_intx();
    }
    let failed = |e: LinkError| messages::connect_failed(at, &e, options.deadline_ms);
    let mut connected = Link::new(label, name, state.counters.clone(), target, window)
        .map_err(|e| failed(LinkError::Socket(e)))?;
    connected.deadline = Duration::from_millis(options.deadline_ms.into());
    connected.bars = std::array::from_fn(|bar| vfio.bar_size(bar as u8));
    connected.intx = intx;
    let opened = connected.connect(patience(options)).map_err(failed)?;
    if opened.deadline_ms >= options.deadline_ms {
        report::warn_report(&format!(
            "{of}: helper-deadline-ms={} is not longer than the {} ms that the helper may take; a \
             slow PF will look like a lost helper",
            options.deadline_ms, opened.deadline_ms
        ));
    }
    if D::KIND == Kind::User && options.check_vf {
        platform::prove(vfio, &function, &connected, patience(options))?;
    }
    let running =
        RunningLink::start(connected).map_err(|e| format!("cannot start a thread: {e}"))?;
    let link = running.link().clone();
    *lock(&state.running) = Some(running);
    watch(dev, &link);
    if D::KIND == Kind::User {
        *lock(&state.memory) = Some(platform::watch_memory(&link));
    }
    show_as_transitional(vfio, &function);
    if options.disable_modern {
        hide_modern(dev, &function)?;
    }
    change(dev, capability_list::put_msix_last);
    let blocked = state.blocker.add(&format!(
        "{of}: the state of a legacy virtio VF cannot be migrated; unplug the device first"
    ));
    blocked.map_err(|e| e.to_string())?;
    let bar0_size = bar0_size(function.config_len.into());
    events::trace_virtio_legacy_vf_realize(
        &link.name,
        function.device.virtio_id().into(),
        function.config_len.into(),
        bar0_size,
    );
    let _first_time = (state.function.set(function), state.link.set(link));
    // SAFETY: BAR0 is part of the device and not mapped before the last of these; its callbacks
    // lock what they share; the VF has no BAR0 of its own, as identify() has seen.
    unsafe {
        memory::set_size(dev.bar0(), bar0_size.into());
        memory::enable_lockless_io(dev.bar0());
        pci.register_io_bar(0, dev.bar0());
    }
    Ok(())
}

/// Reads the VF's configuration space as the hardware has it.
fn identify(vfio: &VfioPciBase) -> Result<Function, String> {
    let own = vfio.bar_size(0);
    if own != 0 {
        return Err(format!(
            "the VF has a BAR0 of its own ({own} bytes), where the legacy registers must be; it \
             does not support legacy guests"
        ));
    }
    let mut space = vec![0; vfio.config_region_size().min(4096)];
    vfio.region_read(CONFIG_REGION, 0, &mut space)
        .map_err(|e| {
            format!(
                "cannot read its configuration space: {e}; see whether the VF or the process that \
                 emulates it is alive"
            )
        })?;
    Function::read(&space)
        .map_err(|why| format!("{why}; use vfio-pci or vfio-user-pci for this device"))
}

/// Decides what `intx=` means for this VF, and shows the pin.
fn show_pin<D: LegacyVf>(
    dev: &D,
    wanted: Option<bool>,
    function: &Function,
    of: &str,
) -> Result<Option<Arc<Intx>>, String> {
    let (pci, vfio, state) = (pci(dev), vfio(dev), dev.state());
    let mut own = [0];
    vfio.region_read(CONFIG_REGION, header::INTERRUPT_PIN as u64, &mut own)
        .map_err(|e| format!("cannot read its interrupt pin: {e}"))?;
    let vectors = pci.msix_vectors();
    let cannot = match (wanted, function.msix) {
        (Some(false), _) => {
            let _first_time = state.pin.set(0);
            return Ok(None);
        }
        (_, Some(cap)) if own == [0] && vectors > 0 => {
            let name = CString::new(pci.label()).unwrap_or_default();
            let intx = Intx::new(name, cap, vectors, state.counters.clone())
                .map_err(|e| format!("cannot make an eventfd for INTx: {e}"))?;
            let _first_time = state.pin.set(1);
            pci.set_config_byte(header::INTERRUPT_PIN, 1, 0);
            // Of these the device has nothing: the guest gets QEMU's.
            vfio.emulate_config_bits(header::INTERRUPT_LINE, 0xff);
            vfio.emulate_config_bits(header::COMMAND + 1, (COMMAND_INTX_DISABLE >> 8) as u8);
            vfio.emulate_config_bits(header::STATUS, STATUS_INTERRUPT as u8);
            return Ok(Some(Arc::new(intx)));
        }
        _ if own != [0] => "it has an interrupt pin of its own",
        _ => "it has no MSI-X vectors",
    };
    if wanted == Some(true) {
        return Err(format!(
            "intx=on is not possible for this VF: {cannot}; leave intx= out"
        ));
    }
    if own == [0] {
        report::warn_report(&format!(
            "{of}: {cannot}, so the guest's driver has to poll"
        ));
    }
    Ok(None)
}

/// What the main loop does for the device: the VF's messages become interrupts; and what the link's
/// thread asks for, which must not take the big QEMU lock, since the device's end waits for it.
fn watch<D: LegacyVf>(dev: &D, link: &Arc<Link>) {
    let mut handlers = lock(&dev.state().handlers);
    let events = link.intx.iter().flat_map(|intx| intx.events.iter());
    for (index, event) in events.enumerate() {
        let (link, held) = (link.clone(), pci(dev).hold());
        let signalled = move || {
            if let Some(intx) = &link.intx {
                intx.signalled(&held, index);
            }
        };
        handlers.push(FdHandler::new(event.descriptor().clone(), signalled));
    }
    let (for_main_loop, held) = (link.clone(), pci(dev).hold());
    let asked = move || {
        for_main_loop.main_loop.take();
        if let Some(device) = held.dynamic_cast::<D>() {
            device
                .state()
                .doorbells
                .follow(vfio(device), device.bar0(), &for_main_loop);
            intx::tell(device, &for_main_loop);
        }
    };
    handlers.push(FdHandler::new(link.main_loop.descriptor().clone(), asked));
}

/// Changes the identity that the guest sees; class and capabilities stay.
fn show_as_transitional(vfio: &VfioPciBase, function: &Function) {
    let device = function.device.transitional_pci_id();
    let subsystem = function.device.virtio_id();
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

fn hide_modern<D: LegacyVf>(dev: &D, function: &Function) -> Result<(), String> {
    let vfio = vfio(dev);
    let ranges =
        capability_list::ranges(&function.caps, |bar| vfio.bar_size(bar)).map_err(|n| {
            format!("disable-modern=on can hide {MAX_HIDDEN} modern structures, the VF has {n}")
        })?;
    change(dev, |image| capability_list::unlink(image, &function.caps));
    for (range, cover) in ranges.into_iter().zip(dev.covers()) {
        // SAFETY: the region is part of the device and not mapped; detach() takes it off again.
        let covered = unsafe {
            memory::set_size(cover, range.length);
            vfio.cover_bar(range.bar, range.offset, cover)
        };
        if !covered {
            return Err(format!(
                "disable-modern=on cannot hide the structure in BAR {}",
                range.bar
            ));
        }
        lock(&dev.state().covered).push(range);
    }
    Ok(())
}

/// Changes the configuration space that the guest sees.
fn change<D: LegacyVf>(dev: &D, changes: impl FnOnce(&[u8; 256]) -> Vec<ByteChange>) {
    let mut image = [0; 256];
    pci(dev).config_image(0, &mut image);
    for change in changes(&image) {
        vfio(dev).emulate_config_byte(change.offset.into(), change.value, change.mask, 0);
    }
}

/// Undoes what [`attach`] has done so far.
pub fn detach<D: LegacyVf>(dev: &D) {
    let (vfio, state) = (vfio(dev), dev.state());
    state.doorbells.remove(vfio, dev.bar0());
    drop(lock(&state.memory).take());
    // Ends waits for the helper and the thread; a vCPU inside an access finds the link gone.
    let running = lock(&state.running).take();
    if let Some(running) = &running {
        let link = running.link();
        link.leave();
        link.was_reset(false);
        intx::hand_over(dev, link);
        intx::forget_told(dev, link, true);
    }
    drop(running);
    drop(std::mem::take(&mut *lock(&state.handlers)));
    let covered = std::mem::take(&mut *lock(&state.covered));
    for (range, cover) in covered.iter().zip(dev.covers()) {
        // SAFETY: hide_modern() has put it there.
        unsafe { vfio.uncover_bar(range.bar, cover) }
    }
    state.blocker.remove();
}
