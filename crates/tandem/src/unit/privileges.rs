//! As whom the unit runs.

/// Whether this process has the rights of root.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some(0))
}

/// What is to be told of a unit that was started as root although the configuration names another user.
///
/// Becoming another user while keeping a few capabilities takes system calls that safe code cannot make; whoever starts the unit can
/// do it for us.
pub(crate) fn warning(user: Option<&str>) -> Option<String> {
    let user = user?;
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    (is_root() && exists(&users, user)).then(|| {
        format!(
            "runs as root and stays root: let the service manager start it as `{user}` (systemd: User={user}, \
             AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_ADMIN), or set `user = \"\"` in [unit] if root is meant"
        )
    })
}

/// The second number of the line "Uid:" in `/proc/self/status`.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn exists(users: &str, name: &str) -> bool {
    users.lines().any(|line| line.split(':').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts() {
        assert_eq!(effective_user("Name:\ta\nUid:\t1000\t0\t1000\t1000\nGid:\t1\t1\t1\t1\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t33\t0\t0\n"), Some(33));
        assert_eq!(effective_user("Name:\ta\n"), None);
    }

    #[test]
    fn users_are_known_by_their_whole_name() {
        let users = "root:x:0:0::/:/bin/sh\ntandem-test:x:5:5::/:/bin/sh\n";
        assert!(exists(users, "root"));
        assert!(!exists(users, "tandem"));
        assert_eq!(warning(None), None);
    }
}
