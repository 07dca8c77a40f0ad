// SPDX-License-Identifier: GPL-2.0-or-later
//! Settings, features and device configuration of a console function.

use virtio_modern_spec::bytes::{put_u16, put_u32};
use virtio_modern_spec::features::{bit, console};

/// Bytes of the device configuration.
pub const CONFIG_LEN: usize = 12;
/// Byte of the configuration that takes emergency output.
pub const EMERGENCY_OFFSET: u16 = 8;
/// Most ports of a function: each has two queues and a name on the host.
pub const MAX_PORTS: u16 = 32;

/// What the front end chooses for each console function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSettings {
    /// Entries of each queue.
    pub queue_size: u16,
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
    /// Ports besides the console itself, which is port 0; MULTIPORT is offered if there is one.
    pub extra_ports: u16,
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        Self {
            queue_size: 64,
            cols: 80,
            rows: 25,
            extra_ports: 0,
        }
    }
}

impl ConsoleSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        if !self.queue_size.is_power_of_two() || self.queue_size > 32768 {
            return Err(format!(
                "console: queue size {} is not a power of two up to 32768",
                self.queue_size
            ));
        }
        if self.extra_ports >= MAX_PORTS {
            return Err(format!(
                "console: {} extra ports; at most {} are possible",
                self.extra_ports,
                MAX_PORTS - 1
            ));
        }
        Ok(())
    }

    /// Whether MULTIPORT is offered.
    pub fn multiport(&self) -> bool {
        self.extra_ports > 0
    }

    /// All ports.
    pub fn ports(&self) -> u16 {
        self.extra_ports + 1
    }

    /// Name of a port by which a driver's user finds it.
    pub fn port_name(port: u16) -> String {
        format!("vlvf.{port}")
    }

    /// Features of the type; the same through both interfaces.
    pub fn features(&self) -> u64 {
        let multiport = match self.multiport() {
            true => bit(console::MULTIPORT),
            false => 0,
        };
        bit(console::SIZE) | bit(console::EMERG_WRITE) | multiport
    }

    /// Number of queues: two per port, and two for control if there are several ports.
    pub fn queues(&self) -> usize {
        let ports = usize::from(self.ports());
        2 * (ports + usize::from(self.multiport()))
    }

    /// The whole configuration; the emergency field reads as 0.
    pub fn encode(&self, cols: u16, rows: u16) -> [u8; CONFIG_LEN] {
        let mut c = [0; CONFIG_LEN];
        // Every offset is inside of the array, see the layout test.
        let _ = put_u16(&mut c, 0, cols)
            && put_u16(&mut c, 2, rows)
            && put_u32(&mut c, 4, self.ports().into());
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_pci_spec::config::{field_at, full_len};
    use virtio_pci_spec::DeviceType;

    // Covers: CON-01
    #[test]
    fn fields_are_where_the_specification_has_them() {
        let settings = ConsoleSettings {
            extra_ports: 3,
            ..ConsoleSettings::default()
        };
        let c = settings.encode(0x0102, 0x0304);
        assert_eq!(c, [2, 1, 4, 3, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(full_len(DeviceType::Console), CONFIG_LEN as u16);
        let field = field_at(DeviceType::Console, EMERGENCY_OFFSET).unwrap();
        assert!(field.name == "emerg_wr" && field.writable);
    }

    #[test]
    fn ports_decide_about_queues_and_features() {
        let mut settings = ConsoleSettings::default();
        assert_eq!((settings.queues(), settings.features()), (2, 0b101));
        settings.extra_ports = 1;
        assert_eq!((settings.queues(), settings.features()), (6, 0b111));
        settings.extra_ports = MAX_PORTS;
        assert!(settings.check().unwrap_err().contains("ports"));
        settings.queue_size = 5;
        assert!(settings.check().unwrap_err().contains("queue size"));
    }
}
