//! What a fuzzer feeds: four functions from octets to nothing, which panic where a promise of the code under test is broken.
//!
//! The fuzz targets call them with what a fuzzer invents, and a test of every day with the seeds and with what fuzzers found
//! before, so that a finding stays fixed without a fuzzer at hand.
//!
//! | function | octets | what must hold |
//! |---|---|---|
//! | [`message()`] | one datagram | parts lie in the message, edits change what they name and nothing else, answers are fit to be sent |
//! | [`framing()`] | a stream, and the sizes of its pieces | the pieces make no difference, no octet is lost, limits hold |
//! | [`transaction()`] | events over the four machines | no deadline lies in the past, what is over stays over, everything ends |
//! | [`engine()`] | datagrams and time for a farm of two boxes | nothing leaves to strangers, every table is bounded and empties again |

mod framing;
mod machines;
mod parsing;
mod traffic;

pub use framing::framing;
pub use machines::transaction;
pub use parsing::message;
pub use traffic::engine;
