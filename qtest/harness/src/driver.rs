// SPDX-License-Identifier: GPL-2.0-or-later
//! A legacy virtio driver that works through I/O BAR0.

use std::time::Duration;

use anyhow::{bail, Context, Result};
use test_kit::patience::Patience;
use virtio_modern_spec::ring::{legacy_layout, LegacyLayout, DESC_F_NEXT, DESC_F_WRITE};
use virtio_pci_spec::legacy::header_len;

use crate::memory::GuestMemory;
use crate::pci::{Msix, PciDevice};
use crate::qtest::Qtest;

/// A part of a request.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device writes up to this many bytes.
    In(usize),
}

/// A legacy virtqueue in guest memory.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its index.
    pub index: u16,
    /// Its size as the device gave it.
    pub size: u16,
    layout: LegacyLayout,
    next_desc: u16,
    avail: u16,
    used: u16,
    inflight: Vec<(u16, Vec<(u64, usize)>)>,
}

impl Queue {
    /// Guest physical address of the used ring.
    pub fn used_ring(&self) -> u64 {
        self.layout.used
    }
}

/// A function with the legacy interface.
#[derive(Clone, Debug)]
pub struct LegacyDriver {
    io: u16,
    /// The layout in use: vectors at 20, configuration at 24.
    pub msix: bool,
}

impl LegacyDriver {
    /// The driver of a mapped function.
    ///
    /// # Errors
    /// If BAR0 is not I/O.
    pub fn new(device: &PciDevice) -> Result<Self> {
        Ok(LegacyDriver {
            io: device.io()?,
            msix: false,
        })
    }

    /// Gives every vector a message of its own, enables MSI-X, and uses the layout with vectors from
    /// then on.
    ///
    /// # Errors
    /// If the function has no MSI-X, QEMU is gone or memory used up.
    pub fn use_msix(
        &mut self,
        qtest: &Qtest,
        device: &PciDevice,
        memory: &mut GuestMemory,
    ) -> Result<Msix> {
        let mut msix = device.msix(qtest)?;
        msix.program(qtest, memory)?;
        msix.enable(qtest, device, true)?;
        self.msix = true;
        Ok(msix)
    }

    /// Reads BAR0.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn read(&self, qtest: &Qtest, offset: u16, width: u8) -> Result<u32> {
        qtest.port_read(self.io + offset, width)
    }

    /// Writes BAR0.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn write(&self, qtest: &Qtest, offset: u16, width: u8, value: u32) -> Result<()> {
        qtest.port_write(self.io + offset, width, value)
    }

    /// Reads the device configuration.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn config(&self, qtest: &Qtest, offset: u16, width: u8) -> Result<u32> {
        self.read(qtest, u16::from(header_len(self.msix)) + offset, width)
    }

    /// Reads the device status.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn status(&self, qtest: &Qtest) -> Result<u8> {
        Ok(u8::try_from(self.read(qtest, 18, 1)?)?)
    }

    /// Writes the device status.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn set_status(&self, qtest: &Qtest, status: u8) -> Result<()> {
        self.write(qtest, 18, 1, status.into())
    }

    /// Resets the device and takes those of `features` that it offers. Returns them.
    ///
    /// # Errors
    /// If the device does not reset.
    pub fn begin(&self, qtest: &Qtest, features: u32) -> Result<u32> {
        self.set_status(qtest, 0)?;
        if self.status(qtest)? != 0 {
            bail!("the status is not 0 after a reset");
        }
        self.set_status(qtest, 1)?;
        self.set_status(qtest, 3)?;
        let taken = self.read(qtest, 0, 4)? & features;
        self.write(qtest, 4, 4, taken)?;
        Ok(taken)
    }

    /// Sets up a queue, with a vector if MSI-X is in use.
    ///
    /// # Errors
    /// If the queue does not exist, is in use, or its vector is refused.
    pub fn queue(
        &self,
        qtest: &Qtest,
        memory: &mut GuestMemory,
        index: u16,
        vector: u16,
    ) -> Result<Queue> {
        self.write(qtest, 14, 2, index.into())?;
        let size = u16::try_from(self.read(qtest, 12, 2)?)?;
        if size == 0 || size == 0xffff {
            bail!("queue {index} has size {size}");
        }
        if self.read(qtest, 8, 4)? != 0 {
            bail!("queue {index} is in use");
        }
        let total = legacy_layout(0, size).total;
        let base = memory.take(total, 4096)?;
        let pfn = u32::try_from(base / 4096)?;
        qtest.set_memory(base, &vec![0; usize::try_from(total)?])?;
        self.write(qtest, 8, 4, pfn)?;
        if self.msix {
            self.write(qtest, 22, 2, vector.into())?;
            let back = self.read(qtest, 22, 2)?;
            if back != u32::from(vector) {
                bail!("queue {index}: vector {vector} became {back:#x}");
            }
        }
        Ok(Queue {
            index,
            size,
            layout: legacy_layout(pfn, size),
            next_desc: 0,
            avail: 0,
            used: 0,
            inflight: Vec::new(),
        })
    }

    /// Puts a request on a queue, without a notification. Gives address and length of each buffer
    /// that the device may write to.
    ///
    /// # Errors
    /// If memory is used up.
    pub fn add(
        &self,
        qtest: &Qtest,
        memory: &mut GuestMemory,
        queue: &mut Queue,
        buffers: &[Buffer],
    ) -> Result<Vec<(u64, usize)>> {
        let head = queue.next_desc % queue.size;
        let mut parts = Vec::new();
        for (i, buffer) in buffers.iter().enumerate() {
            let index = queue.next_desc % queue.size;
            queue.next_desc = queue.next_desc.wrapping_add(1);
            let (len, mut flags) = match buffer {
                Buffer::Out(bytes) => (bytes.len(), 0),
                Buffer::In(len) => (*len, DESC_F_WRITE),
            };
            let at = memory.take(len as u64, 16)?;
            if let Buffer::Out(bytes) = buffer {
                qtest.set_memory(at, bytes)?;
            } else {
                parts.push((at, len));
            }
            if i + 1 < buffers.len() {
                flags |= DESC_F_NEXT;
            }
            let mut desc = at.to_le_bytes().to_vec();
            desc.extend(u32::try_from(len)?.to_le_bytes());
            desc.extend(flags.to_le_bytes());
            desc.extend((queue.next_desc % queue.size).to_le_bytes());
            qtest.set_memory(queue.layout.desc + 16 * u64::from(index), &desc)?;
        }
        let slot = queue.layout.avail + 4 + 2 * u64::from(queue.avail % queue.size);
        qtest.write(slot, 2, head.into())?;
        queue.avail = queue.avail.wrapping_add(1);
        qtest.write(queue.layout.avail + 2, 2, queue.avail.into())?;
        queue.inflight.push((head, parts.clone()));
        Ok(parts)
    }

    /// Makes every entry of the available ring name the first request that was put on the queue, so
    /// that [`publish`](Self::publish) can send it again and again.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn repeat_first(&self, qtest: &Qtest, queue: &Queue) -> Result<()> {
        let entries = vec![0; 2 * usize::from(queue.size)];
        qtest.set_memory(queue.layout.avail + 4, &entries)
    }

    /// Sets the index of the available ring.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn publish(&self, qtest: &Qtest, queue: &Queue, index: u16) -> Result<()> {
        qtest.write(queue.layout.avail + 2, 2, index.into())
    }

    /// The index of the used ring.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn used_index(&self, qtest: &Qtest, queue: &Queue) -> Result<u16> {
        Ok(u16::try_from(qtest.read(queue.layout.used + 2, 2)?)?)
    }

    /// Notifies a queue.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn kick(&self, qtest: &Qtest, queue: &Queue) -> Result<()> {
        self.write(qtest, 16, 2, queue.index.into())
    }

    /// The next used request: what the device wrote, if there is one.
    ///
    /// # Errors
    /// If the device names a request that is not in flight or writes more than it may.
    pub fn used(&self, qtest: &Qtest, queue: &mut Queue) -> Result<Option<Vec<u8>>> {
        let index = qtest.read(queue.layout.used + 2, 2)?;
        if index == u32::from(queue.used) {
            return Ok(None);
        }
        let element = queue.layout.used + 4 + 8 * u64::from(queue.used % queue.size);
        let id = qtest.read(element, 4)?;
        let len = qtest.read(element + 4, 4)? as usize;
        queue.used = queue.used.wrapping_add(1);
        let at = queue
            .inflight
            .iter()
            .position(|(head, _)| u32::from(*head) == id)
            .with_context(|| format!("the device used {id}, which is not in flight"))?;
        let (_, parts) = queue.inflight.remove(at);
        let room: usize = parts.iter().map(|p| p.1).sum();
        if len > room {
            bail!("the device wrote {len} bytes where {room} fit");
        }
        let mut out = Vec::new();
        let mut left = len;
        for (address, part) in parts {
            let n = part.min(left);
            out.extend(qtest.memory(address, n)?);
            left -= n;
        }
        Ok(Some(out))
    }

    /// Waits for the next used request.
    ///
    /// # Errors
    /// If none comes before `limit`.
    pub fn wait_used(&self, qtest: &Qtest, queue: &mut Queue, limit: Duration) -> Result<Vec<u8>> {
        let mut patience = Patience::new(limit);
        loop {
            if let Some(bytes) = self.used(qtest, queue)? {
                return Ok(bytes);
            }
            if let Err(spent) = patience.look() {
                bail!("queue {}: nothing used {spent}", queue.index);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One block request (type and first sector), with its notification. Gives data and status.
    ///
    /// # Errors
    /// If it does not complete.
    pub fn block_request(
        &self,
        qtest: &Qtest,
        memory: &mut GuestMemory,
        queue: &mut Queue,
        kind: u32,
        sector: u64,
        data: &Buffer,
    ) -> Result<(Vec<u8>, u8)> {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let mut buffers = vec![Buffer::Out(header)];
        if !matches!(data, Buffer::In(0)) {
            buffers.push(data.clone());
        }
        buffers.push(Buffer::In(1));
        self.add(qtest, memory, queue, &buffers)?;
        self.kick(qtest, queue)?;
        let mut bytes = self.wait_used(qtest, queue, crate::PATIENCE)?;
        let status = bytes.pop().context("no status byte")?;
        Ok((bytes, status))
    }
}
