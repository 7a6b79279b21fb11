//! The types of files as a guest sees them.

use gridfs_store::Target;

use crate::out::Node;
use crate::scratch::Body;

/// File types as WASI numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum FileType {
    Directory = 3,
    Regular = 4,
    Symlink = 7,
}

impl FileType {
    pub(crate) fn of_target(target: &Target) -> FileType {
        match target {
            Target::File { .. } => FileType::Regular,
            Target::Directory { .. } => FileType::Directory,
            Target::Symlink { .. } => FileType::Symlink,
        }
    }

    pub(crate) fn of_scratch(body: &Body) -> FileType {
        match body {
            Body::File(_) => FileType::Regular,
            Body::Directory(_) | Body::Mount(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
        }
    }

    pub(crate) fn of_node(node: &Node) -> FileType {
        match node {
            Node::File(_) => FileType::Regular,
            Node::Directory(_) => FileType::Directory,
            Node::Symlink(_) => FileType::Symlink,
        }
    }
}
