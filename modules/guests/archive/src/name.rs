//! The name of an entry: where it belongs below the directory that is unpacked into.

use std::fmt;

/// A name that stays below the directory: no component is empty, `.` or `..`. Without components, it is the
/// directory itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Vec<Vec<u8>>);

impl Name {
    /// Reads a name as an archive writes it; "." and doubled slashes fall away. The error says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Name, &'static str> {
        if bytes.is_empty() {
            return Err("it is empty");
        }
        if bytes[0] == b'/' {
            return Err("it is absolute");
        }
        if bytes.contains(&0) {
            return Err("it has a NUL byte");
        }
        let components = bytes.split(|&byte| byte == b'/');
        let kept = components.filter(|component| !matches!(*component, b"" | b"."));
        let name = Name(kept.map(<[u8]>::to_vec).collect());
        if name.0.iter().any(|component| component == b"..") {
            return Err("it has the component \"..\"");
        }
        Ok(name)
    }

    /// Whether this is the directory that is unpacked into.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directories the name leads through, outermost first, without the root.
    pub fn parents(&self) -> impl Iterator<Item = Name> {
        (1..self.0.len()).map(|length| Name(self.0[..length].to_vec()))
    }

    /// The components, joined by slashes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes()))
    }
}
