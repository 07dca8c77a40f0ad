// SPDX-License-Identifier: GPL-2.0-or-later
//! Groups, lists, order of checks (GRP, ADM); commands that are not offered (CAP, OBJ, PRT).

use virtio_modern_spec::admin::{group, opcode, qualifier, status};
use virtio_pci_spec::legacy::HEADER_LEN;
use virtio_pf_model::testing::{echo_model, AdminClient};
use virtio_pf_model::{Action, FaultRule, Leniency, Violation};

use crate::{config, memory, ready, vf, violations};

const EINVAL: u16 = status::EINVAL;

// Covers: GRP-01
#[test]
fn self_group_has_the_list_commands() {
    let mut m = echo_model(config(2)).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    let d = c.query(&mut m, group::SELF);
    assert!(d.ok());
    assert_eq!(d.result(), [3, 0, 0, 0, 0, 0, 0, 0]);
}

// Covers: GRP-02
#[test]
fn member_ids_reach_their_own_vf() {
    let (mut m, mut c) = ready(config(4), 4);
    for n in 1..=4 {
        c.set(&mut m, n, 18, 1, u64::from(n) | 0x10);
    }
    for n in 1..=4 {
        assert_eq!(c.get(&mut m, n, 18, 1), u64::from(n) | 0x10);
    }
}

// Covers: GRP-03, SRV-03
#[test]
fn without_vf_enable_there_is_no_sriov_group() {
    let (mut m, mut c) = ready(config(4), 4);
    c.pf.enable_vfs(&mut m, 0);
    for op in 0..=6 {
        let d = c.run(&mut m, &AdminClient::header(op, group::SRIOV, 1), 72);
        assert_eq!(
            d.status(),
            (EINVAL, qualifier::INVALID_GROUP),
            "opcode {op}"
        );
    }
    // The list survives; it was a reset of the owner that would unset it.
    c.pf.enable_vfs(&mut m, 2);
    assert!(c.common_read(&mut m, 2, 18, 1).ok());
    assert_eq!(
        c.common_read(&mut m, 3, 18, 1).status(),
        (EINVAL, qualifier::INVALID_MEMBER)
    );
}

// Covers: GRP-03
#[test]
fn lenient_list_opens_only_the_list_commands() {
    let mut cfg = config(2);
    cfg.leniency.enable("lenient-list").unwrap();
    assert!(Leniency::default().enable("lenient-lust").is_err());
    let mut m = echo_model(cfg).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    assert!(c.query(&mut m, group::SRIOV).ok());
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert_eq!(
        c.common_read(&mut m, 1, 18, 1).status(),
        (EINVAL, qualifier::INVALID_GROUP)
    );
    c.pf.enable_vfs(&mut m, 2);
    assert!(c.common_read(&mut m, 1, 18, 1).ok(), "the list was kept");
}

// Covers: GRP-04
#[test]
fn member_ids_out_of_range() {
    let (mut m, mut c) = ready(config(8), 4);
    for id in [0, 5, 8, 9, (1 << 32) + 1, 1 << 16 | 1, u64::MAX] {
        let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, id);
        h.push(18);
        let d = c.run(&mut m, &h, 9);
        assert_eq!(
            d.status(),
            (EINVAL, qualifier::INVALID_MEMBER),
            "id {id:#x}"
        );
    }
}

// Covers: GRP-06
#[test]
fn group_types_are_independent() {
    let mut m = echo_model(config(1)).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    c.pf.enable_vfs(&mut m, 1);
    assert!(c.use_list(&mut m, group::SELF, 0x3).ok());
    let d = c.common_read(&mut m, 1, 18, 1);
    assert_eq!(d.status(), (EINVAL, qualifier::INVALID_OPCODE));
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok());
    let d = c.run(&mut m, &AdminClient::header(7, group::SELF, 0), 16);
    assert_eq!(d.status(), (EINVAL, qualifier::INVALID_OPCODE));
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
}

// Covers: ADM-01, ADM-02, AVQ-08
#[test]
fn reserved_bytes_are_ignored_and_written_as_zero() {
    let (mut m, mut c) = ready(config(1), 1);
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
    h[4..16].fill(0xff);
    h.push(12);
    h.extend_from_slice(&[0xff; 7]);
    let d = c.run(&mut m, &h, 10);
    assert_eq!(d.bytes, [0, 0, 0, 0, 0, 0, 0, 0, 16, 0]);
    // LIST_QUERY does not use the member id.
    let mut h = AdminClient::header(opcode::LIST_QUERY, group::SRIOV, 77);
    h[4..16].fill(0xff);
    assert!(c.run(&mut m, &h, 16).ok());
}

// Covers: ADM-03
#[test]
fn checks_come_in_order() {
    let (mut m, mut c) = ready(config(1), 1);
    let mut q = |g, op, id| {
        let d = c.run(&mut m, &AdminClient::header(op, g, id), 16);
        assert_eq!(d.status().0, EINVAL);
        d.status().1
    };
    assert_eq!(q(2, 0x12, 99), qualifier::INVALID_GROUP);
    assert_eq!(q(0xffff, 0, 0), qualifier::INVALID_GROUP);
    assert_eq!(q(group::SRIOV, 0x12, 99), qualifier::INVALID_OPCODE);
    assert_eq!(q(group::SRIOV, 3, 99), qualifier::INVALID_MEMBER);
    assert_eq!(q(group::SRIOV, 3, 1), qualifier::INVALID_FIELD);
}

// Covers: ADM-05, LEG-04
#[test]
fn rejected_writes_change_nothing() {
    let (mut m, mut c) = ready(config(1), 1);
    c.set(&mut m, 1, 4, 4, 0x0f);
    c.set(&mut m, 1, 14, 2, 1);
    let snapshot = |c: &mut AdminClient, m: &mut _| {
        let mut all = Vec::new();
        for (at, n) in [(0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2), (18, 1)] {
            all.push(c.get(m, 1, at, n));
        }
        all
    };
    let before = snapshot(&mut c, &mut m);
    for (at, n) in [
        (2, 4),
        (6, 4),
        (10, 4),
        (12, 4),
        (16, 4),
        (18, 2),
        (20, 1),
        (24, 8),
    ] {
        let d = c.common_write(&mut m, 1, at, &vec![0xff; n]);
        assert_eq!(d.status(), (EINVAL, qualifier::INVALID_FIELD), "({at},{n})");
    }
    assert_eq!(snapshot(&mut c, &mut m), before);
    assert_eq!(c.get(&mut m, 1, 18, 1) & 64, 0, "no DEVICE_NEEDS_RESET");
}

// Covers: ADM-06
#[test]
fn eagain_and_enomem_have_no_side_effects() {
    let (mut m, mut c) = ready(config(1), 1);
    for (st, q) in [
        (status::EAGAIN, qualifier::TRYAGAIN),
        (status::ENOMEM, qualifier::NORESOURCE),
    ] {
        c.set(&mut m, 1, 18, 1, 1);
        let mut rule = FaultRule::on(
            2,
            Action::Status {
                status: st,
                qualifier: q,
            },
        );
        rule.first = Some(1);
        let id = m.faults().add(rule).unwrap();
        assert_eq!(c.common_write(&mut m, 1, 18, &[3]).status(), (st, q));
        assert_eq!(c.get(&mut m, 1, 18, 1), 1);
        assert!(c.common_write(&mut m, 1, 18, &[3]).ok());
        assert_eq!(c.get(&mut m, 1, 18, 1), 3);
        m.faults().remove(id);
        c.set(&mut m, 1, 18, 1, 0);
    }
}

// What drivers are held to: ADM-15
// Covers: ADM-07, ADM-14
#[test]
fn lists_are_unset_by_a_reset_and_accepted_again() {
    let mem = memory();
    let mut m = echo_model(config(1)).unwrap();
    for round in 0..100 {
        mem.free_all();
        let mut c = AdminClient::start(&mut m, &mem);
        c.pf.enable_vfs(&mut m, 1);
        let d = c.common_read(&mut m, 1, 18, 1);
        assert_eq!(d.status(), (EINVAL, qualifier::INVALID_OPCODE), "{round}");
        assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok(), "{round}");
        assert!(c.common_read(&mut m, 1, 18, 1).ok());
    }
}

// Covers: ADM-08, ADM-09, LEG-01, NTF-01, CAP-01, PRT-13
#[test]
fn list_query_result() {
    let (mut m, mut c) = ready(config(1), 1);
    let h = AdminClient::header(opcode::LIST_QUERY, group::SRIOV, 0);
    for (room, used) in [(8, 8), (16, 16), (24, 16)] {
        let d = c.run(&mut m, &h, room);
        assert!(d.ok());
        assert_eq!(d.used, used);
    }
    let word = c.query(&mut m, group::SRIOV).result()[0];
    assert_eq!(word, 0x7f);
    assert_eq!(c.query(&mut m, group::SRIOV).result()[1..], [0; 7]);
}

// What drivers are held to: ADM-17
// Covers: ADM-09
#[test]
fn longer_lists_are_truncated() {
    let mut cfg = config(1);
    cfg.knobs.extra_opcodes = 1 << 40;
    cfg.knobs.extra_opcode_words = vec![0x8000_0000_0000_0001];
    let (mut m, mut c) = ready(cfg, 1);
    let h = AdminClient::header(opcode::LIST_QUERY, group::SRIOV, 0);
    let d = c.run(&mut m, &h, 16);
    assert_eq!((d.ok(), d.used, d.bytes[13]), (true, 16, 1));
    let d = c.run(&mut m, &h, 64);
    assert_eq!((d.used, d.bytes[16], d.bytes[23]), (24, 1, 0x80));
    // What is reported may be used, though nothing is behind it.
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f | 1 << 40).ok());
    let d = c.run(&mut m, &AdminClient::header(40, group::SRIOV, 1), 8);
    assert_eq!(d.status(), (EINVAL, qualifier::INVALID_OPCODE));
}

// Covers: ADM-10, ADM-12
#[test]
fn list_use_replaces_the_list() {
    let (mut m, mut c) = ready(config(1), 1);
    assert!(c.notify_info(&mut m, 1).ok());
    assert!(c.use_list(&mut m, group::SRIOV, 0x1f).ok());
    assert_eq!(
        c.notify_info(&mut m, 1).status(),
        (EINVAL, qualifier::INVALID_OPCODE)
    );
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
    assert!(!c.config_read(&mut m, 1, 0, 1).ok());
}

// Covers: ADM-11
#[test]
fn refused_lists_leave_the_old_one() {
    let (mut m, mut c) = ready(config(1), 1);
    let refused = (EINVAL, qualifier::INVALID_FIELD);
    assert_eq!(
        c.use_list(&mut m, group::SRIOV, 0x7f | 1 << 0x12).status(),
        refused
    );
    assert_eq!(c.use_list(&mut m, group::SRIOV, u64::MAX).status(), refused);
    // A bit in a word that is not there.
    let mut h = AdminClient::header(opcode::LIST_USE, group::SRIOV, 0);
    h.extend_from_slice(&0x7fu64.to_le_bytes());
    h.extend_from_slice(&4u64.to_le_bytes());
    assert_eq!(c.run(&mut m, &h, 8).status(), refused);
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
    let seen = violations(&mut m);
    assert!(seen.contains(&Violation::OpcodeNotOffered { opcode: 0x12 }));
    assert!(seen.contains(&Violation::OpcodeNotOffered { opcode: 66 }));
}

// Covers: ADM-11
#[test]
fn a_device_may_refuse_the_full_list() {
    let mut cfg = config(1);
    cfg.knobs.extra_opcodes = 0x3f780;
    cfg.knobs.list_use_refuses_full = true;
    let mut m = echo_model(cfg).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    c.pf.enable_vfs(&mut m, 1);
    assert!(!c.use_list(&mut m, group::SRIOV, 0x3f7ff).ok());
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok());
}

// Covers: ADM-13
#[test]
fn the_offered_list_never_shrinks() {
    let (mut m, mut c) = ready(config(4), 1);
    let first = c.query(&mut m, group::SRIOV).bytes;
    c.pf.enable_vfs(&mut m, 4);
    assert_eq!(c.query(&mut m, group::SRIOV).bytes, first);
    let mut c = AdminClient::start(&mut m, &memory());
    assert_eq!(c.query(&mut m, group::SRIOV).bytes, first);
}

// What drivers are held to: ADM-16
#[test]
fn list_use_with_commands_in_flight_is_noted() {
    let (mut m, mut c) = ready(config(1), 1);
    m.faults().add(FaultRule::on(3, Action::Drop)).unwrap();
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
    h.push(18);
    assert!(c.send(&mut m, &h, 9).is_none());
    violations(&mut m);
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert_eq!(
        violations(&mut m),
        [Violation::ListUseNotAlone { outstanding: 1 }]
    );
}

// Covers: ADM-18
#[test]
fn list_commands_can_be_given_up() {
    let (mut m, mut c) = ready(config(1), 1);
    assert!(c.use_list(&mut m, group::SRIOV, 0x7c).ok());
    let blocked = (EINVAL, qualifier::INVALID_OPCODE);
    assert_eq!(c.query(&mut m, group::SRIOV).status(), blocked);
    assert_eq!(c.use_list(&mut m, group::SRIOV, 0x7f).status(), blocked);
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
    assert!(c.query(&mut m, group::SELF).ok());
    let mut c = AdminClient::start(&mut m, &memory());
    assert!(c.query(&mut m, group::SRIOV).ok());
}

// Covers: ADM-04, ADM-12, ADM-22, CAP-02, OBJ-02, PRT-06
#[test]
fn opcodes_that_are_not_offered_are_refused_for_both_groups() {
    let (mut m, mut c) = ready(config(1), 1);
    for op in (7..=0x13).chain([0x7fff, 0x8000, 0xffff]) {
        for g in [group::SELF, group::SRIOV] {
            let mut h = AdminClient::header(op, g, 1);
            h.extend_from_slice(&[0xff; 40]);
            let d = c.run(&mut m, &h, 64);
            assert_eq!(
                d.status(),
                (EINVAL, qualifier::INVALID_OPCODE),
                "{op:#x}/{g}"
            );
        }
    }
}

// Covers: LEG-02
#[test]
fn legacy_commands_do_not_exist_for_the_self_group() {
    let (mut m, mut c) = ready(config(1), 1);
    for op in 2..=6 {
        let d = c.run(&mut m, &AdminClient::header(op, group::SELF, 0), 72);
        assert_eq!(d.status(), (EINVAL, qualifier::INVALID_OPCODE));
    }
}

// Covers: LEG-01
#[test]
fn a_device_without_legacy_commands() {
    let mut cfg = config(1);
    cfg.knobs.no_legacy_commands = true;
    let mut m = echo_model(cfg).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    c.pf.enable_vfs(&mut m, 1);
    assert_eq!(c.query(&mut m, group::SRIOV).result()[0], 0x3);
    assert!(!c.use_list(&mut m, group::SRIOV, 0x7f).ok());
}

// Covers: ADM-21
#[test]
fn commands_are_logged_and_counted() {
    let (mut m, mut c) = ready(config(2), 2);
    m.drain_events();
    c.set(&mut m, 2, 18, 1, 3);
    let _refused = c.common_read(&mut m, 2, HEADER_LEN, 1);
    let text: Vec<String> = m
        .drain_events()
        .map(|r| serde_json::to_string(&r).unwrap())
        .collect();
    let write = text
        .iter()
        .find(|t| t.contains("COMMON_CFG_WRITE"))
        .unwrap();
    for part in [
        r#""event":"command""#,
        r#""opcode":2"#,
        r#""member":2"#,
        r#""offset":18"#,
        r#""data":3"#,
        r#""status":0"#,
    ] {
        assert!(write.contains(part), "{part} in {write}");
    }
    let read = text.iter().find(|t| t.contains("COMMON_CFG_READ")).unwrap();
    assert!(read.contains(r#""status":22,"qualifier":3"#), "{read}");
    let n = m.counters();
    assert_eq!((n.commands[2], n.commands[3], n.commands_failed), (1, 1, 1));
    assert_eq!(n.statuses.get(&22), Some(&1));
    assert_eq!(m.function_counters(vf(2)).unwrap().resets, 1);
}
