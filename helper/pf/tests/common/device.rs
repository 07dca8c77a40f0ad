// SPDX-License-Identifier: GPL-2.0-or-later
//! A small PF written from the specification's tables, not from the driver: it keeps the rules
//! itself, notes every breach by the driver, and breaks the rules where a test tells it to.

use pci_transport::{DeviceView, IrqEvent, Width};
use virtio_modern_spec::sriov;
use virtio_pci_spec::pci;

use super::queue::{Chain, DeviceQueue};

pub(crate) const MSIX_CAP: usize = 0xb0;
const DSN: usize = 0x100;
pub(crate) const SRIOV: usize = 0x140;
pub(crate) const COMMON_BAR: u8 = 2;
pub(crate) const NOTIFY_AT: u64 = 0x1000;
pub(crate) const OWNER_NOTIFY_BAR: u8 = 4;
pub(crate) const ALL_LISTED: u64 = 0x7f;
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// What the device does with a command.
pub(crate) enum Action {
    /// What the specification says.
    Normal,
    /// This status and qualifier, and nothing else.
    Refuse(u16, u16),
    /// Writes these bytes and claims this used length.
    Raw(Vec<u8>, u32),
    /// Keeps it.
    Hold,
    /// Completes it under another id.
    WrongId(u32),
}

/// A command as the device saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub opcode: u16,
    pub group: u16,
    pub member: u64,
    pub readable: Vec<u8>,
    pub writable: usize,
    /// On which admin queue it came, from 0.
    pub queue: usize,
    /// Commands that the device held when it came.
    pub held: usize,
}

pub(crate) type Hook = Box<dyn FnMut(&Seen) -> Action + Send>;

pub(crate) struct TestPf {
    pub config: Vec<u8>,
    pub mask: Vec<u8>,
    pub memory: Option<DeviceView>,
    pub irqs: Vec<IrqEvent>,
    pub vectors: u32,
    /// Vectors that the device refuses to use.
    pub refused_vectors: Vec<u16>,
    pub offered: [u32; 4],
    pub accepted: [u32; 4],
    pub feature_select: [u32; 2],
    pub status: u8,
    /// Reads of device_status until a reset is finished.
    pub reset_reads: u32,
    pub resetting: u32,
    pub features_ok: bool,
    pub config_vector: u16,
    pub select: u16,
    pub num_queues: u16,
    pub admin_index: u16,
    pub admin_num: u16,
    pub queue_max: u16,
    pub notify_off: u16,
    pub multiplier: u32,
    pub notif_data: u16,
    pub queue: DeviceQueue,
    /// The admin queues behind the first.
    pub more: [DeviceQueue; 3],
    pub hook: Hook,
    pub held: Vec<Chain>,
    pub seen: Vec<Seen>,
    /// Stores to the notification structure: offset, width, value.
    pub kicks: Vec<(u64, Width, u32)>,
    /// Stores to the owner's notification BAR.
    pub owner_notifies: Vec<(u64, Width, u32)>,
    /// Values written to device_status.
    pub status_writes: Vec<u8>,
    pub listed: u64,
    pub in_use: Option<u64>,
    /// Whether the group exists although the VFs are enabled.
    pub group_ready: bool,
    pub notify_info: Vec<u8>,
    /// Legacy header and device configuration per VF.
    pub vf_header: Vec<[u8; 24]>,
    pub vf_config: Vec<[u8; 28]>,
    pub breaches: Vec<String>,
    pub no_interrupts: bool,
    /// Offsets in the common configuration whose writes are lost.
    pub ignored: Vec<u64>,
    /// It fails as soon as DRIVER_OK is set.
    pub fails_at_once: bool,
}

pub(crate) fn bit(n: u32) -> (usize, u32) {
    ((n / 32) as usize, 1 << (n % 32))
}

impl TestPf {
    pub(crate) fn new() -> Self {
        let mut config = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xf4, 0x1a, 0x41, 0x10]);
        put(pci::header::STATUS, &pci::STATUS_CAP_LIST.to_le_bytes());
        put(pci::header::REVISION_ID, &[1]);
        put(pci::header::CAPABILITY_LIST, &[0x60]);
        put(0x60, &cap(0x80, 1, COMMON_BAR, 0, 64));
        put(
            0x80,
            &notify_cap(MSIX_CAP as u8, COMMON_BAR, NOTIFY_AT as u32, 0x1000, 4),
        );
        put(MSIX_CAP, &[pci::CAP_ID_MSIX, 0, 1, 0]);
        put(DSN, &(0x1400_0000u32 | 0x1_0000 | 3).to_le_bytes());
        put(DSN + 4, &0x1122_3344_5566_7788u64.to_le_bytes());
        put(SRIOV, &0x1_0010u32.to_le_bytes());
        put(SRIOV + sriov::INITIAL_VFS, &[64, 0]);
        put(SRIOV + sriov::TOTAL_VFS, &[64, 0]);
        put(SRIOV + sriov::VF_DEVICE_ID, &[0x41, 0x10]);
        put(SRIOV + sriov::SUPPORTED_PAGE_SIZE, &[1]);
        let mut mask = vec![0; 4096];
        let mut may = |at: usize, bytes: &[u8]| mask[at..at + bytes.len()].copy_from_slice(bytes);
        may(pci::header::COMMAND, &[7, 4]);
        may(MSIX_CAP + 2, &[0, 0xc0]);
        may(SRIOV + sriov::CONTROL, &[0x19, 0]);
        may(SRIOV + sriov::NUM_VFS, &[0xff, 0xff]);
        may(SRIOV + sriov::SYSTEM_PAGE_SIZE, &[0xff; 4]);
        may(SRIOV + sriov::VF_BAR0 + 4, &0xffff_f000u32.to_le_bytes());
        may(SRIOV + sriov::VF_BAR0 + 8, &0xffff_c000u32.to_le_bytes());
        TestPf {
            config,
            mask,
            memory: None,
            irqs: Vec::new(),
            vectors: 2,
            refused_vectors: Vec::new(),
            // VERSION_1, ACCESS_PLATFORM, ORDER_PLATFORM, SR_IOV, ADMIN_VQ.
            offered: [0, 0b10_0011_0011, 0, 0],
            accepted: [0; 4],
            feature_select: [0; 2],
            status: 0,
            reset_reads: 0,
            resetting: 0,
            features_ok: true,
            config_vector: NO_VECTOR,
            select: 0,
            num_queues: 3,
            admin_index: 5,
            admin_num: 1,
            queue_max: 64,
            notify_off: 5,
            multiplier: 4,
            notif_data: 0,
            queue: DeviceQueue::default(),
            more: Default::default(),
            hook: Box::new(|_| Action::Normal),
            held: Vec::new(),
            seen: Vec::new(),
            kicks: Vec::new(),
            owner_notifies: Vec::new(),
            status_writes: Vec::new(),
            listed: ALL_LISTED,
            in_use: None,
            group_ready: true,
            notify_info: entry(1, OWNER_NOTIFY_BAR, 0x10),
            vf_header: vec![[0; 24]; 64],
            vf_config: vec![[0; 28]; 64],
            breaches: Vec::new(),
            no_interrupts: false,
            ignored: Vec::new(),
            fails_at_once: false,
        }
    }

    pub(crate) fn breach(&mut self, what: impl Into<String>) {
        self.breaches.push(what.into());
    }

    pub(crate) fn vfs_enabled(&self) -> u16 {
        let on = self.config[SRIOV + sriov::CONTROL] & 1 != 0;
        let num = &self.config[SRIOV + sriov::NUM_VFS..];
        if on {
            u16::from_le_bytes([num[0], num[1]])
        } else {
            0
        }
    }

    pub(crate) fn set_vfs(&mut self, n: u16) {
        self.config[SRIOV + sriov::CONTROL] = 9;
        self.config[SRIOV + sriov::NUM_VFS..][..2].copy_from_slice(&n.to_le_bytes());
    }

    pub(crate) fn virtio_reset(&mut self) {
        self.accepted = [0; 4];
        self.config_vector = NO_VECTOR;
        self.queue = DeviceQueue::default();
        self.more = Default::default();
        self.held.clear();
        self.in_use = None;
    }

    pub(crate) fn has(&self, n: u32) -> bool {
        let (word, mask) = bit(n);
        self.accepted[word] & mask != 0
    }

    pub(crate) fn irq(&mut self, vector: u16) {
        let enabled = self.config[MSIX_CAP + 3] & 0x80 != 0 || !self.irqs.is_empty();
        if self.no_interrupts || !enabled {
            return;
        }
        if let Some(irq) = self.irqs.get(usize::from(vector)) {
            irq.signal().unwrap();
        }
    }

    /// The device fails: DEVICE_NEEDS_RESET and a configuration change.
    pub(crate) fn fail(&mut self) {
        self.status |= 64;
        let vector = self.config_vector;
        self.irq(vector);
    }

    /// An interrupt that means nothing.
    pub(crate) fn spurious(&mut self, vector: u16) {
        self.irq(vector);
    }

    pub(crate) fn complete(&mut self, chain: &Chain, id: u32, bytes: &[u8], len: u32) {
        let memory = self.memory.clone().unwrap();
        chain.write(&memory, bytes);
        let event_idx = self.has(29);
        let queue = self.queue_mut(chain.queue);
        if queue.push_used(&memory, id, len, event_idx) {
            let vector = queue.vector;
            self.irq(vector);
        }
    }

    /// Completes the oldest command that it held, normally.
    pub(crate) fn let_go(&mut self) {
        let chain = self.held.remove(0);
        let readable = chain.read(self.memory.as_ref().unwrap());
        let answer = self.execute(&readable, chain.writable_len());
        let len = answer.len() as u32;
        self.complete(&chain, chain.head.into(), &answer, len);
    }

    /// An admin queue, from 0.
    pub(crate) fn queue_mut(&mut self, n: usize) -> &mut DeviceQueue {
        match n {
            0 => &mut self.queue,
            n => &mut self.more[n - 1],
        }
    }

    /// The admin queue that is selected.
    pub(crate) fn selected(&mut self) -> &mut DeviceQueue {
        let n = self.select.wrapping_sub(self.admin_index);
        self.queue_mut(n.into())
    }

    /// Looks at the queues, as when they were notified.
    pub(crate) fn process(&mut self) {
        for n in 0..4 {
            self.process_queue(n);
        }
    }

    fn process_queue(&mut self, n: usize) {
        let Some(memory) = self.memory.clone() else {
            return;
        };
        if self.status & 4 == 0 || self.queue_mut(n).enabled != 1 {
            return;
        }
        let event_idx = self.has(29);
        while let Some(mut chain) = self.queue_mut(n).take(&memory, event_idx) {
            chain.queue = n;
            if let Some(what) = chain.breach() {
                self.breach(what);
            }
            let readable = chain.read(&memory);
            if readable.len() < 24 {
                self.breach("a command without its header");
                continue;
            }
            let seen = Seen {
                opcode: u16::from_le_bytes([readable[0], readable[1]]),
                group: u16::from_le_bytes([readable[2], readable[3]]),
                member: u64::from_le_bytes(readable[16..24].try_into().unwrap()),
                writable: chain.writable_len(),
                queue: n,
                held: self.held.len(),
                readable,
            };
            self.seen.push(seen.clone());
            let action = (self.hook)(&seen);
            match action {
                Action::Normal => {
                    let answer = self.execute(&seen.readable, seen.writable);
                    let len = answer.len() as u32;
                    self.complete(&chain, chain.head.into(), &answer, len);
                }
                Action::Refuse(status, qualifier) => {
                    let answer = reply(status, qualifier);
                    self.complete(&chain, chain.head.into(), &answer, 8);
                }
                Action::Raw(bytes, len) => self.complete(&chain, chain.head.into(), &bytes, len),
                Action::Hold => self.held.push(chain),
                Action::WrongId(id) => self.complete(&chain, id, &[], 0),
            }
        }
    }

    /// A command, as the specification has it.
    pub(crate) fn execute(&mut self, readable: &[u8], writable: usize) -> Vec<u8> {
        let opcode = u16::from_le_bytes([readable[0], readable[1]]);
        let group = u16::from_le_bytes([readable[2], readable[3]]);
        let member = u64::from_le_bytes(readable[16..24].try_into().unwrap());
        if group != 1 || self.vfs_enabled() == 0 || !self.group_ready {
            return reply(22, 4);
        }
        let allowed = self.in_use.unwrap_or(3);
        if opcode > 63 || allowed & (1 << opcode) == 0 {
            return reply(22, 2);
        }
        if opcode > 1 && !(1..=u64::from(self.vfs_enabled())).contains(&member) {
            return reply(22, 5);
        }
        let mut out = reply(0, 0);
        let vf = usize::try_from(member).unwrap().saturating_sub(1);
        match opcode {
            0 => out.extend(self.listed.to_le_bytes()),
            1 => {
                let set = u64::from_le_bytes(readable[24..32].try_into().unwrap());
                if set & !self.listed != 0 {
                    return reply(22, 3);
                }
                self.in_use = Some(set);
            }
            2 | 4 => {
                let at = usize::from(readable[24]);
                let data = &readable[32..];
                let to: &mut [u8] = match opcode {
                    2 => &mut self.vf_header[vf],
                    _ => &mut self.vf_config[vf],
                };
                let Some(to) = to.get_mut(at..at + data.len()) else {
                    return reply(22, 3);
                };
                to.copy_from_slice(data);
            }
            3 | 5 => {
                let at = usize::from(readable[24]);
                let len = writable - 8;
                let from: &[u8] = match opcode {
                    3 => &self.vf_header[vf],
                    _ => &self.vf_config[vf],
                };
                let Some(from) = from.get(at..at + len) else {
                    return reply(22, 3);
                };
                out.extend(from);
            }
            6 => {
                let mut entries = self.notify_info.clone();
                entries.resize(64, 0);
                out.extend(entries);
            }
            _ => return reply(22, 2),
        }
        out
    }

    pub(crate) fn status_written(&mut self, value: u8) {
        self.status_writes.push(value);
        if value == 0 {
            self.virtio_reset();
            self.resetting = self.reset_reads;
            if self.resetting == 0 {
                self.status = 0;
            }
            return;
        }
        if self.status & !value & !64 != 0 {
            self.breach(format!(
                "status {:#x} -> {value:#x} clears bits",
                self.status
            ));
        }
        let mut value = value | (self.status & 64);
        if value & 8 != 0 && !self.features_ok {
            value &= !8;
        }
        if value & 4 != 0 && self.fails_at_once {
            value |= 64;
        }
        self.status = value;
    }

    pub(crate) fn queue_selected(&self) -> bool {
        let last = u32::from(self.admin_index) + u32::from(self.admin_num);
        self.has(41) && (u32::from(self.admin_index)..last).contains(&u32::from(self.select))
    }
}

pub(crate) fn reply(status: u16, qualifier: u16) -> Vec<u8> {
    let mut out = status.to_le_bytes().to_vec();
    out.extend(qualifier.to_le_bytes());
    out.extend([0; 4]);
    out
}

/// An entry of LEGACY_NOTIFY_INFO.
pub(crate) fn entry(flags: u8, bar: u8, offset: u64) -> Vec<u8> {
    let mut out = vec![flags, bar, 0, 0, 0, 0, 0, 0];
    out.extend(offset.to_le_bytes());
    out
}

pub(crate) fn cap(next: u8, kind: u8, bar: u8, offset: u32, length: u32) -> Vec<u8> {
    let mut out = vec![9, next, 16, kind, bar, 0, 0, 0];
    out.extend(offset.to_le_bytes());
    out.extend(length.to_le_bytes());
    out
}

pub(crate) fn notify_cap(next: u8, bar: u8, offset: u32, length: u32, multiplier: u32) -> Vec<u8> {
    let mut out = cap(next, 2, bar, offset, length);
    out[2] = 20;
    out.extend(multiplier.to_le_bytes());
    out
}
