// SPDX-License-Identifier: GPL-2.0-or-later
//! Functions with several queues and large configurations, through the legacy interface.

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::memory::GuestMemory;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Msix, Qemu, Qtest, Stack, PATIENCE};
use qtest_tests::transitional::{violations, CommandLog};
use qtest_tests::wait_for;

const MTU_BIT: u32 = 1 << 3;
const MAC_BIT: u32 = 1 << 5;
const CTRL_VQ: u32 = 1 << 17;
const CTRL_RX: u32 = 1 << 18;
const NET_MQ: u32 = 1 << 22;
const BLK_TOPOLOGY: u32 = 1 << 10;
const BLK_SIZE: u32 = 1 << 6;
const BLK_MQ: u32 = 1 << 12;

const PEER: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x01];
const OWN: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x01, 0x01];

/// A guest with MSI-X on.
struct Guest {
    qemu: Qemu,
    driver: LegacyDriver,
    msix: Msix,
}

fn guest(stack: &Stack) -> Result<Guest> {
    let (mut qemu, device) = stack.mapped(Machine::Q35)?;
    let mut driver = LegacyDriver::new(&device)?;
    let msix = driver.use_msix(&qemu.qtest, &device, &mut qemu.memory)?;
    Ok(Guest { qemu, driver, msix })
}

fn four_pairs() -> Result<Stack> {
    let sim =
        SimulatorBuilder::new(DeviceKind::Net, 1).args(&["--queue-pairs", "4", "--mtu", "2000"]);
    Stack::start_with(&sim, 1, &[])
}

/// A command on the control queue, in the parts that a legacy driver makes; gives `ack`.
fn control(
    d: &LegacyDriver,
    q: &Qtest,
    memory: &mut GuestMemory,
    queue: &mut Queue,
    class: u8,
    command: u8,
    data: &[u8],
) -> Result<u8> {
    let parts = [
        Buffer::Out(vec![class, command]),
        Buffer::Out(data.to_vec()),
        Buffer::In(1),
    ];
    d.add(q, memory, queue, &parts)?;
    d.kick(q, queue)?;
    let ack = d.wait_used(q, queue, PATIENCE)?;
    ack.first().copied().context("no ack")
}

/// An ARP request that goes to the peer alone, so that question and answer are one flow.
fn request(len: usize) -> Vec<u8> {
    let mut frame = PEER.to_vec();
    frame.extend(OWN);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OWN);
    frame.extend([10, 0, 77, 11]);
    frame.extend([0; 6]);
    frame.extend([10, 0, 77, 1]);
    frame.resize(len, 0);
    frame
}

// Covers: NET-08, NET-09, LIO-06, LIO-07, IRQ-06
#[test]
fn four_queue_pairs_each_with_its_own_interrupt() -> Result<()> {
    let mut stack = four_pairs()?;
    let mut g = guest(&stack)?;
    let (q, d, memory) = (&g.qemu.qtest, &g.driver, &mut g.qemu.memory);
    let wanted = MAC_BIT | MTU_BIT | CTRL_VQ | NET_MQ;
    assert_eq!(d.begin(q, wanted)?, wanted);
    assert_eq!(d.config(q, 8, 2)?, 4, "max_virtqueue_pairs");
    assert_eq!(d.config(q, 10, 2)?, 2000, "mtu");
    // Four pairs and the control queue behind all of them, and nothing behind that.
    let mut queues = Vec::new();
    for index in 0..9 {
        queues.push(d.queue(q, memory, index, index + 1)?);
    }
    d.write(q, 14, 2, 9)?;
    assert_eq!(d.read(q, 12, 2)?, 0);
    d.set_status(q, 7)?;
    let mut ctrl = queues.pop().context("control queue")?;
    // One pair until the driver asks for more; none and too many are refused.
    for (pairs, ack) in [(0u16, 1), (5, 1), (4, 0)] {
        let got = control(d, q, memory, &mut ctrl, 4, 0, &pairs.to_le_bytes())?;
        assert_eq!(got, ack, "{pairs} pairs");
    }
    wait_for("interrupt of the control queue", PATIENCE, || {
        Ok(g.msix.fired(q, 9)?.then_some(()))
    })?;
    for pair in [3usize, 1, 2, 0] {
        let (rx_index, tx_index) = (2 * pair, 2 * pair + 1);
        for queue in queues.iter_mut().step_by(2) {
            d.add(q, memory, queue, &[Buffer::In(10), Buffer::In(2018)])?;
            d.kick(q, queue)?;
        }
        let tx = queues.get_mut(tx_index).context("transmit queue")?;
        d.add(
            q,
            memory,
            tx,
            &[Buffer::Out(vec![0; 10]), Buffer::Out(request(60))],
        )?;
        d.kick(q, tx)?;
        d.wait_used(q, tx, PATIENCE)?;
        // The answer comes back on the pair of the question, and its vectors fire.
        let rx = queues.get_mut(rx_index).context("receive queue")?;
        let frame = d.wait_used(q, rx, PATIENCE)?;
        assert_eq!(frame.get(10..16), Some(&OWN[..]), "pair {pair}");
        for index in [rx_index, tx_index] {
            let vector = u16::try_from(index + 1)?;
            wait_for("interrupt of a queue", PATIENCE, || {
                Ok(g.msix.fired(q, vector)?.then_some(()))
            })?;
        }
        for (index, queue) in queues.iter_mut().enumerate().step_by(2) {
            assert_eq!(d.used(q, queue)?, None, "queue {index} got nothing");
        }
    }
    assert!(!g.msix.fired(q, 0)?, "the configuration did not change");
    let counters = stack.sim.counters()?;
    let vf1 = |name: &str| {
        let path = format!("/hardware/functions/vf1/{name}");
        counters.pointer(&path).and_then(serde_json::Value::as_u64)
    };
    // Every kick went straight to the VF, from queue 0 to the ninth.
    assert_eq!(
        (vf1("doorbells_command"), vf1("doorbells_owner")),
        (Some(0), Some(0))
    );
    assert_eq!(vf1("control_commands"), Some(3));
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    Ok(())
}

// Covers: NET-08, NET-09, NET-11
#[test]
fn without_mq_there_is_one_pair_and_the_control_queue_follows_it() -> Result<()> {
    let stack = four_pairs()?;
    let mut g = guest(&stack)?;
    let (q, d, memory) = (&g.qemu.qtest, &g.driver, &mut g.qemu.memory);
    for round in 0..2 {
        // The second time after a driver that used four pairs.
        if round == 1 {
            d.begin(q, MAC_BIT | CTRL_VQ | NET_MQ)?;
            let mut ctrl = d.queue(q, memory, 8, 1)?;
            d.set_status(q, 7)?;
            assert_eq!(control(d, q, memory, &mut ctrl, 4, 0, &[4, 0])?, 0);
        }
        let wanted = MAC_BIT | CTRL_VQ | CTRL_RX;
        assert_eq!(d.begin(q, wanted)?, wanted);
        let mut rx = d.queue(q, memory, 0, 1)?;
        let mut tx = d.queue(q, memory, 1, 2)?;
        let mut ctrl = d.queue(q, memory, 2, 3)?;
        d.set_status(q, 7)?;
        // RX, PROMISC, on.
        assert_eq!(control(d, q, memory, &mut ctrl, 0, 0, &[1])?, 0);
        // A command of a feature that was not accepted.
        assert_eq!(control(d, q, memory, &mut ctrl, 4, 0, &[4, 0])?, 1);
        d.add(q, memory, &mut rx, &[Buffer::In(10), Buffer::In(2018)])?;
        d.kick(q, &rx)?;
        let parts = [Buffer::Out(vec![0; 10]), Buffer::Out(request(60))];
        d.add(q, memory, &mut tx, &parts)?;
        d.kick(q, &tx)?;
        let frame = d.wait_used(q, &mut rx, PATIENCE)?;
        assert_eq!(frame.get(10..16), Some(&OWN[..]));
    }
    Ok(())
}

// Covers: NET-08
#[test]
fn frames_may_be_as_long_as_the_mtu_says() -> Result<()> {
    let mut stack = four_pairs()?;
    let mut g = guest(&stack)?;
    let (q, d, memory) = (&g.qemu.qtest, &g.driver, &mut g.qemu.memory);
    d.begin(q, MAC_BIT | MTU_BIT)?;
    let mut tx = d.queue(q, memory, 1, 1)?;
    d.set_status(q, 7)?;
    let mut numbers = |d: &LegacyDriver, memory: &mut GuestMemory, len| -> Result<(u64, u64)> {
        let parts = [Buffer::Out(vec![0; 10]), Buffer::Out(request(len))];
        d.add(q, memory, &mut tx, &parts)?;
        d.kick(q, &tx)?;
        d.wait_used(q, &mut tx, PATIENCE)?;
        let counters = stack.sim.counters()?;
        let count = |name: &str| {
            let path = format!("/hardware/functions/vf1/{name}");
            let number = counters.pointer(&path).and_then(serde_json::Value::as_u64);
            number.with_context(|| format!("no {name}"))
        };
        Ok((count("tx_frames")?, count("tx_dropped")?))
    };
    // With Ethernet header and a VLAN tag, and one byte more than that.
    assert_eq!(numbers(d, memory, 2000 + 18)?, (1, 0));
    assert_eq!(numbers(d, memory, 2000 + 19)?, (1, 1));
    Ok(())
}

// Covers: BLK-01, LIO-04, LIO-06, INI-16
#[test]
fn four_disk_queues_and_the_whole_configuration() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Block, 1).args(&[
        "--blk-queues",
        "4",
        "--block-size",
        "1024",
        "--queue-size",
        "64",
    ]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let mut g = guest(&stack)?;
    let (q, d, memory) = (&g.qemu.qtest, &g.driver, &mut g.qemu.memory);
    let wanted = BLK_MQ | BLK_SIZE | BLK_TOPOLOGY;
    assert_eq!(d.begin(q, wanted)?, wanted);
    let mut log = CommandLog::new(&mut stack.sim)?;
    for (what, offset, width, value, commands) in [
        ("seg_max", 12, 4, 62, &[(12, 4)][..]),
        ("blk_size", 20, 4, 1024, &[(20, 4)]),
        ("physical_block_exp", 24, 1, 2, &[(24, 1)]),
        ("alignment_offset", 25, 1, 0, &[(25, 1)]),
        ("min_io_size", 26, 2, 1, &[(26, 2)]),
        ("opt_io_size", 28, 4, 0, &[(28, 4)]),
        ("num_queues", 34, 2, 4, &[(34, 2)]),
        // Three fields of the topology at once, and two bytes before num_queues.
        ("topology", 24, 4, 0x0001_0002, &[(24, 1), (25, 1), (26, 2)]),
        (
            "writeback and num_queues",
            32,
            4,
            0x0004_0001,
            &[(32, 1), (33, 1), (34, 2)],
        ),
        ("max_discard_sectors", 36, 4, 1 << 15, &[(36, 4)]),
        ("secure_erase_sector_alignment", 68, 4, 0, &[(68, 4)]),
    ] {
        assert_eq!(d.config(q, offset, width)?, value, "{what}");
        let seen: Vec<_> = log
            .take(&mut stack.sim)?
            .iter()
            .map(|c| (c.offset, c.len))
            .collect();
        assert_eq!(seen, commands, "{what}");
    }
    let mut queues = Vec::new();
    for index in 0..4 {
        let queue = d.queue(q, memory, index, index + 1)?;
        assert_eq!(queue.size, 64);
        queues.push(queue);
    }
    d.write(q, 14, 2, 4)?;
    assert_eq!(d.read(q, 12, 2)?, 0);
    d.set_status(q, 7)?;
    // Written through one queue, read through the next.
    for index in 0..4usize {
        let data: Vec<u8> = (0..4096).map(|n| (n * 31 + index * 7) as u8).collect();
        let sector = 8 * index as u64;
        let out = Buffer::Out(data.clone());
        let queue = queues.get_mut(index).context("queue")?;
        let (_, status) = d.block_request(q, memory, queue, 1, sector, &out)?;
        assert_eq!(status, 0, "write through queue {index}");
        let queue = queues.get_mut((index + 1) % 4).context("queue")?;
        let (back, status) = d.block_request(q, memory, queue, 0, sector, &Buffer::In(4096))?;
        assert_eq!((status, back == data), (0, true), "read of sector {sector}");
    }
    for vector in 1..=4 {
        wait_for("interrupt of a queue", PATIENCE, || {
            Ok(g.msix.fired(q, vector)?.then_some(()))
        })?;
    }
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    Ok(())
}
