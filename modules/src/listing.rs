//! The entries of an open directory, from any cookie on.
//!
//! Cookie 0 is ".", 1 is "..", and so on in the order of names. A stored directory is held while its descriptor is
//! open, and entry n is found at once. Below `/out` names come and go: the descriptor remembers behind which name the
//! last listing ended, so going on takes no search and skips nothing when entries were removed meanwhile.

use std::borrow::Cow;
use std::sync::Arc;

use gridfs_store::Tree;

use crate::guest::{Argument, Descriptor, Fault, FileType, Guest, Place};
use crate::wasi::Errno;

/// What a directory's descriptor remembers between two listings.
#[derive(Default)]
pub(crate) struct Listing {
    /// A stored directory's entries.
    tree: Option<Arc<Tree>>,
    /// Below `/out`: a cookie, and the name behind which it goes on.
    resume: Option<(u64, Vec<u8>)>,
}

/// One entry.
pub(crate) struct Entry<'a> {
    /// The cookie of the entry behind it.
    pub(crate) next: u64,
    pub(crate) name: &'a [u8],
    pub(crate) file_type: FileType,
}

type Named<'a> = (Cow<'a, [u8]>, FileType);

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
    let here: Named<'_> = (Cow::Borrowed(b"."), FileType::Directory);
    let above: Named<'_> = (Cow::Borrowed(b".."), FileType::Directory);
    let named = named(guest, place, listing, cookie, from.saturating_sub(2))?;
    for (name, file_type) in [here, above].into_iter().skip(from).chain(named) {
        if !sink(Entry { next: next + 1, name: &name, file_type }) {
            break;
        }
        next += 1;
        last = Some(name);
    }
    let resume = last.filter(|_| matches!(place, Place::Out(_)) && next > 2).map(|name| (next, name.into_owned()));
    if resume.is_some() {
        listing.resume = resume;
    }
    Ok(())
}

/// The entries behind "..", without the first `skipped`.
fn named<'a>(
    guest: &'a Guest,
    place: &Place,
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
                (Cow::Owned(entry.name.clone()), FileType::of_target(&entry.target))
            }))
        }
        Place::Out(path) => {
            let directory = guest.out.directory(path)?;
            let behind = listing.resume.as_ref().filter(|(resume, _)| *resume == cookie).map(|(_, name)| &name[..]);
            let skipped = if behind.is_some() { 0 } else { skipped };
            let entries = directory.entries_after(behind).skip(skipped);
            Box::new(entries.map(|(name, node)| (Cow::Borrowed(name), FileType::of_node(node))))
        }
    })
}

fn input((index, input): (usize, &Argument)) -> Option<Named<'_>> {
    let name = Cow::Owned((index + 1).to_string().into_bytes());
    match input {
        Argument::Text(_) => None,
        Argument::Blob(_) => Some((name, FileType::Regular)),
        Argument::Tree(_) => Some((name, FileType::Directory)),
    }
}
