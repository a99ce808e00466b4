//! RFC 5626 §7: a request to a phone whose flow fails goes on by another of the phone's flows: at once, one after the other,
//! and only as long as the phone has not answered.

use super::Core;
use crate::context::{Context, Hop, Received, Spare};
use crate::counters::Counter;
use crate::decide::{Arrival, Decision, Plan, names_flow};
use crate::running::Running;
use crate::table::Id;
use sip::Instant;

impl Core {
    /// What makes a difference should the flow that a request leaves by fail.
    pub(super) fn spare(&self, now: Instant, arrival: &Arrival<'_>, plan: &Plan) -> Option<Box<Spare>> {
        let binding = plan.parties.binding;
        if binding == 0 || !matches!(plan.hop, Hop::Peer) {
            return None;
        }
        if names_flow(arrival, plan.popped) {
            return Some(Box::new(Spare::Named));
        }
        let flows = self.shared.directory.with_binding(now, binding, |known| known.ways(now).count())?;
        if flows < 2 {
            return None;
        }
        Some(Box::new(Spare::Flows { binding, received: Received::of(arrival) }))
    }

    /// Begins the branch by the phone's next flow after that of branch `at` failed. `false`: there is none.
    pub(super) fn next_flow(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
    ) -> bool {
        if context.cancelled || context.server_is_done() {
            return false;
        }
        let Some(spare) = context.spare.take() else {
            return false;
        };
        let begun = self.begin_next_flow(running, now, id, context, at, &spare).is_some();
        context.spare = Some(spare);
        begun
    }

    /// The request as it was received is decided about once more, now that the directory knows of the failure.
    fn begin_next_flow(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        spare: &Spare,
    ) -> Option<()> {
        let Spare::Flows { binding, received } = spare else {
            return None;
        };
        self.shared.directory.flow_failed(*binding, &context.branches[at].flow);
        let (plan, written) = self.plan_again(running, now, id, context, received, |decider, arrival| {
            let Decision::Forward(plan) = decider.decide(arrival) else {
                return None;
            };
            let tried = context.branches.iter().any(|branch| branch.flow == plan.flow);
            let is_his = plan.parties.binding == *binding && matches!(plan.hop, Hop::Peer);
            (is_his && !tried).then_some(plan)
        })?;
        self.count(Counter::NextFlows);
        self.begin_branch(running, now, context, plan, written);
        Some(())
    }
}
