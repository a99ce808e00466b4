//! What is read before anything is sent, and what is written at the end.

use super::Refusal;
use super::arguments::Arguments;
use crate::unit::guardians::{password_in, read_file};
use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probe::{Sound, audio};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// What is said in the call, in order. An empty name stands for the built-in tone.
pub(super) fn sounds(names: &[OsString]) -> Result<Vec<Sound>, Refusal> {
    names.iter().map(|name| sound(name)).collect()
}

/// From the command line, a file or the environment, whichever comes first.
pub(super) fn password(arguments: &Arguments) -> Result<Option<String>, Refusal> {
    if let Some(password) = &arguments.password {
        return Ok(Some(password.clone()));
    }
    let Some(file) = &arguments.password_file else {
        return match env::var(VARIABLE) {
            Ok(password) if !password.is_empty() => Ok(Some(password)),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(Refusal::unknown(format!("{VARIABLE} is no text"))),
        };
    };
    let wrong = |reason: &str| Refusal::unknown(format!("cannot read the password in {}: {reason}", file.display()));
    let line = read_line(file, arguments.timeout).map_err(|error| wrong(&error.to_string()))?;
    password_in(line).map(Some).map_err(wrong)
}

/// The file that the audio goes to: made before anything is sent, so that a wrong name costs no call.
pub(super) fn create(path: &Path) -> Result<File, Refusal> {
    let open = || -> io::Result<File> {
        // Before it is opened: a pipe would hold us there, or after the call, until somebody reads from it.
        if let Ok(known) = path.metadata()
            && !known.is_file()
            && !known.file_type().is_char_device()
        {
            return Err(io::Error::other("it is no file"));
        }
        File::create(path)
    };
    open().map_err(|error| Refusal::unknown(format!("cannot write {}: {error}", path.display())))
}

pub(super) fn write(mut file: File, samples: &[i16]) -> io::Result<()> {
    file.write_all(&audio::write_wav(samples))
}

fn sound(name: &OsStr) -> Result<Sound, Refusal> {
    if name.is_empty() {
        return Ok(audio::tone());
    }
    let path = Path::new(name);
    let shown = path.display().to_string();
    // A call in which nothing is said.
    if path == Path::new("/dev/null") {
        return Ok(Sound { name: shown, samples: Vec::<u8>::new().into() });
    }
    let octets =
        read_file(path).map_err(|error| Refusal::unknown(format!("cannot read the audio in {shown}: {error}")))?;
    audio::read(&shown, &octets).map_err(|fault| Refusal::unknown(fault.to_string()))
}

/// Reads up to the end of the first line. It may come from a pipe, such as `/dev/stdin` and `<(…)`, whose writer has that much time.
fn read_line(path: &Path, at_most: Duration) -> io::Result<Vec<u8>> {
    let ends = Instant::now() + at_most;
    // A pipe that nobody writes into would hold us as soon as it is opened.
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let mut octets = Vec::new();
    let mut chunk = [0; 512];
    loop {
        wait_for(&file, ends)?;
        match file.read(&mut chunk) {
            Ok(0) => return Ok(octets),
            Ok(length) => octets.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            // Somebody else read it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if let Some(end) = octets.iter().position(|octet| *octet == b'\n') {
            octets.truncate(end + 1);
            return Ok(octets);
        }
        if octets.len() > PASSWORD_OCTETS {
            return Err(io::Error::other(format!("it is longer than {PASSWORD_OCTETS} octets")));
        }
    }
}

fn wait_for(file: &File, ends: Instant) -> io::Result<()> {
    let left = ends.saturating_duration_since(Instant::now());
    let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(ready) if ready > 0 && !left.is_zero() => Ok(()),
        Ok(_) => Err(io::Error::other("its first line did not come in time")),
        // By a signal, and all that we listen to are there to end us.
        Err(Errno::EINTR) => Err(io::Error::other("interrupted")),
        Err(errno) => Err(errno.into()),
    }
}

/// Where a password may stand that nobody else is to see.
const VARIABLE: &str = "TANDEM_PASSWORD";
const PASSWORD_OCTETS: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::process::Command;
    use std::thread;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(words: &[&str]) -> Arguments {
        let words = ["check-sip", "b", "c"].iter().chain(words);
        match Line::try_parse_from(words) {
            Ok(line) => line.arguments,
            Err(error) => panic!("{error}"),
        }
    }

    fn file(octets: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("the folder for such files is there");
        file.write_all(octets).expect("there is room");
        file
    }

    /// A named pipe.
    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("fifo");
        let made = Command::new("mkfifo").arg(&path).status().expect("every system has the command");
        assert!(made.success());
        path
    }

    fn told(words: &[&str]) -> Result<Option<String>, String> {
        password(&arguments(words)).map_err(|refusal| refusal.text)
    }

    #[test]
    fn sounds_are_the_tone_files_or_nothing() {
        let raw = file(&[0x55; 400]);
        let names = [OsString::new(), raw.path().into(), OsString::from("/dev/null")];
        let sounds = sounds(&names).map_err(|refusal| refusal.text).expect("all can be read");
        let lengths: Vec<usize> = sounds.iter().map(|sound| sound.samples.len()).collect();
        assert_eq!(lengths, [16_000, 400, 0]);
    }

    #[test]
    fn what_cannot_be_said_is_told_by_its_name() {
        let empty = file(b"");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let fifo = fifo(folder.path());
        for (name, wanted) in [
            (OsString::from("/nowhere/hello.ulaw"), "/nowhere/hello.ulaw"),
            (OsString::from("/dev/zero"), "it is no file"),
            (OsString::from("/"), "it is no file"),
            (fifo.as_os_str().to_owned(), "it is no file"),
            (empty.path().into(), "no audio"),
        ] {
            let refused = sounds(&[name]).map_err(|refusal| refusal.text).expect_err(wanted);
            assert!(refused.contains(wanted), "{refused}");
        }
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        assert_eq!(told(&["--password", "a b"]), Ok(Some("a b".to_owned())));
        for (octets, wanted) in [(b"se cret\n".as_slice(), "se cret"), (b"secret", "secret"), (b"a\r\nb\n", "a")] {
            let file = file(octets);
            let name = file.path().to_str().expect("such names are text");
            assert_eq!(told(&["--password-file", name]), Ok(Some(wanted.to_owned())));
        }
        for octets in [b"".as_slice(), b"\nx", b"\xff\n", &[b'x'; 4_097]] {
            let file = file(octets);
            let name = file.path().to_str().expect("such names are text");
            assert!(told(&["--password-file", name]).is_err_and(|text| text.contains(name)));
        }
        assert!(told(&["--password-file", "/"]).is_err_and(|text| text.contains("directory")));
    }

    #[test]
    fn a_password_comes_through_a_pipe_as_long_as_the_check_may_take() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = fifo(folder.path());
        let name = path.to_str().expect("such names are text");
        let late = told(&["-T", "0.2", "--password-file", name]);
        assert!(late.is_err_and(|text| text.contains(name) && text.contains("in time")), "nobody writes into it");
        let writer = thread::spawn({
            let path = path.clone();
            move || fs::write(path, "se cret\n")
        });
        assert_eq!(told(&["--password-file", name]), Ok(Some("se cret".to_owned())));
        assert!(writer.join().is_ok_and(|written| written.is_ok()));
        // As in `<(…)`; its writer stays.
        let (reader, mut writer) = io::pipe().expect("there is room for a pipe");
        let name = format!("/proc/self/fd/{}", reader.as_raw_fd());
        writer.write_all(b"secret\nsecond").expect("a pipe has room for it");
        assert_eq!(told(&["--password-file", name.as_str()]), Ok(Some("secret".to_owned())));
    }

    #[test]
    fn audio_is_written_to_files_and_devices_alone() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let fifo = fifo(folder.path());
        for path in [fifo.as_path(), folder.path()] {
            let refused = create(path).map_err(|refusal| refusal.text).expect_err("it is no file");
            assert_eq!(refused, format!("cannot write {}: it is no file", path.display()));
        }
        assert!(create(&folder.path().join("nowhere").join("back.wav")).is_err());
        let file = folder.path().join("back.wav");
        // Anew, and over what is there.
        for path in [file.as_path(), file.as_path(), Path::new("/dev/null")] {
            assert!(create(path).is_ok_and(|file| write(file, &[0; 160]).is_ok()), "{}", path.display());
        }
        assert_eq!(file.metadata().map(|known| known.len()).ok(), Some(audio::write_wav(&[0; 160]).len() as u64));
    }
}
