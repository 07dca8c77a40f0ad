// SPDX-License-Identifier: GPL-2.0-or-later
//! Random traffic of several clients: nothing is lost, mixed up or answered twice.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{hello, open, query, read, write, Answer, Bench};
use legacy_vf_proto::{ErrorCode, QueryKind, Request};
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Request(usize, u8, u8, u8),
    Bytes(usize, Vec<u8>),
    Take(usize),
    Reconnect(usize),
    Time(u16),
    Stuck(bool),
    Capacity(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..4;
    let step = prop_oneof![
        8 => (who.clone(), 0u8..6, any::<u8>(), 0u8..10).prop_map(|(w, k, o, l)| Step::Request(w, k, o, l)),
        1 => (who.clone(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(w, b)| Step::Bytes(w, b)),
        4 => who.clone().prop_map(Step::Take),
        1 => who.prop_map(Step::Reconnect),
        4 => (0u16..3000).prop_map(Step::Time),
        1 => any::<bool>().prop_map(Step::Stuck),
        1 => (0usize..3).prop_map(Step::Capacity),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn each_request_is_answered_once_and_in_order(steps in steps()) {
        let mut b = Bench::new(3);
        b.control.set(|c| c.delay = Duration::from_millis(2));
        // A client that only behaves well sees none of the others' doings.
        let good = b.opened(3);
        let mut clients: Vec<_> = (0..4).map(|_| b.connect()).collect();
        let mut sent: HashMap<usize, Vec<u32>> = HashMap::new();
        for step in steps {
            match step {
                Step::Request(w, kind, offset, len) => {
                    let id = clients[w];
                    if !b.hub.session(id).is_some_and(|s| s.wants_input()) {
                        continue;
                    }
                    let request = match kind {
                        0 => hello(),
                        1 => open(u16::from(offset % 4)),
                        2 => read(offset, len),
                        3 => write(offset, len, 7),
                        4 => Request::Notify { queue: 0 },
                        _ => query(QueryKind(u16::from(len)), u16::from(offset % 4)),
                    };
                    let seq = b.send(id, &request);
                    sent.entry(w).or_default().push(seq);
                }
                Step::Bytes(w, bytes) => {
                    if b.hub.session(clients[w]).is_some_and(|s| s.wants_input()) {
                        b.bytes(clients[w], &bytes);
                    }
                }
                Step::Take(w) => {
                    let due = sent.entry(w).or_default();
                    for (seq, answer) in b.take(clients[w]) {
                        if let Some(place) = due.iter().position(|s| *s == seq) {
                            prop_assert_eq!(place, 0, "out of order");
                            due.remove(0);
                        } else {
                            // Only bytes that are no request are answered under other numbers.
                            prop_assert_ne!(answer.code(), ErrorCode::OK);
                        }
                    }
                }
                Step::Reconnect(w) => {
                    b.hub.disconnect(clients[w], b.now);
                    clients[w] = b.connect();
                    sent.remove(&w);
                }
                Step::Time(ms) => b.later(Duration::from_millis(u64::from(ms))),
                Step::Stuck(stuck) => b.control.set(|c| c.stuck = stuck),
                Step::Capacity(n) => b.control.set(|c| c.capacity = n),
            }
        }
        b.control.set(|c| { c.stuck = false; c.capacity = 0; });
        for _ in 0..40 {
            b.later(Duration::from_millis(2));
            for id in &clients {
                b.take(*id);
            }
        }
        prop_assert_eq!(b.hub.in_flight(), 0);
        b.send(good, &read(0, 4));
        b.later(Duration::from_millis(2));
        let answers = b.take(good);
        prop_assert_eq!(answers.len(), 1);
        prop_assert_eq!(&answers[0].1, &Answer::Read([0; 8]));
        // All VFs are free once everybody has gone.
        for id in clients {
            b.hub.disconnect(id, b.now);
        }
        prop_assert!(b.hub.registry().owned().eq([3]));
        prop_assert_eq!(b.hub.connected(), 1);
    }
}
