//! A small call of each module of the library.

use gridfs_modules::Argument;
use gridfs_store::Target;

use crate::rig::{Rig, guest, words};

/// By name, with the arguments.
pub fn calls(rig: &Rig) -> Vec<(&'static str, Vec<Argument>)> {
    let text = b"one fish\ntwo fish\nRed fish\n";
    let blob = || rig.blob(text);
    let deep = rig.tree(&[("b.txt", rig.file(b"deep fish\n")), ("c", rig.file(b"\xff\0"))]);
    let tree = rig.tree(&[("a", Target::Directory { cid: deep }), ("z.txt", rig.file(text))]);
    let index = rig.run(&guest("index"), vec![Argument::Tree(tree)]).unwrap();
    let with = |option: &str, blob: Argument| [words(&[option]), vec![blob]].concat();
    let image = include_bytes!("images/turned.jpg");
    let nested = "local/head/%2Flocal%2Fsort%2F%252Flocal%252Ffind%252F%25252Flocal%25252Funtar%25252F%2525252Fin%2525252F1\
                  %252C-type%252Cf%252C-name%252C%25252A%2C-r,-n,5";
    rig.grid.answer(nested, rig.file(text));
    vec![
        ("concat", vec![blob(), blob()]),
        ("decompress", vec![rig.blob(GZIP)]),
        ("diff", vec![blob(), rig.blob(b"one fish\nblue fish\n")]),
        ("find", vec![Argument::Tree(tree), words(&["-name"])[0].clone(), words(&["*.txt"])[0].clone()]),
        ("grep", with("f[i]sh", blob())),
        ("hash", with("sha3-512", blob())),
        ("head", [vec![blob()], words(&["-n", "2"])].concat()),
        ("index", vec![Argument::Tree(tree)]),
        ("jq", with("{b: (.a | map(. * 1.1) | add), a: now}", rig.blob(b"{\"a\": [1, 2.5]}"))),
        ("md", vec![rig.blob(b"# A *b*\n\n|x|\n|-|\n|1|\n")]),
        ("pipeline", [vec![blob()], words(&["*"])].concat()),
        ("search", with("fish", rig.blob(&rig.content(&index.result)))),
        ("sha256", vec![blob()]),
        ("sort", [vec![blob()], words(&["-r"])].concat()),
        (
            "sql",
            with("SELECT a, random() AS r, datetime() AS d FROM t ORDER BY a DESC", rig.blob(b"a,b\n1,2.5\nx,y\n")),
        ),
        ("thumbnail", with("32", rig.blob(image))),
        ("untar", vec![rig.blob(&tar())]),
        ("unzip", vec![rig.blob(ZIP)]),
        ("wc", vec![blob()]),
    ]
}

/// `printf fish | gzip -n`.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\xcb\x2c\xce\0\0\x33\x44\x74\x3f\x04\0\0\0";
/// One stored file `a`, which has `fish`.
const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\0\x33\x44\x74\x3f\x04\0\0\0\x04\0\0\0\x01\0\0\0afishPK\x01\x02\x14\x03\x14\0\
    \0\0\0\0\0\0\x21\0\x33\x44\x74\x3f\x04\0\0\0\x04\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0aPK\x05\x06\0\0\0\0\x01\0\x01\0\
    \x2f\0\0\0\x23\0\0\0\0\0";

/// An archive of one empty directory, and its end mark.
fn tar() -> Vec<u8> {
    let mut header = vec![0; 1536];
    header[..2].copy_from_slice(b"d/");
    header[100..107].copy_from_slice(b"0000755");
    header[124..135].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = b'5';
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
