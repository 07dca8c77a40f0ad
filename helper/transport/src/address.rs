// SPDX-License-Identifier: GPL-2.0-or-later
//! Names of things that the kernel writes as text: PCI addresses and VF tokens.

use std::fmt;
use std::str::FromStr;

/// A PCI address in the form sysfs uses, `dddd:bb:dd.f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device (5 bits) and function (3 bits).
    pub devfn: u8,
}

impl PciAddress {
    /// Parses `dddd:bb:dd.f`; the domain has 4 to 8 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        fn hex(s: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
            (digits.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u32::from_str_radix(s, 16).ok())?
        }
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let device = hex(device, 2..=2).filter(|d| *d < 32)?;
        let function = hex(function, 1..=1).filter(|f| *f < 8)?;
        Some(PciAddress {
            domain: hex(domain, 4..=8)?,
            bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
            devfn: u8::try_from(device << 3 | function).ok()?,
        })
    }
}

impl PciAddress {
    /// Bus, device and function as one number; that of a VF is its PF's and an offset.
    pub fn routing_id(&self) -> u16 {
        u16::from(self.bus) << 8 | u16::from(self.devfn)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain,
            self.bus,
            self.devfn >> 3,
            self.devfn & 7
        )
    }
}

/// Not a PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address; give DOMAIN:BUS:DEVICE.FUNCTION, as in 0000:03:00.0")]
pub struct NotAnAddress;

impl FromStr for PciAddress {
    type Err = NotAnAddress;

    /// As people write it: the domain may be left out.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        PciAddress::parse(text)
            .or_else(|| PciAddress::parse(&format!("0000:{text}")))
            .ok_or(NotAnAddress)
    }
}

/// The secret that openers of a VF show to the kernel: a UUID in the byte order of its text. Its
/// `Debug` form does not tell it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VfToken(pub [u8; 16]);

impl fmt::Debug for VfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VfToken(..)")
    }
}

impl fmt::Display for VfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                write!(f, "-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID; make one with uuidgen")]
pub struct NotAToken;

impl FromStr for VfToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let dashes = [8, 13, 18, 23];
        let shaped = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| {
                if dashes.contains(&i) {
                    b == b'-'
                } else {
                    b.is_ascii_hexdigit()
                }
            });
        if !shaped {
            return Err(NotAToken);
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16)
            .map(|n| VfToken(n.to_be_bytes()))
            .map_err(|_| NotAToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_and_sysfs_write_them() {
        let a: PciAddress = "03:00.1".parse().unwrap();
        assert_eq!(a.to_string(), "0000:03:00.1");
        assert_eq!(
            "10000:e1:1f.7".parse::<PciAddress>().unwrap().domain,
            0x10000
        );
        for bad in [
            "",
            "3:0.0",
            "0000:03:20.0",
            "0000:03:00.8",
            "0000:03:00.0/..",
            "0000:03:00",
        ] {
            assert_eq!(bad.parse::<PciAddress>(), Err(NotAnAddress), "{bad}");
        }
    }

    #[test]
    fn a_token_keeps_the_order_of_its_text_and_is_not_shown_by_debug() {
        let text = "14d63f20-8445-11ea-8900-1f9ce7d5650d";
        let t: VfToken = text.parse().unwrap();
        assert_eq!(t.0[..3], [0x14, 0xd6, 0x3f]);
        assert_eq!(t.to_string(), text);
        assert_eq!(format!("{t:?}"), "VfToken(..)");
        for bad in [
            "",
            "14d63f20844511ea89001f9ce7d5650d",
            "14d63f20-8445-11ea-8900-1f9ce7d5650g",
            "14d63f2-08445-11ea-8900-1f9ce7d5650d",
            "14d63f20-8445-11ea-8900-1f9ce7d5650d0",
        ] {
            assert_eq!(bad.parse::<VfToken>(), Err(NotAToken), "{bad}");
        }
    }
}
