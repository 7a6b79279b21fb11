//! The modules of the library that do what a well-known tool does, beside that tool.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gridfs_modules::{Argument, Limits, RunError};

use crate::rig::{LIMITS, Rig, guest, words};

/// What a module says that fails by itself.
fn said(rig: &Rig, name: &str, arguments: Vec<Argument>) -> String {
    match rig.run(&guest(name), arguments) {
        Err(RunError::Exit { status: 1, stderr }) => String::from_utf8(stderr).unwrap(),
        other => panic!("{name}: {other:?}"),
    }
}

/// What a tool prints, in the C locale, when it reads `input`; none, loudly, if the tool is missing.
fn tool(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: {program} can't be run ({error}); the module is not compared with it");
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A tool that ends before it has read all, as head does, breaks the pipe.
    writer.join().unwrap().ok();
    Some(output.stdout)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// Lines with numbers, words, bytes that are no UTF-8, and repetitions.
fn lines(count: u64) -> Vec<u8> {
    let mut dice = Dice(count);
    let mut text = Vec::new();
    for _ in 0..count {
        match dice.roll(6) {
            0 => text.extend(format!("{}", dice.roll(200)).bytes()),
            1 => text.extend(format!("-{}.{}0", dice.roll(20), dice.roll(20)).bytes()),
            2 => text.extend(format!("  00{} apples", dice.roll(20)).bytes()),
            3 => text.extend(b"\xff\x00\xc3\xa9"),
            4 => {}
            _ => text.extend(format!("word {}", dice.roll(20)).bytes()),
        }
        text.push(b'\n');
    }
    text
}

#[test]
fn sort_sorts_as_gnu_sort_does() {
    let rig = Rig::new();
    let sort = guest("sort");
    let run = |text: &[u8], options: &[&str]| {
        let done = rig.run(&sort, [vec![rig.blob(text)], words(options)].concat()).unwrap();
        rig.content(&done.result)
    };
    assert_eq!(run(b"b\na\nB\n\xff\n", &[]), b"B\na\nb\n\xff\n");
    assert_eq!(run(b"10 x\n9\n-1.5\n-1.25", &["-n"]), b"-1.5\n-1.25\n9\n10 x\n");
    assert_eq!(run(b"a\nb\na\n", &["-ru"]), b"b\na\n");
    assert_eq!(run(b"", &[]), b"");
    assert_eq!(run(b"\n\n", &["-u"]), b"\n");
    let text = lines(2_000);
    for options in [&[][..], &["-r"], &["-n"], &["-u"], &["-rn"], &["-nu"], &["-rnu"]] {
        if let Some(expected) = tool("sort", options, &text) {
            assert!(run(&text, options) == expected, "sort {options:?} differs");
        }
    }
}

#[test]
fn head_prints_the_beginning() {
    let rig = Rig::new();
    let head = guest("head");
    let text = lines(50);
    for options in [&[][..], &["-n", "3"], &["-n3"], &["-7"], &["-c", "100"], &["-n", "0"], &["-n", "1000"]] {
        let done = rig.run(&head, [vec![rig.blob(&text)], words(options)].concat()).unwrap();
        if let Some(expected) = tool("head", options, &text) {
            assert!(rig.content(&done.result) == expected, "head {options:?} differs");
        }
    }
    assert_eq!(rig.text(&head, [vec![rig.blob(b"one\ntwo\nend")], words(&["-n", "3"])].concat()), "one\ntwo\nend");
    let error = rig.run(&head, [vec![rig.blob(b"")], words(&["-n", "-3"])].concat()).unwrap_err();
    assert!(
        error.to_string().ends_with("head: usage: head FILE [-n LINES | -c BYTES]: \"-n -3\" is neither"),
        "{error}"
    );
}

#[test]
fn concat_joins() {
    let rig = Rig::new();
    assert_eq!(
        rig.text(&guest("concat"), vec![rig.blob(b"a\n"), rig.blob(b""), rig.blob(b"b"), rig.blob(b"c")]),
        "a\nbc"
    );
    assert_eq!(rig.text(&guest("concat"), vec![rig.blob(b"alone")]), "alone");
}

#[test]
fn hash_hashes() {
    let rig = Rig::new();
    let hash = guest("hash");
    let run = |algorithm: &str, bytes: &[u8]| rig.text(&hash, [words(&[algorithm]), vec![rig.blob(bytes)]].concat());
    assert_eq!(run("sha256", b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n");
    assert_eq!(run("sha3-256", b"abc"), "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532\n");
    let text = lines(3_000);
    assert_eq!(run("blake3", &text), format!("{}\n", blake3::hash(&text)));
    for (algorithm, program) in [("sha224", "sha224sum"), ("sha384", "sha384sum"), ("sha512", "sha512sum")] {
        if let Some(expected) = tool(program, &[], &text) {
            assert_eq!(
                run(algorithm, &text).trim_end(),
                String::from_utf8(expected).unwrap().trim_end_matches("  -\n")
            );
        }
    }
    for bits in ["224", "384", "512"] {
        if let Some(expected) = tool("openssl", &["dgst", &format!("-sha3-{bits}"), "-r"], &text) {
            let expected = String::from_utf8(expected).unwrap();
            assert_eq!(Some(run(&format!("sha3-{bits}"), &text).trim_end()), expected.split_whitespace().next());
        }
    }
    let error = rig.run(&hash, [words(&["md5"]), vec![rig.blob(b"")]].concat()).unwrap_err();
    assert!(error.to_string().contains("\"md5\" is not one of sha224, "), "{error}");
}

#[test]
fn decompress_gives_what_was_compressed() {
    let rig = Rig::new();
    let decompress = guest("decompress");
    let text = lines(20_000);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let Some(compressed) = tool(program, &["-c"], &text) else { continue };
        let done = rig.run(&decompress, vec![rig.blob(&compressed)]).unwrap();
        assert!(rig.content(&done.result) == text, "{program}");
        let twice = [compressed.as_slice(), &compressed].concat();
        let done = rig.run(&decompress, vec![rig.blob(&twice)]).unwrap();
        assert!(rig.content(&done.result) == [text.as_slice(), &text].concat(), "{program}, two members");
        let cut = said(&rig, "decompress", vec![rig.blob(&compressed[..compressed.len() / 2])]);
        assert!(cut.starts_with("decompress: can't read /in/1: "), "{program}: {cut}");
        let mut damaged = compressed.clone();
        damaged[compressed.len() / 2] ^= 0x40;
        let damaged = said(&rig, "decompress", vec![rig.blob(&damaged)]);
        assert!(damaged.starts_with("decompress: can't read /in/1: "), "{program}: {damaged}");
    }
    let plain = said(&rig, "decompress", vec![rig.blob(b"plain text")]);
    assert_eq!(plain, "decompress: /in/1 is not compressed with gzip, bzip2, xz or zstd\n");
}

/// 64 MiB of zeros in 64 KiB: the limit of output ends it, long before that of memory.
#[test]
fn a_bomb_ends_at_the_limit_of_output() {
    let mut rig = Rig::new();
    rig.limits = Limits { output_bytes: 1 << 20, memory_bytes: 32 << 20, ..LIMITS };
    let zeros = vec![0; 64 << 20];
    for program in ["gzip", "zstd"] {
        let Some(bomb) = tool(program, &["-c"], &zeros) else { continue };
        let error = rig.run(&guest("decompress"), vec![rig.blob(&bomb)]).unwrap_err();
        assert!(matches!(error, RunError::Output { limit_bytes: 1048576 }), "{program}: {error}");
    }
}

#[test]
fn jq_filters() {
    let rig = Rig::new();
    let jq = guest("jq");
    let json = br#"{"b":[1,2.5,{"c":"\u00e9\n"}],"a":null} {"b":[],"a":true}"#;
    let run = |filter: &str, options: &[&str]| {
        rig.text(&jq, [words(&[filter]), vec![rig.blob(json)], words(options)].concat())
    };
    assert_eq!(run(".a", &[]), "null\ntrue\n");
    assert_eq!(run(".b[2]?.c // \"none\"", &["-r"]), "é\n\nnone\n");
    assert_eq!(run(".b", &["-c"]), "[1,2.5,{\"c\":\"é\\n\"}]\n[]\n");
    assert_eq!(run(". | keys_unsorted", &["-c"]), "[\"b\",\"a\"]\n[\"b\",\"a\"]\n");
    assert_eq!(run("map(.b | length) | add", &["-s"]), "3\n");
    assert_eq!(run("[inputs.a]", &["-nc"]), "[null,true]\n");
    assert_eq!(run("[.b[] | numbers] | add", &[]), "3.5\nnull\n");
    for (filter, options) in [(".", &[][..]), (".", &["-S"]), ("to_entries[] | [.key, (.value | type)]", &["-c"])] {
        let arguments: Vec<&str> = options.iter().copied().chain([filter]).collect();
        if let Some(expected) = tool("jq", &arguments, json) {
            assert_eq!(run(filter, options), String::from_utf8(expected).unwrap(), "jq {arguments:?}");
        }
    }
    let fails = |filter: &str, json: &[u8]| said(&rig, "jq", [words(&[filter]), vec![rig.blob(json)]].concat());
    assert_eq!(fails(".", b"{\"a\": }"), "jq: /in/2 is not JSON: byte offset 6: value expected\n");
    assert_eq!(fails(".a", b"[1]"), "jq: cannot index [1] with \"a\"\n");
    assert_eq!(fails("error(\"no\")", b"1"), "jq: \"no\"\n");
    let error = rig.run(&jq, [words(&[".[", "x"]), words(&[])].concat()).unwrap_err();
    assert!(error.to_string().contains("jq: the filter \".[\" can't be compiled: "), "{error}");
    let error = rig.run(&jq, [words(&["nothing"]), vec![rig.blob(b"1")]].concat()).unwrap_err();
    assert!(error.to_string().contains("the filter \"nothing\" is not defined"), "{error}");
}

const PEOPLE: &[u8] = b"name,born,score\nAda,1815,9.50\n\"Grace, Dr.\",1906,8.25\nKurt,0099,\n";

#[test]
fn sql_queries_csv() {
    let rig = Rig::new();
    let sql = guest("sql");
    let run = |query: &str, files: Vec<Argument>| rig.text(&sql, [words(&[query]), files].concat());
    let people = || rig.blob(PEOPLE);
    assert_eq!(
        run("SELECT * FROM t", vec![people()]),
        "name,born,score\nAda,1815,9.5\n\"Grace, Dr.\",1906,8.25\nKurt,0099,\n"
    );
    assert_eq!(
        run("SELECT sum(score) AS s, max(length(born)) FROM t", vec![people()]),
        "s,max(length(born))\n17.75,4\n"
    );
    assert_eq!(run("SELECT name FROM t WHERE born > 1900 ORDER BY 1", vec![people()]), "name\n\"Grace, Dr.\"\nKurt\n");
    let places = rig.blob(b"who;place\nAda;London\nKurt;Brno\n");
    let joined = "SELECT place, born FROM t JOIN t2 ON who = name ORDER BY place";
    assert_eq!(run(joined, vec![people(), places]), "place,born\nBrno,0099\nLondon,1815\n");
    assert_eq!(
        run("SELECT json_group_array(name) AS j FROM t", vec![rig.blob(b"name\tx\na\t1\n")]),
        "j\n\"[\"\"a\"\"]\"\n"
    );
}

#[test]
fn sql_says_what_is_wrong() {
    let rig = Rig::new();
    let fails = |query: &str, file: &[u8]| said(&rig, "sql", [words(&[query]), vec![rig.blob(file)]].concat());
    assert_eq!(
        fails("SELECT nobody FROM t", PEOPLE),
        "sql: the query failed: no such column: nobody in SELECT nobody FROM t at offset 7\n"
    );
    assert!(fails("SELECT 1", b"a,b\n1\n").starts_with(
        "sql: can't read /in/2 as CSV: CSV error: record 1 (line: 2, byte: 4): found record with 1 fields"
    ));
    assert!(fails("SELECT 1", b"").starts_with("sql: can't read /in/2 as CSV: it is empty"));
    assert!(fails("SELECT 1", b"a\n\xff\n").starts_with("sql: can't read /in/2 as CSV: CSV parse error: record 1"));
    assert!(fails("SELECT 1", b"a,a\n1,2\n").starts_with("sql: can't make a table of /in/2: duplicate column name: a"));
    let damaged = [b"SQLite format 3\0".as_slice(), &[0xff; 600]].concat();
    assert!(fails("SELECT * FROM sqlite_master", &damaged).contains("file is not a database"));
}

#[test]
fn sql_reads_databases_that_sqlite_wrote() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db");
    let script = "PRAGMA journal_mode=WAL; CREATE TABLE n(i INTEGER PRIMARY KEY, x REAL, b BLOB);
        WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<5000) INSERT INTO n SELECT i, i/2.0, NULL FROM c;";
    if tool("sqlite3", &[file.to_str().unwrap()], script.as_bytes()).is_none() {
        return;
    }
    let database = rig.blob(&std::fs::read(&file).unwrap());
    let run = |query: &str, files: Vec<Argument>| rig.text(&guest("sql"), [words(&[query]), files].concat());
    assert_eq!(run("SELECT count(*) AS c, sum(x) AS s FROM n", vec![database.clone()]), "c,s\n5000,6251250.0\n");
    assert_eq!(run("SELECT i, b FROM n ORDER BY i DESC LIMIT 1", vec![database.clone()]), "i,b\n5000,\n");
    let both = "SELECT t.name, n.x FROM t JOIN n ON n.i = t.born ORDER BY 1 LIMIT 1";
    assert_eq!(run(both, vec![rig.blob(PEOPLE), database.clone()]), "name,x\nAda,907.5\n");
    let write = [words(&["INSERT INTO n VALUES (9999, 1, 1)"]), vec![database]].concat();
    assert_eq!(said(&rig, "sql", write), "sql: the query failed: attempt to write a readonly database\n");
}

#[test]
fn thumbnails_fit_and_stand_upright() {
    let rig = Rig::new();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules/images");
    let run = |size: &str, image: &str| {
        let image = rig.blob(&std::fs::read(images.join(image)).unwrap());
        rig.content(&rig.run(&guest("thumbnail"), [words(&[size]), vec![image]].concat()).unwrap().result)
    };
    assert_eq!(dimensions(&run("32", "opaque.png")), ("JPEG", 32, 24));
    assert_eq!(dimensions(&run("32", "photo.webp")), ("JPEG", 32, 24));
    assert_eq!(dimensions(&run("100x12", "opaque.png")), ("JPEG", 16, 12));
    assert_eq!(dimensions(&run("32", "clear.png")), ("PNG", 32, 24));
    // The camera was held on its side.
    assert_eq!(dimensions(&run("32", "turned.jpg")), ("JPEG", 24, 32));
    assert_eq!(dimensions(&run("200", "opaque.png")), ("JPEG", 64, 48));
    let photo = std::fs::read(images.join("opaque.png")).unwrap();
    let fails = |bytes: &[u8]| said(&rig, "thumbnail", [words(&["32"]), vec![rig.blob(bytes)]].concat());
    assert!(fails(b"no image").starts_with("thumbnail: can't read /in/2 as a JPEG, PNG or WebP image: "));
    assert!(fails(&photo[..photo.len() / 2]).starts_with("thumbnail: can't read /in/2 as a JPEG, PNG or WebP image: "));
}

/// An image that says it has 2^30 pixels in each direction is refused before they are allocated.
#[test]
fn an_image_larger_than_memory_is_refused() {
    let rig = Rig::new();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules/images");
    let mut png = std::fs::read(images.join("opaque.png")).unwrap();
    png[16..24].copy_from_slice(&[0x40, 0, 0, 0, 0x40, 0, 0, 0]);
    let header_crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&header_crc.to_be_bytes());
    let refused = said(&rig, "thumbnail", [words(&["32"]), vec![rig.blob(&png)]].concat());
    assert!(refused.starts_with("thumbnail: can't read /in/2 as a JPEG, PNG or WebP image: "), "{refused}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Format, width and height, from an image's header.
fn dimensions(image: &[u8]) -> (&'static str, u32, u32) {
    if image.starts_with(b"\x89PNG") {
        let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
        return ("PNG", number(16), number(20));
    }
    assert!(image.starts_with(&[0xff, 0xd8]), "neither PNG nor JPEG");
    // SOF0, its length, the precision, height, width.
    let frame = image.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    let number = |at: usize| u32::from(u16::from_be_bytes([image[frame + at], image[frame + at + 1]]));
    ("JPEG", number(7), number(5))
}

#[test]
fn diff_prints_what_gnu_diff_prints() {
    let rig = Rig::new();
    let diff = guest("diff");
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    let run = |old: &[u8], new: &[u8]| {
        let done = rig.run(&diff, vec![rig.blob(old), rig.blob(new)]).unwrap();
        rig.content(&done.result)
    };
    assert_eq!(run(b"same\n", b"same\n"), b"");
    let twelve = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n".as_slice();
    for (old, new) in [
        (twelve, b"1\n2\n3\n4\nV\n6\n7\n8\n9\n10\n11\n12\n".as_slice()),
        (twelve, b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n"),
        (twelve, b"x\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\ny\n"),
        (twelve, b"1\n2\n3\n4\n5\n6\n6\n6\n7\n8\n9\n10\n11\n12"),
        (b"", b"one\n"),
        (b"one", b""),
        (b"one", b"one\n"),
        (b"\xff\n\0\n", b"\xfe\n\0\n"),
    ] {
        std::fs::write(&a, old).unwrap();
        std::fs::write(&b, new).unwrap();
        let arguments = ["-a", "-u", "--label", "a", "--label", "b", a.to_str().unwrap(), b.to_str().unwrap()];
        if let Some(expected) = tool("diff", &arguments, b"") {
            assert_eq!(String::from_utf8_lossy(&run(old, new)), String::from_utf8_lossy(&expected));
        }
    }
}

/// Where several shortest differences exist, GNU diff may choose another; what counts is that patch takes them.
#[test]
fn patch_applies_what_diff_prints() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let mut dice = Dice(7);
    for round in 0..20 {
        let old: Vec<u8> = (0..200).flat_map(|_| format!("line {}\n", dice.roll(30)).into_bytes()).collect();
        let kept = old.split_inclusive(|byte| *byte == b'\n').flat_map(|line| match dice.roll(12) {
            0 => Vec::new(),
            1 => [b"new\n", line].concat(),
            _ => line.to_vec(),
        });
        let new: Vec<u8> = kept.collect();
        let patch = rig.content(&rig.run(&guest("diff"), vec![rig.blob(&old), rig.blob(&new)]).unwrap().result);
        std::fs::write(&file, &old).unwrap();
        if tool("patch", &["-s", file.to_str().unwrap()], &patch).is_none() {
            return;
        }
        assert!(std::fs::read(&file).unwrap() == new, "round {round}");
    }
}
