//! Challenges and credentials (RFC 3261 §22, RFC 8760).

use memchr::memchr;

use crate::grammar::{Items, around, head, is_lws, is_token, tail, trim_end, trim_start, unquote};

/// A WWW-Authenticate or Proxy-Authenticate header.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// The scheme, normally `Digest`.
    pub scheme: &'a [u8],
    /// All after the scheme.
    pub params: &'a [u8],
    /// From a proxy (407), not from a user agent (401).
    pub proxy: bool,
}

/// An Authorization or Proxy-Authorization header.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The scheme, normally `Digest`.
    pub scheme: &'a [u8],
    /// All after the scheme.
    pub params: &'a [u8],
    /// For a proxy, not for a user agent.
    pub proxy: bool,
}

/// Both headers have one grammar and nearly the same parameters.
macro_rules! authentication_header {
    ($type:ident) => {
        impl<'a> $type<'a> {
            /// Reads a header value; `None` if it does not begin with a scheme.
            pub fn read(value: &'a [u8], proxy: bool) -> Option<Self> {
                let (scheme, params) = scheme_and_params(value)?;
                Some(Self { scheme, params, proxy })
            }

            /// A parameter without its quotes; escapes are left in.
            pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
                param(self.params, name)
            }

            /// The realm.
            pub fn realm(&self) -> Option<&'a [u8]> {
                self.param(b"realm")
            }

            /// The nonce.
            pub fn nonce(&self) -> Option<&'a [u8]> {
                self.param(b"nonce")
            }

            /// The opaque string.
            pub fn opaque(&self) -> Option<&'a [u8]> {
                self.param(b"opaque")
            }

            /// The quality of protection: a list in a challenge, one token in credentials.
            pub fn qop(&self) -> Option<&'a [u8]> {
                self.param(b"qop")
            }

            /// The algorithm; MD5 is meant where it is absent.
            pub fn algorithm(&self) -> Option<&'a [u8]> {
                self.param(b"algorithm")
            }

            /// The nonce was right once, but is not fresh any more.
            pub fn stale(&self) -> bool {
                self.param(b"stale").is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
            }

            /// The user name.
            pub fn username(&self) -> Option<&'a [u8]> {
                self.param(b"username")
            }

            /// The URI that the response was computed over.
            pub fn uri(&self) -> Option<&'a [u8]> {
                self.param(b"uri")
            }

            /// The response.
            pub fn response(&self) -> Option<&'a [u8]> {
                self.param(b"response")
            }

            /// The client's nonce.
            pub fn cnonce(&self) -> Option<&'a [u8]> {
                self.param(b"cnonce")
            }

            /// The nonce count, eight hexadecimal digits.
            pub fn nc(&self) -> Option<&'a [u8]> {
                self.param(b"nc")
            }
        }
    };
}

authentication_header!(Challenge);
authentication_header!(Credentials);

fn scheme_and_params(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value.iter().position(|octet| is_lws(*octet)).unwrap_or(value.len());
    let scheme = head(value, end);
    is_token(scheme).then(|| (scheme, trim_start(tail(value, end))))
}

fn param<'a>(params: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Items::new(params).find_map(|item| {
        let (found, value) = around(item, memchr(b'=', item)?);
        trim_end(found).eq_ignore_ascii_case(name).then(|| unquote(trim_start(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_with_commas_in_quotes_and_folding() {
        let value = b"Digest realm=\"atlanta, \\\"x\\\"\", qop=\"auth,auth-int\",\r\n nonce=\"ea9c8e\",\r\n opaque=\"\", stale=TRUE, algorithm = SHA-256";
        let challenge = Challenge::read(value, true).expect("it begins with a scheme");
        assert_eq!(challenge.scheme, b"Digest");
        assert!(challenge.proxy);
        assert_eq!(challenge.realm(), Some(b"atlanta, \\\"x\\\"".as_slice()));
        assert_eq!(challenge.qop(), Some(b"auth,auth-int".as_slice()));
        assert_eq!(challenge.nonce(), Some(b"ea9c8e".as_slice()));
        assert_eq!(challenge.opaque(), Some(b"".as_slice()));
        assert_eq!(challenge.algorithm(), Some(b"SHA-256".as_slice()));
        assert!(challenge.stale());
        assert_eq!(challenge.param(b"domain"), None);
    }

    #[test]
    fn credentials_with_and_without_known_scheme() {
        let value = b"Digest username=\"bob\",realm=\"r\",uri=\"sip:192.0.2.1\",nonce=\"n\",nc=00000001,cnonce=\"c\",response=\"bd79\"";
        let credentials = Credentials::read(value, false).expect("it begins with a scheme");
        assert_eq!(credentials.username(), Some(b"bob".as_slice()));
        assert_eq!(credentials.uri(), Some(b"sip:192.0.2.1".as_slice()));
        assert_eq!(credentials.nc(), Some(b"00000001".as_slice()));
        assert_eq!(credentials.cnonce(), Some(b"c".as_slice()));
        assert_eq!(credentials.response(), Some(b"bd79".as_slice()));
        assert!(!credentials.stale());
        let unknown = Credentials::read(b"NoOneKnowsThisScheme opaque-data=here", false).expect("a scheme");
        assert_eq!(unknown.param(b"opaque-data"), Some(b"here".as_slice()));
        assert!(Credentials::read(b"", false).is_none());
    }
}
