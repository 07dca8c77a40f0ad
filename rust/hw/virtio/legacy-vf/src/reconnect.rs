// SPDX-License-Identifier: GPL-2.0-or-later

//! What the link's thread does: it notices when the helper goes away and brings it back, and it
//! finishes what others must not wait for.

use std::{
    ffi::CString,
    io,
    panic::{catch_unwind, AssertUnwindSafe},
    process,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use pci::report;
use virtio_pci_spec::status::DRIVER_OK;

use crate::{
    connection::{Connection, LinkError},
    events,
    link::Link,
    messages,
    socket::{block_signals, Patience, Socket, Who},
};

/// First pause before an attempt to reconnect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Pause before vectors that could not be written are tried again.
const RETRY: Duration = Duration::from_millis(250);

impl Link {
    /// What the link's thread does until the device goes away.
    pub fn run(&self) {
        let mut pause = PAUSE.0;
        loop {
            if let Some(socket) = self.doorbell.sender() {
                match socket.wait_end(&self.stop, &self.wake) {
                    Ok([_, true, _]) => return,
                    Ok([true, ..]) => self.hung_up(&socket, &LinkError::Closed),
                    Ok(_) => {
                        self.wake.take();
                        if self.finish() && self.stop.wait(RETRY) {
                            return;
                        }
                    }
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

    /// Writes what somebody left to be written. True: something could not be; try again later.
    fn finish(&self) -> bool {
        let mut io = self.lock_io();
        let patience = &mut Patience::new(&self.stop, self.deadline, Who::Thread(&self.waiters));
        io.window.retry_settle();
        self.catch_up(&mut io, patience);
        self.write_vectors(&mut io, patience);
        let left = io.window.settle_stalled() || self.guest().reset_due;
        left && io.connection.is_some() && {
            self.wake.signal();
            true
        }
    }

    fn hung_up(&self, socket: &Arc<Socket>, error: &LinkError) {
        let mut io = self.lock_io();
        let is_current = |c: &Connection| Arc::ptr_eq(&c.socket, socket);
        if io.connection.as_ref().is_some_and(is_current) {
            self.lose(&mut io, error);
        }
    }

    /// Notes why an attempt failed; a new reason is worth a line.
    fn still_lost(&self, error: &LinkError) {
        let text = messages::brief(error);
        let traced = CString::new(text.clone()).unwrap_or_default();
        events::trace_virtio_legacy_vf_retry(&self.name, &traced);
        let worth = matches!(error, LinkError::Refused(_) | LinkError::Protocol(_));
        if self.set_reason(text.clone()) && worth {
            self.warn(format_args!("no new connection yet: {text}"));
        }
    }

    fn reconnect(&self) -> Result<(), LinkError> {
        let patience = &mut Patience::new(&self.stop, self.deadline, Who::User);
        let (mut connection, opened) = Connection::open(&self.target, patience)?;
        let socket = connection.socket.clone();
        // Closing the PF, as a helper does when it ends, resets the VFs with it on some devices.
        let status = connection.status(None, patience)?;
        // Not while registers are locked, for which somebody may wait.
        let due = self.guest().reset_due;
        if due && connection.status(Some(0), patience)?.is_some() {
            self.guest().reset_due = false;
        }
        let state_lost = {
            let guest = self.guest();
            guest.driver.runs() && status.is_some_and(|now| now & DRIVER_OK == 0)
        };
        self.choose_address(&opened);
        let mut io = self.lock_io();
        io.connection = Some(connection);
        io.window.restored();
        let for_others = &mut Patience::new(&self.stop, self.deadline, Who::Thread(&self.waiters));
        self.catch_up(&mut io, for_others);
        self.write_vectors(&mut io, for_others);
        if io.connection.is_none() {
            // Lost again on the way; without this nobody would look for another one.
            return Err(LinkError::Closed);
        }
        self.counters.reconnects.add();
        self.doorbell.set_sender(Some(socket.clone()));
        drop(io);
        self.set_reason(String::new());
        events::trace_virtio_legacy_vf_connected(&self.name, opened.member.into(), opened.session);
        if state_lost {
            self.guest().state_lost = true;
            self.say(
                &self.log_rare,
                report::warn_report,
                format_args!(
                    "the helper is back, but the VF was reset meanwhile, and the guest's driver \
                     does not know; reset the guest, or unload and load the driver"
                ),
            );
        } else {
            self.say(
                &self.log_back,
                report::info_report,
                format_args!("the helper is back, legacy registers work again"),
            );
        }
        // Whoever notifies from now on finds the new sender; before, it is in the list.
        let each = || Patience::new(&self.stop, self.deadline, Who::User);
        if let Err(e) = self.doorbell.send_again(&socket, each) {
            self.warn(format_args!("notifications could not be repeated: {e}"));
        }
        Ok(())
    }
}

/// A link with its thread. Dropping it ends both.
pub struct RunningLink {
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

impl RunningLink {
    /// Starts the thread.
    pub fn start(link: Link) -> io::Result<Self> {
        let link = Arc::new(link);
        let for_thread = link.clone();
        let run = move || {
            block_signals();
            // A panic would leave a device that never connects again, and a lock whose data nobody
            // can trust; its message has been printed.
            catch_unwind(AssertUnwindSafe(|| for_thread.run()))
                .unwrap_or_else(|_| process::abort());
        };
        let thread = thread::Builder::new().name("virtio-legacy".to_owned());
        let thread = thread.spawn(run)?;
        Ok(Self {
            link,
            thread: Some(thread),
        })
    }

    /// The link.
    pub const fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Drop for RunningLink {
    fn drop(&mut self) {
        self.link.leave();
        if let Some(thread) = self.thread.take() {
            let _never_panics = thread.join();
        }
        self.link.doorbell.set_sender(None);
    }
}
