// SPDX-License-Identifier: GPL-2.0-or-later
//! What the ports of a console function are connected to.

/// The host's side of all ports of one function. Nothing here may wait: what cannot be done now is
/// done when the front end wakes the device.
pub trait Backend: Send {
    /// Does what the outside made possible: new connections, new bytes.
    fn poll(&mut self);

    /// Whether somebody is at the other end of a port.
    fn connected(&self, port: u16) -> bool;

    /// Takes bytes that the driver sent, and tells how many. Where it takes fewer than all, the
    /// front end wakes the device when there is room for more. Without somebody at the other end
    /// all are taken and lost, as on an open wire.
    fn write(&mut self, port: u16, data: &[u8]) -> usize;

    /// Whether there are bytes for the driver.
    fn has_input(&self, port: u16) -> bool;

    /// Gives bytes for the driver, and tells how many.
    fn read(&mut self, port: u16, buf: &mut [u8]) -> usize;

    /// Takes a character of emergency output: the driver may not be running at all.
    fn emergency(&mut self, byte: u8);

    /// Bytes of the driver that were lost because nobody was there.
    fn lost(&self) -> u64 {
        0
    }
}

/// Nobody anywhere: what is written is lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody {
    lost: u64,
}

impl Backend for Nobody {
    fn poll(&mut self) {}

    fn connected(&self, _port: u16) -> bool {
        false
    }

    fn write(&mut self, _port: u16, data: &[u8]) -> usize {
        self.lost += data.len() as u64;
        data.len()
    }

    fn has_input(&self, _port: u16) -> bool {
        false
    }

    fn read(&mut self, _port: u16, _buf: &mut [u8]) -> usize {
        0
    }

    fn emergency(&mut self, _byte: u8) {}

    fn lost(&self) -> u64 {
        self.lost
    }
}
