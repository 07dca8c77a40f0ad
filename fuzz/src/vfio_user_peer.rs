// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper's vfio-user client against a server that answers with anything.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Sender};
use std::sync::OnceLock;
use std::time::Duration;

use pci_transport::vfio_user::{Options, VfioUserFunction};
use pci_transport::{Deadlines, Error, PciFunction, Posted, Width};
use vfio_user_wire::{
    device_flags, irq_flags, Capabilities, DeviceInfo, Header, IrqInfo, Limits, RegionInfo, Reply,
    Request, Version, HEADER_LEN, MAJOR, MINOR, REGION_CONFIG,
};

use crate::Choices;

const CONFIG_LEN: usize = 256;
const BAR_LEN: usize = 64;
/// A reply that never comes costs a run this long.
const SILENCE: Duration = Duration::from_millis(20);
/// Longest text of an error.
const MAX_TEXT: usize = 600;

/// Where the server listens, and who gets the bytes for its next connection.
struct Peer {
    path: PathBuf,
    next: Sender<Vec<u8>>,
}

/// One server for all runs: a thread and a socket each would cost more than the run.
fn peer() -> &'static Peer {
    static PEER: OnceLock<Peer> = OnceLock::new();
    PEER.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory").keep();
        let path = dir.join("pf.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (next, bytes) = channel::<Vec<u8>>();
        std::thread::spawn(move || {
            while let Ok(bytes) = bytes.recv() {
                let Ok((stream, _)) = listener.accept() else {
                    return;
                };
                let _gone = stream.set_read_timeout(Some(Duration::from_secs(5)));
                serve(&stream, Choices::new(&bytes));
            }
        });
        Peer { path, next }
    })
}

fn serve(mut stream: &UnixStream, mut choices: Choices<'_>) {
    let mut config = vec![0; CONFIG_LEN];
    config[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
    // A capability list of one MSI-X capability with 5 vectors.
    config[6] = 0x10;
    config[0x34] = 0x40;
    config[0x40..0x44].copy_from_slice(&[0x11, 0, 4, 0]);
    let mut head = [0; HEADER_LEN];
    while stream.read_exact(&mut head).is_ok() {
        let header = Header::decode(&head, &Limits::default()).expect("a header of our own");
        let mut payload = vec![0; header.payload_len()];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        if header.is_reply() {
            // An answer that was turned into a command has been refused.
            continue;
        }
        let mut out = answer(&mut config, &header, &payload);
        let what = choices.u8();
        match what {
            0..=0xbf => {
                if header.no_reply() {
                    continue;
                }
            }
            0xc0..=0xd7 => {
                let at = usize::from(choices.u8());
                let value = choices.u8();
                if let Some(byte) = out.get_mut(at) {
                    *byte = value;
                }
            }
            0xd8..=0xe7 => {
                let n = usize::from(choices.u8());
                out = choices.bytes(n);
            }
            0xe8..=0xef => {
                // A sound header with any payload.
                let n = usize::from(choices.u8());
                out.truncate(HEADER_LEN);
                out.extend(choices.bytes(n));
                let size = out.len() as u32;
                if let Some(field) = out.get_mut(4..8) {
                    field.copy_from_slice(&size.to_ne_bytes());
                }
            }
            0xf0..=0xf7 => {
                // Twice, or a part and then the end.
                let again = out.clone();
                out.extend(again);
            }
            0xf8..=0xfd => {
                let n = usize::from(choices.u8()).min(out.len());
                let _gone = stream.write_all(out.get(..n).unwrap_or(&[]));
                return;
            }
            _ => continue,
        }
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

/// What a good server answers.
fn answer(config: &mut [u8], header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let request = Request::decode(header, payload, &Limits::default()).expect("a request of ours");
    let reply = match request {
        Request::Version(_) => Reply::Version(Version {
            major: MAJOR,
            minor: MINOR,
            capabilities: Capabilities::default(),
        }),
        Request::GetInfo { .. } => Reply::Info(DeviceInfo {
            flags: device_flags::PCI | device_flags::RESET,
            num_regions: 9,
            num_irqs: 5,
        }),
        Request::GetRegionInfo { index, .. } => Reply::RegionInfo(RegionInfo {
            index,
            size: match index {
                2 => BAR_LEN as u64,
                REGION_CONFIG => CONFIG_LEN as u64,
                _ => 0,
            },
            ..RegionInfo::default()
        }),
        Request::GetIrqInfo { index, .. } => Reply::IrqInfo(IrqInfo {
            flags: irq_flags::INFO_EVENTFD,
            index,
            count: 5,
        }),
        Request::RegionRead(access) => {
            let zeros = [0x5a; BAR_LEN];
            let from: &[u8] = if access.region == REGION_CONFIG {
                config
            } else {
                &zeros
            };
            let at = usize::try_from(access.offset).unwrap_or(usize::MAX);
            let end = at.saturating_add(access.count as usize);
            match from.get(at..end) {
                Some(data) => Reply::Read { access, data }.encode(header, 0, &mut out),
                None => Reply::Error(22).encode(header, 0, &mut out),
            }
            return out;
        }
        Request::RegionWrite { access, data } => {
            let at = usize::try_from(access.offset).unwrap_or(usize::MAX);
            if access.region == REGION_CONFIG {
                if let Some(to) = config.get_mut(at..at.saturating_add(data.len())) {
                    to.copy_from_slice(data);
                }
            }
            Reply::Written(access)
        }
        Request::GetRegionIoFds { .. } => Reply::Error(95),
        _ => Reply::Empty,
    };
    reply.encode(header, u32::MAX, &mut out);
    out
}

/// Errors have texts of a sensible length, and one that is for ever stays.
fn seen<T>(result: Result<T, Error>, dead: &mut bool) -> Option<T> {
    match result {
        Ok(value) => {
            assert!(!*dead, "it was over");
            Some(value)
        }
        Err(e) => {
            assert!(e.to_string().len() < MAX_TEXT, "{e}");
            *dead |= e.is_fatal();
            None
        }
    }
}

/// One run.
pub fn run(data: &[u8]) {
    let peer = peer();
    peer.next.send(data.to_vec()).expect("the server's thread");
    let options = Options {
        deadlines: Deadlines {
            connect: Duration::from_secs(5),
            request: SILENCE,
        },
        dma_pool: 16 * 1024,
        ..Options::default()
    };
    let dead = &mut false;
    let Some(mut f) = seen(VfioUserFunction::open(&peer.path, options), dead) else {
        return;
    };
    let mut bytes = [0; 8];
    for round in 0..4u8 {
        // What is not sent to the peer may go well on a connection that is over.
        let _size = f.config_size();
        seen(f.config_read(u16::from(round) * 4, &mut bytes), dead);
        seen(f.config_write(4, &[6, 0]), dead);
        seen(f.bar_read(2, 4, Width::B4), dead);
        let _later = f.bar_read_later(2, 8, Width::B1);
        let _written = f.bar_write(2, 0x10, Width::B2, round.into(), Posted::No);
        let _events = f.service();
    }
    if let Some(vectors) = seen(f.enable_irqs(2), dead) {
        assert_eq!(vectors.len(), 2);
    }
    let _off = f.disable_irqs();
    let _reset = f.function_reset();
}
