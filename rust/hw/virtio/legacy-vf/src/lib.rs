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
//! | `device` | the two QOM types and their properties |
//! | `legacy` | what both have: options and state |
//! | `realize` | how they come and go |
//! | `runtime` | resets, accesses of the guest |
//! | `identity` | reads the VF's configuration space, says what the guest is shown |
//! | `access` | a guest access to BAR0, from the window to the helper and back |
//! | `link`, `handshake`, `reconnect` | the connection to the helper: loss, deadline, reconnection |
//! | `seqpacket` | the socket |
//! | `delivery`, `notify`, `kernel_doorbells` | doorbells |
//! | `place`, `host` | which VF, which PF, which helper |
//! | `intx`, `intx_guest`, `intx_link` | `INTx` while MSI-X is off: ISR and pin; when vectors change hands; the VF's vectors |
//! | `eventfd` | event counters of the kernel |
//! | `hide` | `disable-modern=on` |
//! | `stats`, `ratelimit`, `events` | counters, log limits, trace points |
//! | `messages` | error texts with cause and way out |
//!
//! Locking: the register window and the connection sit behind one lock (`link::Link`), taken by
//! vCPUs without the big QEMU lock and held while the helper answers. So nothing that runs under
//! the big QEMU lock takes it, except a reset, which does so with a deadline. Notifications never
//! take it.

mod access;
mod delivery;
mod device;
mod eventfd;
mod events;
mod handshake;
mod header_asserts;
mod hide;
mod host;
mod identity;
mod intx;
mod intx_guest;
mod intx_link;
mod kernel_doorbells;
mod legacy;
mod link;
mod messages;
mod notify;
mod place;
mod ratelimit;
mod realize;
mod reconnect;
mod runtime;
mod seqpacket;
mod stats;
