// SPDX-License-Identifier: GPL-2.0-or-later
//! Wrong configurations: each ends with a clear text and exit status 1, and disturbs nobody else.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use legacy_vf_proto::client::Client;
use legacy_vf_proto::{
    ErrorCode, ErrorReply, Hello, MessageBuf, Name, Reply, Request, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeReply};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{
    DeviceKind, Helper, HelperClient, LegacyDriver, Machine, PciDevice, Qemu, Stack,
};
use qtest_tests::refusal::refused_by;
use rustix::net::{
    accept, bind, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use serde_json::{json, Value};
use test_kit::patience::OwnTime;

/// A QEMU with this device must end with status 1 and say all of `texts`.
fn refused(stack: &Stack, device: &Value, texts: &[&str]) -> Result<()> {
    refused_by(QemuBuilder::new(Machine::Pc), stack.dir(), device, texts).map(drop)
}

/// Another guest on VF 2, which must not notice anything.
struct Bystander {
    qemu: Qemu,
    driver: LegacyDriver,
}

impl Bystander {
    fn new(stack: &Stack) -> Result<Self> {
        let mut device = stack.device(2);
        device["vf"] = json!(2);
        let qemu = QemuBuilder::new(Machine::Pc)
            .name("bystander")
            .device(&device)
            .spawn(stack.dir())?;
        let mut function = PciDevice::find(&qemu.qtest, SLOT)?;
        function.map(&qemu.qtest)?;
        let driver = LegacyDriver::new(&function)?;
        driver.begin(&qemu.qtest, 1 << 5)?;
        Ok(Bystander { qemu, driver })
    }

    fn check(&mut self) -> Result<()> {
        assert_eq!(self.driver.status(&self.qemu.qtest)?, 3);
        assert_eq!(self.driver.read(&self.qemu.qtest, 4, 4)?, 1 << 5);
        let path = format!("/machine/peripheral/{DEVICE_ID}");
        assert_eq!(self.qemu.qmp.get(&path, "losses")?, 0);
        Ok(())
    }
}

#[test]
fn the_helper_must_be_named_and_there() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let mut device = stack.device(1);
    device["helper"] = json!(stack.dir().join("nobody.sock"));
    refused(
        &stack,
        &device,
        &[
            "VF 1",
            "nobody.sock does not exist",
            "start qemu-virtio-admin-helper",
            "helper=",
        ],
    )?;
    if let Some(o) = device.as_object_mut() {
        o.remove("helper");
    }
    refused(
        &stack,
        &device,
        &["helper= is not set", "qemu-virtio-admin-helper"],
    )?;
    let mut device = stack.device(1);
    if let Some(o) = device.as_object_mut() {
        o.remove("vf");
    }
    refused(
        &stack,
        &device,
        &["vf= is not set", "virtio-legacy-vf list"],
    )?;
    other.check()
}

#[test]
fn a_socket_nobody_listens_on_or_of_another_kind() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let dead = stack.dir().join("dead.sock");
    let fd = seqpacket()?;
    bind(&fd, &SocketAddrUnix::new(&dead)?)?;
    drop(fd);
    let mut device = stack.device(1);
    device["helper"] = json!(dead);
    refused(&stack, &device, &["nobody listens on", "dead.sock"])?;
    // The VF's own vfio-user socket is a stream.
    device["helper"] = json!(stack.sim.vf_socket(2));
    refused(
        &stack,
        &device,
        &["is not a helper's socket", "correct helper="],
    )?;
    let plain = stack.dir().join("plain");
    std::fs::write(&plain, "")?;
    device["helper"] = json!(plain);
    refused(&stack, &device, &["plain", "VF 1"])?;
    other.check()
}

#[test]
fn no_permission_for_the_socket() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let mode = |path: &Path, bits| std::fs::set_permissions(path, Permissions::from_mode(bits));
    let mut builder = QemuBuilder::new(Machine::Pc).name("refused");
    let mut user = rustix::process::geteuid();
    if user.is_root() {
        // Root may everything: QEMU runs as nobody, which may reach the VF but not the helper.
        builder = builder.as_user(65534);
        user = rustix::process::Uid::from_raw(65534);
        mode(stack.dir(), 0o777)?;
        mode(stack.sim.dir(), 0o755)?;
        mode(&stack.sim.vf_socket(1), 0o666)?;
    }
    mode(stack.helper.socket(), 0)?;
    let (status, log) = builder
        .device(&stack.device(1))
        .spawn_refused(stack.dir())?;
    assert_eq!(status.code(), Some(1), "{log}");
    let user = format!("user {}", user.as_raw());
    for text in ["no permission", "helper.sock", &user, "--socket-group"] {
        assert!(log.contains(text), "no \"{text}\" in:\n{log}");
    }
    other.check()
}

#[test]
fn vf_numbers_out_of_range() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    for vf in [3u16, 65535] {
        let mut device = stack.device(1);
        device["vf"] = json!(vf);
        let no = format!("no VF {vf}");
        refused(
            &stack,
            &device,
            &["NO_SUCH_VF", "has VFs 1 to 2", &no, "correct vf="],
        )?;
    }
    let mut device = stack.device(1);
    device["vf"] = json!(65536);
    refused(&stack, &device, &["vf"])?;
    other.check()
}

#[test]
fn the_helper_of_another_pf() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let second = SimulatorBuilder::new(DeviceKind::Net, 1)
        .name("sim2")
        .args(&["--serial", "0x1122334455667788"])
        .spawn(stack.dir())?;
    let helper2 = Helper::spawn(stack.dir(), "helper2", &second.pf_socket(), 1, &[])?;
    let mut device = stack.device(1);
    device["helper"] = json!(helper2.socket());
    refused(
        &stack,
        &device,
        &[
            "WRONG_OWNER",
            "1122334455667788",
            "belongs to another PF",
            "helper=",
        ],
    )?;
    // Its own VF still works there.
    device["socket"] = json!({"type": "unix", "path": second.vf_socket(1)});
    let qemu = stack.qemu_with(Machine::Pc, &device)?;
    drop(qemu);
    other.check()
}

#[test]
fn the_number_of_another_vf_type() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    // A PF with disks and the same serial number, so that only the type tells.
    let disks = SimulatorBuilder::new(DeviceKind::Block, 1)
        .name("sim2")
        .args(&["--vfs-at-start=1"])
        .spawn(stack.dir())?;
    let mut device = stack.device(1);
    device["socket"] = json!({"type": "unix", "path": disks.vf_socket(1)});
    refused(
        &stack,
        &device,
        &[
            "WRONG_TYPE",
            "the VF given to the device is not the one that vf= names",
        ],
    )
}

/// The VFs of a PF that nobody drives do not answer.
#[test]
fn a_vf_that_is_not_enabled() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let idle = SimulatorBuilder::new(DeviceKind::Net, 1)
        .name("sim2")
        .spawn(stack.dir())?;
    let mut device = stack.device(1);
    device["socket"] = json!({"type": "unix", "path": idle.vf_socket(1)});
    refused(&stack, &device, &["does not answer", "reads as ones"])?;
    other.check()
}

#[test]
fn two_qemus_on_one_vf() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    let (first, device) = stack.mapped(Machine::Pc)?;
    let driver = LegacyDriver::new(&device)?;
    driver.begin(&first.qtest, 1 << 5)?;
    // With a vfio-user socket of its own the second one gets as far as the helper.
    let mut config = stack.device(2);
    config["vf"] = json!(1);
    drop(other.qemu);
    refused(
        &stack,
        &config,
        &["BUSY", "VF 1 is in use by", "stop the other user"],
    )?;
    // On the same vfio-user socket it does not even get there.
    let (status, _) = QemuBuilder::new(Machine::Pc)
        .name("refused")
        .device(&stack.device(1))
        .spawn_refused(stack.dir())?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(driver.status(&first.qtest)?, 3, "the first one goes on");
    other = Bystander::new(&stack)?;
    other.check()
}

fn seqpacket() -> Result<std::os::fd::OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[test]
fn a_helper_of_another_version() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let path = stack.dir().join("future.sock");
    let listener = seqpacket()?;
    bind(&listener, &SocketAddrUnix::new(&path)?)?;
    listen(&listener, 4)?;
    let server = std::thread::spawn(move || -> Result<()> {
        let fd = accept(&listener)?;
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        let (_, len) = recv(&fd, &mut buffer[..], RecvFlags::empty())?;
        let (header, request) = decode_request(buffer.get(..len).unwrap_or_default())?;
        assert!(matches!(request, Request::Hello(Hello { version: 1, .. })));
        let reply = Reply::Error(ErrorReply {
            kind: 1,
            code: ErrorCode::UNSUPPORTED_VERSION,
            admin_status: 0,
            admin_qualifier: 0,
            text: "versions 7 to 9",
        });
        let len = reply.encode(header.seq, &mut buffer);
        send(
            &fd,
            buffer.get(..len).unwrap_or_default(),
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    });
    let mut device = stack.device(1);
    device["helper"] = json!(path);
    refused(
        &stack,
        &device,
        &[
            "does not speak version 1",
            "versions 7 to 9",
            "same release",
        ],
    )?;
    match server.join() {
        Ok(result) => result,
        Err(_) => anyhow::bail!("the fake helper failed"),
    }
}

#[test]
fn a_client_of_another_version() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let hello = |version| {
        Request::Hello(Hello {
            version,
            max_message: 4096,
            features: u64::MAX,
            name: Name::new("from the future"),
        })
    };
    let mut buffer: MessageBuf = [0; MAX_MESSAGE];
    // A newer client gets version 1 and no features; what it does with it is its business.
    let client = HelperClient::connect(stack.helper.socket())?;
    let len = hello(9).encode(1, &mut buffer);
    client.send_raw(buffer.get(..len).unwrap_or_default())?;
    let answer = client.receive_raw(qtest_harness::PATIENCE)?;
    let (_, reply) = qtest_harness::decode_reply(&answer)?;
    assert!(
        matches!(reply, Reply::Hello(h) if h.version == 1 && h.features == 0),
        "{reply:?}"
    );
    // Version 0 does not exist.
    let client = HelperClient::connect(stack.helper.socket())?;
    let len = hello(0).encode(1, &mut buffer);
    client.send_raw(buffer.get(..len).unwrap_or_default())?;
    let answer = client.receive_raw(qtest_harness::PATIENCE)?;
    let (_, reply) = qtest_harness::decode_reply(&answer)?;
    assert!(
        matches!(reply, Reply::Error(e) if e.code == ErrorCode::UNSUPPORTED_VERSION && e.text.contains('1')),
        "{reply:?}"
    );
    // The client of this release would not take an answer it did not offer.
    let mut strict = Client::new(Name::new("test"), 0);
    let len = strict.request(&strict.hello(), &mut buffer)?;
    let (header, _) = decode_request(buffer.get(..len).unwrap_or_default())?;
    assert_eq!(header.seq, 1);
    Ok(())
}

#[test]
fn a_type_without_a_transitional_form() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1).args(&["--knob", "vf_device_id=4186"]);
    let stack = Stack::start_with(&sim, 1, &[])?;
    refused(
        &stack,
        &stack.device(1),
        &[
            "1af4:105a",
            "without a transitional form",
            "net, blk",
            "vfio-user-pci",
        ],
    )
}

#[test]
fn a_vf_with_a_bar0_of_its_own() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1).args(&[
        "--vfs-at-start=1",
        "--knob=vf_bar0=true",
        "--knob=no_legacy_commands=true",
    ]);
    let dir = tempfile::tempdir()?;
    let sim = sim.spawn(dir.path())?;
    let device = json!({
        "driver": "virtio-legacy-vf-user",
        "addr": format!("{SLOT:#x}"),
        "socket": {"type": "unix", "path": sim.vf_socket(1)},
        "helper": dir.path().join("helper.sock"),
        "vf": 1,
    });
    refused_by(
        QemuBuilder::new(Machine::Pc),
        dir.path(),
        &device,
        &["BAR0 of its own", "does not support legacy guests"],
    )
    .map(drop)
}

#[test]
fn guest_memory_that_is_not_shared() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = Bystander::new(&stack)?;
    refused_by(
        QemuBuilder::new(Machine::Pc).private_memory(),
        stack.dir(),
        &stack.device(1),
        &[
            "is not shared memory",
            "memory-backend-memfd",
            "share=on",
            "VF 1",
        ],
    )?;
    other.check()
}

#[test]
fn a_helper_that_is_stopped() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut device = stack.device(1);
    device["helper-deadline-ms"] = json!(500);
    stack.helper.process.stop()?;
    let begin = OwnTime::start();
    refused(
        &stack,
        &device,
        &[
            "did not answer within 500 ms",
            "stopped",
            "helper-deadline-ms",
        ],
    )?;
    assert!(begin.elapsed() < std::time::Duration::from_secs(5));
    stack.helper.process.resume()?;
    drop(stack.qemu_with(Machine::Pc, &device)?);
    Ok(())
}

#[test]
fn deadlines_out_of_range() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    for ms in [0, 9, 600_001] {
        let mut device = stack.device(1);
        device["helper-deadline-ms"] = json!(ms);
        refused(&stack, &device, &["helper-deadline-ms", "out of range"])?;
    }
    Ok(())
}

#[test]
fn the_same_mistakes_at_hot_plug_leave_qemu_running() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    let mut device = stack.device(1);
    for (key, value, text) in [
        (
            "helper",
            json!("/nonexistent/helper.sock"),
            "does not exist",
        ),
        ("vf", json!(9), "NO_SUCH_VF"),
        ("helper-deadline-ms", json!(1), "out of range"),
    ] {
        let good = device.get(key).cloned();
        device[key] = value;
        for _ in 0..2 {
            match qemu.qmp.command("device_add", device.clone()) {
                Ok(_) => anyhow::bail!("a device with a bad {key} was added"),
                Err(e) => assert!(format!("{e}").contains(text), "{key}: {e}"),
            }
        }
        match good {
            Some(v) => device[key] = v,
            None => {
                if let Some(o) = device.as_object_mut() {
                    o.remove(key);
                }
            }
        }
    }
    qemu.qmp.command("device_add", device)?;
    assert_eq!(
        qtest_tests::property(&mut qemu.qmp, "link-state")?,
        "connected"
    );
    assert!(qemu.process.is_running()?);
    Ok(())
}
