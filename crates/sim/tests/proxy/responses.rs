//! What goes back to the sender (RFC 3261 §16.7): which of several answers, and what is changed in it.

use crate::steps::{SILENCE, bench, call, client, counted, failed_over, heard, register, registering, snapshot};
use sim::{Answer, Script, Text};

/// RFC 3261 §16.7 step 6: 6xx first, then the lowest class. Within 4xx those that say what to do come first, otherwise the first that
/// came, and no 503.
#[test]
fn of_two_refusals_the_better_one_goes_up() {
    for (first, second, best) in [
        (404, 486, 404),
        (486, 404, 486),
        (404, 302, 302),
        (302, 404, 302),
        (404, 380, 380),
        (380, 404, 380),
        (300, 380, 300),
        (380, 300, 380),
        (500, 404, 404),
        (404, 500, 404),
        (504, 500, 504),
        (500, 504, 500),
        (503, 504, 500),
        (503, 404, 404),
        (404, 503, 404),
        (404, 603, 603),
        (302, 600, 600),
        (603, 302, 603),
        (600, 604, 600),
        (404, 484, 484),
        (484, 404, 484),
        (486, 401, 401),
        (486, 407, 407),
        (486, 415, 415),
        (486, 420, 420),
        (486, 416, 486),
        (401, 486, 401),
        (407, 401, 407),
        (401, 302, 302),
    ] {
        let mut bench = bench(2);
        let (one, two) = failed_over(&mut bench);
        bench.answer(&one, &Answer::new(first));
        assert_eq!(heard(&mut bench, client()), SILENCE, "the other branch is pending");
        bench.answer(&two, &Answer::new(second));
        assert_eq!(heard(&mut bench, client()), [format!("{best} INVITE")], "{first}, then {second}");
    }
}

/// RFC 3261 §16.7 step 7: the challenges of all who challenge, in the order in which they came, and of nobody else.
#[test]
fn challenges_are_collected_from_challenges_only() {
    let challenge = |realm: &str| format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"{realm}\"");
    for (first, second, realms) in [(401, 401, vec!["one", "two"]), (401, 486, vec!["one"]), (486, 401, vec!["two"])] {
        let mut bench = bench(2);
        let (one, two) = failed_over(&mut bench);
        bench.answer(&one, &Answer::new(first).tag("first").line(&challenge("one")));
        bench.answer(&two, &Answer::new(second).tag("second").line(&challenge("two")));
        let answer = bench.one_to_client();
        assert_eq!(answer.code(), Some(401));
        let wanted: Vec<String> =
            realms.iter().map(|realm| challenge(realm).replacen("WWW-Authenticate: ", "", 1)).collect();
        assert_eq!(answer.all("WWW-Authenticate"), wanted, "{first}, then {second}");
    }
}

/// RFC 4320 §4.2 forbids 408 to a request other than INVITE, and to no other request, and no other code.
#[test]
fn a_408_of_a_box_goes_up_to_an_invite_only() {
    for (method, code, passes) in
        [("INVITE", 408, true), ("MESSAGE", 408, false), ("MESSAGE", 407, true), ("MESSAGE", 409, true)]
    {
        let mut bench = bench(1);
        bench.send(client(), Script::new(method).build());
        let (_, request) = bench.one_to_a_box();
        bench.answer(&request, &Answer::new(code));
        let wanted: Vec<String> = passes.then(|| format!("{code} {method}")).into_iter().collect();
        assert_eq!(heard(&mut bench, client()), wanted);
        assert_eq!(snapshot(&mut bench).unanswered, 0, "{method} {code}");
    }
}

/// RFC 4475 §3.3.10: whoever writes such a Via wants our answer to spread. What is known of the sender is stronger than what it wrote.
#[test]
fn an_answer_goes_nowhere_where_its_via_names_many_or_nobody() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    let ours = Text::read(&request.bytes).values("Via").into_iter().next().expect("we wrote one");
    let mut dropped = 0;
    for (via, passes) in [
        ("10.1.0.1:5060", true),
        ("phone.example.com", true),
        ("255.255.255.255:5060", false),
        ("224.0.1.75", false),
        ("0.0.0.0:5060", false),
        ("[ff02::1]:5060", false),
        ("255.255.255.255:5060;received=10.1.0.1", true),
    ] {
        let below = format!("Via: SIP/2.0/UDP {via};branch=z9hG4bKa");
        let asked = Script::new("INVITE").via(&ours).line(&below).build();
        bench.send(request.to, Answer::new(180).to(&asked));
        dropped += u64::from(!passes);
        assert_eq!(heard(&mut bench, client()).len(), usize::from(passes), "{via}");
        assert_eq!(counted(&mut bench, "unsafe_destination"), dropped, "{via}");
    }
}

/// RFC 7616 §3.3: credentials for the nonce of another box are not wrong, and the phone must not ask its user for the password.
#[test]
fn a_nonce_that_the_box_did_not_issue_is_stale() {
    let plain = "Digest realm=\"r\", nonce=\"new\"";
    for (nonce, challenge, wanted) in [
        ("known", plain, plain.to_owned()),
        ("foreign", plain, format!("{plain}, stale=TRUE")),
        ("foreign", "Digest stale=false, nonce=\"new\"", "Digest stale=TRUE, nonce=\"new\"".to_owned()),
        ("foreign", "Digest stale=true, nonce=\"new\"", "Digest stale=true, nonce=\"new\"".to_owned()),
        ("known", "Digest stale=true, nonce=\"new\"", "Digest stale=true, nonce=\"new\"".to_owned()),
        ("known", "Digest stale=false, nonce=\"new\"", "Digest stale=false, nonce=\"new\"".to_owned()),
    ] {
        for (code, asks, answers) in
            [(401, "WWW-Authenticate", "Authorization"), (407, "Proxy-Authenticate", "Proxy-Authorization")]
        {
            let mut bench = bench(1);
            let mut challenged = |request: Script, challenge: &str| -> Option<String> {
                bench.send(client(), request.build());
                let (_, request) = bench.one_to_a_box();
                bench.answer(&request, &Answer::new(code).line(&format!("{asks}: {challenge}")));
                bench.one_to_client().header(asks).map(str::to_owned)
            };
            let first = "Digest realm=\"r\", nonce=\"known\"";
            assert_eq!(challenged(Script::new("MESSAGE"), first).as_deref(), Some(first));
            let proof = format!("{answers}: Digest username=\"u\", realm=\"r\", nonce=\"{nonce}\", response=\"0\"");
            let again = Script::new("MESSAGE").branch("again").cseq(2).line(&proof);
            assert_eq!(challenged(again, challenge), Some(wanted.clone()), "{code}, nonce {nonce}");
        }
    }
}

/// The box that answered may be another one than the one that issued the nonce, though it is of this farm.
#[test]
fn a_nonce_of_another_box_of_the_farm_is_stale_as_well() {
    let mut bench = bench(2);
    let mut boxes = Vec::new();
    let proof = "Authorization: Digest nonce=\"of-one\", response=\"0\"";
    for (call_id, credentials) in [("one", None), ("two", Some(proof))] {
        let script = Script::new("MESSAGE").branch(call_id).call_id(call_id);
        let script = credentials.map_or(script.clone(), |line| script.line(line));
        bench.send(client(), script.build());
        let (index, request) = bench.one_to_a_box();
        boxes.push(index);
        bench.answer(&request, &Answer::new(401).line(&format!("WWW-Authenticate: Digest nonce=\"of-{call_id}\"")));
        let stale = bench.one_to_client().header("WWW-Authenticate").is_some_and(|value| value.ends_with("stale=TRUE"));
        assert_eq!(stale, credentials.is_some(), "{call_id}");
    }
    assert_ne!(boxes.first(), boxes.last());
}

/// Only a registrar that grants or lists bindings says what is bound.
#[test]
fn a_refused_refresh_leaves_the_binding_alone() {
    for (code, registrations) in [(401, 1), (403, 1), (500, 1), (200, 0)] {
        let mut bench = bench(1);
        register(&mut bench, "bonnie");
        let refresh = registering("bonnie").branch("again").cseq(2);
        bench.send(client(), refresh.build());
        let (_, request) = bench.one_to_a_box();
        bench.answer(&request, &Answer::new(code));
        assert_eq!(snapshot(&mut bench).registrations, registrations, "{code} without a Contact");
    }
}
