//! What a check of the store found.

use std::fmt;
use std::path::PathBuf;

use crate::cid::Cid;
use crate::repair::Mending;

/// Owners listed of one finding; the others are counted.
pub const MAX_OWNERS: usize = 10;
/// Findings listed; what comes after is added up in the last.
const MAX_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Garbage, or damage that nothing was lost by.
    Warning,
    /// Something that is stored can't be read.
    Error,
}

/// What damaged bytes belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A root and the path below it, as people know it.
    Path(String),
    /// An object that no root reaches.
    Object(Cid),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file that it was found in, if it is about one.
    pub file: Option<PathBuf>,
    /// Where in the file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Chunks, manifests and directories that can't be read any more.
    pub lost: u64,
    /// Remembered values that can't be read any more.
    pub lost_memos: u64,
    /// What they belong to.
    pub owners: Vec<Owner>,
    /// More of these, not listed.
    pub more_owners: u64,
}

impl Finding {
    pub(crate) fn new(severity: Severity, what: impl Into<String>) -> Finding {
        Finding {
            severity,
            file: None,
            offset: None,
            what: what.into(),
            lost: 0,
            lost_memos: 0,
            owners: Vec::new(),
            more_owners: 0,
        }
    }

    pub(crate) fn at(self, file: PathBuf, offset: Option<u64>) -> Finding {
        Finding { file: Some(file), offset, ..self }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Path(path) => f.write_str(path),
            Owner::Object(cid) => write!(f, "{cid}"),
        }
    }
}

/// One line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(offset) = self.offset {
                write!(f, " at {offset}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        if self.lost_memos > 0 {
            write!(f, "; remembered results lost: {}", self.lost_memos)?;
        }
        if self.lost == 0 {
            return Ok(());
        }
        write!(f, "; objects and chunks lost: {}, of ", self.lost)?;
        if self.owners.is_empty() {
            return f.write_str("nothing that is named");
        }
        let owners: Vec<String> = self.owners.iter().map(Owner::to_string).collect();
        f.write_str(&owners.join(", "))?;
        if self.more_owners > 0 { write!(f, " and {} more", self.more_owners) } else { Ok(()) }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What is wrong, in the order it was found.
    pub findings: Vec<Finding>,
    /// Packs gone through.
    pub packs: u64,
    /// Bytes of these.
    pub stored_bytes: u64,
    /// Chunks, manifests and memos found where the index says.
    pub members: u64,
    /// Objects reached from the roots.
    pub reached: u64,
    pub(crate) mending: Mending,
}

impl Checked {
    /// Whether something that is stored can't be read.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Findings as they come in.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding and returns its number.
    pub fn add(&mut self, finding: Finding) -> usize {
        if self.0.len() + 1 < MAX_FINDINGS {
            self.0.push(finding);
        } else if self.0.len() < MAX_FINDINGS {
            let what = format!("more than {MAX_FINDINGS} findings; this one adds up the others");
            self.0.push(Finding { lost: finding.lost, ..Finding::new(finding.severity, what) });
        } else if let Some(last) = self.0.last_mut() {
            last.severity = last.severity.max(finding.severity);
            last.lost += finding.lost;
        }
        self.0.len() - 1
    }

    /// Notes that something can't be read because of a finding.
    pub fn make_error(&mut self, number: usize) -> &mut Finding {
        let finding = &mut self.0[number];
        finding.severity = Severity::Error;
        finding
    }

    pub fn own(&mut self, number: usize, owner: Owner) {
        let finding = &mut self.0[number];
        match finding.owners.len() < MAX_OWNERS {
            true => finding.owners.push(owner),
            false => finding.more_owners += 1,
        }
    }

    pub fn into_list(self) -> Vec<Finding> {
        self.0
    }
}
