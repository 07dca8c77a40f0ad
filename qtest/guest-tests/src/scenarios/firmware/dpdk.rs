// SPDX-License-Identifier: GPL-2.0-or-later
//! DPDK's driver in a guest: it polls, and has its own code for the legacy interface.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{device, linux, Interface, Kit, LoggedPf};
use crate::run::Run;
use test_kit::unpacked::Unpacked;
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::image::{extend, Addition};
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const DPDK: Scenario<Run> = Scenario {
    name: "dpdk",
    shows: "DPDK's driver forwards between two VFs in a guest",
    run: Run::Firmware(forward),
};

/// Where Debian has libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const RUN: Duration = Duration::from_secs(3);
/// Packets that go round: a burst that each card sends first.
const GOING_ROUND: u64 = 64;

/// Two VFs forward to each other; what DPDK counts is what the simulator counts.
pub(super) fn forward(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "dpdk";
    let initrd = bench.run.path().join("dpdk-initrd");
    let addition = Addition {
        modules: vec![("dpdk", &["uio_pci_generic"])],
        files: files(&kit.dpdk)?,
        ..Addition::default()
    };
    extend(&bench.image, &initrd, &addition)?;
    let pf = LoggedPf::start(bench, name, "net", 2, &[])?;
    let mut devices = Vec::new();
    for vf in [1, 2] {
        let id = format!("vf{vf}");
        devices.push(device(&pf.pf.function(vf), &id, Interface::Legacy, &[])?);
    }
    let line = format!(
        "console=ttyS0 quiet panic=-1 no_timer_check hugepages=64 vlvf.port=ttyS0 vlvf.test=info,dpdk vlvf.seconds={}",
        RUN.as_secs()
    );
    let (kernel, initrd) = (text(&bench.image.kernel)?, text(&initrd)?);
    let more = ["-kernel", kernel, "-initrd", initrd, "-append", &line];
    let mut vm = Vm::start(bench, name, &Firmware::SeaBios, &devices, &more)?;
    let answer = linux::wait(&mut vm, "dpdk")
        .with_context(|| format!("DPDK's testpmd: {}", vm.last_words()))?;
    ensure!(
        answer.all("driver").eq(["uio_pci_generic"; 2]),
        "the cards were not handed over: {}",
        answer.text()
    );
    let counters = pf.pf.counters()?;
    let mut total = 0;
    for vf in [1, 2] {
        let seen = Vf::of(&counters, vf).with_context(|| format!("no counters in {counters}"))?;
        // Ports count from 0.
        let port = vf - 1;
        let sent = answer.number(&format!("port{port}.TX"))?;
        let received = answer.number(&format!("port{port}.RX"))?;
        ensure!(
            sent > 10 * GOING_ROUND,
            "port {port} sent only {sent} packets in {RUN:?}"
        );
        ensure!(
            seen.tx_frames == sent,
            "port {port} sent {sent} packets, the simulator got {}",
            seen.tx_frames
        );
        // Those that are on their way when it stops stay in the ring.
        ensure!(
            seen.rx_frames >= received && seen.rx_frames - received <= GOING_ROUND,
            "port {port} received {received} packets of {}",
            seen.rx_frames
        );
        ensure!(seen.needs_reset == 0, "VF {vf} gave up");
        pf.seen(vf)?.check_legacy_driver(&[0, 1, 2, 3, 4, 5])?;
        total += sent;
    }
    Ok(format!(
        "DPDK {} forwards {total} packets between two VFs in {} s, as many as the simulator counts",
        kit.dpdk.version("dpdk-dev"),
        RUN.as_secs()
    ))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("no UTF-8")
}

/// The program and the libraries, each once under the name by which others ask for it.
fn files(packages: &Unpacked) -> Result<Vec<(String, PathBuf, bool)>> {
    let program = packages.file("usr/bin/dpdk-testpmd")?;
    let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
    for dir in LIBRARIES {
        for entry in fs::read_dir(packages.file(dir)?)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(file) = entry.path().canonicalize() else {
                continue;
            };
            if !name.contains(".so.") || !file.is_file() {
                continue;
            }
            // "libx.so.1" and not "libx.so.1.2.3".
            let known = names.entry(file).or_insert_with(|| name.clone());
            if name.len() < known.len() {
                *known = name;
            }
        }
    }
    let mut files = vec![("dpdk/dpdk-testpmd".to_owned(), program, true)];
    files.extend(
        names
            .into_iter()
            .map(|(file, name)| (format!("dpdk/lib/{name}"), file, false)),
    );
    Ok(files)
}
