//! Two baresip of Debian, one over TLS and one over UDP, registered at Kamailio through the farm: each hears the other's tone.

use crate::common::baresip::{self, Baresip, Settings};
use crate::common::certificates::Authority;
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::unit::counter;
use crate::common::{Unit, holds_within, namespace, peer};
use std::time::Duration;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";
const TLS: &str = "127.0.0.20:5061";
const BOX: &str = "127.0.0.31";

/// Starts a phone; over TLS, if the file of an authority is given.
fn start(unit: &Unit, settings: &Settings<'_>, authority: Option<&str>) -> Baresip {
    match authority {
        Some(authority) => baresip::start_over_tls(unit.folder(), settings, authority),
        None => baresip::start(unit.folder(), settings),
    }
}

fn call_with_one_over_tls(is_caller: bool) {
    let files = tempfile::tempdir().expect("the temporary folder can be written");
    let authority = Authority::new("authority of the test");
    let believed = authority.own_file(files.path(), "authority.pem");
    let certificate = authority.issue_file(files.path(), "farm.pem", &[FARM]);
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tls:{TLS}\"]\ncertificates = [\"{certificate}\"]\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{BOX}:5060\"\n"
    ));
    let server = Server { name: "a", realm: "shared", host: BOX, farm: FARM, users: "bonnie|clyde" };
    let _server = kamailio::start(unit.folder(), &server);
    let (callers, callees) = if is_caller { (TLS, UNIT) } else { (UNIT, TLS) };
    let over_tls = |proxy: &str| (proxy == TLS).then_some(believed.as_str());
    let called = Settings {
        user: "clyde",
        password: PASSWORD,
        host: "127.0.0.52",
        proxy: callees,
        hertz: 880,
        calls: None,
        seconds: 16,
    };
    let mut clyde = start(&unit, &called, over_tls(callees));
    let registered = || unit.registrations() == Some(1);
    assert!(holds_within(Duration::from_secs(8), registered), "{}\n{}", clyde.process.said(), unit.said());
    let target = format!("sip:clyde@{FARM}");
    let calling = Settings {
        user: "bonnie",
        host: "127.0.0.51",
        proxy: callers,
        hertz: 440,
        calls: Some(&target),
        seconds: 8,
        ..called
    };
    let mut bonnie = start(&unit, &calling, over_tls(callers));
    bonnie.process.wait(Duration::from_secs(20));
    clyde.process.wait(Duration::from_secs(20));
    bonnie.assert_hears(880.0, 440.0);
    clyde.assert_hears(440.0, 880.0);
    let status = unit.status();
    assert!(counter(&status, "connections_accepted", "") >= 1, "{status:#}");
    assert_eq!(counter(&status, "connections_opened", ""), 0, "the phone is called on its own connection: {status:#}");
}

#[test]
fn a_phone_over_tls_calls_one_over_udp() {
    if peer("baresip").is_none() || peer("kamailio").is_none() || !namespace() {
        return;
    }
    call_with_one_over_tls(true);
}

#[test]
fn a_phone_over_udp_calls_one_over_tls() {
    if peer("baresip").is_none() || peer("kamailio").is_none() || !namespace() {
        return;
    }
    call_with_one_over_tls(false);
}
