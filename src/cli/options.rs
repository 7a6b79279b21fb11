//! Mount options, as `gridfs mount -o`, mount(8) and fstab(5) have them.

use std::path::PathBuf;

use gridfs_fuse::MountOptions;

use crate::error::{Code, Error, Result};
use crate::grid::Policy;

/// Options that say what is so anyway, or that are for mount(8) and systemd to heed.
const NO_EFFECT: [&str; 21] = [
    "",
    "defaults",
    "ro",
    "nosuid",
    "nodev",
    "noatime",
    "nodiratime",
    "relatime",
    "exec",
    "async",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "loud",
    "silent",
];
/// The same, by what they begin with.
const NO_EFFECT_PREFIXES: [&str; 3] = ["x-", "comment=", "user="];

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// For the file system.
    pub(crate) fuse: MountOptions,
    /// For the grid on it.
    pub(crate) policy: Policy,
    /// The node's home, if not what the environment says.
    pub(crate) home: Option<PathBuf>,
}

impl Options {
    /// Parses lists of options separated by commas.
    pub(crate) fn parse(lists: &[String]) -> Result<Options> {
        let mut options = Options { fuse: MountOptions::default(), policy: Policy::default(), home: None };
        for option in lists.iter().flat_map(|list| list.split(',')) {
            options.add(option)?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        let wrong = |why: &str| Err(Error::new(Code::Usage, format!("mount option {option:?} {why}")));
        match option.split_once('=') {
            None if option == "allow_other" => self.fuse.allow_other = true,
            None if option == "noexec" => self.fuse.no_exec = true,
            None if option == "rw" => return wrong("can't be: a grid is read-only; leave it out"),
            Some(("scan", "refuse")) => self.policy.scans_compute = false,
            Some(("scan", "compute")) => self.policy.scans_compute = true,
            Some(("stat", "pending")) => self.policy.stats_compute = false,
            Some(("stat", "compute")) => self.policy.stats_compute = true,
            Some(("home", home)) if home.starts_with('/') => self.home = Some(home.into()),
            Some(("home", _)) => return wrong("must be an absolute path"),
            Some(("fsname", name)) if !name.is_empty() => self.fuse.fs_name = name.to_owned(),
            _ if NO_EFFECT.contains(&option) => {}
            _ if NO_EFFECT_PREFIXES.iter().any(|prefix| option.starts_with(prefix)) => {}
            _ => {
                return wrong(
                    "is unknown; known: allow_other, home=DIR, scan=refuse|compute, stat=pending|compute, fsname=NAME, \
                     noexec, ro, and what mount(8) and systemd heed, such as nofail and x-systemd.automount",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Options {
        Options::parse(&[list.to_owned()]).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_set() {
        let options = parse("allow_other,home=/srv/node,scan=compute,stat=compute,fsname=g,noexec");
        assert!(options.fuse.allow_other && options.fuse.no_exec);
        assert_eq!((options.home, options.fuse.fs_name.as_str()), (Some("/srv/node".into()), "g"));
        assert!(options.policy.scans_compute && options.policy.stats_compute);
        let options = parse("scan=compute,stat=compute,scan=refuse,stat=pending");
        assert!(!options.policy.scans_compute && !options.policy.stats_compute);
    }

    #[test]
    fn what_fstab_says_to_others_has_no_effect() {
        let fstab = "defaults,ro,nosuid,nodev,noatime,_netdev,nofail,noauto,user,auto,x-systemd.automount,\
                     x-systemd.mount-timeout=30,x-gvfs-hide,x-gvfs-name=grid,comment=mine";
        let options = parse(fstab);
        assert!(!options.fuse.allow_other && !options.fuse.no_exec && options.home.is_none());
        assert!(!options.policy.scans_compute && !options.policy.stats_compute);
        assert_eq!(options.fuse.fs_name, "gridfs");
    }

    #[test]
    fn the_rest_is_refused_in_words() {
        for (option, why) in [
            ("rw", "mount option \"rw\" can't be: a grid is read-only"),
            ("suid", "mount option \"suid\" is unknown; known: allow_other, home=DIR"),
            ("home=here", "mount option \"home=here\" must be an absolute path"),
            ("scan", "mount option \"scan\" is unknown"),
            ("stat=true", "mount option \"stat=true\" is unknown"),
            ("fsname=", "mount option \"fsname=\" is unknown"),
        ] {
            let error = Options::parse(&["ro".into(), format!("nofail,{option}")]).unwrap_err();
            assert_eq!(error.code, Code::Usage);
            assert!(error.to_string().starts_with(why), "{error}");
        }
    }
}
