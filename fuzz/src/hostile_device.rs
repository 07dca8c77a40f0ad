// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtio PF that follows the specification until its bytes say otherwise.

use std::collections::VecDeque;

use pci_transport::testing::ScriptedDevice;
use pci_transport::{DeviceView, IrqEvent, Width};
use virtio_modern_spec::admin::{opcode, REPLY_LEN, REQUEST_LEN};
use virtio_modern_spec::common;
use virtio_modern_spec::features::{bit, ACCESS_PLATFORM, ADMIN_VQ, SR_IOV, VERSION_1};
use virtio_modern_spec::sriov;
use virtio_pci_spec::modern::{cap, cfg_type};
use virtio_pci_spec::pci::{self, express, header, msix};
use virtio_pci_spec::{ids, DeviceType};

/// BAR of all structures.
const BAR: u8 = 2;
const BAR_SIZE: u64 = 0x4000;
const NOTIFY: u64 = 0x1000;
/// The admin queue's index.
const ADMIN: u16 = 3;
const QUEUE_MAX: u16 = 16;
/// Descriptors followed in one chain.
const MAX_CHAIN: usize = 8;
/// VFs.
pub const VFS: u16 = 3;

/// A command in the device's hands.
struct Held {
    head: u16,
    readable: Vec<u8>,
    writable: Vec<(u64, u32)>,
}

/// See the module's description.
pub struct HostileDevice {
    config: Vec<u8>,
    regs: [u8; 64],
    features: [u32; 2],
    choices: VecDeque<u8>,
    memory: Option<DeviceView>,
    irqs: Vec<IrqEvent>,
    last_avail: u16,
    used: u16,
    held: VecDeque<Held>,
}

fn put(config: &mut [u8], at: usize, bytes: &[u8]) {
    config[at..at + bytes.len()].copy_from_slice(bytes);
}

fn virtio_cap(config: &mut [u8], at: usize, next: u8, kind: u8, place: (u32, u32), len: u8) {
    put(config, at, &[pci::CAP_ID_VENDOR, next, len, kind, BAR]);
    put(config, at + cap::OFFSET, &place.0.to_le_bytes());
    put(config, at + cap::LENGTH, &place.1.to_le_bytes());
}

fn template() -> Vec<u8> {
    let mut c = vec![0; 4096];
    put(&mut c, header::VENDOR_ID, &ids::VENDOR.to_le_bytes());
    put(
        &mut c,
        header::DEVICE_ID,
        &DeviceType::Net.modern_pci_id().to_le_bytes(),
    );
    put(&mut c, header::STATUS, &pci::STATUS_CAP_LIST.to_le_bytes());
    put(&mut c, header::REVISION_ID, &[1]);
    c[header::CAPABILITY_LIST] = 0x40;
    virtio_cap(&mut c, 0x40, 0x54, cfg_type::COMMON, (0, 64), cap::LEN);
    virtio_cap(
        &mut c,
        0x54,
        0x70,
        cfg_type::NOTIFY,
        (NOTIFY as u32, 0x100),
        cap::LEN_EXTENDED,
    );
    put(&mut c, 0x54 + cap::NOTIFY_MULTIPLIER, &4u32.to_le_bytes());
    put(&mut c, 0x70, &[pci::CAP_ID_MSIX, 0x90]);
    put(&mut c, 0x70 + msix::CONTROL, &1u16.to_le_bytes());
    put(&mut c, 0x90, &[pci::CAP_ID_EXPRESS, 0]);
    put(
        &mut c,
        0x90 + express::DEVCAP,
        &express::DEVCAP_FLR.to_le_bytes(),
    );
    put(
        &mut c,
        0x100,
        &(u32::from(pci::EXT_CAP_ID_DSN) | 1 << 16 | 0x140 << 20).to_le_bytes(),
    );
    put(&mut c, 0x104, &0x1234_5678_9abc_def0u64.to_le_bytes());
    put(
        &mut c,
        0x140,
        &(u32::from(pci::EXT_CAP_ID_SRIOV) | 1 << 16).to_le_bytes(),
    );
    put(&mut c, 0x140 + sriov::INITIAL_VFS, &VFS.to_le_bytes());
    put(&mut c, 0x140 + sriov::TOTAL_VFS, &VFS.to_le_bytes());
    put(
        &mut c,
        0x140 + sriov::VF_DEVICE_ID,
        &DeviceType::Net.modern_pci_id().to_le_bytes(),
    );
    c
}

impl HostileDevice {
    /// A device that misbehaves as `bytes` say; the first of them change its configuration space.
    pub fn new(bytes: &[u8]) -> Self {
        let mut choices: VecDeque<u8> = bytes.iter().copied().collect();
        let mut config = template();
        let mut next = || choices.pop_front().unwrap_or(0);
        for _ in 0..next() % 8 {
            let at = usize::from(u16::from_le_bytes([next(), next()])) % config.len();
            // Where it matters.
            let at = if at & 1 == 0 { at % 0x200 } else { at };
            config[at] = next();
        }
        HostileDevice {
            config,
            regs: [0; 64],
            features: [0; 2],
            choices,
            memory: None,
            irqs: Vec::new(),
            last_avail: 0,
            used: 0,
            held: VecDeque::new(),
        }
    }

    fn choice(&mut self) -> u8 {
        self.choices.pop_front().unwrap_or(0)
    }

    fn choice32(&mut self) -> u32 {
        u32::from_le_bytes([self.choice(), self.choice(), self.choice(), self.choice()])
    }

    fn reg(&self, at: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        for (dst, src) in bytes
            .iter_mut()
            .zip(self.regs.iter().skip(at as usize))
            .take(len)
        {
            *dst = *src;
        }
        u64::from_le_bytes(bytes)
    }

    fn set(&mut self, at: u64, bytes: &[u8]) {
        for (dst, src) in self.regs.iter_mut().skip(at as usize).zip(bytes) {
            *dst = *src;
        }
    }

    fn honest_read(&self, at: u64) -> u64 {
        let offered = bit(VERSION_1) | bit(ADMIN_VQ) | bit(SR_IOV) | bit(ACCESS_PLATFORM);
        let selected = |word: u32| offered >> (32 * word.min(2)) & 0xffff_ffff;
        let queue = self.reg(common::QUEUE_SELECT, 2) as u16 == ADMIN;
        match at {
            common::DEVICE_FEATURE => match self.reg(common::DEVICE_FEATURE_SELECT, 4) as u32 {
                word @ 0..=1 => selected(word),
                _ => 0,
            },
            common::NUM_QUEUES => u64::from(ADMIN),
            common::QUEUE_SIZE if queue && self.reg(at, 2) == 0 => u64::from(QUEUE_MAX),
            common::QUEUE_SIZE if !queue => 0,
            common::QUEUE_NOTIFY_OFF => u64::from(ADMIN),
            common::ADMIN_QUEUE_INDEX => u64::from(ADMIN),
            common::ADMIN_QUEUE_NUM => 1,
            _ => self.reg(at, 8),
        }
    }

    /// Interrupts, or not, or the wrong one.
    fn interrupt(&mut self) {
        let which = match self.choice() {
            0xf0.. => return,
            n @ 0xe0..0xf0 => usize::from(n & 1),
            _ => self.irqs.len().saturating_sub(1),
        };
        if let Some(irq) = self.irqs.get(which) {
            let _full = irq.signal();
        }
    }

    fn read_memory(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut buf = vec![0; len.min(4096)];
        self.memory.as_ref()?.read(at, &mut buf).then_some(buf)
    }

    fn read16(&self, at: u64) -> Option<u16> {
        let b = self.read_memory(at, 2)?;
        Some(u16::from_le_bytes([b[0], b[1]]))
    }

    fn write_memory(&self, at: u64, data: &[u8]) {
        if let Some(memory) = &self.memory {
            let _mapped = memory.write(at, data);
        }
    }

    fn size(&self) -> u16 {
        match self.reg(common::QUEUE_SIZE, 2) as u16 {
            0 => QUEUE_MAX,
            n => n,
        }
    }

    /// Takes a command from the queue.
    fn pop(&mut self) -> Option<Held> {
        let (desc, avail) = (
            self.reg(common::QUEUE_DESC, 8),
            self.reg(common::QUEUE_DRIVER, 8),
        );
        if self.read16(avail.wrapping_add(2))? == self.last_avail {
            return None;
        }
        let slot = u64::from(self.last_avail % self.size());
        let head = self.read16(avail.wrapping_add(4 + 2 * slot))?;
        self.last_avail = self.last_avail.wrapping_add(1);
        let mut held = Held {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let mut index = head;
        for _ in 0..MAX_CHAIN {
            let d = self.read_memory(desc.wrapping_add(16 * u64::from(index)), 16)?;
            let addr = u64::from_le_bytes(d[..8].try_into().ok()?);
            let len = u32::from_le_bytes(d[8..12].try_into().ok()?);
            let flags = u16::from_le_bytes([d[12], d[13]]);
            if flags & 2 != 0 {
                held.writable.push((addr, len));
            } else {
                held.readable.extend(self.read_memory(addr, len as usize)?);
            }
            if flags & 1 == 0 {
                break;
            }
            index = u16::from_le_bytes([d[14], d[15]]);
        }
        Some(held)
    }

    /// The reply that the specification asks for, as far as a driver can tell.
    fn honest_reply(held: &Held) -> Vec<u8> {
        let op = held.readable.first().copied().unwrap_or(0);
        let mut reply = vec![0; REPLY_LEN];
        match u16::from(op) {
            opcode::LIST_QUERY => reply.extend(0x7fu64.to_le_bytes()),
            opcode::LEGACY_NOTIFY_INFO => {
                let mut entries = [0; 64];
                entries[..2].copy_from_slice(&[2, 4]);
                reply.extend(entries);
            }
            opcode::LEGACY_COMMON_CFG_READ | opcode::LEGACY_DEV_CFG_READ => {
                let room: usize = held.writable.iter().map(|w| w.1 as usize).sum();
                let at = held.readable.get(REQUEST_LEN).copied().unwrap_or(0);
                reply.extend(vec![at; room.saturating_sub(REPLY_LEN).min(8)]);
            }
            _ => {}
        }
        reply
    }

    fn complete(&mut self, held: &Held) {
        let used = self.reg(common::QUEUE_DEVICE, 8);
        let mut reply = Self::honest_reply(held);
        let mut id = u32::from(held.head);
        let mut claimed = None;
        let mut advance = 1;
        match self.choice() {
            0..=0xbf => {}
            0xc0..=0xcf => {
                let (s, q) = (self.choice(), self.choice());
                reply = vec![s, 0, q, 0, 0, 0, 0, 0];
            }
            0xd0..=0xd7 => {
                let n = usize::from(self.choice() % 100);
                reply = (0..n).map(|_| self.choice()).collect();
            }
            0xd8..=0xdf => claimed = Some(self.choice32()),
            0xe0..=0xe7 => id = self.choice32(),
            0xe8..=0xef => advance = u16::from(self.choice()),
            0xf0..=0xf7 => {
                // Anywhere in the queue's own memory.
                let at = self.reg(common::QUEUE_DESC, 8);
                let at = at.wrapping_add(u64::from(self.choice32() % 8192));
                let bytes = [self.choice(); 4];
                self.write_memory(at, &bytes);
            }
            _ => advance = 0,
        }
        let mut left = &reply[..];
        for (addr, len) in &held.writable {
            let (now, later) = left.split_at((*len as usize).min(left.len()));
            self.write_memory(*addr, now);
            left = later;
        }
        let written = claimed.unwrap_or((reply.len() - left.len()) as u32);
        let slot = u64::from(self.used % self.size());
        let entry = used.wrapping_add(4 + 8 * slot);
        self.write_memory(entry, &id.to_le_bytes());
        self.write_memory(entry.wrapping_add(4), &written.to_le_bytes());
        self.used = self.used.wrapping_add(advance);
        self.write_memory(used.wrapping_add(2), &self.used.to_le_bytes());
    }

    /// Works on its queue.
    pub fn turn(&mut self) {
        for _ in 0..32 {
            let Some(held) = self.pop() else { break };
            self.held.push_back(held);
        }
        let keep = match self.choice() {
            0..=0xdf => 0,
            n => usize::from(n & 3),
        };
        while self.held.len() > keep {
            if let Some(held) = self.held.pop_front() {
                self.complete(&held);
            }
        }
        self.interrupt();
    }
}

impl ScriptedDevice for HostileDevice {
    fn config_read(&mut self, offset: u16, buf: &mut [u8]) {
        for (dst, src) in buf.iter_mut().zip(self.config.iter().skip(offset.into())) {
            *dst = *src;
        }
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        // Read-only fields stay; what SR-IOV and COMMAND need can be written.
        let at = usize::from(offset);
        let writable = at == header::COMMAND || (0x148..0x180).contains(&at);
        if writable && at + data.len() <= self.config.len() {
            self.config[at..at + data.len()].copy_from_slice(data);
        }
    }

    fn bar_size(&self, bar: u8) -> u64 {
        if bar == BAR {
            BAR_SIZE
        } else {
            0
        }
    }

    fn bar_read(&mut self, _bar: u8, offset: u64, width: Width) -> u32 {
        match self.choice() {
            0xf8..=0xfb => self.choice32(),
            0xfc => u32::MAX,
            _ if offset < 64 => {
                let mask = (1u64 << (8 * width.bytes())) - 1;
                (self.honest_read(offset) & mask) as u32
            }
            _ => 0,
        }
    }

    fn bar_write(&mut self, _bar: u8, offset: u64, width: Width, value: u32) {
        if offset >= NOTIFY {
            return self.turn();
        }
        if offset == common::DEVICE_STATUS && value as u8 == 0 {
            return self.reset();
        }
        if offset == common::DRIVER_FEATURE {
            let word = self.reg(common::DRIVER_FEATURE_SELECT, 4) as usize;
            if let Some(f) = self.features.get_mut(word) {
                *f = value;
            }
        }
        let bytes = value.to_le_bytes();
        self.set(offset, &bytes[..width.bytes()]);
    }

    fn attach(&mut self, memory: DeviceView) {
        self.memory = Some(memory);
    }

    fn set_irqs(&mut self, irqs: Vec<IrqEvent>) {
        self.irqs = irqs;
    }

    fn reset(&mut self) {
        self.regs = [0; 64];
        self.last_avail = 0;
        self.used = 0;
        self.held.clear();
    }
}
