// SPDX-License-Identifier: GPL-2.0-or-later
//! What the command line means, and what is refused.

use super::*;
use clap::Parser;

fn config(extra: &[&str]) -> Result<ServeConfig, String> {
    let base = [
        "helper",
        "--pf-socket",
        "/a",
        "--vfs",
        "4",
        "--socket",
        "/b",
    ];
    let args =
        crate::args::Args::try_parse_from(base.iter().chain(extra)).map_err(|e| e.to_string())?;
    ServeConfig::try_from(args.serve).map_err(|e| e.to_string())
}

#[test]
fn the_argument_parser_is_consistent() {
    use clap::CommandFactory;
    crate::args::Args::command().debug_assert();
}

#[test]
fn defaults_are_the_documented_ones() {
    let c = config(&[]).unwrap();
    assert_eq!(c.pf.vfs, 4);
    assert_eq!(c.pf.command_timeout, Duration::from_secs(2));
    assert_eq!(c.pf.retry, RetryPolicy::default());
    assert_eq!(c.pf.existing_vfs, ExistingVfs::RequireSame);
    assert_eq!(c.socket.mode, 0o660);
    assert_eq!((c.socket.owner, c.socket.group), (None, None));
    assert_eq!(c.hub.policy, Policy::own_user());
    assert_eq!(c.hub.max_unopened, 64);
}

#[test]
fn a_pf_of_the_host_needs_no_more_than_its_address() {
    let of = |extra: &[&str]| {
        let args = ["helper", "--pf", "03:00.0"];
        let args = crate::args::Args::try_parse_from(args.iter().chain(extra)).unwrap();
        ServeConfig::try_from(args.serve).unwrap()
    };
    let c = of(&[]);
    let PfSource::Vfio(pf) = &c.source else {
        panic!("{:?}", c.source)
    };
    assert_eq!(pf.address.to_string(), "0000:03:00.0");
    assert_eq!((pf.bind, pf.token, pf.vfs), (false, None, None));
    assert_eq!(
        c.socket.path.to_str(),
        Some("/run/qemu-virtio-admin/0000:03:00.0.sock")
    );
    assert!(c.hub.policy.unproven_uids.is_empty());
    let token = "14d63f20-8445-11ea-8900-1f9ce7d5650d";
    let c = of(&[
        "--vfs",
        "8",
        "--bind",
        "--vf-token",
        token,
        "--vfio-interface",
        "group",
        "--socket",
        "/b",
        "--allow-unproven-uid",
        "64055",
    ]);
    let PfSource::Vfio(pf) = &c.source else {
        panic!("{:?}", c.source)
    };
    assert_eq!((pf.bind, pf.vfs, c.pf.vfs), (true, Some(8), 8));
    assert_eq!(pf.token.unwrap().to_string(), token);
    assert_eq!(pf.interface, pci_transport::vfio::Interface::Group);
    assert_eq!(c.socket.path.to_str(), Some("/b"));
    assert_eq!(c.hub.policy.unproven_uids, [64055]);
}

#[test]
fn values_are_taken_over() {
    let c = config(&[
        "--allow-uid",
        "root",
        "--allow-uid",
        "64055",
        "--allow-gid",
        "107",
        "--socket-owner",
        "root",
        "--socket-group",
        "0",
        "--socket-mode",
        "600",
        "--command-timeout",
        "500ms",
        "--retry",
        "3",
        "--spin",
        "0us",
        "--existing-vfs",
        "adopt",
    ])
    .unwrap();
    assert!(c.hub.policy.uids.contains(&64055));
    assert_eq!(c.hub.policy.gids, [107]);
    assert_eq!((c.socket.owner, c.socket.group), (Some(0), Some(0)));
    assert_eq!(c.socket.mode, 0o600);
    assert_eq!(c.pf.command_timeout, Duration::from_millis(500));
    assert_eq!(c.pf.retry.max, 3);
    assert_eq!(c.spin, Duration::ZERO);
    assert_eq!(c.pf.existing_vfs, ExistingVfs::Adopt);
}

#[test]
fn each_wrong_value_is_named() {
    for (args, text) in [
        (
            &["--socket-mode", "0666"][..],
            "--socket-mode 0666: the owner must have",
        ),
        (
            &["--socket-mode", "0060"],
            "--socket-mode 0060: the owner must have",
        ),
        (
            &["--socket-mode", "rw"],
            "--socket-mode rw: not an octal mode",
        ),
        (
            &["--socket-mode", "10660"],
            "--socket-mode 10660: not an octal mode",
        ),
        (
            &["--command-timeout", "2"],
            "--command-timeout 2: not a time",
        ),
        (
            &["--command-timeout", "0s"],
            "--command-timeout 0s: must be 1ms to 10min",
        ),
        (
            &["--client-timeout", "11min"],
            "--client-timeout 11min: must be 1ms to 10min",
        ),
        (
            &["--retry-delay", "2s"],
            "--retry-delay 2s: must be at most 1s",
        ),
        (&["--spin", "1s"], "--spin 1s: must be at most 10ms"),
        (
            &["--queue-size", "100"],
            "queue size 100 is not a power of two",
        ),
        (
            &["--allow-uid", "no-such-user"],
            "--allow-uid no-such-user: no such user",
        ),
        (
            &["--socket-owner", "no-such-user"],
            "--socket-owner no-such-user: no such user",
        ),
        (
            &["--socket-group", "no-such"],
            "--socket-group no-such: no such group",
        ),
        (&["--allow-gid", "-5"], "unexpected argument"),
    ] {
        let got = config(args).unwrap_err();
        assert!(got.contains(text), "{args:?}: {got}");
    }
}
