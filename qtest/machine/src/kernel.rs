// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel, unpacked: an emulated CPU takes several seconds to unpack it at every boot, this
//! machine takes half a second once. QEMU boots the plain ELF image by its PVH entry.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};
use virtio_pci_spec::bytes::{get_u16, get_u32, get_u8};

use test_kit::steps::Step;

/// Offsets in a bzImage (Linux's x86 boot protocol).
mod offset {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}
const MAGIC: &[u8] = b"HdrS";
/// The first version of the protocol that tells where the payload is.
const OLDEST: u16 = 0x0208;
const SECTOR: usize = 512;

/// Unpacks the kernel in `image` into `out`.
///
/// # Errors
/// When the image is not laid out as expected, or packed in a way that cannot be undone here.
pub(crate) fn unpack(step: &Step, image: &Path, out: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).with_context(|| format!("{} is no bzImage", image.display()))?;
    let packer = packer(payload).context("the kernel is packed with neither xz nor zstd")?;
    // Behind the stream there is the unpacked length, which would be taken for a second stream.
    let stream = payload.get(..payload.len().saturating_sub(4));
    let packed = out.with_extension("packed");
    fs::write(&packed, stream.unwrap_or_default())?;
    step.write(&format!("unpacking the kernel with {packer}"))?;
    let status = Command::new(packer)
        .args(["--decompress", "--stdout"])
        .stdin(File::open(&packed)?)
        .stdout(File::create(out)?)
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {packer}"))?;
    let _ = fs::remove_file(&packed);
    ensure!(status.success(), "{packer}: {status}");
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut File::open(out)?, &mut magic)?;
    ensure!(&magic == b"\x7fELF", "the unpacked kernel is no ELF file");
    Ok(())
}

/// The program that unpacks this.
fn packer(payload: &[u8]) -> Option<&'static str> {
    [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (&b"\x28\xb5\x2f\xfd"[..], "zstd"),
    ]
    .into_iter()
    .find_map(|(magic, program)| payload.starts_with(magic).then_some(program))
}

/// The packed kernel inside a bzImage; `None` if it is none.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(offset::MAGIC..)?.get(..MAGIC.len())? != MAGIC
        || get_u16(image, offset::VERSION)? < OLDEST
    {
        return None;
    }
    let setup = (usize::from(get_u8(image, offset::SETUP_SECTORS)?) + 1) * SECTOR;
    let start = setup.checked_add(get_u32(image, offset::PAYLOAD)? as usize)?;
    let length = get_u32(image, offset::PAYLOAD_LENGTH)? as usize;
    image.get(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR];
        image[offset::SETUP_SECTORS] = 1;
        image[offset::MAGIC..offset::MAGIC + 4].copy_from_slice(MAGIC);
        image[offset::VERSION..offset::VERSION + 2].copy_from_slice(&OLDEST.to_le_bytes());
        image[offset::PAYLOAD..offset::PAYLOAD + 4].copy_from_slice(&10u32.to_le_bytes());
        image[offset::PAYLOAD_LENGTH..offset::PAYLOAD_LENGTH + 4]
            .copy_from_slice(&5u32.to_le_bytes());
        image[2 * SECTOR + 10..2 * SECTOR + 15].copy_from_slice(b"hello");
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        assert_eq!(payload(&image()), Some(&b"hello"[..]));
    }

    #[test]
    fn the_packer_is_known_by_its_magic() {
        assert_eq!(packer(b"\xfd7zXZ\0..."), Some("xz"));
        assert_eq!(packer(b"\x28\xb5\x2f\xfd"), Some("zstd"));
        assert_eq!(packer(b"\x1f\x8b"), None);
        assert_eq!(packer(b""), None);
    }

    #[test]
    fn what_is_no_image_has_no_payload() {
        let mut old = image();
        old[offset::VERSION] = 7;
        assert_eq!(payload(&old), None);
        let mut far = image();
        far[offset::PAYLOAD + 3] = 0xff;
        assert_eq!(payload(&far), None);
        let whole = image();
        for len in 0..2 * SECTOR + 15 {
            assert_eq!(payload(&whole[..len]), None, "cut to {len}");
        }
    }
}
