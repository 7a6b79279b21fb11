//! Hand-written guests: a list of host calls, whose errnos and memory come back through standard error.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use gridfs_modules::{Argument, Program, RunError};

use crate::rig::{Done, Rig, load_tree_wat, load_wat};

/// Every host function and its parameters: `i` an i32, `I` an i64, `p` a pointer. Source: the preview1 witx.
pub const FUNCTIONS: [(&str, &str); 47] = [
    ("args_get", "pp"),
    ("args_sizes_get", "pp"),
    ("clock_res_get", "ip"),
    ("clock_time_get", "iIp"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "pp"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ip"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ip"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "ipiIp"),
    ("fd_prestat_dir_name", "ipi"),
    ("fd_prestat_get", "ip"),
    ("fd_pwrite", "ipiIp"),
    ("fd_read", "ipip"),
    ("fd_readdir", "ipiIp"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIip"),
    ("fd_sync", "i"),
    ("fd_tell", "ip"),
    ("fd_write", "ipip"),
    ("path_create_directory", "ipi"),
    ("path_filestat_get", "iipip"),
    ("path_filestat_set_times", "iipiIIi"),
    ("path_link", "iipiipi"),
    ("path_open", "iipiiIIip"),
    ("path_readlink", "ipipip"),
    ("path_remove_directory", "ipi"),
    ("path_rename", "ipiipi"),
    ("path_symlink", "piipi"),
    ("path_unlink_file", "ipi"),
    ("poll_oneoff", "ppip"),
    ("proc_exit", "i"),
    ("proc_raise", "i"),
    ("random_get", "pi"),
    ("sched_yield", ""),
    ("set_executable", "i"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

pub fn import(name: &str) -> String {
    let (_, shape) = FUNCTIONS.iter().find(|(n, _)| *n == name).unwrap();
    let namespace = if name == "set_executable" { "grid_1" } else { "wasi_snapshot_preview1" };
    let params: String = shape.chars().map(|c| if c == 'I' { " i64" } else { " i32" }).collect();
    let result = if name == "proc_exit" { "" } else { "(result i32)" };
    format!("(import \"{namespace}\" \"{name}\" (func ${name} (param{params}) {result}))\n")
}

/// Scratch memory of a script; its own data lie below.
pub const OUT: i64 = 0x8000;
/// Where the descriptor of a file just opened is written.
pub const FD: i64 = OUT;

pub mod errno {
    pub const OK: u32 = 0;
    pub const BADF: u32 = 8;
    pub const EXIST: u32 = 20;
    pub const FAULT: u32 = 21;
    pub const FBIG: u32 = 22;
    pub const INVAL: u32 = 28;
    pub const ISDIR: u32 = 31;
    pub const LOOP: u32 = 32;
    pub const MFILE: u32 = 33;
    pub const NAMETOOLONG: u32 = 37;
    pub const NOENT: u32 = 44;
    pub const NOSPC: u32 = 51;
    pub const NOSYS: u32 = 52;
    pub const NOTDIR: u32 = 54;
    pub const NOTEMPTY: u32 = 55;
    pub const NOTSOCK: u32 = 57;
    pub const NOTSUP: u32 = 58;
    pub const PERM: u32 = 63;
    pub const ROFS: u32 = 69;
    pub const SPIPE: u32 = 70;
    pub const XDEV: u32 = 75;
    pub const NOTCAPABLE: u32 = 76;
}

pub const IN_FD: i64 = 3;
pub const OUT_FD: i64 = 4;
pub const GRID_FD: i64 = 5;
pub const ROOT_FD: i64 = 6;

pub const CREATE: i64 = 1;
pub const DIRECTORY: i64 = 2;
pub const EXCLUSIVE: i64 = 4;
pub const TRUNCATE: i64 = 8;
pub const READ: i64 = 1 << 1;
pub const WRITE: i64 = 1 << 6;

/// The guest under construction.
pub struct Script {
    used: BTreeSet<String>,
    body: String,
    data: String,
    end: usize,
    shown: Vec<Option<usize>>,
}

/// What came back: the errno of each call and the bytes of each `show`, in order.
#[derive(Debug)]
pub struct Report {
    pub errnos: Vec<u32>,
    pub shown: Vec<Vec<u8>>,
    pub done: Done,
}

impl Script {
    pub fn new() -> Script {
        let used = BTreeSet::from(["fd_write".to_string()]);
        Script { used, body: String::new(), data: String::new(), end: 64, shown: Vec::new() }
    }

    /// Places bytes in memory; where they are, and how many.
    pub fn data(&mut self, bytes: &[u8]) -> [i64; 2] {
        let start = self.end;
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(self.data, "(data (i32.const {start}) \"{escaped}\")").unwrap();
        self.end = (start + bytes.len()).next_multiple_of(8);
        assert!(self.end <= OUT as usize);
        [start as i64, bytes.len() as i64]
    }

    /// An iovec of these bytes; where it is, and 1.
    pub fn iovec(&mut self, bytes: &[u8]) -> [i64; 2] {
        let [start, len] = self.data(bytes);
        self.iovec_at(start, len)
    }

    pub fn iovec_at(&mut self, start: i64, len: i64) -> [i64; 2] {
        let pair = [(start as u32).to_le_bytes(), (len as u32).to_le_bytes()].concat();
        [self.data(&pair)[0], 1]
    }

    /// Calls a function and notes its errno.
    pub fn call(&mut self, name: &str, args: &[i64]) -> &mut Script {
        let (_, shape) = FUNCTIONS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no function {name}"));
        assert_eq!(shape.len(), args.len(), "{name} takes {shape}");
        self.used.insert(name.into());
        let mut call = format!("(call ${name}");
        for (kind, arg) in shape.chars().zip(args) {
            match kind {
                'I' => write!(call, " (i64.const {arg})").unwrap(),
                _ => write!(call, " (i32.const {})", *arg as u32 as i32).unwrap(),
            }
        }
        writeln!(self.body, "(call $note {call}))").unwrap();
        self.shown.push(None);
        self
    }

    /// Notes what memory holds now.
    pub fn show(&mut self, start: i64, len: usize) -> &mut Script {
        writeln!(self.body, "(call $show (i32.const {start}) (i32.const {len}))").unwrap();
        self.shown.push(Some(len));
        self
    }

    /// Raw instructions.
    pub fn code(&mut self, code: &str) -> &mut Script {
        writeln!(self.body, "{code}").unwrap();
        self
    }

    /// Imports a function that raw instructions call.
    pub fn uses(&mut self, name: &str) -> &mut Script {
        self.used.insert(name.into());
        self
    }

    /// `path_open` of `path` below `fd`, without following a link at its end.
    pub fn open(&mut self, fd: i64, path: &str, oflags: i64, rights: i64) -> &mut Script {
        self.open_following(fd, path, 0, oflags, rights)
    }

    pub fn open_following(&mut self, fd: i64, path: &str, follow: i64, oflags: i64, rights: i64) -> &mut Script {
        let [at, len] = self.data(path.as_bytes());
        self.call("path_open", &[fd, follow, at, len, oflags, rights, 0, 0, FD])
    }

    /// A function of a descriptor and a path.
    pub fn at(&mut self, name: &str, fd: i64, path: &str) -> &mut Script {
        let [start, len] = self.data(path.as_bytes());
        self.call(name, &[fd, start, len])
    }

    pub fn symlink(&mut self, target: &str, path: &str) -> &mut Script {
        self.symlink_at(OUT_FD, target, path)
    }

    pub fn link(&mut self, from: &str, to: &str) -> &mut Script {
        self.link_at(OUT_FD, from, to)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> &mut Script {
        self.rename_at(OUT_FD, from, to)
    }

    pub fn symlink_at(&mut self, fd: i64, target: &str, path: &str) -> &mut Script {
        let ([target, target_len], [path, len]) = (self.data(target.as_bytes()), self.data(path.as_bytes()));
        self.call("path_symlink", &[target, target_len, fd, path, len])
    }

    pub fn link_at(&mut self, fd: i64, from: &str, to: &str) -> &mut Script {
        let ([from, from_len], [to, to_len]) = (self.data(from.as_bytes()), self.data(to.as_bytes()));
        self.call("path_link", &[fd, 0, from, from_len, fd, to, to_len])
    }

    pub fn rename_at(&mut self, fd: i64, from: &str, to: &str) -> &mut Script {
        let ([from, from_len], [to, to_len]) = (self.data(from.as_bytes()), self.data(to.as_bytes()));
        self.call("path_rename", &[fd, from, from_len, fd, to, to_len])
    }

    pub fn write(&mut self, fd: i64, bytes: &[u8]) -> &mut Script {
        let [iovs, count] = self.iovec(bytes);
        self.call("fd_write", &[fd, iovs, count, OUT + 8])
    }

    /// Reads up to `len` bytes to `OUT + 16` and notes how many they were and what.
    pub fn read(&mut self, fd: i64, len: usize) -> &mut Script {
        let [iovs, count] = self.iovec_at(OUT + 16, len as i64);
        self.call("fd_read", &[fd, iovs, count, OUT + 8]).show(OUT + 8, 4).show(OUT + 16, len)
    }

    pub fn text(&self) -> String {
        let imports: String = self.used.iter().map(|name| import(name)).collect();
        let (data, body) = (&self.data, &self.body);
        format!(
            r#"(module {imports} (memory (export "memory") 2) {data}
            (func $show (param i32 i32)
              (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1))
              (drop (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 16))))
            (func $note (param i32)
              (i32.store (i32.const 0) (local.get 0)) (call $show (i32.const 0) (i32.const 4)))
            (func (export "_start") {body}))"#
        )
    }

    pub fn load(&self) -> Arc<Program> {
        load_wat(&self.text())
    }

    pub fn load_tree(&self) -> Arc<Program> {
        load_tree_wat(&self.text())
    }

    /// Runs it as a module that returns a blob.
    pub fn run(&self, rig: &Rig, arguments: Vec<Argument>) -> Report {
        self.report(rig.run(&self.load(), arguments))
    }

    /// Runs it as a module that returns a tree.
    pub fn run_tree(&self, rig: &Rig, arguments: Vec<Argument>) -> Report {
        self.report(rig.run(&self.load_tree(), arguments))
    }

    fn report(&self, ended: Result<Done, RunError>) -> Report {
        let done = ended.unwrap();
        let (mut errnos, mut shown) = (Vec::new(), Vec::new());
        let mut rest = &done.stderr[..];
        for step in &self.shown {
            let (bytes, behind) = rest.split_at(step.unwrap_or(4));
            rest = behind;
            match step {
                Some(_) => shown.push(bytes.to_vec()),
                None => errnos.push(u32_of(bytes)),
            }
        }
        assert_eq!(rest, b"", "more came back than was asked for");
        Report { errnos, shown, done }
    }
}

pub fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

pub fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}
