//! Which errnos reach the kernel.

use crate::tree::Errno;

/// An errno of the tree as the kernel may hear it.
///
/// `ENOSYS` would switch the operation off for the life of the mount (and make every `open` succeed); a number from 512
/// on is refused as a reply, and the caller would wait for ever.
pub(crate) fn wire(error: Errno) -> Errno {
    match error.code() {
        code if code == Errno::ENOSYS.code() => Errno::EOPNOTSUPP,
        1..512 => error,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_that_harm_the_mount_never_reach_the_kernel() {
        let passed = |code| wire(Errno::from_i32(code)).code();
        assert_eq!(passed(Errno::ENOENT.code()), Errno::ENOENT.code());
        assert_eq!(passed(511), 511);
        assert_eq!(passed(512), Errno::EIO.code());
        assert_eq!(passed(i32::MAX), Errno::EIO.code());
        assert_eq!(passed(Errno::ENOSYS.code()), Errno::EOPNOTSUPP.code());
    }
}
