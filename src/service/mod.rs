//! Requests carried out: the one way into a node for the command line, with or without a daemon.

mod caps;
pub mod check;
mod keep;
mod names;
mod origin;
mod peers;
mod promises;
mod rehash;
mod request;
mod rows;
mod syscalls;
mod verify;
pub mod wire;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_fuse::{Kept, Mount};
use gridfs_modules::manifest::{ArgKind, Returns};
use gridfs_modules::{MAX_WASM_BYTES, inspect};
use gridfs_store::{
    Algorithm, Batch, Cid, Codec, Digest, Durability, Lease, Store, Target, Tree, cbor, extract, ingest,
};
use tokio::sync::mpsc;

pub use request::{Answer, Event, Progress, Request, Source, Spelled, Terms, VerifyCapability, Word};
pub use rows::{
    BrokenRow, CallRow, ChangeRow, CheckRow, CollectedRow, FindingRow, FollowedRow, KeptRow, LedgerRow, LinkRow,
    ModuleRow, NodeRow, OriginRow, PeerRow, PeersRow, PinRow, PromiseRow, RepairRow, Row, StatsRow, SyscallsRow,
    TokenRow, TrackRow, Verdict, VerifiedRow,
};

use crate::authority::Authority;
use crate::describe::Description;
use crate::error::{Code, Error, Result};
use crate::marks::PINS;
use crate::names::check_name;
use crate::node::Node;
use crate::parms::Parms;
use crate::receipt::cid_of;
use crate::resolve::{Reach, Resolver};
use crate::ticket::Ticket;

/// What follows a request: standard input, or a module's bytes.
pub type Input = Box<dyn Read + Send>;

/// Shortest time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Carries out requests on a node.
#[derive(Clone)]
pub struct Service {
    node: Arc<Node>,
    /// Where the node is mounted, if it is.
    mount: Option<PathBuf>,
    /// What the kernel keeps of that mount.
    kept: Option<Kept>,
}

impl Service {
    /// Serves `node`, which is not mounted.
    pub fn new(node: Arc<Node>) -> Service {
        Service { node, mount: None, kept: None }
    }

    /// Serves the node of a daemon, and its mount.
    pub fn of_daemon(node: Arc<Node>, mount: Option<&Mount>) -> Service {
        Service { node, mount: mount.map(|mount| mount.dir().to_owned()), kept: mount.map(Mount::kept) }
    }

    /// Carries out one request. Dropping the future cancels it: nothing that was not reported as done is kept.
    pub async fn handle(&self, request: Request, input: Input, events: mpsc::Sender<Event>) {
        let end = match self.answer(request, input, &events).await {
            Ok(answer) => Event::Done(answer),
            Err(error) => Event::Failed { code: error.code, message: error.to_string() },
        };
        // A command that went away needs no answer.
        let _ = events.send(end).await;
    }

    async fn answer(&self, request: Request, input: Input, events: &mpsc::Sender<Event>) -> Result<Answer> {
        match request {
            Request::Ping => Ok(Answer::Pong { mount: self.mount.clone() }),
            Request::Stop => Err(Error::new(Code::NoDaemon, "no daemon runs")),
            Request::Put { source, name, hash, force } => {
                let read = if force { ingest::Read::All } else { ingest::Read::Changed };
                self.put(source, name, Reading { hash, read }, input, events).await
            }
            Request::Get { what, to } => self.get(&what, to, events).await,
            Request::Call(spelled) => self.call(&spelled, input, events).await,
            Request::Path(spelled) => self.path(&spelled, input, events).await,
            Request::Show { module } => Ok(Answer::Modules(vec![self.show(&module)?])),
            Request::Names { at } => self.names(at.as_deref()),
            Request::SetName { name, to } => self.set_name(name, to).await,
            Request::NameLog { limit } => self.name_log(limit),
            Request::Rollback { to } => self.rollback(&to),
            Request::Publish { names, publish } => self.publish(names, publish).await,
            Request::Follow { peer, name } => self.follow(&peer, name).await,
            Request::Follows => self.follows(None),
            Request::Unfollow { name } => self.unfollow(name).await,
            Request::UpdateNames { name } => self.update_names(name.as_deref()).await,
            Request::AddModule { name } => self.add_module(name, input).await,
            Request::Modules => self.modules(),
            Request::Stats => self.stats().await,
            Request::Collect { dry_run } => self.collect(dry_run, events).await,
            Request::Pin { what } => self.pin(&what, events).await,
            Request::Unpin { what } => self.unpin(&what),
            Request::Pins => self.pins(),
            Request::NewPromise { promise, modules, name } => self.new_promise(*promise, &modules, name).await,
            Request::ShowPromise { promise } => self.show_promise(&promise),
            Request::Accept { promise, accept } => self.accept(&promise, accept).await,
            Request::AcceptDocument => self.accept_document(input).await,
            Request::Promises => Ok(self.promises()),
            Request::Peers { peer } => self.peers(peer.as_deref()).await,
            Request::AddPeer { address } => self.add_peer(&address).await,
            Request::Ban { peer, banned } => self.ban(&peer, banned).await,
            Request::Share { what } => self.share(&what).await,
            Request::Unshare { what } => self.unshare(&what).await,
            Request::Shares => self.shares(),
            Request::Why { what } => self.why(&what, events).await,
            Request::Verify { what, rerun, agree } => self.verify(&what, verify::Demand { rerun, agree }, events).await,
            Request::Affected { what, revoke } => self.affected(&what, revoke, events).await,
            Request::Key => Ok(Answer::Text(self.identity().id().to_string())),
            Request::Grant(terms) => self.grant(*terms).await,
            Request::Attenuate { token, terms } => self.attenuate(&token, *terms).await,
            Request::ShowCapability { token } => self.show_capability(&token),
            Request::VerifyCapability(request) => self.verify_capability(request).await,
            Request::Syscalls => Ok(self.syscalls()),
            Request::Ledger => Ok(self.ledger()),
            Request::Check { read_data, repair } => self.check(read_data, repair, events).await,
        }
    }

    fn resolver(&self, authority: Authority) -> Resolver {
        Resolver::new(self.node.kernel.clone(), authority, Reach::Calls)
    }

    async fn put(
        &self,
        source: Source,
        name: Option<String>,
        reading: Reading,
        input: Input,
        events: &mpsc::Sender<Event>,
    ) -> Result<Answer> {
        if let Some(name) = &name {
            check_name(name)?;
        }
        let kernel = &self.node.kernel;
        let (objects, events) = (kernel.store.clone(), events.clone());
        let note = source_text(&source);
        let inside = self.inside_mount(&source);
        let stored = match (inside, reading.hash) {
            (Some(path), None) => self.held(self.target(&path).await?),
            (Some(path), Some(hash)) => rehash::rehash(objects, self.target(&path).await?, hash, events).await?,
            (None, _) => self.put_with_room(source, reading, input, events).await?,
        };
        let Stored { target, digest, lease: _kept } = stored;
        match &name {
            Some(name) => drop(kernel.names.change(&[(name.clone(), Some(target.clone()))])?),
            // Without a name it is kept all the same: it was given to be kept.
            None => PINS.set(&kernel.store, &cid_of(&target).expect("files and directories have a CID"), &note)?,
        }
        let alias = digest.map(|digest| digest.to_string());
        Ok(Answer::Stored(Row { alias, ..row(name.unwrap_or_default(), &target) }))
    }

    async fn get(&self, what: &str, to: Option<PathBuf>, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let target = self.target_or_ticket(what, events).await?;
        let Stored { target, lease: _kept, .. } = self.held(target);
        match (&target, to) {
            (_, Some(to)) => write_out(self.node.kernel.store.clone(), target, to, events.clone()).await?,
            (Target::File { .. }, None) => self.send_data(&target, events).await?,
            _ => {
                let why = format!("{what} is a directory; say where it goes: gridfs get {what} DIR");
                return Err(Error::new(Code::Usage, why));
            }
        }
        Ok(Answer::Done)
    }

    /// What a CID, a name, a grid path or a ticket stands for.
    async fn target_or_ticket(&self, what: &str, events: &mpsc::Sender<Event>) -> Result<Target> {
        match Ticket::is_meant(what) {
            true => self.redeem(what, events).await,
            false => self.target(what).await,
        }
    }

    /// What a CID, a name or a grid path stands for.
    async fn target(&self, what: &str) -> Result<Target> {
        let resolver = self.resolver(Authority::Owner);
        let what = self.inside_mount(&Source::Path(what.into())).unwrap_or_else(|| what.to_owned());
        if what.starts_with('/') {
            return Ok(resolver.path(&what).await?.expect("a resolver that may call resolves everything"));
        }
        resolver.name(&what)
    }

    /// The grid path of a file in the node's own mount: it is asked for, not read through the mount.
    fn inside_mount(&self, source: &Source) -> Option<String> {
        let (Source::Path(path), Some(mount)) = (source, &self.mount) else { return None };
        let inside = path.strip_prefix(mount).ok()?.to_str()?;
        (!inside.is_empty() && !inside.starts_with(".grid")).then(|| format!("/{inside}"))
    }

    async fn send_data(&self, target: &Target, events: &mpsc::Sender<Event>) -> Result<()> {
        let Target::File { cid, size_bytes, .. } = target else {
            return Err(Error::new(Code::General, "the result is not a file"));
        };
        let object = self.node.kernel.store.object(cid)?.ok_or(gridfs_store::Error::NotFound { cid: *cid })?;
        let (size, events) = (*size_bytes, events.clone());
        blocking(move || {
            let mut offset = 0;
            while offset < size {
                let mut data = vec![0; wire::DATA_BYTES];
                let read = object.read_at(offset, &mut data)?;
                data.truncate(read);
                offset += read as u64;
                events.blocking_send(Event::Data(data)).map_err(|_| gone())?;
            }
            Ok(())
        })
        .await
    }

    async fn call(&self, spelled: &Spelled, input: Input, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let caller = self.caller(spelled.capability.as_deref())?;
        if matches!(caller.authority, Authority::Elsewhere(_)) {
            self.node.network().await?;
        }
        let (parms, _, _kept) = self.parms(&caller.authority, spelled, input, events).await?;
        let reply = self.node.kernel.call(caller, parms).await?;
        match &reply.result {
            Target::Directory { cid } => Ok(Answer::Rows(rows(&*self.node.kernel.store.tree(cid)?))),
            file => {
                self.send_data(file, events).await?;
                Ok(Answer::Done)
            }
        }
    }

    async fn path(&self, spelled: &Spelled, input: Input, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let authority = self.caller(spelled.capability.as_deref())?.authority;
        let (parms, module, _kept) = self.parms(&authority, spelled, input, events).await?;
        let required = module.required();
        let path = if parms.fits(required) {
            parms.path(required)
        } else {
            format!("/{}/{}/@{}", parms.promise, parms.module, self.store_list(&parms)?)
        };
        let mount = self.mount.as_ref().map(|mount| mount.display().to_string()).unwrap_or_default();
        Ok(Answer::Path(mount + &path))
    }

    /// Stores the list of arguments that are too long for a path.
    fn store_list(&self, parms: &Parms) -> Result<Cid> {
        let mut batch = self.node.kernel.store.batch();
        let cid = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&parms.arguments))?;
        batch.commit(Durability::Durable)?;
        Ok(cid)
    }

    /// Resolves a call as it was typed; local files are stored first.
    async fn parms(
        &self,
        authority: &Authority,
        spelled: &Spelled,
        input: Input,
        events: &mpsc::Sender<Event>,
    ) -> Result<(Parms, Arc<Description>, Vec<Lease>)> {
        let resolver = self.resolver(authority.clone());
        let promise = resolver.promise(&spelled.promise)?;
        authority.check_promise(&*self.node.kernel.promise(&promise)?, &promise)?;
        let module = resolver.module(&promise, &spelled.module).await?;
        let mut input = Some(input);
        let (mut texts, mut kept) = (Vec::new(), Vec::new());
        for (index, word) in spelled.arguments.iter().enumerate() {
            let kind = module.argument(index).map(|argument| argument.kind);
            let is_object = matches!(kind, Some(ArgKind::Blob | ArgKind::Tree));
            let source = match &word.local {
                _ if !is_object => None,
                Some(path) => Some(Source::Path(path.clone())),
                None if word.text == "-" => Some(Source::Stream),
                None => None,
            };
            let Some(source) = source else {
                texts.push(word.text.clone());
                continue;
            };
            if let Some(path) = self.inside_mount(&source) {
                texts.push(path);
                continue;
            }
            let stream = match source {
                Source::Path(_) => Box::new(std::io::empty()),
                Source::Stream => input.take().ok_or_else(|| Error::new(Code::Usage, "- can be given only once"))?,
            };
            let reading = Reading { hash: None, read: ingest::Read::Changed };
            let stored = self.put_with_room(source, reading, stream, events.clone()).await?;
            let target = stored.target;
            kept.push(stored.lease);
            texts.push(cid_of(&target).expect("files and directories have a CID").to_string());
        }
        let parms = resolver.parms(promise, &module, &texts).await?;
        Ok((parms.expect("a resolver that may call resolves everything"), module, kept))
    }

    fn show(&self, name: &str) -> Result<ModuleRow> {
        let cid = self.resolver(Authority::Owner).cid(name)?;
        let module = self.node.kernel.modules.get(&cid)?;
        Ok(module_row(name, &module, self.runs_under(&module.cid)))
    }

    fn modules(&self) -> Result<Answer> {
        let kernel = &self.node.kernel;
        let table = kernel.names.table();
        let modules = table.entries().iter().filter(|entry| kernel.modules.names_module(&entry.target));
        let row = |entry: &gridfs_store::TreeEntry| {
            let cid = cid_of(&entry.target).expect("a module is a file");
            // A module that can't be read any more is listed by `name list`.
            let module = kernel.modules.get(&cid).ok()?;
            Some(module_row(&String::from_utf8_lossy(&entry.name), &module, self.runs_under(&cid)))
        };
        Ok(Answer::Modules(modules.filter_map(row).collect()))
    }

    async fn add_module(&self, name: Option<String>, input: Input) -> Result<Answer> {
        let (kernel, engine) = (self.node.kernel.clone(), self.node.engine.clone());
        let (target, own_name, _kept) = blocking(move || {
            let mut wasm = Vec::new();
            let read = input.take(MAX_WASM_BYTES + 1).read_to_end(&mut wasm);
            read.map_err(|e| Error::caused(Code::General, "can't read the module", e))?;
            let manifest = inspect(&wasm).map_err(|e| Error::caused(Code::NotModule, e.to_string(), e))?;
            let mut batch = kernel.store.batch();
            let cid = batch.put_bytes(Codec::Raw, &wasm)?;
            let kept = batch.commit(Durability::Durable)?;
            crate::wasm::load(&engine, &kernel.store, &cid)?;
            Ok((Target::File { cid, size_bytes: wasm.len() as u64, executable: false }, manifest.name, kept))
        })
        .await?;
        let name = name.unwrap_or(own_name);
        self.node.kernel.names.change(&[(name.clone(), Some(target.clone()))])?;
        Ok(Answer::Stored(row(name, &target)))
    }

    async fn check(&self, read_data: bool, repair: bool, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let (node, events) = (self.node.clone(), events.clone());
        blocking(move || {
            let mut last = Instant::now();
            let mut progress = |progress: gridfs_store::Progress| {
                if last.elapsed() >= PROGRESS_EVERY {
                    last = Instant::now();
                    let gridfs_store::Progress { done_bytes, total_bytes } = progress;
                    // Progress that finds no room is superseded by the next.
                    let _ = events.try_send(Event::Checking { done_bytes, total_bytes });
                }
                if events.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let kernel = &node.kernel;
            let checking = check::Checking { store: &kernel.store, home: &node.home, names: Some(&kernel.names) };
            let row = if repair { checking.repair(&mut progress) } else { checking.run(read_data, &mut progress) };
            // A repair sets aside what is damaged.
            if repair {
                kernel.forget_replies();
            }
            Ok(Answer::Checked(row?))
        })
        .await
    }
}

/// Stores a file, a directory or a stream, durably.
async fn store(
    store: Arc<Store>,
    source: Source,
    reading: Reading,
    mut input: Input,
    events: mpsc::Sender<Event>,
) -> Result<Stored> {
    blocking(move || {
        let mut batch = store.batch();
        if let Some(hash) = reading.hash {
            batch.also_hash(hash);
        }
        let target = match source {
            Source::Path(path) => put_path(&mut batch, &path, reading.read, events)?,
            Source::Stream => {
                let mut counted = Counted { inner: &mut input, report: Report::new(events) };
                let (cid, size_bytes) = batch.put_reader(Codec::Raw, &mut counted)?;
                Target::File { cid, size_bytes, executable: false }
            }
        };
        let digest = batch.digest().filter(|_| matches!(target, Target::File { .. }));
        let lease = batch.commit(Durability::Durable)?;
        Ok(Stored { target, digest, lease })
    })
    .await
}

/// How a put reads.
#[derive(Clone, Copy)]
struct Reading {
    /// The second digest of each file, if one is wanted.
    hash: Option<Algorithm>,
    read: ingest::Read,
}

/// What was stored, kept from being collected until somebody names it.
struct Stored {
    target: Target,
    /// The second digest of a single file.
    digest: Option<Digest>,
    lease: Lease,
}

fn source_text(source: &Source) -> String {
    match source {
        Source::Path(path) => path.display().to_string(),
        Source::Stream => "standard input".into(),
    }
}

fn put_path(batch: &mut Batch, path: &Path, read: ingest::Read, events: mpsc::Sender<Event>) -> Result<Target> {
    let mut report = Report::new(events);
    let target = ingest::put_path(batch, path, read, &mut |event| match event {
        ingest::Event::Bytes(bytes) => report.add(0, bytes),
        ingest::Event::File(_) => report.add(1, 0),
        ingest::Event::Skipped { path, why } => report.note(format!("left out {}: {why}", path.display())),
    })?;
    Ok(target)
}

async fn write_out(store: Arc<Store>, target: Target, to: PathBuf, events: mpsc::Sender<Event>) -> Result<()> {
    blocking(move || {
        let mut report = Report::new(events);
        extract::get(&store, &target, &to, &mut |event| match event {
            extract::Event::Bytes(bytes) => report.add(0, bytes),
            extract::Event::File(_) => report.add(1, 0),
        })?;
        Ok(())
    })
    .await
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Code::General, "a worker thread died; see the daemon's log")),
    }
}

fn gone() -> Error {
    Error::new(Code::Interrupted, "the command went away")
}

/// Reports progress, not too often, and notices when nobody listens any more.
struct Report {
    events: mpsc::Sender<Event>,
    progress: Progress,
    last: Instant,
}

impl Report {
    fn new(events: mpsc::Sender<Event>) -> Report {
        Report { events, progress: Progress::default(), last: Instant::now() }
    }

    fn add(&mut self, files: u64, bytes: u64) -> ControlFlow<()> {
        self.progress.files += files;
        self.progress.bytes += bytes;
        if self.events.is_closed() {
            return ControlFlow::Break(());
        }
        if self.last.elapsed() >= PROGRESS_EVERY {
            self.last = Instant::now();
            // Progress that finds no room is superseded by the next.
            let _ = self.events.try_send(Event::Progress(self.progress));
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, text: String) -> ControlFlow<()> {
        match self.events.blocking_send(Event::Note(text)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// A reader that reports how far it is.
struct Counted<'a> {
    inner: &'a mut Input,
    report: Report,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.report.add(0, read as u64) {
            ControlFlow::Continue(()) => Ok(read),
            ControlFlow::Break(()) => Err(std::io::Error::other("the command went away")),
        }
    }
}

fn rows(tree: &Tree) -> Vec<Row> {
    tree.entries().iter().map(|entry| row(String::from_utf8_lossy(&entry.name).into_owned(), &entry.target)).collect()
}

fn row(name: String, target: &Target) -> Row {
    let (kind, size_bytes) = match target {
        Target::File { size_bytes, executable: false, .. } => ("file", Some(*size_bytes)),
        Target::File { size_bytes, executable: true, .. } => ("executable", Some(*size_bytes)),
        Target::Directory { .. } => ("directory", None),
        Target::Symlink { .. } => ("symlink", None),
    };
    Row {
        name,
        kind: kind.into(),
        cid: cid_of(target).map(|cid| cid.to_string()),
        size_bytes,
        alias: None,
        published: false,
    }
}

fn module_row(name: &str, module: &Description, runs_under: Vec<(String, String, String)>) -> ModuleRow {
    let manifest = &module.manifest;
    let arguments = manifest.args.iter().map(|argument| {
        let kind = format!("{:?}", argument.kind).to_lowercase();
        match (argument.required, argument.variadic) {
            (_, true) => format!("[{}:{kind}...]", argument.name),
            (false, false) => format!("[{}:{kind}]", argument.name),
            (true, false) => format!("{}:{kind}", argument.name),
        }
    });
    let usage = std::iter::once(name.to_owned()).chain(arguments).collect::<Vec<_>>().join(" ");
    ModuleRow {
        name: name.to_owned(),
        cid: module.cid.to_string(),
        module: format!("{} {}", manifest.name, manifest.version),
        usage,
        returns: if module.manifest.returns == Returns::Tree { "tree".into() } else { "blob".into() },
        promise: manifest.promise.clone(),
        runs_under,
    }
}
