//! What is read before anything is sent, and what is written at the end.

use super::Refusal;
use super::arguments::Arguments;
use probe::{Sound, audio};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

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
    let octets =
        File::open(file).and_then(|file| read(file, PASSWORD_OCTETS)).map_err(|error| wrong(&error.to_string()))?;
    let text = String::from_utf8(octets).map_err(|_| wrong("it is no text"))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() { Err(wrong("its first line is empty")) } else { Ok(Some(password.to_owned())) }
}

/// The file that the audio goes to: made before anything is sent, so that a wrong name costs no call.
pub(super) fn create(path: &Path) -> Result<File, Refusal> {
    File::create(path).map_err(|error| Refusal::unknown(format!("cannot write {}: {error}", path.display())))
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
    let open = || -> io::Result<Vec<u8>> {
        // Whatever has no end or no beginning would outlast the check.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is no ordinary file"));
        }
        read(File::open(path)?, SOUND_OCTETS)
    };
    let octets = open().map_err(|error| Refusal::unknown(format!("cannot read the audio in {shown}: {error}")))?;
    audio::read(&shown, &octets).map_err(|fault| Refusal::unknown(fault.to_string()))
}

/// All of it, if it is not too long.
fn read(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(most + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} octets")));
    }
    Ok(octets)
}

/// Where a password may stand that nobody else is to see.
const VARIABLE: &str = "TANDEM_PASSWORD";
const PASSWORD_OCTETS: u64 = 4_096;
/// More than ten minutes of 16-bit audio.
const SOUND_OCTETS: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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
        for (name, wanted) in [
            (OsString::from("/nowhere/hello.ulaw"), "/nowhere/hello.ulaw"),
            (OsString::from("/dev/zero"), "no ordinary file"),
            (OsString::from("/"), "no ordinary file"),
            (empty.path().into(), "no audio"),
        ] {
            let refused = sounds(&[name]).map_err(|refusal| refusal.text).expect_err(wanted);
            assert!(refused.contains(wanted), "{refused}");
        }
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let told = |words: &[&str]| password(&arguments(words)).map_err(|refusal| refusal.text);
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
    }
}
