//! `tandem check-sip` over every transport, through a farm that listens for all of them.

use super::{EchoBox, FARM, FIRST, UNIT, World, printed, tandem};
use crate::common::certificates::Authority;
use crate::common::{Unit, namespace};

/// Where the farm listens for secure streams and for web pages.
const TLS: &str = "127.0.0.20:5061";
const WS: &str = "127.0.0.20:5062";
const WSS: &str = "127.0.0.20:5063";

#[test]
fn a_check_registers_calls_and_hears_over_every_transport() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let authority = Authority::new("authority of the test");
    let believed = authority.own_file(world.path(), "authority.pem");
    let certificate = authority.issue_file(world.path(), "farm.pem", &[FARM]);
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tcp:{UNIT}\", \"tls:{TLS}\", \"ws:{WS}\", \"wss:{WSS}\"]\n\
         certificates = [\"{certificate}\"]\n[[farm.backend]]\nname = \"a\"\naddress = \"{FIRST}:5060\"\n"
    ));
    let server = EchoBox::at(FIRST);
    let sound = world.sound();
    for (calls, (transport, at)) in (1..).zip([("udp", UNIT), ("tcp", UNIT), ("tls", TLS), ("ws", WS), ("wss", WSS)]) {
        let options = ["--transport", transport, "--tls-verify", &believed, "-P", at, "-S", &sound, "--min-mos", "4"];
        let line = ["check-sip", "-T", "9", "sip:bonnie@example.com", "sip:clyde@example.com"];
        let output = tandem(&[&line[..3], &options, &line[3..]].concat());
        assert_eq!(output.status.code(), Some(0), "{transport}: {}\n{}", printed(&output), unit.said());
        let known = server.known();
        assert_eq!((known.calls, known.registrations), (calls, 2 * calls), "{transport}: {known:?}");
        assert!(known.up.is_empty() && known.bound.is_empty(), "{transport}: {known:?}");
        assert_eq!(unit.registrations(), Some(0), "{transport}");
    }
    // A certificate that nobody vouches for is refused before anything is said.
    let refused = tandem(&[
        "check-sip",
        "-T",
        "5",
        "--transport",
        "tls",
        "-P",
        TLS,
        "sip:bonnie@example.com",
        "sip:clyde@example.com",
    ]);
    assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
    assert_eq!(server.known().calls, 5);
}
