// SPDX-License-Identifier: GPL-2.0-or-later

//! What both devices share, whatever their parent is.

use std::{
    ffi::CString,
    sync::{atomic::Ordering, Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use legacy_window::Window;
use pci::{
    backends, blocker::MigrationBlocker, memory, report, with_bql, ChainedPciDevice,
    ChainedPciMethods, PciDevice,
};
use qom::prelude::*;
use system::MemoryRegion;
use util::{Error, Result};
use vfio::{VfioPciBase, CONFIG_REGION};
use virtio_pci_spec::{
    ids::{TRANSITIONAL_REVISION, VENDOR},
    pci::{header, msix, COMMAND_IO, COMMAND_MASTER},
    status::{ACKNOWLEDGE, DRIVER},
};

use crate::{
    access::Access,
    events,
    handshake::{fetch_token, Target},
    hide::{self, HiddenRange},
    identity::{power_control, sets_power, sleeps, starts_flr, Identity},
    kernel_doorbells::KernelDoorbells,
    link::{lock, Link, LinkConfig, RunningLink},
    messages,
    notify::Bars,
    place::{self, Place},
    stats::Stats,
};

/// Which parent a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `vfio-pci`: a VF of the host.
    Host,
    /// `vfio-user-pci`: a VF that another process emulates.
    User,
}

/// What the user asked for.
pub struct Options {
    /// The helper's socket.
    pub helper: Option<String>,
    /// Member number of the VF; 0 if not given.
    pub vf: u16,
    /// Longest wait for the helper in one access, in milliseconds.
    pub deadline_ms: u32,
    /// No modern interface for the guest.
    pub disable_modern: bool,
    /// Enable bus mastering for guests that forget it.
    pub bus_master_fixup: bool,
}

/// A device of this crate.
pub trait LegacyVf: ChainedPciDevice + IsA<VfioPciBase> {
    /// Which parent it has.
    const KIND: Kind;
    /// Its properties.
    fn options(&self) -> Options;
    /// The shared state.
    fn state(&self) -> &State;
    /// BAR0.
    fn bar0(&self) -> &MemoryRegion;
    /// Regions to put over modern structures, [`hide::MAX_HIDDEN`] of them.
    fn covers(&self) -> &[MemoryRegion];
}

/// State of a device, empty until it is realized.
#[derive(Default)]
pub struct State {
    /// Counters, for the whole life of the device.
    pub stats: Arc<Stats>,
    /// What the VF is, once known.
    identity: OnceLock<Identity>,
    /// The connection; `None` before realize and after exit.
    link: RwLock<Option<Arc<Link>>>,
    /// Owner of the connection's thread.
    running: Mutex<Option<RunningLink>>,
    covered: Mutex<Vec<HiddenRange>>,
    /// Queues that the kernel notifies.
    pub doorbells: KernelDoorbells,
    blocker: MigrationBlocker,
}

impl State {
    /// The connection, while there is one.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn pci<D: LegacyVf>(dev: &D) -> &PciDevice {
    dev.upcast()
}

fn vfio<D: LegacyVf>(dev: &D) -> &VfioPciBase {
    dev.upcast()
}

/// Brings up the parent, then what this device adds.
pub fn realize<D: LegacyVf>(dev: &D) -> Result<()> {
    let options = dev.options();
    let name = format!("{} {}", dev.typename(), pci(dev).label());
    let place = place::find(dev, &options, &name)?;
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
    let link = Link::connect(LinkConfig {
        label: label.to_owned(),
        name: CString::new(pci.label()).unwrap_or_default(),
        stats: state.stats.clone(),
        target: target.clone(),
        deadline,
        window: Window::new(identity.device, identity.config_len),
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
    state.doorbells.update(vfio(dev), dev.bar0(), None, &[], "");
    if let Some(link) = link {
        // From here on nothing touches the VF's mapped registers.
        link.set_asleep(|| true);
    }
    // Ends waits for the helper and the thread; a vCPU inside an access has its own reference.
    drop(lock(&state.running).take());
    let covered =
        std::mem::take(&mut *state.covered.lock().unwrap_or_else(PoisonError::into_inner));
    for (range, cover) in covered.iter().zip(dev.covers()) {
        vfio(dev).uncover_bar(range.bar, cover);
    }
    state.blocker.remove();
}

/// The device is unplugged.
pub fn exit<D: LegacyVf>(dev: &D) {
    detach(dev);
    dev.parent_exit();
}

/// The machine or the bus is reset. Status 0 reaches the VF before VFIO's reset, so that it stops
/// in order; what the window remembers is forgotten.
pub fn reset<D: LegacyVf>(dev: &D) {
    let link = dev.state().link();
    if let Some(link) = &link {
        let resets = vfio(dev).reset_works();
        let by_command = !resets || link.touched.load(Ordering::Relaxed);
        let written = link.reset(by_command, !resets);
        events::trace_virtio_legacy_vf_reset(&link.name, written);
    }
    dev.parent_reset();
    if let Some(link) = &link {
        link.was_reset.store(true, Ordering::Release);
        link.set_asleep(|| is_asleep(dev));
        update_doorbells(dev, link);
    }
}

/// Whether the VF is in a power state in which its registers must not be touched.
fn is_asleep<D: LegacyVf>(dev: &D) -> bool {
    let power = dev.state().identity.get().and_then(|i| i.power);
    power.is_some_and(|cap| sleeps(dev.parent_config_read(power_control(cap), 2)))
}

/// How doorbells reach the VF now, as `qom-get doorbell-path` shows it; empty while unrealized.
pub fn doorbell_path<D: LegacyVf>(dev: &D) -> &'static str {
    match dev.state().link() {
        Some(_) if dev.state().doorbells.count() > 0 => "kernel",
        Some(link) => link
            .delivery
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .path(),
        None => "",
    }
}

/// Lets the kernel ring for the queues that the guest's driver uses, as far as it can. Needs the
/// big QEMU lock.
pub fn update_doorbells<D: LegacyVf>(dev: &D, link: &Link) {
    let address = link
        .delivery
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .address();
    let queues = if link.driver_ok.load(Ordering::Acquire) {
        link.in_use.list()
    } else {
        Vec::new()
    };
    let doorbells = &dev.state().doorbells;
    doorbells.update(vfio(dev), dev.bar0(), address, &queues, &link.label);
}

/// The guest reads configuration space.
pub fn config_read<D: LegacyVf>(dev: &D, address: u32, len: u8) -> u32 {
    dev.parent_config_read(address, len)
}

/// The guest writes configuration space.
pub fn config_write<D: LegacyVf>(dev: &D, address: u32, value: u32, len: u8) {
    let (Some(link), Some(identity)) = (dev.state().link(), dev.state().identity.get()) else {
        return dev.parent_config_write(address, value, len);
    };
    if dev.options().disable_modern
        && (address..address.saturating_add(len.into())).any(|a| hide::is_hidden(&identity.caps, a))
    {
        // VFIO passes every write on to the device, whatever the guest can see of it.
        events::trace_virtio_legacy_vf_hidden(&link.name, address, value);
        for i in 0..len {
            let at = address.saturating_add(i.into());
            if !hide::is_hidden(&identity.caps, at) {
                dev.parent_config_write(at, value >> (8 * u32::from(i)) & 0xff, 1);
            }
        }
        return;
    }
    let had_msix = pci(dev).msix_enabled();
    let flr = identity
        .express
        .is_some_and(|cap| starts_flr(cap, address, value, len));
    if flr {
        quiesce(dev, identity);
    }
    let power = identity
        .power
        .is_some_and(|cap| sets_power(cap, address, len));
    if flr || power {
        // Nobody may touch the VF's mapped registers while they go away.
        link.set_asleep(|| {
            dev.parent_config_write(address, value, len);
            is_asleep(dev)
        });
    } else {
        dev.parent_config_write(address, value, len);
    }
    let has_msix = pci(dev).msix_enabled();
    if had_msix != has_msix {
        link.msix_switched.store(true, Ordering::Release);
        events::trace_virtio_legacy_vf_msix(&link.name, has_msix);
    }
    if flr {
        link.stats.resets.add();
        link.forget_driver();
        link.was_reset.store(true, Ordering::Release);
        link.touched.store(false, Ordering::Relaxed);
        update_doorbells(dev, &link);
        events::trace_virtio_legacy_vf_flr(&link.name);
    }
}

/// A function level reset ends bus mastering, decoding and MSI-X. Of these VFIO keeps what it
/// emulates, so they are ended before it.
fn quiesce<D: LegacyVf>(dev: &D, identity: &Identity) {
    if let Some(cap) = identity.msix {
        let control = u32::from(cap) + msix::CONTROL as u32;
        dev.parent_config_write(control + 1, 0, 1);
    }
    dev.parent_config_write(header::COMMAND as u32, 0, 2);
}

/// The guest accesses BAR0. Runs without the big QEMU lock.
pub fn bar0_access<D: LegacyVf>(dev: &D, offset: u64, size: u32, write: Option<u64>) -> u64 {
    let (Ok(offset), Ok(size)) = (u32::try_from(offset), u8::try_from(size)) else {
        return u64::MAX;
    };
    let Some(link) = dev.state().link() else {
        return u64::MAX;
    };
    let access = Access {
        offset,
        size,
        write,
        msix: pci(dev).msix_enabled(),
    };
    if let Some(queue) = access.notification() {
        link.notify(vfio(dev), queue);
        return 0;
    }
    let done = link.access(vfio(dev), access);
    if D::KIND == Kind::Host && access.changes_queues(&done) {
        driver_moved(dev, &link);
    }
    if let Some(change) = done.effects.status {
        if change.new == ACKNOWLEDGE | DRIVER && dev.options().bus_master_fixup {
            enable_bus_master(dev, &link);
        }
    }
    done.value
}

/// The guest's driver may have started or stopped using queues.
fn driver_moved<D: LegacyVf>(dev: &D, link: &Arc<Link>) {
    let runs = link.driver_ok.load(Ordering::Acquire);
    if !runs && dev.state().doorbells.count() == 0 || !vfio(dev).kernel_doorbells_allowed() {
        return;
    }
    with_bql(|| {
        // Unplugged while this waited for the lock.
        if dev.state().link().is_some_and(|l| Arc::ptr_eq(&l, link)) {
            update_doorbells(dev, link);
        }
    });
}

/// Linux before 2.6.34 drives legacy devices without enabling bus mastering. QEMU's own legacy
/// device forgives it; a VF could not do any DMA.
fn enable_bus_master<D: LegacyVf>(dev: &D, link: &Link) {
    with_bql(|| {
        // Unplugged while this waited for the lock.
        if dev.state().link().is_none() {
            return;
        }
        let at = header::COMMAND as u32;
        let command = config_read(dev, at, 2);
        let master = u32::from(COMMAND_MASTER);
        if command & master == 0 && command != 0xffff {
            config_write(dev, at, command | master, 2);
            events::trace_virtio_legacy_vf_bus_master(&link.name);
        }
    });
}
