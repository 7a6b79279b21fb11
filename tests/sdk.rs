//! What modules/sdk spells and encodes is what the node reads.

use gridfs_modules::Manifest;
use gridfs_modules::manifest::{Accepts, ArgKind, Argument, Limits, Returns};

/// With every key there is, and numbers of every length.
const FULL: grid::Manifest = grid::Manifest {
    name: "full-1.0",
    version: "1.0.0",
    promise: "Gives back what it is given: a text of more than 23 bytes,\nin two lines.",
    args: &[
        grid::Argument::required("file", grid::Kind::Blob),
        grid::Argument::required("directory", grid::Kind::Tree),
        grid::Argument::optional("number", grid::Kind::Int),
        grid::Argument::variadic("words", grid::Kind::Text),
    ],
    returns: grid::Returns::Tree,
    accept_dynamic: true,
    ttl_ms: Some(23),
    limits: grid::Limits {
        fuel: Some(u64::MAX),
        wall_ms: Some(24),
        memory_bytes: Some(65_536),
        output_bytes: Some(256),
    },
};

const SMALL: grid::Manifest =
    grid::Manifest { name: "small", version: "1", promise: "Nothing.", ..grid::Manifest::EMPTY };

grid::manifest!(FULL);

fn argument(name: &str, kind: ArgKind, required: bool, variadic: bool) -> Argument {
    Argument { name: name.into(), kind, required, variadic }
}

#[test]
fn manifests_have_the_bytes_of_the_host_s_encoder() {
    let full = Manifest {
        v: 1,
        args: vec![
            argument("file", ArgKind::Blob, true, false),
            argument("directory", ArgKind::Tree, true, false),
            argument("number", ArgKind::Int, false, false),
            argument("words", ArgKind::Text, false, true),
        ],
        name: FULL.name.into(),
        accept: Accepts::Dynamic,
        limits: Some(Limits {
            fuel: Some(u64::MAX),
            wall_ms: Some(24),
            memory_bytes: Some(65_536),
            output_bytes: Some(256),
        }),
        ttl_ms: Some(23),
        promise: FULL.promise.into(),
        returns: Returns::Tree,
        version: FULL.version.into(),
    };
    assert_eq!(GRID_MANIFEST.as_slice(), full.encode());
    assert_eq!(Manifest::decode(&GRID_MANIFEST).unwrap(), full);

    let small = Manifest {
        args: Vec::new(),
        name: "small".into(),
        promise: "Nothing.".into(),
        version: "1".into(),
        ..Manifest::untyped()
    };
    let (bytes, length) = grid::encode(&SMALL);
    assert_eq!(&bytes[..length], small.encode());
}

#[test]
fn the_longest_manifest_fits() {
    const NAME: &str = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl";
    static ARGS: [grid::Argument; 32] = [grid::Argument::optional(NAME, grid::Kind::Blob); 32];
    let promise: &'static str = "p".repeat(4096).leak();
    let longest = grid::Manifest { name: NAME, version: NAME, promise, args: &ARGS, ..FULL };
    let (bytes, length) = grid::encode(&longest);
    assert!(length < bytes.len() && bytes[length] == 0, "{length}");
}

#[test]
fn paths_are_spelled_as_the_grammar_has_them() {
    for text in ["war.txt", "", ".", "..", "...", "a b/c,d%e", "-l", "@x", "é", "~user_1", "\n"] {
        let call = grid::Call::new("local", "md").text(text).option(text);
        let encoded = gridfs::path::encode(text);
        assert_eq!(call.grid_path(), format!("/local/md/{encoded},{encoded}"));
        let outer = grid::Call::new("local", "wc").call(&call);
        assert_eq!(outer.path(), format!("/grid/local/wc/{}", gridfs::path::encode(&call.grid_path())));
    }
}
