//! As whom the unit runs: started as root it becomes another user, and keeps what it needs of root's rights. Started as another user
//! it keeps what it was given, to itself.

use super::state_dir;
use anyhow::{Context, bail, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{self, Gid, Group, Uid, User};
use std::ffi::{CString, OsString};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::Path;

/// What the log tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Told {
    /// Whom the process became, if anybody.
    pub(crate) done: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// Whether this process has the rights of root.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `user` if this process is root and there is such a user. The state folder is made before and given away with what a unit
/// keeps in it. `config` is what a reload will read. Who is not root keeps the rights that he has, but no program gets them from him.
///
/// To be called before any thread is started: capabilities belong to a thread, which hands them down to those that it starts.
///
/// # Errors
/// The system refused a step, or the state folder is not one. The process is of no use then: it may have lost half of its rights.
pub(crate) fn give_up(user: Option<&str>, state_dir: &Path, config: &Path) -> anyhow::Result<Told> {
    if !is_root() {
        keep_from_programs()?;
        return Ok(Told::default());
    }
    let Some(name) = user else { return Ok(Told::default()) };
    let found = User::from_name(name).with_context(|| format!("cannot look up the user `{name}`"))?;
    let Some(user) = found else {
        return Ok(Told { done: None, warnings: vec![missing(name)] });
    };
    if user.uid.is_root() {
        return Ok(Told::default());
    }
    ensure!(is_alone(), "a thread was started too early: it would stay root");
    give_folder(state_dir, user.uid, user.gid)?;
    let kept = become_user(&user).with_context(|| {
        format!("cannot become `{name}`: start the unit as that user, or set `user = \"\"` in [unit] to stay root")
    })?;
    std::fs::read_dir(state_dir).with_context(|| {
        let folder = state_dir.display();
        format!(
            "`{name}` cannot reach the state folder {folder}: open the folders above it (`chmod o+x`), or name another"
        )
    })?;
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let kept = if kept.is_empty() { "nothing".to_owned() } else { kept.join(" and ") };
    Ok(Told {
        done: Some(format!("runs as `{name}` and keeps {kept} of root's rights")),
        warnings: unreadable(config, &user).into_iter().collect(),
    })
}

/// A service manager gives rights as ambient ones, and every command of a guardian would have them too. What is not inheritable cannot
/// be ambient (capabilities(7)), so that this empties both sets; what is permitted and effective stays.
fn keep_from_programs() -> anyhow::Result<()> {
    // A service that is kept from system calls may not even ask for what changes nothing (capset is in @privileged of systemd).
    if caps::read(None, CapSet::Inheritable)?.is_empty() {
        return Ok(());
    }
    caps::clear(None, CapSet::Inheritable).context("commands would have the capabilities of this process")
}

fn missing(name: &str) -> String {
    format!(
        "runs as root, for there is no user `{name}`: `useradd --system --no-create-home --shell /usr/sbin/nologin {name}` adds it \
         for the next start; if root is meant, set `user = \"\"` in [unit]"
    )
}

/// Where /proc is not mounted, the order of the start is the only proof.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").ok().is_none_or(|threads| threads.count() == 1)
}

/// Makes the state folder if there is none, and gives it to the user with what is in it.
///
/// A wrong `state_dir` must not give away a folder of the system, nor may whoever took over the user before make root give away a
/// file elsewhere: only a folder that holds nothing but files of a unit changes hands, those files by their names and through no link.
fn give_folder(folder: &Path, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    let shown = folder.display();
    let make = || -> std::io::Result<()> {
        // The folders above are made as usual, only the last one is closed to others.
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    };
    make().with_context(|| {
        format!("cannot make the state folder {shown}: name another with `state_dir` or --state-dir")
    })?;
    // The operator may have put a link in its place.
    let folder = folder.canonicalize().with_context(|| format!("cannot follow {shown}"))?;
    let read = || -> std::io::Result<(u32, Vec<OsString>)> {
        let owner = std::fs::metadata(&folder)?.uid();
        let names = std::fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.file_name()));
        Ok((owner, names.collect::<std::io::Result<Vec<OsString>>>()?))
    };
    let (owner, names) = read().with_context(|| format!("cannot read the state folder {shown}"))?;
    if owner != uid.as_raw()
        && let Some(name) = stranger(&names)
    {
        bail!(
            "the state folder {shown} is not given to another user: it holds {}, which is no file of a unit; name a folder of its own, or \
             chown it yourself",
            name.display()
        );
    }
    for name in names.iter().filter(|name| state_dir::is_file_of_a_unit(name)) {
        let path = folder.join(name);
        let metadata = path.symlink_metadata().with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            !metadata.is_file() || metadata.nlink() == 1,
            "{} has a second name elsewhere and is not given to another user: remove that name",
            path.display()
        );
        give(&path, uid, gid)?;
    }
    give(&folder, uid, gid)
}

/// The first of these names that does not belong into a state folder. A folder that is a file system of its own has "lost+found".
fn stranger(names: &[OsString]) -> Option<&OsString> {
    names.iter().find(|name| !state_dir::is_file_of_a_unit(name) && name.as_os_str() != "lost+found")
}

fn give(path: &Path, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    lchown(path, Some(uid.as_raw()), Some(gid.as_raw())).with_context(|| format!("cannot give away {}", path.display()))
}

/// Returns the capabilities kept: those of [`KEPT`] that were there. The order of the steps is that of capabilities(7): each takes
/// rights that a later one gives up.
fn become_user(user: &User) -> anyhow::Result<Vec<Capability>> {
    let owned = caps::read(None, CapSet::Permitted)?;
    let kept: Vec<Capability> = KEPT.into_iter().filter(|capability| owned.contains(capability)).collect();
    caps::clear(None, CapSet::Bounding).context("the bounding set of capabilities stays")?;
    prctl::set_keepcaps(true).context("capabilities cannot be kept")?;
    let name = CString::new(user.name.as_str()).context("the name is not one")?;
    unistd::initgroups(&name, user.gid).context("the groups stay")?;
    unistd::setresgid(user.gid, user.gid, user.gid).context("the group stays")?;
    unistd::setresuid(user.uid, user.uid, user.uid).context("the user stays")?;
    prctl::set_keepcaps(false).context("capabilities would be kept again")?;
    caps::clear(None, CapSet::Ambient).context("the ambient set of capabilities stays")?;
    caps::clear(None, CapSet::Inheritable).context("the inheritable set of capabilities stays")?;
    let wanted: CapsHashSet = kept.iter().copied().collect();
    // What is effective must be permitted, so that it goes first and comes back last.
    caps::clear(None, CapSet::Effective).context("the effective set of capabilities stays")?;
    caps::set(None, CapSet::Permitted, &wanted).context("the permitted set of capabilities stays")?;
    caps::set(None, CapSet::Effective, &wanted).context("the capabilities kept cannot be used")?;
    prctl::set_no_new_privs().context("programs started later could gain rights")?;
    let root = Uid::from_raw(0);
    ensure!(unistd::setresuid(root, root, root).is_err(), "the way back to root is open");
    Ok(kept)
}

/// A configuration that the user cannot read, as a warning: the unit runs, but no reload would.
fn unreadable(config: &Path, user: &User) -> Option<String> {
    let error = File::open(config).err()?;
    let group = Group::from_gid(user.gid).ok().flatten();
    let group = group.map_or_else(|| user.gid.to_string(), |group| group.name);
    Some(closed(config, &user.name, &group, &error))
}

fn closed(config: &Path, user: &str, group: &str, error: &std::io::Error) -> String {
    let config = config.display();
    format!(
        "`{user}` cannot read {config} ({error}), so that every reload will be refused: `chgrp {group} {config}` and \
         `chmod g+r {config}`, and the folders above it must be open to that user"
    )
}

/// Ports below 1024, and socket buffers beyond the system's limit (SO_RCVBUFFORCE).
const KEPT: [Capability; 2] = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_ADMIN];

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::PathBuf;

    fn own() -> (Uid, Gid) {
        (Uid::effective(), Gid::effective())
    }

    fn names(names: &[&str]) -> Vec<OsString> {
        names.iter().map(OsString::from).collect()
    }

    #[test]
    fn nobody_else_is_meant() {
        assert_eq!(give_up(None, Path::new("/nowhere"), Path::new("/nowhere")).ok(), Some(Told::default()));
    }

    /// Capabilities belong to a thread: those of this test end with it.
    #[test]
    fn what_was_given_goes_on_to_no_program() {
        let right = Capability::CAP_NET_BIND_SERVICE;
        let has = |set: CapSet| caps::has_cap(None, set, right).expect("the system knows this set");
        let given = [CapSet::Inheritable, CapSet::Ambient].map(|set| caps::raise(None, set, right).is_ok());
        let before = [CapSet::Permitted, CapSet::Effective].map(has);
        assert!(given != [true; 2] || has(CapSet::Ambient), "it was given");
        keep_from_programs().expect("whoever gives up needs no right");
        assert_eq!([CapSet::Inheritable, CapSet::Ambient].map(has), [false; 2]);
        assert_eq!([CapSet::Permitted, CapSet::Effective].map(has), before);
    }

    #[test]
    fn a_missing_user_is_told_with_what_to_do() {
        let told = missing("sip-lb");
        assert!(told.contains("useradd") && told.contains(" sip-lb`") && told.contains("user = \"\""), "{told}");
    }

    #[test]
    fn an_unreadable_file_is_told_with_what_to_do() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let told = closed(Path::new("/etc/tandem.toml"), "tandem", "voip", &error);
        assert!(told.contains("`chgrp voip /etc/tandem.toml`") && told.contains("permission denied"), "{told}");
    }

    #[test]
    fn only_files_of_a_unit_make_a_state_folder() {
        assert_eq!(stranger(&names(&["secret", "facts.log", "lost+found", "control.sock"])), None);
        let found = names(&["secret", "passwd"]);
        assert_eq!(stranger(&found), found.get(1));
        assert_eq!(stranger(&[]), None);
    }

    #[test]
    fn a_folder_is_made_and_closed_to_others() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state: PathBuf = folder.path().join("above/state");
        let (uid, gid) = own();
        give_folder(&state, uid, gid).expect("what is ours can be given to ourselves");
        let mode = std::fs::metadata(&state).expect("it was made").mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(state.join("secret"), "{}").expect("the folder is ours");
        std::fs::write(state.join("notes"), "").expect("the folder is ours");
        // It is the user's already: what else is in it is his own affair.
        give_folder(&state, uid, gid).expect("what is ours can be given to ourselves");
        let other = Uid::from_raw(uid.as_raw() + 1);
        let error = give_folder(&state, other, gid).expect_err("the folder holds something else");
        assert!(error.to_string().contains("notes"), "{error}");
    }

    #[test]
    fn a_file_with_two_names_is_not_given_away() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (state, elsewhere) = (folder.path().join("state"), folder.path().join("elsewhere"));
        let (uid, gid) = own();
        give_folder(&state, uid, gid).expect("what is ours can be given to ourselves");
        std::fs::write(&elsewhere, "").expect("the folder is ours");
        std::fs::hard_link(&elsewhere, state.join("secret")).expect("both names are in one file system");
        let error = give_folder(&state, uid, gid).expect_err("the file is also elsewhere");
        assert!(error.to_string().contains("second name"), "{error}");
    }
}
