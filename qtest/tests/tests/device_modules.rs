// SPDX-License-Identifier: GPL-2.0-or-later
//! The modules of the QEMU device that need nothing of QEMU, compiled here for their own tests:
//! cargo cannot build the crate they belong to.

#![allow(dead_code, unreachable_pub, missing_docs)]

#[path = "../../../rust/hw/virtio/legacy-vf/src/capabilities.rs"]
mod capabilities;
#[path = "../../../rust/hw/virtio/legacy-vf/src/capability_list.rs"]
mod capability_list;
#[path = "../../../rust/hw/virtio/legacy-vf/src/ratelimit.rs"]
mod ratelimit;
#[path = "../../../rust/hw/virtio/legacy-vf/src/sysfs.rs"]
mod sysfs;
