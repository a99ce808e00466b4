//! When a request goes to another box and when it stays (RFC 3261 §16.7 step 6): which answers speak of the box, and what an outage
//! moves.

use crate::steps::{
    SILENCE, bench, call, calls, client, counted, events, heard, millis, name, of_box, outage, register, register_by,
    registering, seconds,
};
use engine::{BackendId, Egress, Event, Failover, Farm, FarmId, Maintenance, Persistence, Place, Service, Transport};
use sim::bench::{SHARDS, invite};
use sim::settings::{backend, peer_address, service, trunk};
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A request's first box answers it so: did another box get it, and what did the client hear?
fn after(bench: &mut Bench, request: &Script, code: u16) -> (bool, Vec<String>) {
    bench.send(client(), request.build());
    let (_, first) = bench.one_to_a_box();
    bench.answer(&first, &Answer::new(code));
    bench.sent_to(first.to);
    let answers = heard(bench, client());
    (!bench.rest().is_empty(), answers)
}

#[test]
fn only_a_listed_code_speaks_of_the_box() {
    for method in ["INVITE", "MESSAGE", "SUBSCRIBE"] {
        for code in [302, 401, 403, 404, 480, 486, 500, 502, 504, 600] {
            let result = after(&mut bench(2), &Script::new(method), code);
            assert_eq!(result, (false, vec![format!("{code} {method}")]));
        }
        assert_eq!(after(&mut bench(2), &Script::new(method), 503), (true, Vec::new()), "{method}");
    }
}

#[test]
fn the_codes_that_count_are_those_of_the_service() {
    for (code, moves) in [(480, true), (500, true), (503, false), (486, false)] {
        let mut bench = Bench::new(one_farm(2, |farm| {
            for service in &mut farm.services {
                service.failover.codes = vec![480, 500];
            }
        }));
        assert_eq!(after(&mut bench, &Script::new("MESSAGE"), code).0, moves, "{code}");
    }
}

/// The box that registered the callee is asked first; where it does not know her any more, or does not know the caller, others may.
#[test]
fn the_box_of_the_callee_may_have_lost_her() {
    for method in ["INVITE", "MESSAGE"] {
        for (code, moves) in
            [(403, true), (404, true), (480, true), (503, true), (401, false), (408, false), (486, false), (500, false)]
        {
            let mut bench = bench(2);
            let (home, _) = register(&mut bench, "bonnie");
            let request = Script::new(method).uri("sip:bonnie@example.com").from("<sip:dora@example.com>;tag=d");
            bench.send(client(), request.build());
            let first = bench.one_to(box_address(home));
            bench.answer(&first, &Answer::new(code));
            let moved = heard(&mut bench, box_address(1 - home));
            assert_eq!(moved.contains(&method.to_owned()), moves, "{code} {method}");
            let backend = BackendId::of("pbx", &format!("pbx{}", home + 1), box_address(home));
            let refused = Event::AffinityRefused { farm: FarmId::of("pbx"), backend };
            let wanted: Vec<Event> = if code == 403 { vec![refused] } else { Vec::new() };
            assert_eq!(events(&mut bench), wanted, "{code} {method}");
        }
    }
}

#[test]
fn each_attempt_is_counted() {
    let mut bench = bench(3);
    let (_, first) = call(&mut bench);
    bench.answer(&first, &Answer::new(486));
    assert_eq!((counted(&mut bench, "failovers"), counted(&mut bench, "requests_forwarded")), (0, 1));
    bench.rest();
    bench.send(client(), invite("b").call_id("b").build());
    for attempt in 1..=2 {
        let (_, request) = bench.one_to_a_box();
        bench.answer(&request, &Answer::new(503));
        bench.sent_to(request.to);
        assert_eq!(counted(&mut bench, "failovers"), attempt);
    }
    assert_eq!(counted(&mut bench, "requests_forwarded"), 4);
}

/// A call that rings.
fn ringing(bench: &mut Bench, call_id: &str) -> Datagram {
    bench.send(client(), invite(call_id).call_id(call_id).build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(180));
    request
}

#[test]
fn calls_of_a_box_that_goes_down_move_and_no_others_do() {
    let mut bench = bench(3);
    let one = ringing(&mut bench, "one");
    let two = ringing(&mut bench, "two");
    assert_ne!(one.to, two.to);
    let sent = outage(&mut bench, "one");
    let moved: Vec<String> = sent.iter().map(name).collect();
    assert_eq!(
        moved,
        ["INVITE", "CANCEL"],
        "it rings on at the box that may yet come back, until that hears the CANCEL"
    );
    assert!(sent.iter().all(|sent| Text::read(&sent.bytes).header("Call-ID") == Some("one")));
    let places: Vec<bool> = sent.iter().map(|sent| sent.to == one.to).collect();
    assert_eq!(places, [false, true]);
}

#[test]
fn a_call_that_was_refused_or_cancelled_does_not_move() {
    for cancelled in [false, true] {
        let mut bench = bench(2);
        let (_, request) = call(&mut bench);
        if cancelled {
            bench.answer(&request, &Answer::new(180));
            crate::steps::cancel(&mut bench);
        } else {
            bench.answer(&request, &Answer::new(486));
        }
        let sent: Vec<String> = outage(&mut bench, "call-1").iter().map(name).collect();
        assert_eq!(sent, SILENCE, "cancelled: {cancelled}");
    }
}

/// Whether it was done is not known, so that it must not be done twice: it waits for its box.
#[test]
fn a_request_other_than_invite_does_not_move_with_an_outage() {
    let mut bench = bench(2);
    bench.send(client(), Script::new("INFO").build());
    let (index, _) = bench.one_to_a_box();
    outage(&mut bench, "call-1");
    bench.advance(seconds(10));
    assert!(!heard(&mut bench, box_address(1 - index)).contains(&"INFO".to_owned()));
    assert!(heard(&mut bench, box_address(index)).contains(&"INFO".to_owned()));
}

/// Phones wait 32 s for an answer; 4 s after its box went down a request within a dialog gets 481, and the call is over.
#[test]
fn a_request_within_a_dialog_waits_4_s_for_a_box_that_is_down() {
    for sent_before in [true, false] {
        let mut bench = bench(2);
        let dialog = bench.establish(&invite("a"), "call-1");
        let info = dialog.client_request("INFO", 2).build();
        if sent_before {
            bench.send(client(), &info);
            bench.advance(seconds(1));
        }
        outage(&mut bench, "call-1");
        if !sent_before {
            bench.send(client(), &info);
        }
        bench.advance(millis(3_900));
        assert_eq!((heard(&mut bench, client()), calls(&mut bench)), (Vec::new(), 1), "sent before: {sent_before}");
        bench.advance(millis(200));
        assert_eq!((heard(&mut bench, client()), calls(&mut bench)), (vec!["481 INFO".to_owned()], 0));
        let elsewhere = heard(&mut bench, box_address(1 - dialog.backend));
        assert!(!elsewhere.contains(&"INFO".to_owned()), "within a dialog nothing moves");
    }
}

#[test]
fn a_box_that_says_100_is_waited_for() {
    let mut bench = bench(2);
    let dialog = bench.establish(&invite("a"), "call-1");
    outage(&mut bench, "call-1");
    bench.send(client(), dialog.client_request("INFO", 2).build());
    let info = bench.one_to(box_address(dialog.backend));
    bench.answer(&info, &Answer::new(100));
    bench.advance(seconds(6));
    assert_eq!(heard(&mut bench, client()), SILENCE);
    bench.answer(&info, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 INFO"]);
    assert_eq!(calls(&mut bench), 1);
}

/// The next turn of each shard is with the new configuration.
#[test]
fn a_reload_is_taken_up_at_once() {
    let mut bench = bench(1);
    for (name, wanted) in [("before", Some("client")), ("after", None)] {
        bench.send(client(), invite(name).call_id(name).build());
        let (_, request) = bench.one_to_a_box();
        assert_eq!(Text::read(&request.bytes).header("X-Tandem-Origin"), wanted);
        let mut settings = bench.balancer().settings().clone();
        for farm in &mut settings.farms {
            farm.origin_header = None;
        }
        let now = bench.now();
        bench.balancer().replace_settings(now, settings);
    }
}

fn reload(bench: &mut Bench, change: impl FnOnce(&mut Farm)) {
    let mut settings = bench.balancer().settings().clone();
    change(settings.farms.first_mut().expect("the bench has a farm"));
    let now = bench.now();
    bench.balancer().replace_settings(now, settings);
}

/// The boxes stand in another order, and before their service another one with a box of its own, where no answer speaks of it.
fn number_anew(farm: &mut Farm) {
    farm.backends.reverse();
    let failover = Failover { codes: Vec::new(), ..Failover::default() };
    farm.services.insert(0, Service { failover, ..service("other", vec![farm.backends.len()]) });
    farm.backends.push(backend("another", box_address(9)));
}

#[test]
fn a_request_that_waited_through_a_reload_moves_as_before() {
    let failures: [fn(&mut Bench, &Datagram); 3] = [
        |bench, _| bench.advance(millis(2_100)),
        |bench, request| bench.answer(request, &Answer::new(503)),
        |bench, request| bench.return_undelivered(request),
    ];
    for (index, fail) in failures.into_iter().enumerate() {
        let mut bench = bench(2);
        let (first, request) = call(&mut bench);
        reload(&mut bench, number_anew);
        fail(&mut bench, &request);
        assert_eq!(heard(&mut bench, box_address(1 - first)), ["INVITE"], "failure {index}");
    }
}

/// The box of the callee comes first; which other boxes hold a binding of hers is not remembered over a reload.
#[test]
fn a_request_that_follows_a_binding_moves_after_a_reload_as_well() {
    for code in [404, 503] {
        let mut bench = bench(2);
        let (home, _) = register(&mut bench, "bonnie");
        bench.send(client(), invite("a").uri("sip:bonnie@example.com").from("<sip:dora@example.com>;tag=d").build());
        let first = bench.one_to(box_address(home));
        reload(&mut bench, number_anew);
        bench.answer(&first, &Answer::new(code));
        assert_eq!(heard(&mut bench, box_address(1 - home)), ["INVITE"], "{code}");
    }
}

#[test]
fn a_request_out_of_the_farm_that_waited_through_a_reload_moves_to_its_next_place() {
    let places = [peer_address(0), peer_address(1)];
    let mut bench = Bench::new(one_farm(1, |farm| {
        let mut carrier = trunk("carrier", "203.0.113.0/24", peer_address(0));
        carrier.out.push(Place { transport: Transport::Udp, address: peer_address(1), host: None });
        farm.trunks = vec![carrier];
        for service in &mut farm.services {
            service.egress = vec![Egress::Trunk(0)];
        }
    }));
    bench.send(box_address(0), of_box(0, "INVITE", "a").uri("tel:+15551234").build());
    let request = bench.one_to(places[0]);
    reload(&mut bench, number_anew);
    bench.answer(&request, &Answer::new(503));
    assert_eq!(heard(&mut bench, places[1]), ["INVITE"]);
}

#[test]
fn a_request_whose_service_or_farm_a_reload_took_away_does_not_move() {
    let changes: [fn(&mut Farm); 2] = [
        |farm| farm.services.iter_mut().for_each(|service| service.name = "other".to_owned()),
        |farm| farm.id = FarmId::of("other"),
    ];
    for change in changes {
        let mut bench = bench(2);
        let (_, request) = call(&mut bench);
        reload(&mut bench, change);
        bench.answer(&request, &Answer::new(503));
        assert!(heard(&mut bench, client()).contains(&"500 INVITE".to_owned()));
    }
}

/// One box sends a request to Bonnie, who is registered at the other one. The index of her box, and what that got.
fn asked_by_other_box(bench: &mut Bench, method: &str) -> (usize, Datagram) {
    let (home, _) = register(bench, "bonnie");
    bench.send(box_address(1 - home), of_box(1 - home, method, method).uri("sip:bonnie@example.com").build());
    (home, bench.one_to(box_address(home)))
}

#[test]
fn a_call_that_the_box_of_the_callee_does_not_take_goes_to_her_phone() {
    let failures: [fn(&mut Bench, &Datagram); 3] = [
        |bench, _| bench.advance(millis(2_100)),
        |bench, request| bench.answer(request, &Answer::new(503)),
        |bench, request| bench.return_undelivered(request),
    ];
    for (index, fail) in failures.into_iter().enumerate() {
        for reloaded in [false, true] {
            let mut bench = bench(2);
            let (home, request) = asked_by_other_box(&mut bench, "INVITE");
            if reloaded {
                reload(&mut bench, number_anew);
            }
            fail(&mut bench, &request);
            let again = bench.one_to(client());
            let failure = format!("failure {index}, reloaded: {reloaded}");
            assert_eq!(Text::read(&again.bytes).start, "INVITE sip:bonnie@10.1.0.1:5060 SIP/2.0", "{failure}");
            assert_eq!(counted(&mut bench, "failovers"), 1, "{failure}");
            bench.answer(&again, &Answer::new(200));
            assert!(heard(&mut bench, box_address(1 - home)).contains(&"200 INVITE".to_owned()), "{failure}");
        }
    }
}

/// The box that calls has found out by a text of its own that the other one is unreachable.
#[test]
fn a_call_that_rings_at_the_box_of_the_callee_goes_to_her_phone_when_that_box_goes_down() {
    for code in [100, 180] {
        let mut bench = bench(2);
        let (home, request) = asked_by_other_box(&mut bench, "INVITE");
        bench.answer(&request, &Answer::new(code));
        bench.advance(seconds(3));
        bench.rest();
        let text = of_box(1 - home, "MESSAGE", "text").call_id("text").uri("sip:bonnie@example.com");
        bench.send(box_address(1 - home), text.build());
        let text = bench.one_to(box_address(home));
        // Each shard follows an outage at its next turn: with the second report all of them have had one.
        bench.return_undelivered(&text);
        bench.return_undelivered(&text);
        let sent: Vec<(String, SocketAddr)> = bench.rest().iter().map(|sent| (name(sent), sent.to)).collect();
        let of_call: Vec<_> = sent.iter().filter(|(name, _)| name != "MESSAGE").cloned().collect();
        let wanted = [("INVITE".to_owned(), client()), ("CANCEL".to_owned(), box_address(home))];
        assert_eq!(of_call, wanted, "{code}");
        assert!(sent.contains(&("MESSAGE".to_owned(), client())), "the text goes there as well");
    }
}

#[test]
fn the_phone_of_the_callee_is_the_last_resort() {
    for silent in [false, true] {
        let mut bench = bench(2);
        let (home, request) = asked_by_other_box(&mut bench, "INVITE");
        bench.return_undelivered(&request);
        let again = bench.one_to(client());
        if silent {
            bench.advance(seconds(10));
            let copies = bench.sent_to(client());
            assert!(!copies.is_empty() && copies.iter().all(|copy| copy.bytes == again.bytes));
            assert_eq!(heard(&mut bench, box_address(1 - home)), ["100 INVITE"]);
        } else {
            bench.answer(&again, &Answer::new(503));
            assert_eq!(heard(&mut bench, client()), ["ACK"]);
            assert_eq!(heard(&mut bench, box_address(1 - home)), ["500 INVITE"]);
        }
        assert_eq!(counted(&mut bench, "failovers"), 1, "silent: {silent}");
    }
}

#[test]
fn the_phone_of_the_callee_is_one_of_the_attempts() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        for service in &mut farm.services {
            service.failover.attempts = 1;
        }
    }));
    let (home, request) = asked_by_other_box(&mut bench, "INVITE");
    bench.return_undelivered(&request);
    assert_eq!(heard(&mut bench, client()), SILENCE);
    assert_eq!(heard(&mut bench, box_address(1 - home)), ["500 INVITE"]);
}

/// The phone must not be asked behind the back of a box that refuses for its user.
#[test]
fn what_the_box_of_the_callee_refuses_does_not_reach_her_phone() {
    for method in ["INVITE", "MESSAGE"] {
        for code in [401, 403, 404, 480, 486, 500, 603] {
            let mut bench = bench(2);
            let (home, request) = asked_by_other_box(&mut bench, method);
            bench.answer(&request, &Answer::new(code));
            assert_eq!(heard(&mut bench, client()), SILENCE, "{code}");
            assert_eq!(heard(&mut bench, box_address(1 - home)), [format!("{code} {method}")]);
        }
    }
}

#[test]
fn between_boxes_the_codes_of_the_service_of_the_one_that_is_asked_count() {
    for (code, moves) in [(480, true), (500, false), (503, false)] {
        let mut bench = Bench::new(one_farm(2, |farm| {
            let of_one_box = |(name, index, code)| {
                let failover = Failover { codes: vec![code], ..Failover::default() };
                Service { failover, ..service(name, vec![index]) }
            };
            farm.services = [("first", 0, 480), ("second", 1, 500)].map(of_one_box).into();
        }));
        let (home, request) = asked_by_other_box(&mut bench, "INVITE");
        assert_eq!(home, 0, "clients belong to the first service");
        bench.answer(&request, &Answer::new(code));
        assert_eq!(heard(&mut bench, client()).contains(&"INVITE".to_owned()), moves, "{code}");
    }
}

#[test]
fn a_callee_who_is_gone_meanwhile_is_not_looked_for() {
    let mut bench = bench(2);
    let (home, request) = asked_by_other_box(&mut bench, "INVITE");
    bench.send(client(), registering("bonnie").branch("again").cseq(2).build());
    let registration = bench.one_to(box_address(home));
    // Her box does not list her.
    bench.answer(&registration, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 REGISTER"]);
    bench.return_undelivered(&request);
    assert_eq!(heard(&mut bench, client()), SILENCE);
    assert_eq!(heard(&mut bench, box_address(1 - home)), ["500 INVITE"]);
}

/// It is the box that calls her: she was not there when it asked.
#[test]
fn a_callee_who_has_moved_to_another_box_meanwhile_is_called_there() {
    let mut bench = bench(2);
    let (home, request) = asked_by_other_box(&mut bench, "INVITE");
    reload(&mut bench, |farm| {
        if let Some(backend) = farm.backends.get_mut(home) {
            backend.maintenance = Maintenance::Drain;
        }
    });
    let (moved_to, _) = register_by(&mut bench, &registering("bonnie").branch("again").cseq(2));
    assert_eq!(moved_to, 1 - home);
    bench.return_undelivered(&request);
    assert_eq!(bench.one_to_client().uri(), "sip:bonnie@10.1.0.1:5060");
}

#[test]
fn each_box_of_the_callee_comes_before_her_phone() {
    let mut bench = Bench::new(one_farm(3, |farm| {
        for service in &mut farm.services {
            service.persistence = Persistence::None;
        }
    }));
    let homes = ["one", "two"].map(|phone| {
        let script = Script::new("REGISTER")
            .branch(phone)
            .call_id(phone)
            .uri("sip:example.com")
            .from(&format!("<sip:bonnie@example.com>;tag={phone}"))
            .to("<sip:bonnie@example.com>")
            .line(&format!("Contact: <sip:{phone}@10.1.0.1:5060>;expires=600"));
        register_by(&mut bench, &script).0
    });
    assert_eq!(homes, [0, 1]);
    bench.send(box_address(2), of_box(2, "INVITE", "call").uri("sip:bonnie@example.com").build());
    for home in [1, 0] {
        let request = bench.one_to(box_address(home));
        bench.return_undelivered(&request);
    }
    assert_eq!(bench.one_to_client().uri(), "sip:two@10.1.0.1:5060", "the newest");
    assert_eq!(counted(&mut bench, "failovers"), 2);
}

/// Its answer was lost on the way to the box. It was done at the phone, and must not be done twice.
#[test]
fn a_request_that_went_to_the_phone_of_the_callee_is_answered_again_and_goes_nowhere() {
    let mut bench = bench(2);
    let (home, request) = asked_by_other_box(&mut bench, "MESSAGE");
    let caller = box_address(1 - home);
    bench.return_undelivered(&request);
    let again = bench.one_to(client());
    bench.answer(&again, &Answer::new(200));
    assert_eq!(heard(&mut bench, caller), ["200 MESSAGE"]);
    bench.send(caller, of_box(1 - home, "MESSAGE", "MESSAGE").uri("sip:bonnie@example.com").build());
    assert_eq!(heard(&mut bench, caller), ["200 MESSAGE"]);
    bench.assert_quiet();
}

#[test]
fn refusals_by_affinity_are_told_once_a_second_and_all_counted() {
    let mut bench = bench(2);
    let (home, _) = register(&mut bench, "bonnie");
    // Requests of one shard: each tells for itself.
    let request = |number: usize| {
        let (id, from) = (format!("m{number}"), "<sip:dora@example.com>;tag=d");
        Script::new("MESSAGE").uri("sip:bonnie@example.com").from(from).branch(&id).call_id(&id).build()
    };
    let mut requests = (0..).map(request).filter(|request| engine::route(request, SHARDS) == 0);
    for (number, told) in [(1, 1), (2, 1), (3, 2)] {
        if number == 3 {
            bench.advance(seconds(1));
        }
        bench.send(client(), requests.next().expect("there is no end of them"));
        let first = bench.one_to(box_address(home));
        bench.answer(&first, &Answer::new(403));
        assert_eq!((events(&mut bench).len(), counted(&mut bench, "affinity_refused")), (told, number));
    }
}

/// RFC 4320 §3: 32 s after it was sent nobody waits for anything but the answer to an INVITE.
#[test]
fn a_request_that_nobody_answers_moves_nowhere_when_its_time_is_over() {
    let mut bench = bench(2);
    bench.send(client(), Script::new("MESSAGE").build());
    bench.advance(seconds(33));
    let asked: BTreeSet<SocketAddr> = bench.rest().iter().map(|sent| sent.to).filter(|to| *to != client()).collect();
    assert_eq!((asked.len(), counted(&mut bench, "failovers")), (1, 0), "{asked:?}");
}
