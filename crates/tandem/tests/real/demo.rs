//! The demo as a user sees it: calls with audio, PBXs that are killed, a capture, and a softphone that joins.

use crate::common::Process;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.arg("demo").args(arguments);
    command
}

fn play(arguments: &[&str]) -> (Output, String) {
    let output = demo(arguments).output().expect("the program was built");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

/// The lines that tell of one call each, while it happens.
fn calls(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("call ") && line.contains(" → ")).collect()
}

#[test]
fn three_calls_with_audio_both_ways() {
    if !crate::common::namespace() {
        return;
    }
    let (output, said) = play(&["--calls", "3", "--port-base", "5060"]);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let calls = calls(&said);
    assert_eq!(calls.len(), 3, "{said}");
    for (call, parties) in calls.iter().zip(["bonnie → clyde", "clyde → bonnie", "bonnie → clyde"]) {
        assert!(call.contains(parties) && call.ends_with("good"), "{call}");
        assert!(call.contains("via pbx") && call.contains(" 0 lost"), "{call}");
    }
    assert!(said.contains("calls: 3, good: 3, cut by a stop: 0, failed: 0"), "{said}");
    assert!(said.contains("user guest, password "), "{said}");
    assert!(said.contains("balancer  udp:127.0.0.1:5060, tls:127.0.0.1:5061"), "{said}");
    assert!(said.contains("Bonnie's phone is connected over TLS 1.3"), "{said}");
    for user in ["bonnie", "clyde"] {
        assert!(said.contains(&format!("{user} is registered at pbx")), "{said}");
    }
}

#[test]
fn calls_placed_after_a_box_was_killed_succeed() {
    if !crate::common::namespace() {
        return;
    }
    for killed in ["pbx1", "pbx2"] {
        let (output, said) = play(&["--calls", "5", "--stop", &format!("{killed}@1.5")]);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("{killed} is killed")), "{said}");
        let calls = calls(&said);
        assert_eq!(calls.len(), 5, "{said}");
        // The first call lasts longer than until the stop.
        for call in calls.iter().skip(1) {
            assert!(call.ends_with("good") && !call.contains(killed), "{call}\n{said}");
        }
    }
}

#[test]
fn without_any_box_the_demo_fails() {
    if !crate::common::namespace() {
        return;
    }
    let (output, said) = play(&["--calls", "3", "--stop", "pbx1@1", "--stop", "pbx2@1"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let calls = calls(&said);
    assert_eq!(calls.len(), 3, "{said}");
    for call in calls.iter().skip(1) {
        assert!(call.contains("failed: not answered"), "{call}");
    }
    assert!(said.contains("failed: 2"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_told_and_another_one_found() {
    if !crate::common::namespace() {
        return;
    }
    let _taken = std::net::UdpSocket::bind("127.0.0.11:5060").expect("every port of the namespace is free");
    let (output, said) = play(&["--calls", "1"]);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("balancer  udp:127.0.0.1:5160"), "{said}");
    let (output, _) = play(&["--calls", "1", "--port-base", "5060"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("127.0.0.11:5060") && errors.contains("--port-base"), "{errors}");
}

#[test]
fn the_port_for_tls_must_be_free_too() {
    if !crate::common::namespace() {
        return;
    }
    let _taken = std::net::TcpListener::bind("127.0.0.1:5061").expect("every port of the namespace is free");
    let (output, said) = play(&["--calls", "1"]);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("balancer  udp:127.0.0.1:5160, tls:127.0.0.1:5161"), "{said}");
}

/// What tshark reads from a capture: the given fields of the packets that `filter` takes, one packet per entry.
fn fields(tshark: &Path, capture: &Path, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new(tshark);
    command.arg("-n").arg("-r").arg(capture);
    // What went over TLS is written as datagrams too.
    command.args(["-d", "udp.port==5060,sip", "-d", "udp.port==5061,sip", "-d", "udp.port==6060,rtp"]);
    command.args(["-Y", filter, "-T", "fields"]);
    for name in names {
        command.args(["-e", name]);
    }
    let output = command.output().expect("tshark is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = String::from_utf8_lossy(&output.stdout).into_owned();
    rows.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The steps of the calls between the balancer and a phone, e.g. `> INVITE`, `< 180`; `>`: sent by the phone. Provisional 100 and
/// retransmissions are left out.
fn steps(tshark: &Path, capture: &Path, phone: &str) -> Vec<String> {
    let filter = format!("sip && ip.addr == {phone} && sip.CSeq.method in {{\"INVITE\", \"ACK\", \"BYE\"}}");
    let names = ["ip.src", "sip.Method", "sip.Status-Code"];
    let mut steps: Vec<String> = Vec::new();
    for row in fields(tshark, capture, &filter, &names) {
        let [source, method, status] = &row[..] else {
            panic!("three fields were asked for: {row:?}");
        };
        let arrow = if source == phone { ">" } else { "<" };
        let step = format!("{arrow} {method}{status}");
        if status != "100" && steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    steps
}

#[test]
fn the_capture_holds_every_step_and_the_audio_of_both() {
    if !crate::common::namespace() {
        return;
    }
    let Some(tshark) = crate::common::peer("tshark") else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let capture = folder.path().join("demo.pcap");
    let path = capture.to_str().expect("temporary folders have plain names");
    let (output, said) = play(&["--calls", "1", "--port-base", "5060", "--pcap", path]);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let caller = steps(&tshark, &capture, "127.0.0.21");
    assert_eq!(
        caller,
        ["> INVITE", "< 401", "> ACK", "> INVITE", "< 180", "< 200", "> ACK", "> BYE", "< 200"],
        "{said}"
    );
    let callee = steps(&tshark, &capture, "127.0.0.22");
    assert_eq!(callee, ["< INVITE", "> 180", "> 200", "< ACK", "< BYE", "> 200"], "{said}");

    let names = ["ip.src", "ip.dst", "rtp.p_type"];
    let audio = fields(&tshark, &capture, "rtp", &names);
    for (from, to) in [("127.0.0.21", "127.0.0.22"), ("127.0.0.22", "127.0.0.21")] {
        let packets = audio.iter().filter(|row| row[0] == from && row[1] == to && row[2] == "0").count();
        assert!((90..=115).contains(&packets), "{packets} packets from {from}");
    }
    let registers = fields(&tshark, &capture, "sip.Method == \"REGISTER\"", &["ip.src"]);
    assert!(registers.len() >= 4, "each phone registers, is challenged and registers again: {registers:?}");
    let bad = fields(&tshark, &capture, "_ws.malformed || ip.checksum.status == 0", &["frame.number"]);
    assert!(bad.is_empty(), "{bad:?}");
}

/// A WAV file of 8,000 samples a second, 16 bits, one channel.
fn wav(samples: &[i16]) -> Vec<u8> {
    let octets = samples.len() as u32 * 2;
    let mut file = b"RIFF".to_vec();
    file.extend_from_slice(&(36 + octets).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&8_000_u32.to_le_bytes());
    file.extend_from_slice(&16_000_u32.to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&octets.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// The samples of such a file.
fn samples(file: &[u8]) -> Vec<i16> {
    let (header, data) = file.split_at_checked(44).expect("a WAV file has a header");
    assert_eq!(header.get(20..24), Some(&b"\x01\0\x01\0"[..]), "linear samples of one channel");
    assert_eq!(header.get(24..28), Some(&8_000_u32.to_le_bytes()[..]), "8,000 samples a second");
    data.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Writes the files with which baresip becomes the guest: it speaks 1,000 Hz and records both directions into `folder`.
fn prepare_guest(folder: &Path, farm: &str) {
    let spoken = sip::g711::tone(1_000.0, 8_000, 8_000 * 8, 8_000);
    std::fs::write(folder.join("spoken.wav"), wav(&spoken)).expect("the folder is ours");
    let here = folder.display();
    let modules = "module g711.so\nmodule aufile.so\nmodule sndfile.so\nmodule_app account.so\nmodule_app menu.so\n";
    let config = format!(
        "module_path /usr/lib/baresip/modules\n{modules}net_interface 127.0.0.1\nsip_listen 127.0.0.1:5999\n\
         rtp_ports 17000-17100\naudio_source aufile,{here}/spoken.wav\nsnd_path {here}\n"
    );
    std::fs::write(folder.join("config"), config).expect("the folder is ours");
    let account = format!("<sip:guest@{farm};transport=udp>;auth_pass=welcome;regint=60;audio_codecs=PCMU\n");
    std::fs::write(folder.join("accounts"), account).expect("the folder is ours");
    std::fs::write(folder.join("contacts"), "").expect("the folder is ours");
}

/// What baresip recorded of the other side.
fn recording(folder: &Path) -> Option<Vec<i16>> {
    let entries = std::fs::read_dir(folder).expect("the folder is ours");
    let file = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-dec.wav"))?;
    Some(samples(&std::fs::read(file).expect("baresip wrote it")))
}

#[test]
fn baresip_joins_as_the_guest_and_hears_clyde() {
    if !crate::common::namespace() {
        return;
    }
    let Some(baresip) = crate::common::peer("baresip") else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let farm = "127.0.0.1:5060";
    prepare_guest(folder.path(), farm);
    let mut running = Process::start(&mut demo(&["--port-base", "5060"]), "demo", folder.path());
    let started =
        crate::common::holds_within(Duration::from_secs(15), || running.output().contains("Ctrl-C ends the demo"));
    assert!(started, "{}", running.said());

    let mut command = Command::new(baresip);
    command.arg("-f").arg(folder.path()).args(["-t", "6", "-e", &format!("/dial sip:clyde@{farm}")]);
    let mut guest = Process::start(&mut command, "baresip", folder.path());
    guest.wait(Duration::from_secs(20));

    // Its own calls went on meanwhile, and well.
    running.signal("INT");
    let status = running.wait(Duration::from_secs(15));
    assert!(status.success(), "{}{}", running.said(), guest.said());
    let said = running.output();
    assert!(said.contains("guest is registered at pbx"), "{said}");
    assert!(said.lines().any(|line| line.contains("guest@") && line.contains("calls clyde")), "{said}");

    let heard = recording(folder.path()).unwrap_or_else(|| panic!("nothing was recorded: {}", guest.said()));
    let windows: Vec<&[i16]> = heard.chunks_exact(1_600).collect();
    let clear = windows.iter().filter(|window| sip::g711::tone_power(window, 880.0) > 0.8).count();
    assert!(clear >= 10, "{clear} of {} windows of 200 ms hold Clyde's tone: {}", windows.len(), guest.said());
}
