// SPDX-License-Identifier: GPL-2.0-or-later
//! Round trips, layouts as QEMU 10.2 sends them, and arbitrary bytes.

use super::*;
use proptest::prelude::*;

fn limits() -> Limits {
    Limits::default()
}

fn split(msg: &[u8]) -> (Header, &[u8]) {
    let head: &[u8; HEADER_LEN] = msg[..HEADER_LEN].try_into().unwrap();
    let header = Header::decode(head, &limits()).unwrap();
    assert_eq!(header.size as usize, msg.len());
    assert_eq!(header.payload_len(), msg.len() - HEADER_LEN);
    (header, &msg[HEADER_LEN..])
}

fn request_round_trip(req: &Request<'_>, id: u16, no_reply: bool) {
    let mut out = vec![0xaa; 3];
    req.encode(id, no_reply, &mut out);
    let (header, payload) = split(&out);
    assert_eq!(header.id, id);
    assert_eq!(header.no_reply(), no_reply);
    assert!(!header.is_reply());
    assert_eq!(&Request::decode(&header, payload, &limits()).unwrap(), req);
}

fn header_of(command: Command) -> Header {
    Header {
        id: 7,
        command,
        size: HEADER_LEN as u32,
        flags: 0,
        errno: 0,
    }
}

fn reply_round_trip(reply: &Reply<'_>, command: Command) {
    let mut out = Vec::new();
    reply.encode(&header_of(command), u32::MAX, &mut out);
    let (header, payload) = split(&out);
    assert!(header.is_reply());
    assert_eq!((header.id, header.command), (7, command));
    assert_eq!(&Reply::decode(&header, payload, &limits()).unwrap(), reply);
}

#[test]
fn qemu_version_request_is_understood() {
    let json = concat!(
        r#"{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "#,
        r#""max_msg_fds": 16, "max_data_xfer_size": 1048576, "pgsizes": 4096, "#,
        r#""max_dma_maps": 65535, "write_multiple": true}}"#,
        "\0"
    );
    let mut payload = vec![0, 0, 0, 0];
    payload.extend_from_slice(json.as_bytes());
    let req = Request::decode(&header_of(Command::VERSION), &payload, &limits()).unwrap();
    let Request::Version(v) = req else {
        panic!("{req:?}")
    };
    assert_eq!((v.major, v.minor), (MAJOR, MINOR));
    assert_eq!(v.capabilities.max_msg_fds, 16);
    assert!(v.capabilities.write_multiple);
    assert_eq!(v.capabilities.migration_max_bitmap, Some(256 << 20));
}

#[test]
fn layouts_are_those_of_qemu() {
    let mut out = Vec::new();
    let map = DmaMap {
        flags: 3,
        offset: 0x10,
        iova: 0x20,
        size: 0x30,
    };
    Request::DmaMap(map).encode(1, false, &mut out);
    assert_eq!(out.len(), 48);
    assert_eq!(out[16..20], 32u32.to_ne_bytes());
    assert_eq!(out[24..32], 0x10u64.to_ne_bytes());
    assert_eq!(out[32..40], 0x20u64.to_ne_bytes());
    assert_eq!(out[40..48], 0x30u64.to_ne_bytes());
    let unmap = DmaUnmap {
        flags: 0,
        iova: 1,
        size: 2,
    };
    Request::DmaUnmap(unmap).encode(1, false, &mut out);
    assert_eq!(out.len(), 40);
    Request::GetInfo { argsz: 16 }.encode(1, false, &mut out);
    assert_eq!(out.len(), 32);
    Request::GetRegionInfo {
        argsz: 32,
        index: 7,
    }
    .encode(1, false, &mut out);
    assert_eq!(out.len(), 48);
    let access = RegionAccess {
        offset: 4,
        region: 7,
        count: 2,
    };
    Request::RegionWrite {
        access,
        data: &[6, 4],
    }
    .encode(9, true, &mut out);
    assert_eq!(out.len(), 34);
    assert_eq!(out[8..12], 0x10u32.to_ne_bytes());
    assert_eq!(out[24..28], 7u32.to_ne_bytes());
    // A reply to a one-byte write must not be longer than the request: QEMU's buffer is that.
    Reply::Written(access).encode(&header_of(Command::REGION_WRITE), 0, &mut out);
    assert_eq!(out.len(), 32);
}

#[test]
fn requests_survive_a_round_trip() {
    let caps = Capabilities {
        max_msg_fds: 16,
        write_multiple: true,
        twin_socket: true,
        migration_pgsize: Some(4096),
        ..Capabilities::default()
    };
    request_round_trip(
        &Request::Version(Version {
            major: 0,
            minor: 3,
            capabilities: caps,
        }),
        1,
        false,
    );
    request_round_trip(&Request::GetInfo { argsz: 16 }, 2, false);
    request_round_trip(
        &Request::GetRegionIoFds {
            argsz: 999,
            index: 2,
        },
        3,
        false,
    );
    request_round_trip(&Request::DeviceReset, 5, false);
    let set = SetIrqs {
        flags: irq_flags::SET_DATA_BOOL | irq_flags::SET_ACTION_TRIGGER,
        index: IRQ_MSIX,
        start: 1,
        count: 3,
        data: &[1, 0, 1],
    };
    request_round_trip(&Request::SetIrqs(set), 6, false);
}

#[test]
fn replies_survive_a_round_trip() {
    reply_round_trip(&Reply::Error(errno::EBUSY), Command::DEVICE_SET_IRQS);
    reply_round_trip(&Reply::Empty, Command::DMA_MAP);
    reply_round_trip(&Reply::DmaUnmap(None), Command::DMA_UNMAP);
    let info = DeviceInfo {
        flags: device_flags::RESET | device_flags::PCI,
        num_regions: 9,
        num_irqs: 5,
    };
    reply_round_trip(&Reply::Info(info), Command::DEVICE_GET_INFO);
    let region = RegionInfo {
        argsz: 32 + 16 + 32,
        flags: region_flags::READ | region_flags::MMAP | region_flags::CAPS,
        index: 2,
        size: 0x4000,
        offset: 0,
        sparse: vec![
            SparseArea {
                offset: 0,
                size: 0x1000,
            },
            SparseArea {
                offset: 0x2000,
                size: 0x1000,
            },
        ],
    };
    reply_round_trip(&Reply::RegionInfo(region), Command::DEVICE_GET_REGION_INFO);
    let fds = IoFdsReply {
        argsz: 16 + 40,
        index: 4,
        entries: vec![IoEventFd {
            offset: 8,
            size: 2,
            fd_index: 0,
            kind: IO_FD_TYPE_IOEVENTFD,
            flags: IoEventFd::DATAMATCH,
            datamatch: 3,
        }],
    };
    reply_round_trip(&Reply::IoFds(fds), Command::DEVICE_GET_REGION_IO_FDS);
    let access = RegionAccess {
        offset: 4,
        region: 0,
        count: 3,
    };
    let read = Reply::Read {
        access,
        data: &[1, 2, 3],
    };
    reply_round_trip(&read, Command::REGION_READ);
}

#[test]
fn a_reply_that_does_not_fit_tells_the_room_it_needs() {
    let region = RegionInfo {
        sparse: vec![SparseArea { offset: 0, size: 1 }],
        ..RegionInfo::default()
    };
    let mut out = Vec::new();
    let to = header_of(Command::DEVICE_GET_REGION_INFO);
    Reply::RegionInfo(region).encode(&to, 32, &mut out);
    let (header, payload) = split(&out);
    assert_eq!(payload.len(), 32);
    match Reply::decode(&header, payload, &limits()).unwrap() {
        Reply::RegionInfo(i) => {
            assert_eq!(i.argsz, 64);
            assert!(i.sparse.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_sizes_and_types_are_fatal() {
    let mut h = header_of(Command::DEVICE_RESET);
    for size in 0..16 {
        h.size = size;
        let e = Header::decode(&h.encode(), &limits()).unwrap_err();
        assert_eq!(e, WireError::SizeTooSmall(size));
        assert!(e.is_fatal());
    }
    h.size = limits().max_message();
    assert!(Header::decode(&h.encode(), &limits()).is_ok());
    h.size += 1;
    assert!(Header::decode(&h.encode(), &limits())
        .unwrap_err()
        .is_fatal());
    h.size = u32::MAX;
    assert!(Header::decode(&h.encode(), &limits()).is_err());
    h.size = 16;
    h.flags = 2;
    assert!(Header::decode(&h.encode(), &limits())
        .unwrap_err()
        .is_fatal());
}

#[test]
fn a_read_of_4_gib_is_refused_before_anything_is_allocated() {
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: u32::MAX,
    };
    let mut out = Vec::new();
    Request::RegionRead(access).encode(1, false, &mut out);
    let (header, payload) = split(&out);
    let e = Request::decode(&header, payload, &limits()).unwrap_err();
    assert_eq!(e.errno(), errno::E2BIG);
    assert!(!e.is_fatal());
}

#[test]
fn unknown_and_refused_commands_have_an_error_number() {
    for n in [0, 11, 12, 14, 16, 17, 18, 19, 0xffff] {
        let header = header_of(Command(n));
        let e = Request::decode(&header, &[], &limits()).unwrap_err();
        assert_eq!(e.errno(), errno::ENOSYS);
    }
}

#[test]
fn version_data_without_nul_or_object_is_refused() {
    for bad in [
        &b"{}"[..],
        b"[]\0",
        b"nonsense\0",
        b"{\"capabilities\": 3}\0",
        b"{\"capabilities\": {\"max_msg_fds\": \"x\"}}\0",
        b"{\"capabilities\": {\"max_msg_fds\": -1}}\0",
        b"{\"capabilities\": {\"max_msg_fds\": 99999999999}}\0",
    ] {
        assert!(Capabilities::from_bytes(bad).is_err(), "{bad:?}");
    }
    for good in [&b""[..], b"\0", b"{}\0", b"{\"capabilities\": {}}\0\0"] {
        let caps = Capabilities::from_bytes(good).unwrap();
        assert_eq!(caps, Capabilities::default());
    }
    // Deep nesting ends in an error, not in a stack overflow.
    let mut deep = vec![b'['; 4000];
    deep.push(0);
    assert!(Capabilities::from_bytes(&deep).is_err());
}

#[test]
fn write_multi_is_checked_and_iterated() {
    let mut payload = 2u64.to_ne_bytes().to_vec();
    for (off, count) in [(0x10u64, 4u32), (0x20, 8)] {
        payload.extend_from_slice(&off.to_ne_bytes());
        payload.extend_from_slice(&2u32.to_ne_bytes());
        payload.extend_from_slice(&count.to_ne_bytes());
        payload.extend_from_slice(&[count as u8; 8]);
    }
    let header = header_of(Command::REGION_WRITE_MULTI);
    let Request::RegionWriteMulti(m) = Request::decode(&header, &payload, &limits()).unwrap()
    else {
        panic!()
    };
    let all: Vec<_> = m.iter().collect();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].access.offset, 0x20);
    assert_eq!(all[1].data, [8; 8]);
    payload.truncate(payload.len() - 1);
    assert!(Request::decode(&header, &payload, &limits()).is_err());
    let huge = u64::MAX.to_ne_bytes();
    assert!(Request::decode(&header, &huge, &limits()).is_err());
}

#[test]
fn a_capability_chain_that_loops_ends() {
    let mut payload = Vec::new();
    for v in [64u32, region_flags::CAPS, 0, 32] {
        payload.extend_from_slice(&v.to_ne_bytes());
    }
    payload.extend_from_slice(&[0; 16]);
    payload.extend_from_slice(&9u16.to_ne_bytes());
    payload.extend_from_slice(&1u16.to_ne_bytes());
    payload.extend_from_slice(&32u32.to_ne_bytes());
    let header = Header {
        flags: Header::TYPE_REPLY,
        ..header_of(Command::DEVICE_GET_REGION_INFO)
    };
    assert!(Reply::decode(&header, &payload, &limits()).is_err());
}

proptest! {
    #[test]
    fn header_round_trip(id: u16, command: u16, size in 16u32..60000, flags: u32, errno: u32) {
        let flags = flags & !0xe;
        let h = Header { id, command: Command(command), size, flags, errno };
        prop_assert_eq!(Header::decode(&h.encode(), &limits()), Ok(h));
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        command in 0u16..24, flags: u32, payload in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let mut header = header_of(Command(command));
        header.flags = flags;
        let _ = Request::decode(&header, &payload, &limits());
        let _ = Reply::decode(&header, &payload, &limits());
    }

    #[test]
    fn what_decodes_as_a_request_encodes_to_the_same_meaning(
        command in 1u16..16, payload in proptest::collection::vec(0u8..40, 0..120)
    ) {
        let header = header_of(Command(command));
        if let Ok(req) = Request::decode(&header, &payload, &limits()) {
            let mut out = Vec::new();
            req.encode(3, false, &mut out);
            let (h, p) = split(&out);
            prop_assert_eq!(Request::decode(&h, p, &limits()).unwrap(), req);
        }
    }

    #[test]
    fn region_requests_round_trip(
        offset in 0u64..1 << 48, region: u32, data in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        request_round_trip(&Request::RegionRead(access), 4, false);
        request_round_trip(&Request::RegionWrite { access, data: &data }, 4, true);
    }

    #[test]
    fn version_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Capabilities::from_bytes(&data);
    }

    #[test]
    fn capabilities_round_trip(fds: u32, xfer: u64, maps: u64, pg: u64, multi: bool) {
        let caps = Capabilities {
            max_msg_fds: fds, max_data_xfer_size: xfer, max_dma_maps: maps, pgsizes: pg,
            write_multiple: multi, ..Capabilities::default()
        };
        prop_assert_eq!(Capabilities::from_bytes(&caps.to_bytes()), Ok(caps));
    }
}
