// SPDX-License-Identifier: GPL-2.0-or-later
//! Counters and latencies of all VFs, for monitoring: pages of JSON, since a message is short. What
//! has not been used leaves no trace there.

use std::fmt::Write;

use crate::backend::AccessBackend;
use crate::counters::AccessCounters;
use crate::hub::Hub;

/// Upper ends of the latency buckets, as powers of two of nanoseconds: 4.096 us to 4.3 s, each four
/// times the one before.
const ENDS: [u32; 11] = [12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32];
/// Room for `],"next":65535}`.
const TAIL: usize = 16;

fn counts(c: &AccessCounters) -> [u64; 8] {
    [
        c.common_read,
        c.common_write,
        c.device_read,
        c.device_write,
        c.notifications,
        c.notify_commands,
        c.failed,
        c.timed_out,
    ]
}

fn list(numbers: impl Iterator<Item = u64>) -> String {
    let texts: Vec<String> = numbers.map(|n| n.to_string()).collect();
    texts.join(",")
}

/// One VF: its number, whether it is open, counters, and the latencies' count, sum in nanoseconds and
/// counts below each end.
fn row(member: u16, open: bool, c: &AccessCounters) -> String {
    let h = &c.latency;
    format!(
        "{{\"member\":{member},\"open\":{open},\"counts\":[{}],\"latency\":{{\"count\":{},\"sum_ns\":{},\
         \"below\":[{}]}}}}",
        list(counts(c).into_iter()),
        h.total(),
        h.sum().as_nanos(),
        list(ENDS.iter().map(|end| h.shorter_than(*end))),
    )
}

/// The VFs from `first` on that are open or have been used, as many as fit into `max` bytes; `next` is
/// where to go on, and not there after the last. `None` if not even one fits.
pub(crate) fn page<B: AccessBackend>(hub: &Hub<B>, first: u16, max: usize) -> Option<String> {
    let mut out = format!(
        "{{\"counts\":[\"common_read\",\"common_write\",\"device_read\",\"device_write\",\"notifications\",\
         \"notify_commands\",\"failed\",\"timed_out\"],\"ends_ns\":[{}],\"vfs\":[",
        list(ENDS.iter().map(|end| 1 << end))
    );
    let mut separator = "";
    let mut next = None;
    for member in first..=hub.backend().info().num_vfs {
        let Some(c) = hub.counters().vf(member) else {
            break;
        };
        let open = hub.registry().owner(member).is_some();
        if !open && counts(c) == [0; 8] {
            continue;
        }
        let row = row(member, open, c);
        if out.len() + separator.len() + row.len() + TAIL > max {
            next = Some(member);
            break;
        }
        out.push_str(separator);
        out.push_str(&row);
        separator = ",";
    }
    out.push(']');
    if let Some(next) = next {
        if separator.is_empty() {
            return None;
        }
        let _infallible = write!(out, ",\"next\":{next}");
    }
    out.push('}');
    (out.len() <= max).then_some(out)
}
