//! An open directory: a snapshot of its entries, so that what is added or removed meanwhile moves nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::tree::Entry;

/// Longest name shown, in bytes, as `statfs` says.
pub(crate) const NAME_MAX: usize = 255;

/// The entries of a directory at the time it was opened.
pub(crate) struct Listing<N> {
    entries: Vec<(OsString, Entry<N>)>,
}

/// One line of a listing.
pub(crate) enum Line<'a, N> {
    /// "." or "..".
    Dot(&'static str),
    /// An entry of the directory.
    Entry(&'a OsStr, &'a Entry<N>),
}

impl<N> Listing<N> {
    /// Keeps the entries whose names the kernel takes: one bad name would fail the whole listing with `EIO`.
    pub(crate) fn new(mut entries: Vec<(OsString, Entry<N>)>) -> Self {
        entries.retain(|(name, _)| {
            let fits = is_name(name);
            if !fits {
                tracing::error!(?name, "left out of a listing: not a file name");
            }
            fits
        });
        Self { entries }
    }

    /// The lines from `offset` on, each with the offset of the line after it.
    pub(crate) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, Line<'_, N>)> {
        (offset..u64::MAX).map_while(|at| Some((at + 1, self.line(at)?)))
    }

    fn line(&self, at: u64) -> Option<Line<'_, N>> {
        match at {
            0 => Some(Line::Dot(".")),
            1 => Some(Line::Dot("..")),
            _ => {
                let (name, entry) = self.entries.get(usize::try_from(at - 2).ok()?)?;
                Some(Line::Entry(name, entry))
            }
        }
    }
}

fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    (1..=NAME_MAX).contains(&bytes.len())
        && !matches!(bytes, b"." | b"..")
        && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::tree::{Attr, Kind};

    fn listing(names: &[&str]) -> Listing<usize> {
        let attr = Attr { kind: Kind::Directory, size: 0, time: SystemTime::UNIX_EPOCH, ttl: Duration::ZERO };
        let entries = names.iter().enumerate().map(|(node, name)| {
            let ttl = Duration::ZERO;
            (OsString::from(name), Entry { node, attr, ttl })
        });
        Listing::new(entries.collect())
    }

    fn shown(listing: &Listing<usize>, offset: u64) -> Vec<(u64, String)> {
        let lines = listing.from(offset).map(|(next, line)| match line {
            Line::Dot(dot) => (next, dot.to_owned()),
            Line::Entry(name, _) => (next, name.to_str().unwrap().to_owned()),
        });
        lines.collect()
    }

    #[test]
    fn every_offset_goes_on_where_the_last_reply_ended() {
        let listing = listing(&["a", "b"]);
        let all = [(1, "."), (2, ".."), (3, "a"), (4, "b")].map(|(next, name)| (next, name.to_owned()));
        for offset in 0..=4 {
            assert_eq!(shown(&listing, offset), all[offset as usize..]);
        }
        assert_eq!(shown(&listing, u64::MAX), []);
    }

    #[test]
    fn names_that_would_fail_the_listing_are_left_out() {
        let longest = "x".repeat(NAME_MAX);
        let too_long = "x".repeat(NAME_MAX + 1);
        let listing = listing(&["a", "", "b/c", "d\0", ".", "..", &longest, &too_long, "..."]);
        let names: Vec<_> = shown(&listing, 2).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["a", &longest, "..."]);
    }
}
