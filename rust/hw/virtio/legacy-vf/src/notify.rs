// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest's notification on its way to the VF, or to the helper.

use std::{
    io,
    sync::{atomic::Ordering, Arc, PoisonError},
    time::Instant,
};

use legacy_vf_proto::{limits::MAX_MESSAGE, Request};
use pci::report;
use vfio::VfioPciBase;

use crate::{
    delivery::Delivery,
    events,
    link::Link,
    seqpacket::{Socket, WaitFor, Woken},
};

impl Link {
    /// Delivers a notification of the guest. Never takes the lock of the register window, so it
    /// does not wait for a register access of another vCPU.
    pub fn notify(&self, device: &VfioPciBase, queue: u16) {
        self.stats.notifies.add();
        let delivery = self.delivery.read().unwrap_or_else(PoisonError::into_inner);
        let sent = match &*delivery {
            Delivery::Vf(doorbell) => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 2);
                if self.asleep.load(Ordering::Acquire) {
                    Err(io::Error::other("the guest has put the VF to sleep (D3)"))
                } else {
                    doorbell.ring(device, queue)
                }
            }
            Delivery::Helper => {
                drop(delivery);
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 1);
                // Before it is sent: if the helper dies, the queue is notified again by its
                // successor, and a notification too many does no harm.
                self.notified.add(queue);
                match self.sender() {
                    Some(socket) => self.send_notify(&socket, queue),
                    None => Ok(()),
                }
            }
        };
        if let Err(e) = sent {
            self.stats.notify_failures.add();
            events::trace_virtio_legacy_vf_notify_failed(&self.name, queue.into());
            self.log.report(report::warn_report, || {
                format!(
                    "{}: notification of queue {queue} failed: {e}; see whether the VF, or the \
                     process that emulates it, is alive and awake; the guest's buffers wait until \
                     it notifies again",
                    self.label
                )
            });
        }
    }

    /// Repeats the notifications that a helper which is gone may have swallowed.
    pub fn notify_again(&self, socket: &Arc<Socket>) -> io::Result<()> {
        for queue in self.notified.list() {
            self.send_notify(socket, queue)?;
        }
        Ok(())
    }

    fn send_notify(&self, socket: &Arc<Socket>, queue: u16) -> io::Result<()> {
        let mut buf = [0; MAX_MESSAGE];
        let len = Request::Notify { queue }.encode_no_reply(0, &mut buf);
        let message = buf.get(..len).unwrap_or_default();
        let mut deadline = None;
        loop {
            match socket.send(message, None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let deadline = deadline.get_or_insert_with(|| Instant::now() + self.deadline);
                    match socket.wait(WaitFor::Room, &self.stop, Some(*deadline))? {
                        Woken::Ready => {}
                        Woken::Stopped => return Ok(()),
                        Woken::Deadline => {
                            // The link's thread sees the end and reconnects.
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
