// SPDX-License-Identifier: GPL-2.0-or-later
//! What the log tells of clients, whatever they do.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{hello, open, query, Answer, Bench};
use helper_server::session::SessionId;
use helper_server::{HubConfig, Peer, Policy};
use legacy_vf_proto::{ErrorCode, Hello, Name, QueryKind, Request, MAX_MESSAGE, VERSION};
use tracing_subscriber::fmt::MakeWriter;

/// Lines as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The lines at level INFO that `f` makes.
fn lines(f: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(lines.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, f);
    let bytes = lines.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn bench(num_vfs: u16) -> Bench {
    let config = HubConfig {
        policy: Policy {
            uids: vec![0],
            gids: vec![],
            unproven_uids: vec![],
        },
        ..HubConfig::default()
    };
    Bench::with(num_vfs, config, |_| {})
}

fn process(uid: u32, pid: i32) -> Peer {
    Peer { pid, uid, gid: 3 }
}

fn greeted(b: &mut Bench, peer: Peer) -> SessionId {
    let id = b.connect_as(peer);
    b.ask(id, &hello());
    id
}

fn about(lines: &[String], pid: i32) -> Vec<&String> {
    let pid = format!(" pid={pid} ");
    lines.iter().filter(|line| line.contains(&pid)).collect()
}

#[test]
fn a_flood_of_one_client_hides_nothing_of_another() {
    let lines = lines(|| {
        let mut b = bench(300);
        let stranger = greeted(&mut b, process(9, 66));
        let owner = process(0, 5);
        for round in 0..20 {
            for _ in 0..100 {
                let refused = b.ask(stranger, &open(1));
                assert_eq!(refused.code(), ErrorCode::ACCESS_DENIED);
            }
            // Another one opens and leaves all the time; it owns what it does.
            let busy = greeted(&mut b, process(0, 67));
            assert!(matches!(b.ask(busy, &open(300)), Answer::Open(_)));
            b.hub.disconnect(busy, b.now);
            let id = greeted(&mut b, owner);
            assert!(matches!(b.ask(id, &open(round + 1)), Answer::Open(_)));
            b.hub.disconnect(id, b.now);
            b.later(Duration::from_millis(1));
        }
    });
    let of_owner = about(&lines, 5);
    assert_eq!(of_owner.len(), 40, "{of_owner:#?}");
    let first = of_owner[0];
    assert!(
        first.contains("VF opened pf=\"fake-pf\" vf=1 pid=5 uid=0 gid=3 name=\"test\""),
        "{first}"
    );
    // What was left out of the stranger's is told with the next line.
    assert!(of_owner.iter().any(|line| !line.contains("left_out=0")));
    let of_stranger = about(&lines, 66);
    assert_eq!(of_stranger.len(), 16);
    assert!(of_stranger[0].contains("OPEN refused"), "{lines:#?}");
    assert!(of_stranger[0].contains("code=ACCESS_DENIED"));
    assert_eq!(about(&lines, 67).len(), 16);
}

#[test]
fn every_vf_of_a_large_pf_can_be_opened_at_once() {
    let lines = lines(|| {
        let mut b = bench(255);
        for member in 1..=255 {
            let id = greeted(&mut b, process(0, 5));
            assert!(matches!(b.ask(id, &open(member)), Answer::Open(_)));
        }
    });
    assert_eq!(about(&lines, 5).len(), 255);
}

#[test]
fn a_name_cannot_look_like_fields() {
    let lines = lines(|| {
        let mut b = bench(2);
        let id = b.connect_as(process(0, 5));
        let name = "q\" vf=7 pid=1 uid=0";
        let hello = Request::Hello(Hello {
            version: VERSION,
            max_message: MAX_MESSAGE as u32,
            features: 0,
            name: Name::new(name),
        });
        b.ask(id, &hello);
        assert!(matches!(b.ask(id, &open(2)), Answer::Open(_)));
        b.hub.disconnect(id, b.now);
    });
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert!(line.contains(r#"name="q\" vf=7 pid=1 uid=0""#), "{line}");
    }
}

#[test]
fn who_only_asks_is_not_in_the_log() {
    let lines = lines(|| {
        let mut b = bench(2);
        for _ in 0..100 {
            let id = greeted(&mut b, process(9, 66));
            b.ask(id, &query(QueryKind::COUNTERS, 0));
            b.hub.disconnect(id, b.now);
        }
    });
    assert_eq!(lines, Vec::<String>::new());
}
