//! WASI preview1 (`wasi_snapshot_preview1`), `grid_1` and `pg`, written over the virtual world of [`Guest`].
//!
//! Every function of preview1 is there: what has no meaning here answers `ENOSYS` or `ENOTSUP`, so that ordinary
//! programs link. Functions are grouped as in the witx: process, descriptors, paths.
//! Source: WebAssembly/WASI, legacy/preview1/witx.

// The witx decides how many parameters a function has.
#![allow(clippy::too_many_arguments)]

mod descriptors;
mod paths;
pub(crate) mod pg;
mod process;

use wasmtime::{Caller, Linker};

use crate::guest::{Fault, Guest};
use crate::memory::Memory;
use crate::run::Stop;

pub(crate) const NAMESPACE: &str = "wasi_snapshot_preview1";
pub(crate) const GRID_NAMESPACE: &str = "grid_1";

/// Error numbers of preview1; only those given here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub(crate) enum Errno {
    TooBig = 1,
    Access = 2,
    Again = 6,
    BadF = 8,
    BadMsg = 9,
    Exist = 20,
    Fault = 21,
    FBig = 22,
    Inval = 28,
    IsDir = 31,
    Loop = 32,
    MFile = 33,
    NameTooLong = 37,
    NoEnt = 44,
    NoSpc = 51,
    NoSys = 52,
    NotDir = 54,
    NotEmpty = 55,
    NotSock = 57,
    NotSup = 58,
    Perm = 63,
    RoFs = 69,
    SPipe = 70,
    TimedOut = 73,
    XDev = 75,
    NotCapable = 76,
}

/// Whether the host offers an import.
pub(crate) fn offers(module: &str, name: &str) -> bool {
    OFFERED.contains(&(module, name)) || pg::offers(module, name)
}

/// Splits a caller into its memory and its state.
fn split<'a>(caller: &'a mut Caller<'_, Guest>) -> wasmtime::Result<(Memory<'a>, &'a mut Guest)> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        // A start function runs before the instance is handed over.
        None => {
            let export = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
            export.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?
        }
    };
    let (bytes, guest) = memory.data_and_store_mut(caller);
    Ok((Memory(bytes), guest))
}

/// The errno a guest gets, or the error that ends it.
fn answer(result: Result<(), Fault>) -> wasmtime::Result<i32> {
    match result {
        Ok(()) => Ok(0),
        Err(Fault::Errno(errno)) => Ok(i32::from(errno as u16)),
        Err(Fault::Stop(stop)) => Err(stop.into()),
    }
}

macro_rules! host_functions {
    ($($namespace:expr, $path:path as $name:literal ($($arg:ident: $ty:ty),*);)*) => {
        const OFFERED: &[(&str, &str)] = &[$(($namespace, $name),)* (NAMESPACE, "path_open"), (NAMESPACE, "path_filestat_get"), (NAMESPACE, "proc_exit")];

        fn add_synchronous(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
            $(linker.func_wrap($namespace, $name, |mut caller: Caller<'_, Guest>, $($arg: $ty),*| {
                let (mut memory, guest) = split(&mut caller)?;
                answer($path(&mut memory, guest, $($arg),*))
            })?;)*
            Ok(())
        }
    };
}

host_functions! {
    NAMESPACE, process::args_get as "args_get" (pointers: u32, bytes: u32);
    NAMESPACE, process::args_sizes_get as "args_sizes_get" (count: u32, bytes: u32);
    NAMESPACE, process::environ_get as "environ_get" (pointers: u32, bytes: u32);
    NAMESPACE, process::environ_sizes_get as "environ_sizes_get" (count: u32, bytes: u32);
    NAMESPACE, process::clock_res_get as "clock_res_get" (id: u32, out: u32);
    NAMESPACE, process::clock_time_get as "clock_time_get" (id: u32, precision: u64, out: u32);
    NAMESPACE, process::random_get as "random_get" (start: u32, len: u32);
    NAMESPACE, process::sched_yield as "sched_yield" ();
    NAMESPACE, process::poll_oneoff as "poll_oneoff" (subscriptions: u32, events: u32, count: u32, out: u32);
    NAMESPACE, process::proc_raise as "proc_raise" (signal: u32);
    NAMESPACE, process::sock_accept as "sock_accept" (fd: u32, flags: u32, out: u32);
    NAMESPACE, process::sock_recv as "sock_recv" (fd: u32, iovs: u32, count: u32, flags: u32, out: u32, out_flags: u32);
    NAMESPACE, process::sock_send as "sock_send" (fd: u32, iovs: u32, count: u32, flags: u32, out: u32);
    NAMESPACE, process::sock_shutdown as "sock_shutdown" (fd: u32, how: u32);

    NAMESPACE, descriptors::fd_advise as "fd_advise" (fd: u32, offset: u64, len: u64, advice: u32);
    NAMESPACE, descriptors::fd_allocate as "fd_allocate" (fd: u32, offset: u64, len: u64);
    NAMESPACE, descriptors::fd_close as "fd_close" (fd: u32);
    NAMESPACE, descriptors::fd_sync as "fd_datasync" (fd: u32);
    NAMESPACE, descriptors::fd_fdstat_get as "fd_fdstat_get" (fd: u32, out: u32);
    NAMESPACE, descriptors::fd_fdstat_set_flags as "fd_fdstat_set_flags" (fd: u32, flags: u32);
    NAMESPACE, descriptors::fd_fdstat_set_rights as "fd_fdstat_set_rights" (fd: u32, base: u64, inheriting: u64);
    NAMESPACE, descriptors::fd_filestat_get as "fd_filestat_get" (fd: u32, out: u32);
    NAMESPACE, descriptors::fd_filestat_set_size as "fd_filestat_set_size" (fd: u32, size: u64);
    NAMESPACE, descriptors::fd_filestat_set_times as "fd_filestat_set_times" (fd: u32, atim: u64, mtim: u64, flags: u32);
    NAMESPACE, descriptors::fd_pread as "fd_pread" (fd: u32, iovs: u32, count: u32, offset: u64, out: u32);
    NAMESPACE, descriptors::fd_prestat_get as "fd_prestat_get" (fd: u32, out: u32);
    NAMESPACE, descriptors::fd_prestat_dir_name as "fd_prestat_dir_name" (fd: u32, start: u32, len: u32);
    NAMESPACE, descriptors::fd_pwrite as "fd_pwrite" (fd: u32, iovs: u32, count: u32, offset: u64, out: u32);
    NAMESPACE, descriptors::fd_read as "fd_read" (fd: u32, iovs: u32, count: u32, out: u32);
    NAMESPACE, descriptors::fd_readdir as "fd_readdir" (fd: u32, start: u32, len: u32, cookie: u64, out: u32);
    NAMESPACE, descriptors::fd_renumber as "fd_renumber" (from: u32, to: u32);
    NAMESPACE, descriptors::fd_seek as "fd_seek" (fd: u32, offset: i64, whence: u32, out: u32);
    NAMESPACE, descriptors::fd_sync as "fd_sync" (fd: u32);
    NAMESPACE, descriptors::fd_tell as "fd_tell" (fd: u32, out: u32);
    NAMESPACE, descriptors::fd_write as "fd_write" (fd: u32, iovs: u32, count: u32, out: u32);
    GRID_NAMESPACE, descriptors::set_executable as "set_executable" (fd: u32);

    NAMESPACE, paths::path_create_directory as "path_create_directory" (fd: u32, path: u32, len: u32);
    NAMESPACE, paths::path_filestat_set_times as "path_filestat_set_times" (fd: u32, flags: u32, path: u32, len: u32, atim: u64, mtim: u64, which: u32);
    NAMESPACE, paths::path_link as "path_link" (old_fd: u32, flags: u32, old: u32, old_len: u32, new_fd: u32, new: u32, new_len: u32);
    NAMESPACE, paths::path_readlink as "path_readlink" (fd: u32, path: u32, len: u32, start: u32, size: u32, out: u32);
    NAMESPACE, paths::path_remove_directory as "path_remove_directory" (fd: u32, path: u32, len: u32);
    NAMESPACE, paths::path_rename as "path_rename" (old_fd: u32, old: u32, old_len: u32, new_fd: u32, new: u32, new_len: u32);
    NAMESPACE, paths::path_symlink as "path_symlink" (target: u32, target_len: u32, fd: u32, path: u32, len: u32);
    NAMESPACE, paths::path_unlink_file as "path_unlink_file" (fd: u32, path: u32, len: u32);
}

/// Adds every function of all namespaces. Those that may make a nested call are asynchronous.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    add_synchronous(linker)?;
    pg::add_to_linker(linker)?;
    linker.func_wrap(NAMESPACE, "proc_exit", |_: Caller<'_, Guest>, status: u32| -> wasmtime::Result<()> {
        Err(Stop::Exit(status).into())
    })?;
    linker.func_wrap_async(
        NAMESPACE,
        "path_open",
        |mut caller,
         (fd, lookup, path, len, oflags, rights, _inheriting, fdflags, out): (
            u32,
            u32,
            u32,
            u32,
            u32,
            u64,
            u64,
            u32,
            u32,
        )| {
            Box::new(async move {
                let how = paths::Opening::decode(lookup, oflags, rights, fdflags);
                answer(paths::path_open(&mut caller, fd, (path, len), how, out).await)
            })
        },
    )?;
    linker.func_wrap_async(
        NAMESPACE,
        "path_filestat_get",
        |mut caller, (fd, lookup, path, len, out): (u32, u32, u32, u32, u32)| {
            Box::new(async move { answer(paths::path_filestat_get(&mut caller, fd, lookup, (path, len), out).await) })
        },
    )?;
    Ok(())
}
