// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests, responses, control requests and events of the SCSI host ("Device Operation"): bytes
//! in, values out and back.

use virtio_modern_spec::bytes::{put_u16, put_u32};
use virtio_pci_spec::bytes::{get_u32, get_u64};

/// Number of the control queue.
pub const CONTROL_QUEUE: u16 = 0;
/// Number of the event queue.
pub const EVENT_QUEUE: u16 = 1;
/// Number of the first request queue.
pub const REQUEST_QUEUE: u16 = 2;

/// Bytes of a request before the command: LUN, id, task attribute, priority, crn.
pub const HEADER_LEN: usize = 19;
/// Bytes of a response before the sense data.
pub const RESPONSE_LEN: usize = 12;
/// Bytes of a task management request that the device reads.
pub const TMF_LEN: usize = 24;
/// Bytes of an asynchronous notification request that the device reads.
pub const AN_LEN: usize = 16;

/// Response codes.
pub mod response {
    /// The command was carried out; or: the task management function is complete.
    pub const OK: u8 = 0;
    /// The data of the command does not fit the buffers.
    pub const OVERRUN: u8 = 1;
    /// The command was aborted by a task management function.
    pub const ABORTED: u8 = 2;
    /// There is no such target.
    pub const BAD_TARGET: u8 = 3;
    /// The command was cancelled by a reset of its target or LUN.
    pub const RESET: u8 = 4;
    /// The request makes no sense.
    pub const FAILURE: u8 = 9;
    /// The function was carried out and the task it names was there.
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    /// The task management function is not known.
    pub const FUNCTION_REJECTED: u8 = 11;
    /// There is no such LUN.
    pub const INCORRECT_LUN: u8 = 12;
}

/// Where a LUN field leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// A logical unit of a target, by number.
    Unit {
        /// Target.
        target: u8,
        /// Logical unit.
        lun: u16,
    },
    /// The well-known logical unit that reports the others.
    ReportLuns {
        /// Target.
        target: u8,
    },
    /// None of the formats the device has.
    Malformed,
}

/// LUN of the well-known logical unit REPORT LUNS.
const WELL_KNOWN_REPORT_LUNS: u16 = 0xc101;

impl Address {
    /// Decodes the eight bytes: 1, target, a single-level LUN in two bytes, four zeroes.
    pub fn decode(lun: &[u8]) -> Self {
        let [1, target, high, low, 0, 0, 0, 0] = *lun else {
            return Self::Malformed;
        };
        let word = u16::from_be_bytes([high, low]);
        match word {
            WELL_KNOWN_REPORT_LUNS => Self::ReportLuns { target },
            // Peripheral device addressing has 0 to 255 and bus 0, flat space addressing 14 bits.
            0..=0xff => Self::Unit { target, lun: word },
            0x4000..=0x7fff => Self::Unit {
                target,
                lun: word & 0x3fff,
            },
            _ => Self::Malformed,
        }
    }

    /// The target, if the field is well-formed.
    pub fn target(self) -> Option<u8> {
        match self {
            Self::Unit { target, .. } | Self::ReportLuns { target } => Some(target),
            Self::Malformed => None,
        }
    }
}

/// The eight bytes of target 0's logical unit `lun`, below 256 with peripheral addressing as in
/// REPORT LUNS: Linux looks for the units that events name by what that list said.
pub fn encode_lun(lun: u16) -> [u8; 8] {
    let word = if lun < 256 { lun } else { 0x4000 | lun };
    let [high, low] = word.to_be_bytes();
    [1, 0, high, low, 0, 0, 0, 0]
}

/// The fixed part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it goes.
    pub address: Address,
    /// The driver's name for it.
    pub id: u64,
}

/// Decodes the fixed part of a request.
pub fn decode_header(bytes: &[u8]) -> Option<Header> {
    Some(Header {
        address: Address::decode(bytes.get(..8)?),
        id: get_u64(bytes, 8)?,
    })
}

/// A response without its sense data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Bytes of sense data.
    pub sense_len: u32,
    /// Bytes of the data buffer that were not transferred.
    pub residual: u32,
    /// SCSI status.
    pub status: u8,
    /// One of [`response`].
    pub response: u8,
}

impl Response {
    /// Only a response code.
    pub fn failed(response: u8, residual: u32) -> Self {
        Self {
            response,
            residual,
            ..Self::default()
        }
    }

    /// As the driver reads it.
    pub fn encode(&self) -> [u8; RESPONSE_LEN] {
        let mut r = [0; RESPONSE_LEN];
        let _ = put_u32(&mut r, 0, self.sense_len)
            && put_u32(&mut r, 4, self.residual)
            // No status qualifier.
            && put_u16(&mut r, 8, 0);
        let [.., status, response] = &mut r;
        (*status, *response) = (self.status, self.response);
        r
    }
}

/// Task management functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Abort one task.
    AbortTask,
    /// Abort all tasks of the LUN (of this driver; there is no other).
    AbortTaskSet,
    /// Reset the target.
    NexusReset,
    /// Reset the LUN.
    UnitReset,
    /// Whether one task is there.
    QueryTask,
    /// Whether any task is there.
    QueryTaskSet,
}

/// A request on the control queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Task management; `function` is `None` for one that is not known.
    TaskManagement {
        /// What to do.
        function: Option<Function>,
        /// Where.
        address: Address,
        /// Which task.
        id: u64,
    },
    /// Asynchronous notification: query or subscription.
    Notification {
        /// Where.
        address: Address,
    },
    /// An unknown type.
    Unknown(u32),
}

/// Decodes a control request; `None` if it is cut off.
pub fn decode_control(bytes: &[u8]) -> Option<Control> {
    let kind = get_u32(bytes, 0)?;
    Some(match kind {
        0 => Control::TaskManagement {
            function: match get_u32(bytes, 4)? {
                0 => Some(Function::AbortTask),
                // Clearing the task set is the same as aborting it where there is one driver.
                1 | 3 => Some(Function::AbortTaskSet),
                4 => Some(Function::NexusReset),
                5 => Some(Function::UnitReset),
                6 => Some(Function::QueryTask),
                7 => Some(Function::QueryTaskSet),
                // 2, CLEAR ACA: commands with NACA are not supported.
                _ => None,
            },
            address: Address::decode(bytes.get(8..16)?),
            id: get_u64(bytes, 16)?,
        },
        1 | 2 => {
            let _events = get_u32(bytes, 12)?;
            Control::Notification {
                address: Address::decode(bytes.get(4..12)?),
            }
        }
        other => Control::Unknown(other),
    })
}

/// Something the driver is told on the event queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Events were lost for want of buffers; look at everything.
    Missed,
    /// The LUN came (rescan) or went (removed).
    Transport {
        /// It is there now.
        present: bool,
    },
    /// A parameter of the LUN changed, as this additional sense code says.
    Parameter {
        /// Additional sense code.
        asc: u8,
        /// Qualifier.
        ascq: u8,
    },
}

/// Set in an event's type when events before it were lost.
const EVENTS_MISSED: u32 = 1 << 31;

impl Event {
    /// As the driver reads it; `missed`: others before it were lost.
    pub fn encode(self, missed: bool) -> [u8; super::config::EVENT_LEN] {
        let (kind, lun, reason) = match self {
            Event::Missed => (0, [0; 8], 0),
            Event::Transport { present } => (1, encode_lun(0), if present { 1 } else { 2 }),
            Event::Parameter { asc, ascq } => {
                let reason = u32::from(asc) | u32::from(ascq) << 8;
                (3, encode_lun(0), reason)
            }
        };
        let kind = if missed { kind | EVENTS_MISSED } else { kind };
        let mut e = [0; super::config::EVENT_LEN];
        let _ = put_u32(&mut e, 0, kind) && put_u32(&mut e, 12, reason);
        if let Some(slot) = e.get_mut(4..12) {
            slot.copy_from_slice(&lun);
        }
        e
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let unit = |target, lun| Address::Unit { target, lun };
        for (bytes, address) in [
            ([1, 0, 0x40, 0, 0, 0, 0, 0], unit(0, 0)),
            ([1, 0, 0, 0, 0, 0, 0, 0], unit(0, 0)),
            ([1, 0, 0, 255, 0, 0, 0, 0], unit(0, 255)),
            ([1, 7, 0x7f, 0xff, 0, 0, 0, 0], unit(7, 16383)),
            (
                [1, 3, 0xc1, 1, 0, 0, 0, 0],
                Address::ReportLuns { target: 3 },
            ),
            ([0, 0, 0x40, 0, 0, 0, 0, 0], Address::Malformed),
            ([1, 0, 1, 0, 0, 0, 0, 0], Address::Malformed),
            ([1, 0, 0x80, 0, 0, 0, 0, 0], Address::Malformed),
            ([1, 0, 0xc1, 2, 0, 0, 0, 0], Address::Malformed),
            ([1, 0, 0x40, 0, 0, 0, 0, 1], Address::Malformed),
        ] {
            assert_eq!(Address::decode(&bytes), address, "{bytes:?}");
        }
        assert_eq!(Address::decode(&[1, 0, 0]), Address::Malformed);
        assert_eq!(encode_lun(5), [1, 0, 0, 5, 0, 0, 0, 0]);
        for lun in [0, 5, 255, 256, 16383] {
            assert_eq!(Address::decode(&encode_lun(lun)), unit(0, lun));
        }
    }

    // Covers: SCS-01
    #[test]
    fn fields_are_little_endian_and_commands_are_not() {
        let mut h = encode_lun(2).to_vec();
        h.extend(0x0102_0304_0506_0708u64.to_le_bytes());
        h.extend([0; 3]);
        let header = decode_header(&h).unwrap();
        assert_eq!(header.id, 0x0102_0304_0506_0708);
        assert_eq!(header.address, Address::Unit { target: 0, lun: 2 });
        let r = Response {
            sense_len: 18,
            residual: 0x0102_0304,
            status: 2,
            response: 0,
        };
        assert_eq!(r.encode(), [18, 0, 0, 0, 4, 3, 2, 1, 0, 0, 2, 0]);
        let resize = Event::Parameter {
            asc: 0x2a,
            ascq: 0x09,
        };
        let e = resize.encode(true);
        assert_eq!(e, [3, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
        assert_eq!(Event::Missed.encode(true)[..4], [0, 0, 0, 0x80]);
    }

    #[test]
    fn control_requests_that_are_cut_off_are_none() {
        let mut tmf = vec![0; TMF_LEN];
        tmf[8..16].copy_from_slice(&encode_lun(0));
        for len in 0..TMF_LEN {
            assert_eq!(decode_control(&tmf[..len]), None);
        }
        assert!(decode_control(&tmf).is_some());
        let mut an = vec![0; AN_LEN];
        an[0] = 1;
        for len in 4..AN_LEN {
            assert_eq!(decode_control(&an[..len]), None);
        }
        assert!(matches!(
            decode_control(&an),
            Some(Control::Notification { .. })
        ));
    }
}
