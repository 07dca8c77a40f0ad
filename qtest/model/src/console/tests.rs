// SPDX-License-Identifier: GPL-2.0-or-later
//! The console device behind the model: a legacy driver of VF 1.

use std::sync::{Arc, Mutex, MutexGuard};

use virtio_pci_spec::legacy::Register;

use super::*;
use crate::testing::{Driver, DriverRing, LegacyVf};

const VF: FunctionId = FunctionId::Vf(1);

/// The outside, as a test sees and changes it.
#[derive(Default)]
struct Outside {
    connected: Vec<u16>,
    input: Vec<(u16, Vec<u8>)>,
    output: Vec<(u16, Vec<u8>)>,
    emergency: Vec<u8>,
    /// Bytes that the other end takes before it is full.
    room: Option<usize>,
    polls: u32,
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Outside>>);

impl Wire {
    fn get(&self) -> MutexGuard<'_, Outside> {
        self.0.lock().unwrap()
    }
}

impl Backend for Wire {
    fn poll(&mut self) {
        self.get().polls += 1;
    }
    fn connected(&self, port: u16) -> bool {
        self.get().connected.contains(&port)
    }
    fn write(&mut self, port: u16, data: &[u8]) -> usize {
        let mut o = self.get();
        let n = o.room.map_or(data.len(), |room| room.min(data.len()));
        o.room = o.room.map(|room| room - n);
        o.output.push((port, data[..n].to_vec()));
        n
    }
    fn has_input(&self, port: u16) -> bool {
        self.get()
            .input
            .iter()
            .any(|(p, b)| *p == port && !b.is_empty())
    }
    fn read(&mut self, port: u16, buf: &mut [u8]) -> usize {
        let mut o = self.get();
        let Some((_, bytes)) = o
            .input
            .iter_mut()
            .find(|(p, b)| *p == port && !b.is_empty())
        else {
            return 0;
        };
        let n = buf.len().min(bytes.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        bytes.drain(..n);
        n
    }
    fn emergency(&mut self, byte: u8) {
        self.get().emergency.push(byte);
    }
}

struct Console {
    vf: LegacyVf,
    wire: Wire,
    rings: Vec<DriverRing>,
}

impl Console {
    fn unset(extra_ports: u16) -> (LegacyVf, Wire) {
        let wire = Wire::default();
        let settings = ConsoleSettings {
            extra_ports,
            ..ConsoleSettings::default()
        };
        let config = ModelConfig::new(DeviceType::Console, 1);
        let model = model(config, &settings, &mut |f| {
            Ok(match f {
                FunctionId::Pf => Box::new(backend::Nobody::default()),
                FunctionId::Vf(_) => Box::new(wire.clone()),
            })
        });
        (LegacyVf::start(model.unwrap(), 1), wire)
    }

    fn start(extra_ports: u16, accepted: u32) -> Self {
        let (mut vf, wire) = Self::unset(extra_ports);
        vf.negotiate(accepted);
        let queues = match extra_ports {
            0 => 2,
            n => 4 + 2 * n,
        };
        let rings = (0..queues).map(|q| vf.queue(q)).collect();
        vf.driver_ok();
        Self { vf, wire, rings }
    }

    fn output(&self) -> Vec<u8> {
        let o = self.wire.get();
        o.output.iter().flat_map(|(_, b)| b.clone()).collect()
    }

    fn used(&mut self, queue: u16) -> Option<u32> {
        self.rings[usize::from(queue)].poll().map(|(_, len)| len)
    }

    /// Sends one buffer.
    fn send(&mut self, queue: u16, pieces: &[&[u8]]) {
        let pieces = self.vf.readable(pieces);
        self.rings[usize::from(queue)].add(&pieces);
        self.vf.kick(queue);
    }

    fn message(&mut self, port: u32, event: u16, value: u16) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.send(CONTROL_TRANSMIT, &[&bytes]);
        assert_eq!(self.used(CONTROL_TRANSMIT), Some(0));
    }

    /// Messages that come into `n` new buffers.
    fn messages(&mut self, n: usize) -> Vec<Vec<u8>> {
        let rooms: Vec<_> = (0..n).map(|_| self.vf.writable(&[32])).collect();
        for room in &rooms {
            self.rings[2].add(room);
        }
        self.vf.kick(CONTROL_RECEIVE);
        let mut out = Vec::new();
        for room in &rooms {
            match self.used(CONTROL_RECEIVE) {
                Some(len) => out.push(self.vf.bytes(room)[..len as usize].to_vec()),
                None => break,
            }
        }
        out
    }
}

// Covers: CON-01
#[test]
fn size_and_ports_are_in_the_configuration() {
    let (mut vf, _) = Console::unset(0);
    assert_eq!((vf.config(0, 2), vf.config(2, 2)), (80, 25));
    assert_eq!(vf.config(4, 4), 1);
    assert_eq!(vf.offered() & 0xff_ffff, 0b101);
    vf.set(Register::QueueSelect, 2);
    assert_eq!(vf.get(Register::QueueSize), 0);
    vf.driver_ok();
    let screen = DeviceControl::Screen {
        cols: 300,
        rows: 50,
    };
    vf.model.control(VF, &screen).unwrap();
    assert_eq!(vf.isr() & 2, 2);
    let bytes: Vec<u64> = (0..4).map(|at| vf.config(at, 1)).collect();
    assert_eq!(bytes, [44, 1, 50, 0]);
    assert_eq!(
        vf.model.control(VF, &DeviceControl::Link { up: true }),
        Err(ControlError::NotSupported("console"))
    );
}

// Covers: CON-02
#[test]
fn emergency_output_needs_no_driver() {
    let (mut vf, wire) = Console::unset(0);
    // As after power-on: not even ACKNOWLEDGE.
    vf.set_config(8, &u32::from(b'O').to_le_bytes());
    vf.set_config(8, b"h");
    // Only the low byte is a character.
    vf.set_config(8, &0x5a5a_5a21u32.to_le_bytes());
    assert_eq!(wire.get().emergency, b"Oh!");
    assert_eq!(vf.config(8, 4), 0);
    // The size is the device's.
    vf.set_config(0, &[1, 1]);
    assert_eq!(vf.config(0, 2), 80);
    assert_eq!(vf.model.counters().violation("read_only_field"), 1);
    // And through the modern interface, before the features are negotiated.
    let memory = Arc::clone(&vf.memory);
    let modern = Driver::new(&mut vf.model, VF, &memory);
    let at = crate::bars::MODERN_BAR;
    let device = device_structure(&modern, &mut vf.model);
    modern.write(&mut vf.model, at, device + 8, 4, 0x6d);
    assert_eq!(wire.get().emergency, b"Oh!m");
    assert_eq!(vf.model.counters().violation("config_before_features"), 0);
}

fn device_structure(d: &Driver, model: &mut Model) -> u64 {
    let at = d.capability(model, virtio_pci_spec::pci::CAP_ID_VENDOR, Some(4));
    d.config(model, at + 8, 4)
}

// Covers: CON-03
#[test]
fn characters_pass_in_both_directions() {
    let mut c = Console::start(0, 0);
    c.send(1, &[b"boot: "]);
    assert_eq!(c.used(1), Some(0));
    c.send(1, &[b"one ", b"line", b"\n"]);
    assert_eq!(c.used(1), Some(0));
    assert_eq!(c.output(), b"boot: one line\n");
    // Input that comes before there is a buffer is not lost, and is spread over buffers.
    c.wire.get().input.push((0, b"root\nsecret\n".to_vec()));
    c.vf.model.wake(VF);
    let rooms: Vec<_> = (0..3).map(|_| c.vf.writable(&[5])).collect();
    for room in &rooms {
        c.rings[0].add(room);
    }
    c.vf.kick(0);
    let lens: Vec<_> = (0..3).map(|_| c.used(0).unwrap()).collect();
    assert_eq!(lens, [5, 5, 2]);
    assert_eq!(c.vf.bytes(&rooms[0]), b"root\n");
    assert_eq!(c.vf.bytes(&rooms[2])[..2], *b"t\n");
    // And when the buffer is there first.
    let room = c.vf.writable(&[64]);
    c.rings[0].add(&room);
    c.vf.kick(0);
    assert_eq!(c.used(0), None);
    c.wire.get().input.push((0, b"x".to_vec()));
    c.vf.model.wake(VF);
    assert_eq!(c.used(0), Some(1));
    assert_eq!((c.vf.number("rx_bytes"), c.vf.number("tx_bytes")), (13, 15));
    assert!(!c
        .vf
        .model
        .counters()
        .violations
        .keys()
        .any(|v| v.starts_with("console")));
}

#[test]
fn an_end_that_is_full_holds_the_driver_up_and_loses_nothing() {
    let mut c = Console::start(0, 0);
    c.wire.get().room = Some(3);
    c.send(1, &[b"abcdef"]);
    c.send(1, &[b"ghi"]);
    assert_eq!((c.used(1), c.output()), (None, b"abc".to_vec()));
    for _ in 0..10 {
        c.vf.kick(1);
    }
    c.wire.get().room = Some(4);
    c.vf.model.wake(VF);
    assert_eq!(c.used(1), Some(0));
    assert_eq!((c.used(1), c.output()), (None, b"abcdefg".to_vec()));
    c.wire.get().room = None;
    c.vf.model.wake(VF);
    assert_eq!(c.used(1), Some(0));
    assert_eq!(c.output(), b"abcdefghi");
    // A reset while a buffer is in hand: it is gone, and nobody touches it again.
    c.wire.get().room = Some(0);
    c.send(1, &[b"jkl"]);
    c.vf.set_status(0);
    c.wire.get().room = None;
    c.vf.model.wake(VF);
    assert_eq!(c.output(), b"abcdefghi");
    let counters = c.vf.model.function_counters(VF).unwrap();
    assert_eq!((counters.dma_forbidden, counters.needs_reset), (0, 0));
}

#[test]
fn large_transfers_take_turns_and_arrive_whole() {
    let mut c = Console::start(0, 0);
    let data: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
    let pieces = c.vf.readable(&[&data]);
    c.rings[1].add(&pieces);
    c.vf.kick(1);
    assert_eq!(c.used(1), None);
    let mut turns = 0;
    while c.used(1).is_none() {
        let now = c.vf.model.next_deadline().expect("it goes on by itself");
        c.vf.model.tick(now);
        turns += 1;
        assert!(turns < 10);
    }
    assert!(c.output() == data && turns >= 2);
}

// Covers: CON-01, CON-03
#[test]
fn ports_are_announced_opened_and_named() {
    let mut c = Console::start(1, 1 << console::MULTIPORT);
    c.wire.get().connected = vec![0];
    c.message(u32::MAX, event::DEVICE_READY, 1);
    assert_eq!(
        c.messages(4),
        [[0, 0, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0, 1, 0]]
    );
    c.message(0, event::PORT_READY, 1);
    c.message(1, event::PORT_READY, 1);
    // Two of the four buffers are left.
    let mut got: Vec<_> = std::iter::from_fn(|| c.used(CONTROL_RECEIVE)).collect();
    assert_eq!(got, [8, 12]);
    let rest = c.messages(4);
    assert_eq!(rest[0], [0, 0, 0, 0, 6, 0, 1, 0]);
    assert_eq!(rest[1], [&[1, 0, 0, 0, 7, 0, 1, 0][..], b"vlvf.1"].concat());
    // Input waits until the port is open.
    c.wire.get().input.push((1, b"hello".to_vec()));
    let room = c.vf.writable(&[16]);
    c.rings[4].add(&room);
    c.vf.kick(4);
    c.vf.model.wake(VF);
    assert_eq!(c.used(4), None);
    c.message(1, event::PORT_OPEN, 1);
    assert_eq!(c.used(4), Some(5));
    assert_eq!(c.vf.bytes(&room)[..5], *b"hello");
    c.send(5, &[b"to port 1"]);
    assert_eq!(c.wire.get().output, [(1, b"to port 1".to_vec())]);
    // Somebody comes and goes at the other end.
    c.wire.get().connected = vec![0, 1];
    c.vf.model.wake(VF);
    c.wire.get().connected = vec![1];
    c.vf.model.wake(VF);
    got.clear();
    while let Some(len) = c.used(CONTROL_RECEIVE) {
        got.push(len);
    }
    assert_eq!(got, [8, 8]);
    // A new size is told as a message too.
    c.vf.model
        .control(VF, &DeviceControl::Screen { cols: 9, rows: 8 })
        .unwrap();
    let resize = c.messages(1);
    assert_eq!(resize, [[0, 0, 0, 0, 5, 0, 0, 0, 9, 0, 8, 0]]);
}

// Covers: CON-03
#[test]
fn wrong_control_messages_are_noted() {
    let mut c = Console::start(1, 1 << console::MULTIPORT);
    c.send(CONTROL_TRANSMIT, &[&[0; 4]]);
    assert_eq!(c.used(CONTROL_TRANSMIT), Some(0));
    assert_eq!(c.vf.violations("console_control_length"), 1);
    c.send(CONTROL_TRANSMIT, &[&[0; 4], &[0; 4]]);
    assert_eq!(c.vf.violations("console_control_framing"), 1);
    c.used(CONTROL_TRANSMIT);
    c.message(7, event::PORT_OPEN, 1);
    assert_eq!(c.vf.violations("console_no_such_port"), 1);
    c.message(0, 77, 1);
    assert_eq!(c.vf.violations("console_control_event"), 1);
    // A driver that asks again and again but never takes an answer.
    for _ in 0..200 {
        c.message(0, event::DEVICE_READY, 1);
    }
    assert!(c.vf.number("messages_lost") > 0);
    assert!(c.vf.violations("console_control_not_received") > 0);
    // Without ANY_LAYOUT a message is one piece; with it it may be cut.
    let mut free = Console::start(1, 1 << console::MULTIPORT | 1 << ANY_LAYOUT);
    free.send(CONTROL_TRANSMIT, &[&[0; 4], &[0, 0, 1, 0]]);
    assert_eq!(free.messages(2).len(), 2);
    assert_eq!(free.vf.violations("console_control_framing"), 0);
}

#[test]
fn a_driver_without_multiport_has_one_port() {
    let mut c = Console::start(1, 0);
    c.wire.get().input.push((0, b"in".to_vec()));
    let room = c.vf.writable(&[8]);
    c.rings[0].add(&room);
    c.vf.kick(0);
    assert_eq!(c.used(0), Some(2));
    c.send(1, &[b"out"]);
    assert_eq!(c.output(), b"out");
    // The control queues are not used.
    c.send(CONTROL_TRANSMIT, &[&[0; 8]]);
    assert_eq!(c.used(CONTROL_TRANSMIT), None);
    assert_eq!(c.vf.violations("console_queue_without_multiport"), 1);
}
