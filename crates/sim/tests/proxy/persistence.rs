//! What speaks for a certain box before the algorithm is asked: a challenge, a dialog, the registration of the callee, and
//! persistence.

use engine::{Maintenance, Persistence};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::{algorithm, trunk};
use sim::{Answer, Bench, Datagram, Script, Text, one_farm, phone_address};
use std::net::SocketAddr;

/// A farm that gives requests to its boxes in turn, the first one first, unless something speaks for another.
fn bench(boxes: usize, persistence: Persistence) -> Bench {
    Bench::new(one_farm(boxes, |farm| {
        for service in &mut farm.services {
            service.persistence = persistence.clone();
        }
        farm.trunks = vec![trunk("carrier", "198.51.100.0/28", phone_address(99))];
    }))
}

/// Sends a request and gives the index of the box that gets it.
fn placed(bench: &mut Bench, from: SocketAddr, request: &Script) -> usize {
    bench.send(from, request.build());
    bench.one_to_a_box().0
}

fn message(call_id: &str) -> Script {
    Script::new("MESSAGE").call_id(call_id).uri("sip:nobody@example.com")
}

fn register_script(user: &str, call_id: &str, phone: SocketAddr) -> Script {
    Script::new("REGISTER")
        .call_id(call_id)
        .uri("sip:example.com")
        .from(&format!("<sip:{user}@example.com>;tag={call_id}"))
        .to(&format!("<sip:{user}@example.com>"))
        .line(&format!("Contact: <sip:{user}@{phone}>;expires=600"))
}

/// Registers a user from this phone and gives the index of the box.
fn register(bench: &mut Bench, user: &str, call_id: &str, phone: SocketAddr) -> usize {
    bench.send(phone, register_script(user, call_id, phone).build());
    let (index, request) = bench.one_to_a_box();
    let contact = Text::read(&request.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&request, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(Text::read(&bench.one_to(phone).bytes).code(), Some(200));
    index
}

/// The box answers a failure; gives the next box and what it gets.
fn next_after(bench: &mut Bench, request: &Datagram, code: u16) -> (usize, Datagram) {
    bench.answer(request, &Answer::new(code));
    assert_eq!(bench.sent_to(request.to).len(), 1, "the ACK");
    bench.one_to_a_box()
}

/// A reload that changes the maintenance of one box.
fn maintain(bench: &mut Bench, index: usize, maintenance: Maintenance) {
    let now = bench.now();
    let mut settings = bench.balancer().settings().clone();
    for farm in &mut settings.farms {
        if let Some(backend) = farm.backends.get_mut(index) {
            backend.maintenance = maintenance;
        }
    }
    bench.balancer().replace_settings(now, settings);
}

#[test]
fn what_reaches_a_user_goes_to_the_box_that_holds_the_registration() {
    for (affinity, method, to_holder) in [
        (true, "INVITE", true),
        (true, "MESSAGE", true),
        (true, "SUBSCRIBE", true),
        (true, "OPTIONS", false),
        (true, "PUBLISH", false),
        (false, "INVITE", false),
        (false, "MESSAGE", false),
        (false, "OPTIONS", false),
    ] {
        let mut bench = Bench::new(one_farm(3, |farm| {
            for service in &mut farm.services {
                service.persistence = Persistence::None;
                service.callee_affinity = affinity;
            }
        }));
        assert_eq!(register(&mut bench, "clyde", "r", phone_address(1)), 0);
        let boxes = ["a", "b", "c"].map(|name| {
            let request = Script::new(method).call_id(name).uri("sip:clyde@example.com");
            placed(&mut bench, Bench::client_address(), &request)
        });
        let wanted = if to_holder { [0, 0, 0] } else { [1, 2, 0] };
        assert_eq!(boxes, wanted, "{method}, affinity: {affinity}");
    }
}

#[test]
fn a_call_tries_the_boxes_of_the_callee_once_each_the_newest_first() {
    let mut bench = bench(4, Persistence::None);
    for phone in 1..4 {
        assert_eq!(register(&mut bench, "clyde", &format!("r{phone}"), phone_address(phone)), phone - 1);
    }
    bench.send(Bench::client_address(), invite("a").build());
    let (newest, first) = bench.one_to_a_box();
    let (middle, second) = next_after(&mut bench, &first, 404);
    let (oldest, third) = next_after(&mut bench, &second, 480);
    assert_eq!([newest, middle, oldest], [2, 1, 0]);
    bench.answer(&third, &Answer::new(404));
    assert_eq!(bench.one_to_client().code(), Some(404));
}

#[test]
fn the_answer_to_a_challenge_goes_to_the_box_of_the_callee_that_asked() {
    let mut bench = bench(2, Persistence::None);
    for phone in 1..3 {
        register(&mut bench, "clyde", &format!("r{phone}"), phone_address(phone));
    }
    bench.send(Bench::client_address(), invite("a").build());
    let (newest, first) = bench.one_to_a_box();
    let (older, second) = next_after(&mut bench, &first, 404);
    assert_eq!((newest, older), (1, 0));
    bench.answer(&second, &Answer::new(401));
    assert_eq!(bench.one_to_client().code(), Some(401));
    bench.rest();
    assert_eq!(placed(&mut bench, Bench::client_address(), &invite("b").cseq(2)), older);
}

#[test]
fn a_call_to_the_box_of_the_callee_says_nothing_about_the_caller() {
    let mut bench = bench(2, Persistence::Source);
    assert_eq!(register(&mut bench, "clyde", "r", phone_address(1)), 0);
    assert_eq!(placed(&mut bench, Bench::client_address(), &invite("a")), 0);
    assert_eq!(placed(&mut bench, Bench::client_address(), &message("b")), 1, "the next in turn");
    assert_eq!(placed(&mut bench, Bench::client_address(), &message("c")), 1, "and there it stays");
}

#[test]
fn what_refers_to_a_dialog_goes_to_its_box() {
    let mut bench = bench(3, Persistence::None);
    for (index, call_id) in ["call-1", "call-2"].into_iter().enumerate() {
        assert_eq!(bench.establish(&invite(call_id), call_id).backend, index);
    }
    let references = [
        ("Replaces: call-1;to-tag=tt;from-tag=ft", 0),
        ("Join: call-2;to-tag=ft;from-tag=tt", 1),
        ("Target-Dialog: call-1;local-tag=ft;remote-tag=tt", 0),
        ("Replaces: call-1;to-tag=tt;from-tag=other", 2),
    ];
    for (number, (line, index)) in references.into_iter().enumerate() {
        let request = invite("refers").call_id(&format!("c{number}")).from("<sip:x@example.com>;tag=x").line(line);
        assert_eq!(placed(&mut bench, phone_address(5), &request), index, "{line}");
    }
}

#[test]
fn persistence_is_by_what_the_service_says() {
    // Source, Call-ID, From tag, X-Key.
    let requests = [(0, "x", "1", "k"), (0, "y", "2", "m"), (1, "x", "3", "m"), (1, "z", "4", "k")];
    for (persistence, wanted) in [
        (Persistence::Source, [0, 0, 1, 1]),
        (Persistence::CallId, [0, 1, 0, 2]),
        (Persistence::Header("X-Key".to_owned()), [0, 1, 1, 0]),
        (Persistence::Header("X-Absent".to_owned()), [0, 1, 2, 0]),
        (Persistence::User, [0, 1, 2, 0]),
        (Persistence::None, [0, 1, 2, 0]),
    ] {
        let mut bench = bench(3, persistence.clone());
        let boxes = requests.map(|(phone, call_id, tag, key)| {
            let request = message(call_id).branch(tag).from(&format!("<sip:bonnie@example.com>;tag={tag}"));
            placed(&mut bench, phone_address(phone), &request.line(&format!("X-Key: {key}")))
        });
        assert_eq!(boxes, wanted, "{persistence:?}");
    }
}

#[test]
fn a_registered_user_stays_on_the_box_whoever_registers_him() {
    let mut bench = bench(3, Persistence::User);
    let (client, carrier) = (Bench::client_address(), SocketAddr::from(([198, 51, 100, 3], 5060)));
    assert_eq!(register(&mut bench, "bonnie", "r1", client), 0);
    assert_eq!(register(&mut bench, "anonymous", "r2", phone_address(1)), 1);
    let third_party = register_script("bonnie", "r3", client).from("<sip:admin@example.com>;tag=admin");
    let anonymous = message("e").from("<sip:anonymous@example.com>;tag=e");
    let boxes = [
        placed(&mut bench, client, &message("a")),
        placed(&mut bench, phone_address(7), &message("b")),
        placed(&mut bench, client, &third_party),
        // Users whom we do not know: in turn.
        placed(&mut bench, carrier, &message("c")),
        placed(&mut bench, phone_address(1), &anonymous),
        placed(&mut bench, client, &message("d").from("<sip:x@example.com>;tag=x")),
    ];
    assert_eq!(boxes, [0, 0, 0, 2, 0, 1]);
}

#[test]
fn nothing_speaks_for_a_box_in_maintenance() {
    let mut bench = bench(2, Persistence::User);
    assert_eq!(register(&mut bench, "bonnie", "r", Bench::client_address()), 0);
    let both_ways = |bench: &mut Bench, name: &str| {
        let to_bonnie = Script::new("MESSAGE").uri("sip:bonnie@example.com").from("<sip:x@example.com>;tag=x");
        let from_bonnie = placed(bench, Bench::client_address(), &message(&format!("{name}from")));
        [from_bonnie, placed(bench, phone_address(5), &to_bonnie.call_id(&format!("{name}to")))]
    };
    assert_eq!(both_ways(&mut bench, "before"), [0, 0]);
    maintain(&mut bench, 0, Maintenance::Drain);
    assert_eq!(both_ways(&mut bench, "while"), [1, 1]);
    maintain(&mut bench, 0, Maintenance::Off);
    assert_eq!(both_ways(&mut bench, "after"), [0, 0]);
}

/// Otherwise what moved away from a box in maintenance would not come back to where every unit looks for it.
#[test]
fn nothing_is_stored_where_the_hash_says_the_same() {
    for (name, persistence) in [("hash-call-id", Persistence::CallId), ("hash-source", Persistence::Source)] {
        let mut bench = Bench::new(one_farm(3, |farm| {
            for service in &mut farm.services {
                service.algorithm = algorithm(name);
                service.persistence = persistence.clone();
            }
        }));
        let request = |tag: &str| message("c").branch(tag).from(&format!("<sip:bonnie@example.com>;tag={tag}"));
        let home = placed(&mut bench, Bench::client_address(), &request("1"));
        maintain(&mut bench, home, Maintenance::Drain);
        assert_ne!(placed(&mut bench, Bench::client_address(), &request("2")), home, "{name}");
        maintain(&mut bench, home, Maintenance::Off);
        assert_eq!(placed(&mut bench, Bench::client_address(), &request("3")), home, "{name}");
    }
}
