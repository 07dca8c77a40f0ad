// SPDX-License-Identifier: GPL-2.0-or-later
//! The embedded switch between the network functions and the outside.
//!
//! As in an SR-IOV network card, the forwarding table is made of the functions' receive filters:
//! a frame goes to each function whose filter accepts it, and outside unless it is for one function
//! alone. Nothing is learnt from frames, so nothing can be poisoned or grow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::effect::{FrameSwitch, FunctionId, Port};
use crate::net::filter::{destination, is_multicast, Station, Verdict};

/// Shortest frame that is forwarded: an Ethernet header.
pub const MIN_FRAME: usize = 14;
/// Longest frame that is forwarded: the largest MTU, the header and a VLAN tag.
pub const MAX_FRAME: usize = 65535 + 14 + 4;

/// A function's entry of the forwarding table, shared by the function and the switch.
#[derive(Clone, Debug)]
pub struct StationHandle(Arc<Mutex<Station>>);

impl StationHandle {
    /// A new entry; [`Switch::connect`] puts it into a switch.
    pub fn new(station: Station) -> Self {
        Self(Arc::new(Mutex::new(station)))
    }

    /// The entry. A panic elsewhere while it was held does no harm: every state of it is valid.
    pub fn get(&self) -> MutexGuard<'_, Station> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The switch. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    stations: Arc<Mutex<Vec<(FunctionId, StationHandle)>>>,
}

impl Switch {
    /// A switch with nothing but the outside connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects a function, or replaces its connection.
    pub fn connect(&self, function: FunctionId, station: StationHandle) {
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        match stations.binary_search_by_key(&function, |(f, _)| *f) {
            Ok(at) => {
                if let Some(slot) = stations.get_mut(at) {
                    slot.1 = station;
                }
            }
            Err(at) => stations.insert(at, (function, station)),
        }
    }
}

impl FrameSwitch for Switch {
    fn forward(&mut self, from: Port, frame: &[u8], to: &mut Vec<Port>) {
        if frame.len() > MAX_FRAME {
            return;
        }
        let Some(destination) = destination(frame) else {
            return;
        };
        let mut owned = false;
        let stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        for (function, station) in stations.iter() {
            let port = Port::Function(*function);
            if port == from {
                continue;
            }
            let verdict = station.get().verdict(frame);
            if verdict != Verdict::Ignore {
                owned |= verdict == Verdict::Own;
                to.push(port);
            }
        }
        if from != Port::External && (is_multicast(&destination) || !owned) {
            to.push(Port::External);
        }
    }

    /// Nothing was learnt: the function itself resets its entry.
    fn port_reset(&mut self, _port: Port) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::filter::{RxMode, BROADCAST};

    const fn mac(n: u8) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 0, n]
    }

    const fn vf(n: u16) -> Port {
        Port::Function(FunctionId::Vf(n))
    }

    fn switch() -> (Switch, Vec<StationHandle>) {
        let switch = Switch::new();
        let stations: Vec<_> = (1..=3)
            .map(|n| StationHandle::new(Station::new(mac(n))))
            .collect();
        // The order of connecting does not matter.
        for n in [3, 1, 2] {
            let station = stations[usize::from(n) - 1].clone();
            switch.connect(FunctionId::Vf(n), station);
        }
        (switch, stations)
    }

    fn route(switch: &mut Switch, from: Port, to: [u8; 6]) -> Vec<Port> {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to);
        let mut ports = Vec::new();
        switch.forward(from, &frame, &mut ports);
        ports
    }

    #[test]
    fn a_frame_for_one_function_stays_in_the_card() {
        let (mut switch, stations) = switch();
        assert_eq!(route(&mut switch, vf(1), mac(2)), [vf(2)]);
        assert_eq!(route(&mut switch, Port::External, mac(3)), [vf(3)]);
        // A promiscuous neighbour gets its copy.
        stations[2].get().filter.set_mode(RxMode::Promisc, true);
        assert_eq!(route(&mut switch, vf(1), mac(2)), [vf(2), vf(3)]);
    }

    #[test]
    fn unknown_and_group_frames_go_outside() {
        let (mut switch, stations) = switch();
        assert_eq!(route(&mut switch, vf(1), mac(9)), [Port::External]);
        assert_eq!(
            route(&mut switch, vf(1), BROADCAST),
            [vf(2), vf(3), Port::External]
        );
        assert_eq!(
            route(&mut switch, Port::External, BROADCAST),
            [vf(1), vf(2), vf(3)]
        );
        assert_eq!(route(&mut switch, Port::External, mac(9)), []);
        // An address that moves, moves at once.
        stations[1].get().mac = mac(9);
        assert_eq!(route(&mut switch, vf(1), mac(9)), [vf(2)]);
        assert_eq!(route(&mut switch, vf(1), mac(2)), [Port::External]);
    }

    #[test]
    fn a_cut_link_gets_nothing() {
        let (mut switch, stations) = switch();
        stations[1].get().link_up = false;
        assert_eq!(route(&mut switch, vf(1), mac(2)), [Port::External]);
        assert_eq!(
            route(&mut switch, vf(1), BROADCAST),
            [vf(3), Port::External]
        );
    }

    #[test]
    fn frames_of_impossible_length_are_dropped() {
        let (mut switch, _stations) = switch();
        for len in [0, 1, MIN_FRAME - 1, MAX_FRAME + 1] {
            let mut ports = Vec::new();
            switch.forward(vf(1), &vec![0xff; len], &mut ports);
            assert_eq!(ports, [], "length {len}");
        }
        let mut ports = Vec::new();
        switch.forward(vf(1), &vec![0xff; MAX_FRAME], &mut ports);
        assert_eq!(ports.len(), 3);
    }
}
