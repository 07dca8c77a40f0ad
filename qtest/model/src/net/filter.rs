// SPDX-License-Identifier: GPL-2.0-or-later
//! The receive filter of one network function: its MAC address, the driver's MAC table, the
//! receive modes and the VLAN table ("Control Virtqueue").

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The address every station listens to.
pub const BROADCAST: Mac = [0xff; 6];

/// Entries of each of the two MAC tables; a longer table makes the filter accept every address of
/// that kind, as hardware with a full table does.
pub const MAX_MAC_ENTRIES: usize = 64;

/// Number of VLAN identifiers.
pub const VLANS: usize = 4096;

const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];

/// Whether this address names a group of stations.
pub const fn is_multicast(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Destination address of a frame; `None` if the frame has no whole Ethernet header.
pub fn destination(frame: &[u8]) -> Option<Mac> {
    frame.get(..14)?.get(..6)?.try_into().ok()
}

/// VLAN identifier of a tagged frame. Identifier 0 is a priority tag: such a frame counts as
/// untagged.
fn vlan(frame: &[u8]) -> Option<u16> {
    let tag = frame.get(12..16)?;
    if tag.get(..2)? != ETHERTYPE_VLAN {
        return None;
    }
    match u16::from_be_bytes(tag.get(2..4)?.try_into().ok()?) & 0xfff {
        0 => None,
        id => Some(id),
    }
}

/// One MAC table of the driver.
#[derive(Clone, Debug, Default)]
struct MacTable {
    entries: Vec<Mac>,
    overflow: bool,
}

impl MacTable {
    fn set(&mut self, macs: &[Mac]) {
        self.overflow = macs.len() > MAX_MAC_ENTRIES;
        self.entries.clear();
        if !self.overflow {
            self.entries.extend_from_slice(macs);
        }
    }

    fn contains(&self, mac: &Mac) -> bool {
        self.overflow || self.entries.contains(mac)
    }
}

/// The receive modes of class CTRL_RX, in the order of their command numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// Everything.
    Promisc,
    /// Every multicast frame.
    AllMulti,
    /// Every unicast frame.
    AllUni,
    /// No multicast frame.
    NoMulti,
    /// No unicast frame.
    NoUni,
    /// No broadcast frame.
    NoBcast,
}

/// What a function lets through to its driver.
#[derive(Clone, Debug)]
pub struct RxFilter {
    modes: [bool; 6],
    unicast: MacTable,
    multicast: MacTable,
    /// One bit per VLAN identifier.
    vlans: Box<[u64; VLANS / 64]>,
}

impl Default for RxFilter {
    fn default() -> Self {
        Self {
            modes: [false; 6],
            unicast: MacTable::default(),
            multicast: MacTable::default(),
            vlans: Box::new([0; VLANS / 64]),
        }
    }
}

/// Which parts of the filter the driver has taken charge of by accepting features.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilterScope {
    /// CTRL_RX accepted: only the multicast addresses the driver listed pass. A driver without it
    /// cannot list any, so it gets all.
    pub ctrl_rx: bool,
    /// CTRL_VLAN accepted: only tagged frames of listed VLANs pass.
    pub ctrl_vlan: bool,
}

impl RxFilter {
    /// Switches one receive mode.
    pub fn set_mode(&mut self, mode: RxMode, on: bool) {
        if let Some(slot) = self.modes.get_mut(mode as usize) {
            *slot = on;
        }
    }

    fn mode(&self, mode: RxMode) -> bool {
        self.modes.get(mode as usize).copied().unwrap_or(false)
    }

    /// Replaces both MAC tables.
    pub fn set_tables(&mut self, unicast: &[Mac], multicast: &[Mac]) {
        self.unicast.set(unicast);
        self.multicast.set(multicast);
    }

    /// Adds (or removes) a VLAN; `false` if the identifier is out of range.
    #[must_use]
    pub fn set_vlan(&mut self, id: u16, on: bool) -> bool {
        let (word, bit) = (usize::from(id) / 64, id % 64);
        match self.vlans.get_mut(word) {
            Some(word) if on => *word |= 1 << bit,
            Some(word) => *word &= !(1 << bit),
            None => return false,
        }
        true
    }

    fn has_vlan(&self, id: u16) -> bool {
        self.vlans
            .get(usize::from(id) / 64)
            .is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// Whether a frame passes to the driver of the function with address `mac`.
    pub fn accepts(&self, mac: &Mac, frame: &[u8], scope: FilterScope) -> bool {
        let Some(destination) = destination(frame) else {
            return false;
        };
        if self.mode(RxMode::Promisc) {
            return true;
        }
        if scope.ctrl_vlan && vlan(frame).is_some_and(|id| !self.has_vlan(id)) {
            return false;
        }
        if destination == BROADCAST {
            return !self.mode(RxMode::NoBcast);
        }
        if is_multicast(&destination) {
            return !self.mode(RxMode::NoMulti)
                && (!scope.ctrl_rx
                    || self.mode(RxMode::AllMulti)
                    || self.multicast.contains(&destination));
        }
        !self.mode(RxMode::NoUni)
            && (destination == *mac
                || self.mode(RxMode::AllUni)
                || self.unicast.contains(&destination))
    }
}

/// What a port says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not for this port.
    Ignore,
    /// The port wants it, others may as well: promiscuous, a table entry, a group.
    Copy,
    /// The frame is for the port's own address: it need not leave the card.
    Own,
}

/// The forwarding table's entry of one function: what the switch looks at, kept by the function.
#[derive(Clone, Debug)]
pub struct Station {
    /// The address that counts.
    pub mac: Mac,
    /// What passes.
    pub filter: RxFilter,
    /// What the driver has taken charge of.
    pub scope: FilterScope,
    /// Frames go in and out.
    pub link_up: bool,
}

impl Station {
    /// A station with an empty filter and the link up.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            filter: RxFilter::default(),
            scope: FilterScope::default(),
            link_up: true,
        }
    }

    /// Whether the station wants a frame.
    pub fn verdict(&self, frame: &[u8]) -> Verdict {
        if !self.link_up || !self.filter.accepts(&self.mac, frame, self.scope) {
            Verdict::Ignore
        } else if destination(frame) == Some(self.mac) {
            Verdict::Own
        } else {
            Verdict::Copy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [0x52, 0x54, 0, 0, 0, 1];
    const OTHER: Mac = [0x52, 0x54, 0, 0, 0, 2];
    const GROUP: Mac = [0x01, 0, 0x5e, 0, 0, 1];
    const ALL: FilterScope = FilterScope {
        ctrl_rx: true,
        ctrl_vlan: true,
    };

    fn frame(to: Mac) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame
    }

    fn tagged(to: Mac, tci: u16) -> Vec<u8> {
        let mut frame = frame(to);
        frame[12..14].copy_from_slice(&ETHERTYPE_VLAN);
        frame[14..16].copy_from_slice(&tci.to_be_bytes());
        frame
    }

    // Covers: NET-11
    #[test]
    fn a_fresh_filter_has_empty_tables() {
        let filter = RxFilter::default();
        assert!(filter.accepts(&OWN, &frame(OWN), ALL));
        assert!(filter.accepts(&OWN, &frame(BROADCAST), ALL));
        assert!(!filter.accepts(&OWN, &frame(OTHER), ALL));
        assert!(!filter.accepts(&OWN, &frame(GROUP), ALL));
        assert!(!filter.accepts(&OWN, &tagged(OWN, 5), ALL));
    }

    #[test]
    fn a_driver_without_control_features_gets_all_groups_and_vlans() {
        let filter = RxFilter::default();
        let none = FilterScope::default();
        assert!(filter.accepts(&OWN, &frame(GROUP), none));
        assert!(filter.accepts(&OWN, &tagged(OWN, 5), none));
        assert!(!filter.accepts(&OWN, &frame(OTHER), none));
    }

    #[test]
    fn modes_and_tables() {
        let mut filter = RxFilter::default();
        filter.set_tables(&[OTHER], &[GROUP]);
        assert!(filter.accepts(&OWN, &frame(OTHER), ALL));
        assert!(filter.accepts(&OWN, &frame(GROUP), ALL));
        filter.set_mode(RxMode::NoUni, true);
        filter.set_mode(RxMode::NoMulti, true);
        filter.set_mode(RxMode::NoBcast, true);
        for to in [OWN, OTHER, GROUP, BROADCAST] {
            assert!(!filter.accepts(&OWN, &frame(to), ALL));
        }
        filter.set_mode(RxMode::Promisc, true);
        for to in [OWN, OTHER, GROUP, BROADCAST] {
            assert!(filter.accepts(&OWN, &frame(to), ALL));
        }
        let mut filter = RxFilter::default();
        filter.set_mode(RxMode::AllMulti, true);
        assert!(filter.accepts(&OWN, &frame(GROUP), ALL));
        assert!(!filter.accepts(&OWN, &frame(OTHER), ALL));
        filter.set_mode(RxMode::AllUni, true);
        assert!(filter.accepts(&OWN, &frame(OTHER), ALL));
    }

    #[test]
    fn a_table_that_is_too_long_lets_everything_of_its_kind_pass() {
        let mut filter = RxFilter::default();
        filter.set_tables(&[[2; 6]; MAX_MAC_ENTRIES + 1], &[]);
        assert!(filter.accepts(&OWN, &frame(OTHER), ALL));
        assert!(!filter.accepts(&OWN, &frame(GROUP), ALL));
        filter.set_tables(&[[2; 6]; MAX_MAC_ENTRIES], &[]);
        assert!(!filter.accepts(&OWN, &frame(OTHER), ALL));
    }

    #[test]
    fn vlans_are_filtered_only_where_listed() {
        let mut filter = RxFilter::default();
        assert!(filter.set_vlan(4095, true));
        assert!(filter.set_vlan(5, true));
        assert!(!filter.set_vlan(4096, true));
        assert!(filter.accepts(&OWN, &tagged(OWN, 5), ALL));
        assert!(filter.accepts(&OWN, &tagged(OWN, 0xe000 | 4095), ALL));
        assert!(!filter.accepts(&OWN, &tagged(OWN, 6), ALL));
        assert!(!filter.accepts(&OWN, &tagged(OTHER, 5), ALL));
        // A priority tag is no VLAN.
        assert!(filter.accepts(&OWN, &tagged(OWN, 0xe000), ALL));
        assert!(filter.set_vlan(5, false));
        assert!(!filter.accepts(&OWN, &tagged(OWN, 5), ALL));
    }

    #[test]
    fn a_station_knows_its_own_frames() {
        let mut station = Station::new(OWN);
        assert_eq!(station.verdict(&frame(OWN)), Verdict::Own);
        assert_eq!(station.verdict(&frame(BROADCAST)), Verdict::Copy);
        assert_eq!(station.verdict(&frame(OTHER)), Verdict::Ignore);
        station.filter.set_mode(RxMode::Promisc, true);
        assert_eq!(station.verdict(&frame(OTHER)), Verdict::Copy);
        station.link_up = false;
        assert_eq!(station.verdict(&frame(OWN)), Verdict::Ignore);
    }

    #[test]
    fn runts_never_pass() {
        let mut filter = RxFilter::default();
        filter.set_mode(RxMode::Promisc, true);
        for len in 0..14 {
            assert!(!filter.accepts(&OWN, &vec![0xff; len], ALL));
        }
    }
}
