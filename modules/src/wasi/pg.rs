//! Host services of the node, namespace `pg`. What they answer depends on the node and on the time, so a module that imports
//! one is volatile (`class.rs`).

use wasmtime::{Caller, Linker};

use super::{Errno, split};
use crate::guest::{Denial, Fault, Guest};
use crate::memory::Memory;
use crate::run::Stop;

/// The namespace.
pub(crate) const NAMESPACE: &str = "pg";
const VERIFY_CAPABILITY: &str = "pg_verify_capability";
const ACCESS_CACHE: &str = "pg_access_cache";
/// Longest token looked at, in bytes of either spelling.
const MAX_TOKEN_BYTES: u32 = 32 << 10;

/// Whether the host offers an import.
pub(crate) fn offers(module: &str, name: &str) -> bool {
    module == NAMESPACE && [VERIFY_CAPABILITY, ACCESS_CACHE].contains(&name)
}

pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        NAMESPACE,
        VERIFY_CAPABILITY,
        |mut caller: Caller<'_, Guest>, token: u32, token_len: u32, path: u32, path_len: u32| {
            let (memory, guest) = split(&mut caller)?;
            match verify_capability(&memory, guest, (token, token_len), (path, path_len)) {
                Ok(()) => Ok(0),
                Err(fault) => errno(fault),
            }
        },
    )?;
    linker.func_wrap(NAMESPACE, ACCESS_CACHE, |mut caller: Caller<'_, Guest>, path: u32, path_len: u32| {
        let (memory, guest) = split(&mut caller)?;
        match access_cache(&memory, guest, (path, path_len)) {
            Ok(known) => Ok(i32::from(known)),
            Err(fault) => errno(fault).map(|errno| -errno),
        }
    })?;
    Ok(())
}

/// The number that a guest gets, or the error that ends it.
fn errno(fault: Fault) -> wasmtime::Result<i32> {
    match fault {
        Fault::Errno(errno) => Ok(i32::from(errno as u16)),
        Fault::Stop(stop) => Err(stop.into()),
    }
}

fn verify_capability(memory: &Memory<'_>, guest: &Guest, token: (u32, u32), path: (u32, u32)) -> Result<(), Fault> {
    let (start, len) = token;
    let token = memory.bytes(start, len)?;
    if len > MAX_TOKEN_BYTES {
        return Err(Errno::TooBig.into());
    }
    Ok(guest.grid.verify_capability(token, &text(memory, path)?)?)
}

fn access_cache(memory: &Memory<'_>, guest: &Guest, path: (u32, u32)) -> Result<bool, Fault> {
    Ok(guest.grid.is_known(&text(memory, path)?)?)
}

fn text(memory: &Memory<'_>, (start, len): (u32, u32)) -> Result<String, Fault> {
    Ok(String::from_utf8(memory.path(start, len)?).map_err(|_| Errno::Inval)?)
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Fault {
        let errno = match denial {
            Denial::NoAuthority => Errno::Access,
            Denial::Malformed => Errno::Inval,
            Denial::Unknown => Errno::NoEnt,
            Denial::Pending => Errno::Again,
            Denial::OutOfTime => Errno::TimedOut,
            Denial::Forged => Errno::BadMsg,
            Denial::Failed(error) => return Stop::Nested(error).into(),
        };
        errno.into()
    }
}
