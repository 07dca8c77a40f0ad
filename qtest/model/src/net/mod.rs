// SPDX-License-Identifier: GPL-2.0-or-later
//! The network device type ("Network Device").
//!
//! [`config`] has settings, features and configuration; [`header`] the packet header; [`filter`]
//! what passes to the driver; [`control`] the control queue's commands; [`steering`] the choice of
//! the receive queue. This file joins them to a [`VirtioDevice`].

pub mod config;
pub mod control;
pub mod filter;
pub mod header;
pub mod steering;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use virtio_modern_spec::features::{bit, net};
use virtio_pci_spec::DeviceType;

use self::config::{NetSettings, CONFIG_LEN, MAC_LEN, STATUS_ANNOUNCE, STATUS_LINK_UP};
use self::control::Command;
use self::filter::{is_multicast, FilterScope, Mac, RxFilter, Station};
use self::header::TxHeader;
use self::steering::Steering;
use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::effect::Interface;
use crate::model::Model;
use crate::queue::{Chain, RingFault};
use crate::switch::{StationHandle, Switch, MIN_FRAME};

/// A device whose functions are network cards on one switch.
///
/// # Errors
/// The configuration or the settings are not possible.
pub fn model(config: ModelConfig, settings: &NetSettings) -> Result<Model, ConfigError> {
    let bad = |why| ConfigError::Device("net", why);
    settings.check().map_err(bad)?;
    let switch = Switch::new();
    let connected = switch.clone();
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, ConfigError> {
        let device = NetDevice::new(settings.clone(), settings.mac_of(function)).map_err(bad)?;
        connected.connect(function, device.station());
        Ok(Box::new(device))
    };
    Model::with_devices(config, &mut make, Box::new(switch))
}

/// Entries of the control queue.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// A network function.
#[derive(Debug)]
pub struct NetDevice {
    settings: NetSettings,
    permanent_mac: Mac,
    queue_sizes: Vec<u16>,
    /// The address as the driver reads it; differs from the station's while a legacy driver is
    /// writing it byte by byte.
    shown_mac: Mac,
    announce: bool,
    link_up: bool,
    station: StationHandle,
    steering: Steering,
    /// Frames that wait for receive buffers, per queue pair.
    backlog: Vec<VecDeque<Vec<u8>>>,
    waiting: usize,
    /// Header and frame being sent.
    scratch: Vec<u8>,
}

/// What became of a frame offered to a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Done,
    /// Not enough buffers now.
    Wait,
    /// The buffers there are can never hold it.
    TooBig,
}

impl NetDevice {
    /// A function with this permanent address.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: NetSettings, mac: Mac) -> Result<Self, String> {
        settings.check()?;
        if is_multicast(&mac) {
            return Err("net: the MAC address is a group address".into());
        }
        let pairs = usize::from(settings.max_queue_pairs);
        let mut queue_sizes = vec![settings.queue_size; 2 * pairs + 1];
        if let Some(last) = queue_sizes.last_mut() {
            *last = CONTROL_QUEUE_SIZE;
        }
        Ok(Self {
            queue_sizes,
            permanent_mac: mac,
            shown_mac: mac,
            announce: false,
            link_up: true,
            station: StationHandle::new(Station::new(mac)),
            steering: Steering::default(),
            backlog: vec![VecDeque::new(); pairs],
            waiting: 0,
            scratch: Vec::new(),
            settings,
        })
    }

    /// The function's entry for the switch's table.
    pub fn station(&self) -> StationHandle {
        self.station.clone()
    }

    /// Index of the control queue: behind all pairs, or behind the first without MQ.
    fn control_queue(&self, ctx: &DeviceCtx<'_>) -> u16 {
        if ctx.has(net::MQ) {
            2 * self.settings.max_queue_pairs
        } else {
            2
        }
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut status = 0;
        if self.link_up {
            status |= STATUS_LINK_UP;
        }
        if self.announce {
            status |= STATUS_ANNOUNCE;
        }
        self.settings.encode(&self.shown_mac, status)
    }

    /// Tells the switch what the accepted features say about filtering.
    fn update_scope(&self, ctx: &DeviceCtx<'_>) {
        self.station.get().scope = FilterScope {
            ctrl_rx: ctx.has(net::CTRL_RX),
            ctrl_vlan: ctx.has(net::CTRL_VLAN),
        };
    }

    fn set_mac(&mut self, mac: Mac) {
        self.shown_mac = mac;
        self.station.get().mac = mac;
    }

    // --- Transmission

    fn transmit_all(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(chain) = ctx.pop(queue)? {
            let sent = self.transmit(&chain, queue / 2, ctx);
            if !matches!(sent, Ok(true)) {
                ctx.counters().tx_dropped += 1;
            }
            // A driver expects its buffer back whatever became of the frame.
            ctx.complete(chain, 0)?;
            sent?;
        }
        Ok(())
    }

    /// Sends the frame in a buffer; `false` if it has to be dropped.
    fn transmit(
        &mut self,
        chain: &Chain,
        pair: u16,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<bool, RingFault> {
        let header_len = header::header_len(ctx.is_legacy(), ctx.has(net::MRG_RXBUF));
        let total = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
        let Some(len) = total.checked_sub(header_len) else {
            return Ok(false);
        };
        if !(MIN_FRAME..=self.settings.max_frame()).contains(&len) || !self.link_up {
            return Ok(false);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        // Every byte is overwritten: the chain has that many.
        scratch.resize(total, 0);
        let read = ctx.read(chain, 0, &mut scratch);
        let sent = match (&read, scratch.split_at_mut_checked(header_len)) {
            (Ok(_), Some((head, frame))) => self.send(head, frame, pair, ctx),
            _ => false,
        };
        self.scratch = scratch;
        read.map(|_| sent)
    }

    fn send(&mut self, head: &[u8], frame: &mut [u8], pair: u16, ctx: &mut DeviceCtx<'_>) -> bool {
        let Some(head) = TxHeader::decode(head) else {
            return false;
        };
        if head.gso_type != header::GSO_NONE {
            return false;
        }
        if head.flags & header::FLAG_NEEDS_CSUM != 0
            && !(ctx.has(net::CSUM) && header::complete_checksum(frame, &head))
        {
            return false;
        }
        self.steering.learn(frame, pair);
        ctx.counters().tx_frames += 1;
        ctx.counters().tx_bytes += frame.len() as u64;
        ctx.transmit(frame);
        true
    }

    // --- Reception

    /// Gives waiting frames to a pair's receive queue, oldest first.
    fn drain(&mut self, pair: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let at = usize::from(pair);
        while let Some(frame) = self.backlog.get_mut(at).and_then(VecDeque::pop_front) {
            match self.deliver(2 * pair, &frame, ctx)? {
                Delivery::Done | Delivery::TooBig => self.waiting -= 1,
                Delivery::Wait => {
                    if let Some(queue) = self.backlog.get_mut(at) {
                        queue.push_front(frame);
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        queue: u16,
        frame: &[u8],
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<Delivery, RingFault> {
        let mergeable = ctx.has(net::MRG_RXBUF);
        let header_len = header::header_len(ctx.is_legacy(), mergeable);
        let need = (header_len + frame.len()) as u64;
        let mut chains: Vec<Chain> = Vec::with_capacity(1);
        let mut room = 0;
        let wait = loop {
            if room >= need {
                break None;
            }
            if !chains.is_empty() && !mergeable {
                break Some(Delivery::TooBig);
            }
            match ctx.pop(queue)? {
                Some(chain) => {
                    room += chain.writable_len();
                    chains.push(chain);
                }
                // With all buffers of the queue in hand, waiting for more is of no use.
                None if chains.len() >= usize::from(self.settings.queue_size) => {
                    break Some(Delivery::TooBig)
                }
                None => break Some(Delivery::Wait),
            }
        };
        if let Some(outcome) = wait {
            for chain in chains.into_iter().rev() {
                ctx.unpop(chain);
            }
            ctx.counters().rx_dropped += u64::from(outcome == Delivery::TooBig);
            return Ok(outcome);
        }
        let buffers = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        let head = header::rx_header(header_len, buffers);
        let mut done = 0;
        let mut used = Vec::with_capacity(chains.len());
        for chain in chains {
            let mut written = 0;
            // The header lies in the first buffer, or goes on in the next if that is tiny.
            if let Some(rest) = head.get(done..header_len) {
                written += ctx.write(&chain, 0, rest)?;
            }
            let from = (done + written).saturating_sub(header_len);
            if done + written >= header_len {
                let rest = frame.get(from..).unwrap_or_default();
                written += ctx.write(&chain, written as u64, rest)?;
            }
            done += written;
            used.push((chain, u32::try_from(written).unwrap_or(u32::MAX)));
        }
        ctx.complete_together(used)?;
        ctx.counters().rx_frames += 1;
        ctx.counters().rx_bytes += frame.len() as u64;
        Ok(Delivery::Done)
    }

    // --- Control queue

    fn control_all(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(chain) = ctx.pop(queue)? {
            ctx.counters().control_commands += 1;
            let command = match usize::try_from(chain.readable_len()) {
                Ok(len) if len <= control::MAX_COMMAND => {
                    let mut bytes = vec![0; len];
                    ctx.read(&chain, 0, &mut bytes)?;
                    control::decode(&bytes)
                }
                _ => None,
            };
            let ack = if command.is_some_and(|command| self.execute(command, ctx)) {
                control::ACK_OK
            } else {
                ctx.counters().control_refused += 1;
                control::ACK_ERR
            };
            let written = ctx.write(&chain, 0, &[ack])?;
            ctx.complete(chain, u32::try_from(written).unwrap_or(0))?;
        }
        Ok(())
    }

    /// Carries out a command; `false` if it is refused.
    fn execute(&mut self, command: Command, ctx: &mut DeviceCtx<'_>) -> bool {
        use filter::RxMode::{AllMulti, Promisc};
        let feature = match &command {
            Command::Rx(Promisc | AllMulti, _) | Command::MacTable(..) => net::CTRL_RX,
            Command::Rx(..) => net::CTRL_RX_EXTRA,
            Command::MacAddr(_) => net::CTRL_MAC_ADDR,
            Command::Vlan(..) => net::CTRL_VLAN,
            Command::AnnounceAck => net::GUEST_ANNOUNCE,
            Command::Pairs(_) => net::MQ,
        };
        if !ctx.has(feature) {
            return false;
        }
        match command {
            Command::Rx(mode, on) => self.station.get().filter.set_mode(mode, on),
            Command::MacTable(unicast, multicast) => {
                self.station.get().filter.set_tables(&unicast, &multicast);
            }
            Command::MacAddr(mac) if is_multicast(&mac) => return false,
            Command::MacAddr(mac) => self.set_mac(mac),
            Command::Vlan(id, on) => return self.station.get().filter.set_vlan(id, on),
            Command::AnnounceAck => self.announce = false,
            Command::Pairs(pairs) => {
                if pairs == 0 || pairs > self.settings.max_queue_pairs {
                    return false;
                }
                self.steering.set_pairs(pairs);
            }
        }
        true
    }
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.settings.features()
    }

    /// What works through the control queue needs the control queue ("Feature bit requirements").
    fn accepts_features(&self, accepted: u64) -> bool {
        let any = |bits: &[u32]| bits.iter().any(|n| accepted & bit(*n) != 0);
        any(&[net::CTRL_VQ])
            || !any(&[
                net::CTRL_RX,
                net::CTRL_RX_EXTRA,
                net::CTRL_VLAN,
                net::GUEST_ANNOUNCE,
                net::MQ,
                net::CTRL_MAC_ADDR,
            ])
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        CONFIG_LEN as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(&self.config(), offset, out);
    }

    /// Only the MAC address can be written, and only by a legacy driver. Such a driver writes it
    /// first byte to last, so the new address counts when the last byte is there.
    fn write_config(&mut self, offset: u16, data: &[u8], via: Interface, _: &mut DeviceCtx<'_>) {
        let offset = usize::from(offset);
        if via != Interface::Legacy {
            return;
        }
        let end = offset + data.len();
        if let Some(bytes) = self.shown_mac.get_mut(offset..end) {
            bytes.copy_from_slice(data);
            if end == MAC_LEN {
                self.station.get().mac = self.shown_mac;
            }
        }
    }

    fn status_changed(&mut self, _old: u8, _new: u8, _via: Interface, ctx: &mut DeviceCtx<'_>) {
        self.update_scope(ctx);
    }

    fn reset(&mut self) {
        self.shown_mac = self.permanent_mac;
        self.announce = false;
        self.steering = Steering::default();
        self.backlog.iter_mut().for_each(VecDeque::clear);
        self.waiting = 0;
        let mut station = self.station.get();
        station.mac = self.permanent_mac;
        station.filter = RxFilter::default();
        station.scope = FilterScope::default();
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        self.update_scope(ctx);
        if queue == self.control_queue(ctx) {
            if ctx.has(net::CTRL_VQ) {
                self.control_all(queue, ctx)?;
            }
            Ok(())
        } else if queue % 2 == 1 {
            self.transmit_all(queue, ctx)
        } else {
            self.drain(queue / 2, ctx)
        }
    }

    fn queue_reset(&mut self, queue: u16) {
        if queue % 2 == 0 {
            if let Some(waiting) = self.backlog.get_mut(usize::from(queue / 2)) {
                self.waiting -= waiting.len();
                waiting.clear();
            }
        }
    }

    fn receive_frame(&mut self, frame: &[u8], ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let pair = self.steering.select(frame);
        let at = usize::from(pair);
        let queued = self.backlog.get(at).map_or(0, VecDeque::len);
        let too_long = frame.len() > self.settings.max_frame();
        if too_long || !self.link_up || !ctx.queue_ready(2 * pair) {
            ctx.counters().rx_dropped += 1;
            return Ok(());
        }
        if queued == 0 && self.deliver(2 * pair, frame, ctx)? != Delivery::Wait {
            return Ok(());
        }
        match self.backlog.get_mut(at) {
            Some(queue) if self.waiting < self.settings.backlog => {
                queue.push_back(frame.to_vec());
                self.waiting += 1;
            }
            _ => ctx.counters().rx_dropped += 1,
        }
        // Buffers may have come since the last look.
        if queued > 0 {
            self.drain(pair, ctx)?;
        }
        Ok(())
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        match control {
            DeviceControl::Link { up } => {
                if *up != self.link_up {
                    self.link_up = *up;
                    self.station.get().link_up = *up;
                    // Those outside may have forgotten where this function is.
                    self.announce = *up && ctx.has(net::GUEST_ANNOUNCE);
                    if ctx.has(net::STATUS) {
                        ctx.config_changed();
                    }
                }
                Ok(())
            }
            _ => Err(ControlError::NotSupported("net")),
        }
    }
}
