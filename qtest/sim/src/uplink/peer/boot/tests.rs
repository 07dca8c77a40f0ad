// SPDX-License-Identifier: GPL-2.0-or-later
//! DHCP and TFTP message by message; HTTP is tested with the peer's other TCP services.

use super::*;
use smoltcp::wire::{IpAddress, IpEndpoint};
use std::fs;
use tempfile::TempDir;

fn served(names: &[(&str, &[u8])]) -> (TempDir, BootDir) {
    let dir = tempfile::tempdir().unwrap();
    for (name, data) in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }
    let files = BootDir::open(dir.path()).unwrap();
    (dir, files)
}

/// The DHCP server of 10.0.77.1.
fn dhcp() -> Dhcp {
    Dhcp::new(Ipv4Cidr::new([10, 0, 77, 1].into(), 24))
}

/// A DHCP request: its type, the last byte of the MAC address, more options.
fn ask(kind: u8, mac: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    message[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, mac]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    for (code, value) in options {
        message.extend([*code, value.len() as u8]);
        message.extend_from_slice(value);
    }
    message.push(255);
    message
}

/// An option of an answer.
fn told(answer: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut rest = &answer[240..];
    while rest[0] != 255 {
        let (head, value) = rest.split_at(2);
        if head[0] == code {
            return Some(value[..usize::from(head[1])].to_vec());
        }
        rest = &value[usize::from(head[1])..];
    }
    None
}

#[test]
fn a_client_gets_the_same_address_again() {
    let (_dir, files) = served(&[]);
    let mut dhcp = dhcp();
    let offer = dhcp.answer(&ask(1, 7, &[]), &files).unwrap();
    assert_eq!(offer[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(offer[16..20], [10, 0, 77, 100]);
    assert_eq!(told(&offer, 53).unwrap(), [2]);
    assert_eq!(told(&offer, 54).unwrap(), [10, 0, 77, 1]);
    assert_eq!(told(&offer, 1).unwrap(), [255, 255, 255, 0]);
    assert!(told(&offer, 51).is_some() && told(&offer, 67).is_none());
    let other = dhcp.answer(&ask(1, 8, &[]), &files).unwrap();
    assert_eq!(other[16..20], [10, 0, 77, 101]);
    let wanted: &[(u8, &[u8])] = &[(50, &[10, 0, 77, 100]), (54, &[10, 0, 77, 1])];
    let ack = dhcp.answer(&ask(3, 7, wanted), &files).unwrap();
    assert_eq!(
        (told(&ack, 53).unwrap(), &ack[16..20]),
        (vec![5], &offer[16..20])
    );
    // Another's address is refused.
    let nak = dhcp.answer(&ask(3, 8, wanted), &files).unwrap();
    assert_eq!(
        (told(&nak, 53).unwrap(), &nak[16..20]),
        (vec![6], &[0; 4][..])
    );
    // Another server was chosen.
    let elsewhere = ask(3, 7, &[(50, &[10, 0, 77, 100]), (54, &[10, 0, 77, 9])]);
    assert_eq!(dhcp.answer(&elsewhere, &files), None);
    // A client that has its address asks for the rest only.
    let inform = dhcp.answer(&ask(8, 9, &[]), &files).unwrap();
    assert_eq!(
        (told(&inform, 53).unwrap(), told(&inform, 51)),
        (vec![5], None)
    );
}

#[test]
fn the_file_to_boot_depends_on_the_client() {
    let (_dir, files) = served(&[("boot.ipxe", b""), ("boot.efi", b"")]);
    let mut dhcp = dhcp();
    let mut file = |options: &[(u8, &[u8])]| {
        let answer = dhcp.answer(&ask(1, 1, options), &files).unwrap();
        let name = told(&answer, 67).map(|name| String::from_utf8(name).unwrap());
        let field = answer[108..236].split(|b| *b == 0).next().unwrap();
        assert_eq!(name.as_deref().unwrap_or("").as_bytes(), field);
        (name, told(&answer, 60))
    };
    let url = |name: &str| Some(format!("http://10.0.77.1/{name}"));
    assert_eq!(
        file(&[(77, b"iPXE"), (93, &[0, 0])]),
        (url("boot.ipxe"), None)
    );
    assert_eq!(file(&[(93, &[0, 7])]), (Some("boot.efi".into()), None));
    let http = file(&[(93, &[0, 16]), (60, b"HTTPClient:Arch:00016")]);
    assert_eq!(http, (url("boot.efi"), Some(b"HTTPClient".to_vec())));
    // There is no boot.0.
    assert_eq!(file(&[(93, &[0, 0])]), (None, None));
    assert_eq!(file(&[]), (None, None));
}

#[test]
fn dhcp_survives_what_guests_send() {
    let (_dir, files) = served(&[]);
    let mut dhcp = dhcp();
    let whole = ask(1, 1, &[(77, b"iPXE"), (93, &[0, 7])]);
    for len in 0..whole.len() {
        let _any = dhcp.answer(&whole[..len], &files);
    }
    // A reply, another hardware, a relay, no cookie, an option that is longer than the message.
    for (at, value) in [(0, 2), (1, 6), (2, 7), (24, 1), (236, 0)] {
        let mut bad = whole.clone();
        bad[at] = value;
        assert_eq!(dhcp.answer(&bad, &files), None);
    }
    let mut bad = whole.clone();
    bad[244] = 200;
    assert_eq!(dhcp.answer(&bad, &files), None);
    // Addresses end.
    let answers = (0..=255).filter(|mac| dhcp.answer(&ask(1, *mac, &[]), &files).is_some());
    assert_eq!(answers.count(), 100);
    assert!(dhcp.answer(&ask(1, 1, &[]), &files).is_some());
}

const CLIENT: IpEndpoint = IpEndpoint {
    addr: IpAddress::v4(10, 0, 77, 100),
    port: 2000,
};

/// A request to read: its words, each with a bar behind it.
fn read(words: &str) -> Vec<u8> {
    [&[0, 1], words.replace('|', "\0").as_bytes()].concat()
}

/// Takes a file as a client does: its blocks are acknowledged one by one.
fn take(tftp: &mut Tftp, files: &BootDir, request: &[u8]) -> (Vec<u8>, usize) {
    let mut answer = tftp.answer(request, CLIENT, files, Instant::ZERO);
    let (mut data, mut blocks) = (Vec::new(), 0);
    while let Some(message) = answer {
        let number = match message[..2] {
            [0, 6] => [0, 0],
            [0, 3] => {
                data.extend_from_slice(&message[4..]);
                blocks += 1;
                [message[2], message[3]]
            }
            _ => panic!("{message:?}"),
        };
        let ack = [0, 4, number[0], number[1]];
        answer = tftp.answer(&ack, CLIENT, files, Instant::ZERO);
    }
    (data, blocks)
}

#[test]
fn tftp_gives_files_in_blocks() {
    let big: Vec<u8> = (0..70_000u32 * 8).map(|i| (i / 8 % 251) as u8).collect();
    let (_dir, files) = served(&[("a/b", &[7; 1024]), ("empty", b""), ("big", &big)]);
    let mut tftp = Tftp::default();
    // A file of whole blocks ends with an empty one.
    let (data, blocks) = take(&mut tftp, &files, &read("a/b|octet|"));
    assert_eq!((data, blocks), (vec![7; 1024], 3));
    assert_eq!(take(&mut tftp, &files, &read("/empty|OCTET|")), (vec![], 1));
    // More blocks than their number can count.
    let (data, blocks) = take(&mut tftp, &files, &read("big|octet|blksize|8|"));
    assert_eq!(blocks, 70_001);
    assert!(data == big);
    let request = read("a/b|octet|blksize|9000|tsize|0|windowsize|4|");
    let options = tftp
        .answer(&request, CLIENT, &files, Instant::ZERO)
        .unwrap();
    assert_eq!(options[..2], [0, 6]);
    let options = String::from_utf8(options[2..].to_vec()).unwrap();
    assert_eq!(options.replace('\0', "|"), "blksize|1468|tsize|1024|");
    assert_eq!(take(&mut tftp, &files, &request), (vec![7; 1024], 1));
}

#[test]
fn tftp_refuses_and_survives() {
    let (dir, files) = served(&[("f", &[1; 600])]);
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
    let mut tftp = Tftp::default();
    let mut code = |request: &[u8]| {
        let answer = tftp.answer(request, CLIENT, &files, Instant::ZERO)?;
        (answer[1] == 5).then(|| answer[3])
    };
    assert_eq!(code(&read("nothing|octet|")), Some(1));
    for name in [
        "../etc/hostname",
        "..",
        "",
        "link",
        ".",
        "a\u{e9}",
        ".hidden",
    ] {
        let request = read(&format!("{name}|octet|"));
        assert_eq!(code(&request), Some(2), "{name}");
    }
    assert_eq!(code(&read(&format!("{}|octet|", "n".repeat(400)))), Some(2));
    assert_eq!(code(&read("f|netascii|")), Some(4));
    assert_eq!(code(&[0, 2, b'f', 0]), Some(2));
    assert_eq!(code(&[0, 9]), Some(4));
    assert_eq!(code(&read("f|octet|")), None);
    let whole = read("f|octet|blksize|1000|");
    for len in 0..whole.len() {
        let _any = tftp.answer(&whole[..len], CLIENT, &files, Instant::ZERO);
    }
    // An answer to another block, or of somebody else, moves nothing.
    let first = tftp.answer(&read("f|octet|"), CLIENT, &files, Instant::ZERO);
    assert_eq!(first.unwrap()[..4], [0, 3, 0, 1]);
    let other = IpEndpoint { port: 9, ..CLIENT };
    assert_eq!(
        tftp.answer(&[0, 4, 0, 0], CLIENT, &files, Instant::ZERO),
        None
    );
    assert_eq!(
        tftp.answer(&[0, 4, 0, 1], other, &files, Instant::ZERO),
        None
    );
    assert!(tftp
        .answer(&[0, 4, 0, 1], CLIENT, &files, Instant::ZERO)
        .is_some());
    // A file that has become shorter ends the transfer with an error.
    let _ = tftp.answer(&read("f|octet|"), CLIENT, &files, Instant::ZERO);
    fs::write(dir.path().join("f"), b"x").unwrap();
    let error = tftp
        .answer(&[0, 4, 0, 1], CLIENT, &files, Instant::ZERO)
        .unwrap();
    assert_eq!(error[1], 5);
    // Many clients: what they hold stays bounded.
    for port in 1..200 {
        let client = IpEndpoint { port, ..CLIENT };
        tftp.answer(&read("f|octet|tsize|0|"), client, &files, Instant::ZERO);
    }
    assert_eq!(tftp.len(), 16);
}

#[test]
fn a_lost_block_is_sent_again_a_few_times() {
    let (_dir, files) = served(&[("f", &[1; 600])]);
    let mut tftp = Tftp::default();
    let mut socket = listening(tftp::PORT);
    let _ = tftp.answer(&read("f|octet|"), CLIENT, &files, Instant::ZERO);
    let second = |n: i64| Instant::from_millis(1000 * n);
    assert_eq!(tftp.idle_for(Instant::ZERO), Some(Duration::from_secs(1)));
    assert!(!tftp.run(&mut socket, &files, Instant::from_millis(999), 8));
    assert_eq!(socket.send_queue(), 0);
    for n in 1..=5 {
        tftp.run(&mut socket, &files, second(n), 8);
        assert_eq!(socket.send_queue(), usize::try_from(n).unwrap() * 516);
    }
    tftp.run(&mut socket, &files, second(6), 8);
    assert_eq!((tftp.len(), tftp.idle_for(second(6))), (0, None));
}
