//! RFC 3261 §16.4 and §16.5: where a request goes. Looks at the message, its sender, the configuration and the directory; sends
//! nothing. `explain` runs the same code with a [`Trace`] that listens and changes nothing.
//!
//! ```text
//! token of ours in Route  → in_dialog   to the dialog's other party
//! from a backend          → outward     a phone by its contact id, the user's box, egress
//! from client or trunk    → inward      a service, and one of its backends
//! ```

mod egress;
mod in_dialog;
mod inward;
mod outward;
mod phone;
mod routes;
mod rule;

use crate::context::{DialogNote, Hop};
use crate::id::BackendId;
use crate::io::Flow;
use crate::origin::Origin;
use crate::pool::CallTicket;
use crate::reach::Reach;
use crate::running::{FarmView, Running};
use crate::settings::Listener;
use crate::shared::Shared;
pub(crate) use in_dialog::names_flow;
pub(crate) use inward::registered_aor;
pub(crate) use routes::Popped;
use routes::Routes;
use sip::{Checked, Instant, Method, Scheme, Uri};
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// A request as it arrived, and what is known of its sender.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'m> {
    pub(crate) message: &'m Checked<'m>,
    pub(crate) flow: Flow,
    pub(crate) farm: FarmView<'m>,
    pub(crate) listener: &'m Listener,
    pub(crate) origin: Origin,
    pub(crate) uri: Uri<'m>,
}

/// What becomes of a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; a box would allocate for every message")]
pub(crate) enum Decision {
    Forward(Plan),
    /// OPTIONS to the farm itself.
    Alive,
    Refuse(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Status(u16),
    /// 503, with Retry-After for REGISTER and SUBSCRIBE only: a trunk that obeyed it would stop all its calls.
    Overloaded,
    /// A token that does not verify.
    Forged,
    /// 480: asked for by `sips`, and some hop would not be over TLS (RFC 5630 §5.3, warning 380).
    SipsNotAllowed,
    /// 480: asked for by `sip`, and who is called takes calls over TLS only, which leads nowhere (RFC 5630 §5.3, warning 381).
    SipsRequired,
    Silence,
}

impl fmt::Display for Refusal {
    /// For the operator: the status, and why.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(formatter, "{code}"),
            Self::Overloaded => formatter.write_str("503, no backend is available"),
            Self::Forged => formatter.write_str("403, a token that is not ours or not of this call"),
            Self::SipsNotAllowed => formatter.write_str("480, asked for by sips, and not all of the way is over TLS"),
            Self::SipsRequired => formatter.write_str("480, the phone takes calls over TLS only, which leads nowhere"),
            Self::Silence => formatter.write_str("without an answer"),
        }
    }
}

/// The next hop of a request and what it needs to get there.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) flow: Flow,
    pub(crate) hop: Hop,
    /// The next hop is a backend: it is told the origin.
    pub(crate) to_backend: bool,
    /// Replaces the Request-URI.
    pub(crate) request_uri: Option<SmallVec<[u8; 64]>>,
    pub(crate) popped: Popped,
    pub(crate) parties: Parties,
    pub(crate) dialog: Option<DialogNote>,
    pub(crate) placed: Option<Placed>,
    /// Of a request of a backend that has more than one way to go.
    pub(crate) outlet: Option<Box<Outlet>>,
    pub(crate) ticket: Option<CallTicket>,
    /// What chose the way, for loop detection (RFC 5393 §4.2): a hash of the token that was followed, 0 if none.
    pub(crate) followed: u64,
}

/// The two sides of the dialog that the request may make, as the Record-Route token names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parties {
    pub(crate) backend: BackendId,
    pub(crate) peer: Flow,
    pub(crate) from_peer: bool,
    pub(crate) binding: u64,
}

/// How a new request found its backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) service: usize,
    /// Index into the farm's backends.
    pub(crate) backend: usize,
    /// Further backends with a binding of the called user, best first.
    pub(crate) affinity: SmallVec<[usize; 2]>,
    pub(crate) by_affinity: bool,
}

/// Among what the next hops of a backend's request are chosen. The service is the one whose fail-over settings count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outlet {
    /// The places that it may leave the farm for, best first: the one after the first where that fails (RFC 3263 §4.3). The
    /// service is the one whose egress list took the request.
    Places { service: usize, flows: Vec<Flow> },
    /// The boxes that hold a binding of the called user, and after them his phone. The service is one that has the first of them.
    Holders { service: usize },
}

/// Listens to the steps of a decision.
pub(crate) trait Trace {
    /// Nothing may be changed and no place taken.
    const DRY: bool;

    fn note(&mut self, step: impl FnOnce() -> String);
}

/// The trace of the data plane: deaf.
pub(crate) struct Deaf;

impl Trace for Deaf {
    const DRY: bool = false;

    fn note(&mut self, _: impl FnOnce() -> String) {}
}

/// Decides about one request.
pub(crate) struct Decider<'a, T> {
    pub(crate) shared: &'a Shared,
    pub(crate) running: &'a Running,
    pub(crate) now: Instant,
    pub(crate) random: u64,
    pub(crate) trace: T,
}

impl<T: Trace> Decider<'_, T> {
    /// RFC 3261 §16.4, then §16.5.
    pub(crate) fn decide(&mut self, arrival: &Arrival<'_>) -> Decision {
        let decided = self.try_decide(arrival);
        match decided {
            Ok(decision) => decision,
            Err(refusal) => {
                self.trace.note(|| format!("refused: {refusal}"));
                Decision::Refuse(refusal)
            }
        }
    }

    fn try_decide(&mut self, arrival: &Arrival<'_>) -> Result<Decision, Refusal> {
        let routes = Routes::read(&self.shared.secrets, arrival)?;
        if let Some(route) = routes.token {
            self.trace.note(|| format!("Route token of ours: {route:?}"));
            let plan = self.by_token(arrival, &routes, &route)?;
            return self.kept_secure(arrival, plan).map(Decision::Forward);
        }
        if self.is_for_us(arrival) {
            self.trace.note(|| "OPTIONS to the farm itself".into());
            return Ok(self.alive(arrival));
        }
        let plan =
            if arrival.origin.is_backend() { self.outward(arrival, &routes)? } else { self.inward(arrival, &routes)? };
        self.kept_secure(arrival, plan).map(Decision::Forward)
    }

    /// RFC 5630 §5.3: what is asked for by `sips` passes over TLS on both sides, or not at all.
    fn kept_secure(&mut self, arrival: &Arrival<'_>, plan: Plan) -> Result<Plan, Refusal> {
        if arrival.uri.scheme != Scheme::Sips || (arrival.listener.transport.is_secure() && self.is_secure(&plan.flow))
        {
            return Ok(plan);
        }
        self.trace.note(|| "asked for by sips, and not all of the way is over TLS".into());
        Err(Refusal::SipsNotAllowed)
    }

    /// Over TLS.
    fn is_secure(&self, flow: &Flow) -> bool {
        self.running.listener(flow.listener).is_some_and(|(_, listener)| listener.transport.is_secure())
    }

    /// RFC 3261 §11: OPTIONS whose Request-URI names the farm and nobody in it.
    fn is_for_us(&self, arrival: &Arrival<'_>) -> bool {
        arrival.message.method() == Method::Options
            && matches!(arrival.uri.scheme, Scheme::Sip | Scheme::Sips)
            && arrival.uri.user.is_none()
            && arrival.farm.is_ours(&arrival.uri, arrival.flow.local)
            && arrival.message.to().tag.is_none()
    }

    fn alive(&self, arrival: &Arrival<'_>) -> Decision {
        let states = &arrival.farm.running.states;
        if states.iter().any(|state| state.is_available(self.now)) {
            Decision::Alive
        } else {
            Decision::Refuse(Refusal::Overloaded)
        }
    }

    /// The flow to a backend of the farm, and its state.
    fn to_backend(&self, arrival: &Arrival<'_>, index: usize) -> Result<(Flow, Hop), Refusal> {
        let farm = arrival.farm;
        let reach = Reach::of(&farm.settings.backends[index]);
        let flow = farm.flow_towards(true, reach.over(arrival.listener.transport)).ok_or(Refusal::Status(500))?;
        Ok((flow, Hop::Backend(Arc::clone(&farm.running.states[index]))))
    }
}
