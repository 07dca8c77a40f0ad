// SPDX-License-Identifier: GPL-2.0-or-later
//! The control queue: commands, filters, queue pairs; link and announcements.

use super::*;

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
