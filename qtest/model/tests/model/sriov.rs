// SPDX-License-Identifier: GPL-2.0-or-later
//! The SR-IOV capability and the life of VFs (SRV, GRP-03, FEA-06).

use virtio_modern_spec::sriov as cap;
use virtio_pci_spec::{pci, DeviceType};
use virtio_pf_model::testing::{echo_model, AdminClient, Driver, MODERN_FEATURES};
use virtio_pf_model::{
    Action, ConfigError, Effect, FaultRule, FunctionId, Model, ModelConfig, SrIovCapability,
    Violation, FRONT_END_SRIOV, MAX_VFS, MODERN_BAR,
};

use crate::{config, memory, ready, vf, violations};

// Covers: SRV-01
#[test]
fn the_capability_is_well_formed() {
    let mut m = echo_model(config(7)).unwrap();
    let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
    assert_eq!(pf.config(&mut m, 0x100, 4), 0x1401_0003, "DSN, then 0x140");
    assert_eq!(pf.config(&mut m, 0x140, 4), 0x0001_0010, "SR-IOV, last");
    for (field, value) in [
        (cap::CONTROL, 0),
        (cap::INITIAL_VFS, 7),
        (cap::TOTAL_VFS, 7),
        (cap::NUM_VFS, 0),
        (cap::VF_OFFSET, 1),
        (cap::VF_STRIDE, 1),
        (cap::VF_DEVICE_ID, 0x1042),
        (cap::SYSTEM_PAGE_SIZE, 1),
    ] {
        assert_eq!(pf.sriov(&mut m, field), value, "field {field:#x}");
    }
    for (field, v) in [
        (cap::TOTAL_VFS, 9),
        (cap::VF_OFFSET, 9),
        (cap::VF_DEVICE_ID, 9),
    ] {
        let before = pf.sriov(&mut m, field);
        pf.set_sriov(&mut m, field, v);
        assert_eq!(pf.sriov(&mut m, field), before);
    }
    // A VF has no such capability.
    pf.negotiate(&mut m, MODERN_FEATURES);
    pf.enable_vfs(&mut m, 7);
    let d = Driver::new(&mut m, vf(7), &memory());
    assert_eq!(d.config(&mut m, 0x100, 4), 0x0001_0003);
}

/// Routing ID of a PF on bus 1, device 0.
const PF: u32 = 0x100;

// Covers: SRV-01
#[test]
fn vfs_have_routing_ids_on_as_many_buses_as_it_takes() {
    // Number of VFs, and bus and function number of the last.
    for (n, bus, function) in [
        (1, 1, 1),
        (7, 1, 7),
        (8, 2, 7),
        (256, 2, 255),
        (257, 3, 0),
        (MAX_VFS, 9, 255),
    ] {
        let mut m = echo_model(config(n)).unwrap();
        let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
        assert_eq!(pf.sriov(&mut m, cap::TOTAL_VFS), n);
        assert_eq!(pf.sriov(&mut m, cap::INITIAL_VFS), n);
        let first = PF + u32::from(pf.sriov(&mut m, cap::VF_OFFSET));
        let stride = u32::from(pf.sriov(&mut m, cap::VF_STRIDE));
        assert!(first > PF && (stride > 0 || n == 1));
        let last = first + u32::from(n - 1) * stride;
        assert_eq!((last >> 8, last & 0xff), (bus, function), "{n} VFs");
        // Without ARI the PF's bus has functions 0 to 7 and no more.
        let own = (0..u32::from(n))
            .map(|k| first + k * stride)
            .filter(|id| id >> 8 == 1);
        assert!(own.map(|id| id & 0xff).all(|f| f < 8), "{n} VFs");
    }
}

// Covers: SRV-01, SRV-03, GRP-02
#[test]
fn vfs_live_while_they_are_enabled() {
    let (mut m, mut c) = ready(config(64), 0);
    for n in [0u16, 1, 64, 3] {
        m.drain_effects();
        c.pf.enable_vfs(&mut m, n);
        assert_eq!(m.live_vfs(), n);
        for k in [1, 2, 3, 4, 63, 64, 65] {
            let alive = k <= n;
            let mut id = [0; 4];
            m.config_read(vf(k), 0, &mut id);
            assert_eq!(id == [0xff; 4], !alive, "VF {k} of {n}");
            assert_eq!(m.exists(vf(k)), alive);
        }
        let changed: Vec<_> = m
            .drain_effects()
            .filter(|e| *e == Effect::VfsChanged { enabled: n })
            .collect();
        assert_eq!(changed.len(), usize::from(n != 0 || !changed.is_empty()));
        if n > 0 {
            assert!(c.common_read(&mut m, n, 18, 1).ok());
        }
    }
    assert!(!m.exists(vf(0)));
}

// Covers: SRV-03
#[test]
fn enabling_again_starts_from_reset() {
    let (mut m, mut c) = ready(config(2), 2);
    c.set(&mut m, 2, 4, 4, 5);
    c.set(&mut m, 2, 8, 4, 0x77);
    c.set(&mut m, 2, 18, 1, 7);
    Driver::new(&mut m, vf(2), &memory()).set_msix(&mut m, true, false);
    c.pf.enable_vfs(&mut m, 0);
    c.pf.enable_vfs(&mut m, 2);
    for (at, n) in [(4, 4), (8, 4), (18, 1)] {
        assert_eq!(c.get(&mut m, 2, at, n), 0);
    }
    assert!(!m.msix_enabled(vf(2)));
}

// Covers: SRV-01
#[test]
fn num_vfs_is_checked() {
    let (mut m, c) = ready(config(4), 2);
    violations(&mut m);
    c.pf.set_sriov(&mut m, cap::NUM_VFS, 3);
    assert_eq!(c.pf.sriov(&mut m, cap::NUM_VFS), 2, "fixed while enabled");
    assert_eq!(violations(&mut m), [Violation::NumVfs { value: 3 }]);
    c.pf.set_sriov(&mut m, cap::CONTROL, 0);
    c.pf.set_sriov(&mut m, cap::NUM_VFS, 5);
    assert_eq!(c.pf.sriov(&mut m, cap::NUM_VFS), 2);
    assert_eq!(violations(&mut m), [Violation::NumVfs { value: 5 }]);
    c.pf.set_sriov(&mut m, cap::NUM_VFS, 4);
    c.pf.set_sriov(&mut m, cap::CONTROL, 9);
    assert_eq!(m.live_vfs(), 4);
}

// What drivers are held to: FEA-06
// Covers: FEA-05
#[test]
fn sr_iov_comes_before_vfs() {
    let mut m = echo_model(config(1)).unwrap();
    let d = Driver::new(&mut m, FunctionId::Pf, &memory());
    d.enable_vfs(&mut m, 1);
    assert!(violations(&mut m).contains(&Violation::VfsWithoutSrIov));
    d.enable_vfs(&mut m, 0);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    d.enable_vfs(&mut m, 1);
    assert_eq!(violations(&mut m), []);
    // Once is enough.
    d.set(&mut m, 20, 0);
    d.enable_vfs(&mut m, 1);
    assert_eq!(violations(&mut m), []);
}

// What drivers are held to: GRP-05
#[test]
fn disabling_vfs_under_a_command_is_noted() {
    let (mut m, mut c) = ready(config(1), 1);
    let delay = FaultRule::on(3, Action::Delay { ms: 10 });
    m.faults().add(delay).unwrap();
    let mut h = AdminClient::header(3, 1, 1);
    h.push(18);
    assert_eq!(c.send(&mut m, &h, 9), None);
    violations(&mut m);
    c.pf.enable_vfs(&mut m, 0);
    let want = Violation::VfsDisabledWithCommands { outstanding: 1 };
    assert_eq!(violations(&mut m), [want]);
    m.tick(10_000_000);
    assert!(c.reap(9).is_some(), "the command itself was done before");
}

// Covers: SRV-01, SRV-02
#[test]
fn vf_bars_follow_memory_space_enable() {
    let (mut m, c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 2);
    c.pf.set_sriov(&mut m, cap::CONTROL, cap::CONTROL_VF_ENABLE);
    violations(&mut m);
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 0xffff);
    let off = Violation::MemorySpaceOff { bar: MODERN_BAR };
    assert_eq!(violations(&mut m), [off]);
    assert_eq!(m.live_vfs(), 1, "VF Enable stayed");
    c.pf.set_sriov(&mut m, cap::CONTROL, 9);
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 2);
    // No I/O space: every BAR is memory, and I/O Enable does not exist.
    for bar in 0..6 {
        assert_eq!(d.config(&mut m, 0x10 + 4 * bar, 4) & 1, 0);
    }
    d.set_command(&mut m, 7);
    assert_eq!(d.config(&mut m, 4, 2), 6);
}

// Covers: SRV-01
#[test]
fn a_front_end_may_bring_its_own_capability() {
    let mut cfg = config(2);
    cfg.sriov = SrIovCapability::FrontEnd;
    let mut m = echo_model(cfg).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    assert_eq!(
        c.pf.config(&mut m, 0x100, 4),
        0x0001_0003,
        "no SR-IOV in the list"
    );
    // VFs can be looked at, but they are no members yet and do no DMA.
    let d = Driver::new(&mut m, vf(2), &memory());
    assert_eq!(d.config(&mut m, 0, 4), 0x1042_1af4);
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 2);
    assert_eq!(c.query(&mut m, 1).status(), (22, 4));
    m.set_vf_enable(2);
    assert!(c.use_list(&mut m, 1, 0x7f).ok());
    assert!(c.common_read(&mut m, 2, 18, 1).ok());
    m.set_vf_enable(0);
    assert_eq!(c.query(&mut m, 1).status(), (22, 4));
    m.set_vf_enable(99);
    assert_eq!(m.live_vfs(), 2);
    // Writes that the front end passes on do the same: NumVFs, then VF Enable.
    m.set_vf_enable(0);
    let at = FRONT_END_SRIOV;
    m.config_write(FunctionId::Pf, at + 0x10, &2u16.to_le_bytes());
    assert_eq!(m.live_vfs(), 0);
    m.config_write(FunctionId::Pf, at + 0x08, &9u16.to_le_bytes());
    assert_eq!(m.live_vfs(), 2);
    assert!(c.common_read(&mut m, 2, 18, 1).ok());
    m.config_write(FunctionId::Pf, at + 0x08, &0u16.to_le_bytes());
    assert_eq!(m.live_vfs(), 0);
    m.config_write(FunctionId::Pf, at + 0x08, &1u16.to_le_bytes());
    m.reset_function(FunctionId::Pf);
    assert_eq!(m.live_vfs(), 0, "a reset of the PF ends its VFs");
    // With a capability of its own the model listens to that alone.
    let mut m = echo_model(config(2)).unwrap();
    m.config_write(FunctionId::Pf, at + 0x10, &2u16.to_le_bytes());
    m.config_write(FunctionId::Pf, at + 0x08, &9u16.to_le_bytes());
    m.set_vf_enable(2);
    assert_eq!(m.live_vfs(), 0);
}

// Covers: SRV-01
#[test]
fn vfs_may_live_from_the_start() {
    let mut cfg = config(3);
    cfg.vfs_at_start = 2;
    let mut m = echo_model(cfg.clone()).unwrap();
    assert_eq!(m.live_vfs(), 2);
    let d = Driver::new(&mut m, vf(2), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    cfg.vfs_at_start = 4;
    assert_eq!(cfg.validate(), Err(ConfigError::VfsAtStart(4, 3)));
    for n in [0, MAX_VFS + 1, u16::MAX] {
        let bad = ModelConfig::new(DeviceType::Net, n);
        assert_eq!(bad.validate(), Err(ConfigError::Vfs(n)));
    }
}

// Covers: PCI-09
#[test]
fn pf_bars_follow_memory_space_enable() {
    let mut m = echo_model(config(1)).unwrap();
    let d = Driver::new(&mut m, FunctionId::Pf, &memory());
    d.set_command(&mut m, 0);
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 0xffff);
    d.set_command(&mut m, pci::COMMAND_MEMORY);
    assert_eq!(d.read(&mut m, MODERN_BAR, 18, 2), 2);
}

#[test]
fn a_model_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Model>();
}
