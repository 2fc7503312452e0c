//! The user that the process becomes once its ports are bound.

use std::fs;

/// A user of the system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// As written.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of the user's first group.
    pub gid: u32,
}

impl Account {
    /// Finds a user by name, or takes `UID:GID`.
    ///
    /// Names are looked up in /etc/passwd alone: a service's user stands there, and asking the
    /// name service means loading foreign code into a process that may still be root.
    ///
    /// # Errors
    /// A sentence on what is missing.
    pub fn find(name: &str) -> Result<Account, String> {
        if let Some((uid, gid)) = name.split_once(':') {
            return numbers(name, (uid, gid)).ok_or_else(|| "it is no UID:GID".to_string());
        }
        let table = fs::read_to_string("/etc/passwd")
            .map_err(|error| format!("/etc/passwd cannot be read: {error}"))?;
        find_in(&table, name).ok_or_else(|| "no such user in /etc/passwd".to_string())
    }
}

/// passwd(5): name:password:UID:GID:comment:home:shell.
fn find_in(table: &str, name: &str) -> Option<Account> {
    let fields = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = fields.filter(|entry| entry.len() >= 4).find(|entry| entry[0] == name)?;
    numbers(name, (entry[2], entry[3]))
}

fn numbers(name: &str, (uid, gid): (&str, &str)) -> Option<Account> {
    Some(Account { name: name.to_string(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_with_its_first_group() {
        let table = "root:x:0:0:root:/root:/bin/sh\nsluss:x:998:997::/run/sluss:/bin/false\n";
        let expected = Account { name: "sluss".into(), uid: 998, gid: 997 };
        assert_eq!(find_in(table, "sluss"), Some(expected));
        assert_eq!(find_in(table, "nobody"), None);
        assert_eq!(find_in("broken\nsluss:x:y\n", "sluss"), None);
    }

    #[test]
    fn numbers_need_no_table() {
        let expected = Account { name: "65534:65533".into(), uid: 65_534, gid: 65_533 };
        assert_eq!(Account::find("65534:65533"), Ok(expected));
        assert!(Account::find("65534:staff").is_err());
    }
}
