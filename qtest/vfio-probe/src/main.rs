// SPDX-License-Identifier: GPL-2.0-or-later
//! Opens PCI functions through the kernel's VFIO and says what it sees, in the nested machine.
//!
//! - `hold ADDRESS UUID`: opens the PF, sets the VF token, says `held` and keeps the PF open until
//!   it is killed.
//! - `probe ADDRESS [UUID]`: opens a virtio function, reads and writes it, resets it.
//! - `prove SOCKET MEMBER FUNCTION [UUID]`: asks the helper on SOCKET for its VF MEMBER (0: any) with
//!   the device file of FUNCTION (by its group, with `cdev:` before it by iommufd), or another file, as the
//!   proof.
//! - `watch` with the same arguments: keeps the connection and says what the helper tells.
//! - `keep PROGRAM ARGUMENTS...`: runs a program as a service manager does that keeps its files.
//!
//! What was found is printed as `key=value` lines. Exit status 1 with `error=...` says what failed.

mod keep;
mod prove;
mod sys;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use sys::{Device, CONFIG};

/// Most capabilities that fit into a configuration space.
const MAX_CAPABILITIES: usize = 48;
const VENDOR_SPECIFIC: u8 = 9;
const COMMON: u8 = 1;
const DEVICE: u8 = 4;
const NUM_QUEUES: u64 = 18;
const STATUS: u64 = 20;
/// Memory space and bus master.
const COMMAND: u16 = 6;

/// A structure that a virtio capability points to.
struct Structure {
    bar: u32,
    offset: u64,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["hold", address, uuid] => hold(address, uuid),
        ["probe", address] => probe(address, None),
        ["probe", address, uuid] => probe(address, Some(uuid)),
        ["prove", socket, member, what] => ask(socket, member, what, None),
        ["prove", socket, member, what, uuid] => ask(socket, member, what, Some(uuid)),
        ["watch", socket, member, what, uuid] => {
            number(member).and_then(|n| prove::watch(socket, n, what, Some(uuid)))
        }
        ["keep", program @ ..] if !program.is_empty() => keep::keep(program),
        _ => Err(io::Error::other(
            "usage: keep PROGRAM... | hold ADDRESS UUID | probe ADDRESS [UUID] | prove SOCKET MEMBER FUNCTION [UUID] | \
             watch SOCKET MEMBER FUNCTION UUID",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One word, as the values of the guest's protocol are.
            println!("error={}", error.to_string().replace(' ', "_"));
            ExitCode::FAILURE
        }
    }
}

fn ask(socket: &str, member: &str, what: &str, token: Option<&str>) -> io::Result<()> {
    prove::prove(socket, number(member)?, what, token)
}

fn number(member: &str) -> io::Result<u16> {
    member
        .parse()
        .map_err(|_| io::Error::other(format!("{member} is no number of a VF")))
}

fn hold(address: &str, uuid: &str) -> io::Result<()> {
    let device = Device::open(address, None)?;
    device.set_vf_token(uuid)?;
    println!("held");
    io::stdout().flush()?;
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn probe(address: &str, token: Option<&str>) -> io::Result<()> {
    let device = Device::open(address, token)?;
    let mut ids = [0; 4];
    device.read(CONFIG, 0, &mut ids)?;
    let [v0, v1, d0, d1] = ids;
    println!(
        "id={:04x}:{:04x}",
        u16::from_le_bytes([v0, v1]),
        u16::from_le_bytes([d0, d1])
    );
    let mut bars = Vec::new();
    for bar in 0..6 {
        bars.push(format!("{:x}", device.region_size(bar)?));
    }
    println!("bars={}", bars.join(","));
    device.write(CONFIG, 4, &COMMAND.to_le_bytes())?;
    let common = structure(&device, COMMON)?;
    let config = structure(&device, DEVICE)?;

    let mut queues = [0; 2];
    device.read(common.bar, common.offset + NUM_QUEUES, &mut queues)?;
    println!("queues={}", u16::from_le_bytes(queues));
    println!("status={}", status(&device, &common)?);
    // ACKNOWLEDGE, which a reset of the function takes back.
    device.write(common.bar, common.offset + STATUS, &[1])?;
    println!("acknowledged={}", status(&device, &common)?);
    // Byte by byte, as drivers read fields of bytes.
    let mut mac = [0; 6];
    for (at, byte) in (0..).zip(mac.chunks_mut(1)) {
        device.read(config.bar, config.offset + at, byte)?;
    }
    println!("mac={}", mac.map(|b| format!("{b:02x}")).join(":"));
    device.cycle_msix()?;
    println!("msix=ok");
    device.reset()?;
    println!("after_reset={}", status(&device, &common)?);
    Ok(())
}

fn status(device: &Device, common: &Structure) -> io::Result<u8> {
    let mut byte = [0];
    device.read(common.bar, common.offset + STATUS, &mut byte)?;
    Ok(byte[0])
}

/// Finds the structure of a type by the function's virtio capabilities.
fn structure(device: &Device, kind: u8) -> io::Result<Structure> {
    let mut at = [0];
    device.read(CONFIG, 0x34, &mut at)?;
    for _ in 0..MAX_CAPABILITIES {
        if at[0] == 0 {
            break;
        }
        let mut cap = [0; 12];
        device.read(CONFIG, at[0].into(), &mut cap)?;
        let [id, next, _, cfg_type, bar, _, _, _, o0, o1, o2, o3] = cap;
        if id == VENDOR_SPECIFIC && cfg_type == kind {
            return Ok(Structure {
                bar: bar.into(),
                offset: u32::from_le_bytes([o0, o1, o2, o3]).into(),
            });
        }
        at = [next & 0xfc];
    }
    Err(io::Error::other(format!("no virtio capability {kind}")))
}
