// SPDX-License-Identifier: GPL-2.0-or-later
//! Several clients of one helper with a fake PF, all doing anything.

use std::time::{Duration, Instant};

use helper_server::fake::FakeBackend;
use helper_server::session::SessionId;
use helper_server::{Hub, HubConfig, Peer, Policy};
use legacy_vf_proto::{
    decode_incoming, ErrorCode, Hello, Incoming, Name, Open, Proof, QueryKind, Reply, Request,
    Space, MAX_MESSAGE,
};
use virtio_pf::OpError;

use crate::Choices;

const CLIENTS: usize = 4;
const VFS: u16 = 3;

struct Run<'a> {
    hub: Hub<FakeBackend>,
    now: Instant,
    choices: Choices<'a>,
    clients: Vec<SessionId>,
}

fn peer(choices: &mut Choices<'_>) -> Peer {
    Peer {
        pid: 1,
        uid: u32::from(choices.u8() & 1),
        gid: 5,
    }
}

fn encode(request: &Request, seq: u32) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = request.encode(seq, &mut buf);
    buf[..len].to_vec()
}

impl Run<'_> {
    fn request(&mut self) -> Request {
        let c = &mut self.choices;
        match c.u8() % 8 {
            0 => Request::Hello(Hello {
                version: u32::from(c.u8() % 3),
                max_message: 1000 + u32::from(c.u16()),
                features: u64::from(c.u8()),
                name: Name::from_bytes(&c.bytes(4)),
            }),
            1 => Request::Open(Open {
                member: u16::from(c.u8() % 5),
                proof: Proof(u16::from(c.u8() % 3)),
                virtio_id: u16::from(c.u8() % 3),
                serial: u64::from(c.u8() & 1),
            }),
            2 => Request::Token {
                member: u16::from(c.u8() % 5),
            },
            3 => Request::Write {
                space: Space::Common,
                offset: c.u8(),
                len: 1 + c.u8() % 8,
                data: [c.u8(); 8],
            },
            4 => Request::Notify { queue: c.u16() },
            5 => Request::Query {
                what: QueryKind(u16::from(c.u8() % 4)),
                member: u16::from(c.u8() % 5),
            },
            _ => Request::Read {
                space: Space::Device,
                offset: c.u8(),
                len: 1 + c.u8() % 8,
            },
        }
    }

    fn send(&mut self, client: usize) {
        let id = self.clients[client];
        let raw = self.choices.u8() >= 0xe0;
        let mut bytes = if raw {
            let n = usize::from(self.choices.u8());
            self.choices.bytes(n)
        } else {
            let request = self.request();
            encode(&request, 7)
        };
        if self.choices.u8() >= 0xf0 {
            let at = usize::from(self.choices.u8());
            let value = self.choices.u8();
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        // A client may send more than the helper wants; the socket would hold it back.
        self.hub.receive(id, &bytes, None, self.now);
    }

    /// Whatever the helper sends is a message of the protocol that fits the client.
    fn take(&mut self, client: usize) {
        let id = self.clients[client];
        let mut taken = 0;
        while let Some(bytes) = self.hub.outgoing(id) {
            decode_incoming(bytes).expect("the helper sent a bad message");
            self.hub.sent(id, self.now);
            taken += 1;
            assert!(taken < 100);
        }
    }

    fn behave(&mut self) {
        let c = &mut self.choices;
        let (what, value) = (c.u8() % 8, c.u8());
        let control = self.hub.backend().control();
        control.set(|b| match what {
            0 => b.stuck = value & 1 != 0,
            1 => b.delay = Duration::from_millis(u64::from(value)),
            2 => b.capacity = usize::from(value % 3),
            3 => {
                b.error = Some(OpError::Device {
                    status: u16::from(value),
                    qualifier: u16::from(value) * 257,
                });
            }
            4 => b.error = Some(OpError::TimedOut),
            5 => b.notify_by_command = value & 1 != 0,
            6 if value == 0xff => b.failure = Some("gone".into()),
            _ => b.error = None,
        });
    }

    fn step(&mut self) {
        let what = self.choices.u8();
        let client = usize::from(what >> 4) % CLIENTS;
        match what % 8 {
            0..=2 => self.send(client),
            3 => self.take(client),
            4 => {
                self.now += Duration::from_millis(u64::from(self.choices.u8()) * 20);
                self.hub.poll(self.now);
            }
            5 => self.behave(),
            6 => {
                let id = self.clients[client];
                self.hub.disconnect(id, self.now);
                let peer = peer(&mut self.choices);
                self.clients[client] = self.hub.connect(peer, self.now).expect("room");
            }
            _ => match self.choices.u8() {
                0xff => self.hub.begin_shutdown(self.now),
                _ => {
                    let id = self.clients[client];
                    self.hub.blocked(id, self.now);
                }
            },
        }
        let mut dirty = Vec::new();
        self.hub.take_dirty(&mut dirty);
    }

    /// A client that behaves gets its answers, whatever the others did.
    fn ask(&mut self, id: SessionId, request: &Request) -> Option<(ErrorCode, bool)> {
        self.hub.receive(id, &encode(request, 9), None, self.now);
        for _ in 0..10 {
            self.now += Duration::from_millis(300);
            self.hub.poll(self.now);
            if let Some(bytes) = self.hub.outgoing(id) {
                let answer = match decode_incoming(bytes).expect("a message") {
                    Incoming::Event(_) => None,
                    Incoming::Reply(header, reply) => {
                        assert_eq!(header.seq, 9);
                        Some((header.error, matches!(reply, Reply::Read { .. })))
                    }
                };
                self.hub.sent(id, self.now);
                if answer.is_some() {
                    return answer;
                }
            }
        }
        None
    }
}

/// One run.
pub fn run(data: &[u8]) {
    let config = HubConfig {
        policy: Policy {
            uids: vec![0],
            gids: vec![],
            unproven_uids: vec![],
        },
        // Nobody makes room, so that each client stays.
        max_unopened: 2 * (CLIENTS + 2),
        ..HubConfig::default()
    };
    let backend = FakeBackend::new(VFS + 1).expect("a socket pair");
    let mut run = Run {
        hub: Hub::new(backend, config),
        now: Instant::now(),
        choices: Choices::new(data),
        clients: Vec::new(),
    };
    let root = Peer {
        pid: 1,
        uid: 0,
        gid: 0,
    };
    let good = run.hub.connect(root, run.now).expect("room");
    for _ in 0..CLIENTS {
        let id = run.hub.connect(root, run.now).expect("room");
        run.clients.push(id);
    }
    let hello = Request::Hello(Hello {
        version: 1,
        max_message: 4096,
        features: 0,
        name: Name::new("good"),
    });
    let open = Request::Open(Open {
        member: VFS + 1,
        proof: Proof::NONE,
        virtio_id: 0,
        serial: 0,
    });
    assert_eq!(run.ask(good, &hello), Some((ErrorCode::OK, false)));
    assert_eq!(run.ask(good, &open), Some((ErrorCode::OK, false)));
    let mut steps = 0;
    while !run.choices.is_empty() && steps < 2000 {
        run.step();
        steps += 1;
    }
    run.hub.backend().control().set(|b| {
        b.stuck = false;
        b.error = None;
        b.capacity = 0;
    });
    let read = Request::Read {
        space: Space::Common,
        offset: 0,
        len: 4,
    };
    let (code, is_read) = run.ask(good, &read).expect("an answer");
    assert!(
        is_read || code == ErrorCode::SHUTTING_DOWN || code == ErrorCode::PF_FAILED,
        "{code}"
    );
    // The end of one access starts the client's next; none took more steps than there were.
    for _ in 0..=steps {
        run.now += Duration::from_secs(10);
        run.hub.poll(run.now);
        if run.hub.in_flight() == 0 {
            break;
        }
    }
    assert_eq!(run.hub.in_flight(), 0);
    for id in run.clients.clone() {
        run.hub.disconnect(id, run.now);
    }
    assert!(run.hub.registry().owned().eq([VFS + 1]));
    assert_eq!(run.hub.connected(), 1);
}
