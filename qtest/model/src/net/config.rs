// SPDX-License-Identifier: GPL-2.0-or-later
//! Settings, features and device configuration of a network function.

use virtio_modern_spec::bytes::put_u16;
use virtio_modern_spec::features::{bit, net};

use super::filter::Mac;
use crate::effect::FunctionId;
use crate::settings::check_queue_size;

/// Bytes of the device configuration: mac, status, max_virtqueue_pairs, mtu.
pub const CONFIG_LEN: usize = 12;
/// Bytes of the configuration a legacy driver may write: the MAC address.
pub const MAC_LEN: usize = 6;

/// `status` bit: the link is up.
pub const STATUS_LINK_UP: u16 = 1;
/// `status` bit: the driver is asked to announce itself.
pub const STATUS_ANNOUNCE: u16 = 2;

/// Smallest MTU the specification allows.
pub const MIN_MTU: u16 = 68;
/// Largest number of queue pairs of this device (the specification allows 0x8000).
pub const MAX_PAIRS: u16 = 128;

/// What the front end chooses for each network function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSettings {
    /// MAC address of the PF; VF n gets it with n added to the last two bytes.
    pub mac: Mac,
    /// Largest packet without the Ethernet header.
    pub mtu: u16,
    /// Queue pairs a driver can use.
    pub max_queue_pairs: u16,
    /// Entries of the receive and transmit queues.
    pub queue_size: u16,
    /// Frames that wait for receive buffers, per VF; more are dropped.
    pub backlog: usize,
}

impl Default for NetSettings {
    fn default() -> Self {
        Self {
            mac: [0x52, 0x54, 0x00, 0x77, 0x01, 0x00],
            mtu: 1500,
            max_queue_pairs: 1,
            queue_size: 256,
            backlog: 1024,
        }
    }
}

impl NetSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        if self.mtu < MIN_MTU {
            return Err(format!("net: MTU {} is below {MIN_MTU}", self.mtu));
        }
        if self.max_queue_pairs == 0 || self.max_queue_pairs > MAX_PAIRS {
            return Err(format!(
                "net: {} queue pairs; 1 to {MAX_PAIRS} are possible",
                self.max_queue_pairs
            ));
        }
        check_queue_size("net", self.queue_size)?;
        if super::filter::is_multicast(&self.mac) {
            return Err("net: the MAC address is a group address".into());
        }
        Ok(())
    }

    /// Longest frame that goes in or out: the MTU, the Ethernet header and a VLAN tag.
    pub fn max_frame(&self) -> usize {
        usize::from(self.mtu) + 14 + 4
    }

    /// The permanent MAC address of a function.
    pub fn mac_of(&self, function: FunctionId) -> Mac {
        let number = match function {
            FunctionId::Pf => 0,
            FunctionId::Vf(n) => n,
        };
        let [a, b, c, d, e, f] = self.mac;
        let [e, f] = u16::from_be_bytes([e, f])
            .wrapping_add(number)
            .to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Features of the type, the same through both interfaces: the only legacy-only bit, GSO,
    /// would promise segmentation of every kind.
    pub fn features(&self) -> u64 {
        bit(net::CSUM)
            | bit(net::MTU)
            | bit(net::MAC)
            | bit(net::MRG_RXBUF)
            | bit(net::STATUS)
            | bit(net::CTRL_VQ)
            | bit(net::CTRL_RX)
            | bit(net::CTRL_VLAN)
            | bit(net::CTRL_RX_EXTRA)
            | bit(net::GUEST_ANNOUNCE)
            | bit(net::MQ)
            | bit(net::CTRL_MAC_ADDR)
    }

    /// The configuration for a function with this address and `status`.
    pub fn encode(&self, mac: &Mac, status: u16) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        if let Some(dst) = config.get_mut(..MAC_LEN) {
            dst.copy_from_slice(mac);
        }
        // Every offset is inside of the array.
        let _ = put_u16(&mut config, 6, status)
            && put_u16(&mut config, 8, self.max_queue_pairs)
            && put_u16(&mut config, 10, self.mtu);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: NET-01, NET-08
    #[test]
    fn configuration_is_little_endian_and_in_range() {
        let settings = NetSettings {
            max_queue_pairs: 0x0102 / 4,
            mtu: 0x2345,
            ..NetSettings::default()
        };
        let config = settings.encode(&[1, 2, 3, 4, 5, 6], STATUS_LINK_UP);
        assert_eq!(config, [1, 2, 3, 4, 5, 6, 1, 0, 0x40, 0, 0x45, 0x23]);
        let default = NetSettings::default();
        assert_eq!(default.check(), Ok(()));
        assert!(default.mtu >= 1280);
    }

    // Covers: NET-07
    #[test]
    fn only_features_that_are_honoured_are_offered() {
        let features = NetSettings::default().features();
        for absent in [
            net::GSO,
            net::GUEST_CSUM,
            net::GUEST_TSO4,
            net::GUEST_TSO6,
            net::GUEST_ECN,
            net::GUEST_UFO,
            net::HOST_TSO4,
            net::HOST_TSO6,
            net::HOST_ECN,
            net::HOST_UFO,
            net::CTRL_GUEST_OFFLOADS,
            41,
            42,
            net::SPEED_DUPLEX,
        ] {
            assert_eq!(features & bit(absent), 0, "bit {absent}");
        }
        // Prerequisites.
        assert_ne!(features & bit(net::CTRL_VQ), 0);
        assert_ne!(features & bit(net::STATUS), 0);
    }

    // Covers: NET-08
    #[test]
    fn wrong_settings_are_named() {
        let good = NetSettings::default();
        for (bad, word) in [
            (
                NetSettings {
                    mtu: 67,
                    ..good.clone()
                },
                "MTU",
            ),
            (
                NetSettings {
                    max_queue_pairs: 0,
                    ..good.clone()
                },
                "queue pairs",
            ),
            (
                NetSettings {
                    max_queue_pairs: 129,
                    ..good.clone()
                },
                "queue pairs",
            ),
            (
                NetSettings {
                    queue_size: 0,
                    ..good.clone()
                },
                "queue size",
            ),
            (
                NetSettings {
                    mac: [0xff; 6],
                    ..good.clone()
                },
                "group",
            ),
        ] {
            assert!(bad.check().unwrap_err().contains(word));
        }
    }

    #[test]
    fn every_function_has_its_own_address() {
        let settings = NetSettings::default();
        assert_eq!(settings.mac_of(FunctionId::Pf), [0x52, 0x54, 0, 0x77, 1, 0]);
        assert_eq!(
            settings.mac_of(FunctionId::Vf(1)),
            [0x52, 0x54, 0, 0x77, 1, 1]
        );
        assert_eq!(
            settings.mac_of(FunctionId::Vf(256)),
            [0x52, 0x54, 0, 0x77, 2, 0]
        );
    }
}
