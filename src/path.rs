//! The path grammar: `/promise/module/arg/.../arg,more`, spelled one way only.
//!
//! A component is one or more percent-encoded arguments, separated by commas. RFC 3986 unreserved characters stay raw,
//! every other byte is `%XX` in upper case; "." and ".." are `%2E` and `%2E%2E`; the empty argument is `%`. A component
//! that is `@` and a CID stands for all arguments, as the stored CBOR list of that CID. The component `,` is an
//! empty list, for a module without required arguments. [`decode`] reads any spelling, [`encode`] writes the canonical one.

use std::fmt::Write as _;

/// Longest path component that file systems take, in bytes.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Most arguments of one call.
pub const MAX_ARGUMENTS: usize = 1024;
/// The component that stands for no arguments at all.
pub const NO_ARGUMENTS: &str = ",";

/// Why a component or path does not parse.
#[derive(Debug, Clone, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("{0:?} has a % that two hexadecimal digits don't follow; write %25 for a percent sign")]
    Percent(String),
    /// An argument decodes to bytes that are not UTF-8, or to a NUL.
    #[error("{0:?} does not decode to UTF-8 text without NUL")]
    Text(String),
    /// Two separators without an argument between them.
    #[error("{0:?} has an empty argument; write % for the empty text")]
    Empty(String),
    /// A path that does not start with `/promise/module`.
    #[error("{0:?} is not a grid path: it starts with /promise/module")]
    Short(String),
    /// Too many arguments.
    #[error("more than {MAX_ARGUMENTS} arguments")]
    TooMany,
}

/// Writes one argument in canonical spelling.
pub fn encode(argument: &str) -> String {
    match argument {
        "" => return "%".into(),
        "." => return "%2E".into(),
        ".." => return "%2E%2E".into(),
        _ => {}
    }
    let mut encoded = String::with_capacity(argument.len());
    for byte in argument.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string can't fail");
        }
    }
    encoded
}

/// Reads one argument in any spelling.
pub fn decode(argument: &str) -> Result<String, PathError> {
    if argument == "%" {
        return Ok(String::new());
    }
    if argument.is_empty() {
        return Err(PathError::Empty(argument.into()));
    }
    let mut decoded = Vec::with_capacity(argument.len());
    let mut rest = argument.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = rest.get(..2).and_then(|d| std::str::from_utf8(d).ok());
            let value = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = value.and_then(|d| u8::from_str_radix(d, 16).ok());
            decoded.push(value.ok_or_else(|| PathError::Percent(argument.into()))?);
            rest = &rest[2..];
        } else {
            decoded.push(byte);
        }
    }
    match String::from_utf8(decoded) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(PathError::Text(argument.into())),
    }
}

/// The arguments of one component.
pub fn decode_component(component: &str) -> Result<Vec<String>, PathError> {
    if component == NO_ARGUMENTS {
        return Ok(Vec::new());
    }
    if component.is_empty() || component.split(',').any(str::is_empty) {
        return Err(PathError::Empty(component.into()));
    }
    let arguments: Vec<String> = component.split(',').map(decode).collect::<Result<_, _>>()?;
    if arguments.len() > MAX_ARGUMENTS { Err(PathError::TooMany) } else { Ok(arguments) }
}

/// The canonical component of some arguments.
pub fn encode_component<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let encoded: Vec<String> = arguments.into_iter().map(encode).collect();
    if encoded.is_empty() { NO_ARGUMENTS.into() } else { encoded.join(",") }
}

/// A path split at its slashes: the promise, the module, and the components after them.
#[derive(Debug, Clone, Eq, PartialEq)]
pub struct GridPath {
    /// First component, decoded: a name or a CID.
    pub promise: String,
    /// Second component, decoded: a name or a CID.
    pub module: String,
    /// What follows, still encoded.
    pub rest: Vec<String>,
}

impl GridPath {
    /// Splits `/promise/module/...`; the leading slash may be missing.
    pub fn parse(path: &str) -> Result<GridPath, PathError> {
        let mut components = path.split('/').filter(|c| !c.is_empty());
        let (Some(promise), Some(module)) = (components.next(), components.next()) else {
            return Err(PathError::Short(path.into()));
        };
        Ok(GridPath {
            promise: decode(promise)?,
            module: decode(module)?,
            rest: components.map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_spelling() {
        let table = [
            ("war.txt", "war.txt"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("a b/c,d%e", "a%20b%2Fc%2Cd%25e"),
            ("-l", "-l"),
            ("@x", "%40x"),
            ("é", "%C3%A9"),
            ("~user_1", "~user_1"),
        ];
        for (plain, encoded) in table {
            assert_eq!(encode(plain), encoded);
            assert_eq!(decode(encoded).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn other_spellings_decode_to_the_same() {
        assert_eq!(decode("%77ar.txt").unwrap(), "war.txt");
        assert_eq!(decode("%c3%a9").unwrap(), "é");
        assert_eq!(decode("a b").unwrap(), "a b");
    }

    #[test]
    fn what_does_not_parse() {
        assert_eq!(decode("%4"), Err(PathError::Percent("%4".into())));
        assert_eq!(decode("%zz"), Err(PathError::Percent("%zz".into())));
        assert_eq!(decode("%+1"), Err(PathError::Percent("%+1".into())));
        assert_eq!(decode("100%"), Err(PathError::Percent("100%".into())));
        assert_eq!(decode("%FF"), Err(PathError::Text("%FF".into())));
        assert_eq!(decode("a%00b"), Err(PathError::Text("a%00b".into())));
        assert_eq!(decode_component("a,,b"), Err(PathError::Empty("a,,b".into())));
        assert_eq!(decode_component(""), Err(PathError::Empty("".into())));
        assert_eq!(decode_component(&"a,".repeat(2000)[..3999]), Err(PathError::TooMany));
        assert_eq!(GridPath::parse("/local"), Err(PathError::Short("/local".into())));
    }

    #[test]
    fn components_hold_lists() {
        assert_eq!(decode_component("war.txt,-l,%").unwrap(), ["war.txt", "-l", ""]);
        assert_eq!(encode_component(["war.txt", "-l", ""]), "war.txt,-l,%");
        assert_eq!(decode_component(",").unwrap(), Vec::<String>::new());
        assert_eq!(encode_component([]), ",");
    }

    #[test]
    fn paths_split_at_slashes() {
        let path = GridPath::parse("/local/grep/a%2Fb/war.txt,-i").unwrap();
        assert_eq!((path.promise.as_str(), path.module.as_str()), ("local", "grep"));
        assert_eq!(path.rest, ["a%2Fb", "war.txt,-i"]);
    }

    #[test]
    fn random_text_round_trips() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            let mut text = String::new();
            for _ in 0..state % 20 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(char::from_u32((state >> 40) as u32 % 0x500 + 1).unwrap_or('x'));
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let encoded = encode(&text);
            assert_eq!(decode(&encoded).unwrap(), text);
            assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        }
    }
}
