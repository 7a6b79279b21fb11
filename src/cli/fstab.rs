//! `mount.gridfs SOURCE DIR [-sfnv] [-o OPTS]`: how mount(8) mounts a type of file system that the kernel does not know.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::Globals;
use super::mount::Mount;
use super::options::Options;
use crate::error::{Code, Error, Result};
use crate::home::Home;

/// What the program is called in /sbin, for file systems of type `gridfs`.
pub(super) const NAME: &str = "mount.gridfs";
/// Exit status for a mount that failed (mount(8)); 1 is a wrong call.
const MOUNT_FAILED: u8 = 32;

/// Mounts a grid for mount(8) and fstab(5).
#[derive(Parser)]
#[command(
    name = NAME,
    version,
    after_help = "\
Examples:
  ln -s $(command -v gridfs) /sbin/mount.gridfs
  mount -t gridfs grid /srv/grid -o home=/var/lib/gridfs,allow_other

A line in /etc/fstab:
  grid  /srv/grid  gridfs  home=/var/lib/gridfs,allow_other,nofail  0  0

`gridfs mount --help` lists the options."
)]
struct Arguments {
    /// What /proc/mounts and df show as the source; any word
    source: String,
    /// Where to mount
    directory: PathBuf,
    /// Do everything but mount
    #[arg(short)]
    fake: bool,
    /// No effect: unknown options are told, not tolerated
    #[arg(short)]
    sloppy: bool,
    /// No effect: there is no /etc/mtab to write
    #[arg(short)]
    no_mtab: bool,
    /// No effect
    #[arg(short)]
    verbose: bool,
    /// The type with its subtype; no effect
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
}

pub(super) fn run() -> ExitCode {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        let _ = error.print(); // nobody is left to tell
        std::process::exit(i32::from(error.use_stderr()));
    });
    match arguments.mount() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::from(if error.code == Code::Usage { 1 } else { MOUNT_FAILED })
        }
    }
}

impl Arguments {
    fn mount(self) -> Result<()> {
        if self.source.contains(',') {
            let why = format!("the source {:?} must not contain a comma; it is only a name to show", self.source);
            return Err(Error::new(Code::Usage, why));
        }
        // mount(8) says rw when the line in fstab says nothing, so it can't be held against anybody here.
        let mut options: Vec<String> =
            self.options.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        options.retain(|option| option != "rw");
        options.push(format!("fsname={}", self.source));
        if self.fake {
            return Options::parse(&options).map(drop);
        }
        let globals = Home::from_environment().map(|home| Globals { home, json: false });
        Mount::background(self.directory, options).run(globals)
    }
}
