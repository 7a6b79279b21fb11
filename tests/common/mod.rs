//! A node in a temporary home, driven through its real binaries and its real mount.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gridfs_modules::Manifest;
use gridfs_modules::manifest::{ArgKind, Argument, Limits, Returns, embed};

/// A home and a mount point; unmounted and removed when dropped.
pub struct Node {
    directory: tempfile::TempDir,
    home: PathBuf,
}

impl Node {
    /// A node with nothing in it, not mounted.
    pub fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        Node { directory, home }
    }

    /// A mounted node.
    pub fn mounted() -> Node {
        let node = Node::new();
        node.mount();
        node
    }

    /// A node whose home is elsewhere, such as on a small file system.
    pub fn with_home(home: &Path) -> Node {
        let mut node = Node::new();
        node.home = home.to_owned();
        node
    }

    pub fn mount(&self) {
        assert_eq!(self.gridfs(["mount", self.mnt().to_str().unwrap()]).ok(), "");
    }

    pub fn umount(&self) {
        assert_eq!(self.gridfs(["umount", self.mnt().to_str().unwrap()]).ok(), "");
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn mnt(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// A path below the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.mnt().join(path)
    }

    /// A path for test data.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes test data and stores it under its own name.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.scratch(name);
        std::fs::write(&path, content).unwrap();
        self.gridfs(["put", "--name", name, path.to_str().unwrap()]).ok();
        path
    }

    /// Adds a module written as WebAssembly text.
    pub fn add_wat(&self, name: &str, wat: &str, manifest: Option<&Manifest>) {
        let wasm = wat::parse_str(wat).unwrap();
        let wasm = manifest.map_or(wasm.clone(), |manifest| embed(&wasm, manifest).unwrap());
        let path = self.scratch(&format!("{name}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        self.gridfs(["module", "add", "--name", name, path.to_str().unwrap()]).ok();
    }

    /// Adds an example guest with the manifest beside its source.
    pub fn add_example(&self, name: &str, manifest: &str) {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guests");
        let (wasm, manifest) = (examples.join(format!("{name}.wasm")), examples.join(manifest));
        let files = [wasm.to_str().unwrap(), "--manifest", manifest.to_str().unwrap()];
        self.gridfs(["module", "add", "--name", name].into_iter().chain(files)).ok();
    }

    pub fn gridfs<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(env!("CARGO_BIN_EXE_gridfs")).args(arguments))
    }

    pub fn grid<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(env!("CARGO_BIN_EXE_grid")).args(arguments))
    }

    /// Runs a line of shell in the scratch directory, with the binaries on its path.
    pub fn sh(&self, line: &str) -> Ran {
        Ran::of(self.command("sh").args(["-c", line]).current_dir(self.directory.path()))
    }

    /// Starts a program without waiting for it. It heeds signals, even if the tests were started by a shell that
    /// ignores them in its background jobs.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        let mut command = self.command("env");
        command
            .args(["--default-signal=INT,TERM", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let binaries = Path::new(env!("CARGO_BIN_EXE_gridfs")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command.env("GRID_HOME", &self.home).env("PATH", format!("{}:{path}", binaries.display()));
        command.stdin(Stdio::null());
        command
    }

    /// Process id of the daemon, from the mount's owner of the socket.
    pub fn daemon_pid(&self) -> i32 {
        let stream = std::os::unix::net::UnixStream::connect(self.home.join("run/socket")).unwrap();
        rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get()
    }

    /// Kills the daemon as a crash would.
    pub fn kill_daemon(&self) {
        let pid = self.daemon_pid();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        wait_for("the daemon to be gone", || rustix::process::test_kill_process(pid).is_err());
    }

    /// A number of `gridfs stats`.
    pub fn stat(&self, what: &str) -> u64 {
        let stats: serde_json::Value = serde_json::from_str(&self.gridfs(["stats", "--json"]).ok()).unwrap();
        stats[what].as_u64().unwrap()
    }

    /// The extended attribute `user.grid.<name>`.
    pub fn xattr(&self, path: &str, name: &str) -> Option<String> {
        let mut value = [0; 4096];
        let length = rustix::fs::getxattr(self.at(path), format!("user.grid.{name}"), &mut value[..]).ok()?;
        Some(String::from_utf8(value[..length].to_vec()).unwrap())
    }

    /// errno of reading a file of the mount.
    pub fn errno(&self, path: &str) -> i32 {
        std::fs::read(self.at(path)).unwrap_err().raw_os_error().unwrap()
    }

    /// The text of a file of the mount.
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.log()))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at(".grid/log")).unwrap_or_default()
    }

    // Among peers.

    /// Starts a daemon without a mount that peers can reach on loopback.
    pub fn serve(&self) {
        self.gridfs(["serve", "--listen", LOOPBACK]).ok();
    }

    /// This node as its peers see it.
    pub fn seen(&self) -> serde_json::Value {
        serde_json::from_str(&self.gridfs(["--json", "peer", "list"]).ok()).unwrap()
    }

    /// Where peers reach it.
    pub fn address(&self) -> String {
        self.seen()["addresses"][0].as_str().unwrap().to_owned()
    }

    /// The node's id.
    pub fn id(&self) -> String {
        self.gridfs(["cap", "key"]).ok().trim().to_owned()
    }

    /// Connects to another node, which it knows from now on.
    pub fn meet(&self, other: &Node) {
        self.gridfs(["peer", "add", &other.address()]).ok();
        wait_for("a connection", || self.seen()["connected"].as_u64().unwrap() > 0);
    }

    /// The CID that a name stands for.
    pub fn cid(&self, name: &str) -> String {
        let names = self.gridfs(["--json", "name", "list"]).ok();
        let names: Vec<serde_json::Value> = serde_json::from_str(&names).unwrap();
        names.iter().find(|row| row["name"] == name).unwrap()["cid"].as_str().unwrap().to_owned()
    }

    /// Stores a file, shares it and waits until that is announced; returns its CID.
    pub fn share(&self, name: &str, content: &[u8]) -> String {
        let before = self.seen()["announced_keys"].as_u64().unwrap();
        let path = self.scratch(name);
        std::fs::write(&path, content).unwrap();
        let cid = self.gridfs(["put", path.to_str().unwrap()]).ok();
        let cid = cid.split_whitespace().next().unwrap().to_owned();
        self.gridfs(["share", &cid]).ok();
        wait_for("an announcement", || self.seen()["announced_keys"].as_u64().unwrap() > before);
        cid
    }

    /// Ends the daemon, mounted or not.
    pub fn stop(&self) {
        self.gridfs(["umount"]).ok();
    }
}

/// A daemon that peers can reach.
pub fn serving() -> Node {
    let node = Node::new();
    node.serve();
    node
}

/// Where nodes of a test listen.
pub const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

impl Drop for Node {
    fn drop(&mut self) {
        if gridfs_fuse::is_mounted(&self.mnt()).unwrap_or(false) {
            let umount = self.gridfs(["umount", self.mnt().to_str().unwrap()]);
            if umount.status != 0 {
                let _ = gridfs_fuse::unmount(&self.mnt());
            }
        } else if self.home.join("run/socket").exists() {
            self.gridfs(["umount"]);
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(command: &mut Command) -> Ran {
        Ran::from(command.output().unwrap())
    }

    /// Its standard output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }

    /// Its exit status and standard error, if it failed without writing anything else.
    #[track_caller]
    pub fn failed(self) -> (i32, String) {
        assert_ne!(self.status, 0, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        (self.status, self.stderr)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ran { status: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// A manifest with these arguments and limits.
pub fn manifest(name: &str, args: &[(&str, ArgKind)], returns: Returns, limits: Limits) -> Manifest {
    let argument = |(name, kind): &(&str, ArgKind)| Argument {
        name: (*name).into(),
        kind: *kind,
        required: true,
        variadic: false,
    };
    Manifest {
        args: args.iter().map(argument).collect(),
        name: name.into(),
        limits: (limits != Limits::default()).then_some(limits),
        promise: "Serves a test.".into(),
        returns,
        version: "1".into(),
        ..Manifest::untyped()
    }
}

/// How a process ended, within half a minute.
#[track_caller]
pub fn end_of(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_for("a process to end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Waits up to half a minute.
#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A module that never ends.
pub const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

/// Prints its argument vector, each argument with a NUL.
pub const ARGS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 1024) (i32.const 2048)))
        (i32.store (i32.const 8) (i32.const 2048))
        (i32.store (i32.const 12) (i32.load (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;
