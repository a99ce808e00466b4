//! Active checks as they are written: what decides is the engine's, what is done is the shell's.

use engine::Transport;
use std::path::PathBuf;
use std::sync::Arc;

/// One `[[guardian]]`, or the check by OPTIONS that services have without one.
#[derive(Clone, PartialEq, Debug)]
pub struct Guardian {
    /// Name, times and effect; services of the engine share it.
    pub decides: Arc<engine::Guardian>,
    pub check: Check,
    /// A service lists it.
    pub used: bool,
}

/// What is done. In every text the tokens stand as they are written: see [`crate::with_tokens`].
#[derive(Clone, PartialEq, Debug)]
pub enum Check {
    /// The engine does it, by itself.
    Options,
    Register(Account),
    Call(Call),
    /// A connection is opened.
    Tcp,
    /// A connection is opened, and the certificate verified as `verify` of the backend says.
    Tls,
    Exec {
        /// A program and its arguments; not empty.
        command: String,
    },
}

impl Check {
    /// As written in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Register(_) => "register",
            Self::Call(_) => "call",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Exec { .. } => "exec",
        }
    }
}

/// Who registers or calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// A SIP URI.
    pub user: String,
    /// Empty: the user of the URI.
    pub username: String,
    /// A file, as written.
    pub password: Option<PathBuf>,
    /// `None`: that of the backend.
    pub transport: Option<Transport>,
}

/// A call with audio.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    pub account: Account,
    /// The account registers before the call, and takes it back after it.
    pub register: bool,
    /// A SIP URI.
    pub to: String,
    /// Files, as written; empty: a tone of two seconds.
    pub send: Vec<PathBuf>,
    pub expect_audio: bool,
    /// Mean opinion score; 0: not asked for.
    pub min_mos: f64,
}
