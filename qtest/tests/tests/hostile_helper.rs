// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU with a helper that says anything: the guest reads ones or what it asked for, never
//! something else, and QEMU goes on.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use legacy_vf_proto::{
    ErrorCode, ErrorReply, Event, EventKind, Header, MessageBuf, NotifyKind, OpenReply, Reply,
    Request, MAX_MESSAGE,
};
use legacy_vf_proto_server::EncodeEvent;
use qtest_harness::fake_helper::{encode, good, Answer, FakeHelper};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Simulator, PATIENCE};
use qtest_tests::{counter, wait_for, wait_link};
use serde_json::{json, Value};
use tempfile::TempDir;
use test_kit::patience::OwnTime;

/// A VF that lives without a real helper.
fn vf(dir: &TempDir) -> Result<Simulator> {
    SimulatorBuilder::new(DeviceKind::Net, 1)
        .args(&["--vfs-at-start=1"])
        .spawn(dir.path())
}

fn device(sim: &Simulator, helper: &FakeHelper) -> Value {
    json!({
        "driver": "virtio-legacy-vf-user",
        "id": DEVICE_ID,
        "addr": format!("{SLOT:#x}"),
        "socket": {"type": "unix", "path": sim.vf_socket(1)},
        "helper": helper.socket(),
        "vf": 1,
        "helper-deadline-ms": 400,
        "x-check-vf": false,
    })
}

fn guest(sim: &Simulator, helper: &FakeHelper, dir: &TempDir) -> Result<(Qemu, LegacyDriver)> {
    let qemu = QemuBuilder::new(Machine::Pc)
        .device(&device(sim, helper))
        .spawn(dir.path())?;
    let mut function = PciDevice::find(&qemu.qtest, SLOT)?;
    function.map(&qemu.qtest)?;
    let driver = LegacyDriver::new(&function)?;
    Ok((qemu, driver))
}

/// Bytes that are no reply to request `seq`.
fn nonsense(kind: u32, header: &Header) -> Answer {
    let reply = |seq, r: &Reply<'_>| encode(seq, r);
    let read = Reply::Read { data: [0x77; 8] };
    let seq = header.seq;
    Answer::Messages(vec![match kind {
        0 => vec![0],
        1 => vec![0xff; 16],
        2 => vec![0; MAX_MESSAGE],
        3 => vec![0x55; MAX_MESSAGE + 1],
        4 => vec![0x55; 60_000],
        5 => reply(seq.wrapping_add(1), &read),
        6 => reply(0, &read),
        7 => reply(seq, &Reply::Write),
        8 => {
            // A reply that is one byte short.
            let mut m = reply(seq, &read);
            m.pop();
            m
        }
        9 => {
            // A request instead of a reply.
            let mut buffer: MessageBuf = [0; MAX_MESSAGE];
            let request = Request::Notify { queue: 0 };
            let len = request.encode(seq, &mut buffer);
            buffer.get(..len).unwrap_or_default().to_vec()
        }
        10 => {
            // An error text that is not UTF-8.
            let mut m = reply(
                seq,
                &Reply::Error(ErrorReply {
                    kind: header.kind,
                    code: ErrorCode::DEVICE,
                    admin_status: 22,
                    admin_qualifier: 0,
                    text: "xx",
                }),
            );
            if let Some(b) = m.last_mut() {
                *b = 0xff;
            }
            m
        }
        _ => return Answer::Close,
    }])
}

const KINDS: u32 = 12;

#[test]
fn nonsense_instead_of_a_register_loses_the_connection_and_nothing_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let turn = Arc::new(AtomicU32::new(u32::MAX));
    let kind = turn.clone();
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| {
        match (r, kind.load(Ordering::Relaxed)) {
            (Request::Read { .. }, k) if k < KINDS => {
                kind.store(u32::MAX, Ordering::Relaxed);
                nonsense(k, h)
            }
            _ => good(h, r),
        }
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    for k in 0..KINDS {
        wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
        assert_eq!(d.status(&qemu.qtest)?, 0);
        turn.store(k, Ordering::Relaxed);
        let begin = OwnTime::start();
        let got = d.read(&qemu.qtest, 12, 2)?;
        assert_eq!(got, 0xffff, "answer {k} was believed");
        assert!(begin.elapsed() < Duration::from_secs(2), "answer {k}");
        assert_eq!(
            counter(&mut qemu.qmp, "losses")?,
            u64::from(k) + 1,
            "answer {k}"
        );
        assert!(
            qemu.process.is_running()?,
            "answer {k}: {}",
            qemu.process.log()
        );
    }
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    assert_eq!(counter(&mut qemu.qmp, "reconnects")?, u64::from(KINDS));
    let log = qemu.process.log();
    assert!(log.lines().count() < 60, "{log}");
    Ok(())
}

#[test]
fn bytes_behind_the_register_do_not_reach_the_guest() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), |h, r| match r {
        Request::Read { len, .. } => {
            let mut data = [0xee; 8];
            for b in data.iter_mut().take(usize::from(*len)) {
                *b = 0x11;
            }
            Answer::reply(h, &Reply::Read { data })
        }
        _ => good(h, r),
    })?;
    let (qemu, d) = guest(&sim, &helper, &dir)?;
    assert_eq!(d.read(&qemu.qtest, 18, 2)?, 0x11);
    assert_eq!(d.read(&qemu.qtest, 12, 4)?, 0x1111);
    assert_eq!(d.config(&qemu.qtest, 0, 4)?, 0x1111_1111);
    Ok(())
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let mut held = None;
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match r {
        // The queue size is never answered in time; its answer comes before the next one.
        Request::Read { offset: 12, .. } => {
            held = Some(encode(h.seq, &Reply::Read { data: [0x99; 8] }));
            Answer::Messages(Vec::new())
        }
        Request::Read { .. } => {
            let mut list: Vec<Vec<u8>> = held.take().into_iter().collect();
            list.push(encode(h.seq, &Reply::Read { data: [0x22; 8] }));
            Answer::Messages(list)
        }
        _ => good(h, r),
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    assert_eq!(d.status(&qemu.qtest)?, 0x22);
    assert_eq!(d.read(&qemu.qtest, 12, 2)?, 0xffff);
    assert_eq!(counter(&mut qemu.qmp, "timeouts")?, 1);
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    for _ in 0..3 {
        let got = d.status(&qemu.qtest)?;
        assert!(got == 0x22 || got == 0xff, "{got:#x}");
        assert_ne!(d.config(&qemu.qtest, 0, 1)?, 0x99);
    }
    Ok(())
}

#[test]
fn floods_of_events_and_error_replies_are_logged_with_measure() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), |h, r| match r {
        Request::Read { .. } => {
            let mut list = Vec::new();
            for kind in 0..50 {
                let mut buffer: MessageBuf = [0; MAX_MESSAGE];
                let event = Event {
                    kind: EventKind(if kind % 5 == 1 { 4 } else { 100 + kind }),
                    detail: 7,
                };
                let len = event.encode(&mut buffer);
                list.push(buffer.get(..len).unwrap_or_default().to_vec());
            }
            list.push(encode(
                h.seq,
                &Reply::Error(ErrorReply {
                    kind: h.kind,
                    code: ErrorCode(4711),
                    admin_status: 1,
                    admin_qualifier: 2,
                    text: "line one\nqemu-system-x86_64: line two \u{1b}[31mred",
                }),
            ));
            Answer::Messages(list)
        }
        _ => good(h, r),
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    let begin = Instant::now();
    for _ in 0..200 {
        assert_eq!(d.status(&qemu.qtest)?, 0xff);
    }
    let seconds = usize::try_from(begin.elapsed().as_secs())?;
    let log = qemu.process.log();
    assert!(log.contains("line one"), "the reason is logged: {log}");
    assert!(!log.contains('\u{1b}'), "control characters are not");
    assert!(
        !log.lines()
            .any(|l| l.starts_with("qemu-system-x86_64: line two")),
        "the peer cannot forge a line"
    );
    assert!(log.lines().count() <= 8 + 6 * (seconds + 1), "{log}");
    assert!(counter(&mut qemu.qmp, "helper-events")? >= 100);
    assert!(qemu.process.is_running()?);
    Ok(())
}

#[test]
fn notify_addresses_outside_the_vf_are_not_used() -> Result<()> {
    for (kind, bar, offset) in [
        (NotifyKind::Member, 0u8, 0u64),
        (NotifyKind::Member, 6, 0),
        (NotifyKind::Member, 255, 0),
        (NotifyKind::Member, 5, 0),
        (NotifyKind::Member, 4, 1),
        (NotifyKind::Member, 4, u64::MAX),
        (NotifyKind::Member, 4, 1 << 40),
    ] {
        let dir = tempfile::tempdir()?;
        let sim = vf(&dir)?;
        let notified = Arc::new(AtomicU32::new(0));
        let count = notified.clone();
        let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match *r {
            Request::Open(open) => Answer::reply(
                h,
                &Reply::Open(OpenReply {
                    member: open.member,
                    virtio_id: 1,
                    num_vfs: 1,
                    notify_kind: kind,
                    notify_bar: bar,
                    notify_offset: offset,
                    commands: 0x7f,
                    deadline_ms: 100,
                    session: 1,
                }),
            ),
            Request::Notify { queue } => {
                count.store(u32::from(queue) + 1, Ordering::Relaxed);
                Answer::Messages(Vec::new())
            }
            _ => good(h, r),
        })?;
        let (mut qemu, d) = guest(&sim, &helper, &dir)?;
        d.write(&qemu.qtest, 16, 2, 3)?;
        wait_for("the notification by message", PATIENCE, || {
            Ok((notified.load(Ordering::Relaxed) == 4).then_some(()))
        })?;
        assert!(qemu.process.is_running()?, "BAR {bar} offset {offset:#x}");
        qemu.qmp.command("query-status", json!({}))?;
    }
    Ok(())
}

#[test]
fn a_helper_that_never_answers_hello_or_opens_another_vf() -> Result<()> {
    type Case = (&'static str, fn(&Header, &Request) -> Answer);
    let cases: [Case; 4] = [
        ("did not answer within 400 ms", |_, _| {
            Answer::Messages(Vec::new())
        }),
        ("closed the connection", |_, _| Answer::Close),
        ("opened VF 2 instead of VF 1", |h, r| match r {
            Request::Open(_) => Answer::reply(
                h,
                &Reply::Open(OpenReply {
                    member: 2,
                    virtio_id: 1,
                    num_vfs: 2,
                    notify_kind: NotifyKind::None,
                    notify_bar: 0,
                    notify_offset: 0,
                    commands: 0,
                    deadline_ms: 1,
                    session: 1,
                }),
            ),
            _ => good(h, r),
        }),
        ("bad message", |_, _| Answer::Messages(vec![vec![9; 3]])),
    ];
    for (text, answer) in cases {
        let dir = tempfile::tempdir()?;
        let sim = vf(&dir)?;
        let helper = FakeHelper::start(&dir.path().join("fake.sock"), answer)?;
        let begin = OwnTime::start();
        let (status, log) = QemuBuilder::new(Machine::Pc)
            .device(&device(&sim, &helper))
            .spawn_refused(dir.path())?;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(text), "no \"{text}\" in:\n{log}");
        assert!(begin.elapsed() < Duration::from_secs(4), "{text}");
    }
    Ok(())
}

/// Ends the connection with the guest's next read, and waits for the next one.
fn reconnect(qemu: &mut Qemu, driver: &LegacyDriver, close: &AtomicBool) -> Result<()> {
    let before = counter(&mut qemu.qmp, "reconnects")?;
    close.store(true, Ordering::Relaxed);
    assert_eq!(driver.read(&qemu.qtest, 0, 4)?, 0xffff_ffff);
    wait_for("a new connection", PATIENCE, || {
        Ok((counter(&mut qemu.qmp, "reconnects")? > before).then_some(()))
    })
}

#[test]
fn another_helper_may_say_another_notify_address() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let bar = Arc::new(AtomicU32::new(0));
    let close = Arc::new(AtomicBool::new(false));
    let (say, end) = (bar.clone(), close.clone());
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match *r {
        Request::Open(open) => {
            let bar = say.load(Ordering::Relaxed) as u8;
            Answer::reply(
                h,
                &Reply::Open(OpenReply {
                    member: open.member,
                    virtio_id: 1,
                    num_vfs: 1,
                    notify_kind: if bar == 0 {
                        NotifyKind::None
                    } else {
                        NotifyKind::Member
                    },
                    notify_bar: bar,
                    notify_offset: 0,
                    commands: 0x7f,
                    deadline_ms: 100,
                    session: 1,
                }),
            )
        }
        Request::Read { .. } if end.swap(false, Ordering::Relaxed) => Answer::Close,
        _ => good(h, r),
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    let path = format!("/machine/peripheral/{DEVICE_ID}");
    // BAR 5 is none of the VF's.
    for (said, expected) in [(0, "helper"), (2, "region"), (5, "helper"), (2, "region")] {
        bar.store(said, Ordering::Relaxed);
        reconnect(&mut qemu, &d, &close)?;
        assert_eq!(qemu.qmp.get(&path, "doorbell-path")?, expected, "{said}");
        let state = qemu.qmp.get(&path, "state")?;
        let state = state.as_str().unwrap_or_default();
        assert!(
            state.ends_with(&format!("doorbells by {expected}")),
            "{state}"
        );
    }
    let log = qemu.process.log();
    assert!(
        log.contains("BAR 5, offset 0x0) is not inside the VF"),
        "{log}"
    );
    Ok(())
}

#[test]
fn a_vf_that_lost_its_state_with_the_helper_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let status = Arc::new(AtomicU32::new(0));
    let close = Arc::new(AtomicBool::new(false));
    let (register, end) = (status.clone(), close.clone());
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match *r {
        Request::Read { .. } if end.swap(false, Ordering::Relaxed) => Answer::Close,
        Request::Read { offset: 18, .. } => {
            let [low, ..] = register.load(Ordering::Relaxed).to_le_bytes();
            Answer::reply(
                h,
                &Reply::Read {
                    data: [low, 0, 0, 0, 0, 0, 0, 0],
                },
            )
        }
        Request::Write {
            offset: 18, data, ..
        } => {
            register.store(u32::from(data[0]), Ordering::Relaxed);
            Answer::reply(h, &Reply::Write)
        }
        _ => good(h, r),
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    let path = format!("/machine/peripheral/{DEVICE_ID}");
    let lost = |qemu: &mut Qemu| qemu.qmp.get(&path, "state-lost");
    // Without a driver there is nothing to lose.
    reconnect(&mut qemu, &d, &close)?;
    assert_eq!(lost(&mut qemu)?, false);
    d.set_status(&qemu.qtest, 7)?;
    reconnect(&mut qemu, &d, &close)?;
    assert_eq!(lost(&mut qemu)?, false, "the status is as it was");
    status.store(0, Ordering::Relaxed);
    reconnect(&mut qemu, &d, &close)?;
    assert_eq!(lost(&mut qemu)?, true);
    let state = qemu.qmp.get(&path, "state")?;
    assert!(state.to_string().contains("state lost"), "{state}");
    let log = qemu.process.log();
    assert!(log.contains("the VF was reset meanwhile"), "{log}");
    // A driver that starts anew mends it, and so does a reset of the machine.
    d.set_status(&qemu.qtest, 0)?;
    assert_eq!(lost(&mut qemu)?, false);
    d.set_status(&qemu.qtest, 7)?;
    status.store(0, Ordering::Relaxed);
    reconnect(&mut qemu, &d, &close)?;
    assert_eq!(lost(&mut qemu)?, true);
    qemu.qmp.system_reset()?;
    assert_eq!(lost(&mut qemu)?, false);
    Ok(())
}

/// A helper that goes away whenever a vector is written, also in the reconnection that makes up for
/// what the last one did not do: the device looks for the next one.
// Covers: IRQ-06
#[test]
fn a_helper_that_is_lost_again_while_it_comes_back() -> Result<()> {
    const QUEUE_VECTOR: u8 = 22;
    let dir = tempfile::tempdir()?;
    let sim = vf(&dir)?;
    let bad = Arc::new(AtomicBool::new(true));
    let tries = Arc::new(AtomicU32::new(0));
    let (is_bad, tried) = (bad.clone(), tries.clone());
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match r {
        Request::Write {
            offset: QUEUE_VECTOR,
            ..
        } if is_bad.load(Ordering::Relaxed) => {
            tried.fetch_add(1, Ordering::Relaxed);
            Answer::Close
        }
        _ => good(h, r),
    })?;
    let (mut qemu, d) = guest(&sim, &helper, &dir)?;
    d.set_status(&qemu.qtest, 0)?;
    d.write(&qemu.qtest, 14, 2, 0)?;
    d.write(&qemu.qtest, 8, 4, 0x1000)?;
    wait_for("attempts", PATIENCE, || {
        Ok((tries.load(Ordering::Relaxed) >= 4).then_some(()))
    })?;
    bad.store(false, Ordering::Relaxed);
    wait_for("a connection that stays", PATIENCE, || {
        Ok((d.status(&qemu.qtest)? == 0).then_some(()))
    })?;
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    assert!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}
