// SPDX-License-Identifier: GPL-2.0-or-later
//! What one client may take of what all share: connections, time, memory.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{hello, query, read, Answer, Bench};
use helper_server::session::SessionId;
use helper_server::Peer;
use legacy_vf_proto::{QueryKind, Request};

fn process(uid: u32, pid: i32) -> Peer {
    Peer { pid, uid, gid: 1 }
}

/// Connections that own no VF and are not ended.
fn alive(b: &Bench, ids: &[SessionId]) -> usize {
    ids.iter().filter(|id| !b.finished(**id)).count()
}

fn greeted_as(b: &mut Bench, peer: Peer) -> SessionId {
    let id = b.connect_as(peer);
    assert!(matches!(b.ask(id, &hello()), Answer::Hello { .. }));
    id
}

#[test]
fn idle_connections_make_room_for_others() {
    let mut b = Bench::new(8);
    // Those that own a VF do not count.
    let owners: Vec<_> = (1..=8).map(|m| b.opened(m)).collect();
    let few: Vec<_> = (0..42)
        .map(|pid| greeted_as(&mut b, process(1000, pid)))
        .collect();
    let greedy = process(1000, 100);
    let mut many = Vec::new();
    for _ in 0..6 {
        b.later(Duration::from_millis(10));
        many.push(greeted_as(&mut b, greedy));
    }
    for pid in 0..16 {
        greeted_as(&mut b, process(1001, 200 + pid));
    }
    assert_eq!(b.hub.counters().displaced, 0);
    // The longest idle of the process that has most, of the user that has most.
    let mine: Vec<_> = (0..3)
        .map(|_| greeted_as(&mut b, process(2000, 500)))
        .collect();
    assert_eq!((alive(&b, &few), alive(&b, &mine)), (42, 3));
    let ended: Vec<_> = many.iter().map(|id| b.finished(*id)).collect();
    assert_eq!(ended, [true, true, true, false, false, false]);
    assert_eq!(b.hub.counters().displaced, 3);
    for (member, id) in (1..).zip(owners) {
        assert_eq!(b.ask(id, &read(0, 4)), Answer::Read([0; 8]), "VF {member}");
    }
}

#[test]
fn a_process_and_a_user_have_limits_of_their_own() {
    let mut b = Bench::new(1);
    let own = process(7, 1);
    let mut mine: Vec<_> = (0..32).map(|_| greeted_as(&mut b, own)).collect();
    // Its own connections, which it has just made, are not displaced by its next one.
    assert!(b.hub.connect(own, b.now).is_err());
    assert_eq!((b.hub.counters().surplus, alive(&b, &mine)), (1, 32));
    b.later(Duration::from_secs(2));
    mine.push(greeted_as(&mut b, own));
    assert_eq!((alive(&b, &mine), b.finished(mine[0])), (32, true));
    // Other processes of that user take from the one that has most.
    let others: Vec<_> = (0..16)
        .map(|pid| greeted_as(&mut b, process(7, 10 + pid)))
        .collect();
    assert_eq!((alive(&b, &mine), alive(&b, &others)), (32, 16));
    greeted_as(&mut b, process(7, 99));
    assert_eq!((alive(&b, &mine), alive(&b, &others)), (31, 16));
    // And leave room for others.
    let more: Vec<_> = (0..16)
        .map(|pid| greeted_as(&mut b, process(8, 10 + pid)))
        .collect();
    assert_eq!((alive(&b, &mine), alive(&b, &more)), (31, 16));
}

#[test]
fn queued_requests_are_limited_by_not_reading() {
    let mut b = Bench::new(1);
    let id = b.opened(1);
    b.control.set(|c| c.stuck = true);
    let mut taken = 0;
    while b.hub.session(id).unwrap().wants_input() {
        b.send(id, &read(0, 4));
        taken += 1;
        assert!(taken < 100);
    }
    // One in flight and 16 queued.
    assert_eq!(taken, 17);
    b.control.set(|c| c.stuck = false);
    let mut got = 0;
    for _ in 0..40 {
        b.later(Duration::from_millis(1));
        got += b.take(id).len();
    }
    assert_eq!(got, 17);
    assert!(b.hub.session(id).unwrap().wants_input());
}

#[test]
fn a_client_that_does_not_read_stops_being_worked_for_and_is_dropped() {
    let mut b = Bench::new(2);
    let (lazy, good) = (b.opened(1), b.opened(2));
    let mut sent = 0;
    while b.hub.session(lazy).unwrap().wants_input() && sent < 1000 {
        b.send(lazy, &read(0, 4));
        b.hub.poll(b.now);
        sent += 1;
    }
    assert!(sent < 50, "{sent}");
    b.hub.blocked(lazy, b.now);
    assert_eq!(b.ask(good, &read(0, 4)), Answer::Read([0; 8]));
    b.later(Duration::from_secs(4));
    assert!(!b.finished(lazy));
    b.later(Duration::from_secs(2));
    assert!(b.finished(lazy));
    b.hub.disconnect(lazy, b.now);
    assert_eq!(b.hub.counters().slow, 1);
    assert_eq!(b.ask(good, &read(0, 4)), Answer::Read([0; 8]));
    b.opened(1);
}

#[test]
fn a_client_that_says_nothing_is_dropped() {
    let mut b = Bench::new(1);
    let silent = b.connect();
    let greeted = b.connect();
    b.ask(greeted, &hello());
    assert!(b.hub.next_deadline().is_some());
    b.later(Duration::from_secs(9));
    assert!(!b.finished(silent));
    b.later(Duration::from_secs(1));
    assert!(b.finished(silent));
    assert!(!b.finished(greeted));
}

#[test]
fn a_client_that_opens_nothing_is_dropped_when_it_asks_nothing() {
    let mut b = Bench::new(2);
    let owner = b.opened(1);
    let idle = b.connect();
    b.ask(idle, &hello());
    let asking = b.connect();
    b.ask(asking, &hello());
    for _ in 0..29 {
        b.later(Duration::from_secs(1));
        b.ask(asking, &query(QueryKind::VF, 1));
    }
    assert!(!b.finished(idle));
    b.later(Duration::from_secs(1));
    assert!(b.finished(idle));
    // Who owns a VF may be as quiet as its guest.
    b.later(Duration::from_secs(29));
    assert!(b.finished(asking));
    assert!(!b.finished(owner));
    assert_eq!(b.hub.counters().slow, 2);
}

/// However many requests a client has queued, others are served after few of them.
#[test]
fn a_deep_queue_is_worked_off_a_little_at_a_time() {
    let mut b = Bench::new(2);
    let (greedy, other) = (b.opened(1), b.opened(2));
    b.control.set(|c| c.stuck = true);
    b.send(greedy, &read(0, 4));
    for _ in 0..15 {
        b.send(greedy, &query(QueryKind::COUNTERS, 0));
    }
    b.send(other, &read(0, 4));
    b.send(other, &read(4, 4));
    b.control.set(|c| c.stuck = false);
    let (mut answers, mut turns, mut done) = (0, 0, 0);
    while answers < 16 {
        b.hub.poll(b.now);
        turns += 1;
        // What can be sent at once, with what that makes room for.
        let got = b.take(greedy).len();
        assert!(got <= 3, "{got} in turn {turns}");
        answers += got;
        done += b.take(other).len();
        assert!(turns < 4 || done == 2, "the other one waits");
    }
    assert!(turns >= 8, "{turns}");
    // The same for notifications, of which each takes little.
    b.control.set(|c| {
        c.stuck = true;
        c.keep_log = true;
    });
    b.send(greedy, &read(0, 4));
    for queue in 0..15 {
        b.send(greedy, &Request::Notify { queue });
    }
    b.control.set(|c| c.stuck = false);
    b.hub.poll(b.now);
    assert!(b.control.get().notifications.len() <= 8);
    for _ in 0..8 {
        b.take(greedy);
        b.hub.poll(b.now);
    }
    let all = b.control.get().notifications.clone();
    assert!(all.into_iter().eq((0..15).map(|queue| (1, queue))));
}

/// However many connections a process has, it gets one long answer per turn, as everybody does.
#[test]
fn questions_are_shared_out_by_process() {
    let mut b = Bench::new(2);
    let owner = b.opened(1);
    let greedy: Vec<_> = (0..30).map(|_| greeted_as(&mut b, process(7, 1))).collect();
    let one = greeted_as(&mut b, process(7, 2));
    let ask = query(QueryKind::COUNTERS, 0);
    b.hub.poll(b.now);
    for id in &greedy {
        b.send(*id, &ask);
        b.send(*id, &ask);
    }
    b.send(one, &ask);
    b.send(owner, &read(0, 4));
    assert_eq!(b.take(one).len(), 1, "not behind sixty others");
    let mut answered = 0;
    for turn in 0..30 {
        b.hub.poll(b.now);
        assert_eq!(b.take(owner).len(), usize::from(turn == 0));
        answered += greedy.iter().map(|id| b.take(*id).len()).sum::<usize>();
        assert!(answered <= turn + 2, "{answered} in turn {turn}");
    }
    assert!(answered >= 30, "{answered}");
    // Nor do many processes together hold up who has a VF.
    let many: Vec<_> = (0..20)
        .map(|pid| greeted_as(&mut b, process(8, pid)))
        .collect();
    b.hub.poll(b.now);
    for id in &many {
        b.send(*id, &ask);
    }
    let answered: usize = many.iter().map(|id| b.take(*id).len()).sum();
    assert_eq!(answered, 3, "and one of the greedy process");
}
