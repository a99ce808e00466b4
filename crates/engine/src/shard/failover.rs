//! The next backend for a request that its first one did not answer, or answered with a failure that is the backend's own.
//!
//! ```text
//!                  no answer at all      no final answer      503 …      404, 480 by affinity
//! INVITE           after answer_timeout  (Timer C)            yes        yes
//! REGISTER, OPTIONS, SUBSCRIBE, PUBLISH
//!                  after final_timeout   after final_timeout  yes        SUBSCRIBE: yes
//! others           -                     -                    yes        MESSAGE: yes
//! in a dialog      never
//! ```

use super::Core;
use super::large::Written;
use crate::context::{Context, Hop, Placement};
use crate::counters::Counter;
use crate::decide::{Arrival, Deaf, Decider, Plan, Refusal};
use crate::io::Event;
use crate::origin::Origin;
use crate::running::Running;
use crate::table::Id;
use sip::Instant;

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
        if let Hop::Backend(state) = &context.branches[at].hop
            && !context.branches[at].answered
        {
            let event = state.on_timeout(now);
            self.tell_if(now, event);
        }
        if context.kind.in_dialog {
            if !context.branches[at].answered {
                self.dialog_timed_out(running, now, context, at);
            }
            return;
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

    /// After a final answer (`code`) or a failed transport (`None`): another backend, if this is a case for one.
    pub(super) fn try_next(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        code: Option<u16>,
    ) -> bool {
        let Some(placement) = context.placement.as_deref() else {
            return false;
        };
        if let (Some(403), true) = (code, placement.by_affinity) {
            self.affinity_refused(running, context, at);
        }
        if !is_backends_own(running, context, placement, code) {
            return false;
        }
        self.next_branch(running, now, id, context)
    }

    /// One more attempt, if one is left and a backend is there.
    fn next_branch(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context) -> bool {
        let Some(mut placement) = context.placement.take() else {
            return false;
        };
        let attempts = u8::try_from(context.branches.len());
        let allowed = placement.attempts_left > 0 && !context.cancelled;
        let (true, Ok(attempt)) = (allowed, attempts) else {
            return false;
        };
        if placement.generation != running.generation {
            // The indices belong to a configuration that is gone.
            return false;
        }
        let Some((plan, written)) = self.plan_next(running, now, id, context, &placement, attempt) else {
            return false;
        };
        self.count(Counter::Failovers);
        if let Some(placed) = &plan.placed {
            placement.tried.push(placed.backend);
            placement.affinity.clone_from(&placed.affinity);
            placement.by_affinity = placed.by_affinity;
        }
        placement.attempts_left -= 1;
        context.placement = Some(placement);
        self.begin_branch(running, now, context, plan, written);
        true
    }

    fn plan_next(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        placement: &Placement,
        attempt: u8,
    ) -> Option<(Plan, Written)> {
        let limits = super::receive::message_limits(running);
        let message = sip::parse(&placement.request, &limits).ok()?;
        let checked = sip::check(&message, &limits).ok()?;
        let (farm, listener) = running.listener(placement.arrived.listener)?;
        let arrival = Arrival {
            message: &checked,
            flow: placement.arrived,
            farm,
            listener,
            origin: Origin::of(farm, listener, &placement.arrived),
            uri: *checked.uri()?,
        };
        let random = self.next_random();
        let mut decider = Decider { shared: &self.shared, running, now, random, trace: Deaf };
        let planned: Result<Plan, Refusal> =
            decider.again(&arrival, placement.service, &placement.tried, &placement.affinity);
        let mut plan = planned.ok()?;
        let branch = self.branch_of(id, attempt, context.loop_hash, context.first_upstream);
        let written = self.write_sized(running, &arrival, &mut plan, &branch);
        Some((plan, written))
    }

    fn affinity_refused(&mut self, running: &Running, context: &Context, at: usize) {
        let Some(farm) = running.farm_by_id(context.farm) else {
            return;
        };
        if let Hop::Backend(state) = &context.branches[at].hop {
            self.tell(Event::AffinityRefused { farm: farm.settings.id, backend: state.id() });
        }
    }
}

/// Does this outcome speak about the backend, so that another may do better?
fn is_backends_own(running: &Running, context: &Context, placement: &Placement, code: Option<u16>) -> bool {
    let Some(code) = code else { return true };
    let settings = running.farm_by_id(context.farm).and_then(|farm| farm.settings.services.get(placement.service));
    let listed = settings.is_some_and(|service| service.failover.codes.contains(&code));
    // The box that held the callee's binding has lost it, or never knew the caller.
    let lost = placement.by_affinity && matches!(code, 403 | 404 | 480);
    listed || lost
}
