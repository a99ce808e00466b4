//! What the DNS said before, question by question: it goes on counting while nobody answers (RFC 8767), and for a while when a
//! service is gone from one moment to the next.
//!
//! Otherwise a name server that fails in the middle of the steps would send calls elsewhere: without its SRV records, the same
//! name leads to the host's own address at port 5060.

use super::rules::{Answer, Question};
use std::collections::BTreeMap;

/// The last good answers to the questions of one target.
#[derive(Clone, Default, Debug)]
pub(crate) struct Memory(BTreeMap<Question, Kept>);

/// Why an old answer counts instead of the new one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// Nobody answers.
    Failed(String),
    /// There is suddenly no such service.
    Gone(String),
}

/// An answer with records is replaced by one that says "nothing" only when that was said so often in a row: a zone that is being
/// edited must not end calls.
pub(crate) const BELIEVED: u32 = 3;

#[derive(Clone, Debug)]
struct Kept {
    /// With records.
    answer: Answer,
    /// How often in a row there was nothing since.
    nothing: u32,
}

impl Memory {
    /// What `answer` counts for: itself, or what was known before, and then why.
    pub(crate) fn weigh(&mut self, question: &Question, answer: Answer) -> (Answer, Option<Doubt>) {
        match answer {
            Answer::Records { .. } => {
                self.0.insert(question.clone(), Kept { answer: answer.clone(), nothing: 0 });
                (answer, None)
            }
            Answer::Failed(text) => match self.0.get(question) {
                Some(kept) => (kept.answer.clone(), Some(Doubt::Failed(text))),
                None => (Answer::Failed(text), None),
            },
            Answer::Nothing => self.weigh_nothing(question),
        }
    }

    /// Forgets all other questions.
    pub(crate) fn keep_only(&mut self, asked: &BTreeMap<Question, Answer>) {
        self.0.retain(|question, _| asked.contains_key(question));
    }

    /// That a host lost its address says nothing of other places, so it counts at once; that a service is gone leads elsewhere.
    fn weigh_nothing(&mut self, question: &Question) -> (Answer, Option<Doubt>) {
        if let Some(kept) = self.0.get_mut(question)
            && question.kind.is_service()
        {
            kept.nothing += 1;
            if kept.nothing < BELIEVED {
                return (
                    kept.answer.clone(),
                    Some(Doubt::Gone(format!("{question}: there is no such record any more"))),
                );
            }
        }
        self.0.remove(question);
        (Answer::Nothing, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Data, Kind};
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn question(kind: Kind) -> Question {
        Question { name: "pbx.example.com".to_owned(), kind }
    }

    fn records(last: u8) -> Answer {
        let records = vec![Data::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))];
        Answer::Records { records, ttl: Duration::from_secs(60) }
    }

    fn failed() -> Answer {
        Answer::Failed("no answer".to_owned())
    }

    #[test]
    fn what_was_known_counts_while_nobody_answers() {
        let mut memory = Memory::default();
        let question = question(Kind::A);
        assert_eq!(memory.weigh(&question, failed()), (failed(), None));
        assert_eq!(memory.weigh(&question, records(1)), (records(1), None));
        for _ in 0..10 {
            let doubt = Doubt::Failed("no answer".to_owned());
            assert_eq!(memory.weigh(&question, failed()), (records(1), Some(doubt)));
        }
        assert_eq!(memory.weigh(&question, records(2)), (records(2), None));
    }

    #[test]
    fn a_service_is_gone_when_that_was_said_three_times_in_a_row() {
        for kind in [Kind::Naptr, Kind::Srv] {
            let mut memory = Memory::default();
            let question = question(kind);
            assert_eq!(memory.weigh(&question, Answer::Nothing), (Answer::Nothing, None));
            for _ in 0..2 {
                memory.weigh(&question, records(1));
                for _ in 0..2 {
                    let (answer, doubt) = memory.weigh(&question, Answer::Nothing);
                    assert_eq!(answer, records(1));
                    assert!(matches!(&doubt, Some(Doubt::Gone(text)) if text.contains("pbx.example.com")), "{doubt:?}");
                }
            }
            assert_eq!(memory.weigh(&question, Answer::Nothing), (Answer::Nothing, None));
            assert_eq!(memory.weigh(&question, failed()), (failed(), None));
        }
    }

    #[test]
    fn a_lost_address_counts_at_once() {
        let mut memory = Memory::default();
        let question = question(Kind::Aaaa);
        memory.weigh(&question, records(1));
        assert_eq!(memory.weigh(&question, Answer::Nothing), (Answer::Nothing, None));
    }

    #[test]
    fn what_is_not_asked_any_more_is_forgotten() {
        let mut memory = Memory::default();
        let (stays, goes) = (question(Kind::Srv), question(Kind::Naptr));
        memory.weigh(&stays, records(1));
        memory.weigh(&goes, records(2));
        memory.keep_only(&BTreeMap::from([(stays.clone(), records(1))]));
        assert_eq!(memory.weigh(&stays, failed()).0, records(1));
        assert_eq!(memory.weigh(&goes, failed()).0, failed());
    }
}
