// SPDX-License-Identifier: GPL-2.0-or-later
//! The PF driver against [`crate::hostile_device`].

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pci_transport::testing::ScriptedFunction;
use virtio_pf::{Completion, LegacyOp, Pf, PfConfig, RecoveryPolicy, RetryPolicy, Space};

use crate::hostile_device::{HostileDevice, VFS};
use crate::Choices;

fn config() -> PfConfig {
    let ms = Duration::from_millis;
    PfConfig {
        vfs: VFS,
        command_timeout: ms(50),
        reset_timeout: ms(2),
        start_timeout: ms(4),
        retry: RetryPolicy {
            max: 3,
            first_delay: Duration::from_micros(10),
            max_delay: Duration::from_micros(100),
        },
        recovery: RecoveryPolicy {
            max_attempts: 2,
            delay: Duration::from_micros(100),
        },
        queue_size: 16,
        vf_queue: 4,
        ..PfConfig::default()
    }
}

/// Polls in a row that may be due at once.
const POLLS: usize = 4;

struct Run<'a> {
    pf: Pf,
    script: pci_transport::testing::Script<HostileDevice>,
    choices: Choices<'a>,
    now: Instant,
    next: u64,
    open: HashSet<u64>,
}

impl Run<'_> {
    fn ended(&mut self, completions: Vec<Completion>) {
        for c in completions {
            assert!(
                self.open.remove(&c.token),
                "operation {} ended twice, or never began",
                c.token
            );
        }
    }

    fn poll(&mut self) {
        let ended = self.pf.poll(self.now);
        self.ended(ended);
        self.pf.take_events();
    }

    fn step(&mut self) {
        match self.choices.u8() % 8 {
            0..=2 => {
                let member = u16::from(self.choices.u8() % 5);
                let offset = self.choices.u8() % 28;
                let space = match self.choices.u8() & 1 {
                    0 => Space::Common,
                    _ => Space::Device,
                };
                let len = 1 << (self.choices.u8() % 4);
                let op = match self.choices.u8() & 1 {
                    0 => LegacyOp::read(space, offset, len),
                    _ => LegacyOp::write(space, offset, [7; 8], len),
                };
                self.next += 1;
                if self.pf.submit(member, op, self.next, self.now).is_ok() {
                    self.open.insert(self.next);
                }
            }
            3 => {
                let (member, queue) = (u16::from(self.choices.u8() % 5), self.choices.u16());
                let _result = self.pf.notify(member, queue, self.now);
                if queue & 1 == 0 {
                    self.next += 1;
                    if self.pf.open(member, self.next, self.now) == Ok(true) {
                        self.open.insert(self.next);
                    }
                }
            }
            4 => {
                self.now += Duration::from_millis(u64::from(self.choices.u8() % 32));
                self.poll();
            }
            5 => {
                let ended = self.pf.poll_spinning(Duration::from_micros(5));
                self.ended(ended);
            }
            6 => self.script.device().turn(),
            _ => {
                if self.choices.u8() == 0xff {
                    self.script.hang_up();
                }
                self.poll();
            }
        }
    }
}

/// One run: the first byte says how much of the input belongs to the device.
pub fn run(data: &[u8]) {
    // Without choices, the device is an honest one, which must come up: otherwise nothing behind
    // the start would ever be reached.
    let Some((share, data)) = data.split_first() else {
        let function = ScriptedFunction::new(HostileDevice::new(&[])).expect("memory");
        let mut pf = Pf::start(Box::new(function), config()).expect("an honest device");
        assert_eq!(pf.info().num_vfs, VFS);
        pf.shutdown().1.expect("an honest reset");
        return;
    };
    let (device, driver) = data.split_at(data.len() * usize::from(*share) / 256);
    let Ok(function) = ScriptedFunction::new(HostileDevice::new(device)) else {
        return;
    };
    let script = function.script();
    let Ok(pf) = Pf::start(Box::new(function), config()) else {
        return;
    };
    let mut run = Run {
        pf,
        script,
        choices: Choices::new(driver),
        now: Instant::now(),
        next: 0,
        open: HashSet::new(),
    };
    let mut steps = 0;
    while !run.choices.is_empty() && steps < 300 {
        run.step();
        steps += 1;
    }
    // Whatever the device does, everything ends at its deadline, for a caller that polls when it is
    // told to: a recovery that begins at that moment leaves operations to the next poll, which is
    // due at once.
    run.now = run.now.max(Instant::now()) + Duration::from_millis(60);
    for _ in 0..POLLS {
        run.poll();
        if run.pf.next_deadline().is_none_or(|at| at > run.now) {
            break;
        }
    }
    assert!(
        run.open.is_empty(),
        "operations without end: {:?}",
        run.open
    );
    let (ended, _result) = run.pf.shutdown();
    run.ended(ended);
}
