//! Turns in proportion to shares: smooth weighted round robin.

use super::least::Least;

/// Whose turn it is. Survives changes of the shares, so that one who joins does not put everybody back to the start.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// Of the view whose shares were last taken in.
    generation: u64,
    order: Order,
}

#[derive(Clone, Debug)]
enum Order {
    /// What each member is owed, in units of share; a turn goes to the one owed most. Looks at every member.
    Smooth(Vec<i64>),
    /// For many members.
    Deadlines(Deadlines),
}

/// Earliest deadline first: a turn goes to the one whose next is due first. The order differs from the smooth one by a place at
/// most, the shares do not, and a turn costs little however many members there are.
#[derive(Clone, Debug)]
struct Deadlines {
    due: Least,
    shares: Vec<u64>,
    /// The deadline served last.
    time: f64,
}

impl Turns {
    pub(super) fn new(count: usize) -> Self {
        let order = if count <= SMOOTH_MEMBERS {
            Order::Smooth(vec![0; count])
        } else {
            Order::Deadlines(Deadlines { due: Least::new(count), shares: vec![0; count], time: 0.0 })
        };
        Self { generation: 0, order }
    }

    /// Takes in new shares; 0: no turns.
    pub(super) fn settle(&mut self, generation: u64, shares: &[u64]) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        match &mut self.order {
            Order::Smooth(owed) => {
                for (owed, &share) in owed.iter_mut().zip(shares) {
                    if share == 0 {
                        *owed = 0;
                    }
                }
            }
            Order::Deadlines(deadlines) => deadlines.settle(shares),
        }
    }

    /// The next free member. `active` holds those with a share. One that is not free forfeits its turn.
    pub(super) fn next(&mut self, shares: &[u64], active: &[usize], is_free: impl Fn(usize) -> bool) -> Option<usize> {
        match &mut self.order {
            Order::Smooth(owed) => next_smooth(owed, shares, active, is_free),
            Order::Deadlines(deadlines) => deadlines.next(is_free),
        }
    }
}

/// As in nginx: everybody gets their share, the richest is served and pays what all got.
fn next_smooth(owed: &mut [i64], shares: &[u64], active: &[usize], is_free: impl Fn(usize) -> bool) -> Option<usize> {
    let mut paid = 0;
    let mut best: Option<usize> = None;
    for &member in active {
        if !is_free(member) {
            continue;
        }
        let share = shares[member] as i64;
        owed[member] += share;
        paid += share;
        if best.is_none_or(|best| owed[member] > owed[best]) {
            best = Some(member);
        }
    }
    let picked = best?;
    owed[picked] -= paid;
    Some(picked)
}

impl Deadlines {
    fn settle(&mut self, shares: &[u64]) {
        for (member, (known, &share)) in self.shares.iter_mut().zip(shares).enumerate() {
            if *known == share {
                continue;
            }
            let due = if share == 0 {
                f64::INFINITY
            } else if *known == 0 {
                self.time + 0.5 / share as f64
            } else {
                // What is left of the wait stretches or shrinks with the share.
                self.time + (self.due.key(member) - self.time) * (*known as f64 / share as f64)
            };
            self.due.set(member, due);
            *known = share;
        }
    }

    fn next(&mut self, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..FORFEITS {
            let picked = self.due.least(0, |_| true)?;
            self.serve(picked);
            if is_free(picked) {
                return Some(picked);
            }
        }
        let picked = self.due.least(0, is_free)?;
        self.serve(picked);
        Some(picked)
    }

    fn serve(&mut self, member: usize) {
        let due = self.due.key(member);
        self.time = self.time.max(due);
        self.due.set(member, due + 1.0 / self.shares[member] as f64);
    }
}

/// Up to here a scan of all members is as fast as any index.
const SMOOTH_MEMBERS: usize = 64;

/// Members found not free one by one before all are looked at.
const FORFEITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(turns: &mut Turns, generation: u64, shares: &[u64], length: usize) -> Vec<usize> {
        let active: Vec<usize> = (0..shares.len()).filter(|&member| shares[member] > 0).collect();
        turns.settle(generation, shares);
        (0..length).map(|_| turns.next(shares, &active, |_| true).expect("somebody has a share")).collect()
    }

    #[test]
    fn the_smooth_order_is_that_of_nginx() {
        let mut turns = Turns::new(3);
        assert_eq!(sequence(&mut turns, 1, &[500, 100, 100], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn many_members_keep_their_shares_exactly() {
        let shares: Vec<u64> = (0..100).map(|member| 100 * (1 + member % 4)).collect();
        let mut turns = Turns::new(100);
        // 250 turns are one round; a hundred rounds, each member within one turn of its share.
        let mut counts = vec![0_u64; 100];
        for member in sequence(&mut turns, 1, &shares, 25_000) {
            counts[member] += 1;
        }
        for (member, count) in counts.iter().enumerate() {
            assert!(count.abs_diff(shares[member]) <= 1, "member {member} got {count}");
        }
    }

    #[test]
    fn one_who_joins_gets_its_share_and_no_more() {
        for count in [4_usize, 100] {
            let mut turns = Turns::new(count);
            let mut shares = vec![100_u64; count];
            shares[1] = 0;
            let before = sequence(&mut turns, 1, &shares, 1_000);
            assert!(!before.contains(&1));
            shares[1] = 100;
            let after = sequence(&mut turns, 2, &shares, 10 * count);
            let got = after.iter().filter(|&&member| member == 1).count();
            assert!((9..=11).contains(&got), "{got} of {} turns", 10 * count);
        }
    }

    #[test]
    fn those_not_free_are_passed_over() {
        for count in [4_usize, 100] {
            let mut turns = Turns::new(count);
            let shares = vec![100_u64; count];
            let active: Vec<usize> = (0..count).collect();
            turns.settle(1, &shares);
            for _ in 0..20 {
                assert_eq!(turns.next(&shares, &active, |member| member == 3), Some(3));
            }
            assert_eq!(turns.next(&shares, &active, |_| false), None);
        }
    }

    #[test]
    fn one_who_comes_back_neither_owes_nor_is_owed() {
        let mut turns = Turns::new(3);
        // The first owes 400 and the others are owed 200 each when it goes.
        assert_eq!(sequence(&mut turns, 1, &[500, 100, 100], 2), [0, 0]);
        assert_eq!(sequence(&mut turns, 2, &[0, 100, 100], 1), [1]);
        // It comes back to 0, 100 and 300.
        assert_eq!(sequence(&mut turns, 3, &[500, 100, 100], 3), [0, 2, 0]);
    }

    #[test]
    fn a_wait_stretches_and_shrinks_with_the_share() {
        let mut turns = Turns::new(65);
        let mut shares = vec![0_u64; 65];
        shares[..3].copy_from_slice(&[512, 128, 128]);
        // In units of 1/1,024 the first is due at 1, 3, 5 and so on, the others at 4, 12 and so on.
        assert_eq!(sequence(&mut turns, 1, &shares, 6), [0, 0, 1, 2, 0, 0]);
        // It is 7. The first, due at 9, is now due at 11, 15, 19; the second, due at 12, at 8¼, 10¼, 12¼ and so on.
        shares[..2].copy_from_slice(&[256, 512]);
        assert_eq!(sequence(&mut turns, 2, &shares, 8), [1, 1, 0, 2, 1, 1, 0, 1]);
    }
}
