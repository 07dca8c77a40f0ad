// SPDX-License-Identifier: GPL-2.0-or-later
//! Code without I/O.

use std::hint::black_box;

use legacy_vf_proto::{decode_incoming, Reply, Request, Space, MAX_MESSAGE};
use legacy_vf_proto_server::{decode_request, EncodeReply};
use legacy_window::{decode, Outcome, Step, Window};
use virtio_pci_spec::legacy::{field_of, Register};
use virtio_pci_spec::{config, DeviceType};

use crate::report::Figure;
use crate::{time_per_call, Effort};

fn figure(name: &str, effort: Effort, f: impl FnMut()) -> Figure {
    let ns = time_per_call(effort, f) * 1e9;
    Figure::new(name, ns, "ns")
}

/// Encode and decode of one read with its reply, as both sides do it together.
fn codec(effort: Effort) -> Figure {
    let mut request = [0; MAX_MESSAGE];
    let mut reply = [0; MAX_MESSAGE];
    let read = Request::Read {
        space: Space::Common,
        offset: 18,
        len: 1,
    };
    figure("codec: read and its reply, both sides", effort, || {
        let len = black_box(&read).encode(7, &mut request);
        let seq = decode_request(request.get(..len).unwrap_or(&[])).map_or(0, |(h, _)| h.seq);
        let len = Reply::Read { data: [1; 8] }.encode(seq, &mut reply);
        black_box(decode_incoming(reply.get(..len).unwrap_or(&[])).is_ok());
    })
}

fn window() -> Window {
    Window::new(DeviceType::Net, config::full_len(DeviceType::Net))
}

/// Follows an access to its end; every command succeeds.
fn finish(window: &mut Window, mut step: Step) -> u64 {
    loop {
        let outcome = match step {
            Step::Done(done) => return done.value,
            Step::Command(c) => match c.kind {
                legacy_window::CommandKind::Read => Outcome::Data([1; 8]),
                legacy_window::CommandKind::Write(_) => Outcome::Written,
            },
        };
        step = window.resume(outcome);
    }
}

/// All of them.
pub fn all(effort: Effort) -> Vec<Figure> {
    let at = |register| u32::from(field_of(register).offset);
    let mut figures = vec![codec(effort)];
    let mut w = window();
    let (notify, isr, features) = (
        at(Register::QueueNotify),
        at(Register::IsrStatus),
        at(Register::DeviceFeatures),
    );
    figures.push(figure("window: notification", effort, || {
        black_box(decode(notify, 2, Some(black_box(1))));
    }));
    figures.push(figure(
        "window: read with one command (ISR)",
        effort,
        || {
            let step = w.begin(isr, 1, None, true);
            black_box(finish(&mut w, step));
        },
    ));
    figures.push(figure("window: remembered read (features)", effort, || {
        let step = w.begin(features, 4, None, true);
        black_box(finish(&mut w, step));
    }));
    figures.push(figure("window: MAC, 4 bytes in one access", effort, || {
        let step = w.begin(24, 4, None, true);
        black_box(finish(&mut w, step));
    }));
    figures
}
