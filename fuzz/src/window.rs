// SPDX-License-Identifier: GPL-2.0-or-later
//! Any guest accesses and outcomes.

use legacy_window::{
    Command, CommandKind, FailKind, Outcome, OwnVectors, SavedState, Space, Step, Window,
};
use virtio_pci_spec::{config, legacy, DeviceType};

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
    let mut steps = 0;
    while !c.is_empty() && steps < 1000 {
        steps += 1;
        match c.u8() {
            0xf0 => window.lost(),
            0xf1 => window.restored(),
            0xf2 => window.device_reset(),
            0xf3 => window.msix_switched(),
            0xf4 => {
                // A state of its own fits; any other bytes are judged, not trusted.
                let state = window.state();
                window.restore(state).expect("its own state");
                let bytes = c.bytes(SavedState::LEN);
                if let Ok(state) = SavedState::from_bytes(&bytes) {
                    let _judged = window.restore(state);
                }
            }
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
                window.serve_vectors((c.u8() & 1 != 0).then_some(own));
            }
            0xf7 => window.retry_settle(),
            0xf8 => settle(&mut window, &mut c),
            kind => access(&mut window, &mut c, kind),
        }
    }
}

fn check(window: &Window, command: &Command) {
    assert!(!window.is_lost(), "a command although the helper is lost");
    assert!((1..=4).contains(&command.len));
    if command.space == Space::Common {
        // One whole field of the header, always.
        let field = legacy::field_at(command.offset, true).expect("a field");
        assert_eq!(field.offset, command.offset);
        assert!(command.len <= field.size);
    }
}

fn answer(c: &mut Choices<'_>, command: &Command) -> Outcome {
    let right = match command.kind {
        CommandKind::Read => Outcome::Data([c.u8(); 8]),
        CommandKind::Write(_) => Outcome::Written,
    };
    outcome(c, right)
}

/// Vectors behind the guest's back: of each source at most the queue selection, two vectors written
/// and three times read.
fn settle(window: &mut Window, c: &mut Choices<'_>) {
    let mut step = window.begin_settle();
    for _ in 0..1025 * 7 {
        step = match step {
            Step::Done(done) => {
                assert_eq!(done.value, 0, "{done:?}");
                let _what = (window.take_settled(), window.guest_vectors().count());
                return;
            }
            Step::Notify { .. } => panic!("nobody notifies"),
            Step::Command(command) => {
                check(window, &command);
                let outcome = answer(c, &command);
                window.resume(outcome)
            }
        };
    }
    panic!("vectors without end");
}

fn access(window: &mut Window, c: &mut Choices<'_>, kind: u8) {
    let msix = kind & 1 != 0;
    let offset = match kind & 2 {
        0 => u32::from(c.u8()) % 64,
        _ => c.u32(),
    };
    let size = match c.u8() {
        n @ 0..=191 => 1 << (n % 3),
        n => n,
    };
    let write = kind & 4 != 0;
    let mut step = if write {
        let value = u64::from(c.u32()) << (c.u8() % 33);
        window.begin_write(offset, size, value, msix)
    } else {
        window.begin_read(offset, size, msix)
    };
    // The largest access can need each byte apart, and a queue selection before.
    for _ in 0..16 {
        step = match step {
            Step::Done(done) => {
                assert_eq!(done.value & !ones(size.max(1)), 0, "{done:?}");
                return;
            }
            Step::Notify { .. } => {
                // Also while the helper is lost: doorbells do not pass through it.
                assert!(write);
                window.resume(outcome(c, Outcome::Written))
            }
            Step::Command(command) => {
                check(window, &command);
                let outcome = answer(c, &command);
                window.resume(outcome)
            }
        };
    }
    panic!("an access without end");
}
