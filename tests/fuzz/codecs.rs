//! Text and bytes from outside: what is read is written back the same, and nothing panics.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::LazyLock;

use gridfs::capability::{Chain, Claims, Packed, Prefix, Presented, Token};
use gridfs::head::Head;
use gridfs::identity::{Identity, NodeId};
use gridfs::parms::{Parms, Value};
use gridfs::path::{self, GridPath};
use gridfs::promise::Promise;
use gridfs::receipt::{Memo, Receipt};
use gridfs_modules::manifest::{Accepts, ArgKind, Argument, Limits, Returns, embed, extract};
use gridfs_modules::{Class, Manifest};
use gridfs_store::cbor::Bytes;
use gridfs_store::{AnyCid, Cid, Codec, Target, Tree, TreeEntry, cbor};

use crate::campaign;
use crate::dice::Dice;
use crate::material::{mutated, noise, respelled, text};

const PATHS: [&str; 8] = [
    "/local/wc/moby.txt,-l",
    "/local/grep/a%2Fb%20c/x,-i",
    "/pub/sha256/%2Flocal%2Funtar%2Fa.tgz%2Fdir%2Ffile",
    "local/cas/bafkr4ibu6ysuvdgy6abikcdi3kcv76malx7pru2ptuy6nu2vaojseqjphy",
    "/local/grep/@bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4",
    "/a/b/,",
    "//%C3%A9//%/%2E%2E",
    "%,%,%",
];

#[test]
fn the_path_grammar() {
    let corpus = PATHS.map(|path| path.as_bytes().to_vec());
    campaign("path grammar", |dice| {
        let spelled = if dice.one_in(2) { text(dice) } else { lossy(mutated(dice, &corpus)) };
        if let Ok(argument) = path::decode(&spelled) {
            check_argument(dice, &argument);
        }
        if let Ok(arguments) = path::decode_component(&spelled) {
            assert!(arguments.len() <= path::MAX_ARGUMENTS);
            let canonical = path::encode_component(arguments.iter().map(String::as_str));
            assert_eq!(path::decode_component(&canonical).unwrap(), arguments);
        }
        if let Ok(parsed) = GridPath::parse(&spelled) {
            let rest: String = parsed.rest.iter().map(|component| format!("/{component}")).collect();
            let again = format!("/{}/{}{rest}", path::encode(&parsed.promise), path::encode(&parsed.module));
            assert_eq!(GridPath::parse(&again).unwrap(), parsed);
        }
        let argument = text(dice).replace('\0', "");
        check_argument(dice, &argument);
    });
}

/// Any text without NUL is an argument: it has one canonical spelling, which all others lead to.
fn check_argument(dice: &mut Dice, argument: &str) {
    let canonical = path::encode(argument);
    assert!(canonical.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)), "{canonical:?}");
    assert!(!["", ".", ".."].contains(&canonical.as_str()));
    for spelled in [&canonical, &respelled(dice, argument)] {
        assert_eq!(path::decode(spelled).as_deref(), Ok(argument), "{spelled:?}");
    }
    assert_eq!(path::decode_component(&canonical).unwrap(), [argument]);
}

#[test]
fn cids_in_any_spelling() {
    let own = [Cid::of(Codec::Raw, b"a"), Cid::of(Codec::DagCbor, b"b")];
    let mut corpus: Vec<Vec<u8>> = own.iter().map(|cid| cid.to_string().into_bytes()).collect();
    corpus.extend(own.iter().map(|cid| cid.to_bytes().to_vec()));
    corpus
        .extend(own.iter().flat_map(|cid| [spelled_in_hex(cid), spelled_in_hex(cid).to_uppercase()]).map(String::into));
    corpus.push(b"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG".to_vec());
    campaign("CIDs", |dice| {
        let bytes = mutated(dice, &corpus);
        if let Ok(cid) = Cid::from_bytes(&bytes) {
            assert_eq!(cid.to_bytes().as_slice(), bytes);
        }
        let spelled = lossy(bytes);
        if let Ok(cid) = Cid::from_str(&spelled) {
            assert_eq!(cid.to_string(), spelled);
            assert_eq!(AnyCid::from_str(&spelled), Ok(AnyCid::Own(cid)));
        }
        if let Ok(AnyCid::Own(cid)) = AnyCid::from_str(&spelled) {
            assert_eq!(Cid::from_str(&cid.to_string()), Ok(cid));
        }
    });
}

/// A CID in base 16, which starts with "f".
fn spelled_in_hex(cid: &Cid) -> String {
    "f".chars()
        .chain(cid.to_bytes().iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>()))
        .collect()
}

#[test]
fn records() {
    let corpus = [parms().to_bytes(), memo().to_bytes(), cbor::to_vec(&receipt()), Promise::local().to_bytes()];
    let corpus = [&corpus[..], &[tree().encode(), manifest().encode(), cbor::to_vec(&parms().arguments)]].concat();
    campaign("records", |dice| {
        let bytes = if dice.one_in(50) { noise(dice, 64) } else { mutated(dice, &corpus) };
        same(&bytes, Parms::from_bytes(&bytes).ok().map(|parms| parms.to_bytes()));
        same(&bytes, cbor::from_slice::<Memo>(&bytes).ok().map(|memo| memo.to_bytes()));
        same(&bytes, cbor::from_slice::<Receipt>(&bytes).ok().map(|receipt| cbor::to_vec(&receipt)));
        same(&bytes, cbor::from_slice::<Promise>(&bytes).ok().map(|promise| promise.to_bytes()));
        same(&bytes, cbor::from_slice::<Vec<Value>>(&bytes).ok().map(|values| cbor::to_vec(&values)));
        same(&bytes, Tree::decode(&bytes).ok().map(|tree| tree.encode()));
        same(&bytes, Manifest::decode(&bytes).ok().map(|manifest| manifest.encode()));
    });
}

/// A record has one encoding, so what decodes is what it encodes to.
fn same(bytes: &[u8], again: Option<Vec<u8>>) {
    assert!(again.is_none_or(|again| again == bytes), "a second encoding: {bytes:02x?}");
}

#[test]
fn heads_of_published_names() {
    let table = tree().encode();
    let head = Head::sign(identity(1), Cid::of(Codec::DagCbor, &table), None, 1_700_000_000_000);
    let corpus = [head.to_bytes(), Head::sign(identity(2), head.table, Some(&head), 0).to_bytes(), table];
    campaign("heads", |dice| {
        let bytes = if dice.one_in(50) { noise(dice, 64) } else { mutated(dice, &corpus) };
        same(&bytes, cbor::from_slice::<Head>(&bytes).ok().map(|head| head.to_bytes()));
        // Only what was signed is believed.
        assert!(Head::read(&bytes, &head.node).is_err() || bytes == corpus[0]);
        assert!(head.read_table(&bytes).is_err() || bytes == corpus[2]);
        if dice.one_in(20) {
            let other = Head::sign(identity(1), Cid::of(Codec::DagCbor, &bytes), None, 0);
            same(&bytes, other.read_table(&bytes).ok().map(|tree| tree.encode()));
        }
    });
}

#[test]
fn capability_tokens() {
    let corpus = [chain(), Token::Packed(packed())].map(|token| token.to_bytes());
    let spelled = [corpus[0].clone(), chain().to_text().into_bytes()];
    campaign("capability tokens", |dice| check_token(mutated(dice, &spelled), &corpus));
}

#[test]
fn packed_capability_tokens() {
    let corpus = [Token::Packed(packed()).to_bytes(), chain().to_bytes()];
    campaign("packed capability tokens", |dice| {
        let mut bytes = if dice.one_in(4) { mutated(dice, &corpus[..1]) } else { corpus[0].clone() };
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = dice.roll() as u8);
        }
        check_token(bytes, &corpus);
    });
}

/// A token has one encoding and one text, and only what was signed is believed.
fn check_token(bytes: Vec<u8>, corpus: &[Vec<u8>]) {
    let token = Token::from_bytes(&bytes).ok();
    same(&bytes, token.as_ref().map(Token::to_bytes));
    if let Some(token) = token {
        assert_eq!(Token::from_text(&token.to_text()).unwrap(), token);
        let (node, holder) = (identity(1).id(), identity(2).id());
        let verified = token.verify(&Presented { now_ms: 1_200_000, node, holder, roots: &BTreeSet::from([node]) });
        assert!(verified.is_err() || corpus.contains(&bytes), "believed: {bytes:02x?}");
    }
    if let Ok(text) = String::from_utf8(bytes)
        && let Ok(token) = Token::from_text(&text)
    {
        assert_eq!(token.to_text(), text);
    }
}

/// A key that is the same in every run.
fn identity(number: u8) -> &'static Identity {
    static IDENTITIES: LazyLock<[Identity; 3]> = LazyLock::new(|| {
        [0, 1, 2].map(|number| {
            let keys = tempfile::tempdir().unwrap();
            std::fs::write(keys.path().join("node"), [number; 32]).unwrap();
            Identity::open(keys.path()).unwrap()
        })
    });
    &IDENTITIES[usize::from(number)]
}

/// What node 1 grants node 2.
fn claims() -> Claims {
    let (issuer, holder) = (identity(1).id(), identity(2).id());
    let values =
        [Value::Object(Promise::local().cid()), Value::Object(Cid::of(Codec::Raw, b"m")), Value::Text("-l".into())];
    Claims {
        issuer,
        holder,
        audience: issuer,
        expires_s: 2_000,
        begins_s: 1_000,
        issued_s: 900,
        id: [9; 16],
        prefix: Prefix::new(values.to_vec()).unwrap(),
        limits: Limits { wall_ms: Some(500), memory_bytes: Some(1 << 30), ..Limits::default() },
        delegable: 0,
    }
}

/// Handed on once, by node 2 to itself.
fn chain() -> Token {
    let root = Claims { delegable: 1, prefix: Prefix::default(), ..claims() };
    let root = Chain::grant(root, identity(1)).unwrap();
    Token::Chain(root.attenuate(claims(), identity(2)).unwrap())
}

fn packed() -> Packed {
    Packed::grant(&claims(), identity(1)).unwrap()
}

#[test]
fn manifests_in_modules() {
    let bare = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    let corpus = [embed(&bare, &manifest()).unwrap(), bare];
    campaign("manifests in modules", |dice| {
        let wasm = mutated(dice, &corpus);
        let Ok(found) = extract(&wasm) else { return };
        if let Some(manifest) = found {
            assert_eq!(extract(&embed(&wasm, &manifest).unwrap()).unwrap(), Some(manifest));
        }
    });
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parms() -> Parms {
    let arguments = vec![Value::Object(Cid::of(Codec::Raw, b"blob")), Value::Text("-l".into()), Value::Text("".into())];
    Parms { promise: Promise::local().cid(), module: Cid::of(Codec::Raw, b"module"), arguments }
}

fn memo() -> Memo {
    let (result, receipt) = (Cid::of(Codec::Raw, b"result"), Cid::of(Codec::DagCbor, b"receipt"));
    Memo { v: 1, size: Some(6), named: true, result, receipt, time_ms: Some(8), until_ms: Some(7) }
}

fn receipt() -> Receipt {
    let cid = Cid::of(Codec::Raw, b"x");
    Receipt {
        v: 2,
        abi: "grid-1".into(),
        deps: vec![(parms(), cid)],
        fuel: 1 << 40,
        class: Class::Volatile,
        names: vec![("moby.txt".into(), cid)],
        parms: parms(),
        reads: vec![("local/wc/moby.txt".into(), cid)],
        engine: "wasmtime 48.0.0".into(),
        issuer: NodeId([7; 32]),
        limits: Promise::local().limits,
        result: cid,
        stderr: Some(cid),
        time_ms: 1_700_000_000_000,
        wall_ms: 300,
        until_ms: Some(1_700_000_060_000),
        signature: Bytes(vec![8; 64]),
    }
}

fn tree() -> Tree {
    let entry = |name: &str, target| TreeEntry { name: name.into(), target };
    let file = Target::File { cid: Cid::of(Codec::Raw, b"x"), size_bytes: 1 << 33, executable: true };
    let link = Target::Symlink { target: b"../x".to_vec() };
    let directory = Target::Directory { cid: Cid::of(Codec::DagCbor, b"d") };
    Tree::new(vec![entry("file", file), entry("link", link), entry("directory", directory)]).unwrap()
}

fn manifest() -> Manifest {
    let argument = |name: &str, kind, required, variadic| Argument { name: name.into(), kind, required, variadic };
    Manifest {
        v: 1,
        args: vec![argument("file", ArgKind::Blob, true, false), argument("options", ArgKind::Text, false, true)],
        name: "sample".into(),
        accept: Accepts::Dynamic,
        limits: Some(Limits { fuel: Some(1 << 32), wall_ms: Some(5), ..Limits::default() }),
        ttl_ms: Some(60_000),
        promise: "Serves a test.".into(),
        returns: Returns::Tree,
        version: "1".into(),
    }
}
