//! `gridfs mount`, `serve` and `umount`: the daemon's life.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use gridfs_p2p::Multiaddr;
use rustix::event::{PollFd, PollFlags};
use rustix::process::PidfdFlags;

use super::options::Options;
use super::output::Output;
use super::{Globals, runtime};
use crate::client::Listener as _;
use crate::daemon::{Daemon, Duties};
use crate::error::{Code, Error, Result};
use crate::home;
use crate::node::{Node, in_turn};
use crate::service::{Answer, Request};

/// How long a daemon that was told to stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long its threads may take to end after that.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// What a daemon in the background says when its mount answers.
const READY: &str = "ready";

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs mount                     mount at ~/.grid/mnt
  gridfs mount ~/grid
  gridfs mount --foreground ~/grid run until Ctrl-C or `gridfs umount`
  gridfs mount -o allow_other,stat=compute /srv/grid
  gridfs mount --serve ~/grid      and answer peers

Options:
  allow_other            let other users in (needs root, or user_allow_other in /etc/fuse.conf)
  home=DIR               the node's home, in place of GRID_HOME
  scan=refuse|compute    an open with O_NONBLOCK of a pending result answers EAGAIN, or computes it
  stat=pending|compute   asking for the size of a pending result shows 0, or computes it
  fsname=NAME            the source that /proc/mounts shows
  noexec                 nothing on the mount can be executed
What else fstab(5) lines say (ro, nofail, x-systemd.automount, ...) is accepted and has no effect.")]
pub(crate) struct Mount {
    /// Stay in the foreground and log to standard error
    #[arg(long, short)]
    foreground: bool,
    /// Mount options, separated by commas; see below
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
    #[command(flatten)]
    serving: Serving,
    /// Says on standard output when the mount answers; for the parent of a background daemon
    #[arg(long, hide = true, requires = "foreground")]
    announce: bool,
    /// Where to mount [default: mnt in the node's home]
    directory: Option<PathBuf>,
}

impl Mount {
    /// What mount(8) asks for: in the background.
    pub(crate) fn background(directory: PathBuf, options: Vec<String>) -> Mount {
        Mount { foreground: false, options, serving: Serving::default(), announce: false, directory: Some(directory) }
    }

    pub(crate) fn run(self, globals: Result<Globals>) -> Result<()> {
        let options = Options::parse(&self.options)?;
        let globals = &match &options.home {
            Some(home) => Globals { home: home.clone(), json: false },
            None => globals?,
        };
        let directory = directory(globals, self.directory.as_deref())?;
        refuse_a_second(globals)?;
        if !self.foreground {
            let mut words = vec![OsString::from("mount"), directory.into()];
            if !self.options.is_empty() {
                words.extend(["-o".into(), self.options.join(",").into()]);
            }
            words.extend(self.serving.words());
            return in_background(globals, words);
        }
        let mount = Some((directory, options.fuse, options.policy));
        foreground(globals, self.announce, Duties { mount, serve: self.serving.serve, listen: self.serving.listen })
    }
}

#[derive(Args, Clone, Default)]
struct Serving {
    /// Answer peers
    #[arg(long)]
    serve: bool,
    /// Listen here for peers [default: as config.toml says, else TCP and QUIC on port 4747]
    #[arg(long, value_name = "ADDRESS", requires = "serve")]
    listen: Vec<Multiaddr>,
}

impl Serving {
    /// The same as words of a command.
    fn words(&self) -> Vec<OsString> {
        let listen = self.listen.iter().flat_map(|address| ["--listen".into(), address.to_string().into()]);
        self.serve.then(|| "--serve".into()).into_iter().chain(listen).collect()
    }
}

#[derive(Args)]
#[command(after_help = "\
Peers may read what `gridfs share` names, and results of calls under promises that share them, such as pub. A daemon that is
there already has to be ended first; `gridfs mount --serve` mounts and serves.

Examples:
  gridfs serve                                     TCP and QUIC on port 4747
  gridfs serve --listen /ip4/192.0.2.7/tcp/4747
  gridfs peer list                                 the addresses to give to others
  gridfs umount                                    end the daemon")]
pub(crate) struct Serve {
    /// Stay in the foreground and log to standard error
    #[arg(long, short)]
    foreground: bool,
    /// Listen here [default: as config.toml says, else TCP and QUIC on port 4747]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Multiaddr>,
    /// Says on standard output when the node listens; for the parent of a background daemon
    #[arg(long, hide = true, requires = "foreground")]
    announce: bool,
}

impl Serve {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        if globals.daemon(Request::Ping).is_ok() {
            let why = format!("a daemon runs for {} already; end it with `gridfs umount`", globals.home.display());
            return Err(Error::new(Code::Busy, why + ", then `gridfs mount --serve` mounts and serves"));
        }
        if self.foreground {
            return foreground(globals, self.announce, Duties { mount: None, serve: true, listen: self.listen });
        }
        let listen = self.listen.iter().flat_map(|address| ["--listen".into(), address.to_string().into()]);
        in_background(globals, [OsString::from("serve")].into_iter().chain(listen).collect())
    }
}

/// A daemon in this process; `announce` if a parent waits for its word.
fn foreground(globals: &Globals, announce: bool, duties: Duties) -> Result<()> {
    if announce {
        // Out of the terminal's session: its Ctrl-C and hang-up are not meant for a daemon.
        rustix::process::setsid().map_err(|e| Error::caused(Code::General, "can't leave the terminal's session", e))?;
    }
    log_to_stderr();
    let result = run(globals, announce, duties);
    if let (true, Err(error)) = (announce, &result) {
        let line = error.to_string().replace('\n', " ");
        let _ = writeln!(io::stdout(), "{} {line}", error.code.exit_status()); // a parent that went away
    }
    result
}

fn run(globals: &Globals, announce: bool, duties: Duties) -> Result<()> {
    let mut output = Output::new();
    let node = in_turn(|| Node::open(&globals.home, &mut |progress| output.rebuild(progress)))?;
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let directory = duties.mount.as_ref().map(|(directory, ..)| directory.clone());
        let daemon = Daemon::start(Arc::new(node), duties).await?;
        match directory {
            Some(directory) => tracing::info!(mount = %directory.display(), "the grid is mounted"),
            None => tracing::info!("the node serves"),
        }
        if announce {
            let mut out = io::stdout();
            let _ = writeln!(out, "{READY}").and_then(|()| out.flush()); // a parent that went away
        }
        daemon.run().await
    });
    // A thread that hangs in a system call must not keep the daemon from ending.
    runtime.shutdown_timeout(END_TIMEOUT);
    served
}

fn directory(globals: &Globals, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(directory) => super::object::absolute(directory),
        None => {
            let directory = home::default_mount(&globals.home);
            // A dead mount answers "not connected"; mounting heals it.
            if std::fs::symlink_metadata(&directory).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                home::create_private(&directory)?;
            }
            Ok(directory)
        }
    }
}

/// The journal has its own times, and shows no colours.
fn log_to_stderr() {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colours).with_target(false);
    match is_journal(io::stderr()) {
        true => log.without_time().init(),
        false => log.init(),
    }
}

/// Whether `stream` is what systemd connected to the journal (`JOURNAL_STREAM` of systemd.exec(5): device and inode).
fn is_journal(stream: impl AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(stream).is_ok_and(|stat| journal == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A node has one daemon, and it has one mount.
fn refuse_a_second(globals: &Globals) -> Result<()> {
    let home = globals.home.display();
    let why = match globals.daemon(Request::Ping) {
        Ok(Answer::Pong { mount: Some(mount) }) => {
            format!("the grid of {home} is already mounted at {}", mount.display())
        }
        Ok(_) => format!("a daemon serves {home} without a mount"),
        Err(_) => return Ok(()),
    };
    Err(Error::new(Code::Busy, format!("{why}; end it with: gridfs umount")))
}

/// Starts a daemon by these words and waits until it answers.
fn in_background(globals: &Globals, words: Vec<OsString>) -> Result<()> {
    home::create_private(&globals.home.join("run"))?;
    let log_path = home::daemon_log(&globals.home);
    let log = fresh_log(&log_path)?;
    let failed = |e: io::Error| Error::caused(Code::General, "can't start the daemon", e);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(words).args(["--foreground", "--announce"]).env("GRID_HOME", &globals.home);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/").spawn();
    wait_until_ready(child.map_err(failed)?, &log_path)
}

/// A new log; that of the daemon before is kept beside it.
fn fresh_log(path: &Path) -> Result<File> {
    let failed = |e| Error::caused(Code::General, format!("can't write {}", path.display()), e);
    match std::fs::rename(path, path.with_extension("log.1")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    File::create(path).map_err(failed)
}

fn wait_until_ready(mut child: Child, log: &Path) -> Result<()> {
    let stdout = child.stdout.take().expect("it is piped");
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    if read.is_ok() && line.trim() == READY {
        return Ok(());
    }
    let (code, why) = line.trim().split_once(' ').unwrap_or(("1", "it ended without a word"));
    let code = if code == Code::Usage.exit_status().to_string() { Code::Usage } else { Code::General };
    Err(Error::new(code, format!("{why}\nthe daemon's log is {}", log.display())))
}

#[derive(Args)]
pub(crate) struct Umount {
    /// Where it is mounted [default: wherever the node's daemon has it mounted]
    directory: Option<PathBuf>,
}

impl Umount {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let given = self.directory.as_deref().map(super::object::absolute).transpose()?;
        match globals.daemon(Request::Ping) {
            Ok(Answer::Pong { mount }) if is_meant(given.as_deref(), mount.as_deref()) => {
                let daemon = daemon_process(&globals.home)?;
                globals.daemon(Request::Stop)?;
                wait_until_gone(&daemon)
            }
            _ => {
                let directory = given.unwrap_or_else(|| home::default_mount(&globals.home));
                // Whoever is not told to stop may have died and left its mount behind.
                gridfs_fuse::unmount(&directory).map_err(|e| {
                    let home = globals.home.display();
                    let why = format!("no daemon answers for {home}, and {} can't be unmounted", directory.display());
                    Error::caused(Code::NoDaemon, why, e)
                })
            }
        }
    }
}

/// Whether a daemon with this mount is the one to end. Without a mount it is if no directory was given.
fn is_meant(given: Option<&Path>, mount: Option<&Path>) -> bool {
    given.is_none_or(|given| mount.is_some_and(|mount| same(given, mount)))
}

fn same(given: &Path, mount: &Path) -> bool {
    given == mount || given.canonicalize().is_ok_and(|given| given == mount)
}

/// The process at the other end of the socket.
fn daemon_process(home: &Path) -> Result<OwnedFd> {
    let failed = |e: io::Error| Error::caused(Code::NoDaemon, "can't tell which process the daemon is", e);
    let socket = UnixStream::connect(home::socket(home)).map_err(failed)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket).map_err(|e| failed(e.into()))?;
    rustix::process::pidfd_open(peer.pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))
}

/// Waits for the process to end: only then is its store free for another.
fn wait_until_gone(process: &OwnedFd) -> Result<()> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let timeout = STOP_TIMEOUT.try_into().expect("half a minute is a valid timeout");
    match rustix::event::poll(&mut ended, Some(&timeout)) {
        Ok(1) => Ok(()),
        _ => {
            let why = format!("the daemon is still stopping after {} s; see its log", STOP_TIMEOUT.as_secs());
            Err(Error::new(Code::Busy, why))
        }
    }
}
