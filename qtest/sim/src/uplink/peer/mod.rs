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
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};
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
    interface: Interface,
    sockets: SocketSet<'static>,
    services: Services,
    boot: Option<Boot>,
    started: std::time::Instant,
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
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 0x7069_7274_6f6f_6c73;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        let [a, b, c, d] = ADDRESS;
        let address = IpCidr::new(Ipv4Address::new(a, b, c, d).into(), PREFIX);
        interface.update_ip_addrs(|list| {
            // The list is empty and holds at least one.
            let _ = list.push(address);
        });
        let mut sockets = SocketSet::new(Vec::new());
        let services = Services::listen(&mut sockets, &Service::ALL);
        let boot = files.map(|files| Boot::listen(&mut sockets, files));
        Self {
            device,
            interface,
            sockets,
            services,
            boot,
            started: std::time::Instant::now(),
        }
    }

    /// A frame from the switch.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.device.receive(frame);
    }

    /// Lets time pass, handles what was received and produces frames; the next [`Peer::transmit`]
    /// calls give them. Does a bounded amount of work; `true` if there is more to do at once.
    pub fn poll(&mut self) -> bool {
        let now = self.now();
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        let mut more = self.services.run(&mut self.sockets);
        if let Some(boot) = &mut self.boot {
            more |= boot.run(&mut self.sockets, now);
        }
        // What the services wrote goes out, and windows they opened are announced.
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        more || self.device.has_input()
    }

    /// The next frame for the switch.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.device.transmit()
    }

    /// How long nothing happens unless a frame comes in; `None`: for ever.
    pub fn idle_for(&mut self) -> Option<Duration> {
        let now = self.now();
        let network = self.interface.poll_delay(now, &self.sockets);
        let boot = self.boot.as_ref().and_then(|boot| boot.idle_for(now));
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
