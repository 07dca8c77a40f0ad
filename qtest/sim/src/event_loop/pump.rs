// SPDX-License-Identifier: GPL-2.0-or-later
//! Moves what the hardware wants done: interrupts, records, frames in both directions.

use super::simulator::{Simulator, FLUSH_AFTER};
use crate::hardware::Effect;
use crate::uplink::MAX_QUEUE;

/// Rounds between device and uplink in one turn of the loop.
const ROUNDS: usize = 16;
/// Frames from the uplink in one round.
const FRAMES: usize = 256;

impl Simulator {
    /// Carries out what the hardware asked for; frames are only collected.
    pub(super) fn drain_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.hardware.take_effects(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Interrupt { function, vector } => {
                    let client = self.clients.get_mut(function.index());
                    match client.and_then(Option::as_mut) {
                        Some(client) => {
                            let lost = client.session.irqs.lost;
                            client.session.irqs.fire(usize::from(vector));
                            match client.session.irqs.lost == lost {
                                true => self.counters.interrupts += 1,
                                false => self.counters.interrupts_lost += 1,
                            }
                        }
                        None => self.counters.interrupts_lost += 1,
                    }
                }
                Effect::FrameOut(frame) => {
                    if self.frames_out.len() < MAX_QUEUE {
                        self.counters.frames_out += 1;
                        self.frames_out.push_back(frame);
                    } else {
                        self.counters.frames_dropped += 1;
                    }
                }
                Effect::Capture(frame) => {
                    if let Some(pcap) = &mut self.pcap {
                        pcap.frame(&frame);
                        let soon = std::time::Instant::now().checked_add(FLUSH_AFTER);
                        self.flush_at = self.flush_at.or(soon);
                    }
                }
                Effect::Event(record) => self.log(record),
            }
        }
        self.effects = effects;
    }

    /// Lets device and uplink exchange frames until both rest, or this turn's share is used up.
    pub(super) fn pump(&mut self) {
        self.drain_effects();
        for _ in 0..ROUNDS {
            self.send_frames();
            let mut moved = 0;
            if let Some(peer) = &mut self.peer {
                self.peer_busy = peer.poll();
            }
            while moved < FRAMES {
                let Some(frame) = self.peer.as_mut().and_then(|p| p.transmit()) else {
                    break;
                };
                moved += 1;
                self.counters.frames_in += 1;
                self.hardware.rx_frame(&frame);
            }
            self.peer_busy |= moved == FRAMES;
            self.drain_effects();
            if moved == 0 && self.frames_out.is_empty() && !self.peer_busy {
                return;
            }
        }
        // What is left waits for the next turn, in which others get their share first.
        self.peer_busy |= !self.frames_out.is_empty();
    }

    fn send_frames(&mut self) {
        while let Some(frame) = self.frames_out.pop_front() {
            if let Some(tap) = &mut self.tap {
                tap.send(&frame);
            }
            if let Some(peer) = &mut self.peer {
                peer.receive(frame);
            }
        }
    }

    /// Takes frames from the host.
    pub(super) fn receive_from_tap(&mut self) {
        for _ in 0..FRAMES {
            let Some(tap) = &mut self.tap else {
                return;
            };
            match tap.receive() {
                Ok(Some(frame)) => {
                    self.counters.frames_in += 1;
                    self.hardware.rx_frame(frame);
                }
                Ok(None) => break,
                Err(e) => {
                    tracing::error!("tap interface: {e}; the uplink is gone");
                    self.tap = None;
                }
            }
        }
        self.drain_effects();
    }
}
