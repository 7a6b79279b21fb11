//! Nodes for the tests: a store, a network on loopback, and answers that the test decides on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gridfs_p2p::{
    Answers, CallAnswer, CallRequest, Code, Config, Error, Fetch, Fetched, Head, Kind, Limits, Multiaddr, Network,
    PeerId, Refusal,
};
use gridfs_store::{Cid, Codec, Durability, Hash, Options, Store, Target, Tree, TreeEntry};
use tempfile::TempDir;

/// What a test node shares and answers.
#[derive(Default)]
pub struct Shares {
    /// Objects that nobody may read.
    pub secret: Mutex<Vec<Cid>>,
    pub claims: Mutex<HashMap<Hash, Vec<Vec<u8>>>>,
    pub heads: Mutex<HashMap<[u8; 32], Head>>,
    /// Calls under way; one whose parms are `wait` never ends by itself.
    pub calling: Arc<AtomicUsize>,
}

struct Calling(Arc<AtomicUsize>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Answers for Shares {
    fn call(&self, _: PeerId, request: CallRequest) -> BoxFuture<'static, Result<CallAnswer, Refusal>> {
        self.calling.fetch_add(1, Ordering::SeqCst);
        let calling = Calling(self.calling.clone());
        async move {
            let _calling = calling;
            match request.parms.as_slice() {
                b"wait" => std::future::pending().await,
                b"no" => Err(Refusal::new(Code::NotAccepted, "x".repeat(5_000))),
                parms => {
                    let token = request.token.unwrap_or_default();
                    let result = Cid::of(Codec::Raw, parms);
                    Ok(CallAnswer { result, kind: Kind::Executable, size_bytes: parms.len() as u64, claim: token })
                }
            }
        }
        .boxed()
    }

    fn claims(&self, _: PeerId, key: Hash) -> BoxFuture<'static, Vec<Vec<u8>>> {
        let claims = self.claims.lock().unwrap().get(&key).cloned().unwrap_or_default();
        async { claims }.boxed()
    }

    fn head(&self, _: PeerId, node: [u8; 32]) -> BoxFuture<'static, Option<Head>> {
        let head = self.heads.lock().unwrap().get(&node).cloned();
        async { head }.boxed()
    }

    fn may_read(&self, _: PeerId, cid: &Cid) -> bool {
        !self.secret.lock().unwrap().contains(cid)
    }
}

pub struct Node {
    pub dir: TempDir,
    pub store: Arc<Store>,
    pub shares: Arc<Shares>,
    pub network: Network,
}

/// Limits for a slow, loaded machine.
pub fn limits() -> Limits {
    Limits { patience: Duration::from_secs(60), connect: Duration::from_secs(60), ..Limits::default() }
}

pub fn config(dir: &Path) -> Config {
    let mut seed = [0; 32];
    seed.copy_from_slice(&Hash::of(dir.as_os_str().as_encoded_bytes()).0);
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    Config {
        seed,
        listen,
        dir: dir.join("peers"),
        grid: None,
        allow: None,
        mdns: false,
        relay: false,
        limits: limits(),
    }
}

impl Node {
    pub async fn start() -> Node {
        Node::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store"), Options::default()).unwrap());
        let mut config = config(dir.path());
        change(&mut config);
        let shares = Arc::new(Shares::default());
        let network = Network::start(config, store.clone(), shares.clone()).await.unwrap();
        Node { dir, store, shares, network }
    }

    pub fn id(&self) -> PeerId {
        self.network.id()
    }

    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.network.addresses()
    }

    pub async fn meet(&self, other: &Node) {
        self.network.connect(other.id(), &other.addresses()).await.unwrap();
    }

    pub fn put(&self, bytes: &[u8]) -> Cid {
        let mut batch = self.store.batch();
        let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
        batch.commit(Durability::Durable).unwrap();
        cid
    }

    /// A directory of `count` files in ten directories, with some in it twice.
    pub fn put_tree(&self, count: u32) -> Cid {
        let mut batch = self.store.batch();
        let mut top = Vec::new();
        for dir in 0..10 {
            let mut entries = Vec::new();
            for n in (0..count).filter(|n| n % 10 == dir) {
                let bytes = format!("the content of file {}, again and again. ", n / 2).repeat(1 + n as usize % 50);
                let cid = batch.put_bytes(Codec::Raw, bytes.as_bytes()).unwrap();
                let target = Target::File { cid, size_bytes: bytes.len() as u64, executable: n % 3 == 0 };
                entries.push(TreeEntry { name: format!("file-{n}").into_bytes(), target });
            }
            entries.push(TreeEntry { name: b"link".to_vec(), target: Target::Symlink { target: b"../x".to_vec() } });
            let cid = batch.put_tree(&Tree::new(entries).unwrap()).unwrap();
            top.push(TreeEntry { name: format!("dir-{dir}").into_bytes(), target: Target::Directory { cid } });
        }
        let root = batch.put_tree(&Tree::new(top).unwrap()).unwrap();
        batch.commit(Durability::Durable).unwrap();
        root
    }

    pub async fn fetch(&self, cid: Cid, providers: &[PeerId]) -> Result<Fetched, Error> {
        let providers = providers.to_vec();
        self.network
            .fetch(Fetch { cid, providers, max_bytes: 1 << 30, durability: Durability::Durable, progress: None })
            .await
    }

    pub fn has(&self, cid: &Cid, bytes: &[u8]) -> bool {
        self.store.read(cid, 1 << 30).unwrap() == bytes
    }
}

/// Bytes that do not compress.
pub fn random(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Waits for what will be.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came about that {what}");
}
