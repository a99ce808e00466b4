//! Phones whose NAT moves them in the middle of a transaction (RFC 3581): where the next message finds them, and who is not followed.

use crate::steps::{
    SILENCE, bench, bye_of_box, call, calls, cancel, client, failed_over, heard, millis, of_box, register,
};
use sim::bench::invite;
use sim::settings::outside_address;
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::net::SocketAddr;

/// Where Bonnie is after her NAT has moved her once or twice.
fn moved(generation: u16) -> SocketAddr {
    outside_address(0, generation)
}

/// The only box calls Bonnie, who is registered: the INVITE as she gets it, and her contact as the box knows it.
fn called(bench: &mut Bench) -> (Datagram, String) {
    let (_, contact) = register(bench, "bonnie");
    bench.send(box_address(0), of_box(0, "INVITE", "call").uri(&contact).build());
    (bench.one_to(client()), contact)
}

/// The box sends her a text: that goes to this address.
#[track_caller]
fn assert_reached_at(bench: &mut Bench, contact: &str, address: SocketAddr) {
    bench.rest();
    bench.send(box_address(0), of_box(0, "MESSAGE", "text").call_id("text").uri(contact).build());
    assert_eq!(heard(bench, address), ["MESSAGE"]);
    bench.assert_quiet();
}

#[test]
fn a_caller_who_repeats_her_call_from_elsewhere_is_answered_there() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.send(moved(1), invite("a").build());
    bench.answer(&request, &Answer::new(180));
    assert_eq!(heard(&mut bench, moved(1)), ["180 INVITE"]);
    for _ in 0..2 {
        bench.answer(&request, &Answer::new(200));
        assert_eq!(heard(&mut bench, moved(1)), ["200 INVITE"], "also when nothing but a token is left");
    }
    bench.send(moved(2), invite("a").build());
    bench.answer(&request, &Answer::new(200));
    assert_eq!(heard(&mut bench, moved(2)), ["200 INVITE"]);
    bench.assert_quiet();
}

#[test]
fn a_caller_who_cancels_from_elsewhere_is_answered_there() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.send(moved(1), Script::new("CANCEL").branch("a").build());
    assert_eq!(heard(&mut bench, moved(1)), ["200 CANCEL"]);
    bench.answer(&request, &Answer::new(487));
    assert_eq!(heard(&mut bench, moved(1)), ["487 INVITE"]);
}

/// The first box answers after all, when the second one has the call and Bonnie has given it up. The BYE of a box that never got an ACK
/// must find her where she gave it up.
#[test]
fn the_dialog_of_a_late_answer_begins_where_the_caller_is_now() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.send(moved(1), Script::new("CANCEL").branch("a").build());
    bench.answer(&one, &Answer::new(200));
    bench.answer(&two, &Answer::new(487));
    assert_eq!(heard(&mut bench, moved(1)), ["200 CANCEL", "200 INVITE"]);
    bench.rest();
    let (invite, index) = (Text::read(&one.bytes), usize::from(one.to == box_address(1)));
    let from = format!("{};tag=tt", invite.header("To").unwrap_or_default());
    let route = invite.header("Record-Route").unwrap_or_default();
    let bye = of_box(index, "BYE", "bye").uri("sip:bonnie@10.1.0.1:5060").from(&from);
    let bye = bye.to(invite.header("From").unwrap_or_default()).call_id(invite.header("Call-ID").unwrap_or_default());
    bench.send(one.to, bye.line(&format!("Route: {route}")).build());
    assert_eq!(heard(&mut bench, moved(1)), ["BYE"]);
    bench.assert_quiet();
}

#[test]
fn a_request_that_is_repeated_from_elsewhere_is_answered_where_its_sender_is_now() {
    let mut bench = bench(1);
    let message = Script::new("MESSAGE").build();
    bench.send(client(), &message);
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 MESSAGE"]);
    for source in [moved(1), moved(2), client()] {
        bench.send(source, &message);
        let (_, repeated) = bench.one_to_a_box();
        assert_eq!(Text::read(&repeated.bytes).branch(), Text::read(&request.bytes).branch());
        bench.answer(&request, &Answer::new(200));
        assert_eq!(heard(&mut bench, source), ["200 MESSAGE"]);
    }
    bench.assert_quiet();
}

/// Her ACK was lost with her old address; the box that hangs up meanwhile must find her.
#[test]
fn a_caller_who_repeats_her_answered_call_from_elsewhere_moves_its_dialog() {
    let mut bench = bench(1);
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(moved(1), invite("a").call_id("call-1").build());
    bench.assert_quiet();
    bench.send(box_address(0), dialog.backend_request("BYE", 1).build());
    assert_eq!(heard(&mut bench, moved(1)), ["BYE"]);
    bench.assert_quiet();
}

/// A box that is the calling side to another one stays where it was when the call began, wherever it repeats itself from.
#[test]
fn a_box_does_not_move_its_dialog() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        for (index, backend) in farm.backends.iter_mut().enumerate() {
            let network = format!("{}/32", box_address(index).ip());
            backend.sources = vec![network.parse().expect("a network")];
        }
    }));
    let (callee, _) = register(&mut bench, "bonnie");
    let caller = box_address(1 - callee);
    let request = of_box(1 - callee, "INVITE", "call").uri("sip:bonnie@example.com");
    bench.send(caller, request.build());
    let received = bench.one_to(box_address(callee));
    bench.answer(&received, &Answer::new(200));
    let answer = Text::read(&bench.one_to(caller).bytes);
    let (from, to) = (answer.header("From").unwrap_or_default(), answer.header("To").unwrap_or_default());
    bench.send(SocketAddr::new(caller.ip(), 5070), request.build());
    bench.rest();
    let bye = bye_of_box(callee, &answer).uri(&format!("sip:{caller}")).from(to).to(from);
    bench.send(box_address(callee), bye.build());
    assert_eq!(heard(&mut bench, caller), ["BYE"]);
    bench.assert_quiet();
}

/// A 100 may come from anything in between; from 101 on it is the phone that speaks.
#[test]
fn a_phone_that_rings_at_another_address_is_cancelled_there() {
    for (code, address) in [(100, client()), (101, moved(1)), (180, moved(1))] {
        let mut bench = bench(1);
        let (request, contact) = called(&mut bench);
        bench.send(moved(1), Answer::new(code).to(&request.bytes));
        bench.send(box_address(0), of_box(0, "CANCEL", "call").uri(&contact).build());
        assert_eq!(heard(&mut bench, address), ["CANCEL"], "{code}");
        assert!(heard(&mut bench, client()).is_empty() && heard(&mut bench, moved(1)).is_empty());
    }
}

/// The branch proves that it is this box which answers, and nothing proves that it is to be reached there.
#[test]
fn a_box_that_answers_from_another_port_is_spoken_to_where_it_was() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    let elsewhere = SocketAddr::new(request.to.ip(), 5999);
    bench.send(elsewhere, Answer::new(180).to(&request.bytes));
    cancel(&mut bench);
    assert_eq!(heard(&mut bench, request.to), ["CANCEL"]);
    bench.send(elsewhere, Answer::new(487).to(&request.bytes));
    assert_eq!(heard(&mut bench, request.to), ["ACK"]);
    assert_eq!(heard(&mut bench, elsewhere), SILENCE);
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "200 CANCEL", "487 INVITE"]);
}

#[test]
fn a_phone_that_answers_from_elsewhere_is_called_there_from_now_on() {
    let mut bench = bench(1);
    let (request, contact) = called(&mut bench);
    bench.send(moved(1), Answer::new(200).to(&request.bytes));
    assert_reached_at(&mut bench, &contact, moved(1));
}

/// The unit was restarted while it rang: all that the new process knows of the call is the token in its answer.
#[test]
fn a_phone_that_answers_from_elsewhere_after_a_restart_is_found_there() {
    let mut bench = bench(1);
    let (request, contact) = called(&mut bench);
    bench.restart(millis(300));
    let ringing = Answer::new(180).to(&request.bytes);
    bench.send(moved(1), &ringing);
    assert_eq!((heard(&mut bench, box_address(0)), calls(&mut bench)), (vec!["180 INVITE".to_owned()], 0));
    let answer = Answer::new(200).line("Contact: <sip:bonnie@10.1.0.1:5060>").to(&request.bytes);
    bench.send(moved(1), &answer);
    let seen = Text::read(&bench.one_to(box_address(0)).bytes);
    assert_eq!((seen.code(), calls(&mut bench)), (Some(200), 1));
    assert_reached_at(&mut bench, &contact, moved(1));
    bench.send(moved(2), &answer);
    assert_eq!((heard(&mut bench, box_address(0)), calls(&mut bench)), (vec!["200 INVITE".to_owned()], 1));
    bench.send(box_address(0), bye_of_box(0, &seen).build());
    assert_eq!(heard(&mut bench, moved(2)), ["BYE"]);
    bench.assert_quiet();
}
