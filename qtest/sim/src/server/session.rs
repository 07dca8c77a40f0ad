// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's conversation: requests in, replies and register accesses out. No sockets here.

use super::doorbell::DoorbellFds;
use super::irq::{IrqTable, NUM_IRQS};
use crate::dma::files::FileCache;
use crate::dma::DmaSpace;
use crate::hardware::{Function, Hardware};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vfio_user_wire::{
    device_flags, dma_flags, errno, irq_flags, region_flags, Capabilities, Command, DeviceInfo,
    Header, IoFdsReply, Limits, RegionAccess, RegionInfo, Reply, Request, SetIrqs, Version,
    IRQ_MSIX, MAJOR, MINOR, REGION_CONFIG, REGION_ROM,
};

use super::stream::MAX_MESSAGE_FDS;

/// Regions that a PCI client asks for: BAR 0 to 5, ROM, configuration space, VGA.
pub const NUM_REGIONS: u32 = 9;
/// Bytes of configuration space.
pub const CONFIG_LEN: u64 = 4096;

/// What the server is told by the user about its conversations.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    /// Offer REGION_WRITE_MULTI. Off by default: QEMU 10.2 then sends every message through a
    /// queue of another thread, which costs more than the batching saves.
    pub write_multiple: bool,
}

/// What the client may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but VERSION.
    New,
    /// Everything.
    Ready,
    /// A second client of the function: every request fails with EBUSY.
    Refused,
}

/// What to do after a request.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A reply was encoded and is to be sent.
    pub reply: bool,
    /// Descriptors to send with the reply.
    pub fds: Vec<Arc<OwnedFd>>,
    /// Close the connection after the reply.
    pub close: bool,
    /// Something for the log: the client did what it should not.
    pub complaint: Option<String>,
    /// Eventfds for doorbells were created and are to be waited on.
    pub new_doorbells: bool,
}

/// Counters of one conversation.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct SessionCounters {
    /// Messages taken.
    pub messages: u64,
    /// Of these, answered with an error (or not answered, though wrong).
    pub errors: u64,
    /// Region reads.
    pub reads: u64,
    /// Region writes.
    pub writes: u64,
    /// Doorbells through eventfds.
    pub doorbells: u64,
}

/// A client's conversation about one function.
pub struct Session {
    function: Function,
    state: State,
    limits: Limits,
    options: SessionOptions,
    client_fds: usize,
    write_multiple: bool,
    /// Interrupts.
    pub irqs: IrqTable,
    /// Memory.
    pub memory: Arc<DmaSpace>,
    /// Eventfds for doorbells.
    pub doorbells: DoorbellFds,
    /// What happened.
    pub counters: SessionCounters,
}

/// The parts of the server that all sessions use.
pub struct Shared<'a> {
    /// The device.
    pub hardware: &'a mut dyn Hardware,
    /// Files mapped for DMA.
    pub files: &'a mut FileCache,
}

type Failure = (u32, String);

impl Session {
    /// A conversation about `function`. The function's configuration is put into its power-on
    /// state and it gets an empty address space: a client that finds decoding enabled at its
    /// first look (QEMU with an SR-IOV VF) may crash.
    pub fn new(function: Function, options: SessionOptions, hardware: &mut dyn Hardware) -> Self {
        let memory = Arc::new(DmaSpace::default());
        hardware.disconnected(function);
        hardware.set_memory(function, Arc::clone(&memory));
        let irqs = IrqTable::new(hardware.vectors(function));
        Self {
            function,
            state: State::New,
            limits: Limits::default(),
            options,
            client_fds: 1,
            write_multiple: false,
            irqs,
            memory,
            doorbells: DoorbellFds::default(),
            counters: SessionCounters::default(),
        }
    }

    /// A conversation that only says that the function is taken. It leaves the hardware alone.
    pub fn refused(function: Function) -> Self {
        Self {
            function,
            state: State::Refused,
            limits: Limits::default(),
            options: SessionOptions::default(),
            client_fds: 1,
            write_multiple: false,
            irqs: IrqTable::default(),
            memory: Arc::default(),
            doorbells: DoorbellFds::default(),
            counters: SessionCounters::default(),
        }
    }

    /// The function.
    pub fn function(&self) -> Function {
        self.function
    }

    /// Bounds on messages.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether this is a second client that is only told so.
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// Whether the client has agreed on a version.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Handles one message; the reply, if any, is written to `out`.
    pub fn handle(
        &mut self,
        header: &Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        shared: &mut Shared<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        self.counters.messages += 1;
        let mut outcome = Outcome::default();
        let mut argsz = u32::MAX;
        let mut data = Vec::new();
        let result = self.dispatch(
            header,
            payload,
            fds,
            shared,
            &mut outcome,
            &mut argsz,
            &mut data,
        );
        let reply = match result {
            Ok(reply) => reply,
            Err((number, text)) => {
                self.counters.errors += 1;
                outcome.complaint = Some(format!("{}: {text}", header.command));
                // The first message decides: without an agreement there is nothing to talk about.
                outcome.close |= self.state != State::Ready;
                Reply::Error(number)
            }
        };
        if header.is_reply() {
            // Nothing was asked of the client, and a reply is never answered.
            return outcome;
        }
        if !header.no_reply() {
            reply.encode(header, argsz, out);
            outcome.reply = true;
        }
        outcome
    }

    #[allow(clippy::too_many_arguments)]
    fn dispatch<'b>(
        &mut self,
        header: &Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        shared: &mut Shared<'_>,
        outcome: &mut Outcome,
        argsz: &mut u32,
        data: &'b mut Vec<u8>,
    ) -> Result<Reply<'b>, Failure> {
        if self.state == State::Refused {
            let text = "the function has a client already".to_owned();
            return Err((errno::EBUSY, text));
        }
        let request = match Request::decode(header, payload, &self.limits) {
            Ok(request) => request,
            Err(e) => return Err((refusal(header.command, e.errno()), e.to_string())),
        };
        if self.state == State::New && !matches!(request, Request::Version(_)) {
            return Err((errno::EINVAL, "sent before VERSION".to_owned()));
        }
        let takes_fds = matches!(request, Request::DmaMap(_) | Request::SetIrqs(_));
        if !fds.is_empty() && !takes_fds {
            return Err((errno::EINVAL, "file descriptors with it".to_owned()));
        }
        match request {
            Request::Version(v) => self.version(&v),
            Request::DmaMap(map) => {
                let mut fds = fds.into_iter();
                let fd = fds.next();
                if fds.next().is_some() {
                    return Err((errno::EINVAL, "more than one file descriptor".to_owned()));
                }
                let had_fd = fd.is_some();
                let before = shared.files.unsealed;
                if self.memory.is_crowded() {
                    self.memory = Arc::new(self.memory.compacted());
                    let memory = Arc::clone(&self.memory);
                    shared.hardware.set_memory(self.function, memory);
                }
                self.memory.map(&map, fd, shared.files)?;
                if had_fd && shared.files.unsealed != before {
                    outcome.complaint = Some(format!(
                        "DMA_MAP: {:#x}+{:#x} is in a file that can shrink; the range stays \
                         unreachable. Use memory-backend-memfd, or --map-unsealed if you trust \
                         the client",
                        map.iova, map.size
                    ));
                }
                Ok(Reply::Empty)
            }
            Request::DmaUnmap(unmap) => {
                if unmap.flags & dma_flags::UNMAP_ALL != 0 {
                    self.memory.clear();
                } else {
                    self.memory.unmap(unmap.iova, unmap.size);
                }
                Ok(Reply::DmaUnmap(Some(unmap)))
            }
            Request::GetInfo { .. } => Ok(Reply::Info(DeviceInfo {
                flags: device_flags::PCI
                    | if shared.hardware.can_reset(self.function) {
                        device_flags::RESET
                    } else {
                        0
                    },
                num_regions: NUM_REGIONS,
                num_irqs: NUM_IRQS,
            })),
            Request::GetRegionInfo { argsz: room, index } => {
                *argsz = room;
                let size = self.region_size(index, shared.hardware)?;
                let flags = match size {
                    0 => 0,
                    _ => region_flags::READ | region_flags::WRITE,
                };
                Ok(Reply::RegionInfo(RegionInfo {
                    flags,
                    index,
                    size,
                    ..RegionInfo::default()
                }))
            }
            Request::GetRegionIoFds { argsz: room, index } => {
                *argsz = room;
                self.io_fds(index, room, shared.hardware, outcome)
            }
            Request::GetIrqInfo { index, .. } => match self.irqs.info(index) {
                Some(info) => Ok(Reply::IrqInfo(info)),
                None => Err((errno::EINVAL, format!("no interrupt type {index}"))),
            },
            Request::SetIrqs(set) => {
                self.irqs.set(&set, fds)?;
                self.tell_vectors(&set, shared.hardware);
                Ok(Reply::Empty)
            }
            Request::RegionRead(access) => {
                self.counters.reads += 1;
                self.check(&access, shared.hardware)?;
                data.resize(access.count as usize, 0);
                let f = self.function;
                match access.region {
                    REGION_CONFIG => {
                        shared.hardware.config_read(f, access.offset as u16, data);
                    }
                    bar => shared.hardware.bar_read(f, bar as u8, access.offset, data),
                }
                Ok(Reply::Read { access, data })
            }
            Request::RegionWrite { access, data } => {
                self.write(&access, data, shared.hardware)?;
                Ok(Reply::Written(access))
            }
            Request::RegionWriteMulti(multi) => {
                if !self.write_multiple {
                    return Err((errno::EOPNOTSUPP, "not agreed on".to_owned()));
                }
                for one in multi.iter() {
                    let data = one.data.get(..one.access.count as usize).unwrap_or(&[]);
                    self.write(&one.access, data, shared.hardware)?;
                }
                Ok(Reply::Empty)
            }
            Request::DeviceReset => {
                if !shared.hardware.can_reset(self.function) {
                    return Err((errno::EINVAL, "it cannot be reset".to_owned()));
                }
                shared.hardware.reset_function(self.function);
                Ok(Reply::Empty)
            }
        }
    }

    /// The device has to know which vectors lead somewhere: the table with the mask bits is kept
    /// by the client.
    fn tell_vectors(&self, set: &SetIrqs<'_>, hardware: &mut dyn Hardware) {
        if set.index != IRQ_MSIX || set.flags & irq_flags::SET_ACTION_TRIGGER == 0 {
            return;
        }
        if set.flags & irq_flags::SET_DATA_EVENTFD != 0 {
            let present = self.irqs.present(set.start as usize, set.count as usize);
            let first = u16::try_from(set.start).unwrap_or(u16::MAX);
            hardware.vectors_attached(self.function, first, &present);
        } else if set.flags & irq_flags::SET_DATA_NONE != 0 && set.count == 0 {
            hardware.vectors_disabled(self.function);
        }
    }

    fn version(&mut self, client: &Version) -> Result<Reply<'static>, Failure> {
        if self.state == State::Ready {
            return Err((errno::EINVAL, "sent twice".to_owned()));
        }
        if client.major != MAJOR {
            let (major, minor) = (client.major, client.minor);
            let text = format!("protocol {major}.{minor}, this server speaks {MAJOR}.{MINOR}");
            return Err((errno::EPROTO, text));
        }
        let theirs = &client.capabilities;
        self.client_fds = (theirs.max_msg_fds as usize).min(MAX_MESSAGE_FDS);
        self.write_multiple = self.options.write_multiple && theirs.write_multiple;
        let transfer = u64::from(self.limits.max_transfer).min(theirs.max_data_xfer_size);
        self.state = State::Ready;
        Ok(Reply::Version(Version {
            major: MAJOR,
            // Never above what the client proposed: the lowest there is.
            minor: MINOR,
            capabilities: Capabilities {
                max_msg_fds: MAX_MESSAGE_FDS as u32,
                max_data_xfer_size: transfer,
                write_multiple: self.write_multiple,
                ..Capabilities::default()
            },
        }))
    }

    fn region_size(&self, index: u32, hardware: &dyn Hardware) -> Result<u64, Failure> {
        match index {
            REGION_CONFIG => Ok(CONFIG_LEN),
            bar if bar < REGION_ROM => Ok(hardware.bar_size(self.function, bar as u8)),
            i if i < NUM_REGIONS => Ok(0),
            i => Err((errno::EINVAL, format!("there is no region {i}"))),
        }
    }

    fn check(&self, access: &RegionAccess, hardware: &dyn Hardware) -> Result<(), Failure> {
        let size = self.region_size(access.region, hardware)?;
        let end = access.offset.checked_add(u64::from(access.count));
        if end.is_none_or(|end| end > size) {
            let RegionAccess {
                offset,
                region,
                count,
            } = access;
            let text =
                format!("{count} bytes at {offset:#x} of region {region}, which has {size:#x}");
            return Err((errno::EINVAL, text));
        }
        Ok(())
    }

    fn write(
        &mut self,
        access: &RegionAccess,
        data: &[u8],
        hardware: &mut dyn Hardware,
    ) -> Result<(), Failure> {
        self.counters.writes += 1;
        self.check(access, hardware)?;
        match access.region {
            REGION_CONFIG => hardware.config_write(self.function, access.offset as u16, data),
            bar => hardware.bar_write(self.function, bar as u8, access.offset, data),
        }
        Ok(())
    }

    fn io_fds(
        &mut self,
        index: u32,
        argsz: u32,
        hardware: &dyn Hardware,
        outcome: &mut Outcome,
    ) -> Result<Reply<'static>, Failure> {
        self.region_size(index, hardware)?;
        let bar = u8::try_from(index).unwrap_or(u8::MAX);
        let offered = match index < REGION_ROM {
            true => hardware.doorbells(self.function, bar),
            false => Vec::new(),
        };
        // What the client can take: by descriptors in one message, and by room for the entries.
        let mut n = offered.len().min(self.client_fds);
        while n > 0 && IoFdsReply::payload_len(n) > argsz as usize {
            n -= 1;
        }
        if n == 0 && !offered.is_empty() {
            // Tell how much room one message's worth needs.
            n = offered.len().min(self.client_fds);
            let entries = DoorbellFds::describe(offered.get(..n).unwrap_or(&[]));
            return Ok(Reply::IoFds(IoFdsReply {
                argsz: 0,
                index,
                entries,
            }));
        }
        let offered = offered.get(..n).unwrap_or(&[]);
        let fds = self
            .doorbells
            .create(bar, offered)
            .map_err(|e| (errno::ENOMEM, format!("eventfd: {e}")))?;
        outcome.new_doorbells = !fds.is_empty();
        outcome.fds = fds;
        Ok(Reply::IoFds(IoFdsReply {
            argsz: 0,
            index,
            entries: DoorbellFds::describe(offered),
        }))
    }
}

/// Commands of the protocol that this server knows but does not do are told apart from numbers
/// that mean nothing.
fn refusal(command: Command, number: u32) -> u32 {
    match command {
        Command::DMA_READ
        | Command::DMA_WRITE
        | Command::DIRTY_PAGES
        | Command::DEVICE_FEATURE
        | Command::MIG_DATA_READ
        | Command::MIG_DATA_WRITE => errno::EOPNOTSUPP,
        _ => number,
    }
}
