// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may depend on whom: the arrows of the architecture page, checked against what cargo and
//! meson say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::workspace::{metadata, root};

const SPEC: &str = "virtio_pci_spec";
const MODERN: &str = "virtio_modern_spec";
const PROTO: &str = "legacy_vf_proto";
const PROTO_SERVER: &str = "legacy_vf_proto_server";
const WINDOW: &str = "legacy_window";
const MAN_PAGE: &str = "man_page";
const WIRE: &str = "vfio_user_wire";
const TRANSPORT: &str = "pci_transport";
const QUEUE: &str = "driver_virtqueue";
const PF: &str = "virtio_pf";
const SERVER: &str = "helper_server";
const CLI: &str = "helper_cli";
const CONFINE: &str = "helper_confine";
const DAEMON: &str = "qemu_virtio_admin_helper";
const MODEL: &str = "virtio_pf_model";
const P9: &str = "p9_server";

/// What a crate of ours may depend on among our own. Tests and tools may use anything.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        SPEC | MAN_PAGE | WIRE | P9 | CLI | CONFINE => &[],
        PROTO | WINDOW | MODERN => &[SPEC],
        PROTO_SERVER => &[PROTO],
        MODEL => &[MODERN, SPEC],
        TRANSPORT => &[WIRE, MODERN, SPEC, PROTO],
        QUEUE => &[TRANSPORT, MODERN, SPEC, PROTO],
        PF => &[QUEUE, TRANSPORT, MODERN, SPEC, PROTO],
        SERVER => &[PROTO_SERVER, PF, QUEUE, TRANSPORT, MODERN, SPEC, PROTO],
        DAEMON => &[
            SERVER, PF, QUEUE, TRANSPORT, MODERN, SPEC, PROTO, CLI, CONFINE,
        ],
        "legacy_vf_tool" => &[PROTO, CLI],
        "virtio_pf_sim" => &[MODEL, P9, WIRE, MODERN, SPEC, MAN_PAGE],
        "guest_kexec" => &[],
        "vfio_probe" => &[PROTO, SPEC],
        "test_kit" => &[],
        "test_machine" => &["test_kit", SPEC],
        "guest_tests" => &["test_machine", "test_kit", MODERN, SPEC],
        "nested_tests" => &["guest_tests", "test_machine", "test_kit", SPEC, CONFINE],
        "qtest_harness" | "qtest_tests" | "qtest_bench" | "xtask" => return None,
        other => {
            panic!("{other} has no place in the layout: add it here and to the architecture page")
        }
    })
}

/// What QEMU's build links into the program; the others are libraries behind a variable.
const DEVICES: [&str; 3] = [
    "virtio_legacy_vf",
    "virtio_pf_sriov",
    "virtio_header_asserts",
];

/// The same for the crates built inside QEMU, by meson variable.
fn allowed_in_qemu(name: &str) -> &'static [&'static str] {
    match name {
        "virtio_pci_spec_rs" => &[],
        "legacy_vf_proto_rs" | "legacy_window_rs" => &["virtio_pci_spec_rs"],
        "pci_rs" => &[],
        "vfio_rs" => &["pci_rs"],
        "virtio_legacy_vf" => &[
            "legacy_vf_proto_rs",
            "legacy_window_rs",
            "virtio_pci_spec_rs",
            "pci_rs",
            "vfio_rs",
        ],
        "virtio_pf_sriov" => &["virtio_pci_spec_rs", "pci_rs", "vfio_rs"],
        "virtio_modern_spec_rs" => &["virtio_pci_spec_rs"],
        "virtio_header_asserts" => &["virtio_modern_spec_rs", "virtio_pci_spec_rs"],
        other => panic!("{other} has no place in the layout"),
    }
}

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Normal and build dependencies among the members, and all external ones.
fn cargo_arrows() -> (Arrows, Arrows) {
    let data = metadata(&root().join("Cargo.toml"));
    let packages = data["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    let mut ours = Arrows::new();
    let mut others = Arrows::new();
    for p in packages {
        let name = p["name"].as_str().unwrap();
        ours.entry(name.to_owned()).or_default();
        others.entry(name.to_owned()).or_default();
        for d in p["dependencies"].as_array().unwrap() {
            let dep = d["name"].as_str().unwrap();
            // A crate may use anything to test itself, but for the rule about the model below.
            if d["kind"] == "dev" {
                if name == MODEL {
                    assert!(
                        ![TRANSPORT, QUEUE, PF, WINDOW, SERVER].contains(&dep),
                        "the model must not know the driver it tests: {dep}"
                    );
                }
                continue;
            }
            let to = if names.contains(dep) {
                &mut ours
            } else {
                &mut others
            };
            to.entry(name.to_owned())
                .or_default()
                .insert(dep.to_owned());
        }
    }
    (ours, others)
}

#[test]
fn cargo_dependencies_follow_the_layout() {
    let (ours, _) = cargo_arrows();
    assert!(
        ours.len() >= 15,
        "cargo metadata shows {} crates",
        ours.len()
    );
    for (name, deps) in &ours {
        let Some(allowed) = allowed(name) else {
            continue;
        };
        for dep in deps {
            assert!(
                allowed.contains(&dep.as_str()),
                "{name} must not depend on {dep} (allowed: {allowed:?})"
            );
        }
    }
}

#[test]
fn pure_crates_have_no_other_dependencies() {
    let (_, others) = cargo_arrows();
    for (name, dir) in [
        (SPEC, "rust/virtio-pci-spec"),
        (PROTO, "rust/legacy-vf-proto"),
        (PROTO_SERVER, "helper/proto-server"),
        (WINDOW, "rust/legacy-window"),
        (MODERN, "helper/modern-spec"),
    ] {
        let deps = others.get(name).expect(name);
        assert!(deps.is_empty(), "{name} depends on {deps:?}");
        let lib = root().join(dir).join("src/lib.rs");
        let text = std::fs::read_to_string(&lib).unwrap();
        for line in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            assert!(text.contains(line), "{} lacks {line}", lib.display());
        }
    }
}

/// The values of `dependencies:` lists and the names of libraries in one meson.build.
fn meson_arrows(text: &str) -> (Vec<String>, BTreeSet<String>) {
    let code: String = text
        .lines()
        .map(|l| l.split('#').next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let words = |s: &str| -> Vec<String> {
        s.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let names = code
        .split("static_library(")
        .skip(1)
        .filter_map(|rest| rest.split('\'').nth(1).map(str::to_owned))
        .collect();
    let mut deps = BTreeSet::new();
    for rest in code.split("dependencies:").skip(1) {
        let list = rest.trim_start();
        let end = if list.starts_with('[') {
            list.find(']').unwrap_or(list.len())
        } else {
            list.find([',', ')']).unwrap_or(list.len())
        };
        deps.extend(words(&list[..end]));
    }
    for rest in code.split("link_with:").skip(1) {
        let list = rest.trim_start();
        let end = if list.starts_with('[') {
            list.find(']').unwrap_or(list.len())
        } else {
            list.find([',', ')']).unwrap_or(list.len())
        };
        // "_pci_rs" is the library behind "pci_rs".
        deps.extend(
            words(&list[..end])
                .iter()
                .map(|w| w.trim_start_matches('_').to_owned()),
        );
    }
    (names, deps)
}

fn meson_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("src") && !path.ends_with("qemu-series") {
            meson_files(&path, out);
        } else if path.file_name().is_some_and(|n| n == "meson.build") {
            out.push(path);
        }
    }
}

#[test]
fn meson_dependencies_follow_the_layout() {
    let ours = [
        "virtio_pci_spec_rs",
        "virtio_modern_spec_rs",
        "legacy_vf_proto_rs",
        "legacy_window_rs",
        "pci_rs",
        "vfio_rs",
    ];
    let mut files = Vec::new();
    meson_files(&root().join("rust"), &mut files);
    meson_files(&root().join("qtest/qemu"), &mut files);
    let mut seen = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (names, deps) = meson_arrows(&text);
        for name in names {
            let variable = match name.as_str() {
                name if DEVICES.contains(&name) => name.to_owned(),
                _ => format!("{name}_rs"),
            };
            let allowed = allowed_in_qemu(&variable);
            for dep in ours
                .iter()
                .filter(|o| deps.contains(**o) && **o != variable)
            {
                assert!(
                    allowed.contains(dep),
                    "{}: {name} must not depend on {dep}",
                    file.display()
                );
            }
            if ["virtio_pci_spec", "legacy_vf_proto", "legacy_window"].contains(&name.as_str()) {
                let other: Vec<&String> = deps
                    .iter()
                    .filter(|d| !ours.contains(&d.as_str()))
                    .collect();
                assert!(other.is_empty(), "{name} uses {other:?} of QEMU");
            }
            seen.insert(variable);
        }
    }
    for name in ours.iter().chain(&DEVICES) {
        assert!(seen.contains(*name), "no meson.build makes {name}");
    }
}

/// The check itself notices a wrong arrow.
#[test]
fn a_wrong_arrow_is_seen() {
    let (names, deps) = meson_arrows(
        "x = static_library(\n 'legacy_window', 'a',\n link_with: [_pci_rs],\n dependencies: [virtio_pci_spec_rs, # vfio_rs\n libc_rs],\n)",
    );
    assert_eq!(names, ["legacy_window"]);
    let want: BTreeSet<String> = ["libc_rs", "pci_rs", "virtio_pci_spec_rs"]
        .map(str::to_owned)
        .into();
    assert_eq!(deps, want);
    assert!(!allowed_in_qemu("legacy_window_rs").contains(&"pci_rs"));
}
