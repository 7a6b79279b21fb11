//! Nested calls, spelled as paths below `/grid`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;

use crate::Error;

/// A call of another module. Nothing happens before it is opened or read.
///
/// If it fails, so does the whole call that makes it: the module does not go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    promise: String,
    module: String,
    required: Vec<String>,
    options: Vec<String>,
}

impl Call {
    /// A call of a module under a promise, each a name or a CID. The result of a call by names holds while the names do.
    pub fn new(promise: &str, module: &str) -> Call {
        Call { promise: encode(promise), module: encode(module), required: Vec::new(), options: Vec::new() }
    }

    /// With one more required argument: a text, a number as its text, or the name or CID of an object.
    pub fn text(mut self, text: &str) -> Call {
        self.required.push(encode(text));
        self
    }

    /// With one more required argument: this module's own argument of that number.
    pub fn input(self, number: usize) -> Call {
        self.text(&format!("/in/{number}"))
    }

    /// With one more required argument: the result of another call.
    pub fn call(self, other: &Call) -> Call {
        self.text(&other.grid_path())
    }

    /// With one more argument behind the required ones.
    pub fn option(mut self, text: &str) -> Call {
        self.options.push(encode(text));
        self
    }

    /// The path below `/grid`, with a slash in front.
    pub fn grid_path(&self) -> String {
        let mut path = format!("/{}/{}", self.promise, self.module);
        for argument in &self.required {
            path.push('/');
            path.push_str(argument);
        }
        // Where nothing is required, the options have a component of their own; `,` is an empty one.
        match (self.required.is_empty(), self.options.is_empty()) {
            (true, true) => path.push_str("/,"),
            (true, false) => path = format!("{path}/{}", self.options.join(",")),
            (false, _) => self.options.iter().for_each(|option| path.extend([",", option])),
        }
        path
    }

    /// The path by which this module can open it, or look into it if it is a directory.
    pub fn path(&self) -> String {
        format!("/grid{}", self.grid_path())
    }

    /// Makes the call and opens its result, a file.
    pub fn open(&self) -> Result<File, Error> {
        let path = self.path();
        File::open(&path).map_err(|source| Error::input(path, source))
    }

    /// Makes the call and reads its result, a file.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes).map_err(|source| Error::input(self.path(), source))?;
        Ok(bytes)
    }
}

/// One argument in its canonical spelling.
fn encode(argument: &str) -> String {
    match argument {
        "" => return "%".into(),
        "." => return "%2E".into(),
        ".." => return "%2E%2E".into(),
        _ => {}
    }
    let mut encoded = String::with_capacity(argument.len());
    for byte in argument.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a string can't fail"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_levels_and_options_follow_after_commas() {
        let call = Call::new("local", "grep").text("a b").input(1).option("-i").option("");
        assert_eq!(call.path(), "/grid/local/grep/a%20b/%2Fin%2F1,-i,%");
        assert_eq!(Call::new("local", "now").grid_path(), "/local/now/,");
        assert_eq!(Call::new("local", "concat").option("x,y").option("..").grid_path(), "/local/concat/x%2Cy,%2E%2E");
    }

    #[test]
    fn a_call_within_a_call_is_encoded_once_more() {
        let inner = Call::new("local", "md").input(1);
        let outer = Call::new("local", "sha256").call(&inner);
        assert_eq!(outer.grid_path(), "/local/sha256/%2Flocal%2Fmd%2F%252Fin%252F1");
    }
}
