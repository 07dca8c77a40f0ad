// SPDX-License-Identifier: GPL-2.0-or-later
//! Frames and their headers: layouts, merged buffers, lengths, checksums, what is malformed.

use virtio_modern_spec::features::ANY_LAYOUT;

use super::super::config::MIN_MTU;
use super::*;

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
