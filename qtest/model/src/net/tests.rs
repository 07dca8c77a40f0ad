// SPDX-License-Identifier: GPL-2.0-or-later
//! The network device behind the model: a legacy driver on VF 1, sometimes a second one.

use proptest::prelude::*;
use virtio_pci_spec::features::{bit, net, ANY_LAYOUT};
use virtio_pci_spec::DeviceType;

use super::config::MIN_MTU;
use super::*;
use crate::testing::{AdminClient, Buffer, Driver, DriverRing, LegacyVf, TestMemory};
use crate::{Effect, FunctionId, ModelConfig};

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

// Covers: NET-04, NET-06, VRG-10
#[test]
fn headers_of_both_lengths_in_every_layout() {
    for accepted in [
        0,
        features(&[net::MRG_RXBUF]),
        features(&[ANY_LAYOUT]),
        features(&[ANY_LAYOUT, net::MRG_RXBUF]),
    ] {
        let mut nic = Nic::new(accepted);
        let data = frame(PEER, VF1, 100);
        let head = vec![0; nic.header];
        let whole = [head.clone(), data.clone()].concat();
        // Header apart, all in one, and every cut.
        assert_eq!(nic.send(&[&head, &data]), std::slice::from_ref(&data));
        assert_eq!(nic.send(&[&whole]), std::slice::from_ref(&data));
        for cut in 1..whole.len() - 1 {
            let (a, b) = whole.split_at(cut);
            assert_eq!(
                nic.send(&[a, b]),
                std::slice::from_ref(&data),
                "cut at {cut}"
            );
        }
        let arriving = frame(VF1, PEER, 99);
        for lens in [
            vec![nic.header, 1514],
            vec![1600],
            vec![1, 1, 1, 1, 1600],
            vec![nic.header + 50, 2000],
        ] {
            let pieces = nic.offer(&lens);
            nic.vf.model.rx_frame(&arriving);
            let (_, used) = nic.rx.poll().unwrap();
            assert_eq!(used as usize, nic.header + 99, "{lens:?}");
            let bytes = nic.vf.bytes(&pieces);
            assert_eq!(bytes[nic.header..nic.header + 99], arriving);
            assert_eq!(bytes[nic.header + 99], 0xaa, "nothing behind the frame");
            let mut head = vec![0; nic.header];
            if nic.header == 12 {
                head[10] = 1;
            }
            assert_eq!(bytes[..nic.header], head);
        }
    }
}

// Covers: NET-04, VRG-07, VRG-09
#[test]
fn a_frame_over_several_merged_buffers_becomes_visible_at_once() {
    let mut nic = Nic::new(features(&[net::MRG_RXBUF]));
    let arriving = frame(VF1, PEER, 1000);
    let first = nic.offer(&[5]);
    nic.offer(&[400]);
    nic.vf.model.rx_frame(&arriving);
    assert_eq!(nic.rx.used_idx(), 0, "not enough room yet");
    let third = nic.offer(&[700]);
    // All three, with lengths that add up.
    assert_eq!(nic.rx.used_idx(), 3);
    let used: Vec<u32> = (0..3).map(|_| nic.rx.poll().unwrap().1).collect();
    assert_eq!(used, [5, 400, 607]);
    assert_eq!(nic.vf.bytes(&first), [0; 5]);
    let tail = nic.vf.bytes(&third);
    assert_eq!(tail[..607], arriving[1000 - 607..]);
    assert_eq!(tail[607], 0xaa);
}

#[test]
fn frames_wait_for_buffers_but_not_without_bound() {
    let settings = NetSettings {
        backlog: 3,
        ..NetSettings::default()
    };
    let mut nic = Nic::with(&settings, 0);
    for n in 0..5 {
        nic.vf.model.rx_frame(&frame(VF1, PEER, 60 + n));
    }
    for n in 0..3 {
        let pieces = nic.offer(&[1600]);
        let (_, used) = nic.rx.poll().unwrap();
        assert_eq!(used as usize, 10 + 60 + n);
        assert_eq!(
            nic.vf.bytes(&pieces)[10..10 + 60 + n],
            frame(VF1, PEER, 60 + n)
        );
    }
    nic.offer(&[600]);
    assert_eq!(nic.rx.poll(), None);
    let counters = nic.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((counters.rx_frames, counters.rx_dropped), (3, 2));
    // A buffer that is too small is not used up.
    nic.vf.model.rx_frame(&frame(VF1, PEER, 700));
    nic.vf.model.rx_frame(&frame(VF1, PEER, 70));
    assert_eq!(nic.rx.poll().map(|(_, used)| used), Some(80));
}

// Covers: NET-08
#[test]
fn frames_up_to_the_mtu_pass_and_longer_ones_do_not() {
    for mtu in [MIN_MTU, 1500, 9000, u16::MAX] {
        let settings = NetSettings {
            mtu,
            ..NetSettings::default()
        };
        let mut nic = Nic::with(&settings, features(&[net::MTU]));
        // With a VLAN tag.
        let longest = usize::from(mtu) + 18;
        for (len, passes) in [(longest, true), (longest + 1, false)] {
            let sent = nic.send(&[&[0; 10], &frame(PEER, VF1, len)]);
            assert_eq!(
                sent.len(),
                usize::from(passes),
                "{len} bytes out, MTU {mtu}"
            );
            nic.offer(&[longest + 100]);
            nic.vf.model.rx_frame(&frame(VF1, PEER, len));
            assert_eq!(nic.rx.poll().is_some(), passes, "{len} bytes in, MTU {mtu}");
        }
    }
}

// Covers: INI-12
#[test]
fn an_old_driver_sends_before_driver_ok() {
    let mut vf = device(&NetSettings::default());
    vf.set_status(3);
    let mut tx = vf.queue(TX);
    let data = frame(PEER, VF1, 60);
    tx.add(&vf.readable(&[&[0; 10], &data]));
    vf.kick(TX);
    assert_eq!(tx.poll(), Some((0, 0)));
    assert_eq!(frames_out(&mut vf), [data]);
}

#[test]
fn malformed_frames_are_dropped_and_their_buffers_given_back() {
    let mut nic = Nic::new(features(&[net::CSUM]));
    let short = frame(PEER, VF1, 14);
    assert_eq!(nic.send(&[&[0; 10], &short]).len(), 1);
    assert!(nic.send(&[&[0; 10], &short[..13]]).is_empty());
    assert!(nic.send(&[&[0; 10]]).is_empty());
    assert!(nic.send(&[&[0; 9]]).is_empty());
    assert!(nic.send(&[&[0; 10], &frame(PEER, VF1, 1519)]).is_empty());
    // Segmentation was not offered; a checksum field outside of the frame.
    assert!(nic
        .send(&[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &short])
        .is_empty());
    assert!(nic
        .send(&[&[1, 0, 0, 0, 0, 0, 14, 0, 0, 0], &short])
        .is_empty());
    let counters = nic.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((counters.tx_frames, counters.tx_dropped), (1, 6));
    assert_eq!(counters.needs_reset, 0);
}

#[test]
fn a_partial_checksum_is_completed_if_that_was_negotiated() {
    let data = frame(PEER, VF1, 60);
    let head = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
    let mut nic = Nic::new(features(&[net::CSUM]));
    let sent = nic.send(&[&head, &data]).pop().unwrap();
    assert_ne!(sent[50..52], data[50..52]);
    assert_eq!(sent[..50], data[..50]);
    assert_eq!(sent[52..], data[52..]);
    let mut nic = Nic::new(0);
    assert!(nic.send(&[&head, &data]).is_empty());
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

// Covers: NET-05, NET-06, NET-09
#[test]
fn control_commands_in_legacy_and_merged_framing() {
    let mut nic = Nic::new(features(&ALL_CONTROL));
    // Without MQ the control queue is queue 2.
    let mut ring = nic.vf.queue(2);
    let mut run = |nic: &mut Nic, pieces: &[&[u8]]| control(&mut nic.vf, &mut ring, 2, pieces);
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let other = [2, 0, 0, 0, 0, 7];
    assert!(nic.receive(&frame(group, PEER, 60)).is_none());
    // MAC_TABLE_SET as old drivers cut it: command, two tables.
    let unicast = [&1u32.to_le_bytes()[..], &other].concat();
    let multicast = [&1u32.to_le_bytes()[..], &group].concat();
    assert_eq!(
        run(&mut nic, &[&[1, 0], &unicast, &multicast]),
        control::ACK_OK
    );
    assert!(nic.receive(&frame(group, PEER, 60)).is_some());
    assert!(nic.receive(&frame(other, PEER, 60)).is_some());
    // The same in one piece, with empty tables.
    assert_eq!(
        run(&mut nic, &[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]),
        control::ACK_OK
    );
    assert!(nic.receive(&frame(group, PEER, 60)).is_none());
    assert!(nic.receive(&frame(other, PEER, 60)).is_none());
    // Promiscuous on and off.
    assert_eq!(run(&mut nic, &[&[0, 0], &[1]]), control::ACK_OK);
    assert!(nic.receive(&frame(other, PEER, 60)).is_some());
    assert_eq!(run(&mut nic, &[&[0, 0], &[0]]), control::ACK_OK);
    assert!(nic.receive(&frame(other, PEER, 60)).is_none());
    // VLANs.
    let mut tagged = frame(VF1, PEER, 64);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0x01, 0x02]);
    assert!(nic.receive(&tagged).is_none());
    assert_eq!(
        run(&mut nic, &[&[2, 0], &0x102u16.to_le_bytes()]),
        control::ACK_OK
    );
    assert!(nic.receive(&tagged).is_some());
    // What is not known or not negotiated.
    assert_eq!(run(&mut nic, &[&[9, 9]]), control::ACK_ERR);
    assert_eq!(run(&mut nic, &[&[4, 0], &[1, 0]]), control::ACK_ERR);
    assert_eq!(run(&mut nic, &[&[1]]), control::ACK_ERR);
    assert_eq!(
        run(&mut nic, &[&vec![1; control::MAX_COMMAND + 1]]),
        control::ACK_ERR
    );
}

// Covers: NET-11
#[test]
fn mac_addr_set_counts_before_the_command_is_used() {
    let mut nic = Nic::new(features(&ALL_CONTROL));
    let mut ring = nic.vf.queue(2);
    let new = [2, 0, 0, 0, 0, 8];
    assert_eq!(
        control(&mut nic.vf, &mut ring, 2, &[&[1, 1], &new]),
        control::ACK_OK
    );
    assert_eq!(nic.vf.config(0, 6).to_le_bytes()[..6], new);
    assert!(nic.receive(&frame(new, PEER, 60)).is_some());
    assert!(nic.receive(&frame(VF1, PEER, 60)).is_none());
    // A group address is no address of a station.
    let group = [1, 0, 0, 0, 0, 8];
    assert_eq!(
        control(&mut nic.vf, &mut ring, 2, &[&[1, 1], &group]),
        control::ACK_ERR
    );
}

// Covers: NET-09, NET-11
#[test]
fn pairs_and_control_queue_with_multiqueue() {
    let settings = NetSettings {
        max_queue_pairs: 2,
        ..NetSettings::default()
    };
    let accepted = features(&[net::CTRL_VQ, net::MQ]);
    let mut nic = Nic::with(&settings, accepted);
    let (mut rx1, mut tx1) = (nic.vf.queue(2), nic.vf.queue(3));
    let mut ring = nic.vf.queue(4);
    let mut set = |nic: &mut Nic, pairs: u16| {
        control(&mut nic.vf, &mut ring, 4, &[&[4, 0], &pairs.to_le_bytes()])
    };
    rx1.add(&nic.vf.writable(&[1600]));
    // With one pair everything arrives on the first, whatever was sent where.
    let question = frame(PEER, VF1, 60);
    let answer = frame(VF1, PEER, 60);
    let ask = |nic: &mut Nic, tx: &mut DriverRing| {
        tx.add(&nic.vf.readable(&[&[0; 10], &question]));
        nic.vf.kick(3);
        assert!(tx.poll().is_some());
    };
    ask(&mut nic, &mut tx1);
    assert!(nic.receive(&answer).is_some());
    assert_eq!(set(&mut nic, 2), control::ACK_OK);
    ask(&mut nic, &mut tx1);
    assert!(nic.receive(&answer).is_none());
    assert_eq!(rx1.poll().map(|(_, used)| used), Some(70));
    // Back to one pair, and out of range.
    assert_eq!(set(&mut nic, 1), control::ACK_OK);
    nic.vf.model.rx_frame(&answer);
    assert!(nic.rx.poll().is_some(), "the buffer of the last attempt");
    for wrong in [0, 3, 0x8000, 0xffff] {
        assert_eq!(set(&mut nic, wrong), control::ACK_ERR, "{wrong} pairs");
    }
}

// Covers: NET-11, INI-07
#[test]
fn a_reset_forgets_filters_and_waiting_frames() {
    let mut nic = Nic::new(features(&ALL_CONTROL));
    let mut ring = nic.vf.queue(2);
    let other = [2, 0, 0, 0, 0, 7];
    let table = [&1u32.to_le_bytes()[..], &other, &[0; 4]].concat();
    assert_eq!(
        control(&mut nic.vf, &mut ring, 2, &[&[1, 0], &table]),
        control::ACK_OK
    );
    assert_eq!(
        control(&mut nic.vf, &mut ring, 2, &[&[0, 0], &[1]]),
        control::ACK_OK
    );
    nic.vf.model.rx_frame(&frame(VF1, PEER, 60));
    nic.vf.negotiate(features(&ALL_CONTROL));
    nic.rx = nic.vf.queue(RX);
    nic.vf.driver_ok();
    assert!(nic.receive(&frame(other, PEER, 60)).is_none());
    let mut old = frame(VF1, PEER, 61);
    old[20] = 7;
    nic.vf.model.rx_frame(&old);
    // The first frame after the reset, not the one that waited before it.
    assert_eq!(nic.rx.poll().map(|(_, used)| used), Some(71));
}

// Covers: NET-10
#[test]
fn link_changes_reach_the_driver_and_stop_the_traffic() {
    for status in [true, false] {
        let mut nic = Nic::new(if status { features(&[net::STATUS]) } else { 0 });
        nic.vf.isr();
        let vf = FunctionId::Vf(1);
        let link = |up| DeviceControl::Link { up };
        nic.vf.model.control(vf, &link(false)).unwrap();
        assert_eq!(nic.vf.config(6, 2), 0);
        // A driver without STATUS assumes a link and is not told.
        assert_eq!(nic.vf.isr() & 2 != 0, status);
        assert!(nic.receive(&frame(VF1, PEER, 60)).is_none());
        assert!(nic.send(&[&[0; 10], &frame(PEER, VF1, 60)]).is_empty());
        nic.vf.model.control(vf, &link(true)).unwrap();
        assert_eq!(nic.vf.config(6, 2), 1);
        assert_eq!(nic.vf.isr() & 2 != 0, status);
        assert_eq!(nic.send(&[&[0; 10], &frame(PEER, VF1, 60)]).len(), 1);
        // Nothing changed: nothing to tell.
        nic.vf.model.control(vf, &link(true)).unwrap();
        assert_eq!(nic.vf.isr() & 2, 0);
    }
}

#[test]
fn the_driver_is_asked_to_announce_itself_after_the_link_was_down() {
    let mut nic = Nic::new(features(&[net::CTRL_VQ, net::STATUS, net::GUEST_ANNOUNCE]));
    let mut ring = nic.vf.queue(2);
    for up in [false, true] {
        let link = DeviceControl::Link { up };
        nic.vf.model.control(FunctionId::Vf(1), &link).unwrap();
    }
    assert_eq!(nic.vf.config(6, 2), 3);
    assert_eq!(
        control(&mut nic.vf, &mut ring, 2, &[&[3, 0]]),
        control::ACK_OK
    );
    assert_eq!(nic.vf.config(6, 2), 1);
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
