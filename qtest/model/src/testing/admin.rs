// SPDX-License-Identifier: GPL-2.0-or-later
//! A client of the PF's admin queue.

use std::sync::Arc;

use virtio_modern_spec::admin::legacy::{READ_REQUEST_LEN, WRITE_HEADER_LEN};
use virtio_modern_spec::admin::{group, opcode, Reply, Request};
use virtio_modern_spec::common as reg;

use super::driver::{Driver, MODERN_FEATURES};
use super::memory::TestMemory;
use super::ring::{Buffer, DriverRing};
use crate::effect::FunctionId;
use crate::model::Model;

/// What the writable part is filled with before a command.
const PREFILL: u8 = 0xaa;

/// A completed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Length in the used ring.
    pub used: u32,
    /// The whole writable part.
    pub bytes: Vec<u8>,
}

impl Done {
    /// (status, qualifier).
    pub fn status(&self) -> (u16, u16) {
        match Reply::decode(&self.bytes) {
            Some(r) => (r.status, r.qualifier),
            None => (u16::MAX, u16::MAX),
        }
    }

    /// Status OK.
    pub fn ok(&self) -> bool {
        self.status() == (0, 0)
    }

    /// The result behind status and qualifier, as far as it was used.
    pub fn result(&self) -> &[u8] {
        let end = (self.used as usize).min(self.bytes.len());
        self.bytes.get(8..end).unwrap_or(&[])
    }
}

/// The driver of the PF with one of its admin queues.
#[derive(Debug)]
pub struct AdminClient {
    /// Register accesses.
    pub pf: Driver,
    /// The ring.
    pub ring: DriverRing,
    /// Number of the queue.
    pub queue: u16,
    scratch: u64,
}

const SCRATCH: u64 = 0x4000;

impl AdminClient {
    /// Brings the PF up to DRIVER_OK with its first admin queue on vector 1.
    ///
    /// # Panics
    /// The device refuses.
    pub fn start(model: &mut Model, memory: &Arc<TestMemory>) -> Self {
        let pf = Driver::new(model, FunctionId::Pf, memory);
        assert!(pf.negotiate(model, MODERN_FEATURES), "features refused");
        let queue = pf.get(model, reg::ADMIN_QUEUE_INDEX) as u16;
        let ring = pf.queue(model, queue, 1);
        pf.driver_ok(model);
        let scratch = memory.alloc(SCRATCH, 16);
        AdminClient {
            pf,
            ring,
            queue,
            scratch,
        }
    }

    /// Another admin queue of the same PF, the `n`th counted from 0, on the vector behind that of the
    /// one before.
    pub fn beside(&self, model: &mut Model, n: u16) -> Self {
        let queue = (self.pf.get(model, reg::ADMIN_QUEUE_INDEX) as u16).saturating_add(n);
        let ring = self.pf.queue(model, queue, n.saturating_add(1));
        let scratch = self.ring.memory.alloc(SCRATCH, 16);
        AdminClient {
            pf: self.pf.clone(),
            ring,
            queue,
            scratch,
        }
    }

    /// As [`start`](Self::start), with `n` VFs enabled and the legacy commands in use.
    ///
    /// # Panics
    /// The device refuses.
    pub fn ready(model: &mut Model, memory: &Arc<TestMemory>, n: u16) -> Self {
        let mut c = Self::start(model, memory);
        c.pf.enable_vfs(model, n.max(1));
        assert!(c.use_list(model, group::SRIOV, 0x7f).ok());
        if n == 0 {
            c.pf.enable_vfs(model, 0);
        }
        c
    }

    /// Sends one command in the given pieces and waits for its completion (which a fault rule may
    /// withhold).
    ///
    /// # Panics
    /// The parts do not fit into the scratch memory.
    pub fn send_cut(
        &mut self,
        model: &mut Model,
        readable: &[u8],
        writable: usize,
        cuts: (usize, usize),
        indirect: bool,
    ) -> Option<Done> {
        let memory = Arc::clone(&self.ring.memory);
        let out = self.scratch;
        let back = out + SCRATCH / 2;
        assert!(readable.len() as u64 <= SCRATCH / 2 && writable as u64 <= SCRATCH / 2);
        memory.put(out, readable);
        memory.put(back, &vec![PREFILL; writable]);
        let mut pieces = Vec::new();
        for at in (0..readable.len()).step_by(cuts.0.max(1)) {
            let n = cuts.0.max(1).min(readable.len() - at);
            pieces.push(Buffer::readable(out + at as u64, n as u32));
        }
        for at in (0..writable).step_by(cuts.1.max(1)) {
            let n = cuts.1.max(1).min(writable - at);
            pieces.push(Buffer::writable(back + at as u64, n as u32));
        }
        if indirect {
            self.ring.add_indirect(&pieces);
        } else {
            self.ring.add(&pieces);
        }
        self.pf.kick(model, self.queue);
        self.reap(writable)
    }

    /// The completion of the last command, if it came.
    pub fn reap(&mut self, writable: usize) -> Option<Done> {
        let (_, used) = self.ring.poll()?;
        let back = self.scratch + SCRATCH / 2;
        Some(Done {
            used,
            bytes: self.ring.memory.get(back, writable),
        })
    }

    /// Sends one command in one readable and one writable piece.
    pub fn send(&mut self, model: &mut Model, readable: &[u8], writable: usize) -> Option<Done> {
        self.send_cut(model, readable, writable, (usize::MAX, usize::MAX), false)
    }

    /// As [`send`](Self::send), for a command that has to complete.
    ///
    /// # Panics
    /// It does not.
    pub fn run(&mut self, model: &mut Model, readable: &[u8], writable: usize) -> Done {
        let done = self.send(model, readable, writable);
        assert!(done.is_some(), "the command did not complete");
        done.unwrap_or(Done {
            used: 0,
            bytes: Vec::new(),
        })
    }

    /// A command header.
    pub fn header(opcode: u16, group_type: u16, member: u64) -> Vec<u8> {
        Request {
            opcode,
            group_type,
            member,
        }
        .encode()
        .to_vec()
    }

    /// LIST_QUERY with room for one word.
    pub fn query(&mut self, model: &mut Model, group_type: u16) -> Done {
        let h = Self::header(opcode::LIST_QUERY, group_type, 0);
        self.run(model, &h, 16)
    }

    /// LIST_USE of one word.
    pub fn use_list(&mut self, model: &mut Model, group_type: u16, word: u64) -> Done {
        let mut h = Self::header(opcode::LIST_USE, group_type, 0);
        h.extend_from_slice(&word.to_le_bytes());
        self.run(model, &h, 8)
    }

    fn write(op: u16, vf: u64, offset: u8, data: &[u8]) -> Vec<u8> {
        let mut h = Self::header(op, group::SRIOV, vf);
        h.push(offset);
        h.resize(WRITE_HEADER_LEN, 0);
        h.extend_from_slice(data);
        h
    }

    fn read(op: u16, vf: u64, offset: u8) -> Vec<u8> {
        let mut h = Self::header(op, group::SRIOV, vf);
        h.push(offset);
        h.resize(READ_REQUEST_LEN, 0);
        h
    }

    /// LEGACY_COMMON_CFG_WRITE.
    pub fn common_write(&mut self, model: &mut Model, vf: u16, offset: u8, data: &[u8]) -> Done {
        let c = Self::write(opcode::LEGACY_COMMON_CFG_WRITE, vf.into(), offset, data);
        self.run(model, &c, 8)
    }

    /// LEGACY_COMMON_CFG_READ of `n` bytes.
    pub fn common_read(&mut self, model: &mut Model, vf: u16, offset: u8, n: usize) -> Done {
        let c = Self::read(opcode::LEGACY_COMMON_CFG_READ, vf.into(), offset);
        self.run(model, &c, 8 + n)
    }

    /// LEGACY_DEV_CFG_WRITE.
    pub fn config_write(&mut self, model: &mut Model, vf: u16, offset: u8, data: &[u8]) -> Done {
        let c = Self::write(opcode::LEGACY_DEV_CFG_WRITE, vf.into(), offset, data);
        self.run(model, &c, 8)
    }

    /// LEGACY_DEV_CFG_READ of `n` bytes.
    pub fn config_read(&mut self, model: &mut Model, vf: u16, offset: u8, n: usize) -> Done {
        let c = Self::read(opcode::LEGACY_DEV_CFG_READ, vf.into(), offset);
        self.run(model, &c, 8 + n)
    }

    /// A whole register as a number.
    ///
    /// # Panics
    /// The command fails.
    pub fn get(&mut self, model: &mut Model, vf: u16, offset: u8, n: usize) -> u64 {
        let d = self.common_read(model, vf, offset, n);
        assert!(d.ok(), "read of {n} at {offset}: {:?}", d.status());
        virtio_modern_spec::bytes::le_value(d.result())
    }

    /// Writes a whole register.
    ///
    /// # Panics
    /// The command fails.
    pub fn set(&mut self, model: &mut Model, vf: u16, offset: u8, n: usize, value: u64) {
        let bytes = value.to_le_bytes();
        let d = self.common_write(model, vf, offset, bytes.split_at(n).0);
        assert!(d.ok(), "write of {n} at {offset}: {:?}", d.status());
    }

    /// LEGACY_NOTIFY_INFO.
    pub fn notify_info(&mut self, model: &mut Model, vf: u16) -> Done {
        let h = Self::header(opcode::LEGACY_NOTIFY_INFO, group::SRIOV, vf.into());
        self.run(model, &h, 72)
    }
}
