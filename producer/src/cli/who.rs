//! Who runs a command, for the record: a person's name and machine.

use std::os::unix::fs::MetadataExt as _;

/// Returns `user@host`.
pub(super) fn am_i() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned);
    let host = host.or_else(|| variable("HOSTNAME")).unwrap_or_else(|| "unknown".to_owned());
    format!("{}@{host}", user())
}

fn user() -> String {
    // A container often has a user id and no variable that names it.
    let of_process = || {
        let id = std::fs::metadata("/proc/self").ok()?.uid().to_string();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(name_of(&id, &users).map_or_else(|| format!("uid-{id}"), str::to_owned))
    };
    ["USER", "LOGNAME"].into_iter().find_map(variable).or_else(of_process).unwrap_or_else(|| "unknown".to_owned())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Finds the name of a user id in the text of `/etc/passwd`.
fn name_of<'a>(id: &str, users: &'a str) -> Option<&'a str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_is_found_by_its_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!((name_of("1000", users), name_of("7", users)), (Some("ada"), None));
        assert!(am_i().contains('@'));
    }
}
