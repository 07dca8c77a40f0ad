// SPDX-License-Identifier: GPL-2.0-or-later
//! A PCI function in memory: a device written by a test behind [`PciFunction`], every access
//! recorded, and any access made to fail.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::dma::{DeviceView, DmaPool, DmaRegion, PoolStats};
use crate::error::{Cause, Error, Place};
use crate::function::{
    BarInfo, DmaAddressing, FunctionEvent, PciFunction, Posted, SriovStatus, VfBar, Width,
};
use crate::irq::IrqEvent;
use crate::sriov::ConfigSriov;

/// What a test says about the device.
pub trait ScriptedDevice: Send {
    /// Fills `buf` from configuration space (4096 bytes).
    fn config_read(&mut self, offset: u16, buf: &mut [u8]);
    /// Takes a write to configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]);
    /// Bytes of a BAR; 0: not implemented.
    fn bar_size(&self, bar: u8) -> u64;
    /// Reads a register.
    fn bar_read(&mut self, bar: u8, offset: u64, width: Width) -> u32;
    /// Writes a register. The device may use its memory and signal its interrupts at once.
    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u32);
    /// MSI-X vectors.
    fn irq_count(&self) -> u32 {
        2
    }
    /// The memory that the device can reach; called once.
    fn attach(&mut self, memory: DeviceView);
    /// The interrupts that the driver enabled; empty when it disabled them.
    fn set_irqs(&mut self, irqs: Vec<IrqEvent>);
    /// The function was reset as a whole.
    fn reset(&mut self);
}

/// One access, as the driver made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    ConfigRead {
        offset: u16,
        len: usize,
    },
    ConfigWrite {
        offset: u16,
        data: Vec<u8>,
    },
    BarRead {
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
    },
    /// A read that nobody waits for.
    BarReadLater {
        bar: u8,
        offset: u64,
        width: Width,
    },
    BarWrite {
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
        posted: Posted,
    },
    EnableIrqs(u32),
    DisableIrqs,
    DmaAlloc(usize),
    Reset,
}

#[derive(Default)]
struct Log {
    accesses: Vec<Access>,
    /// Fail the access with this number, counted from 0.
    fail_at: Option<(usize, Cause)>,
    dead: Option<Cause>,
    /// Reads that nobody waits for are not answered at once.
    slow: bool,
    /// The one under way.
    later: Option<(u8, u64, Width)>,
    until: Option<Instant>,
}

/// The function that a driver gets. Clones of [`ScriptedFunction::script`] stay with the test.
pub struct ScriptedFunction<D> {
    script: Script<D>,
    pool: DmaPool,
    peer: IrqEvent,
    sriov: ConfigSriov,
    addressing: DmaAddressing,
}

/// A test's hold on a function that a driver has.
pub struct Script<D> {
    device: Arc<Mutex<D>>,
    log: Arc<Mutex<Log>>,
    pool: DmaPool,
    peer: Arc<IrqEvent>,
}

impl<D> Clone for Script<D> {
    fn clone(&self) -> Self {
        Script {
            device: self.device.clone(),
            log: self.log.clone(),
            pool: self.pool.clone(),
            peer: self.peer.clone(),
        }
    }
}

const ID: &str = "scripted";

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: ScriptedDevice> ScriptedFunction<D> {
    /// A function with `device` behind it and 1 MiB of DMA memory.
    pub fn new(mut device: D) -> Result<Self, Error> {
        let pool = DmaPool::new(ID.into(), 1 << 20, 0x4000_0000)?;
        device.attach(pool.device_view());
        let peer = IrqEvent::new(ID.into())?;
        Ok(ScriptedFunction {
            script: Script {
                device: Arc::new(Mutex::new(device)),
                log: Arc::default(),
                pool: pool.clone(),
                peer: Arc::new(peer.try_clone()?),
            },
            pool,
            peer,
            sriov: ConfigSriov::new(),
            addressing: DmaAddressing::Mapped,
        })
    }

    /// The same, with addresses that an IOMMU translates.
    pub fn behind_iommu(mut self) -> Self {
        self.addressing = DmaAddressing::Iommu;
        self
    }

    /// The test's hold on it.
    pub fn script(&self) -> Script<D> {
        self.script.clone()
    }

    fn step(&self, place: &Place, access: Access) -> Result<(), Error> {
        let mut log = lock(&self.script.log);
        let number = log.accesses.len();
        log.accesses.push(access);
        if let Some(cause) = &log.dead {
            let cause = Cause::Dead(Box::new(cause.clone()));
            return Err(Error::new(ID, place.clone(), cause));
        }
        match log.fail_at.take() {
            Some((at, cause)) if at == number => {
                let error = Error::new(ID, place.clone(), cause.clone());
                if error.is_fatal() {
                    log.dead = Some(cause);
                }
                Err(error)
            }
            other => {
                log.fail_at = other;
                Ok(())
            }
        }
    }

    fn check(&self, place: &Place, bar: u8, offset: u64, width: Width) -> Result<(), Error> {
        let size = lock(&self.script.device).bar_size(bar);
        BarInfo::check(size, offset, width).map_err(|cause| Error::new(ID, place.clone(), cause))
    }
}

impl<D: ScriptedDevice> Script<D> {
    /// The device, locked.
    pub fn device(&self) -> MutexGuard<'_, D> {
        lock(&self.device)
    }

    /// Everything accessed so far.
    pub fn accesses(&self) -> Vec<Access> {
        lock(&self.log).accesses.clone()
    }

    /// Forgets what was accessed so far; steps count from 0 again.
    pub fn clear(&self) {
        lock(&self.log).accesses.clear();
    }

    /// Makes the access number `step` (from 0) fail; a fatal cause ends the function for ever.
    pub fn fail_at(&self, step: usize, cause: Cause) {
        lock(&self.log).fail_at = Some((step, cause));
    }

    /// The peer goes away now.
    pub fn hang_up(&self) {
        lock(&self.log).dead = Some(Cause::PeerClosed);
        let _ = self.peer.signal();
    }

    /// What the driver last said with [`PciFunction::hurry`].
    pub fn until(&self) -> Option<Instant> {
        lock(&self.log).until
    }

    /// From now on reads that nobody waits for are answered only by [`Script::answer_later`].
    pub fn hold_later(&self) {
        lock(&self.log).slow = true;
    }

    /// Answers the read that is under way, and others at once from now on.
    pub fn answer_later(&self) {
        lock(&self.log).slow = false;
        let _ = self.peer.signal();
    }

    /// State of the DMA memory.
    pub fn dma_stats(&self) -> PoolStats {
        self.pool.stats()
    }
}

impl<D: ScriptedDevice> PciFunction for ScriptedFunction<D> {
    fn id(&self) -> &str {
        ID
    }

    fn config_size(&self) -> Result<u16, Error> {
        Ok(4096)
    }

    fn config_read(&self, offset: u16, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(0);
        let len = buf.len();
        let place = Place::Config { offset, len };
        self.step(&place, Access::ConfigRead { offset, len })?;
        lock(&self.script.device).config_read(offset, buf);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<(), Error> {
        let place = Place::Config {
            offset,
            len: data.len(),
        };
        let data = data.to_vec();
        self.step(
            &place,
            Access::ConfigWrite {
                offset,
                data: data.clone(),
            },
        )?;
        lock(&self.script.device).config_write(offset, &data);
        Ok(())
    }

    fn bar(&self, bar: u8) -> Result<BarInfo, Error> {
        let size = lock(&self.script.device).bar_size(bar);
        BarInfo::of(size).map_err(|cause| Error::new(ID, Place::whole_bar(bar), cause))
    }

    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u32, Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        self.check(&place, bar, offset, width)?;
        let value = lock(&self.script.device).bar_read(bar, offset, width);
        self.step(
            &place,
            Access::BarRead {
                bar,
                offset,
                width,
                value,
            },
        )?;
        Ok(value)
    }

    fn bar_read_later(&self, bar: u8, offset: u64, width: Width) -> Result<Option<u32>, Error> {
        if !lock(&self.script.log).slow {
            return self.bar_read(bar, offset, width).map(Some);
        }
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        self.check(&place, bar, offset, width)?;
        self.step(&place, Access::BarReadLater { bar, offset, width })?;
        lock(&self.script.log).later = Some((bar, offset, width));
        Ok(None)
    }

    fn hurry(&self, until: Option<Instant>) {
        lock(&self.script.log).until = until;
    }

    fn bar_write(
        &self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
        posted: Posted,
    ) -> Result<(), Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        self.check(&place, bar, offset, width)?;
        self.step(
            &place,
            Access::BarWrite {
                bar,
                offset,
                width,
                value,
                posted,
            },
        )?;
        lock(&self.script.device).bar_write(bar, offset, width, value);
        Ok(())
    }

    fn irq_count(&self) -> Result<u32, Error> {
        Ok(lock(&self.script.device).irq_count())
    }

    fn enable_irqs(&mut self, n: u32) -> Result<Vec<IrqEvent>, Error> {
        self.step(&Place::Interrupts, Access::EnableIrqs(n))?;
        let events = IrqEvent::several(&ID.into(), n)?;
        let copies = events
            .iter()
            .map(IrqEvent::try_clone)
            .collect::<Result<Vec<_>, _>>()?;
        lock(&self.script.device).set_irqs(copies);
        Ok(events)
    }

    fn disable_irqs(&mut self) -> Result<(), Error> {
        self.step(&Place::Interrupts, Access::DisableIrqs)?;
        lock(&self.script.device).set_irqs(Vec::new());
        Ok(())
    }

    fn dma_alloc(&mut self, len: usize) -> Result<DmaRegion, Error> {
        self.step(&Place::Dma { offset: 0, len }, Access::DmaAlloc(len))?;
        self.pool.alloc(len)
    }

    fn dma_pool(&self) -> &DmaPool {
        &self.pool
    }

    fn dma_addressing(&self) -> DmaAddressing {
        self.addressing
    }

    fn function_reset(&mut self) -> Result<(), Error> {
        self.step(&Place::Function, Access::Reset)?;
        lock(&self.script.device).reset();
        Ok(())
    }

    fn sriov_status(&self) -> Result<SriovStatus, Error> {
        self.sriov.status(self)
    }

    fn vf_bars(&mut self) -> Result<[VfBar; 6], Error> {
        self.sriov.vf_bars(self)
    }

    fn enable_vfs(&mut self, n: u16) -> Result<(), Error> {
        self.sriov.enable(self, n)
    }

    fn disable_vfs(&mut self) -> Result<(), Error> {
        self.sriov.disable(self)
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        vec![self.peer.as_fd()]
    }

    fn service(&mut self) -> Result<Vec<FunctionEvent>, Error> {
        let mut log = lock(&self.script.log);
        if let Some(cause) = &log.dead {
            return Err(Error::new(ID, Place::Function, cause.clone()));
        }
        self.peer.drain()?;
        let later = if log.slow { None } else { log.later.take() };
        let Some((bar, offset, width)) = later else {
            return Ok(Vec::new());
        };
        let value = lock(&self.script.device).bar_read(bar, offset, width);
        Ok(vec![FunctionEvent::Register(value)])
    }
}
