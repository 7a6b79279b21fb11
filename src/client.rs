//! A command's way to a node: through the daemon's socket if one answers, else by opening the node itself.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_store::{Progress as Rebuild, Store};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::error::{Code, Error, Result};
use crate::home;
use crate::node::{Node, in_turn};
use crate::service::wire::{self, DATA_BYTES, Input};
use crate::service::{self, Answer, Event, Request, Service};

/// How long a command waits to be the last user of its store.
const CLOSING: Duration = Duration::from_secs(1);
/// Events under way.
const EVENTS_QUEUED: usize = 16;

/// Hears what happens while a request is carried out.
pub trait Listener {
    /// Something happened; an error ends the request.
    fn event(&mut self, event: Event) -> Result<()>;
    /// The store's index is being rebuilt.
    fn rebuild(&mut self, progress: Rebuild);
}

/// Carries out a request on the node at `home` and returns its answer. `input` is read only if the request asks.
pub async fn request(
    home: &Path,
    request: Request,
    input: service::Input,
    listener: &mut dyn Listener,
) -> Result<Answer> {
    // Blocking is fine: nothing else happens in this process yet. Whoever has the node open may be a daemon that is
    // about to answer, or a command that will soon be done.
    let way = in_turn(|| match std::os::unix::net::UnixStream::connect(home::socket(home)) {
        Ok(stream) => Ok(Way::Daemon(stream)),
        Err(_) => Node::open(home, &mut |progress| listener.rebuild(progress)).map(Way::Own),
    })?;
    match way {
        Way::Daemon(stream) => {
            let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            let stream = stream.map_err(|e| Error::caused(Code::General, "can't talk to the daemon", e))?;
            through_daemon(stream, request, input, listener).await
        }
        Way::Own(node) => in_process(node, request, input, listener).await,
    }
}

enum Way {
    Daemon(std::os::unix::net::UnixStream),
    Own(Node),
}

/// Asks the daemon at `home`; an error with [`Code::NoDaemon`] when none answers.
pub async fn daemon(home: &Path, request: Request) -> Result<Answer> {
    struct Nobody;
    impl Listener for Nobody {
        fn event(&mut self, _: Event) -> Result<()> {
            Ok(())
        }
        fn rebuild(&mut self, _: Rebuild) {}
    }
    let stream = UnixStream::connect(home::socket(home)).await.map_err(|e| {
        let why = format!("no daemon answers for {}; start one with: gridfs mount", home.display());
        Error::caused(Code::NoDaemon, why, e)
    })?;
    through_daemon(stream, request, Box::new(std::io::empty()), &mut Nobody).await
}

async fn in_process(
    node: Node,
    request: Request,
    input: service::Input,
    listener: &mut dyn Listener,
) -> Result<Answer> {
    let store = node.kernel.store.clone();
    let service = Service::new(Arc::new(node));
    let (events, heard) = mpsc::channel(EVENTS_QUEUED);
    let handling = tokio::spawn(async move { service.handle(request, input, events).await });
    let answer = hear(heard, listener).await;
    handling.abort();
    // Cancelled or not, it is over now.
    let _ = handling.await;
    close(store).await;
    answer
}

/// Closes the store as the last who uses it: then the next command has nothing to replay. What still uses it after a
/// moment, such as a blocked read of standard input, is not waited for.
async fn close(store: Arc<Store>) {
    let patience = Instant::now() + CLOSING;
    while Arc::strong_count(&store) > 1 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It can only fail by a panic, which has been told.
    let _ = tokio::task::spawn_blocking(move || drop(store)).await;
}

async fn through_daemon(
    stream: UnixStream,
    request: Request,
    input: service::Input,
    listener: &mut dyn Listener,
) -> Result<Answer> {
    let (mut read, mut write) = stream.into_split();
    let streams = request.streams();
    wire::send(&mut write, &request).await?;
    let (events, heard) = mpsc::channel(EVENTS_QUEUED);
    let reading = tokio::spawn(async move {
        while let Some(event) = wire::receive::<Event>(&mut read).await? {
            if events.send(event).await.is_err() {
                break;
            }
        }
        Ok::<(), Error>(())
    });
    let writing = tokio::spawn(async move {
        if streams {
            send_input(input, &mut write).await?;
        }
        // The connection stays open until the answer is there: closing it cancels.
        std::future::pending::<()>().await;
        write.shutdown().await.map_err(|e| Error::caused(Code::General, "the connection broke", e))
    });
    let answer = hear(heard, listener).await;
    writing.abort();
    reading.abort();
    answer
}

async fn send_input(mut input: service::Input, write: &mut tokio::net::unix::OwnedWriteHalf) -> Result<()> {
    loop {
        let (piece, returned) = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; DATA_BYTES];
            let read = input.read(&mut piece);
            (read.map(|read| piece[..read].to_vec()), input)
        })
        .await
        .map_err(|_| Error::new(Code::General, "a worker thread died"))?;
        input = returned;
        let piece = piece.map_err(|e| Error::caused(Code::General, "can't read the input", e))?;
        let end = piece.is_empty();
        wire::send(write, &Input(piece)).await?;
        if end {
            return Ok(());
        }
    }
}

async fn hear(mut heard: mpsc::Receiver<Event>, listener: &mut dyn Listener) -> Result<Answer> {
    while let Some(event) = heard.recv().await {
        match event {
            Event::Done(answer) => return Ok(answer),
            Event::Failed { code, message } => return Err(Error::new(code, message)),
            event => listener.event(event)?,
        }
    }
    Err(Error::new(Code::General, "the daemon went away before it answered; try again"))
}
