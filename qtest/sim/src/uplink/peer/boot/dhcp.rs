// SPDX-License-Identifier: GPL-2.0-or-later
//! The DHCP server (RFC 2131, with the boot options of RFC 2132 and 4578).

use super::files::BootDir;
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Cidr};

/// Where it listens.
pub(super) const PORT: u16 = 67;
/// Where answers go: a client without an address takes broadcasts only.
pub(super) const CLIENTS: IpEndpoint = IpEndpoint {
    addr: IpAddress::v4(255, 255, 255, 255),
    port: 68,
};
/// Last byte of the first address that is given out, and how many there are.
const FIRST: u8 = 100;
const COUNT: usize = 100;
/// Seconds for which an address is given out.
const LEASE: u32 = 3600;

const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Length of the smallest message that every client takes.
const MIN_MESSAGE: usize = 300;
/// Length of the field for the file name, which ends with 0.
const FILE_FIELD: usize = 128;

/// Fields of the fixed part.
mod at {
    pub(super) const XID: usize = 4;
    pub(super) const FLAGS: usize = 10;
    pub(super) const CIADDR: usize = 12;
    pub(super) const YIADDR: usize = 16;
    pub(super) const SIADDR: usize = 20;
    pub(super) const GIADDR: usize = 24;
    pub(super) const CHADDR: usize = 28;
    pub(super) const FILE: usize = 108;
    pub(super) const COOKIE: usize = 236;
}

/// Option codes.
mod option {
    pub(super) const MASK: u8 = 1;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const VENDOR_CLASS: u8 = 60;
    pub(super) const TFTP_SERVER: u8 = 66;
    pub(super) const BOOT_FILE: u8 = 67;
    pub(super) const USER_CLASS: u8 = 77;
    pub(super) const ARCHITECTURE: u8 = 93;
    pub(super) const PAD: u8 = 0;
    pub(super) const END: u8 = 255;
}

/// Message types.
mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const INFORM: u8 = 8;
}

/// The server: which hardware address has which number.
#[derive(Debug)]
pub(super) struct Dhcp {
    /// The server's own address in the network whose addresses it gives out.
    host: Ipv4Cidr,
    clients: Vec<[u8; 6]>,
}

/// A request, as far as it matters.
struct Request<'a> {
    message: &'a [u8],
    mac: [u8; 6],
    options: Vec<(u8, &'a [u8])>,
}

impl<'a> Request<'a> {
    /// `None` for what is no request of a client on this wire.
    fn parse(message: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = message.split_at_checked(HEADER)?;
        // A request, Ethernet, six bytes of address; not from a relay.
        let known = head.starts_with(&[1, 1, 6])
            && head.get(at::COOKIE..)? == COOKIE
            && head.get(at::GIADDR..at::GIADDR + 4)? == [0; 4];
        if !known {
            return None;
        }
        let mac = head.get(at::CHADDR..at::CHADDR + 6)?.try_into().ok()?;
        let mut options = Vec::new();
        while let Some((code, more)) = rest.split_first() {
            rest = more;
            match *code {
                option::PAD => continue,
                option::END => break,
                _ => {}
            }
            let (length, more) = rest.split_first()?;
            let (value, more) = more.split_at_checked(usize::from(*length))?;
            options.push((*code, value));
            rest = more;
        }
        Some(Self {
            message,
            mac,
            options,
        })
    }

    fn option(&self, code: u8) -> Option<&'a [u8]> {
        let (_, value) = self.options.iter().find(|(of, _)| *of == code)?;
        Some(value)
    }

    fn field(&self, at: usize) -> [u8; 4] {
        let bytes = self.message.get(at..at + 4);
        bytes.and_then(|b| b.try_into().ok()).unwrap_or_default()
    }
}

impl Dhcp {
    /// A server at this address, whose network has room for the addresses it gives out.
    pub(super) fn new(host: Ipv4Cidr) -> Self {
        Self {
            host,
            clients: Vec::new(),
        }
    }

    /// The answer to a message, if there is one.
    pub(super) fn answer(&mut self, message: &[u8], files: &BootDir) -> Option<Vec<u8>> {
        let request = Request::parse(message)?;
        let kind = *request.option(option::TYPE)?.first()?;
        if request
            .option(option::SERVER)
            .is_some_and(|server| server != self.host.address().octets())
        {
            return None;
        }
        match kind {
            kind::DISCOVER => {
                let address = self.address(request.mac)?;
                Some(reply(
                    self.host,
                    &request,
                    kind::OFFER,
                    Some(address),
                    files,
                ))
            }
            kind::REQUEST => {
                let address = self.address(request.mac)?;
                let wanted = match request.option(option::REQUESTED) {
                    Some(wanted) => wanted.try_into().ok()?,
                    None => request.field(at::CIADDR),
                };
                if wanted != address {
                    return Some(reply(self.host, &request, kind::NAK, None, files));
                }
                Some(reply(self.host, &request, kind::ACK, Some(address), files))
            }
            kind::INFORM => Some(reply(self.host, &request, kind::ACK, None, files)),
            _ => None,
        }
    }

    /// The address of a client; `None` when all are given out. They are never taken back: they are
    /// as many as there are.
    fn address(&mut self, mac: [u8; 6]) -> Option<[u8; 4]> {
        let index = match self.clients.iter().position(|known| *known == mac) {
            Some(index) => index,
            None if self.clients.len() < COUNT => {
                self.clients.push(mac);
                self.clients.len() - 1
            }
            None => return None,
        };
        let [a, b, c, _] = self.host.address().octets();
        Some([a, b, c, FIRST + u8::try_from(index).ok()?])
    }
}

/// The file for a client, and whether it wants to be recognized as an HTTP client.
fn boot_file(host: Ipv4Cidr, request: &Request<'_>, files: &BootDir) -> Option<(String, bool)> {
    let has = |code, text: &[u8]| {
        request
            .option(code)
            .is_some_and(|value| value.windows(text.len()).any(|part| part == text))
    };
    let architecture = request.option(option::ARCHITECTURE);
    let ipxe = has(option::USER_CLASS, b"iPXE");
    let http = has(option::VENDOR_CLASS, b"HTTPClient");
    let name = match architecture {
        _ if ipxe => "boot.ipxe",
        // x64 UEFI: 7 and 9 by TFTP, 16 by HTTP.
        Some([0, 7 | 9 | 16]) => "boot.efi",
        _ => "boot.0",
    };
    if !files.has(name) {
        return None;
    }
    if ipxe || http {
        return Some((format!("http://{}/{name}", host.address()), http));
    }
    Some((name.to_owned(), false))
}

fn reply(
    host: Ipv4Cidr,
    request: &Request<'_>,
    kind: u8,
    address: Option<[u8; 4]>,
    files: &BootDir,
) -> Vec<u8> {
    let server = host.address().octets();
    let mut message = vec![0; HEADER];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = message.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // A reply, Ethernet, six bytes of address.
    put(0, &[2, 1, 6]);
    put(at::XID, &request.field(at::XID));
    put(
        at::FLAGS,
        request.field(at::FLAGS).get(..2).unwrap_or_default(),
    );
    put(at::CHADDR, &request.mac);
    put(at::COOKIE, &COOKIE);
    let mut options: Vec<(u8, Vec<u8>)> = vec![
        (option::TYPE, vec![kind]),
        (option::SERVER, server.to_vec()),
    ];
    if kind != kind::NAK {
        put(at::CIADDR, &request.field(at::CIADDR));
        put(at::SIADDR, &server);
        options.push((option::MASK, host.netmask().octets().to_vec()));
        if let Some(address) = address {
            put(at::YIADDR, &address);
            options.push((option::LEASE, LEASE.to_be_bytes().to_vec()));
        }
        if let Some((name, http)) = boot_file(host, request, files) {
            if name.len() < FILE_FIELD {
                put(at::FILE, name.as_bytes());
            }
            let name_of_host = host.address().to_string();
            options.push((option::TFTP_SERVER, name_of_host.into_bytes()));
            options.push((option::BOOT_FILE, name.into_bytes()));
            if http {
                options.push((option::VENDOR_CLASS, b"HTTPClient".to_vec()));
            }
        }
    }
    for (code, value) in options {
        message.push(code);
        message.push(u8::try_from(value.len()).unwrap_or(0));
        message.extend(value);
    }
    message.push(option::END);
    message.resize(message.len().max(MIN_MESSAGE), 0);
    message
}
