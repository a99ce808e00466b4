//! `max_expires` with registrars of Debian's: phones are told a minute and the box keeps them for longer, until it dies.

use super::{FARM, FIRST, SECOND, UNIT, state};
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::phone::Phone;
use crate::common::unit::{backend, counter};
use crate::common::{Unit, holds_within, namespace, peer};
use serde_json::Value;
use std::time::Duration;

#[test]
fn phones_are_told_a_minute_and_move_when_their_box_dies() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\nmax_expires = \"60s\"\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{FIRST}:5060\"\n\
         [[farm.backend]]\nname = \"b\"\naddress = \"{SECOND}:5060\"\npriority = 2\n"
    ));
    let start = |name, host| {
        let server = Server { name, realm: "shared", host, farm: FARM, users: "bonnie" };
        kamailio::start(unit.folder(), &server)
    };
    let first = start("a", FIRST);
    let _second = start("b", SECOND);
    // It asks for five minutes.
    let phone = Phone::start("bonnie", PASSWORD, "127.0.0.51", UNIT, Duration::ZERO);
    let answered_here = || counter(&unit.status(), "refreshes_answered", "");
    for asked in 0..3 {
        phone.register_for(60);
        assert_eq!(answered_here(), asked, "the box is asked once\n{}", unit.said());
    }
    drop(first);
    let is_down = || state(&unit.status(), "a") == "down";
    assert!(holds_within(Duration::from_secs(40), is_down), "{:#}", unit.status());
    let asked = |name: &str| backend(&unit.status(), name).and_then(|one| one.get("requests")).and_then(Value::as_u64);
    assert_eq!((asked("a").is_some_and(|asked| asked > 0), asked("b")), (true, Some(0)), "{}", unit.said());
    phone.register_for(60);
    assert!(asked("b").is_some_and(|asked| asked > 0), "the user has moved: {:#}", unit.status());
    assert_eq!(unit.registrations(), Some(1));
    let last = answered_here();
    phone.register_for(60);
    assert_eq!(answered_here(), last + 1, "{}", unit.said());
}
