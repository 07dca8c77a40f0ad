// SPDX-License-Identifier: GPL-2.0-or-later
//! Any guest accesses and outcomes.

use legacy_window::{
    decode, Command, CommandKind, Decoded, FailKind, Outcome, OwnVectors, Space, Step, Window,
};
use virtio_pci_spec::legacy::{field_at, field_of, Register};
use virtio_pci_spec::{config, DeviceType};

use crate::Choices;

fn ones(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * u32::from(size))) - 1
    }
}

fn outcome(choices: &mut Choices<'_>, right: Outcome) -> Outcome {
    match choices.u8() {
        0xf0 => Outcome::Failed(FailKind::Refused),
        0xf1 => Outcome::Failed(FailKind::TimedOut),
        0xf2 => Outcome::Failed(FailKind::Lost),
        0xf3 => Outcome::Written,
        0xf4 => Outcome::Data([choices.u8(); 8]),
        0xf5 => Outcome::Failed(FailKind::GivenUp),
        _ => right,
    }
}

/// One run.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let device = DeviceType::ALL[usize::from(c.u8()) % DeviceType::ALL.len()];
    let config_len = match c.u8() {
        0 => config::full_len(device),
        n => u16::from(n),
    };
    let mut window = Window::new(device, config_len);
    if c.u8() & 1 != 0 {
        window.emulate_intx();
    }
    let mut lost = false;
    let mut steps = 0;
    while !c.is_empty() && steps < 1000 {
        steps += 1;
        match c.u8() {
            0xf0 => {
                window.lost();
                lost = true;
            }
            0xf1 => {
                window.restored();
                lost = false;
            }
            0xf2 => window.device_reset(),
            0xf3 => window.msix_switched(),
            0xf5 => {
                // An outcome that nobody waits for.
                let stray = outcome(&mut c, Outcome::Written);
                assert!(matches!(window.resume(stray), Step::Done(_)));
            }
            0xf6 => {
                let own = OwnVectors {
                    config: 0,
                    queues: u16::from(c.u8() & 1),
                };
                let turn = u64::from(c.u8() & 3);
                window.serve_vectors((c.u8() & 1 != 0).then_some(own), turn);
            }
            0xf7 => window.retry_settle(),
            0xf8 => settle(&mut window, &mut c, &mut lost),
            kind => access(&mut window, &mut c, kind, &mut lost),
        }
    }
}

fn check(command: &Command, lost: bool) {
    assert!(!lost, "a command although the helper is lost");
    assert!((1..=4).contains(&command.len));
    if command.space == Space::Common {
        // One whole field of the header, always.
        let field = field_at(command.offset, true).expect("a field");
        assert_eq!(field.offset, command.offset);
        assert!(command.len <= field.size);
    }
}

fn answer(c: &mut Choices<'_>, command: &Command, lost: &mut bool) -> Outcome {
    let right = match command.kind {
        CommandKind::Read => Outcome::Data([c.u8(); 8]),
        CommandKind::Write(_) => Outcome::Written,
    };
    let outcome = outcome(c, right);
    *lost |= outcome == Outcome::Failed(FailKind::Lost);
    outcome
}

/// Whether this writes what the driver of a broken device would believe in.
fn sets_up_queue(command: &Command) -> bool {
    let written =
        |register| command.space == Space::Common && command.offset == field_of(register).offset;
    let vector = written(Register::ConfigVector) || written(Register::QueueVector);
    command.kind != CommandKind::Read && (vector || written(Register::QueueAddress))
}

/// Vectors behind the guest's back: of each source at most the queue selection, two vectors written
/// and read, and the queue's size.
fn settle(window: &mut Window, c: &mut Choices<'_>, lost: &mut bool) {
    let broken = window.broken();
    let mut step = window.begin_settle();
    for _ in 0..1025 * 7 {
        step = match step {
            Step::Done(done) => {
                assert_eq!(done.value, 0, "{done:?}");
                let _what = (window.take_settled(), window.guest_vectors().count());
                assert_eq!(window.broken(), broken, "nothing that the guest wrote");
                return;
            }
            Step::Command(command) => {
                check(&command, *lost);
                let outcome = answer(c, &command, lost);
                window.resume(outcome)
            }
        };
    }
    panic!("vectors without end");
}

fn access(window: &mut Window, c: &mut Choices<'_>, kind: u8, lost: &mut bool) {
    let msix = kind & 1 != 0;
    let offset = match kind & 2 {
        0 => u32::from(c.u8()) % 64,
        _ => c.u32(),
    };
    let size = match c.u8() {
        n @ 0..=191 => 1 << (n % 3),
        n => n,
    };
    let write = (kind & 4 != 0).then(|| u64::from(c.u32()) << (c.u8() % 33));
    let decoded = decode(offset, size, write);
    let broken = window.broken();
    let mut step = window.begin(offset, size, write, msix);
    // The largest access can need each byte apart, and a queue selection before.
    for _ in 0..16 {
        step = match step {
            Step::Done(done) => {
                assert_eq!(done.value & !ones(size.max(1)), 0, "{done:?}");
                assert_eq!(done.effects.broke, window.broken() && !broken, "{done:?}");
                assert!(window.queues().iter().all(|queue| queue < 1024));
                return;
            }
            Step::Command(command) => {
                assert!(!matches!(decoded, Decoded::Notify { .. }), "{command:?}");
                assert!(!(broken && sets_up_queue(&command)), "{command:?}");
                check(&command, *lost);
                let outcome = answer(c, &command, lost);
                window.resume(outcome)
            }
        };
    }
    panic!("an access without end");
}
