//! Network namespaces: as far as the network goes, machines of their own.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Node, Ran};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// One of them; it ends with what was started in it.
pub struct Namespace(pub String);

impl Namespace {
    /// A namespace with a loopback device, if it may be made here.
    pub fn new() -> Option<Namespace> {
        let name = format!("grid{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        if made.status != 0 {
            eprintln!("SKIPPED: network namespaces take root and ip (Debian's iproute2): {}", made.stderr.trim());
            return None;
        }
        Some(Namespace(name))
    }

    /// Runs a line of shell in it.
    pub fn sh(&self, line: &str) -> Ran {
        Ran::from(self.enter("sh").args(["-c", line]).output().unwrap())
    }

    /// Starts the daemon of a node in it, with a table `[peers]` and these addresses.
    pub fn serve(&self, node: &Node, settings: &str, listen: &[&str]) {
        if !node.home().exists() {
            std::fs::create_dir_all(node.home()).unwrap();
            std::fs::write(node.home().join("config.toml"), format!("[peers]\n{settings}\n")).unwrap();
        }
        let mut serve = self.enter(env!("CARGO_BIN_EXE_gridfs"));
        serve.arg("serve").args(listen.iter().flat_map(|address| ["--listen", address]));
        Ran::from(serve.env("GRID_HOME", node.home()).output().unwrap()).ok();
    }

    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        sh(&format!("ip netns del {}", self.0));
    }
}

/// Runs a line of shell.
pub fn sh(line: &str) -> Ran {
    Ran::from(Command::new("sh").args(["-c", line]).output().unwrap())
}
