//! One broken certificate among many: the others are renewed, it stays as it was and is named.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::support::{Edge, Origin, Setup, pattern};

/// Beside the broken one.
const OTHERS: usize = 199;

/// Renews all, breaks the certificate of `a.test` with what `break_it` does in its folder, reloads,
/// and mends it again.
#[track_caller]
fn check(edge: &Edge, what: &str, told: &str, break_it: impl FnOnce(&Path)) {
    let old = edge.connect("a.test").certificate();
    let renewed = edge.connect("b.test").certificate();
    edge.issue("b.test");
    for number in 1..OTHERS {
        edge.issue(&other(number));
    }
    let folder = edge.folder().join("certs/a.test");
    break_it(&folder);
    let (code, report) = edge.command("reload");
    assert_eq!(code, 3, "{what}: {report}");
    assert!(
        report.contains("kept at its last good version: certificate a.test\n"),
        "{what}: {report}"
    );
    assert!(report.contains(told), "{what}: {report}");
    let changed = report.lines().find(|line| line.starts_with("certificates changed: "));
    // Twenty are named.
    let rest = format!(" and {} more", OTHERS - 20);
    assert!(changed.is_some_and(|line| line.ends_with(&rest)), "{what}: {report}");
    assert_eq!(edge.connect("a.test").certificate(), old, "{what}");
    assert_ne!(edge.connect("b.test").certificate(), renewed, "{what}");
    assert_eq!(edge.metric("sluss_certificates_kept", &[]), 1.0, "{what}");
    // A link in the place of the folder goes; a folder goes with all that is in it.
    if folder.is_symlink() {
        fs::remove_file(&folder).unwrap();
    } else {
        fs::remove_dir_all(&folder).unwrap();
    }
    edge.issue("a.test");
    assert_eq!(edge.command("reload").0, 0, "{what}: mended");
}

fn other(number: usize) -> String {
    format!("c{number}.test")
}

/// Root may read what nobody may: binds the programs that this thread starts from now on by files'
/// modes, as other users are. Says whether they are.
fn bound_by_modes() -> bool {
    let both = [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH];
    !geteuid().is_root()
        || both.into_iter().all(|one| remove_capability_from_bounding_set(one).is_ok())
}

#[test]
fn one_broken_certificate_among_two_hundred_holds_up_no_other() {
    let origin = Origin::echo();
    let setup = Setup::default().site("a.test", origin.url()).site("b.test", origin.url());
    for number in 1..OTHERS {
        setup.issue(&other(number), &[&other(number)]);
    }
    // Programs get the capabilities of the thread that starts them.
    let starting = thread::spawn(|| (bound_by_modes(), setup.start()));
    let (modes_bind, edge) = starting.join().unwrap();
    check(&edge, "cut", "is cut", |folder| {
        let chain = fs::read(folder.join("fullchain.pem")).unwrap();
        fs::write(folder.join("fullchain.pem"), &chain[..chain.len() / 2]).unwrap();
    });
    check(&edge, "another's key", "does not belong to the certificate", |folder| {
        fs::copy(folder.with_file_name("b.test/privkey.pem"), folder.join("privkey.pem")).unwrap();
    });
    check(&edge, "empty", "is empty", |folder| {
        fs::write(folder.join("fullchain.pem"), "").unwrap();
    });
    check(&edge, "garbage", "has 10485760 bytes", |folder| {
        fs::write(folder.join("fullchain.pem"), pattern(10 << 20)).unwrap();
    });
    check(&edge, "a link to itself", "Too many levels of symbolic links", |folder| {
        fs::remove_file(folder.join("fullchain.pem")).unwrap();
        symlink("fullchain.pem", folder.join("fullchain.pem")).unwrap();
    });
    check(
        &edge,
        "a folder that is a link to itself",
        "Too many levels of symbolic links",
        |folder| {
            fs::remove_dir_all(folder).unwrap();
            symlink("a.test", folder).unwrap();
        },
    );
    let expired = "has expired, and the certificate that it would replace has not";
    check(&edge, "expired", expired, |_| edge.issue_until("a.test", -1));
    if modes_bind {
        check(&edge, "unreadable", "Permission denied", |folder| {
            fs::set_permissions(folder.join("privkey.pem"), Permissions::from_mode(0o000)).unwrap();
        });
    }
}
