//! Typed access to the headers that a proxy reads. A header is read when it is asked for, and each time anew.

use super::{Header, Message};
use crate::grammar::{head, number, parameter_end, trim_end};
use crate::header::Name;
use crate::value::{
    self, CSeq, Challenge, Contact, Credentials, DialogReference, NameAddr, Via, contact, name_addr, via,
};

/// `None` is "absent", or "present but unreadable"; `check` tells which.
impl<'a> Message<'a> {
    /// All Via values from the top down; unreadable ones are left out.
    pub fn vias(&self) -> impl Iterator<Item = Via<'a>> {
        self.values(Name::Via).filter_map(|value| via(&value).ok())
    }

    /// The topmost Via value. `None` also where it is unreadable and one below it is not.
    pub fn top_via(&self) -> Option<Via<'a>> {
        let top = self.values(Name::Via).next()?;
        via(&top).ok()
    }

    /// The From header.
    pub fn from(&self) -> Option<NameAddr<'a>> {
        self.address(Name::From)
    }

    /// The To header.
    pub fn to(&self) -> Option<NameAddr<'a>> {
        self.address(Name::To)
    }

    /// The Call-ID, if it is not empty.
    pub fn call_id(&self) -> Option<&'a [u8]> {
        self.first(Name::CallId).map(|header| header.value).filter(|value| !value.is_empty())
    }

    /// The CSeq.
    pub fn cseq(&self) -> Option<CSeq<'a>> {
        self.first(Name::CSeq).and_then(|header| value::cseq(header.value).ok())
    }

    /// Max-Forwards; what is larger than 255 is 255.
    pub fn max_forwards(&self) -> Option<u8> {
        let value = number(self.first(Name::MaxForwards)?.value)?;
        Some(u8::try_from(value).unwrap_or(u8::MAX))
    }

    /// All Route values from the top down; unreadable ones are left out.
    pub fn routes(&self) -> impl Iterator<Item = NameAddr<'a>> {
        self.addresses(Name::Route)
    }

    /// All Record-Route values from the top down; unreadable ones are left out.
    pub fn record_routes(&self) -> impl Iterator<Item = NameAddr<'a>> {
        self.addresses(Name::RecordRoute)
    }

    /// All Path values from the top down (RFC 3327); unreadable ones are left out.
    pub fn paths(&self) -> impl Iterator<Item = NameAddr<'a>> {
        self.addresses(Name::Path)
    }

    /// All Contact values in order; unreadable ones are left out.
    pub fn contacts(&self) -> impl Iterator<Item = Contact<'a>> {
        self.values(Name::Contact).filter_map(|value| contact(value.bytes).ok())
    }

    /// The Expires header in seconds, saturating.
    pub fn expires(&self) -> Option<u32> {
        self.first(Name::Expires).and_then(|header| seconds(header.value))
    }

    /// The option tag stands in that header (Supported, Require, Proxy-Require).
    pub fn has_option(&self, header: Name, tag: &[u8]) -> bool {
        self.values(header).any(|value| value.bytes.eq_ignore_ascii_case(tag))
    }

    /// WWW-Authenticate and Proxy-Authenticate in order, one challenge per header line.
    pub fn challenges(&self) -> impl Iterator<Item = Challenge<'a>> {
        self.headers().filter_map(|header| match header.name {
            Name::WwwAuthenticate => Challenge::read(header.value, false),
            Name::ProxyAuthenticate => Challenge::read(header.value, true),
            _ => None,
        })
    }

    /// Authorization and Proxy-Authorization in order, one set of credentials per header line.
    pub fn credentials(&self) -> impl Iterator<Item = Credentials<'a>> {
        self.headers().filter_map(|header| match header.name {
            Name::Authorization => Credentials::read(header.value, false),
            Name::ProxyAuthorization => Credentials::read(header.value, true),
            _ => None,
        })
    }

    /// The dialog that Replaces (RFC 3891), Join (RFC 3911) or Target-Dialog (RFC 4538) names, the first of these found.
    pub fn dialog_reference(&self) -> Option<DialogReference<'a>> {
        [Name::Replaces, Name::Join, Name::TargetDialog]
            .into_iter()
            .filter_map(|name| self.first(name))
            .find_map(|header: Header<'a>| value::dialog_reference(&header))
    }

    /// The interval of Session-Expires in seconds, saturating (RFC 4028).
    pub fn session_expires(&self) -> Option<u32> {
        let header = self.first(Name::SessionExpires)?;
        seconds(trim_end(head(header.value, parameter_end(header.value))))
    }

    fn address(&self, name: Name) -> Option<NameAddr<'a>> {
        self.first(name).and_then(|header| name_addr(header.value).ok())
    }

    fn addresses(&self, name: Name) -> impl Iterator<Item = NameAddr<'a>> {
        self.values(name).filter_map(|value| name_addr(value.bytes).ok())
    }
}

fn seconds(bytes: &[u8]) -> Option<u32> {
    number(bytes).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}
