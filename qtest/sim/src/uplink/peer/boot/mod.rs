// SPDX-License-Identifier: GPL-2.0-or-later
//! What firmware needs to boot from the network, behind `--boot-dir`: DHCP, TFTP and HTTP.
//!
//! | Port | Service |
//! |---|---|
//! | UDP 67 | DHCP: an address from 10.0.77.100 on, and the name of a file to boot |
//! | UDP 69 | TFTP, reading only, with the options blksize and tsize |
//! | TCP 80 | HTTP, GET and HEAD |
//!
//! Which file DHCP names depends on who asks; one that is not in the directory is not named:
//!
//! | Client | File |
//! |---|---|
//! | iPXE (user class) | `boot.ipxe`, as an HTTP URL |
//! | UEFI HTTP boot | `boot.efi`, as an HTTP URL |
//! | UEFI | `boot.efi` |
//! | others | `boot.0` |

mod dhcp;
mod files;
mod http;
mod tftp;

pub use files::BootDir;

use dhcp::Dhcp;
use http::Http;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::Ipv4Cidr;
use std::sync::Arc;
use tftp::Tftp;

/// Datagrams waiting in each direction of a socket.
const DATAGRAMS: usize = 32;
/// The largest payload of a datagram that is not fragmented.
const MAX_PAYLOAD: usize = 1472;
/// Datagrams handled before others get their turn.
const BUDGET: usize = 64;

/// The services.
pub(super) struct Boot {
    files: Arc<BootDir>,
    dhcp: Dhcp,
    dhcp_socket: SocketHandle,
    tftp: Tftp,
    tftp_socket: SocketHandle,
    http: Http,
}

impl Boot {
    /// Listens on the host at this address.
    pub(super) fn listen(
        sockets: &mut SocketSet<'static>,
        host: Ipv4Cidr,
        files: Arc<BootDir>,
    ) -> Self {
        Self {
            files,
            dhcp: Dhcp::new(host),
            dhcp_socket: sockets.add(listening(dhcp::PORT)),
            tftp: Tftp::default(),
            tftp_socket: sockets.add(listening(tftp::PORT)),
            http: Http::listen(sockets),
        }
    }

    /// Answers what came; `true` if there is more to do at once.
    pub(super) fn run(&mut self, sockets: &mut SocketSet<'static>, now: Instant) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.dhcp_socket);
        let mut more = true;
        for _ in 0..BUDGET {
            // An answer that finds no room is lost, as on a wire; clients ask again.
            let Ok((request, _)) = socket.recv() else {
                more = false;
                break;
            };
            if let Some(answer) = self.dhcp.answer(request, &self.files) {
                let _ = socket.send_slice(&answer, dhcp::CLIENTS);
            }
        }
        let socket = sockets.get_mut::<Socket<'_>>(self.tftp_socket);
        more |= self.tftp.run(socket, &self.files, now, BUDGET);
        more | self.http.run(sockets, &self.files)
    }

    /// How long nothing happens without a frame.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.tftp.idle_for(now)
    }
}

fn listening(port: u16) -> Socket<'static> {
    let buffer = || {
        PacketBuffer::new(
            vec![PacketMetadata::EMPTY; DATAGRAMS],
            vec![0; DATAGRAMS * MAX_PAYLOAD],
        )
    };
    let mut socket = Socket::new(buffer(), buffer());
    // The port is not 0 and the socket is new: binding cannot fail.
    let _ = socket.bind(port);
    socket
}

#[cfg(test)]
mod tests;
