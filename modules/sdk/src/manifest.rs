//! The manifest, encoded while the module is compiled: the custom section `grid.manifest` of `modules/ABI.md`.

/// What the module says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// Its own name: 1 to 64 characters of `[a-z0-9._-]`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it promises its caller, in a sentence or two.
    pub promise: &'static str,
    /// Its arguments, the required ones first.
    pub args: &'static [Argument],
    /// What a call returns.
    pub returns: Returns,
    /// Whether it is asked which calls it accepts.
    pub accept_dynamic: bool,
    /// How long a volatile result holds, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// What it never needs more of.
    pub limits: Limits,
}

impl Manifest {
    /// One without name, version, promise and arguments, that returns a blob: for what is left out of another.
    pub const EMPTY: Manifest = Manifest {
        name: "",
        version: "",
        promise: "",
        args: &[],
        returns: Returns::Blob,
        accept_dynamic: false,
        ttl_ms: None,
        limits: Limits { fuel: None, wall_ms: None, memory_bytes: None, output_bytes: None },
    };
}

/// A declared argument.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    name: &'static str,
    kind: Kind,
    required: bool,
    variadic: bool,
}

impl Argument {
    /// One that every call must give.
    pub const fn required(name: &'static str, kind: Kind) -> Argument {
        Argument { name, kind, required: true, variadic: false }
    }

    /// One that a call may leave out.
    pub const fn optional(name: &'static str, kind: Kind) -> Argument {
        Argument { name, kind, required: false, variadic: false }
    }

    /// Any number of values; it stands last.
    pub const fn variadic(name: &'static str, kind: Kind) -> Argument {
        Argument { name, kind, required: false, variadic: true }
    }
}

/// The kind of an argument.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A file.
    Blob,
    /// A directory.
    Tree,
    /// A text.
    Text,
    /// A whole number.
    Int,
}

/// The kind of a result.
#[derive(Clone, Copy, Debug)]
pub enum Returns {
    /// What is written to standard output.
    Blob,
    /// What is made below `/out`.
    Tree,
}

/// Bounds that a module sets for itself.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Units of work.
    pub fuel: Option<u64>,
    /// Time, in milliseconds.
    pub wall_ms: Option<u64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The result, in bytes.
    pub output_bytes: Option<u64>,
}

/// Puts a manifest into the module. Given once, beside `main`; `gridfs module build` then needs no `manifest.toml`.
#[macro_export]
macro_rules! manifest {
    ($manifest:expr) => {
        #[used]
        #[cfg_attr(target_family = "wasm", unsafe(link_section = "grid.manifest"))]
        static GRID_MANIFEST: [u8; $crate::encode(&$manifest).1] = {
            let (encoded, length) = $crate::encode(&$manifest);
            let mut bytes = [0; $crate::encode(&$manifest).1];
            let mut at = 0;
            while at < length {
                bytes[at] = encoded[at];
                at += 1;
            }
            bytes
        };
    };
}

/// Longest encoding: that of the longest texts and the most arguments, with room to spare.
const MAX_BYTES: usize = 16 * 1024;

/// The deterministic CBOR of a manifest, and how many of the bytes it is. A panic, at compile time, names what is wrong with it;
/// what else the node asks of a manifest, `gridfs module build` tells.
pub const fn encode(manifest: &Manifest) -> ([u8; MAX_BYTES], usize) {
    let Manifest { name, version, promise, args, returns, accept_dynamic, ttl_ms, limits } = manifest;
    assert!(!name.is_empty() && name.len() <= 64, "a module's name has 1 to 64 characters");
    assert!(!version.is_empty() && version.len() <= 64, "a module's version has 1 to 64 bytes");
    assert!(!promise.is_empty() && promise.len() <= 4096, "a module's promise has 1 to 4096 bytes");
    assert!(args.len() <= 32, "a module has at most 32 arguments");
    let values = [limits.fuel, limits.wall_ms, limits.memory_bytes, limits.output_bytes];
    let set = count(&values);
    let keys = 6 + *accept_dynamic as u64 + ttl_ms.is_some() as u64 + (set > 0) as u64;
    let mut out = Encoder { bytes: [0; MAX_BYTES], length: 0 };
    // Keys stand in the order of their encodings: shorter ones first, then bytewise.
    out.head(MAP, keys);
    out.text("v");
    out.head(UINT, 1);
    out.text("args");
    out.head(ARRAY, args.len() as u64);
    let mut at = 0;
    while at < args.len() {
        out.argument(&args[at]);
        at += 1;
    }
    out.text("name");
    out.text(name);
    if *accept_dynamic {
        out.text("accept");
        out.text("dynamic");
    }
    if set > 0 {
        out.text("limits");
        out.limits(set, &values);
    }
    if let Some(ttl_ms) = ttl_ms {
        out.text("ttl_ms");
        out.head(UINT, *ttl_ms);
    }
    out.text("promise");
    out.text(promise);
    out.text("returns");
    out.text(match returns {
        Returns::Blob => "blob",
        Returns::Tree => "tree",
    });
    out.text("version");
    out.text(version);
    (out.bytes, out.length)
}

const fn count(values: &[Option<u64>; 4]) -> u64 {
    let (mut set, mut at) = (0, 0);
    while at < values.len() {
        set += values[at].is_some() as u64;
        at += 1;
    }
    set
}

/// Major types of CBOR (RFC 8949 section 3.1), as they stand in the first byte.
const UINT: u8 = 0 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

struct Encoder {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl Encoder {
    const fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// The shortest head for a number.
    const fn head(&mut self, major: u8, number: u64) {
        let (additional, following) = match number {
            0..24 => (number as u8, 0),
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        self.byte(major | additional);
        let mut left = following;
        while left > 0 {
            left -= 1;
            self.byte((number >> (8 * left)) as u8);
        }
    }

    const fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        let mut at = 0;
        while at < text.len() {
            self.byte(text.as_bytes()[at]);
            at += 1;
        }
    }

    const fn argument(&mut self, argument: &Argument) {
        assert!(!argument.name.is_empty() && argument.name.len() <= 64, "an argument's name has 1 to 64 characters");
        self.head(MAP, 2 + !argument.required as u64 + argument.variadic as u64);
        self.text("name");
        self.text(argument.name);
        self.text("type");
        self.text(match argument.kind {
            Kind::Blob => "blob",
            Kind::Tree => "tree",
            Kind::Text => "text",
            Kind::Int => "int",
        });
        if !argument.required {
            self.text("required");
            self.byte(FALSE);
        }
        if argument.variadic {
            self.text("variadic");
            self.byte(TRUE);
        }
    }

    const fn limits(&mut self, set: u64, values: &[Option<u64>; 4]) {
        const KEYS: [&str; 4] = ["fuel", "wall_ms", "memory_bytes", "output_bytes"];
        self.head(MAP, set);
        let mut at = 0;
        while at < values.len() {
            if let Some(value) = values[at] {
                self.text(KEYS[at]);
                self.head(UINT, value);
            }
            at += 1;
        }
    }
}
