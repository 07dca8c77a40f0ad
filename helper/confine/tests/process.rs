// SPDX-License-Identifier: GPL-2.0-or-later
//! User, capabilities and paths, each given up in a process of its own: this test program again.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use helper_confine::files::{restrict, Restricted};
use helper_confine::privileges::{give_up, one_thread};
use helper_confine::user::User;

const DIR: &str = "CONFINE_TEST_DIR";
/// Numbers that need no account.
const USER: &str = "4000001:4000002";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs one of the tests below with a directory to work in.
fn again(test: &str, dir: &Path) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(DIR, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{test}: {text}{error}");
    assert!(text.contains("1 passed"), "{test}: {text}{error}");
}

/// The directory, in the process that [`again`] starts.
fn own_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(DIR).map(Into::into)
}

fn status(key: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap()
        .trim_start_matches(':')
        .trim()
        .replace('\t', " ")
}

#[test]
fn as_another_user() {
    let Some(dir) = own_dir() else {
        if is_root() {
            again("as_another_user", tempfile::tempdir().unwrap().path());
        }
        return;
    };
    let secret = dir.join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let user: User = USER.parse().unwrap();
    give_up(Some(&user)).unwrap();
    let four = |id: u32| {
        [
            id.to_string(),
            id.to_string(),
            id.to_string(),
            id.to_string(),
        ]
        .join(" ")
    };
    assert_eq!(status("Uid"), four(user.uid));
    assert_eq!(status("Gid"), four(user.gid));
    assert_eq!(status("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    assert_eq!(status("NoNewPrivs"), "1");
    assert!(File::open(&secret).is_err());
    // What a proof is looked at with, though /proc/self belongs to root now.
    let file = File::open("/dev/null").unwrap();
    let own = Path::new("/proc/self");
    let fd = file.as_raw_fd().to_string();
    let link = fs::read_link(own.join("fd").join(&fd)).unwrap();
    assert_eq!(link, Path::new("/dev/null"));
    let info = fs::read_to_string(own.join("fdinfo").join(&fd)).unwrap();
    assert!(info.contains("flags:"), "{info}");
}

#[test]
fn without_another_user() {
    let Some(_) = own_dir() else {
        return again("without_another_user", tempfile::tempdir().unwrap().path());
    };
    let uid = status("Uid");
    // That of the test harness.
    assert!(one_thread().is_err());
    give_up(None).unwrap();
    assert_eq!(status("Uid"), uid);
    assert_eq!(status("CapEff"), "0000000000000000");
    assert_eq!(status("NoNewPrivs"), "1");
}

#[test]
fn paths() {
    let Some(dir) = own_dir() else {
        return again("paths", tempfile::tempdir().unwrap().path());
    };
    let (run, other) = (dir.join("run"), dir.join("other"));
    for dir in [&run, &other] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), "").unwrap();
    }
    let open = File::open(other.join("file")).unwrap();
    let read = [Path::new("/proc"), Path::new("/nonexistent")];
    if restrict(&read, &run).unwrap() == Restricted::Not {
        println!("This kernel has no Landlock.");
        return;
    }
    assert!(File::open(run.join("file")).is_err());
    assert!(File::open(other.join("file")).is_err());
    assert!(File::create(run.join("new")).is_err());
    assert!(fs::remove_file(other.join("file")).is_err());
    assert!(fs::read_dir(&other).is_err());
    fs::remove_file(run.join("file")).unwrap();
    assert!(File::open("/proc/self/status").is_ok());
    assert!(fs::read_link("/proc/self/exe").is_ok());
    assert!(fs::symlink_metadata(other.join("file")).is_ok());
    assert_eq!(open.metadata().unwrap().len(), 0);
}

#[test]
fn a_directory_is_tried_as_the_user() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let user: User = USER.parse().unwrap();
    let path = dir.path().join("run");
    fs::create_dir(&path).unwrap();
    let can = || user.can_remove_from(&path).unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    assert!(!can(), "it is root's");
    std::os::unix::fs::chown(&path, Some(user.uid), None).unwrap();
    assert!(can(), "it is the user's");
    mode(dir.path(), 0o700);
    assert!(!can(), "it cannot be reached");
    mode(dir.path(), 0o755);
    std::os::unix::fs::chown(&path, Some(0), Some(user.gid)).unwrap();
    mode(&path, 0o775);
    assert!(can(), "it is the group's");
    mode(&path, 0o1777);
    assert!(!can(), "files in it are only for their owners to remove");
    assert!(is_root(), "root again");
    assert!(File::create(dir.path().join("new")).is_ok());
}
