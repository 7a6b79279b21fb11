//! Arguments, environment, clock, randomness, polling; sockets are absent.

use super::Errno;
use crate::guest::{Fault, Guest};
use crate::memory::{MAX_TRANSFER_BYTES, Memory};

type Done = Result<(), Fault>;

pub(super) fn args_sizes_get(memory: &mut Memory<'_>, guest: &mut Guest, count: u32, bytes: u32) -> Done {
    let total: usize = guest.arguments.iter().map(|a| a.len() + 1).sum();
    memory.write_u32(count, guest.arguments.len() as u32)?;
    Ok(memory.write_u32(bytes, total as u32)?)
}

pub(super) fn args_get(memory: &mut Memory<'_>, guest: &mut Guest, pointers: u32, bytes: u32) -> Done {
    let mut at = bytes;
    for (i, argument) in (0u32..).zip(&guest.arguments) {
        memory.write_u32(pointers.checked_add(4 * i).ok_or(Errno::Fault)?, at)?;
        memory.write(at, argument)?;
        at = at.checked_add(argument.len() as u32).ok_or(Errno::Fault)?;
        memory.write(at, &[0])?;
        at += 1;
    }
    Ok(())
}

pub(super) fn environ_sizes_get(memory: &mut Memory<'_>, _: &mut Guest, count: u32, bytes: u32) -> Done {
    memory.write_u32(count, 0)?;
    Ok(memory.write_u32(bytes, 0)?)
}

pub(super) fn environ_get(_: &mut Memory<'_>, _: &mut Guest, _pointers: u32, _bytes: u32) -> Done {
    Ok(())
}

pub(super) fn clock_res_get(memory: &mut Memory<'_>, _: &mut Guest, id: u32, out: u32) -> Done {
    check_clock(id)?;
    Ok(memory.write_u64(out, 1_000)?)
}

pub(super) fn clock_time_get(memory: &mut Memory<'_>, guest: &mut Guest, id: u32, _precision: u64, out: u32) -> Done {
    check_clock(id)?;
    Ok(memory.write_u64(out, guest.tick_ns())?)
}

/// All four clocks of preview1 are the same counter.
fn check_clock(id: u32) -> Result<(), Errno> {
    if id < 4 { Ok(()) } else { Err(Errno::Inval) }
}

pub(super) fn random_get(memory: &mut Memory<'_>, guest: &mut Guest, start: u32, len: u32) -> Done {
    let bytes = memory.bytes_mut(start, len)?;
    if len > MAX_TRANSFER_BYTES {
        return Err(Errno::Inval.into());
    }
    guest.fill_random(bytes);
    Ok(())
}

pub(super) fn sched_yield(_: &mut Memory<'_>, _: &mut Guest) -> Done {
    Ok(())
}

pub(super) fn proc_raise(_: &mut Memory<'_>, _: &mut Guest, _signal: u32) -> Done {
    Err(Errno::NoSys.into())
}

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
const MAX_SUBSCRIPTIONS: u32 = 1024;
const ABSOLUTE_TIME: u32 = 1;

/// Descriptors are always ready; without any, the earliest clock fires and the counter jumps to it.
pub(super) fn poll_oneoff(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    subscriptions: u32,
    events: u32,
    count: u32,
    out: u32,
) -> Done {
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Err(Errno::Inval.into());
    }
    let all = (0..count)
        .map(|i| {
            Subscription::read(memory, subscriptions.checked_add(i * SUBSCRIPTION_BYTES).ok_or(Errno::Fault)?, guest)
        })
        .collect::<Result<Vec<_>, Errno>>()?;
    let earliest_ns = all.iter().filter_map(|s| s.at_ns).min();
    let some_descriptor = all.iter().any(|s| s.at_ns.is_none());
    if let (false, Some(at_ns)) = (some_descriptor, earliest_ns) {
        guest.sleep_until_ns(at_ns);
    }
    let ready = all.iter().filter(|s| if some_descriptor { s.at_ns.is_none() } else { s.at_ns == earliest_ns });
    let mut written = 0;
    for subscription in ready {
        let at = events.checked_add(written * EVENT_BYTES).ok_or(Errno::Fault)?;
        memory.write(at, &[0; EVENT_BYTES as usize])?;
        memory.write_u64(at, subscription.userdata)?;
        memory.write(at + 10, &[subscription.tag])?;
        memory.write_u64(at + 16, subscription.readable_bytes)?;
        written += 1;
    }
    Ok(memory.write_u32(out, written)?)
}

struct Subscription {
    userdata: u64,
    tag: u8,
    /// When a clock fires; `None` for a descriptor.
    at_ns: Option<u64>,
    /// What a read would find.
    readable_bytes: u64,
}

impl Subscription {
    fn read(memory: &Memory<'_>, at: u32, guest: &mut Guest) -> Result<Subscription, Errno> {
        let field = |offset: u32| at.checked_add(offset).ok_or(Errno::Fault);
        let userdata = memory.read_u64(at)?;
        let tag = memory.bytes(field(8)?, 1)?[0];
        let mut readable_bytes = 0;
        let at_ns = match tag {
            0 => {
                check_clock(memory.read_u32(field(16)?)?)?;
                let timeout_ns = memory.read_u64(field(24)?)?;
                let absolute = memory.read_u32(field(40)?)? & ABSOLUTE_TIME != 0;
                Some(if absolute { timeout_ns } else { guest.now_ns().saturating_add(timeout_ns) })
            }
            1 | 2 => {
                let readable = guest.readable_bytes(memory.read_u32(field(16)?)?)?;
                readable_bytes = if tag == 1 { readable } else { 0 };
                None
            }
            _ => return Err(Errno::Inval),
        };
        Ok(Subscription { userdata, tag, at_ns, readable_bytes })
    }
}

pub(super) fn sock_accept(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, _flags: u32, _out: u32) -> Done {
    no_socket(guest, fd)
}

pub(super) fn sock_recv(
    _: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    _iovs: u32,
    _count: u32,
    _flags: u32,
    _out: u32,
    _out_flags: u32,
) -> Done {
    no_socket(guest, fd)
}

pub(super) fn sock_send(
    _: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    _iovs: u32,
    _count: u32,
    _flags: u32,
    _out: u32,
) -> Done {
    no_socket(guest, fd)
}

pub(super) fn sock_shutdown(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, _how: u32) -> Done {
    no_socket(guest, fd)
}

fn no_socket(guest: &mut Guest, fd: u32) -> Done {
    guest.descriptor(fd)?;
    Err(Errno::NotSock.into())
}
