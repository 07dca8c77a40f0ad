// SPDX-License-Identifier: GPL-2.0-or-later
//! The built-in peer: a host on the uplink that answers ARP and ping and has a few TCP services.
//!
//! | Port | Service |
//! |---|---|
//! | 7 | echo |
//! | 9 | discard |
//! | 9001 | reads until the client has sent everything, answers the SHA-256 of it in hex |
//! | 9002 | first line: a number N; sends N MiB of a fixed pseudo-random stream and closes |
//! | 9003 | first line: a number N; answers the SHA-256 of what 9002 sends for N |
//!
//! With a directory of files to boot from, those of [`boot`] as well.
//!
//! TCP and IP are smoltcp's. Send buffers are small on purpose: what is in flight must fit into a
//! guest's receive ring, since the switch, as a wire would, drops what does not.

pub mod boot;
mod device;
mod services;
mod stream;

use boot::{Boot, BootDir};
use device::FrameQueue;
use services::{Service, Services};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// MAC address of the peer.
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x01];
/// IPv4 address of the peer.
pub const ADDRESS: [u8; 4] = [10, 0, 77, 1];
/// Length of the network prefix.
pub const PREFIX: u8 = 24;

/// The peer.
pub struct Peer {
    device: FrameQueue,
    host: Host,
    files: Option<Arc<BootDir>>,
    started: std::time::Instant,
    /// Times the host was started anew.
    restarts: u64,
    #[cfg(test)]
    breaks: bool,
}

/// Addresses, connections and services.
struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    services: Services,
    boot: Option<Boot>,
}

impl Host {
    fn new(device: &mut FrameQueue, files: Option<Arc<BootDir>>) -> Self {
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 0x7069_7274_6f6f_6c73;
        let mut interface = Interface::new(config, device, Instant::ZERO);
        let address = Ipv4Cidr::new(ADDRESS.into(), PREFIX);
        interface.update_ip_addrs(|list| {
            // The list is empty and holds at least one.
            let _ = list.push(address.into());
        });
        let mut sockets = SocketSet::new(Vec::new());
        let services = Services::listen(&mut sockets, &Service::ALL);
        let boot = files.map(|files| Boot::listen(&mut sockets, address, files));
        Self {
            interface,
            sockets,
            services,
            boot,
        }
    }

    fn poll(&mut self, device: &mut FrameQueue, now: Instant) -> bool {
        self.interface.poll(now, device, &mut self.sockets);
        let mut more = self.services.run(&mut self.sockets);
        if let Some(boot) = &mut self.boot {
            more |= boot.run(&mut self.sockets, now);
        }
        // What the services wrote goes out, and windows they opened are announced.
        self.interface.poll(now, device, &mut self.sockets);
        more
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Peer {
    /// A peer with all services listening, those for booting if there are files for them.
    pub fn new(files: Option<BootDir>) -> Self {
        let mut device = FrameQueue::default();
        let files = files.map(Arc::new);
        Self {
            host: Host::new(&mut device, files.clone()),
            device,
            files,
            started: std::time::Instant::now(),
            restarts: 0,
            #[cfg(test)]
            breaks: false,
        }
    }

    /// A frame from the switch.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.device.receive(frame);
    }

    /// Lets time pass, handles what was received and produces frames; the next [`Peer::transmit`]
    /// calls give them. Does a bounded amount of work; `true` if there is more to do at once.
    ///
    /// Segments of a guest can make smoltcp panic (sequence numbers that it subtracts the wrong way
    /// round, now and then). That must not end the device for all guests: the host starts anew, as a
    /// real one might, and only its connections are lost.
    pub fn poll(&mut self) -> bool {
        let now = self.now();
        let (host, device) = (&mut self.host, &mut self.device);
        #[cfg(test)]
        let breaks = std::mem::take(&mut self.breaks);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!breaks, "asked for by a test");
            host.poll(device, now)
        }));
        match polled {
            Ok(more) => more || self.device.has_input(),
            Err(_) => {
                self.restart();
                false
            }
        }
    }

    /// Nothing of what panicked is used any more.
    fn restart(&mut self) {
        self.restarts += 1;
        if self.restarts.is_power_of_two() {
            tracing::error!(
                restarts = self.restarts,
                "frames of a guest broke the built-in peer; it starts anew without its connections"
            );
        }
        self.device.clear();
        self.host = Host::new(&mut self.device, self.files.clone());
    }

    /// Times the peer was started anew because frames of a guest broke it.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The next frame for the switch.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.device.transmit()
    }

    /// How long nothing happens unless a frame comes in; `None`: for ever.
    pub fn idle_for(&mut self) -> Option<Duration> {
        let now = self.now();
        let host = &mut self.host;
        let network = host.interface.poll_delay(now, &host.sockets);
        let boot = host.boot.as_ref().and_then(|boot| boot.idle_for(now));
        let next = [network, boot].into_iter().flatten().min();
        next.map(|d| Duration::from_micros(d.total_micros()))
    }

    /// Frames dropped because a queue was full.
    pub fn dropped(&self) -> u64 {
        self.device.dropped
    }

    fn now(&self) -> Instant {
        let micros = self.started.elapsed().as_micros();
        Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests;
