// SPDX-License-Identifier: GPL-2.0-or-later
//! Mapping arithmetic, sharing and refusal of files, and a comparison with a plain model.

use super::*;
use proptest::prelude::*;
use rustix::fs::{
    fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create, MemfdFlags, SealFlags,
};
use std::os::fd::AsFd;

const PAGE: u64 = 4096;

fn memfd(size: u64, flags: MemfdFlags) -> OwnedFd {
    let fd = memfd_create("t", flags | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

fn dup(fd: &OwnedFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

fn request(iova: u64, size: u64, offset: u64) -> DmaMap {
    DmaMap {
        flags: dma_flags::MAP_READ | dma_flags::MAP_WRITE,
        offset,
        iova,
        size,
    }
}

fn space_with(pages: u64) -> (DmaSpace, FileCache, OwnedFd) {
    let (space, mut files) = (DmaSpace::default(), FileCache::default());
    let fd = memfd(pages * PAGE, MemfdFlags::ALLOW_SEALING);
    for i in 0..pages {
        space
            .map(
                &request(i * PAGE, PAGE, i * PAGE),
                Some(dup(&fd)),
                &mut files,
            )
            .unwrap();
    }
    (space, files, fd)
}

#[test]
fn an_access_may_span_mappings_and_the_file_sees_it() {
    let (space, files, fd) = space_with(4);
    assert_eq!(files.len(), 1);
    let data: Vec<u8> = (0..PAGE as usize + 10).map(|i| i as u8).collect();
    space.write(PAGE - 5, &data).unwrap();
    let mut back = vec![0; data.len()];
    space.read(PAGE - 5, &mut back).unwrap();
    assert_eq!(back, data);
    let mut raw = vec![0; data.len()];
    rustix::io::pread(&fd, &mut raw, PAGE - 5).unwrap();
    assert_eq!(raw, data);
    let mut word = [0; 2];
    space.read(PAGE, &mut word).unwrap();
    assert_eq!(word, data[5..7]);
}

#[test]
fn what_is_not_mapped_is_refused_and_counted() {
    let (space, _files, _fd) = space_with(2);
    let mut buf = [0; 8];
    assert_eq!(
        space.read(2 * PAGE - 4, &mut buf),
        Err(DmaError::Unmapped(2 * PAGE))
    );
    assert_eq!(
        space.write(u64::MAX - 3, &buf),
        Err(DmaError::Unmapped(u64::MAX - 3))
    );
    assert_eq!(space.counters.faults.load(Ordering::Relaxed), 2);
}

#[test]
fn directions_are_honoured() {
    let (space, mut files) = (DmaSpace::default(), FileCache::default());
    let fd = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
    let mut r = request(0, PAGE, 0);
    r.flags = dma_flags::MAP_READ;
    space.map(&r, Some(fd), &mut files).unwrap();
    assert_eq!(space.write(0, &[1]), Err(DmaError::Forbidden(0)));
    space.read(0, &mut [0]).unwrap();
}

#[test]
fn huge_unmaps_saturate_and_take_only_what_lies_inside() {
    let (space, _files, _fd) = space_with(4);
    assert_eq!(space.unmap(0x1_0000_0000, 0xffff_ffff_0110_0000), 0);
    assert_eq!(space.unmap(2 * PAGE, u64::MAX), 2);
    assert_eq!(space.len(), 2);
    assert_eq!(space.unmap(0, 0), 0);
    assert_eq!(space.unmap(0, 1 << 47), 2);
    assert!(space.is_empty());
}

#[test]
fn unmap_of_the_middle_keeps_both_ends_with_their_bytes() {
    let (space, mut files) = (DmaSpace::default(), FileCache::default());
    let fd = memfd(4 * PAGE, MemfdFlags::ALLOW_SEALING);
    space
        .map(&request(0x10000, 4 * PAGE, 0), Some(fd), &mut files)
        .unwrap();
    space.write(0x10000 + 3 * PAGE, &[7]).unwrap();
    assert_eq!(space.unmap(0x10000 + PAGE, 2 * PAGE), 1);
    let mut b = [0];
    space.read(0x10000 + 3 * PAGE, &mut b).unwrap();
    assert_eq!(b, [7]);
    space.read(0x10000, &mut b).unwrap();
    assert!(space.read(0x10000 + PAGE, &mut b).is_err());
    assert!(space.read(0x10000 + 3 * PAGE - 1, &mut b).is_err());
}

#[test]
fn overlap_and_nonsense_are_refused() {
    let (space, mut files, fd) = space_with(2);
    for (iova, size, offset, want) in [
        (PAGE, PAGE, 0, errno::EEXIST),
        (0, 4 * PAGE, 0, errno::EEXIST),
        (2 * PAGE - 1, 1, 0, errno::EEXIST),
        (1 << 20, 0, 0, errno::EINVAL),
        (u64::MAX, 2, 0, errno::EINVAL),
        (1 << 20, PAGE, PAGE + 1, errno::EINVAL),
        (1 << 20, PAGE, u64::MAX, errno::EINVAL),
    ] {
        let e = space
            .map(&request(iova, size, offset), Some(dup(&fd)), &mut files)
            .unwrap_err();
        assert_eq!(e.0, want, "{iova:#x} {size:#x} {offset:#x}: {}", e.1);
    }
    // The very last page of the address space can be mapped.
    let top = u64::MAX - PAGE + 1;
    space
        .map(&request(top, PAGE, 0), Some(dup(&fd)), &mut files)
        .unwrap();
    space.write(u64::MAX, &[1]).unwrap();
    assert_eq!(space.unmap(top, PAGE), 1);
}

#[test]
fn memory_without_a_file_is_accepted_but_unreachable() {
    let (space, mut files) = (DmaSpace::default(), FileCache::default());
    space.map(&request(0, PAGE, 0), None, &mut files).unwrap();
    assert_eq!(space.read(0, &mut [0]), Err(DmaError::Unreachable(0)));
    assert_eq!(space.counters.unreachable.load(Ordering::Relaxed), 1);
}

#[test]
fn a_file_that_can_shrink_is_sealed_or_left_alone() {
    let mut files = FileCache::default();
    let fd = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
    assert!(files.get(dup(&fd), PAGE, true).unwrap().is_some());
    assert!(fcntl_get_seals(&fd).unwrap().contains(SealFlags::SHRINK));
    assert!(ftruncate(&fd, 0).is_err());

    let open = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
    fcntl_add_seals(&open, SealFlags::SEAL).unwrap();
    assert!(files.get(dup(&open), PAGE, true).unwrap().is_none());
    assert_eq!(files.unsealed, 1);
    let plain: OwnedFd = tempfile::tempfile().unwrap().into();
    ftruncate(&plain, PAGE).unwrap();
    assert!(files.get(dup(&plain), PAGE, true).unwrap().is_none());
    assert!(FileCache::new(true)
        .get(plain, PAGE, true)
        .unwrap()
        .is_some());
}

#[test]
fn one_mapping_per_file_is_shared_grown_and_forgotten() {
    let mut files = FileCache::default();
    let fd = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
    let a = files.get(dup(&fd), PAGE, true).unwrap().unwrap();
    let b = files.get(dup(&fd), PAGE, true).unwrap().unwrap();
    assert!(Arc::ptr_eq(&a, &b));
    ftruncate(&fd, 8 * PAGE).unwrap();
    let c = files.get(dup(&fd), 8 * PAGE, true).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&a, &c));
    drop((a, b, c));
    assert!(files.is_empty());
    assert!(files.get(fd, 9 * PAGE, true).is_err());
}

#[test]
fn thousands_of_page_mappings_need_no_more_descriptors() {
    let (space, files, _fd) = space_with(5000);
    assert_eq!((space.len(), files.len()), (5000, 1));
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 500, "{open} descriptors open");
}

#[test]
fn many_files_are_followed_by_compacting() {
    let (mut space, mut files) = (DmaSpace::default(), FileCache::default());
    for i in 0..3 * MAX_SLOTS as u64 {
        if space.is_crowded() {
            space = space.compacted();
        }
        let fd = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
        space
            .map(&request(i * PAGE, PAGE, 0), Some(fd), &mut files)
            .unwrap();
        space.write(i * PAGE, &[i as u8]).unwrap();
        if i >= 2 {
            space.unmap((i - 2) * PAGE, PAGE);
            let mut b = [0];
            space.read((i - 1) * PAGE, &mut b).unwrap();
            assert_eq!(b, [i as u8 - 1]);
        }
    }
    assert_eq!(
        space.counters.maps.load(Ordering::Relaxed),
        3 * MAX_SLOTS as u64
    );
    // A space that is full of live files refuses the next one.
    let space = DmaSpace::default();
    for i in 0..=MAX_SLOTS as u64 {
        let fd = memfd(PAGE, MemfdFlags::ALLOW_SEALING);
        let r = space.map(&request(i * PAGE, PAGE, 0), Some(fd), &mut files);
        assert_eq!(r.is_ok(), i < MAX_SLOTS as u64, "{i}: {r:?}");
    }
}

proptest! {
    #[test]
    fn maps_and_unmaps_agree_with_a_bitmap(ops in proptest::collection::vec(
        (any::<bool>(), 0u64..64, 1u64..16), 1..60)
    ) {
        let (space, mut files) = (DmaSpace::default(), FileCache::default());
        let fd = memfd(128, MemfdFlags::ALLOW_SEALING);
        let all: Vec<u8> = (0..128).collect();
        rustix::io::pwrite(&fd, &all, 0).unwrap();
        let mut model = [None; 96];
        for (is_map, at, len) in ops {
            let cells = &mut model[at as usize..(at + len) as usize];
            if is_map {
                let free = cells.iter().all(Option::is_none);
                let offset = (at * 7) % 64;
                let r = space.map(&request(at, len, offset), Some(dup(&fd)), &mut files);
                prop_assert_eq!(r.is_ok(), free);
                if free {
                    for (i, cell) in cells.iter_mut().enumerate() {
                        *cell = Some(offset as u8 + i as u8);
                    }
                }
            } else {
                space.unmap(at, len);
                cells.fill(None);
            }
        }
        for (i, want) in model.iter().enumerate() {
            let mut b = [0];
            let got = space.read(i as u64, &mut b).ok().map(|()| b[0]);
            prop_assert_eq!(got, *want);
        }
    }
}
