//! The consult loop and the syscall tree against a naive reference: random messages, and modules that accept, reject, lie
//! (accept, then fail), fail and recover.
//!
//! A million messages: `GRIDFS_MESSAGES=1000000 cargo test --lib consult::model -- --nocapture`; `GRIDFS_SEED` is another one.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gridfs_modules::Limits;
use gridfs_store::{Cid, Codec, Hash, Target};
use tokio::sync::Notify;

use super::testing::kernel;
use crate::dice::Dice;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::module::{Acceptance, Call, Caller, Handling, Module, Reply};
use crate::parms::{Parms, Value};
use crate::promise::Promise;
use crate::syscalls::{ANSWER_MS, HALF_LIFE_MS};

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const PROMISES: u64 = 3;
const MODULES: u64 = 4;
/// Where the naive reference draws the line between who keeps and who breaks: half of the worst.
const DOUBT: u32 = 32_768;

/// What a module does with the calls of one module under one promise.
#[derive(Clone, Copy, Debug)]
struct Conduct {
    accepts: bool,
    /// How a call that was accepted ends.
    end: End,
    /// How many leading parms it says so about.
    about: Option<usize>,
    takes_us: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Kept,
    /// The module is to blame.
    Lie,
    /// The call is to blame.
    Failure,
    GivenUp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    Asked(usize),
    Handled(usize),
}

#[derive(Default)]
struct World {
    conduct: Mutex<HashMap<(usize, Cid, Cid), Conduct>>,
    events: Mutex<Vec<Event>>,
    now_us: AtomicU64,
}

impl World {
    fn conduct(&self, module: usize, parms: &Parms) -> Conduct {
        self.conduct.lock().unwrap()[&(module, parms.promise, parms.module)]
    }

    fn pass(&self, us: u64) {
        self.now_us.fetch_add(us, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.now_us.load(Ordering::Relaxed))
    }
}

struct Fake {
    number: usize,
    world: Arc<World>,
}

impl Module for Fake {
    fn id(&self) -> &str {
        IDS[self.number]
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        self.world.events.lock().unwrap().push(Event::Asked(self.number));
        let Conduct { accepts, about, .. } = self.world.conduct(self.number, &call.parms);
        Ok(Acceptance { accepts, about })
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        self.world.events.lock().unwrap().push(Event::Handled(self.number));
        let conduct = self.world.conduct(self.number, &call.parms);
        self.world.pass(conduct.takes_us);
        Box::pin(std::future::ready(outcome(self.number, conduct.end)))
    }
}

fn outcome(module: usize, end: End) -> Result<Reply> {
    let failed = |code| Err(Error::new(code, IDS[module]));
    match end {
        End::Kept => {
            let cid = Cid::of(Codec::Raw, IDS[module].as_bytes());
            let result = Target::File { cid, size_bytes: 1, executable: false };
            Ok(Reply::stored(result))
        }
        End::Lie => failed(Code::Unavailable),
        End::Failure => failed(Code::ModuleFailed),
        End::GivenUp => failed(Code::Interrupted),
    }
}

/// What the tree should know, as lists of what happened.
#[derive(Default)]
struct Reference {
    /// Module and prefix: accepted or rejected, and when.
    answers: HashMap<(usize, Vec<Value>), (bool, u64)>,
    /// Module, promise and called module: loss, and since when.
    losses: HashMap<(usize, Cid, Cid), (u32, u64)>,
    /// How often in a row a module was tried first and lied while another could be relied on, and when it last was.
    lies: HashMap<(usize, Cid, Cid), (u32, u64)>,
    /// How often in a row a module has kept its promise.
    kept: HashMap<(usize, Cid, Cid), u32>,
}

fn path(parms: &Parms) -> Vec<Value> {
    let mut path = vec![Value::Object(parms.promise), Value::Object(parms.module)];
    path.extend(parms.arguments.iter().cloned());
    path
}

impl Reference {
    fn call(&mut self, world: &World, parms: &Parms, now_us: &mut u64) -> (Vec<Event>, Result<Reply>) {
        let (path, mut events) = (path(parms), Vec::new());
        let asked_ms = *now_us / 1000;
        let mut accepters: Vec<(u32, i64, u32, usize)> = Vec::new();
        for module in 0..IDS.len() {
            let (accepts, about) = self.answer(world, module, parms, &path, asked_ms, &mut events);
            let loss = self.loss(module, parms, asked_ms);
            if accepts {
                accepters.push((loss.max(DOUBT), -(about as i64), loss, module));
            }
        }
        accepters.sort();
        let order: Vec<usize> = accepters.into_iter().map(|(_, _, _, module)| module).collect();
        self.check_routing(world, parms, &order, asked_ms);
        let mut last = None;
        for module in order {
            let conduct = world.conduct(module, parms);
            events.push(Event::Handled(module));
            *now_us += conduct.takes_us;
            let now_ms = *now_us / 1000;
            let key = (module, parms.promise, parms.module);
            let loss = self.loss(module, parms, now_ms);
            match conduct.end {
                End::Kept => {
                    // A sixty-fourth of the doubt for each doubling of the time it took.
                    let slow = (0..).take_while(|doublings| 2u64 << doublings <= conduct.takes_us).count() as u32;
                    self.losses.insert(key, ((loss + slow * (DOUBT / 64)) / 2, now_ms));
                    *self.kept.entry(key).or_default() += 1;
                }
                End::Lie => {
                    self.losses.insert(key, ((loss + 2 * DOUBT) / 2, now_ms));
                    self.kept.insert(key, 0);
                }
                End::Failure | End::GivenUp => {}
            }
            last = Some(outcome(module, conduct.end));
            if conduct.end != End::Lie {
                break;
            }
        }
        (events, last.unwrap_or_else(|| Err(Error::new(Code::Unavailable, "nobody"))))
    }

    fn answer(
        &mut self,
        world: &World,
        module: usize,
        parms: &Parms,
        path: &[Value],
        now_ms: u64,
        events: &mut Vec<Event>,
    ) -> (bool, usize) {
        for about in (0..=path.len()).rev() {
            match self.answers.get(&(module, path[..about].to_vec())) {
                Some((accepts, then_ms)) if now_ms - then_ms < ANSWER_MS => return (*accepts, about),
                _ => {}
            }
        }
        events.push(Event::Asked(module));
        let Conduct { accepts, about, .. } = world.conduct(module, parms);
        if let Some(about) = about.filter(|about| *about <= path.len()) {
            self.answers.insert((module, path[..about].to_vec()), (accepts, now_ms));
        }
        (accepts, about.unwrap_or(1 << 30))
    }

    fn loss(&self, module: usize, parms: &Parms, now_ms: u64) -> u32 {
        let (loss, since_ms) = self.losses.get(&(module, parms.promise, parms.module)).copied().unwrap_or_default();
        let halvings = (now_ms - since_ms) / HALF_LIFE_MS;
        (0..halvings.min(32)).fold(loss, |loss, _| loss / 2)
    }

    /// Whoever lies is tried first at most three times in a row while there is one to rely on.
    fn check_routing(&mut self, world: &World, parms: &Parms, order: &[usize], now_ms: u64) {
        let key = |module| (module, parms.promise, parms.module);
        let relied_on = |module: &usize| {
            self.kept.get(&key(*module)).is_some_and(|kept| *kept >= 3)
                && world.conduct(*module, parms).end == End::Kept
        };
        let Some((first, others)) = order.split_first() else { return };
        if world.conduct(*first, parms).end != End::Lie || !others.iter().any(relied_on) {
            return;
        }
        let (count, since_ms) = self.lies.entry(key(*first)).or_default();
        *count = if now_ms - *since_ms < HALF_LIFE_MS { *count + 1 } else { 1 };
        *since_ms = now_ms;
        assert!(*count <= 3, "{} has lied {count} times", IDS[*first]);
    }
}

/// No module that has rejected is asked before its answer is old.
#[derive(Default)]
struct Rejections(HashMap<(usize, Vec<Value>), u64>);

impl Rejections {
    fn check(&mut self, world: &World, parms: &Parms, events: &[Event], now_ms: u64) {
        let path = path(parms);
        for event in events {
            let Event::Asked(module) = *event else { continue };
            for about in 0..=path.len() {
                if let Some(then_ms) = self.0.get(&(module, path[..about].to_vec())) {
                    assert!(now_ms - then_ms >= ANSWER_MS, "{} was asked again", IDS[module]);
                }
            }
            let conduct = world.conduct(module, parms);
            if let (false, Some(about)) = (conduct.accepts, conduct.about.filter(|about| *about <= path.len())) {
                self.0.insert((module, path[..about].to_vec()), now_ms);
            }
        }
    }
}

fn conduct(dice: &mut Dice) -> Conduct {
    let about = match dice.below(8) {
        0 => None,
        1 => Some(dice.below(2) as usize),
        n => Some(2 + n as usize % 3),
    };
    let end = [End::Kept, End::Kept, End::Kept, End::Lie, End::Lie, End::Failure, End::GivenUp];
    Conduct { accepts: !dice.one_in(3), end: *dice.pick(&end), about, takes_us: 1 << dice.below(22) }
}

fn parms(dice: &mut Dice) -> Parms {
    let cid = |codec, kind: &str, number: u64| Cid::of(codec, format!("{kind} {number}").as_bytes());
    let arguments = (0..dice.below(4)).map(|_| Value::Text(dice.below(5).to_string())).collect();
    Parms {
        promise: cid(Codec::DagCbor, "promise", dice.below(PROMISES)),
        module: cid(Codec::Raw, "module", dice.below(MODULES)),
        arguments,
    }
}

fn call(kernel: &Arc<Kernel>, promise: &Arc<Promise>, parms: Parms) -> Call {
    let limits = Limits { fuel: 1, wall_ms: 1, memory_bytes: 1, output_bytes: 1 };
    Call {
        parms,
        key: Hash([0; 32]),
        limits,
        module: kernel.modules.get(&crate::builtins::Cas::new().cid).unwrap(),
        promise: promise.clone(),
        caller: Caller::default(),
        again: false,
        urgent: Arc::new(Notify::new()),
        kernel: kernel.clone(),
    }
}

#[tokio::test]
async fn the_tree_learns_what_a_naive_reference_learns() {
    let messages: u64 = std::env::var("GRIDFS_MESSAGES").map_or(30_000, |text| text.parse().expect("a number"));
    let seed = std::env::var("GRIDFS_SEED").map_or(1, |text| text.parse().expect("a seed"));
    eprintln!("seed {seed}, {messages} messages");
    let (mut dice, world) = (Dice::new(seed), Arc::new(World::default()));
    world.pass(1_700_000_000_000_000);
    let fakes = (0..IDS.len()).map(|number| Box::new(Fake { number, world: world.clone() }) as Box<dyn Module>);
    let (_directory, kernel) = kernel(fakes.collect());
    let promise = Arc::new(Promise::local());
    for module in 0..IDS.len() {
        for promise in 0..PROMISES {
            for called in 0..MODULES {
                let promise = Cid::of(Codec::DagCbor, format!("promise {promise}").as_bytes());
                let called = Cid::of(Codec::Raw, format!("module {called}").as_bytes());
                world.conduct.lock().unwrap().insert((module, promise, called), conduct(&mut dice));
            }
        }
    }
    let (mut reference, mut rejections) = (Reference::default(), Rejections::default());
    let (mut kept, mut failed, mut handed_on) = (0, 0, 0);
    for message in 0..messages {
        world.pass(if dice.one_in(1000) { dice.below(600_000_000) } else { dice.below(400_000) });
        if dice.one_in(50) {
            let parms = parms(&mut dice);
            let key = (dice.below(IDS.len() as u64) as usize, parms.promise, parms.module);
            world.conduct.lock().unwrap().insert(key, conduct(&mut dice));
        }
        let call = call(&kernel, &promise, parms(&mut dice));
        let started_us = world.now_us.load(Ordering::Relaxed);
        let Poll::Ready(result) =
            pin!(kernel.consult(&call, || world.now())).poll(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("the fakes answer at once")
        };
        let events = std::mem::take(&mut *world.events.lock().unwrap());
        let mut now_us = started_us;
        let (expected_events, expected) = reference.call(&world, &call.parms, &mut now_us);
        assert_eq!(events, expected_events, "message {message} of seed {seed}");
        assert_eq!(
            result.as_ref().map_err(|error| error.code),
            expected.as_ref().map_err(|error| error.code),
            "message {message} of seed {seed}"
        );
        rejections.check(&world, &call.parms, &events, started_us / 1000);
        kept += u64::from(result.is_ok());
        failed += u64::from(result.is_err());
        handed_on += u64::from(events.iter().filter(|event| matches!(event, Event::Handled(_))).count() > 1);
    }
    eprintln!("{kept} kept, {failed} failed, {handed_on} handed on");
    assert!(kept > messages / 3 && failed > messages / 100 && handed_on > messages / 100);
}
