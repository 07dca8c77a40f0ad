// SPDX-License-Identifier: GPL-2.0-or-later
//! Drivers of consoles, entropy sources and balloons that put anything on any queue: no panic, no
//! endless work, no DMA after a reset, and the device serves a sane driver afterwards.

use std::io;

use proptest::prelude::*;
use virtio_pci_spec::DeviceType;
use virtio_pf_model::console::backend::{Backend, Nobody};
use virtio_pf_model::console::config::ConsoleSettings;
use virtio_pf_model::rng::{RngSettings, Source};
use virtio_pf_model::testing::{DriverRing, LegacyVf};
use virtio_pf_model::{balloon, console, rng, DeviceControl, FunctionId, Model, ModelConfig};

use crate::vf;

/// The other ends of a console: always something to say, and room for some bytes at a time.
struct Noise(u8);

impl Backend for Noise {
    fn poll(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }
    fn connected(&self, port: u16) -> bool {
        (u16::from(self.0) >> port) & 1 == 1
    }
    fn write(&mut self, _port: u16, data: &[u8]) -> usize {
        self.0 = self.0.wrapping_add(7);
        data.len().min(self.0.into())
    }
    fn has_input(&self, _port: u16) -> bool {
        self.0 % 3 != 0
    }
    fn read(&mut self, _port: u16, buf: &mut [u8]) -> usize {
        self.0 = self.0.wrapping_add(1);
        let n = buf.len().min(self.0.into());
        buf[..n].fill(self.0);
        n
    }
    fn emergency(&mut self, _byte: u8) {}
}

struct Ones;

impl Source for Ones {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0xff);
        Ok(())
    }
}

fn model(kind: DeviceType) -> Model {
    let config = ModelConfig::new(kind, 1);
    match kind {
        DeviceType::Console => {
            let settings = ConsoleSettings {
                extra_ports: 2,
                queue_size: 8,
                ..ConsoleSettings::default()
            };
            console::model(config, &settings, &mut |f| {
                Ok(match f {
                    FunctionId::Pf => Box::new(Nobody::default()),
                    FunctionId::Vf(_) => Box::new(Noise(0)),
                })
            })
        }
        DeviceType::Balloon => balloon::model(config, &balloon::config::BalloonSettings::default()),
        _ => {
            let settings = RngSettings {
                bytes_per_second: 1000,
                ..RngSettings::default()
            };
            rng::model(config, &settings, &mut |_| Ok(Box::new(Ones)))
        }
    }
    .unwrap()
}

fn queues(kind: DeviceType) -> u16 {
    match kind {
        DeviceType::Console => 8,
        DeviceType::Balloon => 3,
        _ => 1,
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// A buffer: queue, readable pieces, lengths of writable ones.
    Add(u16, Vec<Vec<u8>>, Vec<u16>),
    /// Control messages and page numbers that mean something.
    Message(u16, [u32; 2]),
    Kick(u16),
    ConfigWrite(u8, Vec<u8>),
    Control(u8, u32),
    Wake,
    Tick(u32),
    Start(u32),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let queue = 0u16..9;
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        4 => (
            queue.clone(),
            prop::collection::vec(bytes.clone(), 0..3),
            prop::collection::vec(0u16..300, 0..3)
        )
            .prop_map(|(q, r, w)| Op::Add(q, r, w)),
        4 => (queue.clone(), 0u32..5, 0u32..0x2_0008).prop_map(|(q, a, b)| Op::Message(q, [a, b])),
        4 => queue.prop_map(Op::Kick),
        1 => (0u8..16, bytes).prop_map(|(at, data)| Op::ConfigWrite(at, data)),
        2 => (0u8..6, any::<u32>()).prop_map(|(n, value)| Op::Control(n, value)),
        2 => Just(Op::Wake),
        1 => any::<u32>().prop_map(Op::Tick),
        1 => (0u32..8).prop_map(Op::Start),
        1 => Just(Op::Reset),
    ]
}

struct Run {
    kind: DeviceType,
    vf: LegacyVf,
    rings: Vec<DriverRing>,
    now: u64,
}

impl Run {
    fn start(&mut self, features: u32) {
        self.vf.memory.free_all();
        self.vf.negotiate(features);
        self.rings = (0..queues(self.kind)).map(|q| self.vf.queue(q)).collect();
        self.vf.driver_ok();
    }

    fn add(&mut self, queue: u16, readable: &[&[u8]], writable: &[usize]) {
        // The memory of the test has an end; rings and buffers begin anew with the driver.
        let Some(ring) = self.rings.get_mut(usize::from(queue)) else {
            return;
        };
        let mut pieces = self.vf.readable(readable);
        pieces.extend(self.vf.writable(writable));
        if !pieces.is_empty() {
            ring.add(&pieces);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Add(queue, readable, writable) => {
                let readable: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
                let writable: Vec<usize> = writable.iter().map(|n| usize::from(*n)).collect();
                self.add(*queue, &readable, &writable);
            }
            Op::Message(queue, words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                self.add(*queue, &[&bytes], &[]);
            }
            Op::Kick(queue) => self.vf.kick(*queue),
            Op::ConfigWrite(at, data) => {
                // Refused where it is no field; that is an answer too.
                let vf = &mut self.vf;
                let _ = vf.admin.config_write(&mut vf.model, 1, *at, data);
            }
            Op::Control(n, value) => {
                let control = match n {
                    0 => DeviceControl::Screen {
                        cols: *value as u16,
                        rows: 1,
                    },
                    1 => DeviceControl::Rate {
                        bytes_per_second: u64::from(*value) % 5000,
                    },
                    2 => DeviceControl::Balloon { pages: *value },
                    3 => DeviceControl::BalloonStats,
                    4 => DeviceControl::Link { up: true },
                    _ => DeviceControl::Resize { sectors: 1 },
                };
                let _ = self.vf.model.control(vf(1), &control);
            }
            Op::Wake => self.vf.model.wake(vf(1)),
            Op::Tick(ns) => {
                self.now += u64::from(*ns);
                self.vf.model.tick(self.now);
            }
            Op::Start(features) => self.start(*features),
            Op::Reset => self.vf.set_status(0),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_a_driver_does_stops_more_than_its_function(
        kind in prop::sample::select(vec![
            DeviceType::Console,
            DeviceType::Entropy,
            DeviceType::Balloon,
        ]),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut run = Run {
            kind,
            vf: LegacyVf::start(model(kind), 1),
            rings: Vec::new(),
            now: 0,
        };
        run.start(7);
        for op in &ops {
            run.apply(op);
        }
        let counters = run.vf.model.function_counters(vf(1)).unwrap();
        prop_assert_eq!(counters.dma_forbidden, 0);
        // What is left to do by itself ends.
        run.vf.set_status(0);
        for _ in 0..100 {
            match run.vf.model.next_deadline() {
                Some(due) => run.vf.model.tick(due),
                None => break,
            }
        }
        prop_assert_eq!(run.vf.model.next_deadline(), None);
        // A driver that keeps the rules is served.
        let fast = DeviceControl::Rate { bytes_per_second: 0 };
        let _ = run.vf.model.control(vf(1), &fast);
        run.start(0);
        let queue = match kind {
            DeviceType::Console => {
                run.add(1, &[b"x"], &[]);
                1
            }
            DeviceType::Balloon => {
                let page = (run.vf.memory.alloc(4096, 4096) / 4096) as u32;
                run.add(0, &[&page.to_le_bytes()], &[]);
                0
            }
            _ => {
                run.add(0, &[], &[16]);
                0
            }
        };
        run.vf.kick(queue);
        for _ in 0..300 {
            // The other end of a console may take nothing for some turns.
            run.vf.model.wake(vf(1));
        }
        prop_assert!(run.rings[usize::from(queue)].poll().is_some());
    }
}
