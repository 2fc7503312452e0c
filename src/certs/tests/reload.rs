//! What a reload reads, keeps and drops.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::Duration;

use super::super::folder::Folder;
use super::super::load::load_at;
use super::super::{CertStore, Loaded};
use super::{Certs, issue, names, now, told};
use crate::identity::let_a_tick_pass;

fn counts(loaded: &Loaded) -> (usize, usize, usize, usize) {
    (loaded.added.len(), loaded.changed.len(), loaded.removed.len(), loaded.kept.len())
}

#[track_caller]
fn is_shared(old: &CertStore, new: &CertStore, name: &str) -> bool {
    Arc::ptr_eq(old.named(name).unwrap(), new.named(name).unwrap())
}

#[test]
fn only_what_changed_is_new_and_the_rest_is_shared() {
    let certs = Certs::new();
    for name in ["a", "b", "c"] {
        certs.put(name, &issue(&[&format!("{name}.example")]));
    }
    let first = certs.load(None);
    assert_eq!(counts(&first), (3, 0, 0, 0));
    certs.put("b", &issue(&["b.example"]));
    certs.put("d", &issue(&["d.example"]));
    fs::remove_dir_all(certs.path("c")).unwrap();
    let second = certs.load(Some(&first.store));
    assert_eq!(counts(&second), (1, 1, 1, 0));
    assert_eq!(names(&second.store), ["a", "b", "d"]);
    assert!(is_shared(&first.store, &second.store, "a"));
    assert!(!is_shared(&first.store, &second.store, "b"));
}

#[test]
fn an_expired_one_replaces_a_valid_one_only_once_that_has_expired_too() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let first = certs.load(None);
    let order = super::Order { days: -1, ..super::order(&["a.example"]) };
    certs.put("a", &super::AUTHORITY.issue(&order));
    let second = certs.load(Some(&first.store));
    assert_eq!(second.kept, ["a"]);
    let problems = told(&second, &certs);
    assert!(problems[0].contains("has expired, and the certificate that it"), "{problems:#?}");
    assert!(is_shared(&first.store, &second.store, "a"));
    let years_later = now() + 10 * 365 * 24 * 60 * 60;
    let third = load_at(&certs.settings, Some(&second.store), years_later);
    assert_eq!(counts(&third), (0, 1, 0, 0));
}

#[test]
fn one_that_is_not_valid_yet_replaces_a_valid_one_once_it_is() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let first = certs.load(None);
    let order = super::Order { begins: 10, ..super::order(&["a.example"]) };
    certs.put("a", &super::AUTHORITY.issue(&order));
    let second = certs.load(Some(&first.store));
    assert_eq!(second.kept, ["a"]);
    let problems = told(&second, &certs);
    assert!(problems[0].contains("is not valid yet, and the certificate that"), "{problems:#?}");
    assert!(is_shared(&first.store, &second.store, "a"));
    let third = load_at(&certs.settings, Some(&second.store), now() + 11 * 24 * 60 * 60);
    assert_eq!(counts(&third), (0, 1, 0, 0));
    // Where there is nothing better it is served, and told.
    assert_eq!(certs.load(None).store.all().len(), 1);
}

#[test]
fn equal_contents_under_another_identity_are_shared() {
    let certs = Certs::new();
    let issued = issue(&["a.example"]);
    certs.put("a", &issued);
    let first = certs.load(None);
    fs::remove_dir_all(certs.path("a")).unwrap();
    certs.put("a", &issued);
    let second = certs.load(Some(&first.store));
    assert_eq!(counts(&second), (0, 0, 0, 0));
    assert!(is_shared(&first.store, &second.store, "a"));
}

#[test]
fn a_settled_identity_spares_the_reading() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    // Long enough after the files were written for their identity to be proof.
    let first = load_at(&certs.settings, None, now() + 10);
    let second = load_at(&certs.settings, Some(&first.store), now() + 20);
    let entries = [&first, &second].map(|loaded| &loaded.store.catalogue.entries()[0]);
    assert!(Arc::ptr_eq(entries[0], entries[1]));
    // At once after they were written it is not: another write may follow in the same tick.
    let third = certs.load(None);
    let fourth = certs.load(Some(&third.store));
    let entries = [&third, &fourth].map(|loaded| &loaded.store.catalogue.entries()[0]);
    assert!(!Arc::ptr_eq(entries[0], entries[1]));
}

#[test]
fn a_folder_whose_names_stayed_is_not_listed_and_each_of_its_files_is_looked_at() {
    let certs = Certs::new();
    for name in ["a", "b", "d"] {
        certs.put(name, &issue(&[&format!("{name}.example")]));
    }
    certs.write("c/fullchain.pem", "");
    let mut last = certs.load(None);
    // Loads after a change; whether the names were those of the load before is compared.
    let mut check = |names_stay: bool, expected: (usize, usize, usize, usize), served: &[&str]| {
        let folder = Folder::open(&certs.settings.directory).unwrap();
        let listed = folder.listed();
        let stay = last.store.names.are_those_of(&certs.settings.directory, &listed);
        assert_eq!(stay, names_stay && listed.is_some());
        let mut new = certs.load(Some(&last.store));
        assert_eq!(counts(&new), expected);
        assert_eq!(names(&new.store), served);
        let_a_tick_pass();
        new.store.names.settle();
        last = new;
    };
    check(false, (0, 0, 0, 0), &["a", "b", "d"]);
    check(true, (0, 0, 0, 0), &["a", "b", "d"]);
    certs.put("a", &issue(&["a.example"]));
    certs.write("b/privkey.pem", "written in place");
    check(true, (0, 1, 0, 1), &["a", "b", "d"]);
    certs.put("c", &issue(&["c.example"]));
    check(true, (1, 0, 0, 1), &["a", "b", "c", "d"]);
    fs::rename(certs.path("a"), certs.path("e")).unwrap();
    check(false, (1, 0, 1, 1), &["b", "c", "d", "e"]);
    certs.put("b", &issue(&["b.example"]));
    check(true, (0, 1, 0, 0), &["b", "c", "d", "e"]);
}

#[test]
fn what_is_to_tell_is_told_of_entries_that_stay_too() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let order = super::Order { days: 10, ..super::order(&["b.example"]) };
    certs.put("b", &super::AUTHORITY.issue(&order));
    certs.put("c", &issue(&["c.example"]));
    fs::set_permissions(certs.path("c/privkey.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let later = |days: i64| now() + days * 24 * 60 * 60;
    let first = load_at(&certs.settings, None, later(1));
    let told_of = |loaded: &Loaded| {
        let told = told(loaded, &certs);
        told.iter().map(|told| told[..1].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told_of(&first), ["b", "c"]);
    let second = load_at(&certs.settings, Some(&first.store), later(2));
    assert_eq!(told_of(&second), ["b", "c"]);
    certs.put("b", &issue(&["b.example"]));
    certs.put("c", &issue(&["c.example"]));
    let third = load_at(&certs.settings, Some(&second.store), later(3));
    assert!(told_of(&third).is_empty());
    // All end after ninety days and a half.
    let fourth = load_at(&certs.settings, Some(&third.store), later(70));
    assert_eq!(told_of(&fourth), ["a", "b", "c"]);
    // A clock that was put back.
    let fifth = load_at(&certs.settings, Some(&fourth.store), later(-31));
    assert_eq!(told_of(&fifth), ["a", "b", "c"]);
    let sixth = load_at(&certs.settings, Some(&fifth.store), later(4));
    assert!(told_of(&sixth).is_empty());
}

#[test]
fn the_index_by_host_is_shared_until_a_name_or_a_host_moves() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example", "www.a.example"]));
    certs.put("b", &issue(&["b.example"]));
    let mut last = certs.load(None);
    let mut check = |is_shared: bool, hosts: [bool; 3]| {
        let new = certs.load(Some(&last.store));
        assert_eq!(new.store.has_hosts_of(&last.store), is_shared);
        let names = ["www.a.example", "b.example", "c.example"];
        assert_eq!(names.map(|name| new.store.has_certificate(Some(name))), hosts);
        last = new;
    };
    check(true, [true, true, false]);
    certs.put("a", &issue(&["a.example", "www.a.example"]));
    check(true, [true, true, false]);
    certs.write("b/fullchain.pem", "");
    check(true, [true, true, false]);
    certs.put("b", &issue(&["c.example"]));
    check(false, [true, false, true]);
    certs.put("c", &issue(&["b.example"]));
    check(false, [true, true, true]);
    fs::rename(certs.path("b"), certs.path("d")).unwrap();
    check(false, [true, true, true]);
    // Two for one host: which is used may change with the time alone.
    certs.put("e", &issue(&["c.example"]));
    check(false, [true, true, true]);
    check(false, [true, true, true]);
    fs::remove_dir_all(certs.path("e")).unwrap();
    check(false, [true, true, true]);
    check(true, [true, true, true]);
}

#[test]
fn a_half_written_pair_leaves_the_old_pair_until_both_match() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let first = certs.load(None);
    let renewed = issue(&["a.example"]);
    certs.write("a/fullchain.pem", renewed.chain());
    let second = certs.load(Some(&first.store));
    assert_eq!(counts(&second), (0, 0, 0, 1));
    assert_eq!(second.kept, ["a"]);
    assert!(is_shared(&first.store, &second.store, "a"));
    let problems = told(&second, &certs);
    assert!(problems[0].starts_with(
        "a/privkey.pem: the private key does not belong to the certificate; its last good version, valid until "
    ));
    certs.write("a/privkey.pem", &renewed.key);
    let third = certs.load(Some(&second.store));
    assert_eq!(counts(&third), (0, 1, 0, 0));
    assert!(third.problems.is_empty());
}

#[test]
fn a_certificate_broken_for_long_says_since_when() {
    let certs = Certs::new();
    let issued = issue(&["a.example"]);
    certs.put("a", &issued);
    let first = certs.load(None);
    certs.write("a/fullchain.pem", "");
    let broken_at = now() + 100;
    let second = load_at(&certs.settings, Some(&first.store), broken_at);
    let third = load_at(&certs.settings, Some(&second.store), broken_at + 5000);
    assert_eq!(third.store.kept().collect::<Vec<_>>(), [("a", broken_at)]);
    assert_eq!(third.store.expiry_counts(now()).kept, 1);
    assert!(third.store.summaries(now())[0].kept_since.is_some());
    // Mended with the very files it had before.
    certs.put("a", &issued);
    let fourth = certs.load(Some(&third.store));
    assert_eq!(counts(&fourth), (0, 0, 0, 0));
    assert_eq!(fourth.store.kept().count(), 0);
}

#[test]
fn a_bound_on_the_last_good_version_ends_it() {
    let mut certs = Certs::new();
    certs.settings.keep_last_good_for = Some(Duration::from_secs(1000));
    for name in ["a", "fallback"] {
        certs.put(name, &issue(&[&format!("{name}.example")]));
    }
    certs.settings.default = Some("fallback".into());
    let first = certs.load(None);
    certs.write("a/fullchain.pem", "");
    let served = |loaded: &Loaded| {
        let mut candidates = loaded.store.candidates(Some("a.example"));
        candidates.next().unwrap().name().to_owned()
    };
    let at = |seconds: i64| load_at(&certs.settings, Some(&first.store), now() + seconds);
    let within = at(0);
    assert_eq!((served(&within), within.kept.len()), ("a".into(), 1));
    assert!(told(&within, &certs)[0].contains(", is served until "));
    // Broken for a thousand seconds by now: it ends without another load.
    let over = at(-1000);
    assert_eq!((served(&over), over.kept.len()), ("fallback".into(), 1));
    assert!(over.store.named("a").is_none());
    // The next load says so, and has not forgotten since when.
    let after = load_at(&certs.settings, Some(&within.store), now() + 1000);
    assert_eq!((names(&after.store), after.kept.len()), (vec!["fallback"], 0));
    assert!(
        told(&after, &certs)[0]
            .starts_with("a/fullchain.pem: is empty; the certificate is not served")
    );
    // Mended, it is back.
    certs.put("a", &issue(&["a.example"]));
    assert_eq!(names(&certs.load(Some(&over.store)).store), ["a", "fallback"]);
}

#[test]
fn files_gone_from_a_folder_are_broken_but_a_folder_gone_is_removed() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    certs.put("b", &issue(&["b.example"]));
    let first = certs.load(None);
    for file in ["a/fullchain.pem", "a/privkey.pem"] {
        fs::remove_file(certs.path(file)).unwrap();
    }
    fs::remove_dir_all(certs.path("b")).unwrap();
    let second = certs.load(Some(&first.store));
    assert_eq!(counts(&second), (0, 0, 1, 1));
    assert_eq!(names(&second.store), ["a"]);
}

#[test]
fn a_folder_that_cannot_be_listed_keeps_everything() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let away = certs.settings.directory.with_file_name("away");
    let first = certs.load(None);
    fs::rename(&certs.settings.directory, &away).unwrap();
    let second = certs.load(Some(&first.store));
    fs::rename(&away, &certs.settings.directory).unwrap();
    assert_eq!(second.kept, ["a"]);
    assert!(second.store.has_certificate(Some("a.example")));
    let third = certs.load(Some(&second.store));
    assert!(third.kept.is_empty() && third.problems.is_empty());
}

#[test]
fn certbots_live_folder_works_as_it_stands() {
    let mut certs = Certs::new();
    let [old, new] = [issue(&["a.example"]), issue(&["a.example"])];
    for (number, issued) in [(1, &old), (2, &new)] {
        certs.write(&format!("archive/a.example/fullchain{number}.pem"), issued.chain());
        certs.write(&format!("archive/a.example/privkey{number}.pem"), &issued.key);
    }
    let live = certs.path("live/a.example");
    let point_to = |number: u32| {
        fs::create_dir_all(&live).unwrap();
        for file in ["fullchain", "privkey"] {
            let link = live.join(format!("{file}.pem"));
            let _ = fs::remove_file(&link);
            symlink(format!("../../archive/a.example/{file}{number}.pem"), link).unwrap();
        }
    };
    point_to(1);
    certs.write("live/README", "This directory contains your keys and certificates.");
    certs.settings.directory = certs.path("live");
    let first = load_at(&certs.settings, None, now() + 10);
    assert_eq!((names(&first.store), first.problems.len()), (vec!["a.example"], 0));
    point_to(2);
    let second = load_at(&certs.settings, Some(&first.store), now() + 20);
    assert_eq!(counts(&second), (0, 1, 0, 0));
}

#[test]
fn linked_folders_and_one_file_certificates_are_read() {
    let certs = Certs::new();
    let issued = issue(&["a.example"]);
    certs.put("../linked-elsewhere/a", &issued);
    symlink(certs.path("../linked-elsewhere/a"), certs.path("a")).unwrap();
    let other = issue(&["b.example"]);
    certs.write("b.pem", format!("{}{}", other.key, other.chain()).replace('\n', "\r\n"));
    let loaded = certs.load(None);
    assert_eq!((names(&loaded.store), loaded.problems.len()), (vec!["a", "b"], 0));
}

#[test]
fn summaries_are_sorted_by_expiry_and_name_no_secret() {
    let certs = Certs::new();
    for (name, days) in [("late", 80), ("expired", -1), ("urgent", 3), ("soon", 15)] {
        let order = super::Order { days, ..super::order(&["a.example", "*.a.example"]) };
        certs.put(name, &super::AUTHORITY.issue(&order));
    }
    let store = certs.load(None).store;
    let summaries = store.summaries(now());
    let order: Vec<_> = summaries.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(order, ["expired", "urgent", "soon", "late"]);
    assert_eq!(store.expiries(now()).next().unwrap().0, "expired");
    let counts = store.expiry_counts(now());
    assert_eq!((counts.expired, counts.urgent, counts.expiring), (1, 1, 1));
    let json = serde_json::to_string(&summaries).unwrap();
    assert!(json.contains("\"key\":\"ECDSA P-256\"") && json.contains("\"validity\":\"urgent\""));
    assert!(!format!("{json}{store:?}").contains("PRIVATE"));
}

#[test]
fn expired_certificates_do_not_hide_the_next_to_end() {
    let certs = Certs::new();
    let issue = |days| {
        let order = super::Order { days, ..super::order(&["a.example"]) };
        super::AUTHORITY.issue(&order)
    };
    let expired = issue(-1);
    for at in 0..103 {
        certs.put(&format!("old-{at}"), &expired);
    }
    certs.put("urgent", &issue(3));
    let store = certs.load(None).store;
    let told: Vec<&str> = store.expiries(now()).map(|(name, _)| name).collect();
    assert_eq!((told.len(), told.last()), (101, Some(&"urgent")));
}
