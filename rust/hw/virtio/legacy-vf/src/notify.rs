// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest's notification that came to QEMU, on its way to the VF or to the helper.
//!
//! Nothing here takes a lock that another notification or a register access holds.

use std::{io, sync::atomic::Ordering};

use legacy_vf_proto::{limits::MAX_MESSAGE, Request};
use vfio::VfioPciBase;

use crate::{
    doorbell::{Address, QUEUES},
    events,
    link::Link,
    socket::{Patience, Socket, WaitFor, Woken},
};

impl Link {
    /// Delivers a notification of the guest. `lasting`: a write that failed may work another time.
    pub fn ring(&self, device: &VfioPciBase, queue: u16, lasting: bool) {
        self.counters.notifies.add();
        let sent = match self.doorbell.address() {
            Address::Vf(bar, offset) => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 2);
                let broken = &self.doorbell.broken;
                let sent = if broken.load(Ordering::Relaxed) {
                    Err(io::ErrorKind::NotConnected.into())
                } else {
                    device.region_write(bar, offset, &queue.to_le_bytes(), true)
                };
                if !lasting && sent.is_err() {
                    broken.store(true, Ordering::Relaxed);
                }
                sent
            }
            Address::Helper => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 1);
                // Before it is sent: if the helper dies, the queue is notified again by its
                // successor, and a notification too many does no harm.
                self.doorbell.note(queue);
                let patience = Patience::of_vcpu(&self.stop, self.deadline, false);
                self.sender()
                    .map_or(Ok(()), |socket| self.send(&socket, queue, patience))
            }
        };
        if let Err(e) = sent {
            self.counters.notify_failures.add();
            events::trace_virtio_legacy_vf_notify_failed(&self.name, queue.into());
            self.warn(format_args!(
                "notification of queue {queue} failed: {e}; see whether the VF, or the process \
                 that emulates it, is alive and awake; the guest's buffers wait until it notifies \
                 again"
            ));
        }
    }

    /// Repeats the notifications that a helper which is gone may have swallowed.
    pub fn ring_again(&self, socket: &Socket) -> io::Result<()> {
        for queue in (0..QUEUES as u16).filter(|q| self.doorbell.noted(*q)) {
            // Nobody waits for what this thread has locked: it has nothing.
            self.send(socket, queue, Patience::of_user(&self.stop, self.deadline))?;
        }
        Ok(())
    }

    fn send(&self, socket: &Socket, queue: u16, mut patience: Patience<'_>) -> io::Result<()> {
        let mut buf = [0; MAX_MESSAGE];
        let len = Request::Notify { queue }.encode_no_reply(0, &mut buf);
        let message = buf.get(..len).unwrap_or_default();
        loop {
            match socket.send(message, None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match socket.wait(WaitFor::Room, &mut patience)? {
                        Woken::Ready => {}
                        Woken::Stopped => return Ok(()),
                        Woken::Over(_) => {
                            // The link's thread sees the end, reconnects and notifies again.
                            socket.shut_down();
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                }
                result => return result,
            }
        }
    }
}
