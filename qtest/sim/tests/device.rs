// SPDX-License-Identifier: GPL-2.0-or-later
//! The real device behind the server, seen by a raw client: configuration space, SR-IOV, resets,
//! interrupts, the control socket.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use serde_json::json;
use std::time::Duration;
use vfio_user_wire::*;
use virtio_modern_spec::sriov;
use virtio_pci_spec::pci::{self, express, header, msix};
use virtio_pci_spec::DeviceType;
use virtio_pf_model::net::config::NetSettings;
use virtio_pf_model::{ModelConfig, COMMON_OFFSET, MODERN_BAR};
use virtio_pf_sim::device::config::{DeviceOptions, TypeOptions};
use virtio_pf_sim::device::Device;
use virtio_pf_sim::event_loop::Options;

fn start(vfs: u16, live: u16) -> Running {
    let mut model = ModelConfig::new(DeviceType::Net, vfs);
    model.vfs_at_start = live;
    start_model(model)
}

fn start_model(model: ModelConfig) -> Running {
    let hardware = move || -> Box<dyn virtio_pf_sim::hardware::Hardware> {
        let device = TypeOptions::Net {
            settings: NetSettings::default(),
            capture: false,
        };
        Box::new(
            Device::new(&DeviceOptions {
                model,
                device,
                faults: Vec::new(),
            })
            .unwrap(),
        )
    };
    let options = Options {
        peer: true,
        ..Options::default()
    };
    Running::start_with(Box::new(hardware), options)
}

fn config16(c: &mut Client, at: usize) -> u16 {
    let b = c.read(REGION_CONFIG, at as u64, 2);
    u16::from_le_bytes([b[0], b[1]])
}

fn config32(c: &mut Client, at: usize) -> u32 {
    let b = c.read(REGION_CONFIG, at as u64, 4);
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn capability(c: &mut Client, id: u8) -> usize {
    let mut at = usize::from(c.read(REGION_CONFIG, header::CAPABILITY_LIST as u64, 1)[0]);
    for _ in 0..48 {
        let head = c.read(REGION_CONFIG, at as u64, 2);
        if head[0] == id {
            return at;
        }
        at = usize::from(head[1]);
        assert_ne!(at, 0, "no capability {id:#x}");
    }
    panic!("capability list does not end");
}

fn extended(c: &mut Client, id: u16) -> usize {
    let mut at = pci::EXT_CAP_START;
    for _ in 0..96 {
        let head = config32(c, at);
        if head as u16 == id {
            return at;
        }
        at = (head >> 20) as usize;
        assert_ne!(at, 0, "no extended capability {id:#x}");
    }
    panic!("extended capability list does not end");
}

fn device_status(c: &mut Client, value: Option<u8>) -> u8 {
    let at = COMMON_OFFSET + 20;
    if let Some(value) = value {
        c.write(u32::from(MODERN_BAR), at, &[value]);
    }
    c.read(u32::from(MODERN_BAR), at, 1)[0]
}

// Covers: PCI-05
#[test]
fn pf_and_vfs_are_functions_of_one_device() {
    let sim = start(2, 2);
    let mut serials = Vec::new();
    for (name, id) in [
        ("pf.sock", 0x1041),
        ("vf1.sock", 0x1041),
        ("vf2.sock", 0x1041),
    ] {
        let mut c = sim.client(name);
        assert_eq!(config16(&mut c, header::VENDOR_ID), 0x1af4);
        assert_eq!(config16(&mut c, header::DEVICE_ID), id);
        assert_eq!(config16(&mut c, header::COMMAND), 0, "{name}");
        assert!(c.read(REGION_CONFIG, header::REVISION_ID as u64, 1)[0] >= 1);
        let dsn = extended(&mut c, pci::EXT_CAP_ID_DSN);
        serials.push(c.read(REGION_CONFIG, dsn as u64 + 4, 8));
        let at = capability(&mut c, pci::CAP_ID_MSIX);
        let vectors = (config16(&mut c, at + msix::CONTROL) & msix::CONTROL_SIZE_MASK) + 1;
        let answer = c.ask(&Request::GetIrqInfo {
            argsz: 16,
            index: IRQ_MSIX,
        });
        let Reply::IrqInfo(info) = c.decode(&answer) else {
            panic!()
        };
        assert_eq!(info.count, u32::from(vectors));
    }
    assert!(serials.windows(2).all(|w| w[0] == w[1]) && serials[0] != [0; 8]);
}

#[test]
fn vfs_appear_when_the_pf_enables_them_and_outlive_its_client() {
    let sim = start(3, 0);
    let mut vf = sim.client("vf1.sock");
    assert_eq!(config16(&mut vf, header::VENDOR_ID), 0xffff);
    let mut pf = sim.client("pf.sock");
    let cap = extended(&mut pf, pci::EXT_CAP_ID_SRIOV);
    assert_eq!(config16(&mut pf, cap + sriov::TOTAL_VFS), 3);
    pf.write(
        REGION_CONFIG,
        (cap + sriov::NUM_VFS) as u64,
        &2u16.to_le_bytes(),
    );
    let on = sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE;
    pf.write(
        REGION_CONFIG,
        (cap + sriov::CONTROL) as u64,
        &on.to_le_bytes(),
    );
    assert_eq!(config16(&mut vf, header::VENDOR_ID), 0x1af4);
    let mut third = sim.client("vf3.sock");
    assert_eq!(config16(&mut third, header::VENDOR_ID), 0xffff);
    assert_eq!(device_status(&mut vf, Some(1)), 1);
    drop(pf);
    let mut pf = sim.client("pf.sock");
    assert_eq!(config16(&mut pf, header::COMMAND), 0);
    assert_eq!(device_status(&mut vf, None), 1);
    // A reset of the PF ends them.
    assert_eq!(pf.error(&Request::DeviceReset, &[]), 0);
    assert_eq!(config16(&mut vf, header::VENDOR_ID), 0xffff);
}

#[test]
fn function_level_reset_by_configuration_write_and_by_message() {
    let sim = start(2, 2);
    let (mut a, mut b) = (sim.client("vf1.sock"), sim.client("vf2.sock"));
    for by_message in [false, true] {
        a.write(REGION_CONFIG, header::COMMAND as u64, &6u16.to_le_bytes());
        assert_eq!(device_status(&mut a, Some(3)), 3);
        assert_eq!(device_status(&mut b, Some(1)), 1);
        if by_message {
            assert_eq!(a.error(&Request::DeviceReset, &[]), 0);
        } else {
            let cap = capability(&mut a, pci::CAP_ID_EXPRESS);
            assert_ne!(
                config32(&mut a, cap + express::DEVCAP) & express::DEVCAP_FLR,
                0
            );
            let at = (cap + express::DEVCTL) as u64;
            a.write(REGION_CONFIG, at, &express::DEVCTL_FLR.to_le_bytes());
        }
        assert_eq!(config16(&mut a, header::COMMAND), 0);
        assert_eq!(device_status(&mut a, None), 0);
        assert_eq!(device_status(&mut b, None), 1);
    }
}

#[test]
fn a_client_that_goes_leaves_a_reset_function_behind() {
    let sim = start(1, 1);
    let mut c = sim.client("vf1.sock");
    assert_eq!(device_status(&mut c, Some(3)), 3);
    let memory = memfd(0x1000);
    assert_eq!(c.map(0, 0x1000, 0, &memory), 0);
    drop(c);
    let mut c = sim.client("vf1.sock");
    assert_eq!(device_status(&mut c, None), 0);
    let status = sim.ctl(r#"{"cmd":"status"}"#);
    assert_eq!(status["clients"][0]["dma"]["mappings"], 0);
    assert_eq!(status["files_mapped"], 0);
}

#[test]
fn doorbells_are_offered_where_the_capability_says() {
    let sim = start(2, 2);
    for (name, queues) in [("vf1.sock", 3), ("pf.sock", 4)] {
        let mut c = sim.client(name);
        let index = u32::from(MODERN_BAR);
        let answer = c.ask(&Request::GetRegionIoFds { argsz: 4096, index });
        let Reply::IoFds(fds) = c.decode(&answer) else {
            panic!()
        };
        assert_eq!(
            (fds.entries.len(), answer.fds.len()),
            (queues, queues),
            "{name}"
        );
        // Notification capability: bar, offset, multiplier.
        let mut at = usize::from(c.read(REGION_CONFIG, header::CAPABILITY_LIST as u64, 1)[0]);
        let cap = loop {
            let cap = c.read(REGION_CONFIG, at as u64, 20);
            if cap[0] == pci::CAP_ID_VENDOR && cap[3] == 2 {
                break cap;
            }
            at = usize::from(cap[1]);
            assert_ne!(at, 0);
        };
        let word = |n: usize| u32::from_le_bytes(cap[n..n + 4].try_into().unwrap());
        assert_eq!(cap[4], MODERN_BAR);
        for entry in fds.entries {
            let want = u64::from(word(8)) + entry.datamatch * u64::from(word(16));
            assert_eq!((entry.offset, entry.size), (want, 2));
        }
    }
    let counters = sim.ctl(r#"{"cmd":"counters"}"#);
    assert_eq!(counters["hardware"]["device"]["violations"], json!({}));
}

// Covers: AVQ-01, MOD-11
#[test]
fn each_admin_queue_has_its_doorbell_its_vector_and_its_faults() {
    let mut model = ModelConfig::new(DeviceType::Net, 1);
    model.knobs.admin_queues = 3;
    let sim = start_model(model);
    let mut c = sim.client("pf.sock");
    let index = u32::from(MODERN_BAR);
    let answer = c.ask(&Request::GetRegionIoFds { argsz: 4096, index });
    let Reply::IoFds(fds) = c.decode(&answer) else {
        panic!()
    };
    let mut queues: Vec<_> = fds.entries.iter().map(|e| e.datamatch).collect();
    queues.sort_unstable();
    assert_eq!(queues, [0, 1, 2, 3, 4, 5], "three of the card, three more");
    let index = IRQ_MSIX;
    let answer = c.ask(&Request::GetIrqInfo { argsz: 16, index });
    let Reply::IrqInfo(info) = c.decode(&answer) else {
        panic!()
    };
    assert_eq!(info.count, 6 + 1);
    for (queue, ok) in [(0, true), (2, true), (3, false)] {
        let rule = json!({ "admin_queue": queue, "do": "stuck" });
        let added = sim.ctl(&json!({ "cmd": "fault-add", "rule": rule }).to_string());
        assert_eq!(added["ok"], ok, "{added}");
    }
}

#[test]
fn the_control_socket_reaches_the_device() {
    let sim = start(2, 2);
    let rule = r#"{"opcode":"LEGACY_COMMON_CFG_READ","member":1,"do":{"status":{"status":11}}}"#;
    let added = sim.ctl(&format!(r#"{{"cmd":"fault-add","rule":{rule}}}"#));
    assert_eq!(added["ok"], true, "{added}");
    let quoted = json!({ "cmd": "fault-add", "rule": rule }).to_string();
    assert_eq!(sim.ctl(&quoted)["ok"], true);
    let list = sim.ctl(r#"{"cmd":"fault-list"}"#);
    assert_eq!(list["rules"].as_array().map(Vec::len), Some(2));
    let id = added["id"].as_u64().unwrap();
    assert_eq!(
        sim.ctl(&json!({ "cmd": "fault-clear", "id": id }).to_string())["ok"],
        true
    );
    assert_eq!(
        sim.ctl(&json!({ "cmd": "fault-clear", "id": id }).to_string())["ok"],
        false
    );
    assert_eq!(sim.ctl(r#"{"cmd":"fault-clear"}"#)["ok"], true);
    assert_eq!(sim.ctl(r#"{"cmd":"fault-list"}"#)["rules"], json!([]));
    assert_eq!(
        sim.ctl(r#"{"cmd":"fault-add","rule":{"opcode":"NOPE","do":"drop"}}"#)["ok"],
        false
    );

    assert_eq!(sim.ctl(r#"{"cmd":"link","vf":1,"up":false}"#)["ok"], true);
    assert_eq!(sim.ctl(r#"{"cmd":"link","vf":9,"up":false}"#)["ok"], false);
    assert_eq!(sim.ctl(r#"{"cmd":"link","vf":1}"#)["ok"], false);
    assert_eq!(
        sim.ctl(r#"{"cmd":"resize","vf":1,"bytes":4096}"#)["ok"],
        false
    );

    let mut c = sim.client("vf1.sock");
    assert_eq!(device_status(&mut c, Some(1)), 1);
    let dump = sim.ctl(r#"{"cmd":"dump","vf":1}"#);
    assert_eq!(dump["common"]["device_status"], 1, "{dump}");
    assert!(dump["config"].as_str().unwrap().starts_with("f41a4110"));
    assert_eq!(
        sim.ctl(r#"{"cmd":"needs-reset","vf":1,"reason":"test"}"#)["ok"],
        true
    );
    assert_eq!(device_status(&mut c, None) & 64, 64);
    let events = sim.ctl(r#"{"cmd":"events"}"#);
    let found = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .any(|e| e["event"] == "needs_reset");
    assert!(found, "{events}");
    assert_eq!(sim.ctl(r#"{"cmd":"reset","vf":1}"#)["ok"], true);
    assert_eq!(device_status(&mut c, None), 0);
}

#[test]
fn random_accesses_to_all_functions_harm_nothing() {
    let sim = start(4, 4);
    let mut clients: Vec<Client> = ["pf.sock", "vf1.sock", "vf2.sock"]
        .map(|n| sim.client(n))
        .into();
    let mut good = sim.client("vf4.sock");
    let memory = memfd(0x10000);
    for c in &mut clients {
        assert_eq!(c.map(0, 0x10000, 0, &memory), 0);
        let irqs = [eventfd(), eventfd()];
        assert_eq!(c.eventfds(0, &irqs), 0);
    }
    let mut x = 7u64;
    let mut random = move || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        x >> 33
    };
    for round in 0..6000 {
        let c = &mut clients[random() as usize % 3];
        let region = [0, 1, 2, 2, 2, 4, 7, 7][random() as usize % 8];
        let answer = c.ask(&Request::GetRegionInfo {
            argsz: 32,
            index: region,
        });
        let Reply::RegionInfo(info) = c.decode(&answer) else {
            panic!()
        };
        let offset = random() % info.size.max(1);
        let count = [1, 2, 4, 8, 3][random() as usize % 5];
        let access = RegionAccess {
            offset,
            region,
            count,
        };
        let data = random().to_le_bytes();
        match random() % 3 {
            0 => {
                c.ask(&Request::RegionRead(access));
            }
            // Writes to SR-IOV and the like included: VFs may come and go.
            _ => {
                let data = &data[..count as usize];
                c.ask(&Request::RegionWrite { access, data });
            }
        }
        if round % 500 == 0 {
            good.read(REGION_CONFIG, 0, 4);
        }
    }
    assert_eq!(sim.ctl(r#"{"cmd":"ping"}"#)["ok"], true);
    std::thread::sleep(Duration::from_millis(20));
    sim.stop();
}
