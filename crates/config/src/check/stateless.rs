//! A stateless farm keeps nothing, so whatever would need something kept is refused.

use super::service;
use crate::report::Report;
use crate::section::Section;
use engine::Persistence;
use engine::policy;

pub(super) fn check(farm: &Section, services: &[Section], backends: &[Section], report: &mut Report<'_>) {
    if farm.is_written("registrations") && farm.text("registrations") != "off" {
        let message =
            "a stateless farm cannot learn who is registered where: only `registrations = \"off\"` is allowed";
        report.error(farm.span_of("registrations"), message);
    }
    for section in services {
        check_service(section, report);
    }
    for section in backends {
        for limit in ["max_calls", "max_rate"] {
            if section.is_written(limit) && section.integer(limit) > 0 {
                report.error(section.span_of(limit), format!("a stateless farm cannot keep to `{limit}`"));
            }
        }
        if section.is_written("slow_start") && !section.duration("slow_start").is_zero() {
            report.error(section.span_of("slow_start"), "a stateless farm has no `slow_start`");
        }
    }
}

fn check_service(section: &Section, report: &mut Report<'_>) {
    let algorithm = section.algorithm("algorithm");
    if algorithm.needs_state() {
        let allowed: Vec<&str> =
            policy::ALL.iter().filter(|policy| !policy.needs_state()).map(|policy| policy.name()).collect();
        let message =
            format!("service \"{}\" of a stateless farm cannot use \"{}\"", service::name(section), algorithm.name());
        let hint = format!("set `algorithm` in its [[farm.service]] to one of {}", allowed.join(", "));
        report.error_with_hint(section.span_of("algorithm"), message, Some(hint));
    }
    if section.is_written("persistence") && *section.persistence("persistence") != Persistence::None {
        report.error(section.span_of("persistence"), "a stateless farm has no persistence: only \"none\" is allowed");
    }
    if section.is_written("failover") {
        report.error(section.span_of("failover"), "a stateless farm has no fail-over");
    }
    if section.is_written("passive") && section.boolean("passive") {
        report.error(section.span_of("passive"), "a stateless farm sees no answers: only `passive = false` is allowed");
    }
}

#[cfg(test)]
mod tests {
    fn lines(rest: &str) -> Vec<usize> {
        let text =
            format!("[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\ntransactions = \"stateless\"\n{rest}");
        match crate::load("f", &text) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(|error| error.line).collect(),
        }
    }

    #[test]
    fn only_what_needs_no_state_is_allowed() {
        let backend = "[[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let service = "[[farm.service]]\nname = \"default\"\n";
        assert_eq!(lines(backend), [1]);
        assert!(
            lines(&format!("{service}algorithm = \"hash-call-id\"\npersistence = \"none\"\n{backend}max_calls = 0\n"))
                .is_empty()
        );
        assert_eq!(
            lines(&format!("{service}algorithm = \"least-calls\"\npersistence = \"user\"\nfailover = {{}}\n{backend}")),
            [7, 8, 9]
        );
        assert_eq!(
            lines(&format!(
                "{service}algorithm = \"hash-user\"\n{backend}max_calls = 1\nmax_rate = 1\nslow_start = \"1s\"\n"
            )),
            [10, 11, 12]
        );
    }

    #[test]
    fn answers_cannot_be_watched_but_guardians_can_look_after_its_backends() {
        let with = |line: &str| {
            lines(&format!(
                "[[farm.service]]\nname = \"default\"\nalgorithm = \"hash-user\"\n{line}\n[[farm.backend]]\naddress = \"127.0.0.11\"\n"
            ))
        };
        assert_eq!(with("passive = true"), [8]);
        assert!(with("passive = false").is_empty() && with("guardians = [\"options\"]").is_empty());
    }

    #[test]
    fn registrations_cannot_be_learnt() {
        let rest = "registrations = \"path\"\n[[farm.service]]\nname = \"default\"\nalgorithm = \"hash-user\"\n[[farm.backend]]\n\
            address = \"127.0.0.11\"\n";
        assert_eq!(lines(rest), [5]);
        assert!(lines(&rest.replace("path", "off")).is_empty());
    }

    #[test]
    fn what_is_not_written_is_off() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\ntransactions = \"stateless\"\n\
            [[farm.service]]\nname = \"default\"\nalgorithm = \"hash-source\"\n[[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let checked = crate::load("f", text).expect("the file is right");
        let farm = checked.settings.farms.first().expect("one farm is written");
        assert!(farm.stateless);
        assert!(farm.backends.iter().all(|backend| backend.slow_start.is_zero()));
        assert!(
            farm.services
                .iter()
                .all(|service| service.persistence == engine::Persistence::None && service.failover.attempts == 1)
        );
        assert!(farm.services.iter().all(|service| !service.passive && service.guardians.len() == 1));
    }
}
