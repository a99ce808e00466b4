//! The guardians of a file, and which of them the services have.

use super::backend::{self, Entry};
use super::farm::Draft;
use super::identity;
use crate::forms::write_duration;
use crate::guardian::{Account, Call, Check, Guardian};
use crate::nearest;
use crate::registry;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{Accept, Effect, Maintenance, Transport};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Every guardian that a service may name.
#[derive(Debug)]
pub(super) struct Guardians<'s> {
    /// Broken ones too: those who name them do nothing wrong.
    sections: &'s [Section],
    /// In file order, without broken ones.
    written: Vec<(&'s Section, Guardian)>,
    /// What services have that name none: the one that is written under its name, or OPTIONS as usual.
    usual: Arc<engine::Guardian>,
}

/// Reads `[[guardian]]`.
pub(super) fn guardians<'s>(sections: &'s [Section], report: &mut Report<'_>) -> Guardians<'s> {
    identity::unique_names("guardian", sections, report);
    let mut written = Vec::with_capacity(sections.len());
    for section in sections {
        effect(section, report);
        if let (Some(name), Some(check)) = (section.optional_text("name"), check(section, report)) {
            let decides = Arc::new(decides(section, name, &check));
            times(section, &check, report);
            written.push((section, Guardian { decides, check, used: false }));
        }
    }
    let usual = engine::Guardian::options();
    let own = written.iter().find(|(_, guardian)| guardian.decides.name == usual.name);
    if let Some((section, guardian)) = own
        && guardian.check != Check::Options
    {
        let message = format!("the guardian \"{}\" is that of services without `guardians`", usual.name);
        let hint = "give this one another name, or set check = \"options\"".to_owned();
        report.error_with_hint(section.span_of("check"), message, Some(hint));
    }
    let usual = own.map_or_else(|| Arc::new(usual), |(_, guardian)| Arc::clone(&guardian.decides));
    Guardians { sections, written, usual }
}

impl Guardians<'_> {
    /// Those of a service, each once; that one does not exist is reported.
    pub(super) fn of_service(&self, service: &Section, report: &mut Report<'_>) -> Vec<Arc<engine::Guardian>> {
        if !service.is_written("guardians") {
            return vec![Arc::clone(&self.usual)];
        }
        let mut found: Vec<Arc<engine::Guardian>> = Vec::new();
        for (name, span) in service.texts("guardians") {
            match self.called(name) {
                Some(guardian) if found.iter().any(|other| other.name == guardian.name) => {}
                Some(guardian) => found.push(Arc::clone(guardian)),
                None if self.names().any(|known| known == name) => {}
                None => {
                    let hint = nearest::offer(name, self.names())
                        .unwrap_or_else(|| format!("there is {}", self.names().collect::<Vec<_>>().join(", ")));
                    let message = format!("unknown guardian \"{}\"", name.escape_debug());
                    report.error_with_hint(span, message, Some(hint));
                }
            }
        }
        found
    }

    /// A connection goes to where a backend speaks SIP. One that nobody takes there fails each time, and takes the backend out: of each
    /// guardian of a service the first such backend is told. `services` are parallel to those of the draft.
    pub(super) fn warn_of_closed_places(&self, draft: &Draft<'_>, services: &[Section], report: &mut Report<'_>) {
        for (service, pool) in services.iter().zip(&draft.pools) {
            for (name, span) in service.texts("guardians") {
                let Some((_, guardian)) = self.written.iter().find(|(_, known)| &*known.decides.name == name) else {
                    continue;
                };
                let mut entries = pool.iter().filter_map(|&index| draft.entries.get(index));
                let first = entries.find_map(|entry| Some((entry, closed_over(&guardian.check, entry)?)));
                if let Some((entry, transport)) = first {
                    closed_place(guardian, entry, transport, span, report);
                }
            }
        }
    }

    /// All of them, with what the services of `drafts` use. The usual one stands last, where it is used and not written.
    pub(super) fn finish(self, drafts: &[Draft<'_>], unit: &Section, report: &mut Report<'_>) -> Vec<Guardian> {
        let is_used = |name: &str| {
            let mut services = drafts.iter().flat_map(|draft| &draft.farm.services);
            services.any(|service| service.guardians.iter().any(|guardian| &*guardian.name == name))
        };
        let mut all = Vec::with_capacity(self.written.len() + 1);
        for (section, mut guardian) in self.written {
            let name = &guardian.decides.name;
            guardian.used = is_used(name);
            if !guardian.used {
                let hint = format!("name it in a [[farm.service]]: guardians = [\"{name}\"]");
                report.warning(section.span(), format!("guardian \"{name}\" looks after no service"), hint);
            }
            if matches!(guardian.check, Check::Exec { .. }) {
                runs_as(unit, section, report);
            }
            all.push(guardian);
        }
        if is_used(&self.usual.name) && !all.iter().any(|guardian| guardian.decides.name == self.usual.name) {
            all.push(Guardian { decides: self.usual, check: Check::Options, used: true });
        }
        all
    }

    fn called(&self, name: &str) -> Option<&Arc<engine::Guardian>> {
        let written = self.written.iter().map(|(_, guardian)| &guardian.decides);
        written.chain([&self.usual]).find(|known| &*known.name == name)
    }

    /// Of broken ones too.
    fn names(&self) -> impl Iterator<Item = &str> {
        let written = self.sections.iter().filter_map(|section| section.optional_text("name"));
        let usual = Some(&*self.usual.name).filter(|usual| written.clone().all(|name| name != *usual));
        written.chain(usual)
    }
}

/// What the engine is told.
fn decides(section: &Section, name: &str, check: &Check) -> engine::Guardian {
    engine::Guardian {
        name: Arc::from(name),
        options: (*check == Check::Options).then(|| Accept(section.answers("accept"))),
        interval: section.duration("interval"),
        timeout: section.duration("timeout"),
        rise: section.integer_u32("rise"),
        fall: section.integer_u32("fall"),
        effect: match section.text("effect") {
            "warn" => Effect::Warn,
            _ => Effect::Down,
        },
        cut: section.boolean("cut"),
    }
}

/// What the shell is told. `None`: something that it needs is missing or wrong, which is reported.
fn check(section: &Section, report: &mut Report<'_>) -> Option<Check> {
    let kind = section.optional_text("check")?;
    for (key, readers) in KEYS_OF_SOME {
        if section.is_written(key) && !readers.contains(&kind) {
            let readers: Vec<String> = readers.iter().map(|reader| format!("\"{reader}\"")).collect();
            let message = format!("`{key}` is only for check = {}", readers.join(" and "));
            let hint = format!("leave it out: check = \"{kind}\" does not read it");
            report.error_with_hint(section.span_of(key), message, Some(hint));
        }
    }
    for key in needed(kind).iter().filter(|key| !section.is_written(key)) {
        let takes = registry::GUARDIAN.setting(key).map(|setting| format!("it takes {}", setting.kind.expected()));
        let message = format!("`{key}` is missing in this [[guardian]]: check = \"{kind}\" needs it");
        report.error_with_hint(section.span(), message, takes);
    }
    match kind {
        "options" => Some(Check::Options),
        "register" => account(section).map(Check::Register),
        "call" => call(section).map(Check::Call),
        "tcp" => Some(Check::Tcp),
        "tls" => Some(Check::Tls),
        _ => section.optional_text("command").map(|command| Check::Exec { command: command.to_owned() }),
    }
}

fn needed(kind: &str) -> &'static [&'static str] {
    match kind {
        "register" => &["from"],
        "call" => &["from", "to"],
        "exec" => &["command"],
        _ => &[],
    }
}

fn account(section: &Section) -> Option<Account> {
    Some(Account {
        user: section.optional_text("from")?.to_owned(),
        username: section.optional_text("username").unwrap_or_default().to_owned(),
        password: section.optional_text("password_file").map(PathBuf::from),
        transport: section.optional_text("transport").and_then(backend::transport),
    })
}

fn call(section: &Section) -> Option<Call> {
    let account = account(section)?;
    let has_account = section.is_written("username") || section.is_written("password_file");
    Some(Call {
        register: section.optional_boolean("register").unwrap_or(has_account),
        to: section.optional_text("to")?.to_owned(),
        send: section.texts("send").map(|(path, _)| PathBuf::from(path)).collect(),
        expect_audio: section.boolean("expect_audio"),
        min_mos: section.number("min_mos"),
        account,
    })
}

/// A check that cannot end in time would take every backend out.
fn times(section: &Section, check: &Check, report: &mut Report<'_>) {
    let (timeout, interval) = (section.duration("timeout"), section.duration("interval"));
    let shown = write_duration(timeout);
    if timeout > interval {
        let span = if section.is_written("timeout") { section.span_of("timeout") } else { section.span_of("interval") };
        let message = format!("a check may take {shown} and comes every {}", write_duration(interval));
        report.warning(
            span,
            message,
            "one that hangs delays the next one: make `interval` longer, or `timeout` shorter",
        );
    }
    if timeout >= TIME_OF_A_CALL {
        return;
    }
    let span = section.span_of("timeout");
    let hint = format!("give it a `timeout` of {} or more", write_duration(TIME_OF_A_CALL));
    match check {
        Check::Call(call) if call.send.is_empty() => {
            let message = format!("a call with two seconds of audio does not fit into {shown}");
            report.error_with_hint(span, message, Some(hint));
        }
        Check::Call(_) => {
            report.warning(span, format!("a call with its audio hardly fits into {shown}"), hint);
        }
        Check::Exec { command } if calls(command) => {
            report.warning(span, format!("a call with its audio hardly fits into {shown}, and is killed then"), hint);
        }
        _ => {}
    }
}

/// The program of the appliance, which registers, calls and plays files.
fn calls(command: &str) -> bool {
    let program = command.split_whitespace().next().unwrap_or_default();
    program.rsplit('/').next() == Some("check_sip")
}

fn effect(section: &Section, report: &mut Report<'_>) {
    if section.boolean("cut") && section.text("effect") == "warn" {
        let hint = "leave one of them out: `warn` takes nothing out that could be cut off".to_owned();
        report.error_with_hint(section.span_of("cut"), "`cut` and effect = \"warn\" exclude each other", Some(hint));
    }
}

/// The transport of a backend where a check that connects finds nobody to be expected.
fn closed_over(check: &Check, entry: &Entry<'_>) -> Option<Transport> {
    let looked_after = entry.template.transport.filter(|_| entry.template.maintenance != Maintenance::Cut);
    looked_after.filter(|transport| match check {
        Check::Tcp => !transport.is_stream(),
        Check::Tls => !transport.is_secure(),
        _ => false,
    })
}

fn closed_place(guardian: &Guardian, entry: &Entry<'_>, transport: Transport, span: &Span, report: &mut Report<'_>) {
    let (does, fits) = match guardian.check {
        Check::Tls => ("opens TLS at", "\"tls\" or \"same\""),
        _ => ("opens a connection to", "\"tcp\", \"tls\" or \"same\""),
    };
    let message = format!(
        "guardian \"{}\" {does} {}, where backend \"{}\" is reached over {}",
        guardian.decides.name,
        entry.written(),
        entry.template.name,
        transport.name()
    );
    let hint = format!(
        "set transport = {fits} in that backend if it listens so, or look at another port by a plugin: check = \"exec\""
    );
    report.warning(span, message, hint);
}

fn runs_as(unit: &Section, section: &Section, report: &mut Report<'_>) {
    let message = match unit.text("user") {
        "root" => "this command runs as the unit's user, and that is root",
        "" => "this command runs as the unit's user, and that is whoever starts it, root included",
        _ => return,
    };
    report.warning(section.span_of("command"), message, "leave `user` in [unit] at its default, \"tandem\"");
}

/// The keys that not every check reads, and the checks that do.
const KEYS_OF_SOME: &[(&str, &[&str])] = &[
    ("accept", &["options"]),
    ("from", &["register", "call"]),
    ("to", &["call"]),
    ("username", &["register", "call"]),
    ("password_file", &["register", "call"]),
    ("transport", &["register", "call"]),
    ("register", &["call"]),
    ("send", &["call"]),
    ("expect_audio", &["call"]),
    ("min_mos", &["call"]),
    ("command", &["exec"]),
];

/// Two seconds of audio, a second until somebody answers, and a quarter of the time is kept for hanging up.
const TIME_OF_A_CALL: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checked, Severity};

    /// Whatever connects to the backend may be answered.
    const FARM: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
        backend = [\n{ address = \"127.0.0.11\", transport = \"same\" }]\n[[farm.service]]\nname = \"default\"\n";

    /// One service with these guardians, then, from line 9 on, the lines of a file.
    fn text(listed: &str, lines: &str) -> String {
        format!("{FARM}guardians = [{listed}]\n{lines}")
    }

    fn checked(listed: &str, lines: &str) -> Checked {
        crate::load("f", &text(listed, lines)).expect("the file is right")
    }

    fn found(listed: &str, lines: &str) -> Vec<(Severity, usize, String)> {
        let all = match crate::load("f", &text(listed, lines)) {
            Ok(checked) => checked.warnings,
            Err(diagnostics) => diagnostics,
        };
        all.into_iter().map(|one| (one.severity, one.line, one.message)).collect()
    }

    fn of_first_service(checked: &Checked) -> Vec<Arc<engine::Guardian>> {
        let farm = checked.settings.farms.first().expect("one farm is written");
        farm.services.first().expect("there is a service").guardians.clone()
    }

    #[test]
    fn a_guardian_has_its_defaults() {
        let checked = checked("\"ping\"", "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\n");
        let usual = engine::Guardian { name: Arc::from("ping"), ..engine::Guardian::options() };
        assert_eq!(of_first_service(&checked), [Arc::new(usual)]);
        let [guardian] = checked.guardians.as_slice() else { panic!("one is written") };
        assert_eq!((&guardian.check, guardian.used), (&Check::Options, true));
        assert!(Arc::ptr_eq(&guardian.decides, of_first_service(&checked).first().expect("it is listed")));
    }

    #[test]
    fn every_setting_arrives() {
        let checked = checked(
            "\"real\", \"ping\"",
            "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\ninterval = \"5s\"\ntimeout = \"500ms\"\nrise = 3\nfall = 4\n\
             accept = [\"2xx\", \"404\"]\neffect = \"warn\"\n\
             [[guardian]]\nname = \"real\"\ncheck = \"call\"\nfrom = \"sip:bonnie@example.com\"\nto = \"sip:clyde@HOST\"\n\
             username = \"b\"\npassword_file = \"/etc/tandem/bonnie\"\nsend = [\"a.wav\", \"b.ulaw\"]\nmin_mos = 3.5\nexpect_audio = true\n\
             transport = \"tls\"\ninterval = \"60s\"\ntimeout = \"9s\"\ncut = true\n",
        );
        let names: Vec<String> = of_first_service(&checked).iter().map(|one| one.name.to_string()).collect();
        assert_eq!(names, ["real", "ping"]);
        let [ping, real] = checked.guardians.as_slice() else { panic!("two are written") };
        let accept = Accept(vec![engine::AnswerClass::Class(2), engine::AnswerClass::Status(404)]);
        assert_eq!(ping.decides.options, Some(accept));
        assert_eq!((ping.decides.interval, ping.decides.timeout), (Duration::from_secs(5), Duration::from_millis(500)));
        assert_eq!((ping.decides.rise, ping.decides.fall), (3, 4));
        assert_eq!((ping.decides.effect, ping.decides.cut), (Effect::Warn, false));
        assert_eq!((real.decides.effect, real.decides.cut, &real.decides.options), (Effect::Down, true, &None));
        let account = Account {
            user: "sip:bonnie@example.com".to_owned(),
            username: "b".to_owned(),
            password: Some(PathBuf::from("/etc/tandem/bonnie")),
            transport: Some(Transport::Tls),
        };
        let call = Call {
            account,
            register: true,
            to: "sip:clyde@HOST".to_owned(),
            send: vec![PathBuf::from("a.wav"), PathBuf::from("b.ulaw")],
            expect_audio: true,
            min_mos: 3.5,
        };
        assert_eq!(real.check, Check::Call(call));
    }

    #[test]
    fn every_check_is_read() {
        for (lines, name) in [
            ("check = \"options\"", "options"),
            ("check = \"register\"\nfrom = \"sip:bonnie@HOST\"", "register"),
            ("check = \"call\"\nfrom = \"sip:bonnie@HOST\"\nto = \"sip:clyde@HOST\"\ntimeout = \"4s\"", "call"),
            ("check = \"tcp\"", "tcp"),
            ("check = \"tls\"", "tls"),
            ("check = \"exec\"\ncommand = \"check_tcp -H HOST\"", "exec"),
        ] {
            let checked = checked("\"g\"", &format!("[[guardian]]\nname = \"g\"\n{lines}\n"));
            assert!(checked.warnings.is_empty(), "{name}: {:?}", checked.warnings);
            let [guardian] = checked.guardians.as_slice() else { panic!("one is written") };
            assert_eq!(guardian.check.name(), name);
            assert_eq!(guardian.decides.options.is_some(), name == "options");
        }
    }

    #[test]
    fn an_account_registers_before_its_call_unless_told_otherwise() {
        let registers = |lines: &str| {
            let head = "[[guardian]]\nname = \"g\"\ncheck = \"call\"\nfrom = \"sip:bonnie@HOST\"\nto = \"sip:clyde@HOST\"\ntimeout = \"9s\"";
            let checked = checked("\"g\"", &format!("{head}\n{lines}\n"));
            match checked.guardians.first().map(|guardian| guardian.check.clone()) {
                Some(Check::Call(call)) => call.register,
                other => panic!("it is a call, not {other:?}"),
            }
        };
        assert!(!registers(""));
        assert!(registers("username = \"b\""));
        assert!(registers("password_file = \"b\""));
        assert!(registers("register = true"));
        assert!(!registers("password_file = \"b\"\nregister = false"));
    }

    #[test]
    fn keys_of_other_checks_are_refused() {
        let values = [
            ("accept", "[\"2xx\"]"),
            ("from", "\"sip:bonnie@HOST\""),
            ("to", "\"sip:clyde@HOST\""),
            ("username", "\"b\""),
            ("password_file", "\"b\""),
            ("transport", "\"udp\""),
            ("register", "true"),
            ("send", "[]"),
            ("expect_audio", "false"),
            ("min_mos", "1"),
            ("command", "\"true\""),
        ];
        let keys: Vec<&str> = KEYS_OF_SOME.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, values.map(|(key, _)| key));
        for kind in ["options", "register", "call", "tcp", "tls", "exec"] {
            for ((key, value), (_, readers)) in values.iter().zip(KEYS_OF_SOME) {
                let more = needed(kind).iter().filter(|needed| *needed != key).map(|needed| {
                    let (key, value) = values.iter().find(|(name, _)| name == needed).expect("every key has a value");
                    format!("{key} = {value}\n")
                });
                let more: String = more.collect();
                let lines = format!(
                    "[[guardian]]\nname = \"g\"\ncheck = \"{kind}\"\ntimeout = \"9s\"\n{key} = {value}\n{more}"
                );
                let told = found("\"g\"", &lines);
                if readers.contains(&kind) {
                    assert!(told.is_empty(), "{kind} {key}: {told:?}");
                } else {
                    let [(Severity::Error, 13, message)] = told.as_slice() else { panic!("{kind} {key}: {told:?}") };
                    assert!(message.starts_with(&format!("`{key}` is only for check = ")), "{message}");
                }
            }
        }
    }

    #[test]
    fn what_a_check_needs_must_stand_there() {
        for (kind, count) in [("options", 0), ("register", 1), ("call", 2), ("tcp", 0), ("tls", 0), ("exec", 1)] {
            let told = found("\"g\"", &format!("[[guardian]]\nname = \"g\"\ncheck = \"{kind}\"\ntimeout = \"9s\"\n"));
            assert_eq!(told.len(), count, "{kind}: {told:?}");
            assert!(told.iter().all(|(severity, line, message)| {
                *severity == Severity::Error && *line == 9 && message.contains("is missing in this [[guardian]]")
            }));
        }
        // What is wrong is not missing as well.
        let told = found("\"g\"", "[[guardian]]\nname = \"g\"\ncheck = \"exec\"\ncommand = \" \"\n");
        assert_eq!(told, [(Severity::Error, 12, "this is not a command".to_owned())]);
    }

    #[test]
    fn services_name_guardians_that_exist() {
        let lines =
            "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\n[[guardian]]\nname = \"broken\"\ncheck = \"cal\"\n";
        let text = text("\"pign\", \"broken\", \"ping\", \"colour\"", lines);
        let errors = crate::load("f", &text).expect_err("two names are unknown");
        let shown: Vec<(usize, &str, Option<&str>)> =
            errors.iter().map(|error| (error.line, error.message.as_str(), error.hint.as_deref())).collect();
        assert_eq!(
            shown.get(..2),
            Some(
                &[
                    (8, "unknown guardian \"pign\"", Some("did you mean \"ping\"?")),
                    (8, "unknown guardian \"colour\"", Some("there is ping, broken, options")),
                ][..]
            )
        );
        assert_eq!(shown.get(2).map(|(line, ..)| *line), Some(14));
        assert_eq!(shown.len(), 3, "{shown:?}");
    }

    #[test]
    fn names_are_unique_and_stand_in_a_service_once() {
        let ping = "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\n";
        let told = found("\"ping\"", &format!("{ping}{ping}"));
        assert_eq!(told, [(Severity::Error, 13, "two guardians are called \"ping\"".to_owned())]);
        assert_eq!(of_first_service(&checked("\"ping\", \"ping\"", ping)).len(), 1);
        // As of all names, the letters count.
        let other = "[[guardian]]\nname = \"PING\"\ncheck = \"tcp\"\n";
        assert_eq!(of_first_service(&checked("\"ping\", \"PING\"", &format!("{ping}{other}"))).len(), 2);
    }

    #[test]
    fn without_a_list_there_is_the_usual_check_and_with_an_empty_one_none() {
        let usual = crate::load("f", FARM).expect("the file is right");
        assert_eq!(of_first_service(&usual), [Arc::new(engine::Guardian::options())]);
        assert_eq!(usual.guardians.iter().map(|guardian| guardian.used).collect::<Vec<_>>(), [true]);
        let none = checked("", "");
        assert!(of_first_service(&none).is_empty() && none.guardians.is_empty());
        // By its name it stands beside others.
        let both = checked("\"options\", \"port\"", "[[guardian]]\nname = \"port\"\ncheck = \"tcp\"\n");
        assert_eq!(of_first_service(&both).first().map(|one| (**one).clone()), Some(engine::Guardian::options()));
        assert_eq!(both.guardians.iter().map(|one| one.check.name()).collect::<Vec<_>>(), ["tcp", "options"]);
    }

    #[test]
    fn the_usual_check_can_be_written() {
        let own = "[[guardian]]\nname = \"options\"\ncheck = \"options\"\ninterval = \"3s\"\n";
        let checked = crate::load("f", &format!("{FARM}{own}")).expect("the file is right");
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        assert_eq!(of_first_service(&checked).first().map(|one| one.interval), Some(Duration::from_secs(3)));
        assert_eq!(checked.guardians.len(), 1);
        let told = found("\"options\"", "[[guardian]]\nname = \"options\"\ncheck = \"tcp\"\n");
        assert_eq!(
            told.iter().map(|(severity, line, _)| (*severity, *line)).collect::<Vec<_>>(),
            [(Severity::Error, 11)]
        );
    }

    #[test]
    fn a_guardian_of_no_service_is_told() {
        let told = found("", "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\n");
        assert_eq!(told, [(Severity::Warning, 9, "guardian \"ping\" looks after no service".to_owned())]);
    }

    #[test]
    fn a_check_fits_into_its_time() {
        let times = |check: &str, interval: &str, timeout: &str| -> Vec<(Severity, usize)> {
            let lines = format!(
                "[[guardian]]\nname = \"g\"\ninterval = \"{interval}\"\ntimeout = \"{timeout}\"\ncheck = \"{check}\n"
            );
            found("\"g\"", &lines).into_iter().map(|(severity, line, _)| (severity, line)).collect()
        };
        let (error, warning) = (Severity::Error, Severity::Warning);
        assert!(times("tcp\"", "2s", "2s").is_empty());
        assert_eq!(times("tcp\"", "2s", "2001ms"), [(warning, 12)]);
        let call = "call\"\nfrom = \"sip:bonnie@HOST\"\nto = \"sip:clyde@HOST\"";
        assert!(times(call, "60s", "4s").is_empty());
        assert_eq!(times(call, "60s", "3999ms"), [(error, 12)]);
        let with_files = format!("{call}\nsend = [\"a.wav\"]");
        assert!(times(&with_files, "60s", "4s").is_empty());
        assert_eq!(times(&with_files, "60s", "3999ms"), [(warning, 12)]);
        let script = "exec\"\ncommand = \"/usr/bin/check_sip -T 9 sip:bonnie@HOST sip:clyde@HOST\"";
        assert!(times(script, "60s", "4s").is_empty());
        assert_eq!(times(script, "60s", "3s"), [(warning, 12)]);
        assert!(times("exec\"\ncommand = \"check_tcp check_sip\"", "60s", "3s").is_empty());
    }

    #[test]
    fn without_a_timeout_of_its_own_the_interval_is_marked() {
        let told = found("\"g\"", "[[guardian]]\nname = \"g\"\ncheck = \"tcp\"\ninterval = \"1s\"\n");
        assert_eq!(told, [(Severity::Warning, 12, "a check may take 2s and comes every 1s".to_owned())]);
    }

    #[test]
    fn times_and_counts_have_bounds() {
        for (lines, is_right) in [
            ("interval = \"1s\"\ntimeout = \"100ms\"\nrise = 1\nfall = 1", true),
            ("interval = \"1h\"\ntimeout = \"10m\"\nrise = 100\nfall = 100", true),
            ("interval = \"999ms\"", false),
            ("interval = \"61m\"", false),
            ("timeout = \"99ms\"", false),
            ("timeout = \"601s\"", false),
            ("rise = 0", false),
            ("rise = 101", false),
            ("fall = 0", false),
            ("fall = 101", false),
        ] {
            let text = text("\"g\"", &format!("[[guardian]]\nname = \"g\"\ncheck = \"tcp\"\n{lines}\n"));
            assert_eq!(crate::load("f", &text).is_ok(), is_right, "{lines}");
        }
    }

    #[test]
    fn a_warning_cuts_nothing() {
        let of = |effect: &str, cut: bool| {
            let lines = format!("[[guardian]]\nname = \"g\"\ncheck = \"tcp\"\neffect = \"{effect}\"\ncut = {cut}\n");
            found("\"g\"", &lines).into_iter().map(|(severity, line, _)| (severity, line)).collect::<Vec<_>>()
        };
        assert_eq!(of("warn", true), [(Severity::Error, 13)]);
        assert!(of("warn", false).is_empty() && of("down", true).is_empty());
    }

    #[test]
    fn a_connection_to_where_nobody_takes_it_is_told() {
        let warned = |check: &str, transports: [&str; 2]| {
            let [first, second] = transports;
            let text = format!(
                "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\n\
                 listen = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"]\n\
                 [[farm.service]]\nname = \"default\"\nguardians = [\"options\", \"g\"]\n\
                 [[farm.backend]]\nname = \"p\"\naddress = \"127.0.0.11\"\ntransport = \"{first}\"\n\
                 [[farm.backend]]\nname = \"q\"\naddress = \"pbx.example.com\"\ntransport = \"{second}\"\n\
                 [[guardian]]\nname = \"g\"\ncheck = \"{check}\"\n"
            );
            let told = crate::load("f", &text).expect("the file is right").warnings;
            told.into_iter().map(|one| (one.line, one.column, one.message)).collect::<Vec<_>>()
        };
        for (check, transports, wanted) in [
            ("tcp", ["tcp", "tls"], None),
            (
                "tcp",
                ["same", "udp"],
                Some("opens a connection to pbx.example.com, where backend \"q\" is reached over udp"),
            ),
            (
                "tcp",
                ["udp", "udp"],
                Some("opens a connection to 127.0.0.11:5060, where backend \"p\" is reached over udp"),
            ),
            ("tls", ["tls", "same"], None),
            ("tls", ["udp", "tls"], Some("opens TLS at 127.0.0.11:5060, where backend \"p\" is reached over udp")),
            ("tls", ["tls", "tcp"], Some("opens TLS at pbx.example.com, where backend \"q\" is reached over tcp")),
            ("options", ["udp", "tcp"], None),
        ] {
            let wanted: Vec<_> = wanted.iter().map(|what| (7, 25, format!("guardian \"g\" {what}"))).collect();
            assert_eq!(warned(check, transports), wanted, "{check} {transports:?}");
        }
    }

    #[test]
    fn each_service_is_told_of_its_own_backends() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\"]\n\
            [[farm.service]]\nname = \"one\"\nmatch = { domain = [\"a.org\"] }\nguardians = [\"g\"]\n\
            [[farm.service]]\nname = \"two\"\nmatch = { domain = [\"b.org\"] }\nguardians = [\"g\"]\n\
            [[farm.service]]\nname = \"default\"\nguardians = [\"g\"]\n\
            [[farm.backend]]\naddress = \"127.0.0.11\"\nservice = [\"one\", \"default\"]\n\
            [[farm.backend]]\naddress = \"127.0.0.12\"\nservice = [\"two\"]\ntransport = \"tcp\"\n\
            [[farm.backend]]\naddress = \"127.0.0.13\"\nservice = [\"two\"]\nmaintenance = \"cut\"\n\
            [[guardian]]\nname = \"g\"\ncheck = \"tcp\"\n";
        let warnings = crate::load("f", text).expect("the file is right").warnings;
        assert_eq!(warnings.iter().map(|one| one.line).collect::<Vec<_>>(), [7, 14]);
    }

    #[test]
    fn commands_as_root_are_told() {
        let warned = |user: &str, check: &str| {
            let lines = format!("[[guardian]]\nname = \"g\"\ncheck = {check}\n[unit]\nuser = \"{user}\"\n");
            found("\"g\"", &lines).into_iter().map(|(severity, line, _)| (severity, line)).collect::<Vec<_>>()
        };
        let exec = "\"exec\"\ncommand = \"check_tcp -H HOST\"";
        assert_eq!(warned("root", exec), [(Severity::Warning, 12)]);
        assert_eq!(warned("", exec), [(Severity::Warning, 12)]);
        assert!(warned("tandem", exec).is_empty() && warned("root", "\"tcp\"").is_empty());
    }
}
