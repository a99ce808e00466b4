//! `tandem demo-pbx`: one PBX of the demo, started by it as a process of its own so that it can be killed.

use crate::demo::{self, User};
use anyhow::Result;
use std::net::SocketAddr;
use std::process::ExitCode;
use ua::PbxSettings;

/// One PBX of the demo; ends when its standard input does
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Name of the PBX
    #[arg(long)]
    name: String,

    /// Address and port it receives at
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Address and port of the balancer
    #[arg(long, value_name = "ADDRESS")]
    farm: SocketAddr,

    /// Domain of its users
    #[arg(long)]
    domain: String,

    /// A user and his password
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Vec<User>,
}

/// Runs until standard input ends, or until a socket fails.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    demo::run_pbx(PbxSettings {
        name: arguments.name,
        realm: arguments.domain.clone(),
        address: arguments.listen,
        users: arguments.user.into_iter().map(|user| (user.name, user.password)).collect(),
        farm: Some(arguments.farm),
        // The one algorithm that every softphone knows.
        algorithm: sip::digest::Algorithm::Md5,
        domains: vec![arguments.domain],
        min_expires: 10,
        max_expires: 3_600,
    })?;
    Ok(ExitCode::SUCCESS)
}
