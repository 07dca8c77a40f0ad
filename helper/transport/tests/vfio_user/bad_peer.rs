// SPDX-License-Identifier: GPL-2.0-or-later
//! The vfio-user client against every kind of bad server: one that refuses, breaks the protocol, is
//! slow or silent, floods, or dies.

use std::time::{Duration, Instant};

use pci_transport::{Cause, PciFunction, Posted, Width};
use rustix::io::Errno;
use vfio_user_wire::{Command, Header};

use crate::server::{on, open, options, server, Instead};
use test_kit::patience::OwnTime;

#[test]
fn a_refusal_is_an_error_of_that_access_alone() {
    let mut left = 1;
    // The first reads are the client's own, of the whole configuration space.
    let s = server(Box::new(move |header, payload| {
        let bar = header.command == Command::REGION_READ && payload[8] == 2;
        if bar && left > 0 {
            left -= 1;
            Instead::Changed(|out| {
                out.truncate(16);
                out[4] = 16;
                out[5] = 0;
                out[8] = 0x21;
                out[12] = 13;
            })
        } else {
            Instead::Answer
        }
    }));
    let f = open(&s).unwrap();
    let e = f.bar_read(2, 4, Width::B4).unwrap_err();
    assert_eq!(e.cause(), &Cause::Refused(Errno::ACCESS));
    assert!(!e.is_fatal());
    let text = e.to_string();
    assert!(
        text.contains("pf.sock") && text.contains("BAR2 0x4+4"),
        "{text}"
    );
    assert_eq!(f.bar_read(2, 4, Width::B4).unwrap(), 0x5a5a_5a5a);
}

/// Runs a read of BAR 2 against a server that answers it in the given way; gives the error and
/// checks that it is for ever.
fn broken_read(instead: fn() -> Instead) -> Cause {
    let s = server(Box::new(move |header, payload| {
        if header.command == Command::REGION_READ && payload[8] == 2 {
            instead()
        } else {
            Instead::Answer
        }
    }));
    let f = open(&s).unwrap();
    let begun = OwnTime::start();
    let e = f.bar_read(2, 0, Width::B4).unwrap_err();
    assert!(e.is_fatal(), "{e}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let again = OwnTime::start();
    let later = f.config_read(0, &mut [0; 4]).unwrap_err();
    assert_eq!(later.cause(), &Cause::Dead(Box::new(e.cause().clone())));
    assert!(again.elapsed() < Duration::from_millis(100), "at once");
    e.cause().clone()
}

#[test]
fn a_peer_that_breaks_the_protocol_is_lost_for_ever() {
    type Bad = (&'static str, fn() -> Instead);
    let bad: [Bad; 12] = [
        ("another id", || Instead::Changed(|o| o[0] ^= 1)),
        ("another command", || Instead::Changed(|o| o[2] = 10)),
        ("size below the header", || Instead::Changed(|o| o[4] = 15)),
        ("size of 4 GiB", || Instead::Changed(|o| o[4..8].fill(0xff))),
        ("neither command nor reply", || {
            Instead::Changed(|o| o[8] = 7)
        }),
        ("another offset", || Instead::Changed(|o| o[16] = 8)),
        ("another region", || Instead::Changed(|o| o[24] = 3)),
        ("count larger than the data", || {
            Instead::Changed(|o| o[28] = 200)
        }),
        ("count of 4 GiB", || {
            Instead::Changed(|o| o[28..32].fill(0xff))
        }),
        ("no payload", || {
            Instead::Changed(|o| {
                o.truncate(16);
                o[4..8].copy_from_slice(&16u32.to_ne_bytes());
            })
        }),
        ("all ones", || Instead::Bytes(vec![0xff; 64])),
        ("all zeros", || Instead::Bytes(vec![0; 64])),
    ];
    for (what, instead) in bad {
        let cause = broken_read(instead);
        assert!(matches!(cause, Cause::Protocol(_)), "{what}: {cause}");
    }
}

#[test]
fn a_short_reply_is_an_error_and_leaves_zeros() {
    let s = server(Box::new(|header, payload| {
        if header.command == Command::REGION_READ && payload[0] == 0x80 {
            Instead::Changed(|o| {
                o.truncate(16 + 16 + 2);
                o[4..8].copy_from_slice(&34u32.to_ne_bytes());
                o[28..32].copy_from_slice(&2u32.to_ne_bytes());
            })
        } else {
            Instead::Answer
        }
    }));
    let f = open(&s).unwrap();
    let mut b = [0xaa; 4];
    let e = f.config_read(0x80, &mut b).unwrap_err();
    assert_eq!(e.cause(), &Cause::Short { got: 2, want: 4 });
    assert_eq!(b, [0; 4]);
    f.config_read(0x84, &mut b).unwrap();
}

#[test]
fn a_silent_peer_ends_at_the_deadline() {
    let cause = broken_read(|| Instead::Nothing);
    let after = options().deadlines.request;
    assert_eq!(
        cause,
        Cause::TimedOut {
            what: "reply",
            after
        }
    );
    let cause = broken_read(|| Instead::Bytes(vec![1; 7]));
    assert!(matches!(cause, Cause::TimedOut { .. }), "{cause}");
}

#[test]
fn a_peer_that_is_always_almost_late_is_not_waited_for_without_end() {
    let mut slow = false;
    let s = server(Box::new(move |header, payload| {
        slow |= header.command == Command::REGION_READ && payload[8] == 2;
        if slow {
            std::thread::sleep(options().deadlines.request * 3 / 5);
        }
        Instead::Answer
    }));
    let f = open(&s).unwrap();
    let begun = OwnTime::start();
    let mut reads = 0;
    let e = loop {
        match f.bar_read(2, 0, Width::B4) {
            Ok(_) => reads += 1,
            Err(e) => break e,
        }
        assert!(reads < 30, "still waiting");
    };
    assert!(reads >= 3, "a few slow replies are no fault");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        matches!(
            e.cause(),
            Cause::TimedOut {
                what: "prompt replies",
                ..
            }
        ),
        "{e}"
    );
    assert!(e.is_fatal());
}

#[test]
fn a_peer_that_dies_is_noticed_at_once_and_without_a_call() {
    assert_eq!(broken_read(|| Instead::Close(vec![])), Cause::PeerClosed);
    assert_eq!(
        broken_read(|| Instead::Close(vec![1; 9])),
        Cause::PeerClosed
    );

    let s = server(on(Command::DEVICE_RESET, || Instead::Close(vec![])));
    let mut f = open(&s).unwrap();
    assert_eq!(pci_transport::ready(&f.event_fds()).unwrap(), [false]);
    assert!(f.function_reset().is_err());
    let e = f.service().unwrap_err();
    assert!(matches!(e.cause(), Cause::Dead(_)), "{e}");

    // Closed while nobody asks: the descriptor says so.
    let s = server(Box::new(|header, _| {
        if header.no_reply() {
            Instead::Close(vec![])
        } else {
            Instead::Answer
        }
    }));
    let mut f = open(&s).unwrap();
    f.bar_write(2, 0, Width::B2, 1, Posted::Yes).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !pci_transport::ready(&f.event_fds()).unwrap()[0] {
        assert!(Instant::now() < until, "the end of the peer was not seen");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(f.service().unwrap_err().cause(), &Cause::PeerClosed);
}

#[test]
fn commands_of_the_server_are_refused_and_do_not_disturb() {
    let s = server(Box::new(|header, payload| {
        if header.command == Command::REGION_READ && payload[8] == 2 {
            Instead::Changed(|out| {
                // DMA_READ in front of the reply.
                let mut both = vec![0; 32];
                both[..2].copy_from_slice(&77u16.to_ne_bytes());
                both[2..4].copy_from_slice(&11u16.to_ne_bytes());
                both[4..8].copy_from_slice(&32u32.to_ne_bytes());
                both.append(out);
                *out = both;
            })
        } else {
            Instead::Answer
        }
    }));
    let f = open(&s).unwrap();
    assert_eq!(f.bar_read(2, 0, Width::B1).unwrap(), 0x5a);
    f.config_read(0, &mut [0; 4]).unwrap();
    let refusals: Vec<Header> = s
        .seen
        .try_iter()
        .map(|seen| seen.header)
        .filter(Header::is_reply)
        .collect();
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].is_error() && refusals[0].id == 77);
}

#[test]
fn a_server_that_only_asks_cannot_keep_a_call_from_ending() {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let cause = broken_read(|| {
            // DMA_READ without end; none of them wants an answer.
            let mut ask = [0u8; 32];
            ask[2..4].copy_from_slice(&11u16.to_ne_bytes());
            ask[4..8].copy_from_slice(&32u32.to_ne_bytes());
            ask[8] = 0x10;
            Instead::Flood(ask.repeat(1000))
        });
        let _ = tx.send(cause);
    });
    let cause = rx.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(
        matches!(cause, Cause::TimedOut { what: "reply", .. }),
        "{cause}"
    );
}

#[test]
fn functions_that_cannot_be_are_refused_at_the_start() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Command, Change, &str); 6] = [
        (Command::VERSION, |o| o[16] = 1, "newer protocol version"),
        (Command::VERSION, |o| o[20] = b'x', "not JSON"),
        (
            Command::DEVICE_GET_INFO,
            |o| o[20] = 1,
            "not a PCI function",
        ),
        (
            Command::DEVICE_GET_INFO,
            |o| o[24] = 7,
            "no configuration space",
        ),
        (
            Command::DEVICE_GET_REGION_INFO,
            |o| o[24] ^= 1,
            "another region",
        ),
        (
            Command::DMA_MAP,
            |o| {
                o[8] = 0x21;
                o[12] = 12;
            },
            "refused",
        ),
    ];
    for (command, change, text) in cases {
        let s = server(Box::new(move |header, _| {
            if header.command == command {
                Instead::Changed(change)
            } else {
                Instead::Answer
            }
        }));
        let e = open(&s).unwrap_err().to_string();
        assert!(e.contains(text), "{text}: {e}");
        assert!(e.contains("pf.sock"), "{e}");
    }
}

#[test]
fn any_bytes_from_the_peer_end_in_an_error_or_a_value() {
    // A fixed sequence: the same bytes in every run.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..60 {
        let noise: Vec<u8> = (0..256).map(|_| (next() >> 24) as u8).collect();
        let victim = next() % 12;
        let cut = (next() % 80) as usize;
        let mut command = 0;
        let s = server(Box::new(move |_, _| {
            command += 1;
            if command - 1 != victim {
                return Instead::Answer;
            }
            // A sound header with noise behind it, or noise alone.
            let mut bytes = noise.clone();
            if round % 2 == 0 {
                bytes[..2].copy_from_slice(&(command as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&(16 + cut as u32).to_ne_bytes());
                bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
                bytes.truncate(16 + cut);
            }
            Instead::Close(bytes)
        }));
        let begun = OwnTime::start();
        if let Ok(f) = open(&s) {
            let _value = f.bar_read(2, 0, Width::B4);
        }
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}
