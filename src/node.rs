//! A node put together: home, store, symbol table, engine, kernel.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_modules::Engine;
use gridfs_p2p::{Multiaddr, Network};
use gridfs_store::{Options, Progress, Store};
use tokio::runtime::{Builder, Runtime};

use crate::acceptance::ByManifest;
use crate::accepted::Accepted;
use crate::builtins;
use crate::cache::Cache;
use crate::cas::CasModule;
use crate::claims::Claims;
use crate::copies::Copies;
use crate::error::{Code, Error, Result};
use crate::home::Home;
use crate::identity::Identity;
use crate::kernel::Kernel;
use crate::module::Module;
use crate::names::Names;
use crate::peers::Peers;
use crate::runners::Runners;
use crate::syscalls::Syscalls;
use crate::wasm::WasmModule;

/// How long to wait for another process that has the node open.
const TURN: Duration = Duration::from_secs(30);

/// An open node. One process at a time has a home open.
pub struct Node {
    /// Its home.
    pub home: Arc<Home>,
    /// Its kernel.
    pub kernel: Arc<Kernel>,
    /// Plain copies of large files.
    pub copies: Arc<Copies>,
    /// Loads and runs WASM programs.
    pub engine: Arc<Engine>,
    /// Runs WASM: apart from the caller's runtime, so that computing never keeps an answer waiting.
    compute: Option<Runtime>,
}

impl Node {
    /// Opens the node whose home is `directory`, creating what is missing. `progress` is told how far a rebuild of
    /// the store's index is.
    pub fn open(directory: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Node> {
        let home = Arc::new(Home::open(directory)?);
        let options = Options { quota_bytes: home.quota_bytes()?, progress: Some(progress) };
        let store = Arc::new(Store::open(&home.store(), options)?);
        let names = Arc::new(Names::open(store.clone(), home.clone())?);
        builtins::install(&store, &home, &names)?;
        let engine = Engine::new(&home.code()).map_err(|e| Error::caused(Code::General, e.to_string(), e))?;
        let engine = Arc::new(engine);
        let modules: Vec<Box<dyn Module>> = vec![
            Box::new(Cache),
            Box::new(ByManifest),
            Box::new(CasModule),
            Box::new(WasmModule::new(engine.clone())),
            Box::new(Claims),
            Box::new(Runners),
        ];
        let compute = Builder::new_multi_thread()
            .thread_name("grid-compute")
            .enable_time()
            .build()
            .map_err(|e| Error::caused(Code::General, "can't start threads for computing", e))?;
        let copies = Arc::new(Copies::new(home.directory(), home.copies_bytes()?));
        let accepted = Accepted::open(store.clone())?;
        let identity = Identity::open(&home.keys())?;
        let syscalls = Syscalls::open(&home.syscalls());
        let kernel = Kernel::new(store, names, identity, accepted, syscalls, modules, compute.handle().clone());
        Ok(Node { home, kernel, copies, engine, compute: Some(compute) })
    }
}

impl Node {
    /// The network, which is started on the current runtime if it does not run; then nothing listens.
    pub async fn network(&self) -> Result<&Network> {
        let settings = self.home.peers()?;
        Peers::start(&self.kernel, settings, Vec::new(), self.home.peers_directory()).await
    }

    /// Starts the network on the current runtime, if it is to run whenever a daemon does: when the node serves, there or where
    /// its configuration says, or has peers to ask.
    pub async fn join(&self, serve: bool, listen: Vec<Multiaddr>) -> Result<()> {
        let settings = self.home.peers()?;
        let directory = self.home.peers_directory();
        let serves = serve || settings.serve;
        if !serves && !settings.mdns && !directory.exists() {
            return Ok(());
        }
        let listen = match (serves, listen.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => settings.listen.clone(),
            (true, false) => listen,
        };
        Peers::start(&self.kernel, settings, listen, directory).await?;
        Ok(())
    }
}

/// Tries again, for half a minute at most, while another process has the node open. Blocks.
pub fn in_turn<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.code == Code::Busy && start.elapsed() < TURN => {
                std::thread::sleep(Duration::from_millis(50))
            }
            done => return done,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.kernel.syscalls.save() {
            tracing::warn!(%error, "what was learnt about modules is not kept");
        }
        // Waiting for computations is not allowed where a node may be dropped, and nobody waits for their results.
        if let Some(compute) = self.compute.take() {
            compute.shutdown_background();
        }
    }
}
