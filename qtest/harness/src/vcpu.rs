// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest CPU that runs by itself: it carries out a list of port accesses again and again, compares
//! what it reads and counts, in guest memory, while the test does something else to the machine.

use anyhow::{bail, ensure, Context, Result};
use test_kit::patience::OwnTime;

use crate::machine_code::Code;
use crate::qtest::Qtest;
use crate::PATIENCE;
use std::time::Duration;
use test_kit::patience::Patience;

/// Guest memory that program and test share.
mod mailbox {
    /// 1 byte: the test sets it to have the list carried out.
    pub(super) const GO: u16 = 0x500;
    /// 1 byte: what the program last found in [`GO`]; it looks between two rounds of the list.
    pub(super) const SEEN: u16 = 0x501;
    /// 4 bytes: accesses begun.
    pub(super) const STARTED: u16 = 0x504;
    /// 4 bytes: accesses that have ended.
    pub(super) const ENDED: u16 = 0x508;
    /// 4 bytes: reads that gave all-ones.
    pub(super) const ONES: u16 = 0x50c;
    /// 4 bytes: reads that gave neither that nor what was expected.
    pub(super) const WRONG: u16 = 0x510;
    /// 4 bytes: times the list was carried out.
    pub(super) const ROUNDS: u16 = 0x514;
    /// 4 bytes: the value of the last wrong read.
    pub(super) const WRONG_VALUE: u16 = 0x518;
    /// 2 bytes: its entry in the list.
    pub(super) const WRONG_ENTRY: u16 = 0x51c;
    /// The list.
    pub(super) const LIST: u16 = 0x1000;
}

/// An entry of the list: kind (0: the end), port, value, mask, all-ones of its width.
mod entry {
    pub(super) const PORT: u8 = 2;
    pub(super) const VALUE: u8 = 4;
    pub(super) const MASK: u8 = 8;
    pub(super) const ONES: u8 = 12;
    pub(super) const LEN: u8 = 16;
    /// Kind of a write; the width is in the other bits.
    pub(super) const WRITE: u8 = 0x80;
    /// More than any test needs.
    pub(super) const MAX: usize = 64;
}

/// How long a CPU must not have moved to be called inside an access, in own time. A CPU that waits
/// for its turn on a busy machine has not.
const STANDS_STILL: Duration = Duration::from_millis(300);

/// An access of the guest to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    write: bool,
    port: u16,
    width: u8,
    value: u32,
    mask: u32,
}

impl Step {
    /// A read that may give anything.
    pub const fn read(port: u16, width: u8) -> Self {
        Step {
            write: false,
            port,
            width,
            value: 0,
            mask: 0,
        }
    }

    /// A read that must give this value, or all-ones.
    pub const fn expect(port: u16, width: u8, value: u32) -> Self {
        Step {
            write: false,
            port,
            width,
            value,
            mask: u32::MAX,
        }
    }

    /// A write.
    pub const fn write(port: u16, width: u8, value: u32) -> Self {
        Step {
            write: true,
            port,
            width,
            value,
            mask: 0,
        }
    }

    fn bytes(self) -> Result<Vec<u8>> {
        let ones = match self.width {
            1 => 0xff,
            2 => 0xffff,
            4 => u32::MAX,
            width => bail!("an access of {width} bytes"),
        };
        let kind = self.width | if self.write { entry::WRITE } else { 0 };
        let mut out = vec![kind, 0];
        out.extend(self.port.to_le_bytes());
        for word in [self.value, self.mask, ones] {
            out.extend(word.to_le_bytes());
        }
        Ok(out)
    }
}

/// The firmware image with the program, for [`crate::QemuBuilder::run_code`]. All CPUs carry out the
/// same list; what they count is right with one of them only.
///
/// # Errors
/// If the program names a place that it does not have.
pub fn program() -> Result<Vec<u8>> {
    let mut c = Code::default();
    c.start_others("begin");
    c.label("begin");
    c.zero_ax();
    c.ax_to_ds();
    c.label("rest");
    c.pause();
    c.label("look");
    c.load_al(mailbox::GO);
    c.store_al(mailbox::SEEN);
    c.if_al(0, "rest");
    c.load_si(mailbox::LIST);
    c.label("next");
    c.entry_to_al(0);
    c.if_al(0, "end of list");
    c.count(mailbox::STARTED);
    c.entry_to_dx(entry::PORT);
    for (width, read, write) in [
        (1, "read 1", "write 1"),
        (2, "read 2", "write 2"),
        (4, "read 4", "write 4"),
    ] {
        c.if_al(width, read);
        c.if_al(width | entry::WRITE, write);
    }
    c.jump("end of list");
    for (width, read, write) in [
        (1, "read 1", "write 1"),
        (2, "read 2", "write 2"),
        (4, "read 4", "write 4"),
    ] {
        c.label(read);
        c.zero_eax();
        c.input(width);
        c.jump("compare");
        c.label(write);
        c.entry_to_eax(entry::VALUE);
        c.output(width);
        c.count(mailbox::ENDED);
        c.jump("done");
    }
    c.label("compare");
    c.count(mailbox::ENDED);
    c.if_eax_is_entry(entry::ONES, "ones");
    c.eax_to_ebx();
    c.and_eax_entry(entry::MASK);
    c.if_eax_is_entry(entry::VALUE, "done");
    c.count(mailbox::WRONG);
    c.store_ebx(mailbox::WRONG_VALUE);
    c.store_si(mailbox::WRONG_ENTRY);
    c.jump("done");
    c.label("ones");
    c.count(mailbox::ONES);
    c.label("done");
    c.add_si(entry::LEN);
    c.jump("next");
    c.label("end of list");
    c.count(mailbox::ROUNDS);
    c.jump("look");
    c.firmware()
}

/// What the CPU has done since it was last given a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses begun.
    pub started: u32,
    /// Accesses that have ended.
    pub ended: u32,
    /// Reads that gave all-ones.
    pub ones: u32,
    /// Reads that gave what they must not.
    pub wrong: u32,
    /// Times the list was carried out.
    pub rounds: u32,
}

/// The CPU that runs [`program`].
#[derive(Debug, Default)]
pub struct Vcpu {
    list: Vec<Step>,
}

impl Vcpu {
    /// Gives the CPU a list and has it begin. What it did before is forgotten.
    ///
    /// # Errors
    /// If it does not come to the end of the list before, or the list is not possible.
    pub fn run(&mut self, q: &Qtest, list: &[Step]) -> Result<()> {
        self.rest(q)?;
        ensure!(
            !list.is_empty() && list.len() <= entry::MAX,
            "a list of {} accesses",
            list.len()
        );
        let mut bytes = Vec::new();
        for step in list {
            bytes.extend(step.bytes()?);
        }
        bytes.extend([0; entry::LEN as usize]);
        q.set_memory(mailbox::LIST.into(), &bytes)?;
        let counts = mailbox::WRONG_ENTRY + 2 - mailbox::STARTED;
        q.set_memory(mailbox::STARTED.into(), &vec![0; counts.into()])?;
        list.clone_into(&mut self.list);
        self.leave(q, true)?;
        self.seen(q, 1)
    }

    /// Has the CPU end at the end of the list, and waits for that.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn rest(&self, q: &Qtest) -> Result<()> {
        self.leave(q, false)?;
        self.seen(q, 0)
    }

    /// Says whether the CPU is to go on after the end of the list, without waiting for it.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn leave(&self, q: &Qtest, on: bool) -> Result<()> {
        q.write(mailbox::GO.into(), 1, on.into())
    }

    fn seen(&self, q: &Qtest, go: u32) -> Result<()> {
        self.wait(q, "the end of the list", || {
            Ok((q.read(mailbox::SEEN.into(), 1)? == go).then_some(()))
        })
    }

    fn wait<T>(
        &self,
        q: &Qtest,
        what: &str,
        mut check: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            if let Some(value) = check()? {
                return Ok(value);
            }
            if let Err(spent) = patience.look() {
                bail!(
                    "the guest's CPU: {what}: not {spent}; {:?}",
                    self.counts(q)?
                );
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// What it has done.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn counts(&self, q: &Qtest) -> Result<Counts> {
        // The first must not be older than the second, or an access would seem to end unbegun.
        let ended = q.read(mailbox::ENDED.into(), 4)?;
        Ok(Counts {
            started: q.read(mailbox::STARTED.into(), 4)?,
            ended,
            ones: q.read(mailbox::ONES.into(), 4)?,
            wrong: q.read(mailbox::WRONG.into(), 4)?,
            rounds: q.read(mailbox::ROUNDS.into(), 4)?,
        })
    }

    /// Waits until this many more accesses have ended.
    ///
    /// # Errors
    /// If they do not.
    pub fn moves(&self, q: &Qtest, accesses: u32) -> Result<()> {
        let before = self.counts(q)?;
        self.moves_from(q, before, accesses)
    }

    /// The same, since it had done `before`.
    ///
    /// # Errors
    /// If they do not.
    pub fn moves_from(&self, q: &Qtest, before: Counts, accesses: u32) -> Result<()> {
        self.wait(q, "more accesses", || {
            let ended = q.read(mailbox::ENDED.into(), 4)?;
            Ok((ended.wrapping_sub(before.ended) >= accesses).then_some(()))
        })
    }

    /// Waits until an access has begun that does not end.
    ///
    /// # Errors
    /// If accesses go on.
    pub fn is_inside(&self, q: &Qtest) -> Result<Counts> {
        let mut patience = Patience::new(PATIENCE);
        let (mut last, mut since) = (self.counts(q)?, OwnTime::start());
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.counts(q)?;
            let inside = now.started == now.ended.wrapping_add(1);
            if now != last || !inside {
                (last, since) = (now, OwnTime::start());
            } else if since.elapsed() >= STANDS_STILL {
                return Ok(now);
            }
            if let Err(spent) = patience.look() {
                bail!("the guest's CPU does not stand still in an access {spent}: {now:?}");
            }
        }
    }

    /// Every read so far gave what it must, or all-ones.
    ///
    /// # Errors
    /// If one did not.
    pub fn all_right(&self, q: &Qtest) -> Result<Counts> {
        let counts = self.counts(q)?;
        if counts.wrong != 0 {
            let value = q.read(mailbox::WRONG_VALUE.into(), 4)?;
            let at = q.read(mailbox::WRONG_ENTRY.into(), 2)?;
            let index = (at as usize).saturating_sub(mailbox::LIST.into()) / entry::LEN as usize;
            let step = self.list.get(index).context("no such entry")?;
            bail!("{counts:?}; the last wrong value was {value:#x}, of {step:x?}");
        }
        Ok(counts)
    }
}
