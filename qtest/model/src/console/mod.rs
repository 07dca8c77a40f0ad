// SPDX-License-Identifier: GPL-2.0-or-later
//! The console device type ("Console Device").
//!
//! Port 0 is the console; further ports make the device offer MULTIPORT. [`config`] has settings
//! and configuration, [`control`] the messages on the control queues, [`backend`] what the ports are
//! connected to. A port whose other end takes no more keeps the driver's buffer until it does.

pub mod backend;
pub mod config;
pub mod control;
mod port;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;

use virtio_modern_spec::features::{console, ANY_LAYOUT};
use virtio_pci_spec::DeviceType;

use self::backend::Backend;
use self::config::{ConsoleSettings, CONFIG_LEN, EMERGENCY_OFFSET};
use self::control::{event, Message, MESSAGE_LEN};
use self::port::Port;
use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::effect::{FunctionId, Interface};
use crate::event::Event;
use crate::model::Model;
use crate::queue::{Chain, RingFault};

/// A device whose functions are consoles; `connect` makes each one's connection.
///
/// # Errors
/// The configuration or the settings are not possible, or a connection cannot be made.
pub fn model(
    config: ModelConfig,
    settings: &ConsoleSettings,
    connect: &mut dyn FnMut(FunctionId) -> io::Result<Box<dyn Backend>>,
) -> Result<Model, ConfigError> {
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, String> {
        let backend = connect(function).map_err(|e| format!("ports of {function}: {e}"))?;
        Ok(Box::new(ConsoleDevice::new(settings.clone(), backend)?))
    };
    Model::without_switch(config, "console", &mut make)
}

/// Control messages to the driver.
pub const CONTROL_RECEIVE: u16 = 2;
/// Control messages of the driver.
pub const CONTROL_TRANSMIT: u16 = 3;

/// Messages that wait for a driver that gives no buffers.
const MAX_WAITING: usize = 256;

/// A queue's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(u16),
    Transmit(u16),
    ControlReceive,
    ControlTransmit,
}

/// A console function.
pub struct ConsoleDevice {
    settings: ConsoleSettings,
    queue_sizes: Vec<u16>,
    cols: u16,
    rows: u16,
    backend: Box<dyn Backend>,
    ports: Vec<Port>,
    /// Messages for the driver that wait for buffers.
    messages: VecDeque<Vec<u8>>,
    emergency: u64,
    messages_lost: u64,
}

impl std::fmt::Debug for ConsoleDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleDevice")
            .field("settings", &self.settings)
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl ConsoleDevice {
    /// A function with these connections.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: ConsoleSettings, backend: Box<dyn Backend>) -> Result<Self, String> {
        settings.check()?;
        Ok(Self {
            queue_sizes: vec![settings.queue_size; settings.queues()],
            cols: settings.cols,
            rows: settings.rows,
            backend,
            ports: (0..settings.ports()).map(Port::new).collect(),
            messages: VecDeque::new(),
            emergency: 0,
            messages_lost: 0,
            settings,
        })
    }

    /// What a queue is for, with the ports that the driver knows of.
    fn role(queue: u16, multiport: bool) -> Option<Role> {
        Some(match queue {
            0 => Role::Receive(0),
            1 => Role::Transmit(0),
            _ if !multiport => return None,
            CONTROL_RECEIVE => Role::ControlReceive,
            CONTROL_TRANSMIT => Role::ControlTransmit,
            n if n % 2 == 0 => Role::Receive(n / 2 - 1),
            n => Role::Transmit(n / 2 - 1),
        })
    }

    /// Queues a message for the driver.
    fn tell(
        &mut self,
        port: u16,
        event: u16,
        value: u16,
        more: &[u8],
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        if self.messages.len() >= MAX_WAITING {
            self.messages_lost += 1;
            ctx.violation("console_control_not_received", self.messages.len() as u64);
            return Ok(());
        }
        self.messages
            .push_back(control::encode(port, event, value, more));
        self.send_messages(ctx)
    }

    /// Gives waiting messages to the driver, one in each buffer.
    fn send_messages(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(message) = self.messages.front() {
            let Some(chain) = ctx.pop(CONTROL_RECEIVE)? else {
                break;
            };
            if chain.readable_len() > 0 {
                ctx.violation("console_readable_buffer", chain.readable_len());
            }
            if chain.writable_len() < message.len() as u64 {
                ctx.violation("console_control_buffer_too_small", chain.writable_len());
            }
            let written = ctx.write(&chain, 0, message)?;
            self.messages.pop_front();
            ctx.complete(chain, u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    /// Takes a control message of the driver.
    fn take_message(&mut self, chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let mut bytes = [0; MESSAGE_LEN];
        let got = ctx.read(&chain, 0, &mut bytes)?;
        if chain.writable_len() > 0 {
            ctx.violation("console_writable_buffer", chain.writable_len());
        }
        if ctx.is_legacy() && !ctx.has(ANY_LAYOUT) && chain.readable().len() > 1 {
            ctx.violation("console_control_framing", chain.readable().len() as u64);
        }
        ctx.complete(chain, 0)?;
        if got < MESSAGE_LEN {
            ctx.violation("console_control_length", got as u64);
            return Ok(());
        }
        let message = Message::decode(&bytes);
        match message.event {
            event::DEVICE_READY if message.value == 1 => {
                for port in 0..self.settings.ports() {
                    self.tell(port, event::PORT_ADD, 1, &[], ctx)?;
                }
                Ok(())
            }
            // The driver failed to set itself up; nothing is left to do.
            event::DEVICE_READY => Ok(()),
            event::PORT_READY | event::PORT_OPEN => self.port_message(message, ctx),
            other => {
                ctx.violation("console_control_event", other.into());
                Ok(())
            }
        }
    }

    fn port_message(&mut self, message: Message, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let index = usize::try_from(message.port).unwrap_or(usize::MAX);
        let Some(port) = self.ports.get_mut(index) else {
            ctx.violation("console_no_such_port", message.port.into());
            return Ok(());
        };
        let n = port.number;
        if message.event == event::PORT_OPEN {
            port.open = message.value != 0;
            return self.receive(n, ctx);
        }
        if message.value != 1 {
            // The driver could not add the port.
            port.ready = false;
            return Ok(());
        }
        port.ready = true;
        let connected = self.backend.connected(n);
        port.told_connected = connected;
        if n == 0 {
            self.tell(n, event::CONSOLE_PORT, 1, &[], ctx)?;
            let size = control::size(self.cols, self.rows);
            self.tell(n, event::RESIZE, 0, &size, ctx)?;
        } else {
            let name = ConsoleSettings::port_name(n);
            self.tell(n, event::PORT_NAME, 1, name.as_bytes(), ctx)?;
        }
        if connected {
            self.tell(n, event::PORT_OPEN, 1, &[], ctx)?;
        }
        Ok(())
    }

    /// Tells the driver of other ends that came or went.
    fn tell_connections(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        for n in 0..self.settings.ports() {
            let connected = self.backend.connected(n);
            let Some(port) = self.ports.get_mut(usize::from(n)) else {
                continue;
            };
            if port.ready && port.told_connected != connected {
                port.told_connected = connected;
                self.tell(n, event::PORT_OPEN, connected.into(), &[], ctx)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, n: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let multiport = ctx.has(console::MULTIPORT);
        match self.ports.get_mut(usize::from(n)) {
            Some(port) => port.receive(self.backend.as_mut(), multiport, ctx),
            None => Ok(()),
        }
    }

    fn transmit(&mut self, n: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        match self.ports.get_mut(usize::from(n)) {
            Some(port) => port.transmit(self.backend.as_mut(), ctx),
            None => Ok(()),
        }
    }

    fn sum(&self, of: impl Fn(&Port) -> u64) -> u64 {
        self.ports.iter().map(of).sum()
    }
}

impl VirtioDevice for ConsoleDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        self.settings.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        CONFIG_LEN as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(&self.settings.encode(self.cols, self.rows), offset, out);
    }

    /// Only the emergency field can be written, in any state; the character is in its low byte.
    fn write_config(&mut self, offset: u16, data: &[u8], _: Interface, ctx: &mut DeviceCtx<'_>) {
        if let (EMERGENCY_OFFSET, Some(byte)) = (offset, data.first()) {
            self.emergency += 1;
            self.backend.emergency(*byte);
            ctx.log(Event::Device {
                what: "emergency write",
                value: (*byte).into(),
            });
        }
    }

    fn always_writable(&self, offset: u16) -> bool {
        (EMERGENCY_OFFSET..CONFIG_LEN as u16).contains(&offset)
    }

    fn reset(&mut self) {
        self.messages.clear();
        for port in &mut self.ports {
            port.reset();
        }
    }

    fn queue_reset(&mut self, queue: u16) {
        if let Some(Role::Transmit(n)) = Self::role(queue, self.settings.multiport()) {
            if let Some(port) = self.ports.get_mut(usize::from(n)) {
                port.forget_buffer();
            }
        }
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        match Self::role(queue, ctx.has(console::MULTIPORT)) {
            Some(Role::Receive(n)) => self.receive(n, ctx),
            Some(Role::Transmit(n)) => self.transmit(n, ctx),
            Some(Role::ControlReceive) => self.send_messages(ctx),
            Some(Role::ControlTransmit) => {
                while let Some(chain) = ctx.pop(queue)? {
                    self.take_message(chain, ctx)?;
                }
                Ok(())
            }
            None => {
                ctx.violation("console_queue_without_multiport", queue.into());
                Ok(())
            }
        }
    }

    fn wake(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        self.backend.poll();
        self.tell_connections(ctx)?;
        for n in 0..self.settings.ports() {
            self.transmit(n, ctx)?;
            self.receive(n, ctx)?;
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rx_bytes", self.sum(|p| p.received)),
            ("tx_bytes", self.sum(|p| p.transmitted)),
            ("tx_lost", self.backend.lost()),
            ("emergency_writes", self.emergency),
            ("messages_lost", self.messages_lost),
            ("open_ports", self.sum(|p| p.open.into())),
        ]
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        let DeviceControl::Screen { cols, rows } = control else {
            return Err(ControlError::NotSupported("console"));
        };
        (self.cols, self.rows) = (*cols, *rows);
        ctx.config_changed();
        if self.ports.first().is_some_and(|port| port.ready) {
            let size = control::size(*cols, *rows);
            self.tell(0, event::RESIZE, 0, &size, ctx)
                .map_err(|e| ControlError::Refused(e.to_string()))?;
        }
        Ok(())
    }
}
