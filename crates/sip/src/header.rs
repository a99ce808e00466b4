//! The names of header fields.

use std::fmt;

/// A header field that something here or above reads or writes; all others are `Other`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Name {
    Accept,
    AcceptEncoding,
    AcceptLanguage,
    Allow,
    AllowEvents,
    Authorization,
    CallId,
    Contact,
    ContentEncoding,
    ContentLength,
    ContentType,
    CSeq,
    Date,
    Event,
    Expires,
    From,
    InReplyTo,
    Join,
    MaxBreadth,
    MaxForwards,
    MinExpires,
    MinSe,
    Organization,
    PAssertedIdentity,
    Path,
    PPreferredIdentity,
    Privacy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyRequire,
    RAck,
    Reason,
    RecordRoute,
    ReferredBy,
    ReferTo,
    Replaces,
    Require,
    RetryAfter,
    Route,
    RSeq,
    Server,
    ServiceRoute,
    SessionExpires,
    Subject,
    SubscriptionState,
    Supported,
    TargetDialog,
    Timestamp,
    To,
    Unsupported,
    UserAgent,
    Via,
    Warning,
    WwwAuthenticate,
    Other,
}

impl Name {
    /// How many names there are, `Other` included.
    pub const COUNT: usize = Name::Other as usize + 1;

    /// The name spelled so, in full or compact, in any case; `Other` if it is none of ours.
    pub fn from_bytes(spelled: &[u8]) -> Name {
        if let Some(name) = usual(spelled) {
            return name;
        }
        let Some(first) = spelled.first() else {
            return Name::Other;
        };
        let first = first.to_ascii_lowercase();
        if spelled.len() == 1 {
            return Name::from_compact(first);
        }
        for candidate in candidates(spelled.len(), first) {
            if candidate.as_str().as_bytes().eq_ignore_ascii_case(spelled) {
                return *candidate;
            }
        }
        Name::Other
    }

    /// The full name as the RFCs write it; empty for `Other`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Name::Accept => "Accept",
            Name::AcceptEncoding => "Accept-Encoding",
            Name::AcceptLanguage => "Accept-Language",
            Name::Allow => "Allow",
            Name::AllowEvents => "Allow-Events",
            Name::Authorization => "Authorization",
            Name::CallId => "Call-ID",
            Name::Contact => "Contact",
            Name::ContentEncoding => "Content-Encoding",
            Name::ContentLength => "Content-Length",
            Name::ContentType => "Content-Type",
            Name::CSeq => "CSeq",
            Name::Date => "Date",
            Name::Event => "Event",
            Name::Expires => "Expires",
            Name::From => "From",
            Name::InReplyTo => "In-Reply-To",
            Name::Join => "Join",
            Name::MaxBreadth => "Max-Breadth",
            Name::MaxForwards => "Max-Forwards",
            Name::MinExpires => "Min-Expires",
            Name::MinSe => "Min-SE",
            Name::Organization => "Organization",
            Name::PAssertedIdentity => "P-Asserted-Identity",
            Name::Path => "Path",
            Name::PPreferredIdentity => "P-Preferred-Identity",
            Name::Privacy => "Privacy",
            Name::ProxyAuthenticate => "Proxy-Authenticate",
            Name::ProxyAuthorization => "Proxy-Authorization",
            Name::ProxyRequire => "Proxy-Require",
            Name::RAck => "RAck",
            Name::Reason => "Reason",
            Name::RecordRoute => "Record-Route",
            Name::ReferredBy => "Referred-By",
            Name::ReferTo => "Refer-To",
            Name::Replaces => "Replaces",
            Name::Require => "Require",
            Name::RetryAfter => "Retry-After",
            Name::Route => "Route",
            Name::RSeq => "RSeq",
            Name::Server => "Server",
            Name::ServiceRoute => "Service-Route",
            Name::SessionExpires => "Session-Expires",
            Name::Subject => "Subject",
            Name::SubscriptionState => "Subscription-State",
            Name::Supported => "Supported",
            Name::TargetDialog => "Target-Dialog",
            Name::Timestamp => "Timestamp",
            Name::To => "To",
            Name::Unsupported => "Unsupported",
            Name::UserAgent => "User-Agent",
            Name::Via => "Via",
            Name::Warning => "Warning",
            Name::WwwAuthenticate => "WWW-Authenticate",
            Name::Other => "",
        }
    }

    /// The place of this name in a table of `COUNT` entries.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The bit of this name in a set of names.
    pub(crate) const fn bit(self) -> u64 {
        1 << (self as u8)
    }

    fn from_compact(letter: u8) -> Name {
        match letter {
            b'b' => Name::ReferredBy,
            b'c' => Name::ContentType,
            b'e' => Name::ContentEncoding,
            b'f' => Name::From,
            b'i' => Name::CallId,
            b'k' => Name::Supported,
            b'l' => Name::ContentLength,
            b'm' => Name::Contact,
            b'o' => Name::Event,
            b'r' => Name::ReferTo,
            b's' => Name::Subject,
            b't' => Name::To,
            b'u' => Name::AllowEvents,
            b'v' => Name::Via,
            b'x' => Name::SessionExpires,
            _ => Name::Other,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if *self == Name::Other { "unknown" } else { self.as_str() })
    }
}

/// Two spellings of one header name: case is ignored and compact forms are the full names.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    in_full(one).eq_ignore_ascii_case(in_full(other))
}

fn in_full(spelled: &[u8]) -> &[u8] {
    let [letter] = spelled else {
        return spelled;
    };
    match letter.to_ascii_lowercase() {
        b'a' => b"Accept-Contact",
        b'd' => b"Request-Disposition",
        b'j' => b"Reject-Contact",
        b'n' => b"Identity-Info",
        b'y' => b"Identity",
        known => match Name::from_compact(known) {
            Name::Other => spelled,
            name => name.as_str().as_bytes(),
        },
    }
}

/// What stands in nearly every message, as nearly everybody spells it: comparing with constants is the cheapest question.
fn usual(spelled: &[u8]) -> Option<Name> {
    Some(match spelled {
        b"Allow" => Name::Allow,
        b"Authorization" => Name::Authorization,
        b"Call-ID" => Name::CallId,
        b"Contact" => Name::Contact,
        b"Content-Length" => Name::ContentLength,
        b"Content-Type" => Name::ContentType,
        b"CSeq" => Name::CSeq,
        b"Expires" => Name::Expires,
        b"From" => Name::From,
        b"Max-Forwards" => Name::MaxForwards,
        b"Record-Route" => Name::RecordRoute,
        b"Route" => Name::Route,
        b"Server" => Name::Server,
        b"Supported" => Name::Supported,
        b"To" => Name::To,
        b"User-Agent" => Name::UserAgent,
        b"Via" => Name::Via,
        b"WWW-Authenticate" => Name::WwwAuthenticate,
        _ => return None,
    })
}

/// The names of this length that begin with this small letter.
const fn candidates(length: usize, first: u8) -> &'static [Name] {
    match (length, first) {
        (2, b't') => &[Name::To],
        (3, b'v') => &[Name::Via],
        (4, b'c') => &[Name::CSeq],
        (4, b'd') => &[Name::Date],
        (4, b'f') => &[Name::From],
        (4, b'j') => &[Name::Join],
        (4, b'p') => &[Name::Path],
        (4, b'r') => &[Name::RAck, Name::RSeq],
        (5, b'a') => &[Name::Allow],
        (5, b'e') => &[Name::Event],
        (5, b'r') => &[Name::Route],
        (6, b'a') => &[Name::Accept],
        (6, b'm') => &[Name::MinSe],
        (6, b'r') => &[Name::Reason],
        (6, b's') => &[Name::Server],
        (7, b'c') => &[Name::CallId, Name::Contact],
        (7, b'e') => &[Name::Expires],
        (7, b'p') => &[Name::Privacy],
        (7, b'r') => &[Name::Require],
        (7, b's') => &[Name::Subject],
        (7, b'w') => &[Name::Warning],
        (8, b'r') => &[Name::Replaces, Name::ReferTo],
        (9, b's') => &[Name::Supported],
        (9, b't') => &[Name::Timestamp],
        (10, b'u') => &[Name::UserAgent],
        (11, b'i') => &[Name::InReplyTo],
        (11, b'm') => &[Name::MinExpires, Name::MaxBreadth],
        (11, b'r') => &[Name::RetryAfter, Name::ReferredBy],
        (11, b'u') => &[Name::Unsupported],
        (12, b'a') => &[Name::AllowEvents],
        (12, b'c') => &[Name::ContentType],
        (12, b'm') => &[Name::MaxForwards],
        (12, b'o') => &[Name::Organization],
        (12, b'r') => &[Name::RecordRoute],
        (13, b'a') => &[Name::Authorization],
        (13, b'p') => &[Name::ProxyRequire],
        (13, b's') => &[Name::ServiceRoute],
        (13, b't') => &[Name::TargetDialog],
        (14, b'c') => &[Name::ContentLength],
        (15, b'a') => &[Name::AcceptEncoding, Name::AcceptLanguage],
        (15, b's') => &[Name::SessionExpires],
        (16, b'c') => &[Name::ContentEncoding],
        (16, b'w') => &[Name::WwwAuthenticate],
        (18, b'p') => &[Name::ProxyAuthenticate],
        (18, b's') => &[Name::SubscriptionState],
        (19, b'p') => &[Name::PAssertedIdentity, Name::ProxyAuthorization],
        (20, b'p') => &[Name::PPreferredIdentity],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: std::ops::RangeInclusive<usize> = 1..=24;

    /// Every name that the candidate table can yield.
    fn listed() -> Vec<Name> {
        LENGTHS
            .flat_map(|length| (b'a'..=b'z').flat_map(move |first| candidates(length, first).iter().copied()))
            .collect()
    }

    #[test]
    fn every_name_is_found_by_its_own_spelling_in_any_case() {
        let names = listed();
        assert_eq!(names.len(), Name::COUNT - 1, "each name stands in the candidate table once");
        for name in names {
            let spelled = name.as_str();
            assert!(usual(spelled.as_bytes()).is_none_or(|usual| usual == name));
            assert_eq!(Name::from_bytes(spelled.as_bytes()), name);
            assert_eq!(Name::from_bytes(spelled.to_ascii_uppercase().as_bytes()), name);
            assert_eq!(Name::from_bytes(spelled.to_ascii_lowercase().as_bytes()), name);
        }
    }

    #[test]
    fn compact_forms() {
        assert_eq!(Name::from_bytes(b"v"), Name::Via);
        assert_eq!(Name::from_bytes(b"V"), Name::Via);
        assert_eq!(Name::from_bytes(b"i"), Name::CallId);
        assert_eq!(Name::from_bytes(b"k"), Name::Supported);
        assert_eq!(Name::from_bytes(b"z"), Name::Other);
        assert!(is_same(b"j", b"reject-contact"));
        assert!(is_same(b"Call-ID", b"I"));
        assert!(!is_same(b"i", b"v"));
        assert!(is_same(b"X-Foo", b"x-fOO"));
    }

    #[test]
    fn every_registered_compact_form_is_its_full_name() {
        let registered = [
            ("a", "Accept-Contact"),
            ("b", "Referred-By"),
            ("c", "Content-Type"),
            ("d", "Request-Disposition"),
            ("e", "Content-Encoding"),
            ("f", "From"),
            ("i", "Call-ID"),
            ("j", "Reject-Contact"),
            ("k", "Supported"),
            ("l", "Content-Length"),
            ("m", "Contact"),
            ("n", "Identity-Info"),
            ("o", "Event"),
            ("r", "Refer-To"),
            ("s", "Subject"),
            ("t", "To"),
            ("u", "Allow-Events"),
            ("v", "Via"),
            ("x", "Session-Expires"),
            ("y", "Identity"),
        ];
        for (letter, full) in registered {
            assert_eq!(Name::from_bytes(letter.as_bytes()), Name::from_bytes(full.as_bytes()), "{letter}");
            assert!(is_same(letter.to_ascii_uppercase().as_bytes(), full.as_bytes()), "{letter}");
        }
    }

    #[test]
    fn the_headers_of_an_ordinary_registration_and_call_are_found_without_the_table() {
        let register = "Via Max-Forwards From To Call-ID CSeq Contact Expires User-Agent Allow Supported Authorization";
        let unauthorized = "Via From To Call-ID CSeq WWW-Authenticate Server Content-Length";
        let invite = "Via Route Record-Route Max-Forwards From To Call-ID CSeq Contact Content-Type Content-Length";
        for spelled in [register, unauthorized, invite].into_iter().flat_map(|message| message.split(' ')) {
            assert!(usual(spelled.as_bytes()).is_some(), "{spelled}");
        }
        assert_eq!(usual(b"via"), None);
    }

    #[test]
    fn what_is_not_ours_is_other() {
        for spelled in [b"".as_slice(), b"Via ", b"To\x01", b"C%6Fntact", b"Vib", b"\xff\xff"] {
            assert_eq!(Name::from_bytes(spelled), Name::Other);
        }
    }

    #[test]
    fn names_fit_a_set_of_64_bits() {
        const { assert!(Name::COUNT <= 64) };
        assert_eq!(Name::Accept.bit(), 1);
        assert_eq!(Name::Other.bit(), 1 << (Name::COUNT - 1));
    }
}
