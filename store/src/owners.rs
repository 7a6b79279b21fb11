//! What damage belongs to: follows roots, directories and manifests, and tells by path what can't be read.
//!
//! A directory that is reached in several ways is looked at once; for the paths of what is damaged below it, it is gone
//! through at most [`MAX_OWNERS`] times.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::check::Lost;
use crate::cid::{Cid, Codec};
use crate::error::Error;
use crate::finding::{Finding, Findings, MAX_OWNERS, Owner, Severity};
use crate::hash::Hash;
use crate::lease::prefix;
use crate::location::Location;
use crate::manifest::{Node, Span};
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile};
use crate::record::Kind;
use crate::store::{MAX_TREE_BYTES, Store};
use crate::tree::{Target, Tree};
use crate::walk::{Depth, Step, Walk};

/// Finds the owners of what is lost, and what else is incomplete.
pub struct Owners<'a> {
    store: &'a Arc<Store>,
    findings: &'a mut Findings,
    lost: &'a HashMap<Hash, Lost>,
    tick: &'a mut dyn FnMut() -> ControlFlow<()>,
    /// Objects that are complete in themselves.
    whole: HashSet<u64>,
    /// Those that are not, with the findings that say why.
    broken: HashMap<Hash, Vec<usize>>,
    /// Directories gone through, and whether something below them is broken.
    trees: HashMap<u64, bool>,
    /// How often each was gone through for paths.
    visits: HashMap<u64, usize>,
}

/// What an object is to a walk.
enum Entered {
    Leaf { broken: bool },
    Tree(Tree),
}

/// A directory on the way.
struct Frame {
    cid: Cid,
    tree: Tree,
    next: usize,
    broken: bool,
    path: Vec<u8>,
}

impl Frame {
    fn new(cid: Cid, tree: Tree, path: Vec<u8>) -> Frame {
        Frame { cid, tree, next: 0, broken: false, path }
    }

    /// The next entry that is an object, and its path.
    fn next(&mut self) -> Option<(Cid, Vec<u8>)> {
        loop {
            let entry = self.tree.entries().get(self.next)?;
            self.next += 1;
            if let Target::File { cid, .. } | Target::Directory { cid } = &entry.target {
                return Some((*cid, [self.path.as_slice(), &entry.name].join(&b'/')));
            }
        }
    }
}

impl<'a> Owners<'a> {
    pub fn new(
        store: &'a Arc<Store>,
        findings: &'a mut Findings,
        lost: &'a HashMap<Hash, Lost>,
        tick: &'a mut dyn FnMut() -> ControlFlow<()>,
    ) -> Owners<'a> {
        Owners {
            store,
            findings,
            lost,
            tick,
            whole: HashSet::new(),
            broken: HashMap::new(),
            trees: HashMap::new(),
            visits: HashMap::new(),
        }
    }

    /// Follows the roots; returns how many objects they reach.
    pub fn name(&mut self, roots: &[(String, Cid)]) -> Result<u64, Error> {
        for (label, root) in roots {
            if self.examine(root)? {
                self.paths(label, root)?;
            }
        }
        Ok((self.whole.len() + self.broken.len()) as u64)
    }

    /// Follows the objects that no root reaches, and tells them by their CIDs.
    pub fn name_objects(&mut self) -> Result<(), Error> {
        let chunks: Vec<(Hash, Location)> = self.lost.iter().map(|(hash, lost)| (*hash, lost.at)).collect();
        for (hash, at) in chunks {
            if (at.whole || at.manifest) && !self.broken.contains_key(&hash) {
                self.name_object(hash, &at)?;
            }
        }
        for id in self.store.packs().ids(Class::Meta) {
            if let Some(pack) = self.store.packs().get(id)? {
                self.name_manifests(&pack)?;
            }
        }
        Ok(())
    }

    /// Whether an object, or anything below it, is broken.
    fn examine(&mut self, root: &Cid) -> Result<bool, Error> {
        let mut frames = match self.enter(root)? {
            Entered::Leaf { broken } => return Ok(broken),
            Entered::Tree(tree) => vec![Frame::new(*root, tree, Vec::new())],
        };
        let mut below = false;
        while let Some(frame) = frames.last_mut() {
            frame.broken |= std::mem::take(&mut below);
            match frame.next() {
                Some((cid, _)) => match self.enter(&cid)? {
                    Entered::Leaf { broken } => below = broken,
                    Entered::Tree(tree) => frames.push(Frame::new(cid, tree, Vec::new())),
                },
                None => {
                    below = frame.broken;
                    self.trees.insert(prefix(&frame.cid.hash), below);
                    frames.pop();
                }
            }
        }
        Ok(below)
    }

    fn enter(&mut self, cid: &Cid) -> Result<Entered, Error> {
        if self.is_broken(cid)? {
            return Ok(Entered::Leaf { broken: true });
        }
        if cid.codec == Codec::Raw {
            return Ok(Entered::Leaf { broken: false });
        }
        if let Some(broken) = self.trees.get(&prefix(&cid.hash)) {
            return Ok(Entered::Leaf { broken: *broken });
        }
        match self.tree(cid) {
            Ok(Some(tree)) => Ok(Entered::Tree(tree)),
            Ok(None) => Ok(Entered::Leaf { broken: false }),
            Err(error @ (Error::Index { .. } | Error::IndexBroken { .. })) => Err(error),
            Err(error) => {
                let finding =
                    self.findings.add(Finding { lost: 1, ..Finding::new(Severity::Error, error.to_string()) });
                self.broken.insert(cid.hash, vec![finding]);
                Ok(Entered::Leaf { broken: true })
            }
        }
    }

    /// A directory; every other record is a leaf.
    fn tree(&self, cid: &Cid) -> Result<Option<Tree>, Error> {
        match self.store.read_unannounced(cid, MAX_TREE_BYTES) {
            Ok(bytes) => Ok(Tree::decode(&bytes).ok()),
            Err(Error::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes once more to all that is broken below a root, for the paths.
    fn paths(&mut self, label: &str, root: &Cid) -> Result<(), Error> {
        let mut frames = Vec::new();
        self.path(*root, label.as_bytes().to_vec(), &mut frames)?;
        while let Some(frame) = frames.last_mut() {
            match frame.next() {
                Some((cid, path)) => self.path(cid, path, &mut frames)?,
                None => drop(frames.pop()),
            }
        }
        Ok(())
    }

    fn path(&mut self, cid: Cid, path: Vec<u8>, frames: &mut Vec<Frame>) -> Result<(), Error> {
        if let Some(findings) = self.broken.get(&cid.hash) {
            for finding in findings {
                self.findings.own(*finding, Owner::Path(String::from_utf8_lossy(&path).into_owned()));
            }
            return Ok(());
        }
        if self.trees.get(&prefix(&cid.hash)) != Some(&true) {
            return Ok(());
        }
        let visits = self.visits.entry(prefix(&cid.hash)).or_default();
        *visits += 1;
        if *visits <= MAX_OWNERS
            && let Some(tree) = self.tree(&cid)?
        {
            frames.push(Frame::new(cid, tree, path));
        }
        Ok(())
    }

    fn name_manifests(&mut self, pack: &PackFile) -> Result<(), Error> {
        for step in Walk::new(pack, FILE_HEADER_BYTES, u64::MAX, Depth::Full)?.past_unreadable() {
            let Step::Record(found) = step? else { continue };
            for member in found.members.iter().filter(|_| found.kind == Kind::Manifests) {
                let known = self.whole.contains(&prefix(&member.key)) || self.broken.contains_key(&member.key);
                if let Some(at) = self.store.index().get(&member.key)?.filter(|_| !known) {
                    self.name_object(member.key, &at)?;
                }
            }
        }
        Ok(())
    }

    fn name_object(&mut self, hash: Hash, at: &Location) -> Result<(), Error> {
        let cid = Cid { codec: self.codec_of(&hash, at)?, hash };
        if self.is_broken(&cid)? {
            for finding in &self.broken[&hash] {
                self.findings.own(*finding, Owner::Object(cid));
            }
        }
        Ok(())
    }

    /// By the pack that its bytes lie in. A file, if that can't be told.
    fn codec_of(&self, hash: &Hash, at: &Location) -> Result<Codec, Error> {
        let mut at = *at;
        let mut hash = *hash;
        while at.manifest || self.store.packs().class_of(at.pack) == Some(Class::Meta) && !at.whole {
            let Ok(slice) = self.store.slice(&hash, &at) else { return Ok(Codec::Raw) };
            let Some(first) = Node::parse(slice.bytes()).ok().and_then(|node| node.hashes().next()) else { break };
            let Some(below) = self.store.index().get(&first)? else { return Ok(Codec::Raw) };
            (hash, at) = (first, below);
        }
        Ok(if self.store.packs().class_of(at.pack) == Some(Class::Meta) { Codec::DagCbor } else { Codec::Raw })
    }

    fn is_broken(&mut self, cid: &Cid) -> Result<bool, Error> {
        let hash = &cid.hash;
        if self.whole.contains(&prefix(hash)) {
            return Ok(false);
        }
        if self.broken.contains_key(hash) {
            return Ok(true);
        }
        if (self.tick)().is_break() {
            return Err(Error::Cancelled);
        }
        let findings = self.look(cid)?;
        if findings.is_empty() {
            self.whole.insert(prefix(hash));
            return Ok(false);
        }
        self.broken.insert(*hash, findings);
        Ok(true)
    }

    /// Why an object is not complete.
    fn look(&mut self, cid: &Cid) -> Result<Vec<usize>, Error> {
        let hash = &cid.hash;
        if let Some(lost) = self.lost.get(hash) {
            return Ok(vec![lost.finding]);
        }
        match self.store.index().get(hash)? {
            None => {
                let finding = Finding::new(Severity::Error, format!("{cid} is not in the store"));
                Ok(vec![self.findings.add(Finding { lost: 1, ..finding })])
            }
            Some(at) if at.manifest => self.look_below(cid, at),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// Follows a manifest: its nodes fit each other, and its chunks are there in the right lengths.
    fn look_below(&mut self, cid: &Cid, at: Location) -> Result<Vec<usize>, Error> {
        let mut trouble = Trouble::default();
        let mut waiting = vec![(cid.hash, at, None)];
        while let Some((hash, at, expected)) = waiting.pop() {
            let slice = match self.store.slice(&hash, &at) {
                Ok(slice) => slice,
                Err(error @ (Error::Index { .. } | Error::IndexBroken { .. })) => return Err(error),
                Err(error) => {
                    trouble.wrong = Some(error.to_string());
                    continue;
                }
            };
            let node = match Node::parse(slice.bytes()) {
                Ok(node) if expected.is_none_or(|expected| expected == (node.level, node.span_bytes())) => node,
                Ok(_) => {
                    trouble.manifest("does not fit together");
                    continue;
                }
                Err(what) => {
                    trouble.manifest(what);
                    continue;
                }
            };
            for span in node.spans() {
                let Some(span) = span else {
                    trouble.manifest("has offsets out of order");
                    break;
                };
                match self.child(&span, node.level, &mut trouble)? {
                    Some(at) if node.level > 0 => {
                        waiting.push((span.hash, at, Some((node.level - 1, span.end - span.start))));
                    }
                    _ => {}
                }
            }
        }
        Ok(self.tell(cid, trouble))
    }

    fn child(&self, span: &Span, level: u8, trouble: &mut Trouble) -> Result<Option<Location>, Error> {
        if let Some(lost) = self.lost.get(&span.hash) {
            if !trouble.findings.contains(&lost.finding) {
                trouble.findings.push(lost.finding);
            }
            return Ok(None);
        }
        let found = self.store.index().get(&span.hash)?;
        match &found {
            None => {
                eprintln!("MISSING {}", span.hash);
                trouble.missing += 1
            }
            Some(at) if level == 0 && u64::from(at.plain_bytes) != span.end - span.start => {
                trouble.manifest("does not fit its chunks");
            }
            Some(_) => {}
        }
        Ok(found)
    }

    fn tell(&mut self, cid: &Cid, trouble: Trouble) -> Vec<usize> {
        let mut findings = trouble.findings;
        if trouble.missing > 0 {
            let what = format!("{cid} is incomplete");
            findings.push(self.findings.add(Finding { lost: trouble.missing, ..Finding::new(Severity::Error, what) }));
        }
        if let Some(what) = trouble.wrong {
            let what = format!("{cid} is damaged: {what}");
            findings.push(self.findings.add(Finding { lost: 1, ..Finding::new(Severity::Error, what) }));
        }
        findings
    }
}

/// What is wrong with one object.
#[derive(Default)]
struct Trouble {
    findings: Vec<usize>,
    missing: u64,
    wrong: Option<String>,
}

impl Trouble {
    fn manifest(&mut self, what: &str) {
        self.wrong = Some(format!("its manifest {what}"));
    }
}
