//! Whoever reads the output may leave, as `head` does.

use signal_hook::consts::SIGPIPE;
use std::io::pipe;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

#[test]
fn a_task_ends_quietly_with_its_reader() {
    let (reader, writer) = pipe().expect("there are descriptors left");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["sim", "--seed", "0"]).stdout(writer);
    let output = command.output().expect("the program is built before its tests");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.signal(), Some(SIGPIPE));
}
