// SPDX-License-Identifier: GPL-2.0-or-later
//! The memory balloon behind the model: a legacy driver of VF 1.

use super::*;
use crate::effect::FunctionId;
use crate::testing::{Buffer, Driver, DriverRing, LegacyVf, MODERN_FEATURES};

const VF: FunctionId = FunctionId::Vf(1);

struct Balloon {
    vf: LegacyVf,
    rings: [DriverRing; 3],
    first_page: u32,
}

impl Balloon {
    fn start(accepted: u32) -> Self {
        let model = model(
            ModelConfig::new(DeviceType::Balloon, 1),
            &BalloonSettings::default(),
        );
        let mut vf = LegacyVf::start(model.unwrap(), 1);
        vf.negotiate(accepted);
        let rings = [vf.queue(INFLATE), vf.queue(DEFLATE), vf.queue(STATS)];
        vf.driver_ok();
        let first_page = (vf.memory.alloc(64 * PAGE, PAGE) / PAGE) as u32;
        Self {
            vf,
            rings,
            first_page,
        }
    }

    /// Sends one buffer and expects it back with nothing written.
    fn send(&mut self, queue: u16, bytes: &[u8]) {
        let pieces = self.vf.readable(&[bytes]);
        let ring = &mut self.rings[usize::from(queue)];
        ring.add(&pieces);
        self.vf.kick(queue);
        // The driver looks at nothing but that its buffer is back.
        assert_eq!(ring.poll().map(|(_, len)| len), Some(0));
    }

    fn pages(&mut self, queue: u16, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|p| p.to_le_bytes()).collect();
        self.send(queue, &bytes);
    }
}

// Covers: BAL-01, BAL-06
#[test]
fn pages_go_in_and_come_out_one_by_one() {
    // A legacy driver that knows nothing of MUST_TELL_HOST and of statistics.
    let mut b = Balloon::start(0);
    let p = b.first_page;
    b.pages(INFLATE, &[p, p + 1, p + 5, p + 40]);
    assert_eq!((b.vf.number("pages"), b.vf.number("inflated")), (4, 4));
    b.pages(DEFLATE, &[p + 5, p]);
    assert_eq!((b.vf.number("pages"), b.vf.number("deflated")), (2, 2));
    // It may use a page again before it tells, and give it away again after that.
    b.pages(INFLATE, &[p]);
    assert_eq!(b.vf.number("pages"), 3);
    let violations = &b.vf.model.counters().violations;
    assert!(!violations.keys().any(|name| name.starts_with("balloon")));
}

// Covers: BAL-01
#[test]
fn drivers_that_miscount_are_found_out() {
    let mut b = Balloon::start(0);
    let p = b.first_page;
    b.pages(INFLATE, &[p, p, p + 1]);
    assert_eq!(b.vf.violations("balloon_page_given_twice"), 1);
    b.pages(DEFLATE, &[p + 2]);
    assert_eq!(b.vf.violations("balloon_page_never_given"), 1);
    // No memory of the guest.
    b.pages(INFLATE, &[3, u32::MAX]);
    assert_eq!(b.vf.violations("balloon_page_unreachable"), 2);
    b.send(INFLATE, &[1, 2, 3]);
    assert_eq!(b.vf.violations("balloon_buffer_length"), 1);
    assert_eq!(b.vf.number("pages"), 2);
    let counters = b.vf.model.function_counters(VF).unwrap();
    assert_eq!(counters.needs_reset, 0);
}

#[test]
fn a_driver_with_very_many_pages_does_not_keep_the_others_waiting() {
    let mut b = Balloon::start(0);
    let base = b.vf.memory.alloc(64 * PAGE, PAGE) / PAGE;
    // The same pages again and again, in buffers as large as they may be.
    let bytes: Vec<u8> = (0..65536u32)
        .flat_map(|n| (base as u32 + n % 64).to_le_bytes())
        .collect();
    for _ in 0..4 {
        let pieces = b.vf.readable(&[&bytes]);
        b.rings[0].add(&pieces);
    }
    b.vf.kick(INFLATE);
    for served in 1..=4 {
        // One buffer's worth in a turn; notifications make no more of it than that.
        assert_eq!(b.rings[0].used_idx(), served);
        let now = b.vf.model.next_deadline();
        if served < 4 {
            b.vf.model.tick(now.expect("it goes on by itself"));
        }
    }
    assert_eq!(b.vf.number("pages"), 64);
    // The mistakes of a buffer are noted, but not each of sixty thousand.
    assert_eq!(b.vf.violations("balloon_page_given_twice"), 4 * 8);
}

#[test]
fn a_buffer_of_many_pages_is_read_to_its_end() {
    let mut b = Balloon::start(0);
    let base = b.vf.memory.alloc(3000 * PAGE, PAGE) / PAGE;
    let pages: Vec<u32> = (0..3000).map(|n| base as u32 + n).collect();
    b.pages(INFLATE, &pages);
    assert_eq!(b.vf.number("pages"), 3000);
    b.pages(DEFLATE, &pages);
    assert_eq!(b.vf.number("pages"), 0);
}

// Covers: BAL-02
#[test]
fn the_driver_is_asked_through_the_configuration() {
    let mut b = Balloon::start(0);
    b.vf.isr();
    let ask = DeviceControl::Balloon { pages: 0x0001_0203 };
    b.vf.model.control(VF, &ask).unwrap();
    assert_eq!(b.vf.isr() & 2, 2);
    assert_eq!(b.vf.config(0, 4), 0x0001_0203);
    let bytes: Vec<u64> = (0..4).map(|at| b.vf.config(at, 1)).collect();
    assert_eq!(bytes, [3, 2, 1, 0]);
    let wrong = DeviceControl::Link { up: true };
    assert_eq!(
        b.vf.model.control(VF, &wrong),
        Err(ControlError::NotSupported("balloon"))
    );
}

// Covers: BAL-02, BAL-03
#[test]
fn actual_counts_when_its_last_byte_is_there() {
    let mut b = Balloon::start(0);
    for (at, byte) in [(4u8, 0x44), (5, 0x33), (6, 0x22)] {
        b.vf.set_config(at, &[byte]);
        assert_eq!(b.vf.number("actual"), 0, "after byte {at}");
    }
    assert_eq!(b.vf.config(4, 4), 0x0022_3344);
    b.vf.set_config(7, &[0x11]);
    assert_eq!(b.vf.number("actual"), 0x1122_3344);
    b.vf.set_config(4, &[0xff]);
    assert_eq!(b.vf.number("actual"), 0x1122_3344);
    b.vf.set_config(4, &5u32.to_le_bytes());
    assert_eq!((b.vf.number("actual"), b.vf.config(4, 4)), (5, 5));
    // num_pages is the device's.
    b.vf.set_config(0, &7u32.to_le_bytes());
    assert_eq!(
        (b.vf.config(0, 4), b.vf.violations("read_only_field")),
        (0, 1)
    );
    b.vf.set_config(12, &7u32.to_le_bytes());
    assert_eq!(b.vf.config(12, 4), 0);
    assert_eq!(b.vf.violations("balloon_poison_not_offered"), 1);
}

// Covers: BAL-05
#[test]
fn statistics_are_asked_for_and_the_first_buffer_is_ignored() {
    let mut b = Balloon::start(1 << 1);
    let stat = |value: u64| [&5u16.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let ask = DeviceControl::BalloonStats;
    assert!(matches!(
        b.vf.model.control(VF, &ask),
        Err(ControlError::Refused(_))
    ));
    for value in [111, 222, 333] {
        let pieces = b.vf.readable(&[&stat(value)]);
        b.rings[2].add(&pieces);
        b.vf.kick(STATS);
        // The device keeps the buffer until it wants new numbers.
        assert_eq!(b.rings[2].poll(), None);
        let shown = b.vf.model.device_numbers(VF);
        let total = shown.iter().find(|(n, _)| *n == "stat_total_memory");
        let want = (value != 111).then_some(("stat_total_memory", value));
        assert_eq!(total.copied(), want);
        b.vf.model.control(VF, &ask).unwrap();
        assert_eq!(b.rings[2].poll().map(|(_, len)| len), Some(0));
    }
    assert_eq!(b.vf.number("stats_updates"), 2);
    // Two at once are one too many; neither is lost.
    let pieces = b.vf.readable(&[&stat(1)]);
    b.rings[2].add(&pieces);
    b.rings[2].add(&pieces);
    b.vf.kick(STATS);
    assert_eq!(b.vf.violations("balloon_stats_buffers"), 1);
    assert!(b.rings[2].poll().is_some() && b.rings[2].poll().is_none());
}

// Covers: BAL-05
#[test]
fn a_first_statistics_buffer_may_come_before_driver_ok() {
    let mut b = Balloon::start(0);
    let m = &mut b.vf.model;
    let d = Driver::new(m, VF, &b.vf.memory);
    assert!(d.negotiate(m, MODERN_FEATURES | 1 << 1));
    let mut rings = [INFLATE, DEFLATE, STATS].map(|queue| d.queue(m, queue, 0xffff));
    // As Linux does it: the buffer, its notification, and only then DRIVER_OK.
    let at = d.memory.alloc(10, 2);
    d.memory.put(at, &[5, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    let stats = Buffer::readable(at, 10);
    rings[2].add(&[stats]);
    d.kick(m, STATS);
    let ask = DeviceControl::BalloonStats;
    assert!(matches!(m.control(VF, &ask), Err(ControlError::Refused(_))));
    d.driver_ok(m);
    m.control(VF, &ask).unwrap();
    assert!(rings[2].poll().is_some());
    rings[2].add(&[stats]);
    d.kick(m, STATS);
    let all = m.device_numbers(VF);
    assert!(all.contains(&("stats_updates", 1)) && all.contains(&("stat_total_memory", 9)));
    assert_eq!(m.counters().violation("notify_before_driver_ok"), 1);
}

#[test]
fn a_reset_empties_the_balloon_and_keeps_the_wish() {
    let mut b = Balloon::start(1 << 1);
    let ask = DeviceControl::Balloon { pages: 3 };
    b.vf.model.control(VF, &ask).unwrap();
    let p = b.first_page;
    b.pages(INFLATE, &[p, p + 1, p + 2]);
    b.vf.set_config(4, &3u32.to_le_bytes());
    let pieces = b.vf.readable(&[&[0; 10]]);
    b.rings[2].add(&pieces);
    b.vf.kick(STATS);
    b.vf.set_status(0);
    assert_eq!((b.vf.number("pages"), b.vf.number("actual")), (0, 0));
    assert_eq!((b.vf.config(0, 4), b.vf.config(4, 4)), (3, 0));
    // The buffer of before the reset is gone.
    assert!(b
        .vf
        .model
        .control(VF, &DeviceControl::BalloonStats)
        .is_err());
    let counters = b.vf.model.function_counters(VF).unwrap();
    assert_eq!(counters.dma_forbidden, 0);
}
