// SPDX-License-Identifier: GPL-2.0-or-later
//! The peer, seen from a second smoltcp host on the same wire.

use super::*;
use sha2::{Digest, Sha256};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as When;
use smoltcp::wire::{IpCidr, Ipv4Address};

/// A guest at 10.0.77.2 whose wire may lose frames.
struct Guest {
    device: FrameQueue,
    interface: Interface,
    sockets: SocketSet<'static>,
    peer: Peer,
    lose_every: usize,
    frames: usize,
    next_port: u16,
}

impl Guest {
    fn new(lose_every: usize) -> Self {
        let mut device = FrameQueue::default();
        let mac = EthernetAddress([0x52, 0x54, 0, 0x77, 1, 1]);
        let mut interface = Interface::new(Config::new(mac.into()), &mut device, When::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(Ipv4Address::new(10, 0, 77, 2).into(), 24))
                .unwrap();
        });
        let (sockets, peer) = (SocketSet::new(Vec::new()), Peer::default());
        Self {
            device,
            interface,
            sockets,
            peer,
            lose_every,
            frames: 0,
            next_port: 50000,
        }
    }

    fn now(&self) -> When {
        self.peer.now()
    }

    fn turn(&mut self) {
        let now = self.now();
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        while let Some(frame) = self.device.transmit() {
            self.frames += 1;
            if self.lose_every == 0 || !self.frames.is_multiple_of(self.lose_every) {
                self.peer.receive(frame);
            }
        }
        self.peer.poll();
        while let Some(frame) = self.peer.transmit() {
            self.frames += 1;
            if self.lose_every == 0 || !self.frames.is_multiple_of(self.lose_every) {
                self.device.receive(frame);
            }
        }
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let buf = || SocketBuffer::new(vec![0; 200_000]);
        let handle = self.sockets.add(Socket::new(buf(), buf()));
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.set_congestion_control(smoltcp::socket::tcp::CongestionControl::Reno);
        self.next_port += 1;
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        let to = (Ipv4Address::new(10, 0, 77, 1), port);
        socket
            .connect(self.interface.context(), to, self.next_port)
            .unwrap();
        handle
    }

    /// Sends all of `data`, ends its direction, and returns what came back.
    fn talk(&mut self, port: u16, data: &[u8]) -> Vec<u8> {
        let handle = self.connect(port);
        let (mut sent, mut got) = (0, Vec::new());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            assert!(
                std::time::Instant::now() < deadline,
                "port {port}: {} back",
                got.len()
            );
            self.turn();
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            if socket.may_send() {
                sent += socket.send_slice(&data[sent..]).unwrap();
                if sent == data.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket
                    .recv(|b| (b.len(), got.extend_from_slice(b)))
                    .unwrap();
            }
            if !socket.may_recv() && sent == data.len() && !socket.is_listening() {
                use smoltcp::socket::tcp::State;
                if matches!(socket.state(), State::TimeWait | State::Closed) {
                    // The last acknowledgement (delayed) has to leave before the socket goes.
                    std::thread::sleep(Duration::from_millis(12));
                    self.turn();
                    self.sockets.remove(handle);
                    return got;
                }
            }
        }
    }
}

#[test]
fn files_come_by_http() {
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(300_001);
    std::fs::write(dir.path().join("file"), &data).unwrap();
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    for lose_every in [0, 97] {
        let mut guest = Guest::new(lose_every);
        guest.peer = Peer::new(Some(BootDir::open(dir.path()).unwrap()));
        let mut ask = |request: &str| {
            let text = guest.talk(80, request.as_bytes());
            let end = text.windows(4).position(|p| p == b"\r\n\r\n").unwrap() + 4;
            let head = String::from_utf8(text[..end].to_vec()).unwrap();
            (head, text[end..].to_vec())
        };
        let (head, body) = ask("GET /file?x HTTP/1.1\r\nHost: 10.0.77.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Length: 300001\r\n"), "{head}");
        assert!(body == data);
        let (head, body) = ask("HEAD /file HTTP/1.0\r\n\r\n");
        assert!(head.contains("Content-Length: 300001\r\n") && body.is_empty());
        for (request, status) in [
            ("GET /none HTTP/1.1\r\n\r\n", 404),
            ("GET /dir HTTP/1.1\r\n\r\n", 403),
            ("GET /../file HTTP/1.1\r\n\r\n", 403),
            ("GET /a%2fb HTTP/1.1\r\n\r\n", 403),
            ("PUT /file HTTP/1.1\r\n\r\n", 405),
            ("nonsense\r\n\r\n", 400),
        ] {
            let (head, body) = ask(request);
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {head}"
            );
            assert!(body.is_empty());
        }
        // More than a request may have, without an end.
        let (head, _) = ask(&"x".repeat(9000));
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    }
}

#[test]
fn without_files_nobody_serves_them() {
    let mut guest = Guest::new(0);
    let handle = guest.connect(80);
    for _ in 0..100 {
        guest.turn();
    }
    assert!(!guest.sockets.get_mut::<Socket<'_>>(handle).is_active());
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn echo_and_discard() {
    let mut guest = Guest::new(0);
    let data = pattern(300_000);
    assert_eq!(guest.talk(7, &data), data);
    assert!(guest.talk(9, &data).is_empty());
}

#[test]
fn checksum_of_what_was_sent() {
    let mut guest = Guest::new(0);
    let data = pattern(1_500_000);
    let want = format!("{}\n", stream::hex(Sha256::new().chain_update(&data)));
    assert_eq!(guest.talk(9001, &data), want.as_bytes());
}

#[test]
fn the_stream_and_its_checksum_agree() {
    let mut guest = Guest::new(0);
    let data = guest.talk(9002, b"2\n");
    assert_eq!(data.len(), 2 << 20);
    let want = format!("{}\n", stream::hex(Sha256::new().chain_update(&data)));
    assert_eq!(guest.talk(9003, b"2\n"), want.as_bytes());
    assert_eq!(guest.talk(9002, b"0\n"), b"");
    let text = guest.talk(9002, b"lots\n");
    assert!(String::from_utf8(text)
        .unwrap()
        .starts_with("expected a number"));
    assert!(!guest.talk(9003, &[b'9'; 5000]).is_empty());
}

#[test]
fn lost_frames_are_sent_again() {
    let mut guest = Guest::new(97);
    let data = guest.talk(9002, b"1\n");
    assert_eq!(data.len(), 1 << 20);
    let want = format!("{}\n", stream::hex(Sha256::new().chain_update(&data)));
    assert_eq!(guest.talk(9001, &data), want.as_bytes());
}

#[test]
fn a_hundred_connections_in_a_row_find_a_socket() {
    let mut guest = Guest::new(0);
    for i in 0..100 {
        let data = pattern(i + 1);
        assert_eq!(guest.talk(7, &data), data, "connection {i}");
    }
    for _ in 0..30 {
        assert_eq!(guest.talk(9003, b"0\n").len(), 65);
    }
}

#[test]
fn ping_is_answered() {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::socket::icmp;
    use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};
    let mut guest = Guest::new(0);
    let buf = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buf(), buf());
    socket.bind(icmp::Endpoint::Ident(7)).unwrap();
    let request = Icmpv4Repr::EchoRequest {
        ident: 7,
        seq_no: 1,
        data: &[0xab; 1400],
    };
    let to = Ipv4Address::new(10, 0, 77, 1).into();
    let out = socket.send(request.buffer_len(), to).unwrap();
    let caps = ChecksumCapabilities::default();
    request.emit(&mut Icmpv4Packet::new_unchecked(out), &caps);
    let handle = guest.sockets.add(socket);
    for _ in 0..10 {
        guest.turn();
    }
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let (reply, from) = socket.recv().unwrap();
    assert_eq!(from, to);
    let packet = Icmpv4Packet::new_checked(reply).unwrap();
    match Icmpv4Repr::parse(&packet, &caps).unwrap() {
        Icmpv4Repr::EchoReply {
            seq_no: 1, data, ..
        } => assert_eq!(data, [0xab; 1400]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_frames_are_survived() {
    let mut guest = Guest::new(0);
    let mut x = 1u64;
    for len in 0..2000 {
        let mut frame = vec![0; len % 200];
        for b in &mut frame {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *b = (x >> 33) as u8;
        }
        if let Some(head) = frame.get_mut(..14) {
            head[..6].copy_from_slice(&MAC);
            head[12..14].copy_from_slice(&[8, if len % 2 == 0 { 0 } else { 6 }]);
        }
        guest.peer.receive(frame);
        guest.peer.poll();
    }
    assert_eq!(guest.talk(7, b"still there"), b"still there");
}

/// The Internet checksum of `bytes`, continued from `sum`.
fn checksum(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        let word = u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

/// A TCP segment in IPv4 in Ethernet, with right checksums around whatever is in it.
fn segment(source: [u8; 4], tcp: &[u8]) -> Vec<u8> {
    let total = (20 + tcp.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0]);
    ip.extend_from_slice(&source);
    ip.extend_from_slice(&ADDRESS);
    let sum = !checksum(0, &ip) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = tcp.to_vec();
    tcp[16..18].fill(0);
    let pseudo = checksum(0, &ip[12..20]) + 6 + tcp.len() as u32;
    let sum = !checksum((pseudo & 0xffff) + (pseudo >> 16), &tcp) as u16;
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(&[0x52, 0x54, 0, 0x77, 1, 9, 8, 0]);
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&tcp);
    frame
}

#[test]
fn hostile_segments_are_survived() {
    let mut guest = Guest::new(0);
    let mut x = 99u64;
    let mut random = move || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 33) as u32
    };
    let sources = [
        [10, 0, 77, 9],
        [10, 0, 77, 8],
        [0, 0, 0, 0],
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        ADDRESS,
    ];
    // Sequence numbers near those the peer uses are learnt from its answers.
    let (mut seq, mut ack) = (0u32, 0u32);
    for _ in 0..30_000 {
        let offset = [5, 5, 5, 6, 8, 15, 0, 4][random() as usize % 8];
        let header = 4 * (offset as usize).max(5);
        let mut tcp = vec![0; header + [0, 0, 1, 9, 700][random() as usize % 5]];
        tcp[0..2].copy_from_slice(&(random() as u16 % 4 + 1000).to_be_bytes());
        let port = [7u16, 9, 9001, 9002, 9003, 1][random() as usize % 6];
        tcp[2..4].copy_from_slice(&port.to_be_bytes());
        let near = [0, 1, u32::MAX, 0x7fff_ffff, random()][random() as usize % 5];
        tcp[4..8].copy_from_slice(&seq.wrapping_add(near).to_be_bytes());
        let near = [0, 1, u32::MAX, 0x8000_0000, random()][random() as usize % 5];
        tcp[8..12].copy_from_slice(&ack.wrapping_add(near).to_be_bytes());
        tcp[12] = (offset as u8) << 4;
        tcp[13] = [2, 0x10, 0x10, 0x11, 0x18, 4, 0x12, random() as u8][random() as usize % 8];
        tcp[14..16].copy_from_slice(&(random() as u16).to_be_bytes());
        for b in &mut tcp[20..] {
            *b = [1, 2, 4, 5, 8, 10, 0xff, b'1', b'\n'][random() as usize % 9];
        }
        let source = sources[(random() as usize % 12).saturating_sub(6)];
        guest.peer.receive(segment(source, &tcp));
        guest.peer.poll();
        while let Some(frame) = guest.peer.transmit() {
            if frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 {
                ack = u32::from_be_bytes(frame[38..42].try_into().unwrap()).wrapping_add(1);
                seq = u32::from_be_bytes(frame[42..46].try_into().unwrap());
            } else if frame[12..14] == [8, 6] {
                // Who has this address? The answer makes the peer send on.
                let mut reply = frame.clone();
                reply[..6].copy_from_slice(&MAC);
                reply[21] = 2;
                reply[22..28].copy_from_slice(&[0x52, 0x54, 0, 0x77, 1, 9]);
                let (a, b) = (frame[28..32].to_vec(), frame[38..42].to_vec());
                reply[32..38].copy_from_slice(&MAC);
                reply[28..32].copy_from_slice(&b);
                reply[38..42].copy_from_slice(&a);
                guest.peer.receive(reply);
            }
        }
    }
    assert_ne!(ack, 0, "the peer never answered: the test reaches nothing");
    // Nothing hostile is left to be looked at; the peer that was attacked, not a new one, serves an
    // honest guest.
    for _ in 0..1000 {
        if !guest.peer.poll() {
            break;
        }
    }
    while guest.peer.transmit().is_some() {}
    assert_eq!(guest.talk(7, b"alive"), b"alive");
}

#[test]
fn a_peer_that_breaks_starts_anew() {
    let mut guest = Guest::new(0);
    assert_eq!(guest.talk(7, b"before"), b"before");
    guest.peer.breaks = true;
    guest.peer.poll();
    assert_eq!(guest.peer.restarts(), 1);
    assert_eq!(guest.talk(7, b"after"), b"after");
    assert_eq!(guest.peer.restarts(), 1);
}
