// SPDX-License-Identifier: GPL-2.0-or-later
//! Regions, their life, and memory that is taken over.

use super::*;

fn pool(pages: usize) -> DmaPool {
    DmaPool::new("test".into(), pages * PAGE, 0x10_0000).unwrap()
}

#[test]
fn accesses_outside_or_unaligned_are_refused() {
    let r = pool(2).alloc(PAGE).unwrap();
    assert_eq!(r.iova(), 0x10_0000);
    r.store_u32(PAGE - 4, 0x0403_0201, Order::Ordered).unwrap();
    let mut b = [0; 4];
    r.read_bytes(PAGE - 4, &mut b).unwrap();
    assert_eq!(b, [1, 2, 3, 4]);
    let e = r.load_u32(PAGE - 2, Order::Relaxed).unwrap_err();
    assert_eq!(e.cause(), &Cause::OutOfRange { size: PAGE as u64 });
    assert_eq!(
        r.load_u32(2, Order::Relaxed).unwrap_err().cause(),
        &Cause::Unaligned
    );
    assert!(r.store_u64(usize::MAX, 0, Order::Relaxed).is_err());
    assert!(r.write_bytes(PAGE, &[0]).is_err());
    assert!(r.read_bytes(PAGE - 1, &mut b).is_err());
    assert!(r.iova_at(PAGE - 8, 9).is_err());
    assert_eq!(r.iova_at(8, 8).unwrap(), 0x10_0008);
    r.release_after_reset();
}

// Covers: VRG-11
#[test]
fn memory_comes_back_only_after_a_reset_and_then_zeroed() {
    let p = pool(3);
    let a = p.alloc(1).unwrap();
    let b = p.alloc(PAGE).unwrap();
    let c = p.alloc(PAGE).unwrap();
    assert!(matches!(
        p.alloc(1).unwrap_err().cause(),
        Cause::PoolExhausted { free: 0, .. }
    ));
    b.store_u8(7, 0xaa, Order::Relaxed).unwrap();
    a.release_after_reset();
    c.release_after_reset();
    assert!(p.alloc(2 * PAGE).is_err(), "not adjacent");
    b.release_after_reset();
    let all = p.alloc(3 * PAGE).unwrap();
    assert_eq!(all.load_u8(PAGE + 7, Order::Relaxed).unwrap(), 0);
    drop(all);
    assert_eq!(p.stats().leaked, 3 * PAGE);
    assert_eq!(p.stats().live, 0);
    assert!(p.alloc(1).is_err(), "leaked memory stays with the device");
}

#[test]
fn memory_of_an_ended_process_is_taken_over_whole() {
    let p = pool(2);
    let r = p.alloc(PAGE).unwrap();
    r.store_u32(8, 77, Order::Relaxed).unwrap();
    let fd = p.fd().try_clone_to_owned().unwrap();
    drop((r, p));
    let q = DmaPool::adopt("test".into(), fd, 0x10_0000).unwrap();
    assert_eq!(
        (q.size(), q.stats().live, q.stats().leaked),
        (2 * PAGE, 0, 0)
    );
    let mut old = [0; 4];
    assert!(q.device_view().read(0x10_0008, &mut old));
    assert_eq!(u32::from_le_bytes(old), 77, "the device may still use it");
    let all = q.alloc(2 * PAGE).unwrap();
    assert_eq!(all.load_u32(8, Order::Relaxed).unwrap(), 0);

    // One that could shrink would be a trap.
    let open = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&open, PAGE as u64).unwrap();
    assert!(DmaPool::adopt("test".into(), open, 0).is_err());
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(DmaPool::adopt("test".into(), null.into(), 0).is_err());
}

#[test]
fn the_peer_cannot_shrink_the_file_or_make_it_grow() {
    let p = pool(1);
    assert!(ftruncate(p.fd(), 0).is_err());
    assert!(ftruncate(p.fd(), 1 << 20).is_err());
}
