// SPDX-License-Identifier: GPL-2.0-or-later
//! The network device behind the model: a legacy driver on VF 1, sometimes a second one.

use proptest::prelude::*;
use virtio_modern_spec::features::{bit, net};
use virtio_pci_spec::DeviceType;

use super::*;
use crate::testing::{AdminClient, Buffer, Driver, DriverRing, LegacyVf, TestMemory};
use crate::{Effect, FunctionId, ModelConfig};

mod commands;
mod frames;

const RX: u16 = 0;
const TX: u16 = 1;
const PEER: Mac = [0x52, 0x54, 0, 0x77, 0, 1];
const VF1: Mac = [0x52, 0x54, 0, 0x77, 1, 1];
const VF2: Mac = [0x52, 0x54, 0, 0x77, 1, 2];

fn features(bits: &[u32]) -> u32 {
    bits.iter().fold(0, |all, n| all | bit(*n) as u32)
}

fn device(settings: &NetSettings) -> LegacyVf {
    let model = model(ModelConfig::new(DeviceType::Net, 2), settings).unwrap();
    LegacyVf::start(model, 1)
}

fn frame(to: Mac, from: Mac, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn frames_out(vf: &mut LegacyVf) -> Vec<Vec<u8>> {
    vf.model
        .take_effects()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::FrameOut(bytes) => Some(bytes),
            _ => None,
        })
        .collect()
}

/// A driver with receive and transmit queue.
struct Nic {
    vf: LegacyVf,
    rx: DriverRing,
    tx: DriverRing,
    header: usize,
}

impl Nic {
    fn new(accepted: u32) -> Self {
        Self::with(&NetSettings::default(), accepted)
    }

    fn with(settings: &NetSettings, accepted: u32) -> Self {
        let mut vf = device(settings);
        vf.negotiate(accepted);
        let (rx, tx) = (vf.queue(RX), vf.queue(TX));
        vf.driver_ok();
        let header = header::header_len(true, accepted & features(&[net::MRG_RXBUF]) != 0);
        Self { vf, rx, tx, header }
    }

    /// Offers one receive buffer cut into pieces.
    fn offer(&mut self, lens: &[usize]) -> Vec<Buffer> {
        let pieces = self.vf.writable(lens);
        self.rx.add(&pieces);
        self.vf.kick(RX);
        pieces
    }

    /// A frame from outside; what arrives in a buffer of usual size, without the header.
    fn receive(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let pieces = self.offer(&[self.header, 1514]);
        self.vf.model.rx_frame(frame);
        match self.rx.poll() {
            Some((_, used)) => {
                let bytes = self.vf.bytes(&pieces);
                Some(bytes[self.header..used as usize].to_vec())
            }
            None => None,
        }
    }

    fn send(&mut self, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let pieces = self.vf.readable(pieces);
        self.tx.add(&pieces);
        self.vf.kick(TX);
        assert_eq!(self.tx.poll().map(|(_, used)| used), Some(0));
        frames_out(&mut self.vf)
    }
}

/// Sends a command in pieces and gives the answer.
fn control(vf: &mut LegacyVf, ring: &mut DriverRing, index: u16, pieces: &[&[u8]]) -> u8 {
    let mut buffers = vf.readable(pieces);
    let ack = vf.writable(&[1]);
    buffers.extend(&ack);
    ring.add(&buffers);
    vf.kick(index);
    assert_eq!(ring.poll().map(|(_, used)| used), Some(1));
    vf.bytes(&ack)[0]
}

const ALL_CONTROL: [u32; 6] = [
    net::CTRL_VQ,
    net::CTRL_RX,
    net::CTRL_RX_EXTRA,
    net::CTRL_VLAN,
    net::CTRL_MAC_ADDR,
    net::MAC,
];

// Covers: NET-01, NET-08, INI-13
#[test]
fn configuration_through_the_legacy_interface() {
    let mut vf = device(&NetSettings {
        max_queue_pairs: 3,
        ..NetSettings::default()
    });
    // Before any feature was looked at.
    assert_eq!(vf.config(6, 2), 1, "link up");
    assert_eq!(vf.config(8, 2), 3, "max_virtqueue_pairs");
    assert_eq!(vf.config(10, 2), 1500, "mtu");
    for (i, byte) in VF1.iter().enumerate() {
        assert_eq!(vf.config(i as u8, 1), u64::from(*byte));
    }
}

// Covers: NET-02, INI-11
#[test]
fn a_legacy_driver_writes_the_address_before_anything_else() {
    let mut vf = device(&NetSettings::default());
    let new = [2, 0, 0, 0, 0, 9];
    vf.set_config(0, &new);
    assert_eq!(vf.config(0, 6).to_le_bytes()[..6], new);
    // The filter follows.
    let rx = vf.queue(RX);
    vf.driver_ok();
    let header = header::SHORT_LEN;
    let mut nic = Nic {
        tx: DriverRing::legacy(&vf.memory, 4),
        vf,
        rx,
        header,
    };
    assert_eq!(nic.receive(&frame(VF1, PEER, 60)), None);
    assert_eq!(nic.receive(&frame(new, PEER, 60)).unwrap().len(), 60);
    // A reset brings the permanent address back.
    nic.vf.set_status(0);
    assert_eq!(nic.vf.config(0, 6).to_le_bytes()[..6], VF1);
}

// Covers: NET-03
#[test]
fn a_half_written_address_receives_nothing() {
    let mut nic = Nic::new(0);
    let new = [2, 0x54, 1, 2, 3, 4];
    for at in 0..6 {
        let mut half = VF1;
        half[..=at].copy_from_slice(&new[..=at]);
        nic.vf.set_config(at as u8, &[new[at]]);
        assert_eq!(nic.vf.config(at as u8, 1), u64::from(new[at]), "read back");
        let last = at == 5;
        assert_eq!(nic.receive(&frame(half, PEER, 60)).is_some(), last, "{at}");
        assert_eq!(nic.receive(&frame(VF1, PEER, 60)).is_none(), last, "{at}");
    }
}

// Covers: NET-02
#[test]
fn a_modern_driver_cannot_write_the_address() {
    let mut model = model(
        ModelConfig::new(DeviceType::Net, 1),
        &NetSettings::default(),
    )
    .unwrap();
    AdminClient::ready(&mut model, &TestMemory::new(0x10_0000, 1 << 20), 1);
    let driver = Driver::new(
        &mut model,
        FunctionId::Vf(1),
        &TestMemory::new(0x4000_0000, 1 << 16),
    );
    let at = driver.capability(&mut model, virtio_pci_spec::pci::CAP_ID_VENDOR, Some(4));
    let (bar, offset) = (
        driver.config(&mut model, at + 4, 1) as u8,
        driver.config(&mut model, at + 8, 4),
    );
    let accepted = crate::testing::MODERN_FEATURES | bit(net::MAC);
    assert!(driver.negotiate(&mut model, accepted));
    driver.write(&mut model, bar, offset, 1, 0x66);
    assert_eq!(driver.read(&mut model, bar, offset, 1), 0x52);
}

// Covers: INI-04
#[test]
fn control_features_are_refused_without_the_control_queue() {
    let mut model = model(
        ModelConfig::new(DeviceType::Net, 1),
        &NetSettings::default(),
    )
    .unwrap();
    AdminClient::ready(&mut model, &TestMemory::new(0x10_0000, 1 << 20), 1);
    let memory = TestMemory::new(0x4000_0000, 1 << 16);
    let driver = Driver::new(&mut model, FunctionId::Vf(1), &memory);
    let base = crate::testing::MODERN_FEATURES;
    for feature in [
        net::CTRL_RX,
        net::CTRL_RX_EXTRA,
        net::CTRL_VLAN,
        net::GUEST_ANNOUNCE,
        net::MQ,
        net::CTRL_MAC_ADDR,
    ] {
        for (with, good) in [(bit(net::CTRL_VQ), true), (0, false)] {
            let accepted = base | bit(feature) | with;
            assert_eq!(
                driver.negotiate(&mut model, accepted),
                good,
                "bit {feature}"
            );
        }
    }
    // Any of the others alone.
    for feature in [net::MAC, net::STATUS, net::MTU, net::MRG_RXBUF, net::CSUM] {
        assert!(driver.negotiate(&mut model, base | bit(feature)));
    }
}

#[test]
fn two_vfs_talk_to_each_other() {
    let mut one = Nic::new(0);
    let memory = TestMemory::new(0x8000_0000, 1 << 20);
    Driver::new(&mut one.vf.model, FunctionId::Vf(2), &memory);
    one.vf.vf = 2;
    let own = std::mem::replace(&mut one.vf.memory, memory);
    one.vf.set_status(3);
    let mut rx2 = one.vf.queue(RX);
    let room = one.vf.writable(&[1600]);
    rx2.add(&room);
    let second = std::mem::replace(&mut one.vf.memory, own);
    one.vf.vf = 1;
    let data = frame(VF2, VF1, 333);
    assert!(
        one.send(&[&[0; 10], &data]).is_empty(),
        "it stays in the card"
    );
    assert_eq!(rx2.poll().map(|(_, used)| used), Some(343));
    assert_eq!(second.get(room[0].addr + 10, 333), data);
    // A broadcast reaches both the neighbour and the outside.
    rx2.add(&room);
    let all = frame(filter::BROADCAST, VF1, 60);
    assert_eq!(one.send(&[&[0; 10], &all]), std::slice::from_ref(&all));
    assert_eq!(rx2.poll().map(|(_, used)| used), Some(70));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a driver puts into its rings, the device neither panics nor stops serving.
    #[test]
    fn any_buffers_are_survived(
        buffers in prop::collection::vec(
            (0..3u16, prop::collection::vec((any::<bool>(), 0..2000usize, any::<u8>()), 1..6)),
            1..40,
        ),
        accepted in any::<u32>(),
    ) {
        let mut nic = Nic::new(accepted & features(&ALL_CONTROL) | accepted & features(&[net::MRG_RXBUF]));
        let mut control = nic.vf.queue(2);
        for (queue, pieces) in buffers {
            let mut readable = Vec::new();
            let mut writable = Vec::new();
            for (write, len, fill) in pieces {
                if write {
                    writable.extend(nic.vf.writable(&[len.max(1)]));
                } else {
                    readable.extend(nic.vf.readable(&[&vec![fill % 5; len.max(1)]]));
                }
            }
            readable.extend(writable);
            match queue {
                RX => nic.rx.add(&readable),
                TX => nic.tx.add(&readable),
                _ => control.add(&readable),
            };
            nic.vf.kick(queue);
            nic.vf.model.rx_frame(&frame(VF1, PEER, 64 + usize::from(queue) * 500));
            while nic.rx.poll().is_some() || nic.tx.poll().is_some() || control.poll().is_some() {}
        }
        let counters = nic.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
        prop_assert_eq!(counters.dma_forbidden, 0);
    }
}
