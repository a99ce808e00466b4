//! Two baresip of Debian behind the farm, registered at two Kamailio: each hears the other's tone.

use crate::common::baresip::{self, Settings};
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::{Unit, holds_within, namespace, peer};
use std::time::Duration;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";

#[test]
fn two_phones_hear_each_others_tone() {
    if peer("baresip").is_none() || peer("kamailio").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"127.0.0.31:5060\"\n\
         [[farm.backend]]\nname = \"b\"\naddress = \"127.0.0.32:5060\"\n"
    ));
    let _first = kamailio::start(unit.folder(), &server("a", "127.0.0.31"));
    let _second = kamailio::start(unit.folder(), &server("b", "127.0.0.32"));
    let mut clyde = baresip::start(unit.folder(), &phone("clyde", "127.0.0.52", 880, None, 14));
    assert!(registered(&unit, 1), "{}\n{}", clyde.process.said(), unit.said());
    let target = format!("sip:clyde@{FARM}");
    let mut bonnie = baresip::start(unit.folder(), &phone("bonnie", "127.0.0.51", 440, Some(&target), 8));
    bonnie.process.wait(Duration::from_secs(20));
    clyde.process.wait(Duration::from_secs(20));
    bonnie.assert_hears(880.0, 440.0);
    clyde.assert_hears(440.0, 880.0);
}

fn server<'a>(name: &'a str, host: &'a str) -> Server<'a> {
    Server { name, realm: "shared", host, farm: FARM, users: "bonnie|clyde" }
}

fn phone<'a>(user: &'a str, host: &'a str, hertz: u32, calls: Option<&'a str>, seconds: u32) -> Settings<'a> {
    Settings { user, password: PASSWORD, host, proxy: UNIT, hertz, calls, seconds }
}

fn registered(unit: &Unit, count: u64) -> bool {
    holds_within(Duration::from_secs(8), || unit.registrations() == Some(count))
}
