//! Looking at the mount's tree: whatever name a program makes up, the answer is sound, says the same twice, and
//! nothing is computed for it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridfs::grid::{Grid, Node as Place, Policy};
use gridfs::node::Node;
use gridfs::path;
use gridfs_fuse::{Answer, Entry, Errno, Kind, Opening, Tree as _};
use gridfs_modules::manifest::{ArgKind, Argument, Manifest, Returns, embed};
use gridfs_store::{Algorithm, Cid, Codec, Digest, Durability, Target, Tree, TreeEntry};

use crate::dice::Dice;
use crate::material::{mutated, noise, respelled, text};
use crate::{campaign, wanted};

/// What looking at a name may fail with.
const REFUSALS: [Errno; 5] = [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::EINVAL, Errno::EHOSTUNREACH];
/// Names that one execution looks at.
const NAMES: usize = 6;

#[test]
fn looking_at_names() {
    let world = World::new();
    let before = world.counts();
    campaign("names", |dice| world.walk(dice));
    assert_eq!(world.counts(), before, "looking computed something, or remembered it");
    let met = [&world.names_met, &world.calls, &world.insides].map(|count| count.load(Ordering::Relaxed));
    let [names, calls, insides] = met;
    eprintln!("names: {names} were looked at; {calls} were calls, {insides} lay in stored directories");
    assert!(wanted().1 < 1000 || calls > names / 50 && insides > names / 500, "the names lead nowhere any more");
}

/// A node with stored files, directories, modules, and calls that are known, pending and failed.
struct World {
    _directory: tempfile::TempDir,
    node: Node,
    grid: Arc<Grid>,
    /// Names that mean something, by how deep they do: promises, modules, arguments.
    names: [Vec<Vec<u8>>; 3],
    /// All of them.
    all: Vec<Vec<u8>>,
    /// How many names were looked at, were calls, and were something inside a stored directory.
    names_met: AtomicU64,
    calls: AtomicU64,
    insides: AtomicU64,
}

/// Where a walk is: the directories from the root on, and whether the last lies in a stored directory.
struct Position {
    above: Vec<Place>,
    stored: bool,
}

impl Position {
    fn here(&self) -> &Place {
        self.above.last().expect("a walk starts at the root")
    }
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(&directory.path().join("home"), &mut |_| {}).unwrap();
        let grid = Grid::new(node.kernel.clone(), node.copies.clone(), directory.path().to_owned(), Policy::default());
        let mut world = World {
            _directory: directory,
            node,
            grid,
            names: Default::default(),
            all: Vec::new(),
            names_met: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            insides: AtomicU64::new(0),
        };
        world.store();
        world.names = corpus(&world.node.kernel.names.table());
        world.all = world.names.concat();
        for (path, errno) in [
            ("local/wc/moby.txt", None),
            ("local/untar/x.tar", None),
            ("local/untar/moby.txt", Some(Errno::EIO)),
            ("local/grep/%28/moby.txt", Some(Errno::EIO)),
        ] {
            assert_eq!(world.compute(path).map(|errno| errno.code()), errno.map(|errno| errno.code()), "{path}");
        }
        world
    }

    /// Stores what there is, under names.
    fn store(&self) {
        let bare = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
        let files = [
            ("moby.txt", b"call me ishmael\n".to_vec()),
            ("a b,c%é", b"odd\n".to_vec()),
            ("any", bare.clone()),
            ("typed", embed(&bare, &typed()).unwrap()),
            ("x.tar", self.tar("x")),
            ("pending.tar", self.tar("y")),
        ];
        let store = &self.node.kernel.store;
        let mut batch = store.batch();
        batch.also_hash(Algorithm::Sha2_256);
        let mut entries = Vec::new();
        for (name, bytes) in &files {
            let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
            let target = Target::File { cid, size_bytes: bytes.len() as u64, executable: name.len() == 3 };
            entries.push(TreeEntry { name: name.as_bytes().to_vec(), target });
        }
        let mut inner = entries.clone();
        inner.push(TreeEntry { name: b"link\xff".to_vec(), target: Target::Symlink { target: b"/no/where".to_vec() } });
        let inner = batch.put_tree(&Tree::new(inner).unwrap()).unwrap();
        entries.push(TreeEntry { name: b"d".to_vec(), target: Target::Directory { cid: inner } });
        let outer = batch.put_tree(&Tree::new(entries.clone()).unwrap()).unwrap();
        entries.push(TreeEntry { name: b"tree".to_vec(), target: Target::Directory { cid: outer } });
        let _kept = batch.commit(Durability::Durable).unwrap();
        let name = |entry: &TreeEntry| (String::from_utf8(entry.name.clone()).unwrap(), Some(entry.target.clone()));
        self.node.kernel.names.change(&entries.iter().map(name).collect::<Vec<_>>()).unwrap();
    }

    /// An archive of one directory with one file.
    fn tar(&self, name: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(name)).unwrap();
        std::fs::write(directory.path().join(name).join("file"), name).unwrap();
        Command::new("tar").arg("c").arg("-C").arg(directory.path()).arg(name).output().unwrap().stdout
    }

    /// Opens what stands at a path; why it fails.
    fn compute(&self, path: &str) -> Option<Errno> {
        let mut position = Position { above: vec![self.grid.root()], stored: false };
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let entry = self.look(position.here(), OsStr::new(name)).unwrap().unwrap();
            let node = self.follow(&position, &entry).unwrap();
            if names.peek().is_some() {
                position.above.push(node);
                continue;
            }
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let opening = Opening { pid: 0, uid: 0, nonblocking: false, passthrough: false };
            return match entry_kind(&self.grid, &node) {
                Kind::Directory => outcome(&runtime, self.grid.list(&node, 0)),
                _ => outcome(&runtime, self.grid.open(&node, opening)),
            };
        }
        None
    }

    /// What looking must not change.
    fn counts(&self) -> (u64, u64, u64) {
        let stats = self.node.kernel.store.stats().unwrap();
        (self.node.kernel.counters.runs.load(Ordering::Relaxed), stats.memos, stats.objects)
    }

    /// The entry of a name, or its errno; `None` if it would have to be computed.
    fn look(&self, directory: &Place, name: &OsStr) -> Option<Result<Entry<Place>, Errno>> {
        match self.grid.lookup(directory, name, 0) {
            Answer::Now(found) => Some(found),
            Answer::Later(_) | Answer::Blocking(_) => None,
        }
    }

    /// One execution: down from the root along names that mostly mean something.
    fn walk(&self, dice: &mut Dice) {
        let mut position = Position { above: vec![self.grid.root()], stored: false };
        for _ in 0..NAMES {
            let here = position.here();
            if dice.one_in(64) {
                self.check_listing(here);
            }
            let name = self.name(dice, &position);
            let name = OsStr::from_bytes(&name);
            self.names_met.fetch_add(1, Ordering::Relaxed);
            let Some(found) = self.look(here, name) else {
                return self.check_pending(here);
            };
            let entry = match found {
                Ok(entry) => entry,
                Err(errno) => {
                    let is_one = |refusal: &Errno| refusal.code() == errno.code();
                    assert!(REFUSALS.iter().any(is_one), "{name:?}: {errno:?}");
                    continue;
                }
            };
            self.check_entry(dice, here, name, &entry);
            self.insides.fetch_add(position.stored.into(), Ordering::Relaxed);
            let below = if position.stored { Some(entry.node.clone()) } else { self.follow(&position, &entry) };
            let Some(node) = below else { continue };
            if !position.stored {
                self.check_spellings(dice, &position, name, &node);
            }
            if entry_kind(&self.grid, &node) == Kind::Directory {
                position.stored |= self.value(&node, "user.grid.key").is_some();
                position.above.push(node);
            }
        }
    }

    /// A name: one that means something there, or anything.
    fn name(&self, dice: &mut Dice, position: &Position) -> Vec<u8> {
        let fitting = &self.names[position.above.len().min(3) - 1];
        if position.stored
            && dice.one_in(2)
            && let Answer::Now(Ok(listing)) = self.grid.list(position.here(), 0)
        {
            return dice.pick(&listing).0.as_bytes().to_vec();
        }
        let spelled = match dice.below(24) {
            0 => noise(dice, 300),
            1 => text(dice).into_bytes(),
            2 => dice.pick(&self.all).clone(),
            3 | 4 => mutated(dice, fitting),
            5 => [dice.pick(fitting), b",".as_slice(), dice.pick(fitting)].concat(),
            6 => path::encode(&text(dice)).into_bytes(),
            7 => nested(dice, &self.names),
            _ => dice.pick(fitting).clone(),
        };
        // What the kernel never asks for: it splits paths itself.
        let spelled: Vec<u8> = spelled.into_iter().filter(|byte| !b"/\0".contains(byte)).take(255).collect();
        if [&b""[..], b".", b".."].contains(&spelled.as_slice()) { b"%".to_vec() } else { spelled }
    }

    /// The node at the end of an entry that may be a link; `None` if it leads to what can't be had.
    fn follow(&self, position: &Position, entry: &Entry<Place>) -> Option<Place> {
        if entry.attr.kind != Kind::Symlink {
            return Some(entry.node.clone());
        }
        let target = String::from_utf8(self.grid.readlink(&entry.node).unwrap()).unwrap();
        let mut above = position.above.clone();
        let mut components = target.split('/').peekable();
        while let Some(component) = components.next() {
            if component == ".." {
                above.pop();
                continue;
            }
            let found = self.look(above.last().unwrap(), OsStr::new(component)).expect("a link leads to what is known");
            let Ok(found) = found else {
                assert!(position.above.len() < 3, "the link to {target:?} leads nowhere");
                return None;
            };
            assert!(found.attr.kind != Kind::Symlink, "the link to {target:?} leads to a link at {component:?}");
            if components.peek().is_none() {
                let has = |xattr| self.value(&found.node, xattr).is_some();
                // Other spellings of a CID lead to the one for the reason too why it is no list of arguments.
                let is_refused = component.starts_with('@') && has("user.grid.error");
                let is_sound = has("user.grid.key") || is_refused || found.attr.kind == Kind::Directory;
                assert!(is_sound, "the link to {target:?} leads to no call");
                return Some(found.node);
            }
            above.push(found.node);
        }
        panic!("the link to {target:?} leads up");
    }

    /// What the kernel is told of an entry fits together, and is the same when it asks again.
    fn check_entry(&self, dice: &mut Dice, parent: &Place, name: &OsStr, entry: &Entry<Place>) {
        let again = self.look(parent, name).expect("it was known").unwrap();
        assert!(again.node == entry.node && again.attr.kind == entry.attr.kind, "{name:?} changed");
        assert_eq!(self.grid.inode_hint(&again.node), self.grid.inode_hint(&entry.node), "{name:?}");
        let attr = self.grid.attr(&entry.node).unwrap();
        assert_eq!((attr.kind, attr.ttl), (entry.attr.kind, entry.attr.ttl), "{name:?}");
        assert!(attr.time == entry.attr.time || attr.ttl.is_zero(), "{name:?}");
        match self.grid.readlink(&entry.node) {
            Ok(target) => {
                assert_eq!((attr.kind, attr.size), (Kind::Symlink, target.len() as u64), "{name:?}");
                assert!((1..4096).contains(&target.len()) && !target.contains(&0), "{name:?}");
            }
            Err(errno) => assert!(attr.kind != Kind::Symlink && errno.code() == Errno::EINVAL.code(), "{name:?}"),
        }
        let there = self.grid.xattrs(&entry.node);
        for xattr in &there {
            assert!(!self.grid.xattr(&entry.node, xattr).unwrap().is_empty(), "{xattr:?} of {name:?}");
        }
        let xattr = match dice.one_in(2) {
            true => OsString::from_vec(mutated(dice, &[b"user.grid.state".to_vec(), b"system.posix_acl".to_vec()])),
            false => OsString::from_vec(noise(dice, 255)),
        };
        if !there.contains(&xattr) {
            assert_eq!(self.grid.xattr(&entry.node, &xattr).unwrap_err().code(), Errno::ENODATA.code(), "{xattr:?}");
        }
    }

    /// All spellings of a call's last arguments lead to it.
    fn check_spellings(&self, dice: &mut Dice, position: &Position, name: &OsStr, node: &Place) {
        let known = position.above.len() > 2 && self.value(node, "user.grid.key").is_some();
        self.calls.fetch_add(known.into(), Ordering::Relaxed);
        let Some(arguments) = name.to_str().filter(|_| known).and_then(|name| path::decode_component(name).ok()) else {
            return;
        };
        if name.as_bytes().starts_with(b"@") || arguments.is_empty() {
            return;
        }
        let spelled: Vec<String> = arguments.iter().map(|argument| respelled(dice, argument)).collect();
        let spelled = spelled.join(",");
        let other = self.look(position.here(), OsStr::new(&spelled)).unwrap().unwrap();
        let other = self.follow(position, &other).unwrap();
        assert!(other == *node, "{spelled:?} and {name:?} are not the same call");
        assert_eq!(self.grid.inode_hint(&other), self.grid.inode_hint(node));
    }

    /// Every name in a listing can be looked up, and is what the listing says.
    fn check_listing(&self, directory: &Place) {
        let listing = match self.grid.list(directory, 0) {
            Answer::Now(listing) => listing.unwrap(),
            Answer::Later(_) | Answer::Blocking(_) => return self.check_pending(directory),
        };
        for (name, listed) in &listing {
            let bytes = name.as_bytes();
            assert!((1..256).contains(&bytes.len()) && !bytes.contains(&b'/') && !bytes.contains(&0), "{name:?}");
            let found = self.look(directory, name).unwrap().unwrap();
            assert!(found.node == listed.node && found.attr.kind == listed.attr.kind, "{name:?}");
        }
        let mut names: Vec<_> = listing.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), listing.len(), "a name is listed twice");
    }

    /// Only a call that results in a directory, and has not been made, may have to be computed to look into it.
    fn check_pending(&self, directory: &Place) {
        assert_eq!(entry_kind(&self.grid, directory), Kind::Directory);
        let state = self.value(directory, "user.grid.state");
        assert!(matches!(state.as_deref(), Some(b"pending" | b"failed")), "{state:?}");
    }

    fn value(&self, node: &Place, xattr: &str) -> Option<Vec<u8>> {
        self.grid.xattr(node, OsStr::new(xattr)).ok()
    }
}

fn entry_kind(grid: &Grid, node: &Place) -> Kind {
    grid.attr(node).unwrap().kind
}

fn outcome<T>(runtime: &tokio::runtime::Runtime, answer: Answer<T>) -> Option<Errno> {
    match answer {
        Answer::Now(result) => result.err(),
        Answer::Later(later) => runtime.block_on(later).err(),
        Answer::Blocking(work) => work().err(),
    }
}

fn cid_of(target: &Target) -> Cid {
    match target {
        Target::File { cid, .. } | Target::Directory { cid } => *cid,
        Target::Symlink { .. } => unreachable!("no name is a link"),
    }
}

fn typed() -> Manifest {
    let argument = |name: &str, kind| Argument { name: name.into(), kind, required: true, variadic: false };
    Manifest {
        name: "typed".into(),
        args: vec![argument("number", ArgKind::Int), argument("blob", ArgKind::Blob), argument("tree", ArgKind::Tree)],
        returns: Returns::Tree,
        ..Manifest::untyped()
    }
}

/// Names that mean something in the root, in a promise, and as arguments.
fn corpus(table: &Tree) -> [Vec<Vec<u8>>; 3] {
    let cid = |name: &str| cid_of(&table.get(name.as_bytes()).expect("it was stored").target);
    let spelled = |cid: Cid| [cid.to_string(), hex('f', &cid.to_bytes()), format!("@{cid}")];
    let spellings = |names: &[&str]| names.iter().flat_map(|name| spelled(cid(name))).collect::<Vec<String>>();
    let all = |names: &[&str], more: Vec<String>| {
        let names = names.iter().map(|name| name.as_bytes().to_vec());
        names.chain(more.into_iter().map(String::into_bytes)).collect::<Vec<_>>()
    };
    let promises = ["local", "pub", "local", "pub", "%6cocal", "l%6fcal", ".grid", "log", "moby.txt"];
    let modules = ["wc", "cas", "grep", "untar", "md", "sha256", "any", "typed", "moby.txt", "%77c", "untar", "cas"];
    let arguments = [
        "moby.txt",
        "a%20b%2Cc%25%C3%A9",
        "x.tar",
        "pending.tar",
        "tree",
        "d",
        "moby.txt,-l",
        "moby.txt,-l,-w",
        "7",
        "-7",
        "%",
        ",",
        "%28",
        "%2Flocal%2Fcas%2Ftree%2Fd%2Fmoby.txt",
        "%2Flocal%2Fmd%2Fmoby.txt",
        "x",
        "%2Flocal%2Funtar%2Fx.tar%2Fx%2Ffile",
        "%2Flocal%2Funtar%2Fpending.tar%2Fy%2Ffile",
        "%2Flocal%2Fwc%2Fmoby.txt",
    ];
    let digest = Digest::of(Algorithm::Sha2_256, b"call me ishmael\n");
    let foreign = hex('f', &[&[1, 0x55, 0x12, 32], digest.bytes.as_slice()].concat());
    let objects = [spellings(&["moby.txt", "tree", "x.tar"]), vec![foreign]].concat();
    [
        all(&promises, spellings(&["local"])),
        all(&modules, spellings(&["wc", "untar", "cas", "typed"])),
        all(&arguments, objects),
    ]
}

fn hex(base: char, bytes: &[u8]) -> String {
    bytes.iter().fold(base.to_string(), |text, byte| format!("{text}{byte:02x}"))
}

/// A call as an argument, which may be nested itself.
fn nested(dice: &mut Dice, names: &[Vec<Vec<u8>>; 3]) -> Vec<u8> {
    let pick =
        |dice: &mut Dice, depth: usize| String::from_utf8_lossy(dice.pick::<Vec<u8>>(&names[depth])).into_owned();
    let parts = [pick(dice, 0), pick(dice, 1), pick(dice, 2), pick(dice, 2)];
    let path = parts[..2 + dice.below(3) as usize].join("/");
    path::encode(&format!("/{path}")).into_bytes()
}
