//! From spelled paths and texts to parms: names and nested calls become CIDs.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use gridfs_modules::manifest::ArgKind;
use gridfs_modules::{Denial, WalkError, walk};
use gridfs_store::Target;
use gridfs_store::{AnyCid, Cid, CidError, Codec, cbor};

use crate::acceptance::asks;
use crate::authority::Authority;
use crate::capability::{PACKED_BYTES, Presented, Refusal, Token};
use crate::describe::{Description, Runner};
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::module::{Caller, Reply};
use crate::parms::{Parms, Value};
use crate::partial;
use crate::path::{self, GridPath};
use crate::peers::Peers;
use crate::promise::Source;
use crate::receipt::{Receipt, cid_of};

/// Most names, and most nested calls, that one evaluation may go by.
const MAX_NOTED: usize = 65_536;
/// Largest stored list of arguments.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// What a resolution went by; it becomes part of a receipt when a module asked. Each name, call and path is noted once.
#[derive(Default)]
pub struct Trace {
    noted: Mutex<Noted>,
}

/// What has been noted.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Noted {
    /// Names with what they stood for.
    pub names: BTreeMap<String, Cid>,
    /// Calls with their results, in the order they were made.
    pub calls: Vec<(Parms, Cid)>,
    /// Paths that a guest opened, as it spelled them, with what stood there, in the order they were opened.
    pub reads: Vec<(String, Cid)>,
    /// Until when the first volatile result on the way holds.
    pub until_ms: Option<u64>,
    called: HashSet<Parms>,
    read: HashSet<String>,
}

impl Trace {
    /// Takes all that was noted.
    pub fn take(&self) -> Noted {
        std::mem::take(&mut *self.noted())
    }

    /// Whether any names were resolved so far.
    pub fn went_by_names(&self) -> bool {
        !self.noted().names.is_empty()
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().expect("no panic while it is held")
    }

    fn names(&self, names: impl IntoIterator<Item = (String, Cid)>) -> Result<()> {
        let mut noted = self.noted();
        for (name, cid) in names {
            // A result that went by two meanings of one name would hold for neither.
            if noted.names.get(&name).is_some_and(|before| *before != cid) {
                return Err(Error::new(
                    Code::Busy,
                    format!("the name {name:?} was changed during the call; try again"),
                ));
            }
            noted.names.insert(name, cid);
        }
        check_count(noted.names.len(), "names")
    }

    fn call(&self, parms: Parms, result: Cid, until_ms: Option<u64>) -> Result<()> {
        let mut noted = self.noted();
        noted.until_ms = noted.until_ms.into_iter().chain(until_ms).min();
        if noted.called.insert(parms.clone()) {
            noted.calls.push((parms, result));
        }
        check_count(noted.calls.len(), "different nested calls")
    }

    fn read(&self, path: &str, found: Cid) -> Result<()> {
        let mut noted = self.noted();
        if noted.read.insert(path.to_owned()) {
            noted.reads.push((path.to_owned(), found));
        }
        check_count(noted.reads.len(), "different paths")
    }
}

fn check_count(count: usize, what: &str) -> Result<()> {
    match count <= MAX_NOTED {
        true => Ok(()),
        false => Err(Error::new(Code::TimeLimit, format!("the call went by more than {MAX_NOTED} {what}"))),
    }
}

/// How far a resolution may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// Only what is known: nothing is run. What would need a run resolves to nothing.
    Known,
    /// Nested calls are made.
    Calls,
}

/// Resolves for one caller.
pub struct Resolver {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// On whose behalf.
    pub caller: Caller,
    /// How far.
    pub reach: Reach,
    /// What `/in/<i>` stands for, when a module asks.
    pub inputs: Vec<Value>,
    /// What the resolution goes by.
    pub trace: Trace,
}

type Resolving<'a, T> = Pin<Box<dyn Future<Output = Result<Option<T>>> + Send + 'a>>;

impl Resolver {
    /// A resolver for the mount or the command line.
    pub fn new(kernel: Arc<Kernel>, authority: Authority, reach: Reach) -> Resolver {
        let caller = Caller { authority, ..Caller::default() };
        Resolver { kernel, caller, reach, inputs: Vec::new(), trace: Trace::default() }
    }

    /// A name or CID as text; what it stands for.
    pub fn name(&self, text: &str) -> Result<Target> {
        if let Some(cid) = spelled_cid(&self.kernel, text)? {
            return object(&self.kernel, cid);
        }
        // Names are this node's own: to a peer's call there are none.
        let is_for_peer = matches!(self.caller.authority, Authority::Peer(..));
        let target = self.kernel.names.get(text).filter(|_| !is_for_peer).ok_or_else(|| unknown(text))?;
        let cid = cid_of(&target).ok_or_else(|| Error::new(Code::General, format!("the name {text:?} is a link")))?;
        self.trace.names([(text.to_owned(), cid)])?;
        Ok(target)
    }

    /// A name or CID as text, as a CID, whether or not it is stored here.
    pub fn cid(&self, text: &str) -> Result<Cid> {
        match spelled_cid(&self.kernel, text)? {
            Some(cid) => Ok(cid),
            None => Ok(cid_of(&self.name(text)?).expect("a name that resolves has a CID")),
        }
    }

    /// The same where a promise is meant: a record, though by a digest other than BLAKE3 it is known as a file.
    pub fn promise(&self, text: &str) -> Result<Cid> {
        let cid = self.cid(text)?;
        match text.parse() {
            Ok(AnyCid::Foreign(_)) => Ok(Cid { codec: Codec::DagCbor, ..cid }),
            _ => Ok(cid),
        }
    }

    /// The parms of a call spelled in texts. `None` when that takes a run and the resolver may not.
    pub fn parms<'a>(&'a self, promise: Cid, module: &'a Description, texts: &'a [String]) -> Resolving<'a, Parms> {
        Box::pin(async move {
            let Some(arguments) = self.values(module, texts).await? else { return Ok(None) };
            module.check(&arguments)?;
            Ok(Some(Parms { promise, module: module.cid, arguments }))
        })
    }

    /// The first arguments of a call, spelled in texts.
    pub async fn values(&self, module: &Description, texts: &[String]) -> Result<Option<Vec<Value>>> {
        let mut values = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let kind = module.argument(index).map_or(ArgKind::Text, |argument| argument.kind);
            let Some(value) = self.value(kind, text).await? else { return Ok(None) };
            values.push(value);
        }
        Ok(Some(values))
    }

    async fn value(&self, kind: ArgKind, text: &str) -> Result<Option<Value>> {
        match kind {
            ArgKind::Text | ArgKind::Int => Ok(Some(Value::Text(text.to_owned()))),
            ArgKind::Blob | ArgKind::Tree if text.starts_with("/in/") && !self.inputs.is_empty() => {
                let input = text[4..].parse::<usize>().ok().and_then(|number| self.inputs.get(number.checked_sub(1)?));
                let wrong = || Error::new(Code::Usage, format!("{text:?} is not an argument of this call"));
                input.cloned().map(Some).ok_or_else(wrong)
            }
            ArgKind::Blob | ArgKind::Tree if text.starts_with('/') => {
                let target = self.path(text).await?;
                let wrong = || Error::new(Code::Usage, format!("{text:?} is a symbolic link"));
                target.map(|target| cid_of(&target).map(Value::Object).ok_or_else(wrong)).transpose()
            }
            ArgKind::Blob | ArgKind::Tree => Ok(Some(Value::Object(self.cid(text)?))),
        }
    }

    /// What stands at a grid path: a call's result, or what is in it.
    pub fn path<'a>(&'a self, spelled: &'a str) -> Resolving<'a, Target> {
        Box::pin(async move {
            let Some((parms, inside)) = self.path_parms(spelled).await? else { return Ok(None) };
            let promise = parms.promise;
            let Some(reply) = self.call(parms).await? else { return Ok(None) };
            let target = match (inside, reply.result) {
                (None, result) => result,
                (Some(inside), Target::Directory { cid }) => {
                    let found = self.inside(&promise, cid, &inside).await;
                    match found.map_err(|e| e.during(format!("{spelled:?}")))? {
                        Some(target) => target,
                        None => return Ok(None),
                    }
                }
                (Some(_), _) => {
                    let why = format!("{spelled:?}: the result is a file, not a directory");
                    return Err(Error::new(Code::UnknownName, why));
                }
            };
            let store = &self.kernel.store;
            let missing = match cid_of(&target) {
                Some(cid) if !store.contains(&cid)? => vec![cid],
                Some(cid) if self.reach == Reach::Calls => partial::missing(store, &cid)?,
                _ => Vec::new(),
            };
            Ok(self.supply(&promise, missing).await?.then_some(target))
        })
    }

    /// What stands at a path in a directory; what is missing on the way is fetched.
    async fn inside(&self, promise: &Cid, directory: Cid, path: &str) -> Result<Option<Target>> {
        let mut fetched = None;
        loop {
            match walk(&self.kernel.store, directory, path.as_bytes(), true) {
                Err(WalkError::Store(gridfs_store::Error::NotFound { cid })) if fetched != Some(cid) => {
                    if !self.supply(promise, vec![cid]).await? {
                        return Ok(None);
                    }
                    fetched = Some(cid);
                }
                found => return Ok(Some(found?)),
            }
        }
    }

    /// Fetches what is missing of a directory, if the promise allows it; for a peer nothing is fetched, and who reads finds it missing.
    /// False if the resolver may not.
    async fn supply(&self, promise: &Cid, missing: Vec<Cid>) -> Result<bool> {
        if self.reach == Reach::Known && !missing.is_empty() {
            return Ok(false);
        }
        let (Some(first), false) = (missing.first(), matches!(self.caller.authority, Authority::Peer(..))) else {
            return Ok(true);
        };
        let source = self.kernel.promise(promise)?.source;
        let why = match (source, self.kernel.peers.network()) {
            (Source::Local, _) => "under this promise nobody is asked for it; below /pub it is fetched",
            (_, None) => "no network runs to ask for it; `gridfs mount` or `gridfs serve` starts it",
            (_, Some(_)) => return Peers::supply(&self.kernel, source, missing).await.map(|()| true),
        };
        Err(Error::new(Code::Unavailable, format!("{first} is not stored on this node, and {why}")))
    }

    /// The module of this name or CID; fetched if it is not here, and promise and reach allow it.
    pub async fn module(&self, promise: &Cid, text: &str) -> Result<Arc<Description>> {
        let promise = self.kernel.promise(promise)?;
        let cid = self.cid(text)?;
        match self.reach {
            Reach::Known => self.kernel.modules.get(&cid),
            Reach::Calls => self.kernel.module(&self.caller.authority, &promise, &cid).await,
        }
    }

    /// The call that a grid path names, and the path inside its result.
    pub fn path_parms<'a>(&'a self, spelled: &'a str) -> Resolving<'a, (Parms, Option<String>)> {
        Box::pin(async move {
            let usage = |e: path::PathError| Error::caused(Code::Usage, e.to_string(), e);
            let path = GridPath::parse(spelled).map_err(usage)?;
            let promise = self.promise(&path.promise)?;
            let module = self.module(&promise, &path.module).await?;
            let (texts, used) = match path.rest.first().and_then(|first| first.strip_prefix('@')) {
                Some(list) => (stored_arguments(&self.kernel, &list_cid(&self.kernel, list)?)?, 1),
                None => (spelled_arguments(&module, &path.rest, spelled)?, module.levels()),
            };
            let inside = path.rest[used..].join("/");
            let Some(parms) = self.parms(promise, &module, &texts).await? else { return Ok(None) };
            Ok(Some((parms, (!inside.is_empty()).then_some(inside))))
        })
    }

    /// Makes a call, or recalls it.
    async fn call(&self, parms: Parms) -> Result<Option<Reply>> {
        let module = self.kernel.modules.get(&parms.module)?;
        if self.reach == Reach::Known {
            // What is known is told to who may call.
            self.kernel.check_rights(&self.caller.authority, &parms)?;
        }
        let reply = match (self.reach, module.runner, parms.arguments.as_slice()) {
            (Reach::Calls, ..) => Some(self.kernel.call(self.caller.clone(), parms.clone()).await?),
            // What is stored is known without a call, which would be made on another thread: too late for `now`.
            (Reach::Known, Runner::Cas, [Value::Object(cid)]) if !asks(&parms.promise) => {
                Some(Reply::stored(object(&self.kernel, *cid)?))
            }
            (Reach::Known, ..) => {
                let authority = &self.caller.authority;
                let limits = authority.lower(self.kernel.limits(&parms.promise, &module)?);
                self.kernel.known_to(authority, &parms.memo_key(&limits))?
            }
        };
        if let Some(reply) = &reply {
            let result = cid_of(&reply.result).expect("a result is a file or a directory");
            self.trace.call(parms, result, reply.until_ms)?;
            self.trace_names_of(reply)?;
        }
        Ok(reply)
    }

    /// What a nested result went by, the outer one goes by too.
    fn trace_names_of(&self, reply: &Reply) -> Result<()> {
        let (false, Some(receipt)) = (reply.immutable, reply.receipt) else { return Ok(()) };
        let receipt = Receipt::read(&self.kernel.store, &receipt)?;
        self.trace.names(receipt.map(|receipt| receipt.names).unwrap_or_default())
    }
}

/// The outcome of a resolution that may only use what is known, without a runtime.
pub fn now<T>(mut resolving: Resolving<'_, T>) -> Result<Option<T>> {
    match resolving.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(resolved) => resolved,
        Poll::Pending => Ok(None),
    }
}

/// The CID that a text spells, in any base and by any digest known here. `None`: it spells none, so it is a name.
fn spelled_cid(kernel: &Kernel, text: &str) -> Result<Option<Cid>> {
    match text.parse() {
        Ok(any) => canonical(kernel, any).map(Some),
        Err(_) => Ok(None),
    }
}

/// The one CID by which the store has what `any` names.
fn canonical(kernel: &Kernel, any: AnyCid) -> Result<Cid> {
    let digest = match any {
        AnyCid::Own(cid) => return Ok(cid),
        AnyCid::Foreign(digest) => digest,
    };
    let algorithm = digest.algorithm;
    let unknown = || {
        let why = format!(
            "this node knows no object with the {algorithm} digest {digest}; \
             `gridfs put --hash {algorithm} FILE` makes a file known by it"
        );
        Error::new(Code::Unavailable, why)
    };
    kernel.store.alias(&digest)?.ok_or_else(unknown)
}

/// Why a text that is not in the symbol table stands for nothing.
fn unknown(text: &str) -> Error {
    match text.parse::<AnyCid>() {
        Err(error) if !error.is_no_cid() => Error::caused(Code::Usage, format!("{text:?} can't be used"), error),
        _ => Error::new(
            Code::UnknownName,
            format!("there is no name {text:?}; `gridfs name list` shows the names there are"),
        ),
    }
}

/// The file or directory that a CID names, if it is stored here.
pub fn object(kernel: &Kernel, cid: Cid) -> Result<Target> {
    if crate::describe::is_tree(&kernel.store, &cid) {
        return Ok(Target::Directory { cid });
    }
    let object = kernel.store.object(&cid)?.ok_or(gridfs_store::Error::NotFound { cid })?;
    Ok(Target::File { cid, size_bytes: object.size_bytes(), executable: false })
}

/// The arguments in the components of a path.
fn spelled_arguments(module: &Description, components: &[String], spelled: &str) -> Result<Vec<String>> {
    let usage = |e: path::PathError| Error::caused(Code::Usage, e.to_string(), e);
    let levels = module.levels();
    if components.len() < levels {
        let name = &module.manifest.name;
        let why = format!("{spelled:?} stops before the last argument; {name} takes {levels} path components");
        return Err(Error::new(Code::Usage, why));
    }
    let mut texts = Vec::new();
    for component in &components[..levels - 1] {
        texts.push(path::decode(component).map_err(usage)?);
    }
    texts.extend(path::decode_component(&components[levels - 1]).map_err(usage)?);
    Ok(texts)
}

/// The list that a component `@<cid>` names, given what follows the `@`.
pub fn list_cid(kernel: &Kernel, text: &str) -> Result<Cid> {
    let any = text
        .parse()
        .map_err(|e: CidError| Error::caused(Code::Usage, format!("@{text} is not followed by a CID"), e))?;
    canonical(kernel, any)
}

/// The arguments in a stored CBOR list.
pub fn stored_arguments(kernel: &Kernel, cid: &Cid) -> Result<Vec<String>> {
    let bytes = kernel.store.read(cid, MAX_LIST_BYTES)?;
    let values: Vec<Value> = cbor::from_slice(&bytes)
        .map_err(|e| Error::caused(Code::Usage, format!("{cid} is not a list of arguments"), e))?;
    if values.len() > path::MAX_ARGUMENTS {
        return Err(Error::new(Code::Usage, format!("{cid} lists more than {} arguments", path::MAX_ARGUMENTS)));
    }
    Ok(values.iter().map(Value::text).collect())
}

/// What a running module sees as `/grid`.
pub struct GuestGrid {
    resolver: Resolver,
}

impl GuestGrid {
    /// The grid of the evaluation `asking`, whose arguments are `inputs`.
    pub fn new(kernel: Arc<Kernel>, caller: Caller, inputs: Vec<Value>) -> GuestGrid {
        GuestGrid { resolver: Resolver { kernel, caller, reach: Reach::Calls, inputs, trace: Trace::default() } }
    }

    /// What the evaluation went by so far.
    pub fn trace(&self) -> &Trace {
        &self.resolver.trace
    }

    /// What stands at a path that the guest spelled; noted as read.
    pub async fn read(&self, path: &str) -> Result<Target> {
        let target = self.resolver.path(path).await?.expect("a resolver that may call resolves everything");
        if let Some(cid) = cid_of(&target) {
            self.trace().read(path, cid)?;
        }
        Ok(target)
    }

    /// Resolves without running anything. What it goes by is not noted: no result may depend on it for longer than its call.
    fn looking(&self) -> Resolver {
        let Resolver { kernel, caller, inputs, .. } = &self.resolver;
        let (kernel, caller, inputs) = (kernel.clone(), caller.clone(), inputs.clone());
        Resolver { kernel, caller, reach: Reach::Known, inputs, trace: Trace::default() }
    }

    fn verify(&self, token: &[u8], path: &str) -> std::result::Result<(), Denial> {
        let token = match std::str::from_utf8(token) {
            // No token is that short as text, and no other that short in bytes.
            Ok(text) if token.len() != PACKED_BYTES => Token::from_text(text.trim_ascii()),
            _ => Token::from_bytes(token),
        };
        let token = token.map_err(refused)?;
        let resolver = self.looking();
        let (parms, _) = now(resolver.path_parms(path)).map_err(denied)?.ok_or(Denial::Pending)?;
        let kernel = &resolver.kernel;
        let node = kernel.identity.id();
        let roots = kernel.roots(node);
        let presented = Presented { now_ms: crate::time::now_ms(), node, holder: node, roots: &roots };
        let grant = token.verify(&presented).map_err(refused)?;
        kernel.check_rights(&Authority::Grant(Arc::new(grant)), &parms).map_err(denied)?;
        Ok(())
    }
}

impl gridfs_modules::Grid for GuestGrid {
    fn call<'a>(
        &'a self,
        path: &'a str,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<Target, gridfs_modules::NestedError>> + Send + 'a>> {
        Box::pin(async move { Ok(self.read(path).await?) })
    }

    fn verify_capability(&self, token: &[u8], path: &str) -> std::result::Result<(), Denial> {
        self.verify(token, path)
    }

    fn is_known(&self, path: &str) -> std::result::Result<bool, Denial> {
        let resolver = self.looking();
        match now(resolver.path(path)) {
            Ok(found) => Ok(found.is_some()),
            // `cas` has nothing to run: what is not stored is not known.
            Err(error) if error.code == Code::Unavailable => Ok(false),
            Err(error) => Err(denied(error)),
        }
    }
}

/// An error as a guest hears of it; what is not about its question ends the call.
fn denied(error: Error) -> Denial {
    match error.code {
        Code::NotAccepted => Denial::NoAuthority,
        Code::UnknownName | Code::Unavailable => Denial::Unknown,
        Code::Usage | Code::NotModule => Denial::Malformed,
        _ => Denial::Failed(error.into()),
    }
}

fn refused(refusal: Refusal) -> Denial {
    match refusal {
        Refusal::Early(_) | Refusal::Expired(_) => Denial::OutOfTime,
        Refusal::Signature(_) => Denial::Forged,
        refusal => match Error::from(refusal).code {
            Code::NotAccepted => Denial::NoAuthority,
            _ => Denial::Malformed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(n: usize) -> Parms {
        let cid = Cid::of(Codec::Raw, b"module");
        Parms { promise: cid, module: cid, arguments: vec![Value::Text(n.to_string())] }
    }

    #[test]
    fn a_trace_notes_each_name_call_and_path_once() {
        let (trace, cid) = (Trace::default(), Cid::of(Codec::Raw, b"x"));
        for (n, until_ms) in [(1, Some(9)), (2, Some(8)), (1, None)] {
            trace.call(call(n), cid, until_ms).unwrap();
            trace.names([("b".into(), cid), ("a".into(), cid)]).unwrap();
            trace.read(&n.to_string(), cid).unwrap();
        }
        let noted = trace.take();
        assert_eq!(noted.names.into_iter().collect::<Vec<_>>(), [("a".into(), cid), ("b".into(), cid)]);
        assert_eq!(noted.calls, [(call(1), cid), (call(2), cid)]);
        assert_eq!(noted.reads, [("1".into(), cid), ("2".into(), cid)]);
        assert_eq!(noted.until_ms, Some(8));
    }

    #[test]
    fn a_trace_has_limits() {
        let (trace, cid) = (Trace::default(), Cid::of(Codec::Raw, b"x"));
        for n in 0..MAX_NOTED {
            trace.call(call(n), cid, None).unwrap();
            trace.names([(n.to_string(), cid)]).unwrap();
            trace.read(&n.to_string(), cid).unwrap();
        }
        assert_eq!(trace.call(call(MAX_NOTED), cid, None).unwrap_err().code, Code::TimeLimit);
        assert_eq!(trace.names([("one more".into(), cid)]).unwrap_err().code, Code::TimeLimit);
        assert_eq!(trace.read("one more", cid).unwrap_err().code, Code::TimeLimit);
    }

    #[test]
    fn a_name_that_changes_during_a_call_fails_it() {
        let trace = Trace::default();
        trace.names([("a".into(), Cid::of(Codec::Raw, b"x"))]).unwrap();
        let error = trace.names([("a".into(), Cid::of(Codec::Raw, b"y"))]).unwrap_err();
        assert_eq!(
            (error.code, error.to_string().as_str()),
            (Code::Busy, "the name \"a\" was changed during the call; try again")
        );
    }
}
