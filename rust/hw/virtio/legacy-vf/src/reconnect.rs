// SPDX-License-Identifier: GPL-2.0-or-later

//! What the link's thread does: it notices when the helper goes away and brings it back.

use std::{
    ffi::CString,
    sync::{atomic::Ordering, Arc, PoisonError},
    time::{Duration, Instant},
};

use legacy_vf_proto::{OpenReply, Reply, Request, Space};
use legacy_window::Window;
use pci::report;
use virtio_pci_spec::{
    legacy::{field_of, Register},
    status::DRIVER_OK,
};

use crate::{
    delivery::Delivery,
    events,
    handshake::{Connection, LinkError},
    intx_link::RETRY,
    link::{lock, status_zero, Link},
    messages,
    seqpacket::{Socket, Woken},
    stats::LinkState,
};

/// First pause before an attempt to reconnect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

impl Link {
    /// What the link's thread does until the device goes away.
    pub fn run(&self) {
        let mut pause = PAUSE.0;
        loop {
            if let Some(socket) = self.sender() {
                match socket.wait_end(&self.stop, &self.nudge) {
                    Ok(Woken::Stopped) => return,
                    Ok(Woken::Deadline) => {
                        self.nudge.take();
                        if self.stop.wait(RETRY) {
                            return;
                        }
                        self.settle_again();
                    }
                    Ok(Woken::Ready) => self.hung_up(&socket, &LinkError::Closed),
                    Err(e) => self.hung_up(&socket, &LinkError::Socket(e)),
                }
                continue;
            }
            if self.stop.wait(pause) {
                return;
            }
            match self.reconnect() {
                Ok(()) => pause = PAUSE.0,
                Err(LinkError::Stopped) => return,
                Err(error) => {
                    pause = (pause * 2).min(PAUSE.1);
                    self.still_lost(&error);
                }
            }
        }
    }

    fn hung_up(&self, socket: &Arc<Socket>, error: &LinkError) {
        let mut inner = self.lock();
        let is_current = |c: &Connection| Arc::ptr_eq(c.socket(), socket);
        if inner.connection.as_ref().is_some_and(is_current) {
            self.lose(&mut inner, error);
        }
        drop(inner);
    }

    /// Notes why an attempt failed; a new reason is worth a line.
    fn still_lost(&self, error: &LinkError) {
        let text = messages::brief(error);
        if let Ok(text) = CString::new(text.clone()) {
            events::trace_virtio_legacy_vf_retry(&self.name, &text);
        }
        let mut reason = lock(&self.reason);
        if *reason != text {
            if matches!(error, LinkError::Refused { .. } | LinkError::Protocol(_)) {
                self.log.report(report::warn_report, || {
                    format!("{}: no new connection yet: {text}", self.label)
                });
            }
            *reason = text;
        }
    }

    fn reconnect(&self) -> Result<(), LinkError> {
        let on_event = |e| self.event(e);
        let deadline = Instant::now() + self.deadline;
        let mut connection = Connection::open(&self.target, &self.stop, deadline, &on_event)?;
        let socket = connection.socket().clone();
        let opened = *connection.opened();
        // Not under the lock, for which a reset of the machine may wait.
        let state_lost = self.is_state_lost(&mut connection, deadline)?;
        let mut was_due = false;
        let mut inner = loop {
            let inner = self.lock();
            if !inner.reset_due || was_due {
                break inner;
            }
            drop(inner);
            status_zero(&mut connection, &self.stop, deadline, &on_event)?;
            was_due = true;
        };
        inner.reset_due = false;
        let state_lost = state_lost && driver_runs(&inner.window);
        self.choose_delivery(&opened);
        inner.connection = Some(connection);
        inner.window.restored();
        self.settle_locked(&mut inner, Instant::now() + self.deadline);
        if inner.connection.is_none() {
            // Lost again on the way; without this nobody would look for another one.
            return Err(LinkError::Closed);
        }
        *lock(&self.sender) = Some(socket.clone());
        self.stats.link.set(LinkState::Connected);
        self.stats.reconnects.add();
        drop(inner);
        lock(&self.reason).clear();
        events::trace_virtio_legacy_vf_connected(&self.name, opened.member.into(), opened.session);
        if state_lost {
            self.stats.state_lost.set(true);
            self.log_rare.report(report::warn_report, || {
                format!(
                    "{}: the helper is back, but the VF was reset meanwhile, and the guest's \
                     driver does not know; reset the guest, or unload and load the driver",
                    self.label
                )
            });
        } else {
            self.log_back.report(report::info_report, || {
                format!(
                    "{}: the helper is back, legacy registers work again",
                    self.label
                )
            });
        }
        // Whoever notifies from now on finds the new sender; before, it is in the list.
        if let Err(e) = self.notify_again(&socket) {
            self.log.report(report::warn_report, || {
                format!("{}: notifications could not be repeated: {e}", self.label)
            });
        }
        Ok(())
    }

    /// A new helper may say another notify address.
    fn choose_delivery(&self, opened: &OpenReply) {
        let (delivery, warning) = Delivery::choose(opened, &self.bars);
        if let Some(warning) = warning {
            self.log_rare
                .report(report::warn_report, || format!("{}: {warning}", self.label));
        }
        let mut current = self
            .delivery
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.address() != delivery.address() {
            *current = delivery;
            drop(current);
            self.moved.signal();
        }
    }

    /// Whether the VF knows nothing of the guest's driver any more: closing the PF, as a helper
    /// does when it ends, resets the VFs with it on some devices.
    fn is_state_lost(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<bool, LinkError> {
        if !driver_runs(&self.lock().window) || self.was_reset.load(Ordering::Acquire) {
            return Ok(false);
        }
        let field = field_of(Register::DeviceStatus);
        let request = Request::Read {
            space: Space::Common,
            offset: field.offset,
            len: field.size,
        };
        let on_event = |e| self.event(e);
        let now = connection.request(
            &request,
            &self.stop,
            deadline,
            &on_event,
            |reply| match reply {
                Reply::Read { data: [status, ..] } => Some(status),
                _ => None,
            },
        )?;
        Ok(now.is_some_and(|status| status & DRIVER_OK == 0))
    }
}

/// Whether the guest's driver has set up the VF, as far as this side knows.
fn driver_runs(window: &Window) -> bool {
    window.last_status() & DRIVER_OK != 0
}
