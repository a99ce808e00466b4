//! Answered calls: the balancer loses none, and what is sent inside them reaches the other side.

use super::seen::{Request, Seen};
use super::{LONGEST_TRANSACTION, Model};
use crate::network::Party;
use sip::{Instant, Method};
use std::collections::BTreeMap;

/// An answered INVITE outside a dialog, as one pair of parties saw it.
#[derive(Clone, Copy, Debug)]
struct Dialog<'a> {
    caller: Party,
    callee: Party,
    from_tag: &'a [u8],
    to_tag: &'a [u8],
    began: Instant,
}

impl<'a> Model<'a> {
    /// Finds the dialogs of the run and judges what was sent inside each.
    pub(super) fn judge_dialogs(&mut self, requests: &BTreeMap<Request<'a>, Vec<Seen<'a>>>) {
        let mut dialogs: BTreeMap<&[u8], Vec<Dialog<'a>>> = BTreeMap::new();
        for (request, seen) in requests {
            for dialog in self.answered(request, seen) {
                dialogs.entry(request.call_id).or_default().push(dialog);
            }
        }
        for (request, seen) in requests {
            for dialog in dialogs.get(request.call_id).into_iter().flatten() {
                self.judge_inside(request, seen, dialog);
            }
        }
    }

    /// The dialogs that an INVITE made; each 2xx that arrived at the balancer must have gone up to the caller.
    fn answered(&mut self, request: &Request<'a>, seen: &[Seen<'a>]) -> Vec<Dialog<'a>> {
        let mut dialogs: Vec<Dialog<'a>> = Vec::new();
        let caller =
            seen.iter().find(|one| is_request_in(one, Method::Invite) && one.to_tag.is_empty()).map(|one| one.sender);
        let Some(caller) = caller else {
            return dialogs;
        };
        for one in seen.iter().filter(|one| one.method == Method::Invite && one.is_success()) {
            let Some(arrived) = one.arrived.filter(|_| one.receiver == Some(Party::Balancer)) else {
                continue;
            };
            if dialogs.iter().any(|dialog| dialog.to_tag == one.to_tag) {
                continue;
            }
            let passed_on = seen.iter().any(|up| {
                up.sender == Party::Balancer
                    && up.method == Method::Invite
                    && up.is_success()
                    && up.to_tag == one.to_tag
            });
            if !passed_on {
                self.report(request, arrived, "a 2xx did not reach the caller");
            }
            dialogs.push(Dialog {
                caller,
                callee: one.sender,
                from_tag: request.from_tag,
                to_tag: one.to_tag,
                began: arrived,
            });
        }
        dialogs
    }

    /// Every request inside the dialog that arrived at the balancer must have been sent on to the other side.
    fn judge_inside(&mut self, request: &Request<'a>, seen: &[Seen<'a>], dialog: &Dialog<'a>) {
        for method in [Method::Ack, Method::Bye, Method::Invite] {
            for one in seen.iter().filter(|one| is_request_in(one, method) && !one.to_tag.is_empty()) {
                let Some(arrived) = one.arrived else {
                    continue;
                };
                let from_caller = request.from_tag == dialog.from_tag && one.to_tag == dialog.to_tag;
                let from_callee = request.from_tag == dialog.to_tag && one.to_tag == dialog.from_tag;
                let other =
                    match (from_caller && one.sender == dialog.caller, from_callee && one.sender == dialog.callee) {
                        (true, _) => dialog.callee,
                        (_, true) => dialog.caller,
                        _ => continue,
                    };
                if acknowledges_refusal(seen, one) || self.moved_during(other, dialog.began, arrived) {
                    continue;
                }
                let sent_on = seen.iter().any(|on| {
                    on.sender == Party::Balancer
                        && on.receiver == Some(other)
                        && on.code.is_none()
                        && on.method == method
                });
                if !sent_on {
                    let what = format!(
                        "{} from {} did not reach {other}",
                        String::from_utf8_lossy(method.as_bytes()),
                        one.sender
                    );
                    self.report(request, arrived, &what);
                    return;
                }
            }
        }
    }

    /// Whether the other side's address changed in a way that the balancer may not know yet.
    fn moved_during(&self, party: Party, began: Instant, arrived: Instant) -> bool {
        let until = arrived + LONGEST_TRANSACTION;
        self.rebound.iter().any(|(moved, at)| *moved == party && *at >= began && *at <= until)
    }
}

/// A request of that method that goes to the balancer.
fn is_request_in(one: &Seen<'_>, method: Method<'_>) -> bool {
    one.code.is_none() && one.receiver == Some(Party::Balancer) && one.method == method
}

/// The ACK of a refusal belongs to its INVITE's transaction and goes no further than the balancer.
fn acknowledges_refusal(seen: &[Seen<'_>], ack: &Seen<'_>) -> bool {
    ack.method == Method::Ack
        && seen.iter().any(|one| one.code.is_none() && one.method == Method::Invite && one.branch == ack.branch)
}
