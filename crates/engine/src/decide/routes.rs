//! RFC 3261 §16.4: Route information preprocessing.

use super::{Arrival, Refusal};
use crate::token::{Route, RouteKind, Secrets};
use sip::Message;
use sip::uri;

/// The Route set of a request as far as it concerns us.
pub(crate) struct Routes<'m> {
    /// The token of ours that was topmost.
    pub(crate) token: Option<Route>,
    /// Its octets, for loop detection.
    pub(crate) token_text: &'m [u8],
    pub(crate) popped: Popped,
    /// The Request-URI that a strict router upstream hid in the last Route value.
    pub(crate) request_uri: Option<&'m [u8]>,
}

/// The Route values to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Popped {
    /// From the top.
    pub(crate) first: usize,
    /// The last one, which became the Request-URI.
    pub(crate) last: bool,
}

impl<'m> Routes<'m> {
    pub(crate) fn read(secrets: &Secrets, arrival: &Arrival<'m>) -> Result<Self, Refusal> {
        let message = arrival.message;
        let mut routes = Self { token: None, token_text: b"", popped: Popped::default(), request_uri: None };
        routes.repair_strict(secrets, arrival)?;
        let call_id = message.call_id();
        for value in message.routes() {
            let Some(uri) = value.uri() else { break };
            let user = uri.user.unwrap_or_default();
            if looks_like_token(user) {
                if routes.token.is_some() {
                    // The second of a pair is the first once more; anything else is the next proxy's business.
                    let pair = routes.token.is_some_and(|token| token.paired);
                    if !pair || user != routes.token_text {
                        break;
                    }
                    routes.popped.first += 1;
                    break;
                }
                let route = secrets.read_route(user, call_id).ok_or(Refusal::Forged)?;
                routes.token = Some(believed(route, arrival)?);
                routes.token_text = user;
                routes.popped.first += 1;
            } else if routes.token.is_none() && arrival.farm.is_ours(&uri, arrival.flow.local) {
                routes.popped.first += 1;
            } else {
                break;
            }
        }
        Ok(routes)
    }

    /// RFC 3261 §16.4, first paragraph: a Request-URI that we put into a Record-Route means that the previous hop was a strict
    /// router; the real Request-URI is the last Route value.
    fn repair_strict(&mut self, secrets: &Secrets, arrival: &Arrival<'m>) -> Result<(), Refusal> {
        let user = arrival.uri.user.unwrap_or_default();
        if !looks_like_token(user) {
            return Ok(());
        }
        let call_id = arrival.message.call_id();
        let route = secrets.read_route(user, call_id).ok_or(Refusal::Forged)?;
        self.token = Some(believed(route, arrival)?);
        self.token_text = user;
        self.popped.last = true;
        let last = last_route(arrival.message).ok_or(Refusal::Status(400))?;
        self.request_uri = Some(last);
        Ok(())
    }
}

/// Dialog tokens count with a To tag only, Path tokens from backends only: otherwise anybody who saw one could send by it.
fn believed(route: Route, arrival: &Arrival<'_>) -> Result<Route, Refusal> {
    let valid = match route.kind {
        RouteKind::Dialog => arrival.message.to().tag.is_some(),
        RouteKind::Path => arrival.origin.is_backend(),
    };
    valid.then_some(route).ok_or(Refusal::Forged)
}

/// Ours or made to look so: a user part as long as the shortest token, with its prefix.
fn looks_like_token(user: &[u8]) -> bool {
    user.len() >= 54 && user.starts_with(b"tdm")
}

fn last_route<'m>(message: &Message<'m>) -> Option<&'m [u8]> {
    let last = message.routes().last()?;
    uri::parse(last.uri_bytes).ok()?;
    Some(last.uri_bytes)
}
