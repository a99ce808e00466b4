//! Load as values: what a ticket stands for counts for as long as the ticket lives, so that counters cannot drift.

use super::state::BackendState;
use std::sync::Arc;

/// A call that is up on a backend.
#[derive(Debug)]
pub struct CallTicket {
    state: Arc<BackendState>,
}

/// A registration that a backend holds.
#[derive(Debug)]
pub struct RegistrationTicket {
    state: Arc<BackendState>,
}

/// A transaction under way at a backend.
#[derive(Debug)]
pub struct WorkTicket {
    state: Arc<BackendState>,
    cost: u64,
    is_awaited: bool,
}

/// The kinds of transaction that `least-work` tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    Invite,
    Bye,
    Register,
    Other,
}

/// What a transaction costs a backend, in hundredths of the cheapest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    pub invite: u32,
    pub bye: u32,
    pub register: u32,
    pub other: u32,
}

impl Costs {
    /// As measured by Jiang et al. (IEEE/ACM Transactions on Networking 20(4), 2012) for INVITE and BYE.
    pub const DEFAULT: Self = Self { invite: 175, bye: 100, register: 100, other: 100 };

    /// The cost of one transaction.
    pub fn of(&self, kind: Cost) -> u64 {
        u64::from(match kind {
            Cost::Invite => self.invite,
            Cost::Bye => self.bye,
            Cost::Register => self.register,
            Cost::Other => self.other,
        })
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl CallTicket {
    /// The call is counted already.
    pub(super) fn new(state: Arc<BackendState>) -> Self {
        Self { state }
    }
}

impl RegistrationTicket {
    /// The registration is counted already.
    pub(super) fn new(state: Arc<BackendState>) -> Self {
        Self { state }
    }
}

impl WorkTicket {
    /// The work is counted already, and its answer awaited.
    pub(super) fn new(state: Arc<BackendState>, cost: u64) -> Self {
        Self { state, cost, is_awaited: true }
    }

    /// The first answer came: from now on the transaction is no reason for `fastest` to keep away. A call that rings is no
    /// backend that hangs.
    pub fn answered(&mut self) {
        if std::mem::take(&mut self.is_awaited) {
            self.state.end_awaiting();
        }
    }
}

impl Drop for CallTicket {
    fn drop(&mut self) {
        self.state.end_call();
    }
}

impl Drop for RegistrationTicket {
    fn drop(&mut self) {
        self.state.end_registration();
    }
}

impl Drop for WorkTicket {
    fn drop(&mut self) {
        self.answered();
        self.state.end_work(self.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_the_paper() {
        let costs = Costs::default();
        let table = [Cost::Invite, Cost::Bye, Cost::Register, Cost::Other];
        assert_eq!(table.map(|kind| costs.of(kind)), [175, 100, 100, 100]);
    }
}
