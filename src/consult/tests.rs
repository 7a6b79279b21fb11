//! Consulting, and replies remembered by whole parms, through the kernel's one call path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridfs_store::{Cid, Codec, Durability, Target};
use tokio::sync::Notify;

use super::testing::kernel;
use crate::builtins::Cas;
use crate::cache::Cache;
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::kernel::{Kernel, MAX_DEPTH};
use crate::module::{Acceptance, Call, Caller, Handling, Module, Reply};
use crate::parms::{Parms, Value};
use crate::promise::Promise;
use crate::receipt::Memo;

/// Answers what it is told to, and counts.
#[derive(Default)]
struct Answering {
    asked: AtomicU64,
    handled: AtomicU64,
    mutable: bool,
    failure: Option<Code>,
    rejects: bool,
}

struct Shared(&'static str, Arc<Answering>);

impl Module for Shared {
    fn id(&self) -> &str {
        self.0
    }

    fn accept(&self, _: &Call) -> Result<Acceptance> {
        self.1.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Acceptance::of_module(!self.1.rejects))
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        self.1.handled.fetch_add(1, Ordering::Relaxed);
        let result = Target::File { cid: call.parms.module, size_bytes: 7, executable: false };
        Box::pin(std::future::ready(match self.1.failure {
            Some(code) => Err(Error::new(code, format!("as {} does", self.0))),
            None => Ok(Reply { immutable: !self.1.mutable, ..Reply::stored(result) }),
        }))
    }
}

impl Answering {
    fn counts(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.handled.load(Ordering::Relaxed))
    }
}

fn parms(promise: Cid, argument: &str) -> Parms {
    let argument = Value::Object(Cid::of(Codec::Raw, argument.as_bytes()));
    Parms { promise, module: Cas::new().cid, arguments: vec![argument] }
}

fn local(argument: &str) -> Parms {
    parms(Promise::local().cid(), argument)
}

async fn call(kernel: &Arc<Kernel>, parms: &Parms) -> Result<Reply> {
    kernel.call(Caller::default(), parms.clone()).await
}

fn consulting(modules: &[(&'static str, &Arc<Answering>)]) -> (tempfile::TempDir, Arc<Kernel>) {
    kernel(modules.iter().map(|(id, module)| Box::new(Shared(id, (*module).clone())) as Box<dyn Module>).collect())
}

#[tokio::test]
async fn a_reply_is_remembered_by_whole_parms() {
    let module = Arc::new(Answering::default());
    let (_directory, kernel) = consulting(&[("one", &module)]);
    let reply = call(&kernel, &local("x")).await.unwrap();
    assert_eq!(call(&kernel, &local("x")).await.unwrap(), reply);
    assert_eq!(module.counts(), (1, 1));
    call(&kernel, &local("y")).await.unwrap();
    call(&kernel, &parms(Promise::public().cid(), "x")).await.unwrap();
    assert_eq!((module.counts(), kernel.syscalls.leaves()), ((2, 3), 3));
    let counters = &kernel.counters;
    let counts = [&counters.calls, &counters.hits, &counters.computed, &counters.interrupted, &counters.failures];
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [4, 1, 3, 0, 0]);
}

#[tokio::test]
async fn a_remembered_reply_is_not_believed_once_anything_may_have_changed_it() {
    let module = Arc::new(Answering::default());
    let (_directory, kernel) = consulting(&[("one", &module)]);
    let (handled, parms) = (|| module.counts().1, local("x"));
    call(&kernel, &parms).await.unwrap();
    kernel.forget_replies();
    call(&kernel, &parms).await.unwrap();
    assert_eq!(handled(), 2);
    kernel.collect(true, &mut |_| ()).unwrap();
    call(&kernel, &parms).await.unwrap();
    assert_eq!(handled(), 2, "a dry run removes nothing");
    kernel.collect(false, &mut |_| ()).unwrap();
    call(&kernel, &parms).await.unwrap();
    call(&kernel, &parms).await.unwrap();
    assert_eq!(handled(), 3);
}

#[tokio::test]
async fn rights_come_before_what_is_remembered() {
    let module = Arc::new(Answering::default());
    let (_directory, kernel) = consulting(&[("one", &module)]);
    let promise = Promise::local().cid();
    call(&kernel, &local("x")).await.unwrap();
    kernel.accepted.revoke(&promise).unwrap();
    assert_eq!(call(&kernel, &local("x")).await.unwrap_err().code, Code::NotAccepted);
    kernel.accepted.accept(&promise).unwrap();
    call(&kernel, &local("x")).await.unwrap();
    assert_eq!(module.counts().1, 2);
    let caller = Caller { depth: MAX_DEPTH + 1, ..Caller::default() };
    assert_eq!(kernel.call(caller, local("x")).await.unwrap_err().code, Code::Cycle);
}

#[tokio::test]
async fn a_reply_under_a_promise_ends_with_it() {
    let module = Arc::new(Answering::default());
    let (directory, kernel) = consulting(&[("one", &module)]);
    let identity = Identity::open(&directory.path().join("keys")).unwrap();
    let now_ms = crate::time::now_ms();
    let promise = Promise { not_after: Some(now_ms + 2000), ..Promise::local() }.signed_by(&identity);
    let mut batch = kernel.store.batch();
    let cid = batch.put_bytes(Codec::DagCbor, &promise.to_bytes()).unwrap();
    let _kept = batch.commit(Durability::Durable).unwrap();
    kernel.accepted.accept(&cid).unwrap();
    // On a slow machine it may be over before the first call.
    while let Ok(reply) = call(&kernel, &parms(cid, "x")).await {
        assert_eq!(reply.result, Target::File { cid: Cas::new().cid, size_bytes: 7, executable: false });
    }
    assert!(crate::time::now_ms() >= now_ms + 2000);
    assert_eq!(call(&kernel, &parms(cid, "x")).await.unwrap_err().code, Code::NotAccepted);
}

#[tokio::test]
async fn a_reply_that_may_change_is_not_remembered() {
    let module = Arc::new(Answering { mutable: true, ..Answering::default() });
    let (_directory, kernel) = consulting(&[("one", &module)]);
    for _ in 0..3 {
        call(&kernel, &local("x")).await.unwrap();
    }
    assert_eq!((module.counts(), kernel.syscalls.leaves()), ((1, 3), 0));
}

#[tokio::test]
async fn what_one_module_can_not_answer_the_next_one_is_asked() {
    let lying = Arc::new(Answering { failure: Some(Code::Busy), ..Answering::default() });
    let good = Arc::new(Answering::default());
    let (_directory, kernel) = consulting(&[("lying", &lying), ("good", &good)]);
    for argument in ["x", "y", "z"] {
        call(&kernel, &local(argument)).await.unwrap();
    }
    assert_eq!((lying.counts(), good.counts()), ((1, 1), (1, 3)), "the second call goes around who lied");
    let tracks = &kernel.syscalls.all()[0].1;
    let record = tracks.iter().find(|track| &*track.id == "lying").unwrap().record.as_ref().unwrap();
    assert_eq!((record.kept, record.broken), (0, 1));
    assert_eq!(&*record.last_broken.as_ref().unwrap().reason, "as lying does");
}

#[tokio::test]
async fn an_answer_of_the_call_itself_is_final_and_still_a_broken_promise() {
    let failing = Arc::new(Answering { failure: Some(Code::ModuleFailed), ..Answering::default() });
    let other = Arc::new(Answering::default());
    let (_directory, kernel) = consulting(&[("failing", &failing), ("other", &other)]);
    for _ in 0..2 {
        assert_eq!(call(&kernel, &local("x")).await.unwrap_err().code, Code::ModuleFailed);
    }
    assert_eq!((failing.counts(), other.counts()), ((1, 2), (1, 0)));
    let tracks = &kernel.syscalls.all()[0].1;
    assert_eq!(tracks.iter().find_map(|track| Some(track.record.as_ref()?.broken)), Some(2));
}

#[tokio::test]
async fn who_rejects_is_skipped_and_if_all_do_the_call_fails() {
    let rejecting = Arc::new(Answering { rejects: true, ..Answering::default() });
    let (_directory, kernel) = consulting(&[("one", &rejecting)]);
    for argument in ["x", "y"] {
        let error = call(&kernel, &local(argument)).await.unwrap_err();
        assert!(error.code == Code::Unavailable && error.to_string().starts_with("no module accepts /"), "{error}");
    }
    assert_eq!(rejecting.counts(), (1, 0));
}

/// Never answers.
struct Endless(Arc<Notify>);

impl Module for Endless {
    fn id(&self) -> &str {
        "endless"
    }

    fn accept(&self, _: &Call) -> Result<Acceptance> {
        Ok(Acceptance::of_module(true))
    }

    fn handle<'a>(&'a self, _: &'a Call) -> Handling<'a> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_breaks_no_promise() {
    let handling = Arc::new(Notify::new());
    let (_directory, kernel) = kernel(vec![Box::new(Endless(handling.clone()))]);
    let calling = tokio::spawn({
        let kernel = kernel.clone();
        async move { call(&kernel, &local("x")).await }
    });
    handling.notified().await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(kernel.counters.interrupted.load(Ordering::Relaxed), 1);
    let nodes = kernel.syscalls.all();
    assert!(nodes.iter().all(|(_, tracks)| tracks.iter().all(|track| track.record.is_none())), "{nodes:?}");
}

#[tokio::test]
async fn of_equals_the_first_of_the_node_is_tried_first() {
    let (builtin, other) = (Arc::new(Answering::default()), Arc::new(Answering::default()));
    let (_directory, kernel) = consulting(&[("builtin", &builtin), ("other", &other)]);
    call(&kernel, &local("x")).await.unwrap();
    assert_eq!((builtin.counts(), other.counts()), ((1, 1), (1, 0)));
}

#[tokio::test]
async fn the_local_cache_is_a_module_like_any_other() {
    let other = Arc::new(Answering::default());
    let (_directory, kernel) = kernel(vec![Box::new(Shared("other", other.clone())), Box::new(Cache)]);
    let parms = local("x");
    let limits = kernel.limits(&parms.promise, &kernel.modules.get(&parms.module).unwrap()).unwrap();
    let mut batch = kernel.store.batch();
    let result = batch.put_bytes(Codec::Raw, b"known").unwrap();
    let receipt = batch.put_bytes(Codec::DagCbor, b"\xa0").unwrap();
    let memo = Memo { v: 1, size: Some(5), named: true, result, receipt, time_ms: None, until_ms: None };
    batch.put_memo(parms.memo_key(&limits), b"", &memo.to_bytes()).unwrap();
    batch.put_memo(local("y").memo_key(&limits), b"", &Memo { named: false, ..memo }.to_bytes()).unwrap();
    let _kept = batch.commit(Durability::Durable).unwrap();
    let known = call(&kernel, &local("y")).await.unwrap();
    assert_eq!((known.result, known.immutable), (memo.target(), true));
    assert_eq!(other.counts(), (0, 0), "what is known needs nobody else");
    // A memo that can't be judged is an error, never a miss.
    assert_eq!(call(&kernel, &parms).await.unwrap_err().code, Code::Corrupt);
}
