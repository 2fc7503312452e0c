//! What other programs leave in the folder, and what the operator is told of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::super::chain::Interner;
use super::super::folder::Folder;
use super::super::read::{KeyCheck, Reader};
use super::{AUTHORITY, Certs, Issued, issue, names, order, told};

/// One good certificate beside a broken one: the good one is served, the broken one is absent, and
/// exactly one problem tells why.
#[track_caller]
fn check(arrange: impl FnOnce(&Certs, &Issued), expected: &str) {
    let certs = Certs::new();
    certs.put("good", &issue(&["good.example"]));
    arrange(&certs, &issue(&["bad.example"]));
    let loaded = certs.load(None);
    let problems = told(&loaded, &certs);
    assert_eq!(names(&loaded.store), ["good"], "{problems:#?}");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains(expected), "{problems:#?}");
    assert!(problems[0].contains("; the certificate is not served; "), "{problems:#?}");
}

/// A defect that does not keep the certificate from being served.
#[track_caller]
fn check_served(arrange: impl FnOnce(&Certs, &Issued), expected: &str) {
    let certs = Certs::new();
    arrange(&certs, &issue(&["odd.example"]));
    let loaded = certs.load(None);
    let problems = told(&loaded, &certs);
    assert_eq!(loaded.store.all().len(), 1, "{problems:#?}");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains(expected), "{problems:#?}");
}

#[test]
fn a_missing_key_is_told() {
    check(
        |certs, issued| certs.write("bad/fullchain.pem", issued.chain()),
        "bad/privkey.pem: the file is missing",
    );
}

#[test]
fn a_link_that_leads_nowhere_is_told() {
    check(
        |certs, issued| {
            certs.write("bad/privkey.pem", &issued.key);
            symlink("../archive/fullchain7.pem", certs.path("bad/fullchain.pem")).unwrap();
        },
        "bad/fullchain.pem: the file is missing, or a link to it leads nowhere",
    );
}

#[test]
fn a_link_to_itself_is_told() {
    check(
        |certs, issued| {
            certs.write("bad/privkey.pem", &issued.key);
            symlink("fullchain.pem", certs.path("bad/fullchain.pem")).unwrap();
        },
        "bad/fullchain.pem: cannot be read: Too many levels of symbolic links",
    );
}

#[test]
fn a_folder_in_the_place_of_a_file_is_told() {
    check(
        |certs, issued| {
            certs.write("bad/privkey.pem", &issued.key);
            fs::create_dir(certs.path("bad/fullchain.pem")).unwrap();
        },
        "bad/fullchain.pem: is no regular file",
    );
}

#[test]
fn a_pipe_does_not_hold_up_the_load() {
    check(
        |certs, issued| {
            certs.write("bad/privkey.pem", &issued.key);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            let path = certs.path("bad/fullchain.pem");
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        },
        "bad/fullchain.pem: is no regular file",
    );
}

#[test]
fn an_empty_file_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", "");
        },
        "bad/fullchain.pem: is empty",
    );
}

#[test]
fn a_chain_cut_within_a_section_is_told_with_its_line() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            let chain = issued.chain();
            certs.write("bad/fullchain.pem", &chain[..chain.len() - 100]);
        },
        "is cut: the section \"CERTIFICATE\" has no end line",
    );
    let certs = Certs::new();
    certs.write("bad.pem", "text\n-----BEGIN CERTIFICATE-----\nMIIB\n");
    assert_eq!(certs.load(None).problems[0].line, Some(2));
}

#[test]
fn a_key_cut_within_its_section_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/privkey.pem", &issued.key[..issued.key.len() - 40]);
        },
        "is cut: the section \"PRIVATE KEY\" has no end line",
    );
}

#[test]
fn ten_megabytes_of_garbage_are_not_read() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", vec![b'x'; 10 << 20]);
        },
        "has 10485760 bytes; a chain with its key has at most 262144",
    );
}

#[test]
fn text_that_is_no_certificate_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", "<html>404 Not Found</html>");
        },
        "bad/fullchain.pem: holds no certificate",
    );
}

#[test]
fn letters_that_are_no_base64_are_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", issued.chain().replacen("MII", "M!I", 1));
        },
        "the contents of PEM section 1 are no base64",
    );
}

#[test]
fn damaged_bytes_are_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            let begin = "-----BEGIN CERTIFICATE-----";
            certs.write(
                "bad/fullchain.pem",
                format!("{begin}\nTm8gY2VydGlmaWNhdGUh\n-----END CERTIFICATE-----\n"),
            );
        },
        "certificate 1 of the file is no valid X.509 certificate",
    );
}

#[test]
fn der_is_told_from_pem() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", AUTHORITY.root.der());
        },
        "holds binary DER; PEM text is expected",
    );
}

#[test]
fn the_key_of_another_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/privkey.pem", KeyPair::generate().unwrap().serialize_pem());
        },
        "bad/privkey.pem: the private key does not belong to the certificate",
    );
}

#[test]
fn an_rsa_key_with_a_certificate_for_another_kind_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write(
                "bad/privkey.pem",
                KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem(),
            );
        },
        "bad/privkey.pem: the private key does not belong to the certificate",
    );
}

#[test]
fn a_chain_with_the_issuer_first_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/fullchain.pem", format!("{}{}", issued.above, issued.leaf));
        },
        "the private key belongs to certificate 2 of the file, not to the first",
    );
}

#[test]
fn an_encrypted_key_is_told() {
    for (begin, end) in [
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB", "-----END ENCRYPTED PRIVATE KEY-----"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB",
            "-----END EC PRIVATE KEY-----",
        ),
    ] {
        check(
            |certs, issued| {
                certs.put("bad", issued);
                certs.write("bad/privkey.pem", format!("{begin}\n{end}\n"));
            },
            "bad/privkey.pem: the private key is encrypted with a passphrase",
        );
    }
}

#[test]
fn a_key_file_without_a_key_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            certs.write("bad/privkey.pem", issued.chain());
        },
        "bad/privkey.pem: holds no private key",
    );
}

#[test]
fn two_keys_are_told() {
    check(
        |certs, issued| {
            let other = KeyPair::generate().unwrap().serialize_pem();
            certs.write("bad.pem", format!("{}{}{other}", issued.chain(), issued.key));
        },
        "bad.pem: holds 2 private keys",
    );
}

#[test]
fn a_key_with_a_damaged_inside_is_told() {
    check(
        |certs, issued| {
            certs.put("bad", issued);
            // Changes bytes of the private scalar; the public half stays as it is.
            let mut lines: Vec<String> = issued.key.lines().map(str::to_owned).collect();
            lines[1].replace_range(52..60, "AAAAAAAA");
            certs.write("bad/privkey.pem", lines.join("\n"));
        },
        "the private key is malformed",
    );
}

#[test]
fn a_file_that_must_not_be_read_is_told() {
    // A thread of its own, for it is to be bound by modes, root or not.
    let reading = thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, sets).unwrap();
        check(
            |certs, issued| {
                certs.put("bad", issued);
                let none = fs::Permissions::from_mode(0o000);
                fs::set_permissions(certs.path("bad/privkey.pem"), none).unwrap();
            },
            "bad/privkey.pem: cannot be read: Permission denied",
        );
    });
    reading.join().unwrap();
}

#[test]
fn a_key_that_others_may_read_is_a_warning() {
    check_served(
        |certs, issued| {
            certs.put("odd", issued);
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(certs.path("odd/privkey.pem"), open).unwrap();
        },
        "odd/privkey.pem: others than its owner may read the private key (mode 0644); chmod 600",
    );
}

#[test]
fn a_leaf_without_its_issuer_is_a_warning() {
    check_served(
        |certs, issued| {
            certs.put("odd", issued);
            certs.write("odd/fullchain.pem", &issued.leaf);
        },
        "the certificate of its issuer (Test intermediate) does not follow",
    );
}

#[test]
fn a_chain_out_of_order_is_put_in_order() {
    check_served(
        |certs, issued| {
            let chain = [&*issued.leaf, &AUTHORITY.root.pem(), &issued.above].concat();
            certs.put("odd", issued);
            certs.write("odd/fullchain.pem", chain);
        },
        "the chain is out of order",
    );
}

#[test]
fn a_certificate_for_clients_is_a_warning() {
    check_served(
        |certs, _| {
            let usage = ExtendedKeyUsagePurpose::ClientAuth;
            let order = super::Order { usage, ..order(&["odd.example"]) };
            certs.put("odd", &AUTHORITY.issue(&order));
        },
        "its extended key usage is not server authentication",
    );
}

#[test]
fn a_certificate_without_hosts_is_a_warning() {
    check_served(|certs, _| certs.put("odd", &issue(&[])), "names no host");
}

#[test]
fn expiry_is_told_at_three_weeks_and_a_week_and_after() {
    for (days, expected) in
        [(20, "expires in 20 days, on "), (6, "expires in 6 days, on "), (-1, "expired on ")]
    {
        check_served(
            |certs, _| {
                let order = super::Order { days, ..order(&["odd.example"]) };
                certs.put("odd", &AUTHORITY.issue(&order));
            },
            expected,
        );
    }
}

#[test]
fn a_folder_without_files_is_a_warning_and_other_files_are_nothing() {
    check_served(
        |certs, issued| {
            certs.put("odd", issued);
            certs.write("README", "This directory contains your keys and certificates.");
            certs.write(".hidden/fullchain.pem", "");
            fs::create_dir(certs.path("empty")).unwrap();
        },
        "empty/fullchain.pem: holds neither fullchain.pem nor privkey.pem",
    );
}

#[test]
fn a_file_beside_a_folder_of_its_name_is_a_warning() {
    check_served(
        |certs, issued| {
            certs.put("odd", issued);
            certs.write("odd.pem", issued.chain());
        },
        "odd.pem: a folder of the same name is there too; the folder is used",
    );
}

#[test]
fn a_missing_folder_of_certificates_is_told() {
    let mut certs = Certs::new();
    certs.settings.directory = certs.path("nowhere");
    let loaded = certs.load(None);
    assert_eq!(loaded.store.all().len(), 0);
    let problem = loaded.problems[0].to_string();
    assert!(problem.contains("certificates.directory: the folder of certificates cannot be read"));
}

#[test]
fn a_default_that_is_not_there_is_told() {
    let mut certs = Certs::new();
    certs.settings.default = Some("nobody".into());
    let loaded = certs.load(None);
    assert!(
        loaded.problems[0].to_string().contains("the default certificate \"nobody\" is not there")
    );
}

#[test]
fn many_warnings_of_a_kind_are_counted_not_listed() {
    let certs = Certs::new();
    for number in 0..150 {
        fs::create_dir(certs.path(&format!("empty{number}"))).unwrap();
    }
    let loaded = certs.load(None);
    assert_eq!(loaded.problems.len(), 101);
    assert!(loaded.problems[100].what.starts_with("50 more certificates"));
}

#[test]
fn a_damaged_key_that_only_its_use_shows_is_refused_then() {
    let issued = issue(&["a.example"]);
    let mut lines: Vec<String> = issued.key.lines().map(str::to_owned).collect();
    lines[1].replace_range(52..60, "AAAAAAAA");
    let certs = Certs::new();
    certs.put("a", &issued);
    certs.write("a/privkey.pem", lines.join("\n"));
    let folder = Folder::open(&certs.settings.directory).unwrap();
    let entry = folder.list().unwrap().entries.remove(0);
    let files = folder.read(entry.name()).unwrap().unwrap();
    let reader = Reader { interner: &Interner::default(), key_check: KeyCheck::AtUse, now: 0 };
    let certificate = reader.certificate(entry.name(), &files, [0; 32]).unwrap();
    assert!(certificate.certified_key().is_none());
    assert!(certificate.certified_key().is_none());
}
