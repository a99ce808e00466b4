//! A unit that is started as root: whom it becomes, what it keeps, and what it says where it cannot. And one that a service manager
//! gave its rights.

use crate::common::unit::launch;
use crate::common::wire::{Station, request};
use crate::common::{Process, holds_within, namespace};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Ports that only root may open, and those who kept the right to.
const UNIT: &str = "127.0.0.20:506";
const OTHER: &str = "127.0.0.21:507";
const SERVER: &str = "127.0.0.31:5060";
const PHONE: &str = "127.0.0.40:5060";
const SOON: Duration = Duration::from_secs(10);
/// CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12.
const KEPT: &str = "0000000000001400";
const NONE: &str = "0000000000000000";

/// `tandem run` in a folder that everybody may enter.
struct Started {
    process: Process,
    folder: TempDir,
}

impl Started {
    /// Starts it and waits until it is ready or has ended.
    fn with(config: &str) -> Self {
        let folder = open_folder();
        write_config(folder.path(), config, 0o644);
        Self::within(folder)
    }

    fn within(folder: TempDir) -> Self {
        let process = launch(folder.path());
        Self::of(process, folder)
    }

    fn of(mut process: Process, folder: TempDir) -> Self {
        holds_within(SOON, || !process.is_running() || process.output().lines().any(|line| line == "ready"));
        Self { process, folder }
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The lines of `/proc/PID/task/*/status`, one text for each thread.
    fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("the unit runs");
        let status = tasks.map(|task| task.expect("the unit runs").path().join("status"));
        // A thread of the control socket may end between two looks.
        status.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }
}

fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("the folder is ours");
    folder
}

fn write_config(folder: &Path, config: &str, mode: u32) {
    let path = folder.join("tandem.toml");
    std::fs::write(&path, config).expect("the folder is ours");
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is ours");
}

fn config(user: &str, listen: &[&str]) -> String {
    let listen: Vec<String> = listen.iter().map(|address| format!("\"udp:{address}\"")).collect();
    format!(
        "[unit]\nuser = \"{user}\"\nworkers = 2\n[[farm]]\nname = \"pbx\"\nlisten = [{}]\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{SERVER}\"\n",
        listen.join(", ")
    )
}

/// Whether the test runs as a root who may become others: in a namespace of users there is often nobody else.
fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let root = id("-u", None) == Some(0);
    if !(whole && root) {
        eprintln!("skipped: only root can become another user");
    }
    whole && root
}

/// A number of a user, by default of whoever runs the test.
fn id(which: &str, user: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(which).args(user).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// User and group of somebody who may nothing.
fn nobody() -> Option<(u32, u32)> {
    let found = id("-u", Some("nobody")).zip(id("-g", Some("nobody")));
    if found.is_none() {
        eprintln!("skipped: there is no user nobody");
    }
    found
}

/// The values of a line of `/proc/PID/status`.
fn values<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}:");
    let line = status.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
    line.unwrap_or_default().split_whitespace().collect()
}

/// Sends an OPTIONS for the farm itself and returns the status of its answer.
fn ask(phone: &Station, listener: &str, call_id: &str) -> Option<u16> {
    phone.send(request("OPTIONS", &format!("sip:{listener}"), phone.address, call_id, 1, "", ""), listener);
    phone.final_answer().code()
}

fn assert_dropped(unit: &Started, uid: u32, gid: u32) {
    let threads = unit.threads();
    assert!(threads.len() >= 4, "workers, log, control and facts have threads of their own: {}", threads.len());
    let (uid, gid) = (uid.to_string(), gid.to_string());
    for status in &threads {
        // Real, effective, saved, and that of the file system.
        assert_eq!(values(status, "Uid"), [uid.as_str(); 4], "{status}");
        assert_eq!(values(status, "Gid"), [gid.as_str(); 4], "{status}");
        assert!(!values(status, "Groups").contains(&"0"), "{status}");
        assert_eq!(values(status, "CapEff"), [KEPT], "{status}");
        assert_eq!(values(status, "CapPrm"), [KEPT], "{status}");
        for empty in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(values(status, empty), [NONE], "{empty}: {status}");
        }
        assert_eq!(values(status, "NoNewPrivs"), ["1"], "{status}");
    }
}

fn assert_given(state_dir: &Path, uid: u32, gid: u32) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(state_dir)
        .expect("root may read it")
        .map(|entry| entry.expect("root may read it").path())
        .collect();
    assert!(paths.len() >= 5, "secret, epoch, facts.log, control.sock and lock: {paths:?}");
    paths.push(state_dir.to_path_buf());
    for path in paths {
        let metadata = path.symlink_metadata().expect("it was there a moment ago");
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{}", path.display());
        assert_eq!(metadata.mode() & 0o077, 0, "{} is open to others", path.display());
    }
}

#[test]
fn a_unit_started_as_root_becomes_its_user_and_keeps_what_it_needs() {
    if !namespace() || !is_root() {
        return;
    }
    let Some((uid, gid)) = nobody() else { return };
    // First, so that no ping is sent where nobody listens.
    let _server = Station::at(SERVER);
    let phone = Station::at(PHONE);
    let mut unit = Started::with(&config("nobody", &[UNIT]));
    assert!(unit.process.is_running(), "{}", unit.process.said());
    assert_dropped(&unit, uid, gid);
    assert_given(&unit.state_dir(), uid, gid);
    assert_eq!(ask(&phone, UNIT, "first"), Some(200));
    let errors = unit.process.errors();
    assert!(errors.contains("runs as `nobody` and keeps CAP_NET_BIND_SERVICE and CAP_NET_ADMIN"), "{errors}");
    assert!(!errors.contains("chgrp") && !errors.contains("rmem_max"), "{errors}");
    // A reload reads the file and opens a port that needs the right kept.
    write_config(unit.folder.path(), &config("nobody", &[UNIT, OTHER]), 0o644);
    unit.process.signal("HUP");
    let added = holds_within(SOON, || unit.process.errors().contains("listener udp:127.0.0.21:507 added"));
    assert!(added, "{}", unit.process.said());
    assert_eq!(ask(&phone, OTHER, "second"), Some(200));
    assert_dropped(&unit, uid, gid);
    unit.process.signal("TERM");
    assert_eq!(unit.process.wait(SOON).code(), Some(0), "{}", unit.process.said());
    // Once more, on the folder that is the user's already, with a file that root left in it.
    let secret = unit.state_dir().join("secret");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).expect("the test is root");
    let mut again = Started::within(unit.folder);
    assert!(again.process.is_running(), "{}", again.process.said());
    assert_dropped(&again, uid, gid);
    assert_given(&again.state_dir(), uid, gid);
}

#[test]
fn rights_that_a_service_manager_gave_go_on_to_no_program() {
    if !namespace() || !is_root() {
        return;
    }
    let Some((uid, gid)) = nobody() else { return };
    let _server = Station::at(SERVER);
    let phone = Station::at(PHONE);
    let folder = open_folder();
    write_config(folder.path(), &config("tandem", &[UNIT]), 0o644);
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("the folder is ours");
    std::os::unix::fs::chown(&state, Some(uid), Some(gid)).expect("the test is root");
    // Where it was built others may have no way to it.
    let program = folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_tandem"), &program).expect("the program is built before its tests");
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).args([
        "--clear-groups",
        "--inh-caps=+net_bind_service,+net_admin",
        "--ambient-caps=+net_bind_service,+net_admin",
    ]);
    command.arg(&program).args(["run", "--config"]).arg(folder.path().join("tandem.toml"));
    command.arg("--state-dir").arg(&state);
    let process = Process::start(&mut command, "tandem", folder.path());
    let mut unit = Started::of(process, folder);
    assert!(unit.process.is_running(), "{}", unit.process.said());
    for status in &unit.threads() {
        assert_eq!(values(status, "Uid"), [uid.to_string().as_str(); 4], "{status}");
        for (set, wanted) in [("CapEff", KEPT), ("CapPrm", KEPT), ("CapInh", NONE), ("CapAmb", NONE)] {
            assert_eq!(values(status, set), [wanted], "{set}: {status}");
        }
    }
    assert_eq!(ask(&phone, UNIT, "first"), Some(200));
}

#[test]
fn a_configuration_that_its_user_cannot_read_is_told() {
    if !namespace() || !is_root() {
        return;
    }
    let folder = open_folder();
    write_config(folder.path(), &config("nobody", &[UNIT]), 0o600);
    let mut unit = Started::within(folder);
    assert!(unit.process.is_running(), "it runs, though no reload will: {}", unit.process.said());
    let told = holds_within(SOON, || unit.process.errors().contains("every reload will be refused: `chgrp "));
    assert!(told, "{}", unit.process.said());
    unit.process.signal("HUP");
    let refused = holds_within(SOON, || unit.process.errors().contains("ReloadRefused"));
    assert!(refused, "{}", unit.process.said());
}

#[test]
fn root_stays_root_where_there_is_no_such_user_or_none_is_wanted() {
    if !namespace() || !is_root() {
        return;
    }
    for (user, is_told) in [("no-such-user", true), ("", false)] {
        let mut unit = Started::with(&config(user, &[UNIT]));
        assert!(unit.process.is_running(), "{}", unit.process.said());
        let started = holds_within(SOON, || unit.process.errors().contains(" Started "));
        assert!(started, "{}", unit.process.said());
        assert_eq!(unit.process.errors().contains("useradd"), is_told, "{}", unit.process.said());
        assert!(unit.threads().iter().all(|status| values(status, "Uid") == ["0"; 4]));
    }
}

#[test]
fn a_folder_of_others_is_not_given_away() {
    if !namespace() || !is_root() {
        return;
    }
    let folder = open_folder();
    write_config(folder.path(), &config("nobody", &[UNIT]), 0o644);
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("the folder is ours");
    std::fs::write(state.join("passwd"), "").expect("the folder is ours");
    let mut unit = Started::within(folder);
    let status = unit.process.wait(SOON);
    assert_eq!(status.code(), Some(1), "{}", unit.process.said());
    let errors = unit.process.errors();
    assert!(errors.contains("nothing was started") && errors.contains("it holds passwd"), "{errors}");
    for path in [state.join("passwd"), state] {
        assert_eq!(path.metadata().expect("it is kept").uid(), 0, "{}", path.display());
    }
}
