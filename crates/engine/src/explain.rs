//! What would become of a message, and why: the data plane's own decision, listened to and without effect.

use crate::decide::{Arrival, Decider, Decision, Trace};
use crate::io::Flow;
use crate::origin::Origin;
use crate::shared::Shared;
use sip::{Instant, Limits};

/// The way of one message through the engine, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    pub steps: Vec<String>,
    pub verdict: String,
}

/// Explains what the unit would do with `bytes` arriving by `flow`. Nothing is sent, counted, placed or remembered.
pub fn explain(shared: &Shared, now: Instant, flow: Flow, bytes: &[u8]) -> Explanation {
    let mut steps = Vec::new();
    let verdict = explain_into(shared, now, flow, bytes, &mut steps);
    Explanation { steps, verdict }
}

/// Keeps what the decision says.
struct Listening<'a>(&'a mut Vec<String>);

impl Trace for Listening<'_> {
    const DRY: bool = true;

    fn note(&mut self, step: impl FnOnce() -> String) {
        self.0.push(step());
    }
}

fn explain_into(shared: &Shared, now: Instant, flow: Flow, bytes: &[u8], steps: &mut Vec<String>) -> String {
    let running = shared.running();
    let limits =
        Limits { message_bytes: running.settings.limits.message_bytes, headers: running.settings.limits.headers };
    let message = match sip::parse(bytes, &limits) {
        Ok(message) => message,
        Err(fault) => return format!("dropped: {fault}"),
    };
    let checked = match sip::check(&message, &limits) {
        Ok(checked) => checked,
        Err(fault) => {
            return match fault.status() {
                Some(code) if message.is_request() => format!("answered {code}: {fault}"),
                _ => format!("dropped: {fault}"),
            };
        }
    };
    let (Some(line), Some(&uri)) = (message.request_line(), checked.uri()) else {
        return "a response: it goes where the token in its topmost Via says".into();
    };
    steps.push(format!(
        "{} {} from {}",
        String::from_utf8_lossy(line.method.as_bytes()),
        String::from_utf8_lossy(line.uri),
        flow.remote
    ));
    let Some((farm, listener)) = running.listener(flow.listener) else {
        return "dropped: no farm listens there".into();
    };
    let origin = Origin::of(farm, listener, &flow);
    let mut told = Vec::new();
    origin.write(farm, &mut told);
    steps.push(format!("farm {}, sender: {}", farm.settings.name, String::from_utf8_lossy(&told)));
    let arrival = Arrival { message: &checked, flow, farm, listener, origin, uri };
    let mut decider = Decider { shared, running: &running, now, random: 0, trace: Listening(steps) };
    if let Some(refreshing) = decider.refresh(&arrival) {
        return refreshing.to_string();
    }
    match decider.decide(&arrival) {
        Decision::Alive => "answered 200: a backend is up".into(),
        Decision::Refuse(refusal) => format!("refused: {refusal}"),
        Decision::Forward(plan) => {
            let whom =
                plan.placed.as_ref().map_or("peer", |placed| farm.settings.backends[placed.backend].name.as_str());
            format!("forwarded to {whom} at {}", plan.flow.remote)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{VIP, flow, octets, request, secrets, settings};
    use crate::pool::world::at;
    use std::sync::Arc;

    fn one_box() -> Arc<Shared> {
        let settings = settings(|farm| {
            farm.backends.truncate(1);
            for service in &mut farm.services {
                service.backends.truncate(1);
            }
        });
        Shared::new(settings, secrets(), 1, at(0), 0, 1)
    }

    #[test]
    fn each_message_has_its_verdict() {
        let shared = one_box();
        let (phone, pbx1) = (flow(VIP, "10.1.0.1:5060"), flow(VIP, "10.0.1.1:5060"));
        let nowhere = flow("10.0.0.9:5060", "10.1.0.1:5060");
        let options = request("OPTIONS", "sip:example.com", "");
        let call = request("INVITE", "sip:clyde@example.com", "");
        let without_to = call.replace("To: <sip:bonnie@example.com>\n", "");
        let answer = options.replace("OPTIONS sip:example.com SIP/2.0", "SIP/2.0 200 OK");
        let unreadable = answer.replace("CSeq: 1", "CSeq: x");
        for (flow, text, verdict) in [
            (phone, "hello", "dropped: the first line is none of sip"),
            (phone, without_to.as_str(), "answered 400: the To header is missing"),
            (phone, unreadable.as_str(), "dropped: the sequence number is malformed"),
            (phone, answer.as_str(), "a response: it goes where the token in its topmost Via says"),
            (nowhere, call.as_str(), "dropped: no farm listens there"),
            (phone, options.as_str(), "answered 200: a backend is up"),
            (phone, call.as_str(), "forwarded to pbx1 at 10.0.1.1:5060"),
            (pbx1, call.as_str(), "refused: 404"),
        ] {
            assert_eq!(explain(&shared, at(1), flow, &octets(text)).verdict, verdict, "{text}");
        }
    }

    #[test]
    fn the_steps_of_a_decision_are_told_and_nothing_is_kept_of_it() {
        let shared = one_box();
        let call = octets(&request("INVITE", "sip:clyde@example.com", ""));
        for _ in 0..2 {
            let told = explain(&shared, at(1), flow(VIP, "10.1.0.1:5060"), &call);
            assert_eq!(
                told.steps,
                [
                    "INVITE sip:clyde@example.com from 10.1.0.1:5060",
                    "farm pbx, sender: client",
                    "service default",
                    "algorithm round-robin: pbx1",
                ]
            );
        }
    }
}
