// SPDX-License-Identifier: GPL-2.0-or-later
//! A device that takes buffers only when it needs them must still hear of new ones (IRQ-11, seen
//! from the device side).

use virtio_modern_spec::features::{bit, EVENT_IDX};
use virtio_pci_spec::DeviceType;
use virtio_pf_model::testing::{AdminClient, Buffer, Driver, MODERN_FEATURES};
use virtio_pf_model::{
    DeviceCtx, FrameSwitch, FunctionId, Interface, Model, ModelConfig, Port, RingFault,
    VirtioDevice,
};

use crate::{memory, vf};

/// Puts each frame into one buffer of queue 0; frames wait where there is none.
#[derive(Default)]
struct Receiver {
    waiting: Vec<Vec<u8>>,
}

impl VirtioDevice for Receiver {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn config_len(&self) -> u16 {
        0
    }

    fn read_config(&self, _: u16, _: &mut [u8]) {}

    fn write_config(&mut self, _: u16, _: &[u8], _: Interface, _: &mut DeviceCtx<'_>) {}

    fn reset(&mut self) {
        self.waiting.clear();
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while !self.waiting.is_empty() {
            let Some(chain) = ctx.pop(queue)? else {
                return Ok(());
            };
            let frame = self.waiting.remove(0);
            let n = ctx.write(&chain, 0, &frame)?;
            ctx.complete(chain, n as u32)?;
        }
        Ok(())
    }

    fn receive_frame(&mut self, frame: &[u8], ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        self.waiting.push(frame.to_vec());
        self.process_queue(0, ctx)
    }
}

/// Everything from outside goes to VF 1.
struct ToVf1;

impl FrameSwitch for ToVf1 {
    fn forward(&mut self, _: Port, _: &[u8], to: &mut Vec<Port>) {
        to.push(Port::Function(FunctionId::Vf(1)));
    }

    fn port_reset(&mut self, _: Port) {}
}

// Covers: IRQ-12
#[test]
fn buffers_added_to_an_empty_ring_are_announced() {
    for event_idx in [0, bit(EVENT_IDX)] {
        let cfg = ModelConfig::new(DeviceType::Entropy, 1);
        let mut make = |_| Ok(Box::new(Receiver::default()) as _);
        let mut m = Model::with_devices(cfg, &mut make, Box::new(ToVf1)).unwrap();
        let _c = AdminClient::ready(&mut m, &memory(), 1);
        let d = Driver::new(&mut m, vf(1), &memory());
        assert!(d.negotiate(&mut m, MODERN_FEATURES | event_idx));
        let mut ring = d.queue(&mut m, 0, 0xffff);
        d.driver_ok(&mut m);
        let at = d.memory.alloc(64, 8);
        let mut added = 0u16;
        // Adds a buffer and notifies if the device asked for it.
        let mut add = |m: &mut Model, ring: &mut virtio_pf_model::testing::DriverRing| {
            ring.add(&[Buffer::writable(at, 4)]);
            let wanted = match event_idx {
                0 => ring.used_flags() == 0,
                _ => ring.avail_event() == added,
            };
            added += 1;
            if wanted {
                d.kick(m, 0);
            }
        };
        // Three buffers in stock, then four frames.
        for _ in 0..3 {
            add(&mut m, &mut ring);
        }
        assert_eq!(ring.poll(), None);
        for n in 0..4u8 {
            m.rx_frame(&[n; 4]);
        }
        assert_eq!(std::iter::from_fn(|| ring.poll()).count(), 3);
        // The fourth goes into the next buffer at once.
        add(&mut m, &mut ring);
        assert!(ring.poll().is_some(), "{event_idx:#x}");
        assert_eq!(d.memory.get(at, 4), [3; 4]);
    }
}
