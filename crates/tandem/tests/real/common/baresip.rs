//! Debian's baresip as a phone: it sends a tone and records what it hears (its aufile cannot play into a file, its sndfile can).

use super::Process;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running baresip.
pub struct Baresip {
    pub process: Process,
    home: PathBuf,
}

/// What it is told.
pub struct Settings<'a> {
    pub user: &'a str,
    pub password: &'a str,
    /// Its address; it uses port 5060.
    pub host: &'a str,
    /// Host and port of its outbound proxy and registrar.
    pub proxy: &'a str,
    /// Of the tone that it sends.
    pub hertz: u32,
    /// Whom it calls at once, if anybody; else it answers by itself.
    pub calls: Option<&'a str>,
    /// Ends itself after so long.
    pub seconds: u32,
}

impl Baresip {
    /// What it heard, as samples; whole once it has ended.
    fn heard(&self) -> Vec<i16> {
        let entries = std::fs::read_dir(&self.home).expect("the folder is ours");
        let mut paths = entries.filter_map(|entry| entry.ok()).map(|entry| entry.path());
        let heard = paths.find(|path| path.to_string_lossy().ends_with("-dec.wav"));
        heard.map_or_else(Vec::new, |file| samples(&file))
    }

    /// At least a second of the other's tone, and nothing of its own. To be asked once it has ended.
    ///
    /// # Panics
    /// If it heard anything else.
    pub fn assert_hears(&self, other: f64, own: f64) {
        let (samples, said) = (self.heard(), self.process.said());
        assert!(samples.len() >= 8_000, "{} samples\n{said}", samples.len());
        // Away from the beginning and the end, where there may be silence.
        let middle = &samples[samples.len() / 3..samples.len() * 2 / 3];
        let (theirs, mine) = (sip::g711::tone_power(middle, other), sip::g711::tone_power(middle, own));
        assert!(theirs > 0.0 && theirs > 50.0 * mine, "{theirs} at {other} Hz, {mine} at {own} Hz\n{said}");
    }
}

pub fn start(folder: &Path, settings: &Settings<'_>) -> Baresip {
    launch(folder, settings, "", "")
}

/// The same, but it signals over TLS, and believes the authority in this file.
pub fn start_over_tls(folder: &Path, settings: &Settings<'_>, authority: &str) -> Baresip {
    launch(folder, settings, ";transport=tls", &format!("sip_cafile {authority}\n"))
}

/// `transport` is written behind the URIs of its account and its proxy, `lines` into its configuration.
fn launch(folder: &Path, settings: &Settings<'_>, transport: &str, lines: &str) -> Baresip {
    let home = folder.join(format!("baresip-{}", settings.user));
    std::fs::create_dir_all(&home).expect("the folder is ours");
    let tone = home.join("tone.wav");
    std::fs::write(&tone, wav(settings.hertz)).expect("the folder is ours");
    let config = CONFIG
        .replace("HOST", settings.host)
        .replace("TONE", &tone.to_string_lossy())
        .replace("HOME", &home.to_string_lossy());
    let config = lines.to_owned() + &config;
    let (user, password, proxy) = (settings.user, settings.password, settings.proxy);
    let domain = proxy.split_once(':').map_or(proxy, |(host, _)| host);
    let account = format!(
        "<sip:{user}@{domain}{transport}>;auth_user={user};auth_pass={password};outbound=\"sip:{proxy}{transport}\";regint=300;\
         audio_codecs=pcmu;answermode=auto\n"
    );
    for (name, text) in [("config", config.as_str()), ("accounts", account.as_str()), ("contacts", "")] {
        std::fs::write(home.join(name), text).expect("the folder is ours");
    }
    let mut command = Command::new("baresip");
    command.arg("-v").arg("-f").arg(&home).args(["-t", &settings.seconds.to_string()]);
    if let Some(target) = settings.calls {
        command.args(["-e", &format!("/dial {target}")]);
    }
    let process = Process::start(&mut command, &format!("baresip-{user}"), folder);
    Baresip { process, home }
}

/// Half a minute of a tone: a WAV file of one channel, 16 bits and 8,000 samples a second.
fn wav(hertz: u32) -> Vec<u8> {
    let samples = sip::g711::tone(f64::from(hertz), 8_000, 30 * 8_000, 8_000);
    let length = u32::try_from(samples.len() * 2).expect("half a minute is short");
    let mut out = b"RIFF".to_vec();
    out.extend_from_slice(&(36 + length).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&16_u32.to_le_bytes());
    // PCM, one channel, and how many octets a second and a sample have.
    for half in [1_u16, 1] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for whole in [8_000_u32, 16_000] {
        out.extend_from_slice(&whole.to_le_bytes());
    }
    for half in [2_u16, 16] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out.extend_from_slice(b"data");
    out.extend_from_slice(&length.to_le_bytes());
    for sample in samples {
        out.extend_from_slice(&sample.to_le_bytes());
    }
    out
}

/// The samples of a WAV file of one channel and 16 bits.
fn samples(file: &Path) -> Vec<i16> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let data = bytes.windows(4).position(|part| part == b"data");
    let start = data.map_or(bytes.len(), |at| (at + 8).min(bytes.len()));
    bytes[start..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

const CONFIG: &str = "poll_method epoll
sip_listen HOST:5060
net_interface HOST
audio_source aufile,TONE
snd_path HOME
rtp_ports 10000-10100
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module aufile.so
module sndfile.so
module_tmp account.so
module_app menu.so
";
