// SPDX-License-Identifier: GPL-2.0-or-later
//! Reads that nobody waits for, and calls in a hurry.

use std::time::{Duration, Instant};

use pci_transport::{Cause, FunctionEvent, PciFunction, Width};
use rustix::io::Errno;
use vfio_user_wire::Command;

use crate::server::{open, server, Instead};

/// Services the function until it says something.
fn said(f: &mut impl PciFunction) -> Result<Vec<FunctionEvent>, pci_transport::Error> {
    let last_resort = Instant::now() + Duration::from_secs(60);
    loop {
        let events = f.service()?;
        if !events.is_empty() {
            return Ok(events);
        }
        assert!(Instant::now() < last_resort);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_value_comes_as_an_event_and_calls_in_between_get_their_own_replies() {
    let s = server(Box::new(|_, _| Instead::Answer));
    let mut f = open(&s).unwrap();
    assert_eq!(f.bar_read_later(2, 0, Width::B1).unwrap(), None);
    assert_eq!(said(&mut f).unwrap(), [FunctionEvent::Register(0x5a)]);
    // Its reply comes before that of the call.
    assert_eq!(f.bar_read_later(2, 4, Width::B4).unwrap(), None);
    assert_eq!(f.bar_read(2, 8, Width::B2).unwrap(), 0x5a5a);
    let value = FunctionEvent::Register(0x5a5a_5a5a);
    assert_eq!(f.service().unwrap(), [value]);
    assert_eq!(f.service().unwrap(), []);
}

#[test]
fn one_is_under_way_at_a_time() {
    let mut silent = true;
    let s = server(Box::new(move |header, payload| {
        let bar = header.command == Command::REGION_READ && payload[8] == 2;
        match bar && std::mem::take(&mut silent) {
            true => Instead::Nothing,
            false => Instead::Answer,
        }
    }));
    let mut f = open(&s).unwrap();
    for _ in 0..1000 {
        assert_eq!(f.bar_read_later(2, 0, Width::B1).unwrap(), None);
    }
    assert_eq!(f.service().unwrap(), []);
    assert_eq!(f.bar_read(2, 8, Width::B2).unwrap(), 0x5a5a);
    let reads = s
        .seen
        .try_iter()
        .filter(|seen| seen.header.command == Command::REGION_READ && seen.payload[8] == 2);
    assert_eq!(reads.count(), 2);
}

#[test]
fn a_refusal_is_its_own_and_a_lie_ends_the_connection() {
    let with = |change: fn(&mut Vec<u8>)| {
        let s = server(Box::new(move |header, payload| {
            match header.command == Command::REGION_READ && payload[8] == 2 {
                true => Instead::Changed(change),
                false => Instead::Answer,
            }
        }));
        let mut f = open(&s).unwrap();
        f.bar_read_later(2, 4, Width::B4).unwrap();
        let e = said(&mut f).unwrap_err();
        (e.cause().clone(), f.config_read(0, &mut [0; 4]).is_ok())
    };
    let refused = with(|o| {
        o.truncate(16);
        o[4] = 16;
        o[5] = 0;
        o[8] = 0x21;
        o[12] = 13;
    });
    assert_eq!(refused, (Cause::Refused(Errno::ACCESS), true));
    let lies: [fn(&mut Vec<u8>); 4] = [|o| o[0] ^= 1, |o| o[2] = 10, |o| o[16] = 8, |o| o[24] = 3];
    for lie in lies {
        let (cause, works) = with(lie);
        assert!(matches!(cause, Cause::Protocol(_)), "{cause:?}");
        assert!(!works);
    }
}

#[test]
fn in_a_hurry_nothing_is_waited_for_longer() {
    let s = server(Box::new(|header, payload| {
        match header.command == Command::REGION_READ && payload[8] == 2 {
            true => Instead::Nothing,
            false => Instead::Answer,
        }
    }));
    let f = open(&s).unwrap();
    f.hurry(Some(Instant::now()));
    let e = f.bar_read(2, 0, Width::B1).unwrap_err();
    assert!(matches!(e.cause(), Cause::TimedOut { .. }), "{e}");
    // Without a limit, the request timeout is one: not less.
    let s = server(Box::new(|header, payload| {
        match header.command == Command::REGION_READ && payload[8] == 2 {
            true => Instead::Nothing,
            false => Instead::Answer,
        }
    }));
    let f = open(&s).unwrap();
    f.hurry(Some(Instant::now()));
    f.hurry(None);
    let begun = Instant::now();
    assert!(f.bar_read(2, 0, Width::B1).is_err());
    assert!(begun.elapsed() >= Duration::from_millis(300));
}
