// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients of the control socket: coming and being served.

use super::simulator::{Simulator, Token};
use crate::control::ControlConnection;
use rustix::event::epoll::{self, EventFlags};

impl Simulator {
    pub(super) fn accept_control(&mut self) {
        let Some(socket) = self.accept(0, true) else {
            return;
        };
        let Some(slot) = self.controls.iter().position(Option::is_none) else {
            tracing::warn!("too many clients of the control socket, one is turned away");
            return;
        };
        let connection = ControlConnection::new(socket);
        let token = Token::Control(slot);
        if self
            .watch(connection.socket(), token, EventFlags::IN)
            .is_ok()
        {
            if let Some(place) = self.controls.get_mut(slot) {
                *place = Some(connection);
            }
        }
    }

    pub(super) fn serve_control(&mut self, n: usize, _flags: EventFlags) {
        let Some(mut connection) = self.controls.get_mut(n).and_then(Option::take) else {
            return;
        };
        let mut alive = connection.receive().is_ok();
        while let Some(line) = connection.next_line() {
            let reply = self.control(&line);
            connection.reply(&reply);
            self.drain_effects();
        }
        let wants_write = match connection.flush() {
            Ok(more) => more,
            Err(_) => {
                alive = false;
                false
            }
        };
        alive &= !connection.is_broken();
        if !alive {
            return;
        }
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !wants_write);
        flags.set(EventFlags::OUT, wants_write);
        let data = Token::Control(n).encode();
        if epoll::modify(&self.epoll, connection.socket(), data, flags).is_err() {
            return;
        }
        if let Some(place) = self.controls.get_mut(n) {
            *place = Some(connection);
        }
    }
}
