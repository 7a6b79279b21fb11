//! `gridfs service`: a systemd unit that mounts the grid at every start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use super::Globals;
use super::options::Options;
use crate::error::{Code, Error, Result};

const UNIT: &str = "gridfs.service";
/// First line of a unit that may be replaced and removed here.
const MARK: &str =
    "# Written by `gridfs service install`, which writes it anew; change it with `systemctl edit gridfs`.";
/// Where root's units are.
const SYSTEM_UNITS: &str = "/etc/systemd/system";

/// For root's service alone: for a user's, systemd needs `NoNewPrivileges=` to do most of this, and then fusermount3,
/// which is set-user-id, could not mount.
const HARDENING: &str = "\
# Nothing that takes a mount namespace (ProtectSystem=, PrivateTmp= and the like): nobody else would see the mount.
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
";

#[derive(Subcommand)]
pub(crate) enum Service {
    /// Write the unit and say what to do next
    Install(Install),
    /// Stop the service and remove its unit
    Uninstall(Uninstall),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs service install --user --now       mount ~/.grid/mnt whenever you log in, and now
  gridfs service install -o allow_other /srv/grid")]
pub(crate) struct Install {
    /// For your own systemd, not the machine's
    #[arg(long)]
    user: bool,
    /// Enable and start it as well
    #[arg(long)]
    now: bool,
    /// Mount options, as for `gridfs mount`
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
    /// Where to mount [default: mnt in the node's home]
    directory: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs service uninstall --user")]
pub(crate) struct Uninstall {
    /// That of your own systemd, not the machine's
    #[arg(long)]
    user: bool,
}

impl Service {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        match self {
            Service::Install(install) => install.run(globals),
            Service::Uninstall(uninstall) => uninstall.run(),
        }
    }
}

impl Install {
    fn run(self, globals: &Globals) -> Result<()> {
        let options = Options::parse(&self.options)?;
        let home = options.home.as_deref().unwrap_or(&globals.home);
        let directory = self.directory.as_deref().map(existing).transpose()?;
        let program = std::env::current_exe().map_err(|e| failed("find", Path::new("this program"), e))?;
        let unit = unit(self.user, &program, home, directory.as_deref(), &self.options)?;
        let path = path(self.user)?;
        refuse_foreign(&path)?;
        fs::create_dir_all(path.parent().expect("it is in a directory")).map_err(|e| failed("write", &path, e))?;
        fs::write(&path, unit).map_err(|e| failed("write", &path, e))?;
        println!("wrote {}", path.display());
        let steps = [vec!["daemon-reload"], vec!["enable", "--now", UNIT]];
        if self.now {
            return steps.iter().try_for_each(|step| systemctl(self.user, step));
        }
        println!("next:");
        for step in steps {
            println!("  systemctl {}{}", if self.user { "--user " } else { "" }, step.join(" "));
        }
        if self.user {
            println!("  loginctl enable-linger    # if it shall run while you are not logged in");
        }
        Ok(())
    }
}

impl Uninstall {
    fn run(self) -> Result<()> {
        let path = path(self.user)?;
        refuse_foreign(&path)?;
        if !path.exists() {
            return Err(Error::new(Code::General, format!("no service is installed: there is no {}", path.display())));
        }
        // Where systemd does not run, there is a file to remove and nothing to stop.
        let stopped = systemctl(self.user, &["disable", "--now", UNIT]);
        fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        println!("removed {}", path.display());
        if let Err(error) = stopped.and_then(|()| systemctl(self.user, &["daemon-reload"])) {
            eprintln!("note: {error}; if the service still runs, end it with: gridfs umount");
        }
        Ok(())
    }
}

fn path(user: bool) -> Result<PathBuf> {
    if !user {
        return Ok(Path::new(SYSTEM_UNITS).join(UNIT));
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let missing = || Error::new(Code::Usage, "neither XDG_CONFIG_HOME nor HOME is set; set HOME to your directory");
    Ok(config.ok_or_else(missing)?.join("systemd/user").join(UNIT))
}

/// What is there may be a mount already, even a dead one, which can't be looked at.
fn existing(directory: &Path) -> Result<PathBuf> {
    match fs::symlink_metadata(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let why = format!("can't mount on {}; create it first", directory.display());
            Err(Error::caused(Code::Usage, why, e))
        }
        _ => super::object::absolute(directory),
    }
}

/// A unit that somebody else wrote, or masked, is theirs.
fn refuse_foreign(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(text) if text.lines().next() == Some(MARK) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("read", path, e)),
        Ok(_) => {
            let why = format!("{} was not written by gridfs; move it away first", path.display());
            Err(Error::new(Code::General, why))
        }
    }
}

/// Without a directory the unit names none either: `gridfs mount` makes its own.
fn unit(user: bool, program: &Path, home: &Path, directory: Option<&Path>, options: &[String]) -> Result<String> {
    let program = argument(program)?;
    let directory =
        directory.map(|path| argument(path).map(|path| format!(" {path}"))).transpose()?.unwrap_or_default();
    let variable = quoted(&format!("GRID_HOME={}", text(home)?), &[("%", "%%")]);
    let mut given = String::new();
    for list in options {
        given += &format!(" -o {}", argument(Path::new(list))?);
    }
    let (after, hardening, target) = match user {
        true => ("", "", "default.target"),
        false => ("After=local-fs.target\n", HARDENING, "multi-user.target"),
    };
    Ok(format!(
        "{MARK}
[Unit]
Description=gridfs, a content-addressed cache that is mounted
{after}
[Service]
Type=notify
Environment={variable}
ExecStart={program} mount --foreground{given}{directory}
ExecStop={program} umount{directory}
Restart=on-failure
RestartSec=1
TimeoutStopSec=60
LimitNOFILE=65536
{hardening}
[Install]
WantedBy={target}
"
    ))
}

/// One argument of a command line of systemd.service(5).
fn argument(path: &Path) -> Result<String> {
    Ok(quoted(text(path)?, &[("%", "%%"), ("$", "$$")]))
}

fn quoted(text: &str, doubled: &[(&str, &str)]) -> String {
    let mut text = text.replace('\\', "\\\\").replace('"', "\\\"");
    for (from, to) in doubled {
        text = text.replace(from, to);
    }
    format!("\"{text}\"")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(|| {
        let why = format!("{} can't stand in a unit: it is not UTF-8, or has control characters", path.display());
        Error::new(Code::Usage, why)
    })
}

fn systemctl(user: bool, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("systemctl");
    command.args(user.then_some("--user")).args(arguments);
    let words = format!("systemctl {}", arguments.join(" "));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::new(Code::General, format!("{words} failed ({status}); its words are above"))),
        Err(error) => Err(Error::caused(Code::General, format!("can't run {words}; is systemd installed?"), error)),
    }
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; as an ordinary user, use --user",
        _ => "",
    };
    Error::caused(Code::General, format!("can't {verb} {}{hint}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_program_home_and_directory_as_they_are() {
        let options = ["allow_other,stat=compute".to_owned()];
        let unit =
            unit(true, Path::new("/opt/a b/gridfs"), Path::new("/h/100%"), Some(Path::new("/m\"$x\\")), &options);
        let unit = unit.unwrap();
        let line = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        assert_eq!(unit.lines().next(), Some(MARK));
        assert_eq!(line("Environment="), r#""GRID_HOME=/h/100%%""#);
        let mount = r#""/opt/a b/gridfs" mount --foreground -o "allow_other,stat=compute" "/m\"$$x\\""#;
        assert_eq!(line("ExecStart="), mount);
        assert_eq!(line("ExecStop="), r#""/opt/a b/gridfs" umount "/m\"$$x\\""#);
        assert_eq!(line("WantedBy="), "default.target");
        assert!(!unit.contains("NoNewPrivileges"));
        let of_its_own = super::unit(false, Path::new("/bin/gridfs"), Path::new("/h"), None, &[]).unwrap();
        assert!(of_its_own.contains("\nExecStart=\"/bin/gridfs\" mount --foreground\n"), "{of_its_own}");
    }

    #[test]
    fn a_path_that_no_unit_can_name_is_refused() {
        let program = Path::new("/bin/gridfs");
        let error = unit(false, program, Path::new("/home\n/x"), None, &[]).unwrap_err();
        assert_eq!(error.code, Code::Usage);
    }
}
