// SPDX-License-Identifier: GPL-2.0-or-later
//! Unit attentions, addresses, task management, events.

use super::*;

#[test]
fn unit_attentions_come_once_and_let_three_commands_pass() {
    let mut host = Host::with(&ScsiSettings::default(), 0, None);
    host.get(&[0x12, 0, 0, 0, 36, 0], 36).good();
    let luns = host.get(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16);
    assert_eq!(
        luns.good(),
        [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(host.read(0, 1).check(), Sense::POWER_ON);
    assert_eq!(host.read(0, 1).good(), [0; 512]);
    // REQUEST SENSE takes them as data.
    assert_eq!(host.manage(5, LUN0, 0), response::OK);
    assert_eq!(host.manage(4, LUN0, 0), response::OK);
    let sense = host.get(&[3, 0, 0, 0, 18, 0], 18);
    assert_eq!(sense.good(), Sense::UNIT_RESET.fixed());
    let sense = host.get(&[3, 1, 0, 0, 8, 0], 8);
    assert_eq!(sense.good(), Sense::NEXUS_LOSS.descriptor());
    let sense = host.get(&[3, 0, 0, 0, 18, 0], 18);
    assert_eq!(sense.good(), Sense::NONE.fixed());
    assert_eq!(host.plain(&[0; 6]).good(), b"");
    assert_eq!(host.plain(&[0xff; 16]).check(), Sense::INVALID_OPCODE);
    assert_eq!(host.vf.number("check_conditions"), 2);
}

#[test]
fn other_units_and_targets() {
    let mut host = Host::new();
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    let luns = |select: u8| [0xa0, 0, select, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    // Another LUN of the target: asked what it is, it is nothing.
    let other = encode_lun(1);
    assert_eq!(host.to(other, &inquiry, &[], 36).good()[0], 0x7f);
    assert_eq!(host.to(other, &[0; 6], &[], 0).check(), Sense::NO_UNIT);
    assert_eq!(
        host.to(other, &ten(0x28, 0, 1), &[], 512).check(),
        Sense::NO_UNIT
    );
    assert_eq!(host.to(other, &luns(0), &[], 32).good()[3], 8);
    let sense = host.to(other, &[3, 0, 0, 0, 18, 0], &[], 18);
    assert_eq!(sense.good(), Sense::NO_UNIT.fixed());
    // The well-known one.
    let known = [1, 0, 0xc1, 1, 0, 0, 0, 0];
    assert_eq!(host.to(known, &inquiry, &[], 36).good()[0], 0x1e);
    let list = host.to(known, &luns(2), &[], 32);
    assert_eq!((list.good()[3], &list.data[16..18]), (16, &[0xc1u8, 1][..]));
    assert_eq!(
        host.to(known, &luns(3), &[], 32).check(),
        Sense::INVALID_FIELD
    );
    assert_eq!(
        host.to(known, &ten(0x28, 0, 1), &[], 512).check(),
        Sense::INVALID_OPCODE
    );
    // No such target, no such address.
    for (n, lun) in [
        [1, 1, 0x40, 0, 0, 0, 0, 0],
        [1, 255, 0x40, 0, 0, 0, 0, 0],
        [0, 0, 0x40, 0, 0, 0, 0, 0],
        [1, 0, 0x40, 0, 1, 0, 0, 0],
    ]
    .into_iter()
    .enumerate()
    {
        let reply = host.to(lun, &inquiry, &[], 36);
        assert_eq!((reply.response, reply.residual), (response::BAD_TARGET, 36));
        assert_eq!(reply.used, 108);
        assert_eq!(host.vf.number("bad_targets"), n as u64 + 1);
    }
    assert_eq!(host.vf.violations("scsi_lun"), 2);
    for (lun, code) in [
        (LUN0, response::OK),
        (other, response::INCORRECT_LUN),
        ([1, 1, 0x40, 0, 0, 0, 0, 0], response::BAD_TARGET),
        ([0; 8], response::BAD_TARGET),
    ] {
        assert_eq!(host.manage(7, lun, 0), code);
        let mut query = 1u32.to_le_bytes().to_vec();
        query.extend(lun);
        query.extend([0xff; 4]);
        assert_eq!(host.ask(&query, 5), vec![0, 0, 0, 0, code]);
    }
}

#[test]
fn tasks_of_a_disk_that_does_not_answer() {
    let mut host = Host::new();
    host.set(&DeviceControl::Stall { on: true });
    let mut ids = Vec::new();
    for lba in 0..3 {
        ids.push(host.next_id);
        assert_eq!(host.send(LUN0, &ten(0x28, lba, 1), &[], 512), None);
    }
    assert_eq!(host.vf.number("held"), 3);
    assert_eq!(host.manage(6, LUN0, ids[1]), response::FUNCTION_SUCCEEDED);
    assert_eq!(host.manage(6, LUN0, 0xdead), response::OK);
    assert_eq!(host.manage(7, LUN0, 0), response::FUNCTION_SUCCEEDED);
    assert_eq!(host.manage(2, LUN0, 0), response::FUNCTION_REJECTED);
    assert_eq!(host.manage(99, LUN0, 0), response::FUNCTION_REJECTED);
    // One is aborted: it comes back, and before the function does.
    assert_eq!(host.manage(0, LUN0, ids[1]), response::OK);
    let (head, used) = host.requests.poll().expect("it is back");
    // Two descriptors of the first request ever, three of the first read.
    assert_eq!((head, used), (2 + 3, 108));
    assert_eq!(
        host.manage(6, LUN0, ids[1]),
        response::OK,
        "no longer there"
    );
    assert_eq!(host.manage(0, LUN0, ids[1]), response::OK);
    assert!(host.requests.poll().is_none());
    // The disk goes on: the others are answered, in order.
    host.set(&DeviceControl::Stall { on: false });
    assert_eq!(host.requests.poll().map(|u| u.1), Some(108 + 512));
    assert_eq!(host.requests.poll().map(|u| u.1), Some(108 + 512));
    assert!(host.requests.poll().is_none());
    assert_eq!(host.manage(7, LUN0, 0), response::OK);
    // A reset of the unit ends all of them, each with its own response.
    host.set(&DeviceControl::Stall { on: true });
    let header = host.header(LUN0, &[0; 6]);
    let mut pieces = host.vf.readable(&[&header]);
    let writable = host.vf.writable(&[108]);
    pieces.extend(&writable);
    host.requests.add(&pieces);
    host.vf.kick(2);
    assert!(host.requests.poll().is_none());
    assert_eq!(host.manage(5, LUN0, 0), response::OK);
    let (_, used) = host.requests.poll().unwrap();
    let reply = Reply::of(used, &host.vf.bytes(&writable), 96);
    assert_eq!(reply.response, response::RESET);
    host.set(&DeviceControl::Stall { on: false });
    assert_eq!(host.plain(&[0; 6]).check(), Sense::UNIT_RESET);
    assert_eq!(host.vf.number("aborted"), 2);
}

// Covers: INI-07
#[test]
fn a_device_reset_forgets_tasks() {
    let mut host = Host::new();
    host.set(&DeviceControl::Stall { on: true });
    assert_eq!(host.send(LUN0, &ten(0x28, 0, 1), &[], 512), None);
    host.vf.set_status(0);
    host.set(&DeviceControl::Stall { on: false });
    assert!(host.requests.poll().is_none());
    assert_eq!(host.vf.number("held"), 0);
    let c = host.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((c.dma_forbidden, c.needs_reset), (0, 0));
    // The unit says that it was off.
    host.vf.negotiate(0);
    host.requests = host.vf.queue(2);
    host.vf.driver_ok();
    assert_eq!(host.plain(&[0; 6]).check(), Sense::POWER_ON);
}

// Covers: SCS-01
#[test]
fn a_resize_is_told_to_a_driver_that_wants_to_know() {
    let mut host = Host::ready(&ScsiSettings::default(), change(), None);
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer), None, "nothing to tell yet");
    host.set(&DeviceControl::Resize { sectors: 1000 });
    let event = host.event(buffer).unwrap();
    assert_eq!(event, [3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
    assert_eq!(host.plain(&[0; 6]).check(), Sense::CAPACITY_CHANGED);
    assert_eq!(
        host.get(&ten(0x25, 0, 0), 8).good()[..4],
        999u32.to_be_bytes()
    );
    // No buffer: the event is lost, and the next buffer says so.
    host.set(&DeviceControl::Resize { sectors: 2000 });
    assert_eq!(
        (host.vf.number("events"), host.vf.number("events_missed")),
        (1, 1)
    );
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer).unwrap()[..4], [0, 0, 0, 0x80]);
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer), None, "said once");
    // A buffer that is too short gets what fits.
    let _first = buffer;
    host.set(&DeviceControl::Resize { sectors: 3000 });
    host.events.poll().unwrap();
    let short = host.event_buffer(10);
    host.set(&DeviceControl::Resize { sectors: 4000 });
    assert_eq!(host.event(short).unwrap().len(), 10);
    assert_eq!(host.vf.violations("scsi_event_room"), 1);
    let too_big = DeviceControl::Resize { sectors: u64::MAX };
    let refused = host.vf.model.control(FunctionId::Vf(1), &too_big);
    assert!(refused.unwrap_err().to_string().contains("sectors"));
    // A driver that does not know events gets none.
    let mut host = Host::ready(&ScsiSettings::default(), 0, None);
    let buffer = host.event_buffer(16);
    host.set(&DeviceControl::Resize { sectors: 1000 });
    assert_eq!(host.event(buffer), None);
    assert_eq!(host.plain(&[0; 6]).check(), Sense::CAPACITY_CHANGED);
}

#[test]
fn a_disk_is_taken_away_and_put_back() {
    let mut host = Host::ready(&ScsiSettings::default(), change(), None);
    host.write(0, &[7; 512]).good();
    for present in [false, true] {
        let buffer = host.event_buffer(16);
        host.set(&DeviceControl::Plug { present });
        let event = host.event(buffer).unwrap();
        assert_eq!((event[0], event[12]), (1, if present { 1 } else { 2 }));
        let reply = host.read(0, 1);
        match present {
            false => {
                assert_eq!(reply.response, response::BAD_TARGET);
                assert_eq!(host.manage(5, LUN0, 0), response::BAD_TARGET);
            }
            true => assert_eq!(reply.check(), Sense::POWER_ON),
        }
    }
    assert_eq!(host.read(0, 1).check(), Sense::LUNS_CHANGED);
    assert_eq!(host.read(0, 1).good(), [7; 512]);
    let again = DeviceControl::Plug { present: true };
    assert!(host.vf.model.control(FunctionId::Vf(1), &again).is_err());
    let link = DeviceControl::Link { up: true };
    assert!(host.vf.model.control(FunctionId::Vf(1), &link).is_err());
}
