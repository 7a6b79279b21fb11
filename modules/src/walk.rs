//! From a stored tree and a relative path to what stands there.
//!
//! Symbolic links are followed inside the tree only: an absolute target, or one that climbs above the root, is an
//! escape and refused. `..` means the directory one came through, as in any file system.

use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Cid, Error, Store};

/// Most symbolic links followed in one walk, as in Linux.
const MAX_LINKS: u32 = 40;

/// Why a walk ended without a target.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A component is not in its directory.
    #[error("there is no {:?} in the tree", String::from_utf8_lossy(.0))]
    NotFound(Vec<u8>),
    /// A component that is not the last one is a file.
    #[error("{:?} is not a directory", String::from_utf8_lossy(.0))]
    NotADirectory(Vec<u8>),
    /// The path, or a symbolic link on it, leads out of the tree.
    #[error("the path leads out of the tree")]
    Escape,
    /// More than 40 symbolic links.
    #[error("too many symbolic links")]
    Loop,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Resolves `path` below the directory `root`. With `follow`, a symbolic link at the end is followed too.
pub fn walk(store: &Arc<Store>, root: Cid, path: &[u8], follow: bool) -> Result<Target, WalkError> {
    let mut through = vec![root];
    let mut pending: Vec<Vec<u8>> = components(path);
    let mut links = 0;
    let mut reached = Target::Directory { cid: root };
    while let Some(name) = pending.pop() {
        if name == b".." {
            if !matches!(reached, Target::Directory { .. }) {
                return Err(WalkError::NotADirectory(name));
            }
            through.pop();
            let here = *through.last().ok_or(WalkError::Escape)?;
            reached = Target::Directory { cid: here };
            continue;
        }
        let Target::Directory { cid: here } = reached else { return Err(WalkError::NotADirectory(name)) };
        let tree = store.tree(&here)?;
        let entry = tree.get(&name).ok_or_else(|| WalkError::NotFound(name.clone()))?;
        reached = entry.target.clone();
        match &reached {
            Target::Directory { cid } => through.push(*cid),
            Target::Symlink { target } if follow || !pending.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(WalkError::Loop);
                }
                if target.starts_with(b"/") {
                    return Err(WalkError::Escape);
                }
                pending.extend(components(target));
                reached = Target::Directory { cid: here };
            }
            Target::File { .. } | Target::Symlink { .. } => {}
        }
    }
    Ok(reached)
}

/// The components of a path, last one first, without the empty ones and ".".
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').rev().filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}
