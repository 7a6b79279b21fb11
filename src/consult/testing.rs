//! A kernel of tests: over a real store in a temporary home, consulting what the test says.

use std::sync::Arc;

use gridfs_store::{Options, Store};
use tokio::runtime::Handle;

use crate::accepted::Accepted;
use crate::builtins;
use crate::home::Home;
use crate::identity::Identity;
use crate::kernel::Kernel;
use crate::module::Module;
use crate::names::Names;
use crate::syscalls::Syscalls;

pub(super) fn kernel(modules: Vec<Box<dyn Module>>) -> (tempfile::TempDir, Arc<Kernel>) {
    let directory = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::open(directory.path()).unwrap());
    let store = Arc::new(Store::open(&home.store(), Options { quota_bytes: None, progress: None }).unwrap());
    let names = Arc::new(Names::open(store.clone(), home.clone()).unwrap());
    builtins::install(&store, &home, &names).unwrap();
    let accepted = Accepted::open(store.clone()).unwrap();
    let identity = Identity::open(&home.keys()).unwrap();
    (directory, Kernel::new(store, names, identity, accepted, Syscalls::in_memory(), modules, Handle::current()))
}
