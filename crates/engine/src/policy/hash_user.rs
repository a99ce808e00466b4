//! `hash-user`: weighted rendezvous hashing by user.

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct HashUser;

impl Policy for HashUser {
    fn name(&self) -> &'static str {
        "hash-user"
    }

    fn doc(&self) -> &'static str {
        "The same user goes to the same backend; a backend that is lost moves only its own users."
    }

    fn needs_state(&self) -> bool {
        false
    }

    fn measure(&self) -> Measure {
        Measure::Placed
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.rendezvous(ask, ask.user)
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::mix;
    use super::*;
    use crate::pool::world::{World, at, down};

    const USERS: u64 = 6_000;

    fn asks<'a>(number: u64) -> [(&'static str, Ask<'a>); 3] {
        let hash = mix(number);
        [
            ("hash-user", Ask { user: hash, ..Ask::default() }),
            ("hash-call-id", Ask { call_id: hash, ..Ask::default() }),
            ("hash-source", Ask { source: hash, ..Ask::default() }),
        ]
    }

    fn homes(world: &World, kind: usize) -> Vec<usize> {
        (0..USERS).map(|number| world.choose(at(0), &asks(number)[kind].1)).collect()
    }

    fn worst(homes: &[usize]) -> usize {
        (0..6).map(|member| homes.iter().filter(|&&home| home == member).count()).max().unwrap_or(0)
    }

    #[test]
    fn losing_one_of_six_moves_only_its_users() {
        for kind in 0..3 {
            let name = asks(0)[kind].0;
            let world = World::equal(name, 6);
            let before = homes(&world, kind);
            assert!(worst(&before) <= 1_250, "{name}: {} of a mean of 1,000", worst(&before));
            down(&world.states[2], at(0));
            let after = homes(&world, kind);
            assert!(worst(&after) <= 1_500, "{name}: {} of a mean of 1,200", worst(&after));
            for (old, new) in before.iter().zip(&after) {
                assert_ne!(*new, 2);
                assert!(*old == 2 || old == new, "{name}: a user of a living backend moved");
            }
            let moved: Vec<usize> =
                before.iter().zip(&after).filter(|(old, _)| **old == 2).map(|(_, new)| *new).collect();
            for survivor in [0, 1, 3, 4, 5] {
                assert!(moved.contains(&survivor), "{name}: the lost users spread over all others");
            }
        }
    }

    #[test]
    fn first_placements_keep_the_bound() {
        let world = World::equal("hash-user", 6);
        // Half of all users have the same two hashes, as a badly chosen key would.
        let user = |number: u64| {
            if number.is_multiple_of(2) { mix(number % 4) } else { mix(number) }
        };
        let mut tickets = Vec::new();
        let mut placed = Vec::new();
        for number in 0..USERS {
            let ask = Ask { user: user(number), bounded: true, ..Ask::default() };
            let chosen = world.choose(at(0), &ask);
            tickets.push(Some(world.states[chosen].hold_registration()));
            placed.push(chosen);
        }
        for state in &world.states {
            assert!(state.registrations() <= 1_250, "{} users of a mean of 1,000", state.registrations());
        }
        down(&world.states[4], at(0));
        for (number, home) in placed.iter().enumerate() {
            if *home == 4 {
                tickets[number] = None;
                let ask = Ask { user: user(number as u64), bounded: true, ..Ask::default() };
                let chosen = world.choose(at(0), &ask);
                tickets[number] = Some(world.states[chosen].hold_registration());
            }
        }
        assert_eq!(world.states[4].registrations(), 0);
        for state in &world.states {
            assert!(state.registrations() <= 1_500, "{} users of a mean of 1,200", state.registrations());
        }
    }

    #[test]
    fn the_home_of_a_user_does_not_depend_on_load_or_tries() {
        let world = World::equal("hash-user", 6);
        for number in 0..100 {
            let ask = Ask { user: mix(number), ..Ask::default() };
            let home = world.choose(at(0), &ask);
            let tried = [home];
            let next = world.choose(at(0), &Ask { exclude: &tried, ..ask });
            assert_ne!(next, home);
            assert_eq!(world.pool.home(at(0), &Ask { exclude: &tried, bounded: true, ..ask }), Some(home));
            // The backend tried next is the one that would inherit the user.
            let other = World::equal("hash-user", 6);
            down(&other.states[home], at(0));
            assert_eq!(other.choose(at(0), &ask), next);
        }
    }
}
