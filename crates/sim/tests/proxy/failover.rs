//! When a request goes to another box and when it stays (RFC 3261 §16.7 step 6): which answers speak of the box, and what an outage
//! moves.

use crate::steps::{
    SILENCE, bench, call, calls, client, counted, events, heard, millis, name, of_box, outage, register, seconds,
};
use engine::{BackendId, Egress, Event, Failover, Farm, FarmId, Place, Service, Transport};
use sim::bench::invite;
use sim::settings::{backend, peer_address, service, trunk};
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};

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
