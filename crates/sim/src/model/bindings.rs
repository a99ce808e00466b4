//! Registrations as the boxes see them.

use super::Problems;
use super::circumstances::Circumstances;
use super::story::Story;
use crate::network::Party;
use std::collections::BTreeMap;

/// No box ever sees a second binding of a user: every user of the simulation has one phone.
pub(super) fn no_box_sees_a_second_binding(stories: &[Story<'_>], _: &Circumstances, problems: &mut Problems) {
    let mut contacts: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for story in stories {
        for one in story.requests_sent().filter(|one| matches!(one.receiver, Some(Party::Pbx(_)))) {
            let (Some(user), Some(contact)) = (one.bound_user, one.contact) else {
                continue;
            };
            let known = *contacts.entry(user).or_insert(contact);
            if known != contact {
                let what = format!(
                    "a second binding: {} besides {}",
                    String::from_utf8_lossy(contact),
                    String::from_utf8_lossy(known)
                );
                problems.report(&story.request, one.at, &what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, PHONE, Wire, passed_down};
    use crate::script::Script;

    #[test]
    fn a_second_binding_is_told() {
        let mut wire = Wire::new();
        let mut register = |contact: &str, cseq: u32| {
            let branch = format!("up{cseq}");
            let request = Script::new("REGISTER").branch(&branch).cseq(cseq).line(contact).build();
            wire.put(PHONE, FARM, request.clone());
            wire.react(BOX, passed_down(&request, &format!("down{cseq}")));
            wire.clone()
        };
        register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=1>", 1);
        register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=1>;expires=0", 2).assert_good();
        register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=2>", 3).assert_told("a second binding");
    }
}
