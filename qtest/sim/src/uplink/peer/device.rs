// SPDX-License-Identifier: GPL-2.0-or-later
//! The network interface of the peer: two queues of frames.

use crate::uplink::MAX_QUEUE;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::collections::VecDeque;

/// Ethernet header and 1500 bytes.
const MAX_FRAME: usize = 1514;

/// Frames waiting in both directions.
#[derive(Default)]
pub(super) struct FrameQueue {
    input: VecDeque<Vec<u8>>,
    output: VecDeque<Vec<u8>>,
    pub(super) dropped: u64,
}

impl FrameQueue {
    pub(super) fn receive(&mut self, frame: Vec<u8>) {
        if self.input.len() < MAX_QUEUE {
            self.input.push_back(frame);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn transmit(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// Forgets all frames.
    pub(super) fn clear(&mut self) {
        self.dropped += (self.input.len() + self.output.len()) as u64;
        self.input.clear();
        self.output.clear();
    }

    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }
}

impl Device for FrameQueue {
    type RxToken<'a> = Received;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Slot<'_>)> {
        // A received frame may need an answer: leave both where they are if there is no room.
        if self.output.len() >= MAX_QUEUE {
            return None;
        }
        let frame = self.input.pop_front()?;
        Some((Received(frame), Slot(&mut self.output)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Slot<'_>> {
        (self.output.len() < MAX_QUEUE).then_some(Slot(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = MAX_FRAME;
        caps
    }
}

pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Slot<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
