// SPDX-License-Identifier: GPL-2.0-or-later
//! What the device shows to whoever manages the machine: `info pci`, `info qtree` and QOM.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Qmp, Stack, PATIENCE};
use qtest_tests::monitor::{every_property, info_pci, info_qtree};
use qtest_tests::{property, wait_for, wait_link};
use serde_json::{json, Value};
use virtio_pci_spec::pci::header;

/// Type, PCI device ID, subsystem ID, class, bytes of BAR0.
const TYPES: [(DeviceKind, u16, u16, u16, u32); 7] = [
    (DeviceKind::Net, 0x1000, 1, 0x0200, 64),
    (DeviceKind::Block, 0x1001, 2, 0x0100, 128),
    (DeviceKind::Balloon, 0x1002, 5, 0x00ff, 64),
    (DeviceKind::Console, 0x1003, 3, 0x0780, 64),
    (DeviceKind::Scsi, 0x1004, 8, 0x0100, 64),
    (DeviceKind::Rng, 0x1005, 4, 0x00ff, 32),
    (DeviceKind::P9, 0x1009, 9, 0x0002, 32),
];

/// What QEMU calls a class, in `info pci` and in `info qtree`.
fn class_names(class: u16) -> (String, String) {
    match class {
        0x0100 => ("SCSI controller".into(), "SCSI controller".into()),
        0x0200 => ("Ethernet controller".into(), "Ethernet controller".into()),
        // It has no name; one of them prints the number as a decimal.
        _ => (format!("Class {class:04}"), format!("Class {class:04x}")),
    }
}

/// Whether a line of a monitor command is there.
fn has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|l| l == line), "no {line:?} in {lines:#?}");
}

/// Lines that begin like that.
fn count(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|l| l.starts_with(start)).count()
}

// Covers: PCI-01, PCI-02, PCI-04, PCI-07
#[test]
fn info_pci_shows_the_transitional_function_of_every_type() -> Result<()> {
    for (kind, id, subsystem, class, size) in TYPES {
        let stack = Stack::start(kind, 1)?;
        let mut qemu = stack.qemu(Machine::Pc)?;
        let new = info_pci(&mut qemu.qmp)?;
        has(&new, &format!("Bus  0, device {SLOT:3}, function 0:"));
        let (in_pci, in_qtree) = class_names(class);
        has(&new, &format!("{in_pci}: PCI device 1af4:{id:04x}"));
        has(&new, &format!("PCI subsystem 1af4:{subsystem:04x}"));
        has(&new, "IRQ 0, pin A");
        has(&new, "BAR0: I/O (not mapped)");
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        device.write(&qemu.qtest, header::INTERRUPT_LINE, 1, 11)?;
        let base = u32::from(device.io()?);
        let lines = info_pci(&mut qemu.qmp)?;
        has(
            &lines,
            &format!("BAR0: I/O at 0x{base:04x} [0x{:04x}]", base + size - 1),
        );
        has(&lines, "IRQ 11, pin A");
        assert_eq!(count(&lines, "BAR"), count(&new, "BAR"), "{lines:#?}");
        // `info qtree` ends with the same in its own words.
        let tree = info_qtree(&mut qemu.qmp)?;
        assert_eq!(tree.type_name, "virtio-legacy-vf-user");
        let address = format!("addr 00:{SLOT:02x}.0");
        let ids = format!("pci id 1af4:{id:04x} (sub 1af4:{subsystem:04x})");
        has(&tree.bus, &format!("class {in_qtree}, {address}, {ids}"));
        has(
            &tree.bus,
            &format!("bar 0: i/o at {base:#x} [{:#x}]", base + size - 1),
        );
        // It goes where the guest moves it, and away.
        device.write(&qemu.qtest, header::BAR0, 4, 0xd000)?;
        let moved = info_pci(&mut qemu.qmp)?;
        let end = 0xd000 + size - 1;
        has(&moved, &format!("BAR0: I/O at 0xd000 [{end:#x}]"));
        device.set_command(&qemu.qtest, 6)?;
        has(&info_pci(&mut qemu.qmp)?, "BAR0: I/O (not mapped)");
    }
    Ok(())
}

// Covers: PCI-08, IRQ-01
#[test]
fn the_pin_is_shown_where_intx_is_on() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    for (intx, pin) in [("auto", true), ("on", true), ("off", false)] {
        for hidden in [false, true] {
            let mut config = stack.device(1);
            config["intx"] = json!(intx);
            config["disable-modern"] = json!(hidden);
            let mut qemu = stack.qemu_with(Machine::Q35, &config)?;
            let lines = info_pci(&mut qemu.qmp)?;
            assert_eq!(count(&lines, "IRQ 0, pin A") == 1, pin, "{lines:#?}");
            assert_eq!(count(&lines, "IRQ "), usize::from(pin), "{lines:#?}");
            let tree = info_qtree(&mut qemu.qmp)?;
            assert_eq!(tree.get("intx")?, format!("{intx:?}"));
            assert_eq!(tree.get("disable-modern")?, hidden.to_string());
        }
    }
    Ok(())
}

#[test]
fn info_qtree_shows_what_was_asked_for_and_the_state() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 3)?;
    let mut config = stack.device(2);
    let helper = stack.helper.socket().display().to_string();
    let mut qemu = stack.qemu_with(Machine::Pc, &config)?;
    let tree = info_qtree(&mut qemu.qmp)?;
    let path = property(&mut qemu.qmp, "doorbell-path")?;
    let path = path.as_str().context("no text")?;
    let connected = format!("\"VF 2, helper {helper} connected, doorbells by {path}\"");
    for (name, value) in [
        ("helper", format!("{helper:?}")),
        ("vf", "2 (0x2)".to_owned()),
        ("helper-deadline-ms", "3000 (0xbb8)".to_owned()),
        ("disable-modern", "false".to_owned()),
        ("intx", "\"auto\"".to_owned()),
        ("x-bus-master-fixup", "true".to_owned()),
        ("state", connected.clone()),
    ] {
        assert_eq!(tree.get(name)?, value, "{name}");
    }
    stack.helper.process.kill()?;
    wait_link(&mut qemu.qmp, "lost", PATIENCE)?;
    assert_eq!(
        info_qtree(&mut qemu.qmp)?.get("state")?,
        connected.replace(" connected, ", " lost, ")
    );
    stack.helper.restart()?;
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    assert_eq!(info_qtree(&mut qemu.qmp)?.get("state")?, connected);
    drop(qemu);
    config["helper-deadline-ms"] = json!(2500);
    config["intx"] = json!("off");
    config["x-bus-master-fixup"] = json!(false);
    let mut qemu = stack.qemu_with(Machine::Pc, &config)?;
    let tree = info_qtree(&mut qemu.qmp)?;
    for (name, value) in [
        ("helper-deadline-ms", "2500 (0x9c4)"),
        ("intx", "\"off\""),
        ("x-bus-master-fixup", "false"),
    ] {
        assert_eq!(tree.get(name)?, value, "{name}");
    }
    Ok(())
}

/// A disk whose driver is at work.
struct Disk {
    qemu: Qemu,
    device: PciDevice,
    driver: LegacyDriver,
    queue: Option<Queue>,
}

impl Disk {
    fn start(&mut self) -> Result<()> {
        self.driver.begin(&self.qemu.qtest, 0)?;
        let memory = &mut self.qemu.memory;
        let queue = self.driver.queue(&self.qemu.qtest, memory, 0, 0)?;
        self.driver.set_status(&self.qemu.qtest, 7)?;
        self.queue = Some(queue);
        self.read()
    }

    fn read(&mut self) -> Result<()> {
        let queue = self.queue.as_mut().context("not started")?;
        let (q, memory) = (&self.qemu.qtest, &mut self.qemu.memory);
        let (data, status) = self
            .driver
            .block_request(q, memory, queue, 0, 0, &Buffer::In(512))?;
        assert_eq!((data.len(), status), (512, 0));
        Ok(())
    }
}

/// All properties, read twice and once more by `info qtree`, with some of which the values are
/// known. The names and types are the same in all states.
fn all_readable(
    qmp: &mut Qmp,
    names: &mut Option<BTreeMap<String, String>>,
    known: &[(&str, Value)],
) -> Result<()> {
    every_property(qmp)?;
    let all = every_property(qmp)?;
    for (name, want) in known {
        let (_, value) = all.get(*name).with_context(|| format!("no {name}"))?;
        assert_eq!(value, want, "{name}");
    }
    let (_, state) = all.get("state").context("no state")?;
    let state = state.as_str().context("no text")?;
    let (_, link) = all.get("link-state").context("no link-state")?;
    let link = link.as_str().context("no text")?;
    assert!(state.contains(&format!(" {link}, ")), "{state}");
    assert_eq!(info_qtree(qmp)?.get("state")?, format!("{state:?}"));
    let now = all.into_iter().map(|(name, (kind, _))| (name, kind));
    let now: BTreeMap<String, String> = now.collect();
    assert!(now.len() > 40, "{now:?}");
    assert_eq!(names.get_or_insert_with(|| now.clone()), &now);
    Ok(())
}

#[test]
fn every_property_can_be_read_in_every_state() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (qemu, device) = stack.mapped(Machine::Q35)?;
    let driver = LegacyDriver::new(&device)?;
    let mut d = Disk {
        qemu,
        device,
        driver,
        queue: None,
    };
    let names = &mut None;
    let link = |state: &str| ("link-state", json!(state));
    // Fresh.
    let known = [
        link("connected"),
        ("link-error", json!("")),
        ("accesses", json!(0)),
        ("state-lost", json!(false)),
        ("intx-level", json!(false)),
        ("realized", json!(true)),
        ("resets", json!(1)),
        ("notify-by", json!("vf")),
        ("vf", json!(1)),
    ];
    all_readable(&mut d.qemu.qmp, names, &known)?;
    // Running, with the pin raised for a request that came back.
    d.start()?;
    wait_for("level", PATIENCE, || {
        let level = property(&mut d.qemu.qmp, "intx-level")?;
        Ok((level == json!(true)).then_some(()))
    })?;
    let known = [
        link("connected"),
        ("isr", json!(1)),
        ("intx-level", json!(true)),
        ("intx-raised", json!(1)),
        ("notifies", json!(1)),
    ];
    all_readable(&mut d.qemu.qmp, names, &known)?;
    // Running with messages.
    assert_eq!(d.driver.read(&d.qemu.qtest, 19, 1)?, 1);
    let mut msix = d.device.msix(&d.qemu.qtest)?;
    msix.program(&d.qemu.qtest, &mut d.qemu.memory)?;
    msix.enable(&d.qemu.qtest, &d.device, true)?;
    d.driver.msix = true;
    d.driver.set_status(&d.qemu.qtest, 0)?;
    d.start()?;
    let known = [
        link("connected"),
        ("intx-level", json!(false)),
        ("intx-vectors", json!(0)),
        ("notifies", json!(2)),
    ];
    all_readable(&mut d.qemu.qmp, names, &known)?;
    // The helper is lost, in the middle of traffic and after reads.
    stack.helper.process.kill()?;
    wait_link(&mut d.qemu.qmp, "lost", PATIENCE)?;
    assert_eq!(d.driver.status(&d.qemu.qtest)?, 0xff);
    d.read()?;
    let known = [
        link("lost"),
        ("losses", json!(1)),
        ("lost-reads", json!(1)),
        ("reconnects", json!(0)),
    ];
    all_readable(&mut d.qemu.qmp, names, &known)?;
    let why = property(&mut d.qemu.qmp, "link-error")?;
    assert!(why.as_str().is_some_and(|w| !w.is_empty()), "{why}");
    // Back.
    stack.helper.restart()?;
    wait_link(&mut d.qemu.qmp, "connected", PATIENCE)?;
    d.read()?;
    let known = [
        link("connected"),
        ("link-error", json!("")),
        ("reconnects", json!(1)),
        ("state-lost", json!(false)),
    ];
    all_readable(&mut d.qemu.qmp, names, &known)?;
    // As new: the machine's start has reset it once.
    d.qemu.qmp.system_reset()?;
    let known = [link("connected"), ("isr", json!(0)), ("resets", json!(2))];
    all_readable(&mut d.qemu.qmp, names, &known)
}

/// What QEMU tells about a type without any device of it: name, type and description by name.
fn of_type(qmp: &mut Qmp, command: &str, name: &str) -> Result<BTreeMap<String, (String, String)>> {
    let list = qmp.command(command, json!({"typename": name}))?;
    let list = list.as_array().context("no list")?;
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    Ok(list
        .iter()
        .map(|e| (text(e, "name"), (text(e, "type"), text(e, "description"))))
        .collect())
}

/// What is set, and what is only read.
const OWN: [&str; 7] = [
    "helper",
    "vf",
    "helper-deadline-ms",
    "disable-modern",
    "intx",
    "x-bus-master-fixup",
    "state",
];

/// The device for VFs of the host cannot be made here, but it tells the same as its sibling.
#[test]
fn both_devices_have_the_same_properties() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(dir.path())?;
    for command in ["device-list-properties", "qom-list-properties"] {
        let mut own = Vec::new();
        for (name, parent) in [
            ("virtio-legacy-vf", "vfio-pci"),
            ("virtio-legacy-vf-user", "vfio-user-pci"),
        ] {
            let inherited = of_type(&mut qemu.qmp, command, parent)?;
            let mut all = of_type(&mut qemu.qmp, command, name)?;
            for (property, (kind, _)) in &inherited {
                let (now, _) = all.remove(property).with_context(|| property.clone())?;
                assert_eq!(&now, kind, "{name}: {property}");
            }
            for property in OWN {
                assert!(all.contains_key(property), "{name}: no {property}: {all:?}");
            }
            for (property, (kind, description)) in &all {
                let told = kind.starts_with("child<") || !description.is_empty();
                assert!(told, "{name}: {property} ({kind}) has no description");
            }
            own.push(all);
        }
        assert_eq!(own[0], own[1], "{command}");
    }
    for name in ["virtio-legacy-vf", "virtio-legacy-vf-user"] {
        let text = qemu.qmp.monitor(&format!("device_add {name},help"))?;
        assert!(text.contains("helper-deadline-ms=<uint32>"), "{text}");
        let models = qemu.qmp.monitor("info qdm")?;
        let line = models
            .lines()
            .find(|l| l.contains(&format!("name \"{name}\"")));
        let line = line.with_context(|| format!("no {name} in info qdm"))?;
        assert!(line.contains("as a transitional device"), "{line}");
    }
    let devices = qemu
        .qmp
        .command("qom-list", json!({"path": "/machine/peripheral"}))?;
    assert!(!devices.to_string().contains(DEVICE_ID), "{devices}");
    Ok(())
}
