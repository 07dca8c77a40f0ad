// SPDX-License-Identifier: GPL-2.0-or-later
//! Console: text both ways through hvc0 and through a port with a name, compared by digest.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{anyhow, ensure, Context, Result};

use super::place::{Place, LONG, SHORT};
use test_kit::digest;

/// hvc0 takes 16 characters at a time.
const HVC_BYTES: usize = 64 << 10;
const PORT_BYTES: usize = 2 << 20;

pub(crate) fn work(place: &mut Place<'_>) -> Result<String> {
    let ports = place.guest("ports", SHORT)?;
    ensure!(ports.get("hvc")? == "1", "no hvc0: {}", ports.text());
    let named = ports.get("port")?;
    let port = named
        .strip_suffix(":vlvf.1")
        .with_context(|| format!("no port vlvf.1: {}", ports.text()))?;
    let (rx, tx) = (place.number("rx_bytes")?, place.number("tx_bytes")?);
    let mut figures = Vec::new();
    for (name, socket, bytes) in [
        ("hvc0", "vf1.console", HVC_BYTES),
        (port, "vf1.port1", PORT_BYTES),
    ] {
        figures.push(exchange(place, name, socket, bytes).with_context(|| name.to_owned())?);
    }
    let all = (HVC_BYTES + PORT_BYTES) as u64;
    let (rx, tx) = (
        place.number("rx_bytes")? - rx,
        place.number("tx_bytes")? - tx,
    );
    ensure!(
        rx == all && tx == all,
        "the simulator counted {rx} bytes in and {tx} out, not {all}"
    );
    ensure!(place.number("tx_lost")? == 0, "output was lost");
    Ok(figures.join(", "))
}

/// The guest sends, then the host; each compares what came with what the other says it sent.
fn exchange(place: &mut Place<'_>, name: &str, socket: &str, bytes: usize) -> Result<String> {
    let path = place.dir()?.join(socket);
    let mut host = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    host.set_read_timeout(Some(LONG))?;
    host.set_write_timeout(Some(LONG))?;
    let text: Vec<u8> = (0..bytes)
        .map(|n| match n % 64 {
            63 => b'\n',
            at => b'!' + ((n / 64 + at) % 90) as u8,
        })
        .collect();
    let text_digest = digest::of_bytes(&text);
    let other_end = thread::spawn(move || -> Result<Vec<u8>> {
        let mut got = vec![0; bytes];
        host.read_exact(&mut got).context("the guest's text")?;
        host.write_all(&text).context("the host's text")?;
        Ok(got)
    });
    let answer = place.guest(&format!("port {name} {bytes}"), LONG)?;
    let got = other_end
        .join()
        .map_err(|_| anyhow!("a thread panicked"))??;
    for (what, sent, arrived) in [
        ("out", answer.get("out_sha256")?, &digest::of_bytes(&got)),
        ("in", &text_digest, &answer.get("in_sha256")?.to_owned()),
    ] {
        ensure!(
            sent == arrived,
            "{what}: {sent} was sent and {arrived} arrived"
        );
    }
    Ok(format!(
        "{name} {} KiB out in {} ms, in in {} ms",
        bytes >> 10,
        answer.get("out_ms")?,
        answer.get("in_ms")?
    ))
}
