// SPDX-License-Identifier: GPL-2.0-or-later
//! How many VFs get I/O BARs from SeaBIOS, and behind what. A bridge hands I/O on in windows of 4 KiB,
//! of which a PC has fourteen to give.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{device, Interface};
use crate::run::Run;
use test_kit::patience::until;
use test_machine::bench::Bench;
use test_machine::machine::comma;
use test_machine::process::POLL;
use test_machine::qmp::Qmp;
use test_machine::rig::Pf;
use test_machine::scenario::Scenario;

pub(super) const MANY_VFS: Scenario<Run> = Scenario {
    name: "many-vfs",
    shows: "30 VFs on one `pcie-pci-bridge`, and 30 on `pcie.0`: SeaBIOS gives each its I/O BAR, and each answers there as itself",
    run: Run::Guest(many),
};

pub(super) const ROOT_PORTS: Scenario<Run> = Scenario {
    name: "root-ports",
    shows: "14 VFs behind a root port each have I/O; with 15 SeaBIOS stops for want of it; a VF plugged into a port answers if that had `io-reserve=4096`, otherwise the port's I/O window is closed",
    run: Run::Guest(root_ports),
};

/// As many as there are slots on `pcie.0` beside the chipset's own.
const MANY: u16 = 30;
/// Root ports with I/O, at most.
const PORTS: u16 = 14;
/// Until QEMU has opened its sockets.
const OPEN: Duration = Duration::from_secs(20);
/// Until SeaBIOS has nothing left to boot from.
const BOOT: Duration = Duration::from_secs(120);
const NOTHING_TO_BOOT: &str = "No bootable device";
const NO_ROOM: &str = "PCI: out of I/O address space";

/// Where the last byte of the MAC address is in BAR0; the simulator numbers the VFs in it.
const MAC_LAST: u64 = 25;
const STATUS: u64 = 18;
/// Configuration cycles.
const CONFIG_ADDRESS: u64 = 0xcf8;
const CONFIG_DATA: u64 = 0xcfc;
const ENABLE: u64 = 1 << 31;

/// A machine with SeaBIOS, and QEMU's view of its buses.
struct Booted {
    vm: Vm,
    qmp: Qmp,
}

/// A function's BAR0 as QEMU sees it; no port: it has none.
struct Found {
    id: String,
    port: Option<u64>,
}

impl Booted {
    fn start(bench: &Bench, name: &str, devices: &[Value]) -> Result<Self> {
        let socket: PathBuf = bench.run.path().join("buses.qmp");
        let _ = fs::remove_file(&socket);
        let listen = format!("unix:{},server=on,wait=off", comma(&socket));
        let more = ["-qmp", listen.as_str()];
        let vm = Vm::start(bench, name, &Firmware::SeaBios, devices, &more)?;
        // It comes after the serial port, which the machine waits for.
        let stream = until(OPEN, POLL, || Ok(UnixStream::connect(&socket).ok()))
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let qmp = Qmp::new(stream)?;
        Ok(Self { vm, qmp })
    }

    fn wait_booted(&mut self) -> Result<()> {
        self.vm.expect(NOTHING_TO_BOOT, BOOT)
    }

    /// All functions of VFs.
    fn vfs(&mut self) -> Result<Vec<Found>> {
        let buses = self.qmp.execute("query-pci", &json!({}))?;
        let mut found = Vec::new();
        for bus in buses.as_array().context("no list of buses")? {
            walk(bus, &mut |function| {
                let id = function["qdev_id"].as_str().unwrap_or_default();
                if id.starts_with("vf") {
                    let (id, port) = (id.to_owned(), bar0(function));
                    found.push(Found { id, port });
                }
            });
        }
        Ok(found)
    }

    /// A bridge by its name: I/O window (first and last port) and number of the bus behind it.
    fn bridge(&mut self, name: &str) -> Result<((u64, u64), u64)> {
        let buses = self.qmp.execute("query-pci", &json!({}))?;
        let mut found = None;
        for bus in buses.as_array().context("no list of buses")? {
            walk(bus, &mut |function| {
                let number = |path: &str| function.pointer(path).and_then(Value::as_u64);
                if function["qdev_id"] == name {
                    found = number("/pci_bridge/bus/io_range/base")
                        .zip(number("/pci_bridge/bus/io_range/limit"))
                        .zip(number("/pci_bridge/bus/secondary"));
                }
            });
        }
        found.with_context(|| format!("no bridge {name} in {buses}"))
    }

    fn monitor(&mut self, line: &str) -> Result<String> {
        let wanted = json!({ "command-line": line });
        let answer = self.qmp.execute("human-monitor-command", &wanted)?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }

    fn read_byte(&mut self, port: u64) -> Result<u64> {
        let text = self.monitor(&format!("i /b {port:#x}"))?;
        let value = text.rsplit("0x").next().unwrap_or_default();
        u64::from_str_radix(value, 16).with_context(|| format!("the monitor says {text:?}"))
    }

    fn write(&mut self, letter: char, port: u64, value: u64) -> Result<()> {
        let said = self.monitor(&format!("o /{letter} {port:#x} {value:#x}"))?;
        ensure!(said.is_empty(), "the monitor says {said:?}");
        Ok(())
    }

    /// Four bytes of the configuration space of function 0 in slot 0 of a bus.
    fn write_config(&mut self, bus: u64, offset: u64, value: u64) -> Result<()> {
        self.write('w', CONFIG_ADDRESS, ENABLE | bus << 16 | offset)?;
        self.write('w', CONFIG_DATA, value)
    }

    /// Each has a place for its BAR0, and is there the VF that it should be.
    fn check_all_answer(&mut self, count: u16) -> Result<()> {
        let found = self.vfs()?;
        ensure!(
            found.len() == usize::from(count),
            "{} functions, not {count}",
            found.len()
        );
        for one in found {
            let port = one.port.with_context(|| format!("{} has no I/O", one.id))?;
            let number: u64 = one.id.trim_start_matches("vf").parse()?;
            let answers = self.read_byte(port + MAC_LAST)?;
            ensure!(
                answers == number,
                "at {port:#x}, BAR0 of {}, VF {answers} answers",
                one.id
            );
            for status in [1, 3, 0] {
                self.write('b', port + STATUS, status)?;
                let read = self.read_byte(port + STATUS)?;
                ensure!(read == status, "{}: status {read}, not {status}", one.id);
            }
        }
        Ok(())
    }
}

/// Calls `see` for each function of a bus and of those behind it.
fn walk(bus: &Value, see: &mut dyn FnMut(&Value)) {
    for function in bus["devices"].as_array().into_iter().flatten() {
        see(function);
        if let Some(behind) = function.get("pci_bridge") {
            walk(behind, see);
        }
    }
}

/// The first port of BAR0, if it is I/O and has a place.
fn bar0(function: &Value) -> Option<u64> {
    let regions = function["regions"].as_array()?;
    let bar = regions
        .iter()
        .find(|r| r["bar"] == 0 && r["type"] == "io")?;
    bar["address"]
        .as_u64()
        .filter(|at| (1..0x1_0000).contains(at))
}

/// VF `vf` on a bus.
fn vf(pf: &Pf, vf: u16, bus: &str, slot: u16) -> Result<Value> {
    let place = [("bus", json!(bus)), ("addr", json!(format!("{slot:#x}")))];
    device(
        &pf.function(vf),
        &format!("vf{vf}"),
        Interface::Legacy,
        &place,
    )
}

fn many(bench: &Bench) -> Result<String> {
    let bridge =
        json!({"driver": "pcie-pci-bridge", "id": "bridge", "bus": "pcie.0", "addr": "0x1"});
    for (name, bus) in [("many-bridge", "bridge"), ("many-bus", "pcie.0")] {
        let pf = bench.pf("net", MANY, &[])?;
        let mut devices = Vec::new();
        if bus == "bridge" {
            devices.push(bridge.clone());
        }
        for number in 1..=MANY {
            devices.push(vf(&pf, number, bus, number)?);
        }
        let mut booted = Booted::start(bench, name, &devices)?;
        booted.wait_booted()?;
        booted.check_all_answer(MANY).context(name)?;
    }
    Ok(format!(
        "{MANY} of {MANY} VFs have I/O on one bridge, {MANY} of {MANY} on pcie.0"
    ))
}

/// Root port `number`, eight of them in a slot.
fn port(number: u16) -> Value {
    let (slot, function) = (2 + (number - 1) / 8, (number - 1) % 8);
    json!({
        "driver": "pcie-root-port",
        "id": format!("port{number}"),
        "chassis": number,
        "bus": "pcie.0",
        "addr": format!("{slot:x}.{function}"),
        "multifunction": true,
    })
}

fn behind_ports(bench: &Bench, count: u16) -> Result<(Pf, Booted)> {
    let pf = bench.pf("net", count, &[])?;
    let mut devices = Vec::new();
    for number in 1..=count {
        devices.push(port(number));
        devices.push(vf(&pf, number, &format!("port{number}"), 0)?);
    }
    let booted = Booted::start(bench, &format!("root-ports-{count}"), &devices)?;
    Ok((pf, booted))
}

fn root_ports(bench: &Bench) -> Result<String> {
    {
        let (_pf, mut booted) = behind_ports(bench, PORTS)?;
        booted.wait_booted()?;
        booted.check_all_answer(PORTS)?;
    }
    {
        let (_pf, mut booted) = behind_ports(bench, PORTS + 1)?;
        until(BOOT, POLL, || {
            let stopped = booted.vm.firmware_said()?.contains(NO_ROOM);
            Ok(stopped.then_some(()))
        })
        .with_context(|| format!("SeaBIOS does not say \"{NO_ROOM}\""))?;
        let with = booted.vfs()?.iter().filter(|f| f.port.is_some()).count();
        ensure!(with == 0, "{with} VFs have I/O all the same");
        ensure!(
            !booted.vm.said().contains(NOTHING_TO_BOOT),
            "SeaBIOS went on"
        );
    }
    let window = plugged(bench)?;
    Ok(format!(
        "{PORTS} root ports with I/O, none of {}; an empty one with io-reserve has {:#x} to {:#x}",
        PORTS + 1,
        window.0,
        window.1
    ))
}

/// Two empty ports, and a VF for each.
fn plugged(bench: &Bench) -> Result<(u64, u64)> {
    let pf = bench.pf("net", 2, &[])?;
    let (closed, mut open) = (port(1), port(2));
    open["io-reserve"] = json!(4096);
    let mut booted = Booted::start(bench, "root-ports-empty", &[closed, open])?;
    booted.wait_booted()?;
    for number in 1..=2 {
        let device = vf(&pf, number, &format!("port{number}"), 0)?;
        booted.qmp.execute("device_add", &device)?;
    }
    let ((base, limit), _) = booted.bridge("port1")?;
    ensure!(
        base > limit,
        "a port that nobody asked for I/O has {base:#x} to {limit:#x}"
    );
    let (window, bus) = booted.bridge("port2")?;
    ensure!(
        window.0 > 0 && window.1 == window.0 + 0xfff,
        "with io-reserve it is {window:x?}"
    );
    // What a system with no more than the firmware's windows can do.
    booted.write_config(bus, 0x10, window.0)?;
    booted.write_config(bus, 4, 7)?;
    let mac = booted.read_byte(window.0 + MAC_LAST)?;
    ensure!(mac == 2, "the plugged VF answers with {mac:#x}");
    Ok(window)
}
