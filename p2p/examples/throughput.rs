//! How fast a large blob goes from one process to another over loopback, beside a plain copy over TCP.
//!
//! `cargo run --release -p gridfs-p2p --example throughput -- [MIB] [tcp|quic|ws] [random|text]`
//!
//! Both ends are counted: the provider reads from its store, the other checks everything and has it durably in its own. The plain
//! copy reads a file, sends it, and writes a file that is synced.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use gridfs_p2p::{
    Answers, CallAnswer, CallRequest, Code, Config, Fetch, Head, Limits, Multiaddr, Network, PeerId, Refusal,
};
use gridfs_store::{Cid, Codec, Durability, Hash, Options, Store};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Shares all that it has, and answers no calls.
struct Open;

impl Answers for Open {
    fn call(&self, _: PeerId, _: CallRequest) -> BoxFuture<'static, std::result::Result<CallAnswer, Refusal>> {
        async { Err(Refusal::new(Code::NotAccepted, "no calls here")) }.boxed()
    }

    fn claims(&self, _: PeerId, _: Hash) -> BoxFuture<'static, Vec<Vec<u8>>> {
        async { Vec::new() }.boxed()
    }

    fn head(&self, _: PeerId, _: [u8; 32]) -> BoxFuture<'static, Option<Head>> {
        async { None }.boxed()
    }

    fn may_read(&self, _: PeerId, _: &Cid) -> bool {
        true
    }
}

fn config(seed: u8, dir: &Path, listen: Vec<Multiaddr>) -> Config {
    let (dir, limits) = (dir.join("peers"), Limits::default());
    Config { seed: [seed; 32], listen, dir, grid: None, allow: None, mdns: false, relay: false, limits }
}

fn main() -> Result<()> {
    // As the node's own programs do.
    gridfs_store::keep_freed_memory();
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("provide") => provide(Path::new(&args[2]), &args[3], &args[4], &args[5]),
        Some("send") => send(Path::new(&args[2])),
        _ => {
            let arg = |at: usize, default: &'static str| args.get(at).map_or(default, String::as_str).to_owned();
            measure(&arg(1, "1024"), &arg(2, "tcp"), &arg(3, "random"))
        }
    }
}

/// A child process of this program, and the first line that it prints.
fn child(args: &[&str]) -> Result<(Child, String)> {
    let mut child =
        Command::new(std::env::current_exe()?).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((child, line.trim().to_owned()))
}

fn measure(mib: &str, transport: &str, content: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (mut provider, line) = child(&["provide", &text(&dir.path().join("a")), mib, transport, content])?;
    let [peer, address, cid] = line.split(' ').collect::<Vec<_>>()[..] else { return Err("odd line".into()) };
    let (peer, address, cid): (PeerId, Multiaddr, Cid) = (peer.parse()?, address.parse()?, cid.parse()?);
    let bytes = mib.parse::<f64>()? * f64::from(1 << 20);
    let runtime = tokio::runtime::Runtime::new()?;
    for _ in 0..3 {
        let to = tempfile::tempdir_in(dir.path())?;
        let store = Arc::new(Store::open(&to.path().join("store"), Options::default())?);
        let took = runtime.block_on(fetch(to.path(), store, peer, &address, cid))?;
        println!("fetch over {transport}: {:.2} s, {:.0} MB/s", took.as_secs_f64(), bytes / took.as_secs_f64() / 1e6);
        drop(to);
        let took = copy(&dir.path().join("a/plain"), &dir.path().join("copy"))?;
        println!("plain copy: {:.2} s, {:.0} MB/s", took.as_secs_f64(), bytes / took.as_secs_f64() / 1e6);
    }
    drop(provider.stdin.take());
    provider.wait()?;
    Ok(())
}

async fn fetch(dir: &Path, store: Arc<Store>, peer: PeerId, address: &Multiaddr, cid: Cid) -> Result<Duration> {
    let network = Network::start(config(2, dir, Vec::new()), store, Arc::new(Open)).await?;
    network.connect(peer, std::slice::from_ref(address)).await?;
    let start = Instant::now();
    let providers = vec![peer];
    let wanted = Fetch { cid, providers, max_bytes: u64::MAX, durability: Durability::Durable, progress: None };
    // A task of its own, as a node's fetches are: the thread that started the runtime would be woken for each frame.
    let fetching = network.clone();
    tokio::spawn(async move { fetching.fetch(wanted).await }).await??;
    let took = start.elapsed();
    network.stop().await;
    Ok(took)
}

/// The other process: a store with the blob, and the same as a file.
fn provide(dir: &Path, mib: &str, transport: &str, content: &str) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut bytes = vec![0; mib.parse::<usize>()? << 20];
    match content {
        "text" => bytes.chunks_mut(16).enumerate().for_each(|(at, line)| {
            line.copy_from_slice(
                format!("{:015}\n", (at as u64).wrapping_mul(2_654_435_761) % 1_000_000_007).as_bytes(),
            );
        }),
        _ => blake3::Hasher::new().finalize_xof().fill(&mut bytes),
    }
    std::fs::write(dir.join("plain"), &bytes)?;
    let store = Arc::new(Store::open(&dir.join("store"), Options::default())?);
    let mut batch = store.batch();
    let cid = batch.put_bytes(Codec::Raw, &bytes)?;
    drop(bytes);
    batch.commit(Durability::Durable)?;
    let listen = match transport {
        "quic" => "/ip4/127.0.0.1/udp/0/quic-v1",
        "ws" => "/ip4/127.0.0.1/tcp/0/ws",
        _ => "/ip4/127.0.0.1/tcp/0",
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let network = runtime.block_on(Network::start(config(1, dir, vec![listen.parse()?]), store, Arc::new(Open)))?;
    println!("{} {} {cid}", network.id(), network.addresses()[0]);
    // Until the other process is done.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.block_on(network.stop());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let (mut sender, port) = child(&["send", &from.to_string_lossy()])?;
    let start = Instant::now();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    let mut file = File::create(to)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read])?;
    }
    file.sync_all()?;
    let took = start.elapsed();
    std::fs::remove_file(to)?;
    drop(sender.stdin.take());
    sender.wait()?;
    Ok(took)
}

fn send(path: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (mut stream, _) = listener.accept()?;
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}
