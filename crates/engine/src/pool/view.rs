//! Who may be chosen, and with what weight: taken from the states once and kept until something changes.

use super::state::BackendState;
use crate::settings::{Farm, Service};
use sip::Instant;
use std::sync::Arc;

/// A backend in a pool.
#[derive(Debug)]
pub(crate) struct Member {
    /// Into the backends of the farm.
    pub(crate) index: usize,
    pub(crate) state: Arc<BackendState>,
    weight: u64,
    /// 0 is used first: the rank of the backend's priority among those of the service.
    level: usize,
}

/// A state's word on what may be sent there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// Up and neither set aside nor in maintenance.
    pub(crate) is_available: bool,
    /// Set aside long enough: one request may try.
    pub(crate) is_half_open: bool,
    /// Per cent of its weight; 0: nothing may be sent.
    pub(crate) ramp: u64,
    /// When this changes by itself.
    pub(crate) until: Option<Instant>,
}

/// All vectors but `active` and `idle` are parallel to the members.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Tells views of one pool apart; the first that is built has 1.
    pub(crate) generation: u64,
    version: u64,
    until: Option<Instant>,
    /// In hundredths; 0: may not be chosen.
    pub(crate) weights: Vec<u64>,
    /// Per cent; 0: may not be chosen.
    pub(crate) ramps: Vec<u64>,
    /// As `weights`, with slow start in steps of 10 %, so that hash slots do not change hands every moment.
    pub(crate) steps: Vec<u64>,
    pub(crate) half_open: Vec<bool>,
    /// Members with a weight, ascending, and those without.
    pub(crate) active: Vec<usize>,
    pub(crate) idle: Vec<usize>,
    pub(crate) weight_total: u64,
}

/// The members of the pool of `service`.
pub(super) fn members(farm: &Farm, service: &Service, states: &[Arc<BackendState>]) -> Vec<Member> {
    let known = |&index: &usize| {
        let backend = farm.backends.get(index)?;
        let state = states.get(index)?;
        Some((index, backend, state))
    };
    let mut priorities: Vec<u32> =
        service.backends.iter().filter_map(known).map(|(_, backend, _)| backend.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    service
        .backends
        .iter()
        .filter_map(known)
        .map(|(index, backend, state)| Member {
            index,
            state: Arc::clone(state),
            weight: u64::from(backend.weight),
            level: priorities.partition_point(|&better| better < backend.priority),
        })
        .collect()
}

impl View {
    /// What the states of `members` say at `now`.
    pub(super) fn new(members: &[Member], now: Instant, version: u64, generation: u64) -> Self {
        let standings: Vec<Standing> = members.iter().map(|member| member.state.standing(now)).collect();
        let levels = levels_in_use(members, &standings);
        let mut view = Self {
            generation,
            version,
            until: standings.iter().filter_map(|standing| standing.until).min(),
            ..Self::default()
        };
        for (index, (member, standing)) in members.iter().zip(&standings).enumerate() {
            let is_active = member.level < levels && member.weight > 0 && standing.ramp > 0;
            let ramp = if is_active { standing.ramp } else { 0 };
            view.weights.push(member.weight * ramp);
            view.ramps.push(ramp);
            view.steps.push(member.weight * (ramp - ramp % 10));
            view.half_open.push(standing.is_half_open);
            view.weight_total += member.weight * ramp;
            if is_active {
                view.active.push(index);
            } else {
                view.idle.push(index);
            }
        }
        view
    }

    /// Did a state change, or the time come at which one changes by itself?
    pub(super) fn is_outdated(&self, version: u64, now: Instant) -> bool {
        self.generation == 0 || self.version != version || self.until.is_some_and(|until| now >= until)
    }
}

/// The first level, and one more for each backend on the levels in use that is not available.
fn levels_in_use(members: &[Member], standings: &[Standing]) -> usize {
    let deepest = members.iter().map(|member| member.level + 1).max().unwrap_or(0);
    let mut levels = 1;
    loop {
        let missing = members
            .iter()
            .zip(standings)
            .filter(|(member, standing)| member.level < levels && !standing.is_available)
            .count();
        let wanted = (1 + missing).min(deepest);
        if wanted <= levels {
            return levels;
        }
        levels = wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Ask;
    use crate::pool::world::{World, at, backend, down};

    #[test]
    fn a_view_is_kept_until_a_state_changes_or_its_time_comes() {
        for (generation, until_ms, version, now_ms, is_outdated) in [
            (0, None, 7, 0, true),
            (0, Some(5), 7, 4, true),
            (1, None, 7, 9_999, false),
            (1, None, 6, 0, true),
            (1, None, 8, 0, true),
            (1, Some(5), 7, 4, false),
            (1, Some(5), 7, 5, true),
            (1, Some(5), 7, 6, true),
            (2, Some(5), 8, 4, true),
        ] {
            let view = View { generation, version: 7, until: until_ms.map(at), ..View::default() };
            assert_eq!(view.is_outdated(version, at(now_ms)), is_outdated, "{view:?}, {version} at {now_ms} ms");
        }
    }

    #[test]
    fn who_is_missing_on_a_level_not_in_use_calls_for_no_other() {
        let mut boxes = Vec::from(["a", "b", "c"].map(backend));
        for (backend, priority) in boxes.iter_mut().zip([1, 2, 2]) {
            backend.priority = priority;
        }
        let world = World::new("round-robin", boxes);
        let three = || [(); 3].map(|()| world.choose(at(0), &Ask::default()));
        down(&world.states[1], at(0));
        assert_eq!(three(), [0, 0, 0]);
        down(&world.states[0], at(0));
        assert_eq!(three(), [2, 2, 2]);
    }
}
