// SPDX-License-Identifier: GPL-2.0-or-later
//! The real loop on real sockets, with a fake PF.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{hello, open, query, read, write, Answer, TestClient, TestServer};
use helper_server::{Ended, HubConfig};
use legacy_vf_proto::{ErrorCode, EventKind, QueryKind, Request, MAX_MESSAGE};
use rustix::net::{send, SendFlags};

#[test]
fn eight_clients_in_parallel_each_on_its_own_vf() {
    let server = TestServer::start(8, HubConfig::default());
    server.control.set(|c| c.delay = Duration::from_micros(20));
    let threads: Vec<_> = (1..=8u16)
        .map(|member| {
            let path = server.path.clone();
            std::thread::spawn(move || {
                let mut c = TestClient::opened(&path, member);
                for i in 0..500u64 {
                    let value = i << 16 | u64::from(member);
                    assert_eq!(c.ask(&write(8, 4, value)), Answer::Write);
                    let want = (value & 0xffff_ffff).to_le_bytes();
                    assert_eq!(c.ask(&read(8, 4)), Answer::Read(want));
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    let Answer::Json(v) = c.ask(&query(QueryKind::COUNTERS, 0)) else {
        panic!()
    };
    assert_eq!(v["accesses"]["common_read"], 4000);
    assert_eq!(v["accesses"]["common_write"], 4000);
    assert_eq!(v["accesses"]["failed"], 0);
}

#[test]
fn a_vf_has_one_connection_and_is_free_when_it_ends() {
    let server = TestServer::start(2, HubConfig::default());
    let first = TestClient::opened(&server.path, 1);
    let mut second = TestClient::connect(&server.path);
    second.ask(&hello());
    let answer = second.ask(&open(1));
    assert_eq!(answer.code(), ErrorCode::BUSY);
    let me = std::process::id();
    assert!(
        answer
            .text()
            .starts_with(&format!("VF 1 is in use by pid {me} uid")),
        "{answer:?}"
    );
    drop(first);
    let end = Instant::now() + Duration::from_secs(60);
    while second.ask(&open(1)).code() == ErrorCode::BUSY {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let server = TestServer::start(2, HubConfig::default());
    let mut good = TestClient::opened(&server.path, 2);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for len in (1..=MAX_MESSAGE + 900).step_by(13) {
        let c = TestClient::opened(&server.path, 1);
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        c.send_bytes(&bytes).unwrap();
        // It is answered with an error, or closed, or both; then nothing comes any more.
        let mut replies = 0;
        c.send_bytes(&[0; 3]).ok();
        while let Some((_, answer)) = c.next() {
            assert_ne!(answer.code(), ErrorCode::OK, "{answer:?}");
            replies += 1;
            assert!(replies < 3);
        }
        drop(c);
        assert_eq!(good.ask(&write(4, 4, len as u64)), Answer::Write);
        // The VF is free again before the next turn, which opens it.
        let Answer::Json(v) = good.ask(&query(QueryKind::VF, 1)) else {
            panic!()
        };
        assert_eq!(v["state"], "free");
    }
}

#[test]
fn a_client_that_never_reads_is_dropped_and_disturbs_nobody() {
    let config = HubConfig {
        write_timeout: Duration::from_millis(300),
        ..HubConfig::default()
    };
    let server = TestServer::start(2, config);
    let mut lazy = TestClient::opened(&server.path, 1);
    let mut good = TestClient::opened(&server.path, 2);
    // Long answers fill the socket; then the helper reads no more, and sending blocks.
    let request = common::encode(&query(QueryKind::HELPER, 0), 5);
    let start = Instant::now();
    let mut gone = false;
    while !gone && start.elapsed() < Duration::from_secs(60) {
        match send(
            &lazy.socket,
            &request,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => gone = true,
        }
        assert_eq!(good.ask(&write(4, 4, 1)), Answer::Write);
    }
    assert!(gone, "still connected");
    let _ = &mut lazy;
    let Answer::Json(v) = good.ask(&query(QueryKind::COUNTERS, 0)) else {
        panic!()
    };
    assert_eq!(v["helper"]["slow"], 1);
}

#[test]
fn pipelined_requests_beyond_the_limit_wait_and_are_answered() {
    let server = TestServer::start(1, HubConfig::default());
    server.control.set(|c| c.delay = Duration::from_micros(200));
    let mut c = TestClient::opened(&server.path, 1);
    let seqs: Vec<u32> = (0..100).map(|i| c.send(&write(4, 4, i))).collect();
    for seq in seqs {
        assert_eq!(c.next(), Some((seq, Answer::Write)));
    }
    assert_eq!(server.control.get().max_in_flight, 1);
}

#[test]
fn a_flood_of_notifications_is_taken_in_order() {
    let server = TestServer::start(1, HubConfig::default());
    server.control.set(|c| c.keep_log = true);
    let mut c = TestClient::opened(&server.path, 1);
    let mut buf = [0; MAX_MESSAGE];
    for queue in 0..2000 {
        let len = Request::Notify { queue }.encode_no_reply(1, &mut buf);
        c.send_bytes(&buf[..len]).unwrap();
    }
    assert_eq!(c.ask(&read(0, 4)), Answer::Read([0; 8]));
    let seen = server.control.get().notifications.clone();
    assert!(seen.into_iter().eq((0..2000).map(|q| (1, q))));
}

#[test]
fn the_end_tells_clients_finishes_work_and_removes_the_socket() {
    let mut server = TestServer::start(2, HubConfig::default());
    let mut busy = TestClient::opened(&server.path, 1);
    let idle = TestClient::opened(&server.path, 2);
    server.control.set(|c| c.delay = Duration::from_millis(200));
    let seq = busy.send(&read(0, 4));
    std::thread::sleep(Duration::from_millis(50));
    server.signal();
    let is_shutdown = |a: Option<(u32, Answer)>| matches!(a, Some((0, Answer::Event(e))) if e.kind == EventKind::SHUTDOWN);
    assert!(is_shutdown(idle.next()));
    assert!(is_shutdown(busy.next()));
    assert!(!server.path.exists(), "nobody new may come");
    assert_eq!(busy.next(), Some((seq, Answer::Read([0; 8]))));
    assert_eq!(server.ended(), Ended::Stopped);
    assert_eq!(busy.next(), None);
    assert_eq!(idle.next(), None);
    assert!(server.control.get().shut_down);
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let config = HubConfig {
        drain_timeout: Duration::from_millis(200),
        ..HubConfig::default()
    };
    let mut server = TestServer::start(1, config);
    let mut c = TestClient::opened(&server.path, 1);
    server.control.set(|c| c.stuck = true);
    c.send(&read(0, 4));
    std::thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    server.signal();
    assert_eq!(server.ended(), Ended::Stopped);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(190), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_failed_pf_ends_the_loop_after_telling() {
    let mut server = TestServer::start(1, HubConfig::default());
    let mut c = TestClient::opened(&server.path, 1);
    server.control.set(|c| c.stuck = true);
    let seq = c.send(&read(0, 4));
    std::thread::sleep(Duration::from_millis(20));
    server
        .control
        .set(|c| c.failure = Some("it is gone".into()));
    let (got, answer) = c.next().unwrap();
    assert_eq!((got, answer.code()), (seq, ErrorCode::PF_FAILED));
    assert!(matches!(c.next(), Some((0, Answer::Event(e))) if e.kind == EventKind::PF_FAILED));
    assert_eq!(server.ended(), Ended::PfFailed("it is gone".into()));
    assert_eq!(c.next(), None);
}

#[test]
fn connecting_and_leaving_a_thousand_times_leaks_nothing() {
    let server = TestServer::start(1, HubConfig::default());
    for i in 0..1000 {
        let mut c = TestClient::connect(&server.path);
        if i % 2 == 0 {
            c.ask(&hello());
        }
    }
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let Answer::Json(v) = c.ask(&query(QueryKind::HELPER, 0)) else {
            panic!()
        };
        if v["helper"]["connections"] == 1 {
            break;
        }
        assert!(Instant::now() < end, "{v}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_answer_in_the_same_turn_takes_some_time_all_the_same() {
    let server = TestServer::start(1, HubConfig::default());
    let mut c = TestClient::opened(&server.path, 1);
    for _ in 0..20 {
        c.ask(&read(0, 4));
    }
    let Answer::Json(v) = c.ask(&query(QueryKind::COUNTERS, 1)) else {
        panic!()
    };
    let latency = &v["accesses"]["latency_us"];
    assert_eq!(latency["count"], 20);
    assert!(latency["p50"].as_f64().unwrap() > 0.0, "{latency}");
}

#[test]
fn a_wait_for_less_than_a_millisecond_is_one() {
    let server = TestServer::start(1, HubConfig::default());
    server.control.set(|c| c.delay = Duration::from_micros(200));
    let mut c = TestClient::opened(&server.path, 1);
    let mut short = || {
        let begun = Instant::now();
        assert_eq!(c.ask(&read(0, 4)), Answer::Read([0; 8]));
        let took = begun.elapsed();
        assert!(took >= Duration::from_micros(200));
        took < Duration::from_micros(950)
    };
    // A busy machine makes many a wait long, but not all.
    let last_resort = Instant::now() + Duration::from_secs(60);
    while (0..20).filter(|_| short()).count() < 8 {
        assert!(Instant::now() < last_resort);
    }
}

/// Who notifies without waiting for replies is slowed down, and loses none.
#[test]
fn a_flood_of_notifications_is_taken_later_and_whole() {
    const COUNT: usize = 600;
    let server = TestServer::start(2, HubConfig::default());
    server.control.set(|b| b.keep_log = true);
    let mut flood = TestClient::opened(&server.path, 1);
    let mut other = TestClient::opened(&server.path, 2);
    let begun = Instant::now();
    let mut message = [0; 64];
    for n in 0..COUNT {
        let notify = Request::Notify { queue: 0 };
        let len = notify.encode_no_reply(100 + n as u32, &mut message);
        flood.send_bytes(&message[..len]).unwrap();
    }
    assert!(matches!(other.ask(&read(8, 4)), Answer::Read(_)));
    assert!(matches!(flood.ask(&read(8, 4)), Answer::Read(_)));
    // 64 at once, then one in 50 us. A busy machine only makes it longer.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(20), "{took:?}");
    assert_eq!(server.control.get().notifications.len(), COUNT);
}
