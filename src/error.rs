//! The one error of a call: what happened, as the caller will see it in every clothing (errno, exit code, message).

use std::fmt;
use std::sync::Arc;

use gridfs_fuse::Errno;
use gridfs_modules::{LoadFailure, RunError, WalkError};
use serde::{Deserialize, Serialize};

/// What kind of failure it is. The order and the exit codes are append-only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Anything that has no code of its own.
    General,
    /// The request itself is wrong: a path that does not parse, an argument of the wrong type.
    Usage,
    /// A name that the symbol table does not know, or a path component that is not there.
    UnknownName,
    /// The promise is not accepted by this node, or does not cover the module.
    NotAccepted,
    /// The bytes behind the module's name are not a module.
    NotModule,
    /// The module trapped or ended with an exit status other than 0.
    ModuleFailed,
    /// Fuel or time ran out.
    TimeLimit,
    /// The module wanted more memory than it may have.
    MemoryLimit,
    /// The module wrote more than it may.
    OutputLimit,
    /// What the call needs is not here, and nobody who has it may be or could be asked.
    Unavailable,
    /// Bytes do not match their hash or checksum.
    Corrupt,
    /// A call that waits for itself.
    Cycle,
    /// The caller went away.
    Interrupted,
    /// No room on the disk.
    Full,
    /// Too much at once; later it may work.
    Busy,
    /// No daemon answers, and the request needs one.
    NoDaemon,
    /// Another run of a module gave another result.
    Diverged,
    /// A result is claimed by nobody whom its promise believes.
    Untrusted,
}

impl Code {
    /// What a program reading the mount sees.
    pub fn errno(self) -> Errno {
        match self {
            Code::General | Code::ModuleFailed | Code::NoDaemon => Errno::EIO,
            Code::Usage => Errno::EINVAL,
            Code::UnknownName => Errno::ENOENT,
            Code::NotAccepted => Errno::EACCES,
            Code::NotModule => Errno::ENOEXEC,
            Code::TimeLimit => Errno::ETIMEDOUT,
            Code::MemoryLimit => Errno::ENOMEM,
            Code::OutputLimit => Errno::EFBIG,
            Code::Unavailable => Errno::EHOSTUNREACH,
            Code::Corrupt | Code::Diverged | Code::Untrusted => Errno::EBADMSG,
            Code::Cycle => Errno::ELOOP,
            Code::Interrupted => Errno::EINTR,
            Code::Full => Errno::ENOSPC,
            Code::Busy => Errno::EAGAIN,
        }
    }

    /// Whether it is the answer to the call: whoever handled it would say the same. The rest befell its handler.
    pub fn is_final(self) -> bool {
        match self {
            Code::Usage | Code::UnknownName | Code::NotAccepted | Code::NotModule | Code::ModuleFailed => true,
            Code::TimeLimit | Code::MemoryLimit | Code::OutputLimit | Code::Cycle | Code::Interrupted => true,
            Code::General | Code::Unavailable | Code::Corrupt | Code::Full | Code::Busy | Code::NoDaemon => false,
            Code::Diverged | Code::Untrusted => false,
        }
    }

    /// What a shell sees: 0 is success, 1 general, 2 usage, 10 unknown name, 11 module failed, 12 limit,
    /// 13 unavailable, 14 verification failed, 15 no daemon, 16 diverged, 17 untrusted, 130 interrupted.
    pub fn exit_status(self) -> u8 {
        match self {
            Code::General | Code::NotAccepted | Code::Full | Code::Busy => 1,
            Code::Usage => 2,
            Code::UnknownName => 10,
            Code::NotModule | Code::ModuleFailed | Code::Cycle => 11,
            Code::TimeLimit | Code::MemoryLimit | Code::OutputLimit => 12,
            Code::Unavailable => 13,
            Code::Corrupt => 14,
            Code::NoDaemon => 15,
            Code::Diverged => 16,
            Code::Untrusted => 17,
            Code::Interrupted => 130,
        }
    }
}

/// An error of the node. Cheap to clone: all waiters of one call share it.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its kind.
    pub code: Code,
    message: Arc<str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Result of the node.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that starts here.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into().into(), source: None }
    }

    /// An error with what led to it.
    pub fn caused(
        code: Code,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error { code, message: message.into().into(), source: Some(Arc::new(source)) }
    }

    /// The same error, saying first what was being done.
    pub fn during(self, what: impl fmt::Display) -> Error {
        Error { message: format!("{what}: {}", self.message).into(), ..self }
    }
}

impl fmt::Display for Error {
    /// The message, then what led to it, cause by cause; a cause that is already told is not told again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.message.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !told.contains(&text) {
                told.push_str(": ");
                told.push_str(&text);
            }
            cause = error.source();
        }
        f.write_str(&told)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<gridfs_store::Error> for Error {
    fn from(error: gridfs_store::Error) -> Error {
        Error::caused(store_code(&error), error.to_string(), error)
    }
}

fn store_code(error: &gridfs_store::Error) -> Code {
    use gridfs_store::Error as E;
    match error {
        E::NotFound { .. } => Code::Unavailable,
        E::Corrupt { .. } | E::Missing { .. } | E::Manifest { .. } | E::Mismatch { .. } => Code::Corrupt,
        E::Full { .. } | E::Quota { .. } => Code::Full,
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::Full,
        E::TooLarge { .. } => Code::OutputLimit,
        E::Locked { .. } | E::LargePutUnderWay => Code::Busy,
        E::Cancelled => Code::Interrupted,
        E::Extract { source, .. } => store_code(source),
        _ => Code::General,
    }
}

impl From<WalkError> for Error {
    fn from(error: WalkError) -> Error {
        match error {
            WalkError::NotFound(_) | WalkError::NotADirectory(_) => Error::new(Code::UnknownName, error.to_string()),
            WalkError::Escape | WalkError::Loop => Error::new(Code::Usage, error.to_string()),
            WalkError::Store(error) => error.into(),
        }
    }
}

impl From<LoadFailure> for Error {
    fn from(failure: LoadFailure) -> Error {
        match failure {
            LoadFailure::Module(error) => Error::caused(Code::NotModule, error.to_string(), error),
            LoadFailure::Store(error) => error.into(),
            LoadFailure::Compiler(error) => Error::caused(Code::General, "can't start a process to compile it", error),
        }
    }
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Error {
        let code = match error {
            RunError::Store(error) => return error.into(),
            // A nested call's failure keeps its code: the limit or trap below is what happened.
            RunError::Nested(source) => {
                let code = source.downcast_ref::<Error>().map_or(Code::ModuleFailed, |nested| nested.code);
                return Error::new(code, format!("a nested call failed: {source}"));
            }
            RunError::Exit { .. } | RunError::Trap { .. } => Code::ModuleFailed,
            RunError::Fuel { .. } => Code::TimeLimit,
            RunError::Memory { .. } => Code::MemoryLimit,
            RunError::Output { .. } => Code::OutputLimit,
            RunError::Engine(_) => Code::General,
        };
        Error::caused(code, error.to_string(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_errno_and_exit_status() {
        let table = [
            (Code::General, Errno::EIO, 1),
            (Code::Usage, Errno::EINVAL, 2),
            (Code::UnknownName, Errno::ENOENT, 10),
            (Code::NotAccepted, Errno::EACCES, 1),
            (Code::NotModule, Errno::ENOEXEC, 11),
            (Code::ModuleFailed, Errno::EIO, 11),
            (Code::TimeLimit, Errno::ETIMEDOUT, 12),
            (Code::MemoryLimit, Errno::ENOMEM, 12),
            (Code::OutputLimit, Errno::EFBIG, 12),
            (Code::Unavailable, Errno::EHOSTUNREACH, 13),
            (Code::Corrupt, Errno::EBADMSG, 14),
            (Code::Cycle, Errno::ELOOP, 11),
            (Code::Interrupted, Errno::EINTR, 130),
            (Code::Full, Errno::ENOSPC, 1),
            (Code::Busy, Errno::EAGAIN, 1),
            (Code::NoDaemon, Errno::EIO, 15),
            (Code::Diverged, Errno::EBADMSG, 16),
            (Code::Untrusted, Errno::EBADMSG, 17),
        ];
        for (code, errno, status) in table {
            assert_eq!((code.errno().code(), code.exit_status()), (errno.code(), status), "{code:?}");
        }
    }
}
