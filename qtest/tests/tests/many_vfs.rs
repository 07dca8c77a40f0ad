// SPDX-License-Identifier: GPL-2.0-or-later
//! Many VFs at once: each client reaches its own VF and no other.

use anyhow::{bail, Result};
use legacy_vf_proto::{ErrorCode, QueryKind, Space};
use qtest_harness::{allow_files, DeviceKind, HelperClient, Stack};
use qtest_tests::commands;

const ROUNDS: u64 = 20;

/// Gives VF `member` values that no other has, and sees that they stay.
fn one(client: &mut HelperClient, member: u16, round: u64) -> Result<()> {
    let own = u64::from(member) << 8 | round;
    let steps: [(Space, u8, u8, u64); 4] = [
        (Space::Common, 4, 4, (own << 1 | 1) & 0x20),
        (Space::Common, 8, 4, own),
        (Space::Device, 4, 1, u64::from(member & 0xff)),
        (Space::Device, 5, 1, round),
    ];
    for (space, offset, len, value) in steps {
        if client.write(space, offset, len, value)? != Ok(()) {
            bail!("VF {member}: write at {offset}");
        }
    }
    for (space, offset, len, value) in steps {
        let got = client.read(space, offset, len)?;
        if got != Ok(value) {
            bail!("VF {member}, round {round}: {offset} is {got:?}, not {value:#x}");
        }
    }
    Ok(())
}

fn open(stack: &Stack, member: u16, vfs: u16) -> Result<HelperClient> {
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    let opened = match client.open(member)? {
        Ok(opened) => opened,
        Err(refusal) => bail!("VF {member} cannot be opened: {refusal:?}"),
    };
    assert_eq!((opened.member, opened.num_vfs), (member, vfs));
    assert_eq!(client.write(Space::Common, 14, 2, 0)?, Ok(()));
    Ok(client)
}

/// As many VFs as the simulator has: more than fit into a byte, or on one bus.
// Covers: GRP-02, LEG-14
#[test]
fn all_vfs_of_a_large_pf_are_open_at_the_same_time() -> Result<()> {
    const VFS: u16 = 2048;
    allow_files(u64::from(VFS) + 100)?;
    let mut stack = Stack::start(DeviceKind::Net, VFS)?;
    let mut clients = Vec::new();
    for member in 1..=VFS {
        clients.push(open(&stack, member, VFS)?);
    }
    for (member, client) in (1u16..).zip(&mut clients) {
        one(client, member, 1)?;
    }
    // The byte that two numbers have in common leads to the same VF for neither.
    for (member, client) in (1u16..).zip(&mut clients) {
        let own = u64::from(member) << 8 | 1;
        assert_eq!(client.read(Space::Common, 8, 4)?, Ok(own), "VF {member}");
    }
    let mut tool = HelperClient::connect(stack.helper.socket())?;
    tool.hello()?;
    for member in [1, 255, 256, 257, VFS] {
        let info = tool.query(QueryKind::VF, member)?;
        assert!(info.is_object(), "VF {member}: {info}");
    }
    let Err(refusal) = tool.open(VFS + 1)? else {
        bail!("there is a VF {}", VFS + 1);
    };
    assert_eq!(refusal.code, ErrorCode::NO_SUCH_VF);
    let violations = stack.sim.counters()?;
    let violations = violations.pointer("/hardware/device/violations");
    assert_eq!(violations, Some(&serde_json::json!({})));
    Ok(())
}

// Covers: LEG-14
#[test]
fn every_client_reaches_its_own_vf() -> Result<()> {
    for vfs in [1u16, 4, 64] {
        let mut stack = Stack::start(DeviceKind::Net, vfs)?;
        let mut clients = Vec::new();
        for member in 1..=vfs {
            clients.push((member, open(&stack, member, vfs)?));
        }
        let before: u64 = commands(&mut stack.sim)?.iter().sum();
        let mut threads = Vec::new();
        while !clients.is_empty() {
            let rest = clients.split_off(clients.len().min(8));
            let mut mine = std::mem::replace(&mut clients, rest);
            threads.push(std::thread::spawn(move || -> Result<()> {
                for round in 0..ROUNDS {
                    for (member, client) in &mut mine {
                        one(client, *member, round)?;
                    }
                }
                Ok(())
            }));
        }
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread failed"),
            }
        }
        let after: u64 = commands(&mut stack.sim)?.iter().sum();
        assert_eq!(
            after - before,
            u64::from(vfs) * ROUNDS * 8,
            "nothing lost, nothing twice"
        );
        let mut tool = HelperClient::connect(stack.helper.socket())?;
        tool.hello()?;
        for member in 1..=vfs {
            let info = tool.query(QueryKind::VF, member)?;
            assert!(info.is_object(), "VF {member}: {info}");
        }
    }
    Ok(())
}
