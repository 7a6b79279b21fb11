//! What is mounted where: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::MountError;

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MountEntry {
    /// Number of the mount; reused after it is gone.
    pub(crate) id: u64,
    /// Device of the file system, "major:minor".
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) dir: PathBuf,
    /// Type of file system, such as `fuse.gridfs`.
    pub(crate) kind: String,
}

/// What is mounted on exactly `dir` (absolute, without symbolic links), the topmost last.
pub(crate) fn mounts_on(dir: &Path) -> Result<Vec<MountEntry>, MountError> {
    let table = fs::read("/proc/self/mountinfo").map_err(|source| MountError::MountTable { source })?;
    let mounts = table.split(|&byte| byte == b'\n').filter_map(parse_line);
    Ok(mounts.filter(|mount| mount.dir == dir).collect())
}

/// A line, for instance `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    let dir = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8(unescape(kind)).ok()?;
    Some(MountEntry { id, device, dir, kind })
}

/// Undoes the kernel's octal escapes: space, tab, newline and backslash are written as `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Option<(u64, String, PathBuf, String)> {
        parse_line(line.as_bytes()).map(|mount| (mount.id, mount.device, mount.dir, mount.kind))
    }

    #[test]
    fn reads_a_line_with_and_without_optional_fields() {
        let expected = Some((36, "98:0".into(), "/mnt2".into(), "ext3".into()));
        assert_eq!(entry("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw"), expected);
        assert_eq!(entry("36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw"), expected);
    }

    #[test]
    fn decodes_escapes_in_the_directory() {
        assert_eq!(
            entry(r"7 1 0:52 / /a\040b\134c\011d\012e ro - fuse.gridfs grid\040fs ro"),
            Some((7, "0:52".into(), "/a b\\c\td\ne".into(), "fuse.gridfs".into()))
        );
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(br"\"), br"\");
        assert_eq!(unescape(br"\04"), br"\04");
        assert_eq!(unescape(br"\400\089"), br"\400\089");
        assert_eq!(unescape(br"\377\000"), [255, 0]);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in ["", "36", "x 35 98:0 / /m rw - ext3 s rw", "36 35 98:0 / /m rw ext3 s rw", "36 35 98:0 / /m rw -"]
        {
            assert_eq!(entry(line), None, "{line:?}");
        }
    }

    #[test]
    fn proc_is_mounted_on_proc() {
        let mounts = mounts_on(Path::new("/proc")).unwrap();
        assert_eq!(mounts.last().unwrap().kind, "proc");
    }
}
