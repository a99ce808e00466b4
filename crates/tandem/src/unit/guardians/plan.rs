//! What a guardian does to one backend: its tokens replaced, its files read.

use super::connect::{Goal, Secured};
use super::exec::Order;
use super::words;
use config::{Account, Call, Check, Guardian, with_tokens};
use engine::{Accept, AnswerClass, Backend, Reach, Verify};
use probe::shell::{Job, Linger, Trust};
use probe::{CallPlan, Kind, Plan, Sound, Transport};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One check, ready to be made.
pub(crate) enum Task {
    Probe(Box<Job>),
    Connect(Goal),
    Exec(Order),
}

/// How files are read.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// The check of `backend` by `guardian`. Secrets and audio are read anew each time.
///
/// # Errors
/// Why it cannot be made; that is no fault of the backend.
pub(crate) fn task(guardian: &Guardian, backend: &Backend, linger: Linger, read: ReadFile<'_>) -> Result<Task, String> {
    let timeout = guardian.decides.timeout;
    let about = About { guardian, backend, read };
    match &guardian.check {
        Check::Options => {
            let accept = guardian.decides.options.clone().unwrap_or_default();
            Ok(about.job(about.options(&accept), linger))
        }
        Check::Register(account) => Ok(about.job(about.register(account)?, linger)),
        Check::Call(call) => Ok(about.job(about.call(call)?, linger)),
        Check::Tcp => {
            Ok(Task::Connect(Goal { address: about.address_over(engine::Transport::Tcp), tls: None, timeout }))
        }
        Check::Tls => {
            let tls = Some(Secured { trust: trust(&backend.verify), name: about.server_name() });
            Ok(Task::Connect(Goal { address: about.address_over(engine::Transport::Tls), tls, timeout }))
        }
        Check::Exec { command } => {
            let words = words::split(command).map_err(|fault| fault.to_string())?;
            let words = words.iter().map(|word| about.text(word)).collect();
            Ok(Task::Exec(Order { words, environment: about.environment(), timeout }))
        }
    }
}

/// Reads a file whole, if it is one and not larger than audio may be.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: a pipe would hold us until somebody writes into it.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES} octets")));
    }
    Ok(bytes)
}

/// The password in a file: its first line.
///
/// # Errors
/// There is none, as in a file that is just being written.
pub(crate) fn password_in(octets: Vec<u8>) -> Result<String, &'static str> {
    let text = String::from_utf8(octets).map_err(|_other| "it is no text")?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err("its first line is empty"),
    }
}

struct About<'a> {
    guardian: &'a Guardian,
    backend: &'a Backend,
    read: ReadFile<'a>,
}

impl About<'_> {
    fn options(&self, accept: &Accept) -> Plan {
        let (transport, proxy) = self.reached(None);
        let target = self.text_at("sip:HOST:PORT", proxy);
        let accept = accept.0.iter().copied().map(range).collect();
        Plan {
            kind: Kind::Options { target, accept },
            transport,
            limit: self.guardian.decides.timeout,
            from: self.text_at("sip:ping@HOST", proxy),
            username: String::new(),
            password: None,
            proxy,
            registrar: None,
            expires: EXPIRES,
            thresholds: Vec::new(),
        }
    }

    fn register(&self, account: &Account) -> Result<Plan, String> {
        let plan = self.account(account, Kind::Register)?;
        Ok(Plan { registrar: Some(plan.proxy), ..plan })
    }

    fn call(&self, call: &Call) -> Result<Plan, String> {
        let sounds = call.send.iter().map(|path| self.sound(path)).collect::<Result<Vec<Sound>, String>>()?;
        let (_, proxy) = self.reached(call.account.transport);
        let kind = Kind::Call(CallPlan {
            target: self.text_at(&call.to, proxy),
            sounds,
            expect_audio: call.expect_audio,
            min_mos: call.min_mos,
        });
        let plan = self.account(&call.account, kind)?;
        Ok(Plan { registrar: call.register.then_some(plan.proxy), ..plan })
    }

    fn account(&self, account: &Account, kind: Kind) -> Result<Plan, String> {
        let (transport, proxy) = self.reached(account.transport);
        Ok(Plan {
            kind,
            transport,
            limit: self.guardian.decides.timeout,
            from: self.text_at(&account.user, proxy),
            username: self.text_at(&account.username, proxy),
            password: account.password.as_deref().map(|path| self.secret(path)).transpose()?,
            proxy,
            registrar: None,
            expires: EXPIRES,
            thresholds: Vec::new(),
        })
    }

    fn job(&self, plan: Plan, linger: Linger) -> Task {
        Task::Probe(Box::new(Job {
            plan,
            local: None,
            trust: trust(&self.backend.verify),
            server_name: self.backend.host.clone(),
            // Whoever is registered at is the backend itself.
            registrar_name: None,
            linger,
            record: false,
        }))
    }

    fn secret(&self, path: &Path) -> Result<String, String> {
        let path = self.path(path);
        let wrong = |reason: &str| format!("cannot read the password in {}: {reason}", path.display());
        let octets = (self.read)(&path).map_err(|error| wrong(&error.to_string()))?;
        password_in(octets).map_err(wrong)
    }

    fn sound(&self, path: &Path) -> Result<Sound, String> {
        let path = self.path(path);
        let bytes =
            (self.read)(&path).map_err(|error| format!("cannot read the audio in {}: {error}", path.display()))?;
        probe::audio::read(&path.display().to_string(), &bytes).map_err(|fault| fault.to_string())
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let address = self.backend.address;
        vec![
            ("TANDEM_HOST", address.ip().to_string()),
            ("TANDEM_PORT", address.port().to_string()),
            ("TANDEM_NAME", self.backend.name.clone()),
        ]
    }

    fn text(&self, text: &str) -> String {
        self.text_at(text, self.backend.address)
    }

    fn text_at(&self, text: &str, address: SocketAddr) -> String {
        with_tokens(text, &address.ip().to_string(), address.port(), &self.backend.name)
    }

    fn path(&self, path: &Path) -> PathBuf {
        // What is no text holds no token.
        path.to_str().map_or_else(|| path.to_path_buf(), |text| PathBuf::from(self.text(text)))
    }

    /// By the transport asked for, else by its own; whoever takes any is reached over UDP.
    fn reached(&self, asked: Option<engine::Transport>) -> (Transport, SocketAddr) {
        let transport = asked.or(self.backend.transport).unwrap_or(engine::Transport::Udp);
        let carried = match transport {
            engine::Transport::Udp => Transport::Udp,
            engine::Transport::Tcp => Transport::Tcp,
            engine::Transport::Tls => Transport::Tls,
            engine::Transport::Ws => Transport::Ws,
            engine::Transport::Wss => Transport::Wss,
        };
        (carried, self.address_over(transport))
    }

    fn address_over(&self, transport: engine::Transport) -> SocketAddr {
        Reach::of(self.backend).over(transport).1
    }

    /// Whom the certificate is to be for.
    fn server_name(&self) -> String {
        self.backend.host.clone().unwrap_or_else(|| self.backend.address.ip().to_string())
    }
}

fn trust(verify: &Verify) -> Trust {
    match verify {
        Verify::System => Trust::System,
        Verify::File(file) => Trust::File(PathBuf::from(file)),
        Verify::Pinned(fingerprint) => Trust::Pinned(*fingerprint),
        Verify::Off => Trust::Off,
    }
}

fn range(class: AnswerClass) -> (u16, u16) {
    match class {
        AnswerClass::Status(code) => (code, code),
        AnswerClass::Class(hundreds) => (hundreds * 100, hundreds * 100 + 99),
    }
}

/// Seconds: a binding that could not be taken back is gone after a minute.
const EXPIRES: u32 = 60;
/// Ten minutes of 16-bit audio, and more than that.
const FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BACKENDS: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\", \"udp:[::1]:5060\"]\n\
                            [[farm.service]]\nname = \"default\"\n\
                            guardians = [\"g\"]\n[[farm.backend]]\nname = \"pbx1\"\naddress = \"10.0.0.11:5070\"\n\
                            [[farm.backend]]\nname = \"pbx2\"\naddress = \"[2001:db8::2]:5060\"\n";

    fn checked(guardian: &str) -> config::Checked {
        let text = format!("{BACKENDS}[[guardian]]\nname = \"g\"\n{guardian}\n");
        match config::load("a.toml", &text) {
            Ok(checked) => checked,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    /// Of the first and the second backend.
    fn tasks(guardian: &str, read: ReadFile<'_>) -> Vec<Result<Task, String>> {
        let checked = checked(guardian);
        let guardian = checked.guardians.first().expect("it is written");
        let backends = checked.settings.farms.iter().flat_map(|farm| &farm.backends);
        backends.map(|backend| task(guardian, backend, Linger::Stop, read)).collect()
    }

    fn plan(task: Result<Task, String>) -> Plan {
        match task {
            Ok(Task::Probe(job)) => job.plan,
            Ok(_) => panic!("it is another kind of check"),
            Err(fault) => panic!("{fault}"),
        }
    }

    fn nothing(_path: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    #[test]
    fn a_call_is_planned_with_the_backends_own_words() {
        let read = |path: &Path| match path.to_str() {
            Some("/etc/tandem/pbx1.pw" | "/etc/tandem/pbx2.pw") => Ok(b"sec ret \r\n".to_vec()),
            Some("/etc/tandem/hello.ulaw") => Ok(vec![0xff; 160]),
            other => Err(io::Error::other(format!("{other:?}"))),
        };
        let guardian = "check = \"call\"\nfrom = \"sip:bonnie@example.com\"\nto = \"sip:clyde@HOST:PORT\"\nusername = \"NAME\"\n\
                        password_file = \"/etc/tandem/NAME.pw\"\nsend = [\"/etc/tandem/hello.ulaw\"]\nmin_mos = 3.5\n\
                        interval = \"60s\"\ntimeout = \"9s\"";
        let mut tasks = tasks(guardian, &read).into_iter();
        let first = plan(tasks.next().expect("there are two backends"));
        assert_eq!((first.from.as_str(), first.username.as_str()), ("sip:bonnie@example.com", "pbx1"));
        assert_eq!(first.password.as_deref(), Some("sec ret "), "only the end of the line goes");
        assert_eq!((first.limit, first.transport), (Duration::from_secs(9), Transport::Udp));
        assert_eq!(first.proxy, SocketAddr::from(([10, 0, 0, 11], 5070)));
        assert_eq!(first.registrar, Some(first.proxy), "there is a password");
        let Kind::Call(call) = first.kind else { panic!("it is no call") };
        assert_eq!((call.target.as_str(), call.sounds.len()), ("sip:clyde@10.0.0.11:5070", 1));
        assert!((call.min_mos - 3.5).abs() < 1e-9 && !call.expect_audio);
        let second = plan(tasks.next().expect("there are two backends"));
        let Kind::Call(call) = second.kind else { panic!("it is no call") };
        assert_eq!(call.target, "sip:clyde@[2001:db8::2]:5060");
    }

    #[test]
    fn a_registration_goes_to_the_backend() {
        let guardian = "check = \"register\"\nfrom = \"sip:bonnie@HOST\"\ntransport = \"tcp\"";
        let plan = plan(tasks(guardian, &nothing).swap_remove(0));
        assert_eq!((plan.kind, plan.transport), (Kind::Register, Transport::Tcp));
        assert_eq!((plan.from.as_str(), plan.registrar), ("sip:bonnie@10.0.0.11", Some(plan.proxy)));
        assert_eq!(plan.password, None);
    }

    #[test]
    fn options_are_asked_as_the_engine_asks() {
        let of = |guardian: &str, at: usize| plan(tasks(guardian, &nothing).swap_remove(at));
        let plain = of("check = \"options\"", 0);
        assert_eq!(plain.from, "sip:ping@10.0.0.11");
        assert_eq!(plain.kind, Kind::Options { target: "sip:10.0.0.11:5070".to_owned(), accept: Vec::new() });
        let choosy = of("check = \"options\"\naccept = [\"2xx\", \"404\"]", 1);
        assert_eq!(choosy.from, "sip:ping@[2001:db8::2]");
        let accept = vec![(200, 299), (404, 404)];
        assert_eq!(choosy.kind, Kind::Options { target: "sip:[2001:db8::2]:5060".to_owned(), accept });
    }

    #[test]
    fn commands_get_the_backend_in_words_and_variables() {
        let guardian =
            "check = \"exec\"\ncommand = \"check_sip -T 9 'a b' sip:clyde@HOST:PORT NAME\"\ntimeout = \"9s\"";
        let Ok(Task::Exec(order)) = tasks(guardian, &nothing).swap_remove(0) else { panic!("it is a command") };
        assert_eq!(order.words, ["check_sip", "-T", "9", "a b", "sip:clyde@10.0.0.11:5070", "pbx1"]);
        let environment = [("TANDEM_HOST", "10.0.0.11"), ("TANDEM_PORT", "5070"), ("TANDEM_NAME", "pbx1")]
            .map(|(name, value)| (name, value.to_owned()));
        assert_eq!((order.environment.as_slice(), order.timeout), (environment.as_slice(), Duration::from_secs(9)));
    }

    #[test]
    fn connections_go_where_the_transport_listens() {
        let goal = |check: &str| match tasks(check, &nothing).swap_remove(0) {
            Ok(Task::Connect(goal)) => goal,
            _ => panic!("{check} is a connection"),
        };
        assert!(goal("check = \"tcp\"").tls.is_none());
        let secured = goal("check = \"tls\"").tls.expect("it is over TLS");
        assert_eq!((secured.trust, secured.name.as_str()), (Trust::System, "10.0.0.11"));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let guardian = "check = \"register\"\nfrom = \"sip:a@HOST\"\npassword_file = \"/etc/tandem/NAME.pw\"";
        let fault = tasks(guardian, &nothing).swap_remove(0).err().unwrap_or_default();
        assert!(fault.starts_with("cannot read the password in /etc/tandem/pbx1.pw: "), "{fault}");
        // An empty file is half written: the PBX would refuse what is in it, and be blamed.
        for octets in [b"".as_slice(), b"\n", b"\xff\n"] {
            let fault = tasks(guardian, &|_| Ok(octets.to_vec())).swap_remove(0).err().unwrap_or_default();
            assert!(fault.starts_with("cannot read the password in /etc/tandem/pbx1.pw: it"), "{octets:?}: {fault}");
        }
        let guardian =
            "check = \"call\"\nfrom = \"sip:a@HOST\"\nto = \"sip:b@HOST\"\nsend = [\"/x.ulaw\"]\ntimeout = \"9s\"";
        let fault = tasks(guardian, &nothing).swap_remove(0).err().unwrap_or_default();
        assert!(fault.starts_with("cannot read the audio in /x.ulaw: "), "{fault}");
        let fault = tasks(guardian, &|_| Ok(Vec::new())).swap_remove(0).err().unwrap_or_default();
        assert!(fault.contains("/x.ulaw"), "{fault}");
    }

    #[test]
    fn only_files_of_a_bearable_size_are_read() {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        for (octets, is_read) in [(FILE_BYTES, true), (FILE_BYTES + 1, false)] {
            file.as_file().set_len(octets).expect("it is ours");
            assert_eq!(read_file(file.path()).is_ok(), is_read, "{octets}");
        }
        assert!(read_file(Path::new("/dev/zero")).is_err() && read_file(Path::new("/")).is_err());
    }
}
