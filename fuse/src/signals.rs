//! Whether a process has a signal waiting that must interrupt what it waits for.
//!
//! Read from `/proc/<tid>/status` (proc_pid_status(5)): `SigPnd` is the thread's own pending set, `ShdPnd` the one its
//! process shares, and `SigBlk`, `SigIgn`, `SigCgt` say what happens to each. A signal interrupts when it is neither
//! blocked nor ignored, unless it would do nothing: `SIGCHLD`, `SIGCONT`, `SIGURG` and `SIGWINCH` without a handler.
//!
//! The rest is caught (the handler has to run), fatal, or stops the process. A stop interrupts too: the kernel can stop
//! a process only at its way out of the call, so Ctrl-Z would hang the terminal until the answer comes. The price is
//! that the call fails with `EINTR` once the process continues; FUSE has no errno that restarts a call (512 and above,
//! `ERESTARTSYS`, are refused). In a process of several threads another thread may take the stop signal first: then it
//! is no longer pending, and this one is stopped when its answer comes. A fatal signal is never lost that way: the
//! kernel hands `SIGKILL` to every thread.

use std::fs::File;
use std::io::{self, Read};

use rustix::process::Signal;

/// Signals that do nothing unless a handler is set (signal(7), "Ign" and "Cont").
const IDLE: u64 = bit(Signal::CHILD) | bit(Signal::CONT) | bit(Signal::URG) | bit(Signal::WINCH);

/// A thread whose signals are watched.
pub(crate) struct Watched {
    path: String,
    /// The status file's text; kept, so that looking again allocates nothing.
    status: Vec<u8>,
    seen: bool,
}

impl Watched {
    /// Watches the thread `tid`.
    pub(crate) fn new(tid: u32) -> Self {
        Self { path: format!("/proc/{tid}/status"), status: Vec::new(), seen: false }
    }

    /// Whether the thread must be interrupted now, or is gone.
    ///
    /// A thread that was never seen counts as unknown, not as gone: `hidepid` hides other users' processes.
    pub(crate) fn interrupted(&mut self) -> bool {
        match self.read() {
            Ok(()) => {
                self.seen = true;
                Signals::parse(&self.status).is_some_and(Signals::interrupt)
            }
            Err(error) => self.seen && is_gone(&error),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.status.clear();
        File::open(&self.path)?.read_to_end(&mut self.status)?;
        Ok(())
    }
}

/// The file is gone, or went while it was read (`ESRCH`).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Signal sets of one thread: signal n is bit n - 1.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Signals {
    dead: bool,
    pending: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Signals {
    /// Reads the text of a status file; `None` unless all five sets are there, whatever else is.
    fn parse(status: &[u8]) -> Option<Self> {
        let mut signals = Self::default();
        let mut sets = 0;
        for line in status.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                continue;
            };
            let value = line[colon + 1..].trim_ascii();
            let set = match &line[..colon] {
                b"State" => {
                    signals.dead = matches!(value.first(), Some(b'Z' | b'X' | b'x'));
                    continue;
                }
                b"SigPnd" | b"ShdPnd" => &mut signals.pending,
                b"SigBlk" => &mut signals.blocked,
                b"SigIgn" => &mut signals.ignored,
                b"SigCgt" => &mut signals.caught,
                _ => continue,
            };
            *set |= u64::from_str_radix(str::from_utf8(value).ok()?, 16).ok()?;
            sets += 1;
        }
        (sets == 5).then_some(signals)
    }

    fn interrupt(self) -> bool {
        let delivered = self.pending & !self.blocked & !self.ignored;
        self.dead || delivered & (self.caught | !IDLE) != 0
    }
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, sets: [u64; 5]) -> String {
        let [thread, shared, blocked, ignored, caught] = sets;
        format!(
            "Name:\tcat\nUmask:\t0022\nState:\t{state}\nGroups:\t{}\nSigQ:\t1/95000\nSigPnd:\t{thread:016x}\n\
             ShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n\
             CapInh:\t0000000000000000\n",
            "1000 ".repeat(65_536)
        )
    }

    fn interrupts(sets: [u64; 5]) -> bool {
        let text = status("D (disk sleep)", sets);
        Signals::parse(text.as_bytes()).unwrap().interrupt()
    }

    #[test]
    fn fatal_signals_interrupt_wherever_they_are_pending() {
        for signal in [Signal::INT, Signal::KILL, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1] {
            assert!(interrupts([bit(signal), 0, 0, 0, 0]), "{signal:?}");
            assert!(interrupts([0, bit(signal), 0, 0, 0]), "{signal:?}");
        }
        assert!(interrupts([0, 1 << 63, 0, 0, 0]), "the last real-time signal");
    }

    #[test]
    fn nothing_pending_does_not_interrupt() {
        assert!(!interrupts([0, 0, 0, 0, 0]));
        assert!(!interrupts([0, 0, u64::MAX, 0, u64::MAX]));
    }

    #[test]
    fn blocked_and_ignored_signals_wait() {
        let int = bit(Signal::INT);
        assert!(!interrupts([int, 0, int, 0, 0]));
        assert!(!interrupts([0, int, 0, int, 0]));
        assert!(interrupts([int | bit(Signal::TERM), 0, int, 0, 0]));
    }

    #[test]
    fn signals_that_do_nothing_interrupt_only_with_a_handler() {
        for signal in [Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH] {
            let bit = bit(signal);
            assert!(!interrupts([bit, bit, 0, 0, 0]), "{signal:?}");
            assert!(interrupts([0, bit, 0, 0, bit]), "{signal:?}, caught");
            assert!(!interrupts([0, bit, bit, 0, bit]), "{signal:?}, caught and blocked");
        }
    }

    #[test]
    fn stops_interrupt() {
        for signal in [Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU] {
            assert!(interrupts([0, bit(signal), 0, 0, 0]), "{signal:?}");
        }
    }

    #[test]
    fn the_dead_are_interrupted() {
        for (state, dead) in [("Z (zombie)", true), ("X (dead)", true), ("S (sleeping)", false), ("T (stopped)", false)]
        {
            let signals = Signals::parse(status(state, [0; 5]).as_bytes()).unwrap();
            assert_eq!(signals.interrupt(), dead, "{state}");
        }
    }

    #[test]
    fn incomplete_text_is_no_answer() {
        assert_eq!(Signals::parse(b""), None);
        assert_eq!(Signals::parse(b"SigPnd:\t0000000000000002\n"), None);
        let whole = status("S (sleeping)", [2, 0, 0, 0, 0]);
        assert_eq!(Signals::parse(whole.replace("SigCgt", "SigXyz").as_bytes()), None);
        assert_eq!(Signals::parse(whole.replace("ShdPnd:\t0", "ShdPnd:\tg").as_bytes()), None);
    }

    #[test]
    fn this_thread_is_alive_and_not_interrupted() {
        let mut watched = Watched::new(rustix::thread::gettid().as_raw_pid().cast_unsigned());
        assert!(!watched.interrupted());
        assert!(Signals::parse(&watched.status).is_some());
        assert!(watched.seen);
    }

    #[test]
    fn a_thread_never_seen_is_unknown_and_one_that_goes_is_gone() {
        assert!(!Watched::new(u32::MAX).interrupted());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut watched = Watched::new(child.id());
        assert!(!watched.interrupted());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watched.interrupted());
    }
}
