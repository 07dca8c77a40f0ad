// SPDX-License-Identifier: GPL-2.0-or-later
//! The peer, seen from a second smoltcp host on the same wire.

use super::*;
use sha2::{Digest, Sha256};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as When;

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
        let (sockets, peer) = (SocketSet::new(Vec::new()), Peer::new());
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
