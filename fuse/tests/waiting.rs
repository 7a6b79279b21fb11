//! Callers that wait: others go on, and a signal ends the wait.

mod fake;

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fake::{AtOpen, Fake, Item, Mounted, can_mount, errno, eventually, pattern};
use gridfs_fuse::{Errno, MountOptions};
use rustix::process::{Pid, Signal, kill_process};

/// Longest time from a signal to the end of the wait.
const PROMPT: Duration = Duration::from_millis(200);

fn never() -> Fake {
    let never = Item { at_open: AtOpen::Never, ..Item::file("x") };
    Fake::new([
        ("never", never),
        ("file", Item::file("content")),
        ("dir", Item::directory()),
        ("dir/file", Item::file("")),
        ("link", Item::symlink("file")),
    ])
}

/// A process that is killed and reaped when dropped.
struct Caller(Child);

impl Caller {
    /// `cat` of `name`, with the signal dispositions that `env` sets; returns when its open waits.
    fn opening(mounted: &Mounted, env: &[&str], name: &str) -> Self {
        let before = mounted.fake.waiting.load(Ordering::SeqCst);
        // A test started in the background may have SIGINT ignored, and children inherit that.
        let child = Command::new("env")
            .arg("--default-signal")
            .args(env)
            .arg("cat")
            .arg(mounted.path(name))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let caller = Self(child.unwrap());
        eventually("the open waits", || mounted.fake.waiting.load(Ordering::SeqCst) > before);
        caller
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name.trim_start().chars().next().unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Fails only if it has been reaped, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Signals a waiting `cat` and says how long it took to end, and how it ended.
fn interrupted_by(mounted: &Mounted, signal: Signal) -> (Duration, Option<i32>) {
    let mut caller = Caller::opening(mounted, &[], "never");
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    caller.signal(signal);
    let status = caller.0.wait().unwrap();
    let took = start.elapsed();
    assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 0, "the future is dropped before the reply");
    (took, status.signal())
}

#[test]
fn a_fatal_signal_ends_the_wait_and_drops_the_future() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(never());
    for signal in [Signal::INT, Signal::KILL, Signal::TERM, Signal::QUIT, Signal::USR1] {
        let mut times: Vec<Duration> = (0..10)
            .map(|_| {
                let (took, by) = interrupted_by(&mounted, signal);
                assert_eq!(by, Some(signal.as_raw()), "{signal:?}");
                assert!(took < PROMPT, "{signal:?} took {took:?}");
                took
            })
            .collect();
        times.sort();
        println!("{signal:?}: median {:?}, longest {:?}", times[5], times[9]);
    }
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}

#[test]
fn signals_that_do_nothing_do_not_end_the_wait() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(never());
    let dispositions = ["--block-signal=USR1", "--ignore-signal=USR2"];
    let mut caller = Caller::opening(&mounted, &dispositions, "never");
    for signal in [Signal::CHILD, Signal::WINCH, Signal::CONT, Signal::URG, Signal::USR1, Signal::USR2] {
        caller.signal(signal);
    }
    thread::sleep(Duration::from_millis(150));
    assert!(caller.0.try_wait().unwrap().is_none());
    assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 1);
    caller.signal(Signal::INT);
    let took = eventually("it ends", || caller.0.try_wait().unwrap().is_some());
    assert!(took < PROMPT, "{took:?}");
}

#[test]
fn a_stop_ends_the_wait_so_that_the_process_can_stop() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(never());
    let mut caller = Caller::opening(&mounted, &[], "never");
    caller.signal(Signal::STOP);
    let took = eventually("it stops", || caller.state() == 'T');
    assert!(took < PROMPT, "{took:?}");
    assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 0);
    caller.signal(Signal::CONT);
    let status = caller.0.wait().unwrap();
    assert_eq!(status.code(), Some(1), "cat says that its open was interrupted");
}

#[test]
fn a_quick_answer_is_not_watched() {
    if !can_mount() {
        return;
    }
    let quick = Item { at_open: AtOpen::After(Duration::from_millis(1)), ..Item::file("quick") };
    let mounted = Mounted::new(Fake::new([("quick", quick)]));
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(fs::read_to_string(mounted.path("quick")).unwrap(), "quick");
    }
    let each = start.elapsed() / 50;
    println!("an open that takes 1 ms of timer: {each:?}");
    assert!(each < Duration::from_millis(15), "{each:?}");
}

#[test]
fn others_go_on_while_opens_wait() {
    if !can_mount() {
        return;
    }
    for event_loops in [1, 2] {
        let options = MountOptions { event_loops, ..MountOptions::default() };
        let mounted = Mounted::with(never(), options);
        let callers: Vec<_> = (0..8).map(|_| Caller::opening(&mounted, &[], "never")).collect();
        let start = Instant::now();
        assert_eq!(fs::metadata(mounted.path("never")).unwrap().len(), 1);
        assert_eq!(fs::read_to_string(mounted.path("link")).unwrap(), "content");
        assert_eq!(fs::read_dir(mounted.path("dir")).unwrap().count(), 1);
        assert_eq!(errno(fs::metadata(mounted.path("none"))), Errno::ENOENT.code());
        let listed = Command::new("ls").arg("-l").arg(mounted.dir()).output().unwrap();
        assert!(listed.status.success());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 8);
        drop(callers);
        assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_process_takes_turns_with_itself_and_not_with_others() {
    if !can_mount() {
        return;
    }
    let slow = Item { at_open: AtOpen::After(Duration::from_millis(20)), ..Item::file("slow") };
    let fake = never();
    fake.insert("slow", slow);
    let options = MountOptions { turns_per_process: 3, ..MountOptions::default() };
    let mut mounted = Mounted::with(fake, options);
    // More than there are turns: they come one after the other.
    thread::scope(|scope| {
        let reads: Vec<_> =
            (0..20).map(|_| scope.spawn(|| fs::read_to_string(mounted.path("slow")).unwrap())).collect();
        reads.into_iter().for_each(|read| assert_eq!(read.join().unwrap(), "slow"));
    });
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let path = mounted.path("never");
            thread::spawn(move || errno(File::open(path)))
        })
        .collect();
    eventually("all wait, and three were begun", || {
        mounted.fake.waiting.load(Ordering::SeqCst) == 10 && mounted.fake.begun.load(Ordering::SeqCst) == 3
    });
    // Another process has turns of its own, and what is at hand takes none.
    let output = Command::new("cat").arg(mounted.path("slow")).output().unwrap();
    assert_eq!(output.stdout, b"slow");
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
    mounted.mount.take().unwrap().unmount().unwrap();
    for one in waiting {
        assert_eq!(one.join().unwrap(), Errno::ECONNABORTED.code());
    }
}

#[test]
fn an_answer_is_begun_before_its_task_runs() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(never());
    // All workers of the runtime are busy.
    let handle = mounted.runtime.as_ref().unwrap().handle().clone();
    let workers = handle.metrics().num_workers();
    let busy = Arc::new(Barrier::new(workers + 1));
    let release: Vec<_> = (0..workers)
        .map(|_| {
            let (busy, (release, released)) = (Arc::clone(&busy), mpsc::channel::<()>());
            handle.spawn(async move {
                busy.wait();
                // Until it is dropped.
                let _ = released.recv();
            });
            release
        })
        .collect();
    busy.wait();
    let path = mounted.path("never");
    let open = thread::spawn(move || errno(File::open(path)));
    eventually("it was begun", || mounted.fake.begun.load(Ordering::SeqCst) == 1);
    drop(release);
    mounted.mount.take().unwrap().unmount().unwrap();
    assert_eq!(open.join().unwrap(), Errno::ECONNABORTED.code());
}

#[test]
fn two_hundred_opens_at_once() {
    if !can_mount() {
        return;
    }
    let slow = |number: usize| {
        let item = Item {
            at_open: AtOpen::After(Duration::from_millis(300)),
            pending: true,
            ..Item::file(pattern(number * 100))
        };
        (format!("file-{number}"), item)
    };
    // All are of this process.
    let options = MountOptions { turns_per_process: 200, ..MountOptions::default() };
    let mounted = Mounted::with(Fake::new((0..200).map(slow)), options);
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..200 {
            let path = mounted.path(&format!("file-{number}"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == pattern(number * 100), "{number}"));
        }
    });
    let took = start.elapsed();
    println!("200 opens of 300 ms each: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(mounted.fake.opens.load(Ordering::SeqCst), 200);
}

#[test]
fn two_hundred_callers_are_killed_at_once() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(never());
    let mut callers: Vec<_> = (0..200).map(|_| Caller::opening(&mounted, &[], "never")).collect();
    let start = Instant::now();
    for caller in &callers {
        caller.signal(Signal::KILL);
    }
    for caller in &mut callers {
        assert_eq!(caller.0.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }
    println!("200 callers killed: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 0);
    File::open(mounted.path("file")).unwrap();
}

#[test]
fn unmounting_ends_every_wait() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(never());
    let path = mounted.path("never");
    let waiting = thread::spawn(move || errno(File::open(path)));
    eventually("the open waits", || mounted.fake.waiting.load(Ordering::SeqCst) == 1);
    let start = Instant::now();
    mounted.mount.take().unwrap().unmount().unwrap();
    assert_eq!(waiting.join().unwrap(), Errno::ECONNABORTED.code());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(mounted.fake.waiting.load(Ordering::SeqCst), 0);
}

#[test]
fn a_runtime_that_goes_ends_every_wait() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(never());
    let path = mounted.path("never");
    let waiting = thread::spawn(move || errno(File::open(path)));
    eventually("the open waits", || mounted.fake.waiting.load(Ordering::SeqCst) == 1);
    mounted.runtime.take().unwrap().shutdown_background();
    assert_eq!(waiting.join().unwrap(), Errno::EIO.code());
    assert_eq!(errno(File::open(mounted.path("never"))), Errno::EIO.code());
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}
