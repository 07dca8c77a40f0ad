// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients and a fake PF, without sockets.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{encode, hello, open, query, read, write, Answer, Bench};
use helper_server::{HubConfig, Peer};
use legacy_vf_proto::{ErrorCode, EventKind, QueryKind, Request, Space, MAX_MESSAGE};
use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_pf::{OpError, PfEvent};

#[test]
fn replies_come_in_the_order_of_requests() {
    let mut b = Bench::new(2);
    let id = b.opened(1);
    b.control.set(|c| c.delay = Duration::from_millis(5));
    let mut want = Vec::new();
    for i in 0..4 {
        want.push(b.send(id, &write(4, 4, i)));
        want.push(b.send(id, &read(4, 4)));
        want.push(b.send(id, &query(QueryKind::VF, 1)));
    }
    let mut got = Vec::new();
    for _ in 0..20 {
        b.later(Duration::from_millis(5));
        got.extend(b.take(id));
    }
    assert_eq!(got.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), want);
    for i in 0..4 {
        assert_eq!(got[i * 3 + 1].1, Answer::Read((i as u64).to_le_bytes()));
    }
    // One at a time, so that an answer always shows what came before it.
    assert_eq!(b.control.get().max_in_flight, 1);
}

#[test]
fn vfs_work_together_and_a_stuck_one_holds_up_nobody() {
    let mut b = Bench::new(8);
    let ids: Vec<_> = (1..=8).map(|m| b.opened(m)).collect();
    b.control.set(|c| c.delay = Duration::from_millis(1));
    for id in &ids {
        b.send(*id, &read(0, 4));
    }
    assert_eq!(b.hub.in_flight(), 8);
    b.later(Duration::from_millis(1));
    for id in &ids {
        assert_eq!(b.take(*id).len(), 1);
    }
    assert_eq!(b.control.get().max_in_flight, 8);
}

#[test]
fn a_full_backend_delays_and_loses_nothing() {
    let mut b = Bench::new(8);
    let ids: Vec<_> = (1..=8).map(|m| b.opened(m)).collect();
    b.control.set(|c| {
        c.capacity = 3;
        c.delay = Duration::from_millis(1);
    });
    for id in &ids {
        b.send(*id, &write(4, 4, 7));
        b.send(*id, &read(4, 4));
    }
    for _ in 0..20 {
        b.later(Duration::from_millis(1));
    }
    for id in ids {
        let answers: Vec<_> = b.take(id).into_iter().map(|(_, a)| a).collect();
        assert_eq!(
            answers,
            [Answer::Write, Answer::Read(7u64.to_le_bytes())],
            "{id:?}"
        );
    }
    assert!(b.control.get().max_in_flight <= 3);
}

#[test]
fn every_status_and_qualifier_reaches_the_client() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    for status in [0, 6, 11, 12, 16, 22, 28, 999, u16::MAX] {
        for qualifier in [0, 1, 5, 7, 999, u16::MAX] {
            b.control
                .set(|c| c.error = Some(OpError::Device { status, qualifier }));
            for request in [read(18, 1), write(8, 4, 5)] {
                let answer = b.ask(id, &request);
                let Answer::Error(code, s, q, text) = &answer else {
                    panic!("{answer:?}")
                };
                assert_eq!((*code, *s, *q), (ErrorCode::DEVICE, status, qualifier));
                assert!(text.starts_with("VF 1: "), "{text}");
            }
        }
    }
    b.control.set(|c| {
        c.error = Some(OpError::Device {
            status: 22,
            qualifier: 3,
        })
    });
    assert_eq!(
        b.ask(id, &write(8, 4, 5)).text(),
        "VF 1: write of 4 bytes at common+0x8 (QueueAddress): the device answered status 22 \
         (EINVAL) qualifier 3 (Q_INVALID_FIELD)"
    );
    for (error, code, text) in [
        (
            OpError::TimedOut,
            ErrorCode::TIMED_OUT,
            "no answer of the device within 2s",
        ),
        (
            OpError::ShortReply { got: 1, want: 4 },
            ErrorCode::DEVICE,
            "1 bytes instead of 4",
        ),
        (
            OpError::PfFailed("it broke".into()),
            ErrorCode::PF_FAILED,
            "it broke",
        ),
        (OpError::Shutdown, ErrorCode::SHUTTING_DOWN, "shutting down"),
    ] {
        b.control.set(|c| c.error = Some(error));
        let answer = b.ask(id, &read(0, 4));
        assert_eq!(answer.code(), code);
        assert!(answer.text().contains(text), "{answer:?}");
    }
    let c = b.hub.counters();
    assert_eq!(c.accesses.failed, 9 * 6 * 2 + 1 + 4);
    assert_eq!(c.accesses.timed_out, 1);
    assert_eq!(
        c.device.iter().map(|(_, _, n)| n).sum::<u64>() + c.device.others(),
        9 * 6 * 2 + 1
    );
    // It works again as soon as the device does.
    b.control.set(|c| c.error = None);
    assert_eq!(b.ask(id, &write(4, 4, 1)), Answer::Write);
}

#[test]
fn notifications_with_and_without_reply() {
    let mut b = Bench::new(2);
    let id = b.opened(2);
    b.control.set(|c| c.keep_log = true);
    assert_eq!(b.ask(id, &Request::Notify { queue: 5 }), Answer::Notify);
    let mut buf = [0; MAX_MESSAGE];
    let len = Request::Notify { queue: 6 }.encode_no_reply(1, &mut buf);
    b.bytes(id, &buf[..len]);
    assert!(b.take(id).is_empty());
    b.control.set(|c| c.notify_by_command = true);
    b.bytes(id, &buf[..len]);
    assert_eq!(b.control.get().notifications, [(2, 5), (2, 6), (2, 6)]);
    let c = b.hub.counters().vf(2).unwrap().clone();
    assert_eq!((c.notifications, c.notify_commands), (3, 1));
    // A failure is counted, even if nobody wants to hear of it.
    b.control.set(|c| c.failure = Some("gone".into()));
    b.bytes(id, &buf[..len]);
    assert!(b.take(id).is_empty());
    assert_eq!(b.hub.counters().vf(2).unwrap().failed, 1);
    assert!(b.hub.counters().errors().any(|e| e == ("PF_FAILED", 1)));
}

#[test]
fn a_write_before_a_notification_is_done_before_it() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| {
        c.keep_log = true;
        c.delay = Duration::from_millis(1);
    });
    b.send(id, &write(18, 1, 7));
    b.send(id, &Request::Notify { queue: 0 });
    assert!(b.control.get().notifications.is_empty());
    b.later(Duration::from_millis(1));
    assert_eq!(b.control.get().notifications.len(), 1);
    assert_eq!(b.take(id).len(), 2);
}

#[test]
fn the_late_answer_of_a_connection_that_went_goes_to_nobody() {
    let mut b = Bench::new(1);
    let first = b.opened(1);
    b.control.set(|c| c.stuck = true);
    b.send(first, &read(0, 4));
    b.hub.disconnect(first, b.now);
    let second = b.opened(1);
    // The same place in the table, and the same VF.
    assert_eq!(first.slot, second.slot);
    b.send(second, &write(4, 4, 9));
    b.control.set(|c| c.stuck = false);
    b.hub.poll(b.now);
    let answers = b.take(second);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1, Answer::Write);
    assert_eq!(b.hub.counters().orphans, 1);
    assert_eq!(b.hub.in_flight(), 0);
}

#[test]
fn a_failed_pf_is_told_to_all_and_refuses_everything() {
    let mut b = Bench::new(2);
    let (busy, idle) = (b.opened(1), b.opened(2));
    b.control.set(|c| c.stuck = true);
    let first = b.send(busy, &read(0, 4));
    let second = b.send(busy, &read(4, 4));
    b.control
        .set(|c| c.failure = Some("no more answers".into()));
    b.hub.poll(b.now);
    let answers = b.take(busy);
    assert_eq!(answers[0].0, first);
    assert_eq!(answers[0].1.code(), ErrorCode::PF_FAILED);
    assert_eq!(answers[1].0, second);
    assert_eq!(answers[1].1.code(), ErrorCode::PF_FAILED);
    let is_event = |a: &Answer| matches!(a, Answer::Event(e) if e.kind == EventKind::PF_FAILED);
    assert!(is_event(&answers[2].1), "{answers:?}");
    let told = b.take(idle);
    assert!(told.len() == 1 && is_event(&told[0].1));
    let answer = b.ask(idle, &read(0, 4));
    assert_eq!(answer.code(), ErrorCode::PF_FAILED);
    assert_eq!(answer.text(), "PF fake-pf failed: no more answers");
    let Answer::Json(v) = b.ask(idle, &query(QueryKind::HELPER, 0)) else {
        panic!()
    };
    assert_eq!(v["helper"]["state"], "failed");
    assert_eq!(v["helper"]["failure"], "no more answers");
}

#[test]
fn a_reset_pf_is_told_to_all() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| {
        c.events = vec![
            PfEvent::Reset {
                cause: "stuck".into(),
            },
            PfEvent::Recovered { attempts: 1 },
        ];
    });
    b.hub.poll(b.now);
    let told = b.take(id);
    assert!(
        matches!(&told[..], [(0, Answer::Event(e))] if e.kind == EventKind::PF_RESET),
        "{told:?}"
    );
    assert_eq!(b.hub.counters().pf_resets, 1);
}

#[test]
fn shutdown_finishes_what_is_in_flight_and_refuses_the_rest() {
    let mut b = Bench::new(2);
    let id = b.opened(1);
    b.control.set(|c| c.delay = Duration::from_millis(10));
    let first = b.send(id, &read(0, 4));
    let second = b.send(id, &read(4, 4));
    b.hub.begin_shutdown(b.now);
    assert!(!b.hub.drained(b.now));
    let early = b.take(id);
    assert_eq!(early[0].0, second);
    assert_eq!(early[0].1.code(), ErrorCode::SHUTTING_DOWN);
    assert!(matches!(early[1].1, Answer::Event(e) if e.kind == EventKind::SHUTDOWN));
    b.later(Duration::from_millis(10));
    let late = b.take(id);
    assert_eq!(late, [(first, Answer::Read([0; 8]))]);
    assert!(b.hub.drained(b.now));
    assert_eq!(b.ask(id, &read(0, 4)).code(), ErrorCode::SHUTTING_DOWN);

    // Something that does not end is waited for only so long.
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| c.stuck = true);
    b.send(id, &read(0, 4));
    b.hub.begin_shutdown(b.now);
    b.take(id);
    assert!(!b.hub.drained(b.now + Duration::from_secs(4)));
    assert!(b.hub.drained(b.now + Duration::from_secs(5)));
    // Asked again: at once.
    b.hub.begin_shutdown(b.now);
    assert!(b.hub.drained(b.now));
}

#[test]
fn questions_are_answered_with_json_that_fits() {
    let mut b = Bench::with(2000, HubConfig::default(), |f| {
        f.info_mut().id = "x".repeat(5000).into();
        f.info_mut().commands = OpcodeSet(u64::MAX);
    });
    let ids: Vec<_> = (1..=300).map(|m| b.opened(m)).collect();
    let id = ids[0];
    for status in 0..100 {
        b.control.set(|c| {
            c.error = Some(OpError::Device {
                status: 60000 + status,
                qualifier: 60000,
            })
        });
        b.ask(id, &read(0, 4));
    }
    let Answer::Json(v) = b.ask(id, &query(QueryKind::HELPER, 0)) else {
        panic!()
    };
    assert_eq!(v["vfs"]["open"], 300);
    assert_eq!(v["vfs"]["cut"], true);
    let Answer::Json(v) = b.ask(id, &query(QueryKind::VF, 300)) else {
        panic!()
    };
    assert_eq!(v["owner"]["uid"], Peer::myself().uid);
    assert_eq!(v["notify"]["kind"], "owner");
    let Answer::Json(v) = b.ask(id, &query(QueryKind::COUNTERS, 0)) else {
        panic!()
    };
    assert_eq!(v["accesses"]["failed"], 100);
    assert_eq!(v["helper"]["errors"]["DEVICE"], 100);
    let Answer::Json(v) = b.ask(id, &query(QueryKind::COUNTERS, 1)) else {
        panic!()
    };
    assert_eq!(v["member"], 1);
    for (what, member, code) in [
        (QueryKind::VF, 0, ErrorCode::NO_SUCH_VF),
        (QueryKind::VF, 2001, ErrorCode::NO_SUCH_VF),
        (QueryKind::COUNTERS, 2001, ErrorCode::NO_SUCH_VF),
        (QueryKind::METRICS, 2001, ErrorCode::NO_SUCH_VF),
        (QueryKind(4), 0, ErrorCode::NOT_SUPPORTED),
    ] {
        assert_eq!(b.ask(id, &query(what, member)).code(), code);
    }
}

#[test]
fn messages_of_every_length_are_answered_or_end_their_connection_only() {
    let mut b = Bench::new(2);
    let good = b.opened(2);
    for len in 0..=MAX_MESSAGE + 1 {
        for fill in [0u8, 0xff, 1, 4] {
            let id = b.opened(1);
            b.bytes(id, &vec![fill; len]);
            b.hub.poll(b.now);
            for (_, answer) in b.take(id) {
                assert_ne!(answer.code(), ErrorCode::OK, "{len} {fill}: {answer:?}");
            }
            b.hub.disconnect(id, b.now);
        }
    }
    for kind in 1..=7u16 {
        let whole = encode(&read(0, 4), 9);
        for len in 0..=64 {
            let id = b.opened(1);
            let mut bytes = vec![0; len];
            for (dst, src) in bytes.iter_mut().zip(&whole) {
                *dst = *src;
            }
            if let Some(first) = bytes.get_mut(..2) {
                first.copy_from_slice(&kind.to_le_bytes());
            }
            b.bytes(id, &bytes);
            b.hub.poll(b.now);
            assert!(b.take(id).len() <= 1);
            b.hub.disconnect(id, b.now);
        }
    }
    assert_eq!(b.ask(good, &write(4, 4, 3)), Answer::Write);
    assert_eq!(b.ask(good, &read(4, 4)), Answer::Read(3u64.to_le_bytes()));
}

#[test]
fn a_bad_message_after_good_ones_does_not_swallow_their_replies() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| c.delay = Duration::from_millis(1));
    let seq = b.send(id, &read(0, 4));
    b.bytes(id, &[1; 20]);
    b.later(Duration::from_millis(1));
    let answers = b.take(id);
    assert_eq!(answers[0].0, seq);
    assert_eq!(answers[1].1.code(), ErrorCode::BAD_MESSAGE);
    assert!(b.finished(id));
}

#[test]
fn device_space_and_field_errors() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    let mut bytes = encode(&read(0, 4), 77);
    bytes[16] = 9;
    b.bytes(id, &bytes);
    let answers = b.take(id);
    assert_eq!(answers[0].0, 77);
    assert_eq!(answers[0].1.code(), ErrorCode::OUT_OF_RANGE);
    assert!(!b.finished(id), "a field out of range ends nothing");
    let request = Request::Read {
        space: Space::Device,
        offset: 0,
        len: 6,
    };
    assert_eq!(b.ask(id, &request), Answer::Read([0; 8]));
    assert_eq!(b.hub.counters().accesses.device_read, 1);
}

#[test]
fn a_latency_is_counted_from_arrival() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| c.delay = Duration::from_millis(1));
    // The second waits for the first.
    b.send(id, &read(0, 4));
    b.send(id, &read(0, 4));
    b.later(Duration::from_millis(1));
    b.later(Duration::from_millis(1));
    assert_eq!(b.take(id).len(), 2);
    let latency = &b.hub.counters().accesses.latency;
    assert_eq!(latency.total(), 2);
    assert_eq!(latency.max(), Duration::from_millis(2));
}

#[test]
fn a_pf_that_was_initialised_anew_has_another_session_and_what_is_new() {
    let mut b = Bench::new(2);
    let told = |answer| match answer {
        Answer::Open(o) => (o.session, o.commands),
        other => panic!("{other:?}"),
    };
    let id = b.connect();
    b.ask(id, &hello());
    let before = told(b.ask(id, &open(1)));
    let info = b.hub.backend_mut().info_mut();
    info.initialisations += 1;
    info.commands = OpcodeSet(0x3f);
    b.control
        .set(|c| c.events = vec![PfEvent::Recovered { attempts: 1 }]);
    b.hub.poll(b.now);
    b.hub.disconnect(id, b.now);
    let id = b.connect();
    b.ask(id, &hello());
    let after = told(b.ask(id, &open(1)));
    assert_ne!(after.0, before.0);
    assert_eq!((before.1, after.1), (0x7f, 0x3f));
    let Answer::Json(v) = b.ask(id, &query(QueryKind::HELPER, 0)) else {
        panic!()
    };
    assert_eq!(v["pf"]["session"], format!("{:016x}", after.0));
}
