// SPDX-License-Identifier: GPL-2.0-or-later

//! Whether a legacy driver can work with the VF in this machine: what is refused at realize, and what
//! is said.

use std::{sync::Arc, time::Duration};

use pci::{
    backends::{unshared_guest_memory, MemoryWatch},
    machine, report, PciDevice,
};
use vfio::VfioPciBase;
use virtio_pci_spec::{
    modern::{cfg_type, COMMON_DEVICE_STATUS},
    status::ACKNOWLEDGE,
};

use crate::{
    capabilities::Function,
    connection::LinkError,
    link::Link,
    messages,
    socket::{Patience, Who},
    vf::Kind,
};

/// Why the device cannot be in this machine at all, with the way out.
pub fn check(kind: Kind) -> Result<(), String> {
    if machine::is_big_endian() {
        return Err(
            "the legacy interface of a big-endian guest is big-endian, which this device does \
             not offer; use vfio-pci or vfio-user-pci with a modern driver"
                .to_owned(),
        );
    }
    if machine::is_confidential() {
        return Err(
            "the memory of a confidential guest is hidden from devices, and a legacy driver \
             cannot share what the VF must reach; use vfio-pci or vfio-user-pci with a modern \
             driver, or a guest that is not confidential"
                .to_owned(),
        );
    }
    if kind == Kind::User {
        let private = unshared_guest_memory();
        if !private.is_empty() {
            return Err(format!(
                "guest RAM ({}) is not shared memory, so the process that emulates the VF cannot \
                 reach it; use -object memory-backend-memfd,id=mem,size=SIZE,share=on and -machine \
                 memory-backend=mem",
                private.join(", ")
            ));
        }
    }
    Ok(())
}

/// Whether an IOMMU of the machine may translate what the driver takes for physical addresses: a
/// warning, or, if the guest has no other driver than a legacy one, an error.
pub fn check_iommu(pci: &PciDevice, disable_modern: bool) -> Option<Result<String, String>> {
    let way_out =
        "keep the device away from the IOMMU with -machine default-bus-bypass-iommu=on, or \
                   bypass_iommu=on of a pxb or pxb-pcie";
    if !pci.is_behind_iommu() {
        None
    } else if disable_modern {
        Some(Err(format!(
            "a legacy driver gives guest-physical addresses, which the machine's IOMMU would \
             translate; {way_out}"
        )))
    } else {
        Some(Ok(format!(
            "a legacy driver gives guest-physical addresses; if the guest switches the machine's \
             IOMMU on, the VF will not find its rings; {way_out}"
        )))
    }
}

/// Tells of memory that is plugged in later and that the process behind the VF cannot reach.
pub fn watch_memory(link: &Arc<Link>) -> MemoryWatch {
    let link = link.clone();
    MemoryWatch::new(move |memory| {
        report::warn_report(&format!(
            "{}: {memory} is not shared memory, so the process that emulates the VF cannot reach \
             it; a request of the guest there stops the VF; use share=on for memory that is added",
            link.label
        ));
    })
}

/// Whether the VF that the helper has opened is the one behind the vfio-user socket: the status that
/// is written through the one must be seen on the other. The guest does not run yet.
pub fn prove(
    vfio: &VfioPciBase,
    function: &Function,
    link: &Link,
    limit: Duration,
) -> Result<(), String> {
    let mut caps = function.caps.iter();
    let Some(cap) = caps.find(|c| c.cfg_type == cfg_type::COMMON) else {
        return Ok(());
    };
    let at = u64::from(cap.offset) + COMMON_DEVICE_STATUS;
    let member = link.target.member;
    let helper = link.target.path.display();
    let patience = &mut Patience::new(&link.stop, limit, Who::User);
    let mut io = link.lock_io();
    let Some(connection) = io.connection.as_mut() else {
        return Ok(());
    };
    let failed = |e: LinkError| format!("{} ({helper})", messages::brief(&e));
    for status in [ACKNOWLEDGE, 0] {
        let written = connection.status(Some(status), patience);
        if written.map_err(failed)?.is_none() {
            // The driver will be told the same.
            return Ok(());
        }
        let mut seen = [0];
        if vfio.region_read(cap.bar, at, &mut seen).is_err() {
            return Ok(());
        }
        if seen != [status] {
            let _back = connection.status(Some(0), patience);
            return Err(format!(
                "the VF behind {} is not that of vf={member} at the PF that the helper at {helper} \
                 drives: a status written through the helper is not seen there; correct vf=, \
                 socket= or helper=",
                vfio.vfio_name()
            ));
        }
    }
    drop(io);
    Ok(())
}
