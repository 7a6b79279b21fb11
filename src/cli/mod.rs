//! The command line of the two binaries, `gridfs` and `grid`.
//!
//! Results go to standard output, everything else to standard error. Exit status: 0 success, 1 general, 2 usage,
//! 10 unknown name, 11 module failed, 12 limit, 13 unavailable, 14 verification failed, 15 no daemon, 16 diverged,
//! 17 untrusted, 130 interrupted.

mod affected;
mod call;
mod cap;
mod demo;
mod fsck;
mod fstab;
mod keep;
mod ledger;
mod limits;
mod module;
mod mount;
mod name;
mod object;
mod options;
mod output;
mod peer;
mod promise;
mod service;
mod syscalls;
mod verify;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gridfs_modules::compile_if_called;

use crate::client;
use crate::error::{Code, Error, Result};
use crate::home::Home;
use crate::service::{Answer, Input, Request};
use output::Output;

/// A content-addressed cache, mounted: reading a path is a call.
#[derive(Parser)]
#[command(
    name = "gridfs",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  gridfs mount ~/grid              mount the grid and return when it answers
  gridfs put --name war.txt FILE   store a file under a name
  cat ~/grid/local/wc/war.txt      count its words: the path is the call
  gridfs umount ~/grid

The node lives in ~/.grid; GRID_HOME names another place.
`grid NAME ARGS...` makes a call by hand."
)]
struct Gridfs {
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Create the node's home; other commands do so by themselves
    Init,
    /// Mount the grid; returns when the mount answers
    Mount(mount::Mount),
    /// Answer peers, with or without a mount; returns when the node listens
    Serve(mount::Serve),
    /// Unmount the grid and end its daemon
    #[command(alias = "unmount")]
    Umount(mount::Umount),
    /// Store files and directories
    Put(object::Put),
    /// Read an object, a name or a path: to standard output, or to a new file or directory
    Get(object::Get),
    /// Show and change names
    #[command(subcommand)]
    Name(name::Name),
    /// Write, compile, test, inspect, add, list and show modules
    #[command(subcommand)]
    Module(module::Module),
    /// Make, show, accept and revoke the terms under which the node answers
    #[command(subcommand)]
    Promise(promise::Promise),
    /// Explain how a result came to be
    Why(why::Why),
    /// Check a result, and on request compute it again
    Verify(verify::Verify),
    /// List the results that an input or a module went into
    Affected(affected::Affected),
    /// Forget the results that an input or a module went into, so that they are computed again
    Revoke(affected::Revoke),
    /// Grant others the right to call, hand it on, and verify it
    #[command(subcommand)]
    Cap(cap::Cap),
    /// Add, list, show and ban peers
    #[command(subcommand)]
    Peer(peer::Peer),
    /// Let peers read something, and print a ticket for it
    Share(peer::Share),
    /// Show what was learnt about who answers which calls
    Syscalls(syscalls::Syscalls),
    /// Check the store for damage, and repair it
    Fsck(fsck::Fsck),
    /// Counts and sizes
    Stats,
    /// Remove what nothing needs, and give its space back
    Gc(keep::Gc),
    /// Keep objects that no name stands for
    #[command(subcommand)]
    Pin(keep::Pin),
    /// Let systemd mount the grid at every start
    #[command(subcommand)]
    Service(service::Service),
    /// Mount a grid in a temporary place, store sample data, read results as files, clean up
    Demo,
}

/// The binary `gridfs`; called `mount.gridfs`, what mount(8) calls for a line in fstab(5).
pub fn gridfs() -> ExitCode {
    gridfs_store::keep_freed_memory();
    if let Some(compiled) = compile_if_called() {
        return compiled;
    }
    // The connections to peers would write their keys into the file that it names.
    // SAFETY: this is the only thread.
    unsafe { std::env::remove_var("SSLKEYLOGFILE") };
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == fstab::NAME) {
        return fstab::run();
    }
    finish(run(Gridfs::parse()))
}

/// The binary `grid`.
pub fn grid() -> ExitCode {
    gridfs_store::keep_freed_memory();
    if let Some(compiled) = compile_if_called() {
        return compiled;
    }
    finish(call::Grid::parse().run())
}

fn run(cli: Gridfs) -> Result<()> {
    let globals = Home::from_environment().map(|home| Globals { home, json: cli.json });
    // A mount may be told its home by an option.
    if let Verb::Mount(verb) = cli.verb {
        return verb.run(globals);
    }
    let globals = globals?;
    match cli.verb {
        Verb::Mount(_) => unreachable!("it has been carried out"),
        Verb::Init => object::init(&globals),
        Verb::Serve(verb) => verb.run(&globals),
        Verb::Umount(verb) => verb.run(&globals),
        Verb::Put(verb) => verb.run(&globals),
        Verb::Get(verb) => verb.run(&globals),
        Verb::Name(verb) => verb.run(&globals),
        Verb::Module(verb) => verb.run(&globals),
        Verb::Promise(verb) => verb.run(&globals),
        Verb::Why(verb) => verb.run(&globals),
        Verb::Verify(verb) => verb.run(&globals),
        Verb::Affected(verb) => verb.run(&globals),
        Verb::Revoke(verb) => verb.run(&globals),
        Verb::Cap(verb) => verb.run(&globals),
        Verb::Peer(verb) => verb.run(&globals),
        Verb::Share(verb) => verb.run(&globals),
        Verb::Syscalls(verb) => verb.run(&globals),
        Verb::Fsck(verb) => verb.run(&globals),
        Verb::Stats => object::stats(&globals),
        Verb::Gc(verb) => verb.run(&globals),
        Verb::Pin(verb) => verb.run(&globals),
        Verb::Service(verb) => verb.run(&globals),
        Verb::Demo => demo::run(),
    }
}

/// What every verb needs.
pub(crate) struct Globals {
    /// The node's home.
    pub(crate) home: PathBuf,
    /// Print data as JSON.
    pub(crate) json: bool,
}

impl Globals {
    /// Carries out a request with standard output as its sink.
    pub(crate) fn request(&self, request: Request) -> Result<Answer> {
        self.request_with(request, Box::new(std::io::stdin()))
    }

    /// The same with another input than standard input.
    pub(crate) fn request_with(&self, request: Request, input: Input) -> Result<Answer> {
        let mut output = Output::new();
        let runtime = runtime()?;
        let answer = runtime.block_on(client::request(&self.home, request, input, &mut output));
        // A blocked read of standard input must not keep the command from ending.
        runtime.shutdown_background();
        output.finish()?;
        answer
    }

    /// Asks the daemon, which must be there.
    pub(crate) fn daemon(&self, request: Request) -> Result<Answer> {
        runtime()?.block_on(client::daemon(&self.home, request))
    }
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| Error::caused(Code::General, "can't start threads", e))
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.code != Code::Interrupted {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.code.exit_status())
        }
    }
}
