//! A request from a backend to a registered phone: which of its bindings, and by which scheme.

use super::in_dialog::gone;
use super::{Arrival, Decider, Plan, Refusal, Routes, Trace};
use crate::directory::Binding;
use crate::identity::Aor;
use crate::io::Flow;
use sip::Scheme;
use smallvec::SmallVec;
use std::borrow::Cow;

impl<T: Trace> Decider<'_, T> {
    /// The Request-URI is a Contact that we wrote: it names one binding.
    pub(super) fn towards_phone(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        id: u64,
    ) -> Result<Plan, Refusal> {
        let Some(found) = self.shared.directory.binding(self.now, id) else {
            self.trace.note(|| "this contact is not registered any more".into());
            return Err(gone(arrival.message));
        };
        self.trace.note(|| {
            let contact = String::from_utf8_lossy(&found.contact).into_owned();
            format!("contact id of {contact}")
        });
        self.towards_binding(arrival, routes, &found)
    }

    /// By the first of its flows that may still lead to the phone and is fit for the request (RFC 5626 §7: one of them, not all).
    pub(super) fn towards_binding(
        &self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        binding: &Binding,
    ) -> Result<Plan, Refusal> {
        let mut refusal = Refusal::Status(480);
        for way in binding.ways(self.now) {
            let Some(flow) = self.usable(arrival, way.flow) else {
                continue;
            };
            match self.asked_as(arrival, &flow, way.contact) {
                Ok(contact) => return Ok(self.towards_peer(arrival, routes, flow, Some(&*contact), binding.id)),
                Err(unfit) => refusal = unfit,
            }
        }
        Err(refusal)
    }

    /// RFC 5630 §5.3: a request by `sip` reaches a contact of `sips` by `sip`, over its TLS; one by `sips` no contact of `sip`.
    fn asked_as<'c>(&self, arrival: &Arrival<'_>, flow: &Flow, contact: &'c [u8]) -> Result<Cow<'c, [u8]>, Refusal> {
        let by_sips = arrival.uri.scheme == Scheme::Sips;
        match sip::uri::after_sips(contact) {
            Some(_) if by_sips => Ok(Cow::Borrowed(contact)),
            None if by_sips => Err(Refusal::SipsNotAllowed),
            None => Ok(Cow::Borrowed(contact)),
            Some(rest) if self.is_secure(flow) => Ok(Cow::Owned([&b"sip:"[..], rest].concat())),
            Some(_) => Err(Refusal::SipsRequired),
        }
    }

    /// The called user's bindings that count, the newest first.
    pub(super) fn bindings_of_called(
        &self,
        arrival: &Arrival<'_>,
        counts: impl Fn(&Binding) -> bool,
    ) -> SmallVec<[Binding; 2]> {
        let Some(aor) = Aor::of(&arrival.uri, arrival.farm, arrival.flow.local) else {
            return SmallVec::new();
        };
        let key = aor.key(&self.shared.secrets, arrival.farm.settings.id);
        self.shared
            .directory
            .with_person(key, |person| person.all_live(self.now).filter(|binding| counts(binding)).cloned().collect())
            .unwrap_or_default()
    }
}
