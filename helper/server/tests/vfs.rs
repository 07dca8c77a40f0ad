// SPDX-License-Identifier: GPL-2.0-or-later
//! What clients see of VFs that do not answer, or not yet.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{hello, open, query, read, Answer, Bench};
use legacy_vf_proto::{ErrorCode, QueryKind};
use virtio_pf::NotResponding;

#[test]
fn a_vf_that_does_not_answer_is_told_at_once_and_shown() {
    let mut b = Bench::new(4);
    let (one, two) = (b.opened(1), b.opened(2));
    let state = NotResponding {
        since: b.now,
        retries: 2,
        next_trial: b.now + Duration::from_secs(9),
        trial: false,
    };
    b.control.set(|c| c.not_responding = Some((1, state)));
    b.later(Duration::from_secs(5));
    let answer = b.ask(one, &read(18, 1));
    assert_eq!(answer.code(), ErrorCode::NOT_RESPONDING);
    assert_eq!(
        answer.text(),
        "VF 1: read of 1 bytes at common+0x12 (DeviceStatus): VF 1 has not answered its commands for 5 s"
    );
    assert_eq!(b.ask(two, &read(18, 1)), Answer::Read([0; 8]));
    let Answer::Json(v) = b.ask(two, &query(QueryKind::VF, 1)) else {
        panic!()
    };
    let shown = serde_json::json!({ "since_s": 5, "retries": 2, "next_trial_s": 4 });
    assert_eq!(
        (&v["state"], &v["not_responding"]),
        (&"open".into(), &shown)
    );
    let Answer::Json(v) = b.ask(two, &query(QueryKind::VF, 2)) else {
        panic!()
    };
    assert!(v.get("not_responding").is_none());
    let Answer::Json(v) = b.ask(two, &query(QueryKind::HELPER, 0)) else {
        panic!()
    };
    assert_eq!(v["vfs"]["not_responding"], 1);
}

#[test]
fn open_is_answered_when_the_vf_is_known_and_what_follows_waits() {
    let mut b = Bench::new(4);
    b.control.set(|c| {
        c.asks = true;
        c.delay = Duration::from_secs(1);
    });
    let id = b.connect();
    b.ask(id, &hello());
    let first = b.send(id, &open(3));
    let second = b.send(id, &read(0, 4));
    b.hub.poll(b.now);
    assert_eq!(b.take(id), []);
    assert_eq!(b.hub.in_flight(), 1);
    // It is taken already.
    let other = b.connect();
    b.ask(other, &hello());
    assert_eq!(b.ask(other, &open(3)).code(), ErrorCode::BUSY);
    b.later(Duration::from_secs(1));
    let answers = b.take(id);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(
        matches!(&answers[0], (seq, Answer::Open(o)) if *seq == first && o.notify_offset == 12)
    );
    b.later(Duration::from_secs(1));
    assert_eq!(b.take(id), [(second, Answer::Read([0; 8]))]);
    // A client that does not wait for the answer leaves nothing behind.
    let id = b.connect();
    b.ask(id, &hello());
    b.send(id, &open(1));
    b.hub.disconnect(id, b.now);
    b.later(Duration::from_secs(1));
    assert_eq!((b.hub.in_flight(), b.hub.counters().orphans), (0, 1));
    let id = b.connect();
    b.ask(id, &hello());
    b.send(id, &open(1));
    b.later(Duration::from_secs(1));
    assert!(matches!(b.take(id)[..], [(_, Answer::Open(_))]));
}

#[test]
fn a_vf_of_which_nothing_can_be_found_out_is_opened_all_the_same() {
    let mut b = Bench::new(2);
    b.control.set(|c| {
        c.asks = true;
        c.error = Some(virtio_pf::OpError::TimedOut);
    });
    let id = b.connect();
    b.ask(id, &hello());
    assert!(matches!(b.ask(id, &open(1)), Answer::Open(_)));
    assert_eq!(b.hub.counters().accesses.failed, 0);
}
