//! Calls that one node runs for another.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use gridfs::capability::Token;
use gridfs::parms::{Parms, Value};
use gridfs_p2p::{
    Answers, CallAnswer, CallRequest, Code, Config, Error, Fetch, Head, Kind, Limits, Network, PeerId, Refusal,
};
use gridfs_store::{Durability, Hash};

use super::*;
use crate::common::{ENDLESS, LOOPBACK, end_of, noise};

/// For a slow, loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that listens, and runs so many calls at a time for its peers.
fn running(calls: usize) -> Node {
    let node = Node::new();
    std::fs::create_dir_all(node.home()).unwrap();
    std::fs::write(node.home().join("config.toml"), format!("[peers]\nrun = {calls}\n")).unwrap();
    node.serve();
    node
}

/// A token of `node` for `other`.
fn grant(node: &Node, other: &Node, prefix: &str) -> String {
    node.gridfs(["cap", "grant", "--to", &other.id(), "--prefix", prefix]).ok().trim().to_owned()
}

#[test]
fn a_token_has_calls_run_where_it_holds() {
    let (a, c) = (running(2), Node::mounted());
    a.put("words.txt", "one two three\n");
    let words = a.cid("words.txt");
    let promise = promised(&a, &[&c], &["--capability", "--source", "fetch", "--trust", &a.id()]);
    c.meet(&a);
    let counts = a.grid(["wc", "words.txt"]).ok();

    // The words never leave a, and c runs nothing.
    let token = grant(&a, &c, "/team/wc");
    let call = |token: &str, arguments: &[&str]| c.grid(["--cap", token, "-p", &promise].iter().chain(arguments));
    assert_eq!(call(&token, &["wc", &words]).ok(), counts);
    assert_eq!(call(&token, &["wc", &words]).ok(), counts, "it is remembered here");
    assert_eq!((a.stat("served"), c.stat("claimed"), c.stat("runs")), (1, 1, 0));
    let (_, error) = c.gridfs(["get", &words]).failed();
    assert!(error.contains("not stored") || error.contains(&words), "{error}");
    // Both keep account of it.
    let shown = a.gridfs(["peer", "show", &c.id()]).ok();
    assert!(shown.contains("run for it here: 1 calls, and 0 that failed"), "{shown}");
    let ledger = a.gridfs(["promise", "ledger"]).ok();
    assert!(ledger.lines().any(|line| line.ends_with("  wasm") && line.contains("broken        0")), "{ledger}");
    let ledger = c.gridfs(["promise", "ledger"]).ok();
    assert!(ledger.lines().any(|line| line.contains("kept        1") && line.contains(&a.id())), "{ledger}");

    // What c gives for the call a may read meanwhile.
    let own = c.put("own.txt", "four five\n");
    assert_eq!(call(&token, &["wc", own.to_str().unwrap(), "-w"]).ok(), "2\n");
    assert_eq!((a.stat("served"), c.stat("runs")), (2, 0));

    // A token that is too narrow, and one for a promise under which nobody else is asked.
    let (status, error) = call(&token, &["sha256", &words]).failed();
    assert!(status == 1 && error.contains("no authority for /bafyr"), "{error}");
    let (status, error) = c.grid(["--cap", &token, "wc", &words]).failed();
    assert!(status == 1 && error.contains("calls under this promise are made here alone"), "{error}");
    // Without one, a refuses: c itself has neither the words nor the right to have a run anything.
    let (status, error) = c.grid(["-p", &promise, "sha256", &words]).failed();
    assert!(status == 13 && error.contains("demands a capability"), "{error}");
    assert_eq!(a.stat("served"), 2);
    // What fails there, failed.
    let token = grant(&a, &c, "/team/grep");
    let (status, error) = call(&token, &["grep", "(", &words]).failed();
    assert!(status == 11 && error.contains("unclosed group"), "{error}");
    let shown = a.gridfs(["peer", "show", &c.id()]).ok();
    assert!(shown.contains("run for it here: 2 calls, and 1 that failed"), "{shown}");
    // Without a daemon of its own c has it done all the same.
    c.umount();
    assert_eq!(call(&grant(&a, &c, "/team/sha256"), &["sha256", &words]).ok(), a.grid(["sha256", "words.txt"]).ok());
    a.stop();
}

#[test]
fn what_can_not_be_run_here_is_run_by_a_peer() {
    let (a, c) = (helpful(), hindered());
    let promise = promised(&a, &[&c], &["--source", "fetch", "--trust", &a.id()]);
    c.meet(&a);
    let path = format!("{promise}/sha256/{}", c.cid("noise"));
    assert_eq!(c.read(&path), a.grid(["sha256", "noise"]).ok());
    assert_eq!((c.stat("claimed"), a.stat("served")), (1, 1));
    a.stop();
}

/// Flips a bit of what lies in the packs of a node that does not run.
fn damage(node: &Node, bytes: &[u8]) {
    let packs = std::fs::read_dir(node.home().join("cache/packs")).unwrap().map(|entry| entry.unwrap().path());
    let mut found = false;
    for pack in packs {
        let mut content = std::fs::read(&pack).unwrap();
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            content[at] ^= 1;
            std::fs::write(&pack, content).unwrap();
            found = true;
        }
    }
    assert!(found, "it is stored plain");
}

/// A node that has a file, shares it and runs calls for peers.
fn helpful() -> Node {
    let node = running(1);
    node.put("noise", noise(7, 300_000));
    node.gridfs(["share", "noise"]).ok();
    node
}

/// A mounted node that has the same file and can't read it.
fn hindered() -> Node {
    let (node, noise) = (Node::new(), noise(7, 300_000));
    node.put("noise", &noise);
    damage(&node, &noise[100_000..100_064]);
    node.mount();
    node
}

/// A promise that believes what two of these nodes agree on.
fn agreed(node: &Node, others: &[&Node], trusted: &[&Node]) -> String {
    let ids: Vec<String> = trusted.iter().map(|node| node.id()).collect();
    let trust = ids.iter().flat_map(|id| ["--trust", id]);
    promised(node, others, &["--source", "fetch", "--agree", "2"].into_iter().chain(trust).collect::<Vec<_>>())
}

#[test]
fn a_call_is_run_by_as_many_as_must_agree() {
    let (a, b, d, c) = (helpful(), helpful(), helpful(), hindered());
    let runners = [&a, &b, &d];
    let promise = agreed(&c, &runners, &runners);
    runners.iter().for_each(|node| c.meet(node));
    let noise = c.cid("noise");
    let served = |nodes: &[&Node]| nodes.iter().map(|node| node.stat("served")).sum::<u64>();
    assert_eq!(c.read(&format!("{promise}/sha256/{noise}")), a.grid(["sha256", "noise"]).ok());
    assert_eq!((c.stat("claimed"), served(&runners)), (1, 2), "the third is not asked");
    // With one of them gone it takes the two others.
    a.stop();
    let before = served(&[&b, &d]);
    assert_eq!(c.read(&format!("{promise}/wc/{noise}")), b.grid(["wc", "noise"]).ok());
    assert_eq!((c.stat("claimed"), served(&[&b, &d])), (2, before + 2));
    // The word of one is not enough.
    b.stop();
    let (status, error) = c.grid(["-p", &promise, "wc", &noise, "-l"]).failed();
    assert_eq!((status, c.stat("claimed")), (13, 2), "{error}");
    d.stop();
}

#[test]
fn of_claims_that_differ_the_one_counts_that_enough_agree_on() {
    let (a, b, liar, c) = (helpful(), helpful(), Node::new(), hindered());
    liar.put("noise", noise(7, 300_000));
    let two = agreed(&liar, &[&a, &c], &[&a, &liar]);
    let three = agreed(&liar, &[&a, &b, &c], &[&a, &b, &liar]);
    let paths = [&two, &three].map(|promise| {
        liar.grid(["-p", promise, "sha256", "noise"]).ok();
        liar.grid(["--path", "-p", promise, "sha256", "noise"]).ok()
    });
    lies(&liar, b"a lie\n");
    let claims = paths.map(|path| claim_at(&liar, path.trim()));
    let ids = [a.id(), liar.id()];
    let stub = Stub::of(&liar);
    [&a, &b].iter().for_each(|node| c.meet(node));
    c.gridfs(["peer", "add", &stub.address()]).ok();
    let call = |promise: &str, claim: &(Cid, Vec<u8>)| {
        stub.says(claim.0, &claim.1);
        c.grid(["-p", promise, "sha256", &c.cid("noise")])
    };
    // One says this, one says that: neither is believed, nor known to lie.
    let (status, error) = call(&two, &claims[0]).failed();
    assert!(status == 13 && error.contains("the promise believes self, or 2 of 2 listed keys"), "{error}");
    assert!(ids.iter().all(|id| error.contains(id)), "{error}");
    assert!(ids.iter().all(|id| !c.gridfs(["peer", "show", id]).ok().contains("not believed")));
    assert_eq!(c.stat("claimed"), 0);
    // A third decides.
    assert_eq!(call(&three, &claims[1]).ok(), a.grid(["sha256", "noise"]).ok());
    assert_eq!(c.stat("claimed"), 1);
    a.stop();
    b.stop();
}

#[test]
fn under_race_a_peer_is_asked_while_the_call_runs_here() {
    let (a, c) = (running(1), Node::mounted());
    [&a, &c].iter().for_each(|node| node.add_wat("endless", ENDLESS, None));
    let promise = promised(&a, &[&c], &["--source", "race", "--trust", &a.id()]);
    c.meet(&a);
    let mut waiting = c.spawn("grid", &["-p", &promise, "endless"]);
    wait_for("both to run it", || a.stat("running") == 1 && c.stat("running") == 1);
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!end_of(&mut waiting).success());
    wait_for("both to end", || a.stat("running") == 0 && c.stat("running") == 0);
    a.stop();
}

#[test]
fn under_race_the_first_answer_counts() {
    let (a, c) = (Node::new(), Node::mounted());
    [&a, &c].iter().for_each(|node| node.add_wat("slow", SLOW, None));
    let promise = promised(&a, &[&c], &["--source", "race", "--trust", &a.id()]);
    let slow = a.cid("slow");
    a.grid(["-p", &promise, &slow]).ok();
    lies(&a, b"the word of a\n");
    let path = a.grid(["--path", "-p", &promise, &slow]).ok();
    let (result, claim) = claim_at(&a, path.trim());
    let stub = Stub::of(&a);
    c.gridfs(["peer", "add", &stub.address()]).ok();
    // What can't be had there is made here.
    let words = c.put("words.txt", "one two three\n");
    let counted = c.grid(["wc", words.to_str().unwrap(), "-w"]).ok();
    assert_eq!(c.grid(["-p", &promise, "wc", words.to_str().unwrap(), "-w"]).ok(), counted);
    assert_eq!(c.stat("claimed"), 0);
    // What is there at once is not waited for here.
    stub.says(result, &claim);
    assert_eq!(c.grid(["-p", &promise, &slow]).ok(), "the word of a\n");
    assert_eq!(c.stat("claimed"), 1);
    wait_for("the run here to be given up", || c.stat("running") == 0);
}

#[test]
fn nothing_is_run_for_peers_unless_the_owner_lets_it() {
    let (a, c) = (serving(), Node::mounted());
    a.put("words.txt", "one two three\n");
    let promise = promised(&a, &[&c], &["--source", "fetch", "--trust", &a.id()]);
    c.meet(&a);
    let token = grant(&a, &c, "/team");
    let (status, error) = c.grid(["--cap", &token, "-p", &promise, "wc", &a.cid("words.txt")]).failed();
    assert!(status == 13 && error.contains("runs none for peers"), "{error}");
    assert_eq!((a.stat("served"), a.stat("runs")), (0, 0));
    a.stop();
    std::fs::write(a.home().join("config.toml"), "[peers]\nrun = 17\n").unwrap();
    let (_, error) = a.gridfs(["serve"]).failed();
    assert!(error.contains("run = 17 is more than 16"), "{error}");
}

#[test]
fn a_run_ends_when_nobody_waits_for_it_and_one_too_many_is_refused() {
    let (a, c) = (running(1), Node::mounted());
    for node in [&a, &c] {
        node.add_wat("endless", ENDLESS, None);
    }
    c.put("words.txt", "one two three\n");
    let promise = promised(&a, &[&c], &["--source", "fetch", "--trust", &a.id()]);
    c.meet(&a);
    let token = grant(&a, &c, "/team");
    let mut waiting = c.spawn("grid", &["--cap", &token, "-p", &promise, "endless"]);
    wait_for("the run to begin", || a.stat("running") == 1);
    let count = || c.grid(["--cap", &token, "-p", &promise, "wc", "words.txt", "-w"]);
    let (status, error) = count().failed();
    assert!(status == 1 && error.contains("as many calls for peers as it may"), "{error}");
    // Its own calls it makes all the same.
    assert_eq!(a.grid(["head", c.scratch("words.txt").to_str().unwrap()]).ok(), "one two three\n");
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!end_of(&mut waiting).success());
    wait_for("the run to end", || a.stat("running") == 0);
    wait_for("its place to be free", || count().status == 0);
    assert!(a.gridfs(["peer", "show", &c.id()]).ok().contains("run for it here: 1 calls, and 0 that failed"));
    a.stop();
}

type Answered<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers every call alike, and lets everybody read some objects.
#[derive(Default)]
pub(super) struct Canned {
    answer: Mutex<Option<CallAnswer>>,
    shared: Mutex<HashSet<Cid>>,
    pub(super) head: Mutex<Option<Head>>,
}

impl Answers for Canned {
    fn call(&self, _: PeerId, _: CallRequest) -> Answered<Result<CallAnswer, Refusal>> {
        let answer = self.answer.lock().unwrap().clone();
        Box::pin(std::future::ready(answer.ok_or_else(|| Refusal::new(Code::Busy, "as tested"))))
    }

    fn claims(&self, _: PeerId, _: Hash) -> Answered<Vec<Vec<u8>>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn head(&self, _: PeerId, _: [u8; 32]) -> Answered<Option<Head>> {
        Box::pin(std::future::ready(self.head.lock().unwrap().clone()))
    }

    fn may_read(&self, _: PeerId, cid: &Cid) -> bool {
        self.shared.lock().unwrap().contains(cid)
    }
}

/// A peer with the key and the store of a node that does not run, which says what the test has it say.
pub(super) struct Stub {
    pub(super) canned: Arc<Canned>,
    network: Network,
    runtime: tokio::runtime::Runtime,
}

impl Stub {
    pub(super) fn of(node: &Node) -> Stub {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = Arc::new(Store::open(&node.home().join("cache"), Options::default()).unwrap());
        let seed = std::fs::read(node.home().join("keys/node")).unwrap().try_into().unwrap();
        let canned = Arc::new(Canned::default());
        let config = Config {
            seed,
            listen: vec![LOOPBACK.parse().unwrap()],
            dir: node.home().join("peers"),
            grid: None,
            allow: None,
            mdns: false,
            relay: false,
            limits: Limits { patience: PATIENCE, connect: PATIENCE, ..Limits::default() },
        };
        let network = runtime.block_on(Network::start(config, store, canned.clone())).unwrap();
        Stub { canned, network, runtime }
    }

    /// Answers all calls with this result, which it shares, and this claim to it.
    fn says(&self, result: Cid, claim: &[u8]) {
        self.canned.shared.lock().unwrap().insert(result);
        let answer = CallAnswer { result, kind: Kind::File, size_bytes: 1, claim: claim.to_vec() };
        *self.canned.answer.lock().unwrap() = Some(answer);
    }

    pub(super) fn address(&self) -> String {
        format!("{}/p2p/{}", self.network.addresses()[0], self.network.id())
    }

    pub(super) fn meet(&self, node: &Node) -> PeerId {
        let (peer, address) = gridfs::peers::split(&node.address()).unwrap();
        self.runtime.block_on(self.network.connect(peer, &[address])).unwrap();
        peer
    }

    fn fetch(&self, node: &Node, cid: Cid) -> Result<(), Error> {
        let wanted = Fetch {
            cid,
            providers: vec![self.meet(node)],
            max_bytes: 1 << 20,
            durability: Durability::Durable,
            progress: None,
        };
        self.runtime.block_on(self.network.fetch(wanted)).map(drop)
    }

    /// Has a node make a call; its answer, or why it refuses.
    fn call(&self, node: &Node, parms: &Parms, token: Option<&str>) -> Result<CallAnswer, Refusal> {
        let peer = self.meet(node);
        let token = token.map(|text| Token::from_text(text).unwrap().to_bytes());
        let request = CallRequest { parms: parms.to_bytes(), promise: parms.promise, token, deadline: PATIENCE };
        match self.runtime.block_on(self.network.call(peer, request)) {
            Ok(answer) => Ok(answer),
            Err(Error::Refused { refusal, .. }) => Err(refusal),
            Err(other) => panic!("{other}"),
        }
    }
}

fn parms(promise: &str, module: &str, argument: Value) -> Parms {
    Parms { promise: promise.parse().unwrap(), module: module.parse().unwrap(), arguments: vec![argument] }
}

#[track_caller]
fn refused(answer: Result<CallAnswer, Refusal>, code: Code, words: &str) {
    let refusal = answer.unwrap_err();
    assert!(refusal.code == code && refusal.words.contains(words), "{refusal}");
}

#[test]
fn a_call_gives_a_peer_nothing_that_it_could_not_read() {
    let (a, other) = (running(2), Node::new());
    a.put("secret", "nobody's business\n");
    a.put("open", "everybody's\n");
    a.gridfs(["share", "open"]).ok();
    a.add_example("shout", "c/shout.toml");
    let (secret, open, wc, shout) = (a.cid("secret"), a.cid("open"), a.cid("wc"), a.cid("shout"));
    let trusting = ["--source", "fetch", "--trust", &a.id()];
    let promise = promised(&a, &[], &trusting);
    let guarded = ["promise", "new", "--name", "few", "--text", "For few.", "--share", "--capability"];
    a.gridfs(guarded.iter().chain(&trusting)).ok();
    let few = a.cid("few");
    other.put("given", "six seven eight\n");
    let (given, who) = (other.cid("given"), other.id());
    let token = a.gridfs(["cap", "grant", "--to", &who, "--prefix", "/few/wc"]).ok().trim().to_owned();
    let stolen = grant(&a, &a, "/few");
    let stub = Stub::of(&other);
    let object = |cid: &str| Value::Object(cid.parse().unwrap());

    // Neither as an argument, nor by what a module opens, whether by its name or by its CID.
    refused(stub.call(&a, &parms(&promise, &wc, object(&secret)), None), Code::Unknown, "is not shared here");
    let by_name = Value::Text("/grid/local/cas/secret".into());
    refused(stub.call(&a, &parms(&promise, &shout, by_name), None), Code::Unknown, "there is no name \"local\"");
    let below = |what: &str| Value::Text(format!("/grid/{promise}/{}/{what}", a.cid("cas")));
    refused(stub.call(&a, &parms(&promise, &shout, below(&secret)), None), Code::NotAccepted, "is neither shared here");
    stub.call(&a, &parms(&promise, &shout, below(&open)), None).unwrap();
    stub.call(&a, &parms(&promise, &wc, object(&open)), None).unwrap();
    // What the peer gives, it may call on.
    refused(stub.call(&a, &parms(&promise, &wc, object(&given)), None), Code::Unknown, "is not shared here");
    stub.canned.shared.lock().unwrap().insert(given.parse().unwrap());
    stub.call(&a, &parms(&promise, &wc, object(&given)), None).unwrap();
    // Under promises that do not name a, or need a right that the peer does not have.
    refused(stub.call(&a, &parms(&a.cid("pub"), &wc, object(&open)), None), Code::NotAccepted, "does not believe");
    refused(stub.call(&a, &parms(&a.cid("local"), &wc, object(&open)), None), Code::NotAccepted, "not answered to");
    refused(stub.call(&a, &parms(&few, &wc, object(&open)), None), Code::NoAuthority, "demands a capability");
    let sort = a.cid("sort");
    refused(stub.call(&a, &parms(&few, &sort, object(&open)), Some(&token)), Code::NoAuthority, "the token covers");
    refused(stub.call(&a, &parms(&few, &wc, object(&open)), Some(&stolen)), Code::NoAuthority, "was given to");
    // A token is for what lies there, shared or not.
    let counts = stub.call(&a, &parms(&few, &wc, object(&secret)), Some(&token)).unwrap();
    // Its result is for who had the right to the call: nobody else hears of it, or may read it. What is announced:
    // what is shared, key and result of four calls, and the key of the one that was nested.
    stub.call(&a, &parms(&promise, &a.cid("sha256"), object(&open)), None).unwrap();
    announced(&a, 10);
    assert_eq!(a.seen()["announced_keys"].as_u64(), Some(10));
    stub.fetch(&a, counts.result).unwrap();
    let stranger = Node::new();
    stranger.gridfs(["init"]).ok();
    let error = Stub::of(&stranger).fetch(&a, counts.result).unwrap_err().to_string();
    assert!(error.contains("is not shared here"), "{error}");
    a.stop();
}

#[test]
fn what_a_runner_claims_counts_only_as_its_own_word() {
    let (a, liar, c) = (Node::new(), Node::new(), Node::mounted());
    for node in [&a, &liar] {
        node.put("words.txt", "one two three\n");
    }
    let words = a.cid("words.txt");
    let promise = promised(&liar, &[&a, &c], &["--source", "fetch", "--trust", &liar.id()]);
    let token = grant(&liar, &c, "/team");
    let counts = liar.grid(["-p", &promise, "wc", "words.txt"]).ok();
    let claim = |node: &Node, option: &str| {
        node.grid(["-p", &promise, "wc", "words.txt", option]).ok();
        let path = node.grid(["--path", "-p", &promise, "wc", "words.txt", option]).ok();
        claim_at(node, path.trim())
    };
    let (anothers, mut changed) = (claim(&a, "-c"), claim(&liar, "-l"));
    *changed.1.last_mut().unwrap() ^= 1;
    let good = claim_at(&liar, liar.grid(["--path", "-p", &promise, "wc", "words.txt"]).ok().trim());
    let stub = Stub::of(&liar);
    c.gridfs(["peer", "add", &stub.address()]).ok();
    let call = |options: &[&str]| c.grid(["--cap", &token, "-p", &promise, "wc", &words].iter().chain(options));
    // What nobody gave is not asked for again at once, so each is another call.
    stub.says(good.0, &anothers.1);
    let (status, error) = call(&["-c"]).failed();
    assert!(status == 13 && error.contains("the promise believes self, or 1 of 1 listed keys"), "{error}");
    for (claim, option, words) in
        [(&changed.1, "-l", "it is not signed by its issuer"), (&good.1, "-w", "it is for another call")]
    {
        stub.says(good.0, claim);
        let (status, error) = call(&[option]).failed();
        assert!(status == 13 && error.contains("no peer that was asked claims a result"), "{error}");
        let ledger = c.gridfs(["promise", "ledger"]).ok();
        assert!(ledger.contains(words), "{ledger}");
    }
    assert_eq!(c.stat("claimed"), 0);
    stub.says(good.0, &good.1);
    assert_eq!(call(&[]).ok(), counts);
    assert_eq!((c.stat("claimed"), c.stat("runs")), (1, 0));
}

/// The result and the claim that a node that does not run remembers of a call.
fn claim_at(node: &Node, path: &str) -> (Cid, Vec<u8>) {
    let store = Arc::new(Store::open(&node.home().join("cache"), Options::default()).unwrap());
    let label = path.trim_start_matches('/');
    let (found, key) = store.memos(label.as_bytes()).unwrap().next().unwrap().unwrap();
    assert_eq!(found, label.as_bytes());
    let memo: Memo = cbor::from_slice(&store.memo(&key).unwrap().unwrap()).unwrap();
    (memo.result, store.read(&memo.receipt, 1 << 20).unwrap())
}
