// SPDX-License-Identifier: GPL-2.0-or-later
//! Receive queue selection ("Automatic receive steering in multiqueue mode"): a flow is received
//! on the pair the driver last transmitted it on.

/// Buckets of the flow table; flows that share one are steered together.
const BUCKETS: usize = 256;

/// Flow table of one function.
#[derive(Clone, Debug)]
pub struct Steering {
    pairs: u16,
    table: Box<[u16; BUCKETS]>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            pairs: 1,
            table: Box::new([0; BUCKETS]),
        }
    }
}

impl Steering {
    /// Pairs in use; 1 after reset.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Uses `pairs` pairs from now on; what was learnt is forgotten.
    pub fn set_pairs(&mut self, pairs: u16) {
        *self = Self {
            pairs: pairs.max(1),
            ..Self::default()
        };
    }

    /// Notes that the driver transmitted this frame on `pair`.
    pub fn learn(&mut self, frame: &[u8], pair: u16) {
        if self.pairs > 1 && pair < self.pairs {
            if let Some(slot) = self.table.get_mut(bucket(frame)) {
                *slot = pair;
            }
        }
    }

    /// The pair on which this frame is to be received.
    pub fn select(&self, frame: &[u8]) -> u16 {
        if self.pairs == 1 {
            return 0;
        }
        self.table.get(bucket(frame)).copied().unwrap_or(0)
    }
}

/// A number that both directions of one flow share: addresses and ports of IPv4 and IPv6, without
/// regard to which is the source.
fn bucket(frame: &[u8]) -> usize {
    let fold = |range: std::ops::Range<usize>| {
        frame
            .get(range)
            .unwrap_or_default()
            .iter()
            .fold(0u32, |acc, byte| {
                acc.wrapping_mul(31).wrapping_add(u32::from(*byte))
            })
    };
    let has_ports = |protocol: Option<&u8>| matches!(protocol, Some(6 | 17));
    let (a, b, ports) = match frame.get(12..14) {
        Some([0x08, 0x00]) => {
            let header = usize::from(frame.get(14).copied().unwrap_or(0) & 0xf) * 4;
            let ports = has_ports(frame.get(23)).then_some(14 + header);
            (fold(26..30), fold(30..34), ports)
        }
        Some([0x86, 0xdd]) => {
            let ports = has_ports(frame.get(20)).then_some(54);
            (fold(22..38), fold(38..54), ports)
        }
        _ => (fold(0..6), fold(6..12), None),
    };
    // Addition does not care for the order.
    let mut hash = a.wrapping_add(b);
    if let Some(at) = ports {
        hash = hash.wrapping_add(fold(at..at + 2).wrapping_add(fold(at + 2..at + 4)));
    }
    // The multiplication spreads low bits upwards; take the top byte.
    (hash.wrapping_mul(0x9e37_79b1) >> 24) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&from.0);
        frame[30..34].copy_from_slice(&to.0);
        frame[34..36].copy_from_slice(&from.1.to_be_bytes());
        frame[36..38].copy_from_slice(&to.1.to_be_bytes());
        frame
    }

    #[test]
    fn the_answer_comes_back_on_the_pair_of_the_question() {
        let mut steering = Steering::default();
        steering.set_pairs(4);
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 7));
        assert_eq!(steering.select(&tcp(b, a)), 0);
        steering.learn(&tcp(a, b), 3);
        assert_eq!(steering.select(&tcp(b, a)), 3);
        // Flows spread over the buckets.
        let used: std::collections::HashSet<usize> =
            (0..512).map(|port| bucket(&tcp((a.0, port), b))).collect();
        assert!(used.len() > BUCKETS / 2, "{} buckets", used.len());
    }

    // Covers: NET-11
    #[test]
    fn a_single_pair_is_pair_zero() {
        let mut steering = Steering::default();
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 7));
        steering.learn(&tcp(a, b), 3);
        assert_eq!(steering.select(&tcp(b, a)), 0);
        steering.set_pairs(4);
        steering.learn(&tcp(a, b), 3);
        steering.set_pairs(2);
        assert_eq!(steering.select(&tcp(b, a)), 0);
        // A pair that is not in use is never selected.
        steering.learn(&tcp(a, b), 3);
        assert_eq!(steering.select(&tcp(b, a)), 0);
    }

    #[test]
    fn any_bytes_have_a_bucket() {
        for len in 0..80 {
            assert!(bucket(&vec![0xff; len]) < BUCKETS);
            let mut frame = vec![0xff; len];
            if len >= 14 {
                frame[12..14].copy_from_slice(&[8, 0]);
            }
            assert!(bucket(&frame) < BUCKETS);
        }
    }
}
