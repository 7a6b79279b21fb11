//! The entries of an open directory, from any cookie on.
//!
//! Cookie 0 is ".", 1 is "..", and so on in the order of names. A stored directory is held while its descriptor is
//! open, and entry n is found at once. Below `/out` and in memory names come and go: the descriptor remembers behind
//! which name the last listing ended, so going on takes no search and skips nothing when entries were removed meanwhile.

use std::borrow::Cow;
use std::sync::Arc;

use gridfs_store::Tree;

use crate::file_type::FileType;
use crate::guest::{Argument, Descriptor, Fault, Guest, Place};
use crate::inode;
use crate::scratch::Body;
use crate::wasi::Errno;

/// What a directory's descriptor remembers between two listings.
#[derive(Default)]
pub(crate) struct Listing {
    /// A stored directory's entries.
    tree: Option<Arc<Tree>>,
    /// Below `/out` and in memory: a cookie, and the name behind which it goes on.
    resume: Option<(u64, Vec<u8>)>,
}

impl Listing {
    /// The name behind which a listing from `cookie` goes on, if it is the one that ended last.
    fn behind(&self, cookie: u64) -> Option<&[u8]> {
        self.resume.as_ref().filter(|(resume, _)| *resume == cookie).map(|(_, name)| &name[..])
    }
}

/// One entry.
pub(crate) struct Entry<'a> {
    /// The cookie of the entry behind it.
    pub(crate) next: u64,
    pub(crate) name: &'a [u8],
    pub(crate) file_type: FileType,
    pub(crate) inode: u64,
}

type Named<'a> = (Cow<'a, [u8]>, FileType, u64);

/// Gives `sink` the entries from `cookie` on, until it says that one did not fit.
pub(crate) fn list(
    guest: &mut Guest,
    fd: u32,
    cookie: u64,
    sink: &mut dyn FnMut(Entry<'_>) -> bool,
) -> Result<(), Fault> {
    let Descriptor::Directory(directory) = guest.descriptor(fd)? else { return Err(Errno::NotDir.into()) };
    let mut listing = std::mem::take(&mut directory.listing);
    let place = directory.place.clone();
    let listed = list_place(guest, &place, &mut listing, cookie, sink);
    if let Descriptor::Directory(directory) = guest.descriptor(fd)? {
        directory.listing = listing;
    }
    listed
}

fn list_place(
    guest: &Guest,
    place: &Place,
    listing: &mut Listing,
    cookie: u64,
    sink: &mut dyn FnMut(Entry<'_>) -> bool,
) -> Result<(), Fault> {
    let from = usize::try_from(cookie).map_err(|_| Errno::Inval)?;
    let mut next = cookie;
    let mut last = None;
    let here: Named<'_> = (Cow::Borrowed(b"."), FileType::Directory, inode::of_place(place));
    let above: Named<'_> = (Cow::Borrowed(b".."), FileType::Directory, inode::NONE);
    let named = named(guest, place, listing, cookie, from.saturating_sub(2))?;
    for (name, file_type, inode) in [here, above].into_iter().skip(from).chain(named) {
        if !sink(Entry { next: next + 1, name: &name, file_type, inode }) {
            break;
        }
        next += 1;
        last = Some(name);
    }
    let resume = last
        .filter(|_| matches!(place, Place::Out(_) | Place::Scratch(_)) && next > 2)
        .map(|name| (next, name.into_owned()));
    if resume.is_some() {
        listing.resume = resume;
    }
    Ok(())
}

/// The entries behind "..", without the first `skipped`.
fn named<'a>(
    guest: &'a Guest,
    place: &'a Place,
    listing: &mut Listing,
    cookie: u64,
    skipped: usize,
) -> Result<Box<dyn Iterator<Item = Named<'a>> + 'a>, Fault> {
    Ok(match place {
        Place::Grid => Box::new(std::iter::empty()),
        Place::In => Box::new(guest.inputs.iter().enumerate().filter_map(input).skip(skipped)),
        Place::Stored(cid) => {
            let tree = match &listing.tree {
                Some(tree) => tree.clone(),
                None => listing.tree.insert(guest.store.tree(cid)?).clone(),
            };
            Box::new((skipped..tree.entries().len()).map(move |at| {
                let entry = &tree.entries()[at];
                (Cow::Owned(entry.name.clone()), FileType::of_target(&entry.target), inode::of_target(&entry.target))
            }))
        }
        Place::Out(path) => {
            let behind = listing.behind(cookie);
            let entries = guest.out.directory(path)?.entries_after(behind);
            let entries = entries.skip(if behind.is_some() { 0 } else { skipped });
            Box::new(entries.map(|(name, node)| {
                let inode = inode::of_out(&[&path[..], &[name.to_vec()]].concat());
                (Cow::Borrowed(name), FileType::of_node(node), inode)
            }))
        }
        Place::Scratch(number) => {
            let behind = listing.behind(cookie);
            let entries = guest.scratch.entries_after(*number, behind);
            let entries = entries.skip(if behind.is_some() { 0 } else { skipped });
            Box::new(entries.map(|(name, number)| {
                let body = &guest.scratch.node(number).body;
                let inode = match body {
                    Body::Mount(mount) => inode::of_place(&Place::from(*mount)),
                    _ => inode::of_scratch(number),
                };
                (Cow::Borrowed(name), FileType::of_scratch(body), inode)
            }))
        }
    })
}

fn input((index, input): (usize, &Argument)) -> Option<Named<'_>> {
    let name = Cow::Owned((index + 1).to_string().into_bytes());
    match input {
        Argument::Text(_) => None,
        Argument::Blob(object) => Some((name, FileType::Regular, inode::of_object(object))),
        Argument::Tree(cid) => Some((name, FileType::Directory, inode::of_place(&Place::Stored(*cid)))),
    }
}
