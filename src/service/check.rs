//! Checking and repairing the store, with the names people know things by.
//!
//! What must be complete is everything that names stand for now, and what `config.toml` points to. A repair also stores again
//! what the program has itself: the built-ins, and the symbol table in memory.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use gridfs_store::{Checked, Cid, Codec, Finding, Progress, Severity, Store};

use super::{CheckRow, FindingRow, RepairRow};
use crate::builtins;
use crate::error::Result;
use crate::home::Home;
use crate::marks::PINS;
use crate::names::Names;
use crate::partial;
use crate::receipt::cid_of;

/// Longest path told of one owner, in characters; of longer ones the end is told.
const MAX_PATH: usize = 300;

/// What to check.
pub struct Checking<'a> {
    /// The store.
    pub store: &'a Arc<Store>,
    /// The home that it belongs to.
    pub home: &'a Home,
    /// The names; absent if they can't be read.
    pub names: Option<&'a Names>,
}

type Heard<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

impl Checking<'_> {
    /// Checks; writes nothing.
    pub fn run(&self, read_data: bool, progress: Heard<'_>) -> Result<CheckRow> {
        Ok(row(&self.store.check(read_data, &|| self.roots(), progress)?, read_data))
    }

    /// Checks every byte and repairs.
    pub fn repair(&self, progress: Heard<'_>) -> Result<CheckRow> {
        let repaired = self.store.repair(&|| self.roots(), progress)?;
        let mut left = repaired.left;
        if left.has_errors() {
            builtins::restore(self.store)?;
            if let Some(names) = self.names {
                names.restore()?;
            }
            left = self.store.check(false, &|| self.roots(), progress)?;
        }
        let is_needed = !repaired.found.findings.is_empty();
        let repair = RepairRow { set_aside: repaired.aside, left: left.findings.iter().map(finding_row).collect() };
        Ok(CheckRow { repaired: is_needed.then_some(repair), ..row(&repaired.found, true) })
    }

    fn roots(&self) -> Vec<(String, Cid)> {
        let (mut named, mut roots) = (Vec::new(), Vec::new());
        if let Some(names) = self.names {
            let table = names.table();
            let entries = table.entries().iter();
            named.extend(
                entries.filter_map(|e| Some((String::from_utf8_lossy(&e.name).into_owned(), cid_of(&e.target)?))),
            );
            roots.push(("(the symbol table)".into(), plain(Cid::of(Codec::DagCbor, &table.encode()))));
        }
        // Pins that can't be read are found as damage themselves.
        for pin in PINS.all(self.store).unwrap_or_default() {
            named.push((format!("(pinned) {}", pin.note), pin.cid));
        }
        for key in self.home.cids() {
            roots.push((format!("({} in config.toml)", key.0), plain(key.1)));
        }
        let mut whole = self.whole(named);
        whole.append(&mut roots);
        whole
    }

    /// What is to be complete of these objects: of a table of another node's names what of it is here, of all others everything.
    fn whole(&self, mut named: Vec<(String, Cid)>) -> Vec<(String, Cid)> {
        let (mut whole, mut tables) = (Vec::new(), HashSet::new());
        named.reverse();
        while let Some((name, cid)) = named.pop() {
            // A table that can't be read is found as damage itself.
            if !partial::is(self.store, &cid).unwrap_or(false) {
                whole.push((name, cid));
            } else if tables.insert(cid) {
                let entries = partial::entries(self.store, &cid).unwrap_or_default();
                let here = entries.into_iter().filter(|(_, _, is_here)| *is_here);
                named.extend(here.map(|(below, cid, _)| (format!("{name}/{below}"), cid)));
                whole.push((name, plain(cid)));
            }
        }
        whole
    }
}

/// As plain bytes: what is in a table or a tree is told by its own names.
fn plain(cid: Cid) -> Cid {
    Cid { codec: Codec::Raw, ..cid }
}

fn row(checked: &Checked, read_data: bool) -> CheckRow {
    CheckRow {
        findings: checked.findings.iter().map(finding_row).collect(),
        packs: checked.packs,
        stored_bytes: checked.stored_bytes,
        reached: checked.reached,
        read_data,
        repaired: None,
    }
}

fn finding_row(finding: &Finding) -> FindingRow {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut told = finding.clone();
    for owner in &mut told.owners {
        if let gridfs_store::Owner::Path(path) = owner {
            shorten(path);
        }
    }
    FindingRow {
        level: level.into(),
        file: finding.file.clone(),
        offset: finding.offset,
        what: finding.what.clone(),
        lost: finding.lost,
        lost_results: finding.lost_memos,
        belongs_to: told.owners.iter().map(|owner| owner.to_string()).collect(),
        more: finding.more_owners,
        text: told.to_string(),
    }
}

fn shorten(path: &mut String) {
    if let Some((cut, _)) = path.char_indices().rev().nth(MAX_PATH) {
        *path = format!("…{}", &path[cut..]);
    }
}
