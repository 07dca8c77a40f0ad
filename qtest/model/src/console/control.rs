// SPDX-License-Identifier: GPL-2.0-or-later
//! Messages on the control queues ("Multiport Device Operation").

use virtio_modern_spec::bytes::le_value;

/// Bytes of a message without what follows it.
pub const MESSAGE_LEN: usize = 8;

/// Numbers of the events.
pub mod event {
    #![allow(missing_docs)]
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// A message from the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Port.
    pub port: u32,
    /// What about it; see [`event`].
    pub event: u16,
    /// Depends on the event.
    pub value: u16,
}

impl Message {
    /// Reads a message; through the legacy interface it is in the guest's byte order, here
    /// little-endian.
    pub fn decode(bytes: &[u8; MESSAGE_LEN]) -> Self {
        let (port, rest) = bytes.split_at(4);
        let (event, value) = rest.split_at(2);
        Self {
            port: le_value(port) as u32,
            event: le_value(event) as u16,
            value: le_value(value) as u16,
        }
    }
}

/// A message to the driver about `port`, with what follows it.
pub fn encode(port: u16, event: u16, value: u16, more: &[u8]) -> Vec<u8> {
    let mut bytes = u32::from(port).to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes.extend(more);
    bytes
}

/// What follows a message of a new size: columns, then rows.
pub fn size(cols: u16, rows: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (cols.to_le_bytes(), rows.to_le_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: CON-01
    #[test]
    fn messages_are_little_endian() {
        let bytes = encode(0x0102, event::RESIZE, 0x0304, &size(80, 25));
        assert_eq!(bytes, [2, 1, 0, 0, 5, 0, 4, 3, 80, 0, 25, 0]);
        let message = Message::decode(bytes.first_chunk().unwrap());
        let want = Message {
            port: 0x0102,
            event: 5,
            value: 0x0304,
        };
        assert_eq!(message, want);
    }
}
