//! The daemon: a node that is mounted, or answers its peers, or both, and answers on a socket until it is told to stop.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gridfs_fuse::{Mount, MountError, MountOptions, mount};
use gridfs_p2p::Multiaddr;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::error::{Code, Error, Result};
use crate::grid::{Grid, Policy};
use crate::home;
use crate::node::Node;
use crate::notify::{READY, STOPPING, notify};
use crate::service::wire::{self, Input};
use crate::service::{Answer, Event, Request, Service};

/// Commands served at a time.
const MAX_CONNECTIONS: usize = 256;
/// Events under way to one command.
const EVENTS_QUEUED: usize = 16;
/// How often what was learnt is written down.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// How long commands may take to end after the daemon was told to.
const GRACE: Duration = Duration::from_secs(5);

/// How long peers may take to be told that the node goes.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a daemon does besides answering on its socket.
pub struct Duties {
    /// Where to mount, and how.
    pub mount: Option<(PathBuf, MountOptions, Policy)>,
    /// Whether to listen for peers.
    pub serve: bool,
    /// Where, if not where the configuration says.
    pub listen: Vec<Multiaddr>,
}

/// A node that answers on its socket.
pub struct Daemon {
    node: Arc<Node>,
    mount: Option<Mount>,
    listener: UnixListener,
    socket: PathBuf,
    terminate: Signal,
    interrupt: Signal,
}

impl Daemon {
    /// Opens the socket, listens and mounts, as it is told. When it returns, all of it answers.
    pub async fn start(node: Arc<Node>, duties: Duties) -> Result<Daemon> {
        // Before anybody can know that there is a daemon to end.
        let (terminate, interrupt) = (signal_of(SignalKind::terminate())?, signal_of(SignalKind::interrupt())?);
        let socket = home::socket(node.home.directory());
        let listener = listen(&socket)?;
        node.join(duties.serve, duties.listen).await?;
        let mount = duties.mount.map(|(directory, options, policy)| mounted(&node, &directory, options, policy));
        let mount = mount.transpose()?;
        Ok(Daemon { node, mount, listener, socket, terminate, interrupt })
    }

    /// Serves until `gridfs umount`, an unmount by somebody else, SIGTERM or SIGINT; then unmounts and cleans up. A
    /// signal while it does ends the process at once.
    pub async fn run(mut self) -> Result<()> {
        notify(READY);
        let (stop, mut stopped) = watch::channel(false);
        let stop = Arc::new(stop);
        let service = Service::of_daemon(self.node.clone(), self.mount.as_ref());
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut saving = tokio::time::interval(SAVE_EVERY);
        loop {
            tokio::select! {
                _ = saving.tick() => {
                    let node = self.node.clone();
                    tokio::task::spawn_blocking(move || save(&node));
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = Connection { service: service.clone(), stop: stop.clone() };
                        let connections = connections.clone();
                        tokio::spawn(async move {
                            let Ok(_permit) = connections.acquire().await else { return };
                            if let Err(error) = connection.serve(stream).await {
                                tracing::debug!(%error, "a connection ended");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "can't accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = self.node.kernel.unasked.notified() => {
                    let service = service.clone();
                    let promises = self.node.kernel.accepted.all().into_iter().map(|(cid, _)| cid).collect();
                    tokio::spawn(async move {
                        if let Err(error) = service.forget_looked_up(promises).await {
                            tracing::warn!(%error, "what was forgotten may still be shown");
                        }
                    });
                }
                _ = stopped.changed() => break,
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                ended = ended(&mut self.mount) => {
                    ended.map_err(|e| Error::caused(Code::General, "the mount broke", e))?;
                    break;
                }
            }
        }
        tracing::info!("stopping");
        notify(STOPPING);
        let Daemon { node, mount, listener, socket, mut terminate, mut interrupt } = self;
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::warn!("another signal: ending at once");
            std::process::exit(1);
        });
        let unmounted = tokio::task::spawn_blocking(move || mount.map_or(Ok(()), Mount::unmount)).await;
        if let Some(network) = node.kernel.peers.network() {
            let _ = tokio::time::timeout(FAREWELL, network.stop()).await; // then they notice by themselves
        }
        // The socket disappears last, when the mount is gone and everything is on disk.
        drop(listener);
        node.kernel.store.sync()?;
        save(&node);
        let _ = tokio::time::timeout(GRACE, connections.acquire_many(MAX_CONNECTIONS as u32 - 1)).await; // then leave
        drop(node);
        remove_socket(&socket);
        match unmounted {
            Ok(unmounted) => unmounted.map_err(|e| Error::caused(Code::General, "can't unmount", e)),
            Err(_) => Err(Error::new(Code::General, "unmounting failed; see the log")),
        }
    }
}

fn mounted(node: &Node, directory: &Path, options: MountOptions, policy: Policy) -> Result<Mount> {
    let grid = Grid::new(node.kernel.clone(), node.copies.clone(), node.home.directory().to_owned(), policy);
    mount(grid, directory, options, tokio::runtime::Handle::current())
        .map_err(|e| Error::caused(Code::General, format!("can't mount at {}", directory.display()), e))
}

/// Waits until somebody unmounts the mount; for ever if there is none.
async fn ended(mount: &mut Option<Mount>) -> std::result::Result<(), MountError> {
    match mount {
        Some(mount) => mount.wait().await,
        None => std::future::pending().await,
    }
}

fn save(node: &Node) {
    if let Err(error) = node.kernel.syscalls.save() {
        tracing::warn!(%error, "what was learnt about modules is not kept");
    }
}

fn signal_of(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::caused(Code::General, "can't watch for signals", e))
}

/// The node's store is locked, so a socket file that is already there belongs to a daemon that died.
fn listen(socket: &Path) -> Result<UnixListener> {
    let failed = |e: io::Error| Error::caused(Code::General, format!("can't listen on {}", socket.display()), e);
    remove_socket(socket);
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn remove_socket(socket: &Path) {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(socket = %socket.display(), %error, "can't remove the socket");
        }
        _ => {}
    }
}

struct Connection {
    service: Service,
    stop: Arc<watch::Sender<bool>>,
}

impl Connection {
    async fn serve(self, stream: UnixStream) -> Result<()> {
        let peer = stream.peer_cred().map_err(|e| Error::caused(Code::General, "can't tell who connects", e))?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(Code::NotAccepted, format!("refused a connection by user {}", peer.uid())));
        }
        let (mut read, mut write) = stream.into_split();
        let Some(request) = wire::receive::<Request>(&mut read).await? else { return Ok(()) };
        if matches!(request, Request::Stop) {
            self.stop.send_replace(true);
            wire::send(&mut write, &Event::Done(Answer::Done)).await?;
            return Ok(());
        }
        let (input, pump) = pump(read);
        let (events, mut heard) = mpsc::channel(EVENTS_QUEUED);
        let handling = self.service.handle(request, input, events);
        let answering = async {
            while let Some(event) = heard.recv().await {
                wire::send(&mut write, &event).await?;
            }
            write.shutdown().await.map_err(|e| Error::caused(Code::General, "the connection broke", e))
        };
        // The pump ends when the command goes away: then everything here is dropped, and the request with it.
        tokio::select! {
            (_, answered) = async { tokio::join!(handling, answering) } => answered,
            () = pump => Ok(()),
        }
    }
}

/// What the command streams, as a reader; and the future that moves it, which ends when the command goes away.
fn pump(mut from: OwnedReadHalf) -> (crate::service::Input, impl Future<Output = ()>) {
    let (pieces, received) = std::sync::mpsc::sync_channel::<Vec<u8>>(4);
    let moving = async move {
        let mut pieces = Some(pieces);
        loop {
            match wire::receive::<Input>(&mut from).await {
                Ok(Some(Input(piece))) if piece.is_empty() => drop(pieces.take()),
                Ok(Some(Input(piece))) => {
                    let Some(to) = pieces.clone() else { return };
                    // The reader may be slow: wait for it where waiting is allowed.
                    let sent = tokio::task::spawn_blocking(move || to.send(piece)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        pieces = None;
                    }
                }
                Ok(None) | Err(_) => return,
            }
        }
    };
    (Box::new(Pieces { received, piece: Vec::new(), used: 0 }), moving)
}

struct Pieces {
    received: std::sync::mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
}

impl io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            // A sender that is gone is the end of the stream.
            let Ok(piece) = self.received.recv() else { return Ok(0) };
            (self.piece, self.used) = (piece, 0);
        }
        let read = buffer.len().min(self.piece.len() - self.used);
        buffer[..read].copy_from_slice(&self.piece[self.used..self.used + read]);
        self.used += read;
        Ok(read)
    }
}
