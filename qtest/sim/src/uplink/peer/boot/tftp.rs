// SPDX-License-Identifier: GPL-2.0-or-later
//! The TFTP server (RFC 1350, options of RFC 2348 and 2349): reading, one port for all transfers.

use super::files::{BootDir, BootFile, NoFile};
use smoltcp::socket::udp::Socket;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::IpEndpoint;

/// Where it listens, and where it sends from.
pub(super) const PORT: u16 = 69;
/// Transfers at a time; the one that is idle for longest makes room.
const MAX_TRANSFERS: usize = 16;
const DEFAULT_BLOCK: usize = 512;
/// The largest block that is not fragmented.
const MAX_BLOCK: usize = 1468;
/// A block without answer is sent again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// How often, before the client is given up.
const TRIES: u32 = 5;

mod opcode {
    pub(super) const READ: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const DATA: u16 = 3;
    pub(super) const ACK: u16 = 4;
    pub(super) const ERROR: u16 = 5;
    pub(super) const OPTIONS: u16 = 6;
}

mod error {
    pub(super) const OTHER: u16 = 0;
    pub(super) const NOT_FOUND: u16 = 1;
    pub(super) const ACCESS: u16 = 2;
    pub(super) const ILLEGAL: u16 = 4;
}

/// One file on its way to one client.
struct Transfer {
    client: IpEndpoint,
    file: BootFile,
    block_size: usize,
    /// The options that were accepted, as the bytes of their answer; empty if there are none.
    options: Vec<u8>,
    /// Number of the block that was sent last, 0: the options. It counts beyond 16 bits.
    block: u64,
    sent: Instant,
    tries: u32,
}

/// The server.
#[derive(Default)]
pub(super) struct Tftp {
    transfers: Vec<Transfer>,
}

impl Tftp {
    /// Answers what came and sends again what was lost; `true` if there is more to do at once.
    pub(super) fn run(
        &mut self,
        socket: &mut Socket<'_>,
        files: &BootDir,
        now: Instant,
        budget: usize,
    ) -> bool {
        let mut more = true;
        for _ in 0..budget {
            let Ok((message, from)) = socket.recv() else {
                more = false;
                break;
            };
            let client = from.endpoint;
            if let Some(answer) = self.answer(message, client, files, now) {
                let _ = socket.send_slice(&answer, client);
            }
        }
        self.transfers.retain_mut(|transfer| {
            if now < transfer.sent + AGAIN {
                return true;
            }
            transfer.sent = now;
            transfer.tries += 1;
            if transfer.tries > TRIES {
                return false;
            }
            match transfer.message() {
                Some(message) => {
                    let _ = socket.send_slice(&message, transfer.client);
                    true
                }
                None => false,
            }
        });
        more
    }

    /// Until the next block has to be sent again.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let next = self.transfers.iter().map(|t| t.sent + AGAIN).min()?;
        Some(if next > now {
            next - now
        } else {
            Duration::ZERO
        })
    }

    /// How many transfers there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.transfers.len()
    }

    pub(super) fn answer(
        &mut self,
        message: &[u8],
        client: IpEndpoint,
        files: &BootDir,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let number = |at: usize| {
            let bytes = message.get(at..at + 2)?;
            Some(u16::from_be_bytes(bytes.try_into().ok()?))
        };
        match number(0)? {
            opcode::READ => {
                self.transfers.retain(|t| t.client != client);
                match Transfer::start(message.get(2..)?, client, files, now) {
                    Ok(transfer) => {
                        let answer = transfer.message();
                        if self.transfers.len() >= MAX_TRANSFERS {
                            let oldest = (0..).zip(&self.transfers).min_by_key(|(_, t)| t.sent);
                            let index = oldest.map_or(0, |(index, _)| index);
                            self.transfers.remove(index);
                        }
                        self.transfers.push(transfer);
                        answer
                    }
                    Err((code, text)) => Some(failure(code, text)),
                }
            }
            opcode::ACK => {
                let index = self.transfers.iter().position(|t| t.client == client)?;
                let transfer = self.transfers.get_mut(index)?;
                // An answer to an older block is not answered, or every block would go out twice
                // from then on.
                if u64::from(number(2)?) != transfer.block & 0xffff {
                    return None;
                }
                if transfer.is_last() {
                    self.transfers.remove(index);
                    return None;
                }
                transfer.block += 1;
                transfer.sent = now;
                transfer.tries = 0;
                let answer = transfer.message();
                if answer.is_none() {
                    self.transfers.remove(index);
                    return Some(failure(error::OTHER, "the file cannot be read"));
                }
                answer
            }
            opcode::ERROR => {
                self.transfers.retain(|t| t.client != client);
                None
            }
            opcode::WRITE => Some(failure(error::ACCESS, "nothing can be written")),
            _ => Some(failure(error::ILLEGAL, "no such operation")),
        }
    }
}

impl Transfer {
    /// Starts what a request (behind its opcode) asks for.
    fn start(
        request: &[u8],
        client: IpEndpoint,
        files: &BootDir,
        now: Instant,
    ) -> Result<Self, (u16, &'static str)> {
        // Strings that end with 0: file, mode, then names and values of options.
        let mut words = request
            .split(|byte| *byte == 0)
            .map(|word| std::str::from_utf8(word).unwrap_or_default());
        let name = words.next().unwrap_or_default();
        let mode = words.next().unwrap_or_default();
        if !mode.eq_ignore_ascii_case("octet") {
            return Err((error::ILLEGAL, "only the mode octet is served"));
        }
        let file = files.file(name).map_err(|why| match why {
            NoFile::Missing => (error::NOT_FOUND, "no such file"),
            NoFile::Refused => (error::ACCESS, "this file is not served"),
        })?;
        let (mut block_size, mut options) = (DEFAULT_BLOCK, Vec::new());
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            let accepted = if option.eq_ignore_ascii_case("blksize") {
                match value.parse::<usize>() {
                    Ok(wanted @ 8..=65464) => block_size = wanted.min(MAX_BLOCK),
                    _ => continue,
                }
                block_size as u64
            } else if option.eq_ignore_ascii_case("tsize") {
                file.len
            } else {
                continue;
            };
            // Once each: the request is as long as a datagram, the answer must not be longer.
            if options.len() < 64 {
                options.extend_from_slice(format!("{option}\0{accepted}\0").as_bytes());
            }
        }
        Ok(Self {
            client,
            file,
            block_size,
            block: u64::from(options.is_empty()),
            options,
            sent: now,
            tries: 0,
        })
    }

    /// The message that is sent, or sent again; `None` when the file cannot be read.
    fn message(&self) -> Option<Vec<u8>> {
        if self.block == 0 {
            let mut message = opcode::OPTIONS.to_be_bytes().to_vec();
            message.extend_from_slice(&self.options);
            return Some(message);
        }
        let start = self.start_of_block();
        let left = self.file.len.saturating_sub(start);
        let size = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(self.block_size);
        let mut message = opcode::DATA.to_be_bytes().to_vec();
        message.extend_from_slice(&((self.block & 0xffff) as u16).to_be_bytes());
        let head = message.len();
        message.resize(head + size, 0);
        self.file.read(start, message.get_mut(head..)?).ok()?;
        Some(message)
    }

    fn start_of_block(&self) -> u64 {
        self.block.saturating_sub(1) * self.block_size as u64
    }

    /// The last block is one that is not full, if need be an empty one.
    fn is_last(&self) -> bool {
        self.block > 0 && self.start_of_block() + self.block_size as u64 > self.file.len
    }
}

fn failure(code: u16, text: &str) -> Vec<u8> {
    let mut message = opcode::ERROR.to_be_bytes().to_vec();
    message.extend_from_slice(&code.to_be_bytes());
    message.extend_from_slice(text.as_bytes());
    message.push(0);
    message
}
