//! The next backend for a request that its first one did not answer, or answered with a failure that is the backend's own; the
//! next place for one that leaves the farm towards several (RFC 3263 §4.3); and the next box of the called user, in the end his
//! phone, for one that a box sends to him.
//!
//! ```text
//!                  no answer at all      no final answer      503 …      404, 480 by affinity
//! INVITE           after answer_timeout  (Timer C)            yes        yes
//! REGISTER, OPTIONS, SUBSCRIBE, PUBLISH
//!                  after final_timeout   after final_timeout  yes        SUBSCRIBE: yes
//! others           -                     -                    yes        MESSAGE: yes
//! in a dialog      never
//! ```
//!
//! Of places the code that counts is 503, whatever the service says of its backends: it is what RFC 3263 names. Of the boxes of a
//! called user the codes are those of the service that has the first of them, and no others: what a box refuses must not reach
//! the phone behind its back.
//!
//! A request that waited through a reload moves as well, by what its service says now.

use super::large::Written;
use super::{Core, TIMING};
use crate::context::{Choice, ClientBranch, Context, Hop, Placement, Received};
use crate::counters::Counter;
use crate::decide::{Arrival, Deaf, Decider, Outlet, Plan};
use crate::id::ListenerId;
use crate::io::{Event, Packet};
use crate::origin::Origin;
use crate::running::Running;
use crate::settings::Farm;
use crate::table::Id;
use sip::Instant;
use smallvec::SmallVec;
use std::sync::Arc;

impl Core {
    /// When the branch about to start is given up.
    pub(super) fn failover_deadline(&self, running: &Running, now: Instant, context: &Context) -> Option<Instant> {
        let placement = context.placement.as_deref()?;
        let farm = running.farm_by_id(context.farm)?;
        let settings = &farm.settings.services.get(placement.service)?.failover;
        if placement.attempts_left == 0 {
            return None;
        }
        if context.kind.invite {
            Some(now + settings.answer_timeout)
        } else if context.kind.waits_for_final {
            Some(now + settings.final_timeout)
        } else {
            None
        }
    }

    /// The time for an answer is over.
    pub(super) fn answer_overdue(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context) {
        context.failover_at = None;
        let Some(at) = context.branches.len().checked_sub(1) else {
            return;
        };
        let silent = !context.branches[at].answered;
        if silent && let Hop::Backend(state) = &context.branches[at].hop {
            let event = state.on_timeout(now);
            self.tell_if(now, event);
        }
        if context.kind.in_dialog {
            if silent {
                self.dialog_timed_out(running, now, context, at);
            }
            return;
        }
        if silent {
            self.avoid_place(now, context);
        }
        self.give_up(running, now, id, context, at);
    }

    /// Starts the next branch and abandons this one: it lives on, a late 1xx is answered by CANCEL, a late 2xx may still win.
    pub(super) fn give_up(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context, at: usize) {
        if !self.next_branch(running, now, id, context) {
            return;
        }
        context.branches[at].abandoned = true;
        if context.branches[at].provisional {
            self.want_cancel(running, now, context, at);
        }
    }

    /// After a final answer (`code`) or a failed transport (`None`): another backend or place, if this is a case for one.
    pub(super) fn try_next(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        code: Option<u16>,
    ) -> bool {
        renew_placement(running, context);
        let Some(placement) = context.placement.as_deref() else {
            return false;
        };
        let moves = match &placement.choice {
            Choice::Backends { by_affinity, .. } => {
                if *by_affinity && code == Some(403) {
                    self.affinity_refused(running, now, context, at);
                }
                is_backends_own(running, context, placement.service, *by_affinity, code)
            }
            Choice::Places(_) => {
                if code == Some(503) {
                    self.avoid_place(now, context);
                }
                code.map_or(!context.branches[at].answered, |code| code == 503)
            }
            Choice::Holders { .. } => is_backends_own(running, context, placement.service, false, code),
        };
        moves && self.next_branch(running, now, id, context)
    }

    /// The place of the newest attempt failed: new requests go elsewhere first.
    pub(super) fn avoid_place(&self, now: Instant, context: &Context) {
        let choice = context.placement.as_deref().map(|placement| &placement.choice);
        if let Some(Choice::Places(flows)) = choice
            && let Some(flow) = flows.first()
        {
            self.shared.avoided.add(now, flow);
        }
    }

    /// One more attempt, if one is left and a backend or place is there.
    fn next_branch(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context) -> bool {
        renew_placement(running, context);
        let Some(mut placement) = context.placement.take() else {
            return false;
        };
        // Who sent anything but an INVITE waits no longer than for one transaction (RFC 4320 §3).
        let is_late = |first: &ClientBranch| now.saturating_since(first.sent_at) >= 64 * TIMING.t1;
        let is_over = !context.kind.invite && context.branches.first().is_some_and(is_late);
        if placement.attempts_left == 0 || context.cancelled || is_over {
            return false;
        }
        let planned = self.plan_again(running, now, id, context, &placement.received, |decider, arrival| {
            let planned = match &placement.choice {
                Choice::Backends { tried, affinity, .. } => decider.again(arrival, placement.service, tried, affinity),
                Choice::Places(flows) => decider.out_again(arrival, *flows.get(1)?),
                Choice::Holders { tried } => decider.towards_user_again(arrival, tried),
            };
            planned.ok()
        });
        let Some((plan, written)) = planned else {
            return false;
        };
        self.count(Counter::Failovers);
        placement.go_on(&plan);
        context.placement = Some(placement);
        self.begin_branch(running, now, context, plan, written);
        true
    }

    /// Decides once more about a request that was kept, and writes it as the next attempt of its context.
    pub(super) fn plan_again(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &Context,
        received: &Received,
        choose: impl FnOnce(&mut Decider<'_, Deaf>, &Arrival<'_>) -> Option<Plan>,
    ) -> Option<(Plan, Written)> {
        let attempt = u8::try_from(context.branches.len()).ok()?;
        let limits = super::receive::message_limits(running);
        let message = sip::parse(&received.request, &limits).ok()?;
        let checked = sip::check(&message, &limits).ok()?;
        let flow = received.arrived;
        let (farm, listener) = running.listener(flow.listener)?;
        let origin = Origin::of(farm, listener, &flow);
        let arrival = Arrival { message: &checked, flow, farm, listener, origin, uri: *checked.uri()? };
        let random = self.next_random();
        let mut decider = Decider { shared: &self.shared, running, now, random, trace: Deaf };
        let mut plan = choose(&mut decider, &arrival)?;
        let branch = self.branch_of(id, attempt, context.loop_hash, context.first_upstream);
        let written = self.write_sized(running, now, &arrival, &mut plan, &branch)?;
        Some((plan, written))
    }

    /// Where users differ, this may happen at every call.
    fn affinity_refused(&mut self, running: &Running, now: Instant, context: &Context, at: usize) {
        let (Some(farm), Hop::Backend(state)) = (running.farm_by_id(context.farm), &context.branches[at].hop) else {
            return;
        };
        self.count(Counter::AffinityRefused);
        if self.is_news(now, "affinity") {
            self.tell(Event::AffinityRefused { farm: farm.settings.id, backend: state.id() });
        }
    }
}

/// What another attempt would need; only requests that may be tried elsewhere keep it.
pub(super) fn placement(running: &Running, arrival: &Arrival<'_>, plan: &Plan) -> Option<Box<Placement>> {
    if arrival.message.to().tag.is_some() {
        return None;
    }
    let (service, choice, choices) = Choice::of(plan)?;
    let failover = &arrival.farm.settings.services.get(service)?.failover;
    Some(Box::new(Placement {
        received: Received::of(arrival),
        service,
        service_name: Arc::clone(arrival.farm.running.service_names.get(service)?),
        generation: running.generation,
        attempts_left: failover.attempts.min(choices).saturating_sub(1),
        choice,
    }))
}

/// What is kept of a configuration that is gone is found again in the one that runs. A request for which that fails stays where
/// it is.
fn renew_placement(running: &Running, context: &mut Context) {
    let Some(mut placement) = context.placement.take() else {
        return;
    };
    if placement.generation == running.generation || placement.renew(running, context).is_some() {
        context.placement = Some(placement);
    }
}

impl Placement {
    /// A reload may give services and backends other indices. `None`: the service is gone, or the listener is another farm's now.
    fn renew(&mut self, running: &Running, context: &Context) -> Option<()> {
        let is_of_farm =
            |listener: ListenerId| running.listener(listener).is_some_and(|(farm, _)| farm.settings.id == context.farm);
        let farm = running.farm_by_id(context.farm).filter(|_| is_of_farm(self.received.arrived.listener))?;
        self.service = farm.running.service_names.iter().position(|name| *name == self.service_name)?;
        self.generation = running.generation;
        match &mut self.choice {
            Choice::Backends { tried, affinity, .. } => {
                *tried = context.branches.iter().filter_map(|branch| branch.hop.index_in(farm.settings)).collect();
                // Whom these indices meant is not known any more.
                affinity.clear();
            }
            Choice::Places(flows) => {
                let newest = flows.first().copied();
                flows.retain(|flow| Some(*flow) == newest || is_of_farm(flow.listener));
            }
            // The ids of backends are the same in every configuration.
            Choice::Holders { .. } => {}
        }
        Some(())
    }

    /// The next attempt was planned.
    fn go_on(&mut self, plan: &Plan) {
        self.attempts_left -= 1;
        match &mut self.choice {
            Choice::Backends { tried, affinity, by_affinity } => {
                if let Some(placed) = &plan.placed {
                    tried.push(placed.backend);
                    affinity.clone_from(&placed.affinity);
                    *by_affinity = placed.by_affinity;
                }
            }
            Choice::Places(flows) => {
                flows.remove(0);
            }
            Choice::Holders { tried } if plan.to_backend => tried.push(plan.parties.backend),
            // It goes to the phone itself, and nobody is left after that.
            Choice::Holders { .. } => self.attempts_left = 0,
        }
    }
}

impl Hop {
    /// The index of the backend, if it is one and still configured.
    fn index_in(&self, farm: &Farm) -> Option<usize> {
        let Self::Backend(state) = self else {
            return None;
        };
        farm.backends.iter().position(|backend| backend.id == state.id())
    }
}

impl Received {
    pub(super) fn of(arrival: &Arrival<'_>) -> Self {
        Self { request: Packet::copy_from(arrival.message.bytes()), arrived: arrival.flow }
    }
}

impl Choice {
    /// Where the plan's request could go besides, which service's fail-over counts, and how many attempts make sense at most.
    fn of(plan: &Plan) -> Option<(usize, Self, u32)> {
        if let Some(placed) = &plan.placed {
            let tried = SmallVec::from_slice(&[placed.backend]);
            let (affinity, by_affinity) = (placed.affinity.clone(), placed.by_affinity);
            // A fallback service may have more backends than the first one.
            return Some((placed.service, Self::Backends { tried, affinity, by_affinity }, u32::MAX));
        }
        match plan.outlet.as_deref()? {
            Outlet::Places { service, flows } => {
                let places = u32::try_from(flows.len()).unwrap_or(u32::MAX);
                Some((*service, Self::Places(flows.clone()), places))
            }
            Outlet::Holders { service } => {
                let tried = SmallVec::from_slice(&[plan.parties.backend]);
                // The user may have registered at further boxes by then.
                Some((*service, Self::Holders { tried }, u32::MAX))
            }
        }
    }
}

/// Does this outcome speak about the backend, so that another may do better?
fn is_backends_own(running: &Running, context: &Context, service: usize, by_affinity: bool, code: Option<u16>) -> bool {
    let Some(code) = code else { return true };
    let settings = running.farm_by_id(context.farm).and_then(|farm| farm.settings.services.get(service));
    let listed = settings.is_some_and(|service| service.failover.codes.contains(&code));
    // The box that held the callee's binding has lost it, or never knew the caller.
    let lost = by_affinity && matches!(code, 403 | 404 | 480);
    listed || lost
}
