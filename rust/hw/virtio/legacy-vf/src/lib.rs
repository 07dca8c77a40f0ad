// SPDX-License-Identifier: GPL-2.0-or-later

//! Legacy virtio guests on SR-IOV virtio functions.
//!
//! A VF cannot have an I/O BAR, so a guest that knows only the legacy interface cannot drive one.
//! The two devices of this crate, `virtio-legacy-vf` (a VF of the host) and
//! `virtio-legacy-vf-user` (a VF that another process emulates), show such a VF as a transitional
//! device. Each is a subclass of QEMU's VFIO device, which goes on doing all of DMA, interrupts
//! and the other BARs; BAR0 holds the legacy registers, and accesses to it become messages to the
//! helper, which issues them as admin commands on the queue of the owning PF.
//!
//! | module | what it does |
//! |---|---|
//! | `device`, `state` | the two QOM types and their properties; what they have in common |
//! | `realize`, `platform` | how they come and go; in which machines they can be |
//! | `vf`, `sysfs` | which VF, which PF, which helper |
//! | `capabilities`, `capability_list`, `config_space` | what the VF's configuration space says, what the guest sees of it, and what its writes do |
//! | `reset` | resets of the function |
//! | `bar0` | a guest access to BAR0, from the decoder to the helper and back |
//! | `link` | what is known of the guest's driver; register window and connection over the life of a device; locking |
//! | `reconnect` | the link's thread: reconnection |
//! | `connection`, `socket` | one connection to the helper; how long who waits for it |
//! | `doorbell`, `ioeventfd` | doorbells through QEMU; and those that never leave the kernel |
//! | `intx`, `isr`, `vectors` | `INTx` while MSI-X is off: who has the vectors; ISR and pin; the VF's side of it |
//! | `counters`, `ratelimit`, `events` | counters, log limits, trace points |
//! | `messages` | error texts with cause and way out |
//!
//! Locking: the big QEMU lock; then the register window with the connection (`Link::lock_io`), held
//! while the helper answers; then what is known of the guest (`Link::guest`) and the ISR, held by
//! nobody who waits. Whoever has the big lock takes the second only to reset the VF, and gives up
//! soon. A vCPU that waits for the helper gives up as soon as somebody waits for that vCPU.
//! Notifications take none of them.

mod bar0;
mod capabilities;
mod capability_list;
mod config_space;
mod connection;
mod counters;
mod device;
mod doorbell;
mod events;
mod intx;
mod ioeventfd;
mod isr;
mod link;
mod messages;
mod platform;
mod ratelimit;
mod realize;
mod reconnect;
mod reset;
mod socket;
mod state;
mod sysfs;
mod vectors;
mod vf;
