//! Walks the records of a pack from front to back, past damage.
//!
//! Where no valid record begins, the walk goes on at the next place that has a record's magic and a header
//! that checks; if there is none before the end, the rest is reported as torn. What the disk can't read ends the walk,
//! unless it is [`Walk::past_unreadable`].

use crate::error::Error;
use crate::pack::PackFile;
use crate::record::{self, ENTRY_BYTES, Flaw, HEADER_BYTES, Header, Kind, MAGIC, Member, Record};

const SEARCH_BYTES: u64 = 64 * 1024;
const UNREADABLE: Flaw = "the disk can't read this";

/// How much of each record is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Header and table; bodies are skipped and nothing but the header is checked.
    Tables,
    /// All of it, fully checked.
    Full,
}

/// What the walk meets.
pub enum Step {
    /// A record.
    Record(Found),
    /// Bytes in `from..to` that are no valid record, with more records after them.
    Damage { from: u64, to: u64, what: Flaw },
    /// Nothing valid from here to the end.
    Torn { from: u64, what: Flaw },
}

/// One record met.
pub struct Found {
    pub offset: u64,
    pub record_bytes: u32,
    pub kind: Kind,
    pub members: Vec<Member>,
    /// Empty at [`Depth::Tables`].
    pub plain: Vec<u8>,
}

impl Found {
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.record_bytes)
    }
}

/// The walk itself.
pub struct Walk<'a> {
    pack: &'a PackFile,
    at: u64,
    end: u64,
    depth: Depth,
    past_unreadable: bool,
}

impl<'a> Walk<'a> {
    /// Walks `from..end`; `end` may lie beyond the file.
    pub fn new(pack: &'a PackFile, from: u64, end: u64, depth: Depth) -> Result<Walk<'a>, Error> {
        let end = end.min(pack.size_bytes()?);
        Ok(Walk { pack, at: from, end, depth, past_unreadable: false })
    }

    /// Takes what the disk can't read for damage. Not for recovery: there it may be readable the next time.
    pub fn past_unreadable(mut self) -> Walk<'a> {
        self.past_unreadable = true;
        self
    }

    /// Gives up this stretch; a record that begins in it is not looked for.
    fn pass_over(&mut self) -> Step {
        let from = self.at;
        self.at = self.end.min((from / SEARCH_BYTES + 1) * SEARCH_BYTES);
        Step::Damage { from, to: self.at, what: UNREADABLE }
    }

    fn step(&mut self) -> Result<Step, Error> {
        let from = self.at;
        let (what, resume) = match self.header_at(from)? {
            Ok(header) => match self.found(from, &header)? {
                Ok(found) => {
                    self.at = found.end();
                    return Ok(Step::Record(found));
                }
                Err(what) => (what, from + header.record_bytes()),
            },
            Err(what) => (what, from + 1),
        };
        match self.search(resume)? {
            Some(to) => {
                self.at = to;
                Ok(Step::Damage { from, to, what })
            }
            None => {
                self.at = self.end;
                Ok(Step::Torn { from, what })
            }
        }
    }

    /// A valid header whose record ends inside the walk.
    fn header_at(&self, offset: u64) -> Result<Result<Header, Flaw>, Error> {
        if self.end - offset < HEADER_BYTES as u64 {
            return Ok(Err("the record header is cut short"));
        }
        let mut bytes = [0; HEADER_BYTES];
        self.pack.read_at(offset, &mut bytes)?;
        Ok(Header::decode(&bytes).and_then(|header| {
            let fits = offset + header.record_bytes() <= self.end;
            fits.then_some(header).ok_or("the record is cut short")
        }))
    }

    fn found(&self, offset: u64, header: &Header) -> Result<Result<Found, Flaw>, Error> {
        let record_bytes = header.record_bytes() as u32;
        let parsed = match self.depth {
            Depth::Tables => self.table_at(offset, header)?.map(|members| (members, Vec::new())),
            Depth::Full => {
                self.record_at(offset, record_bytes)?.map(|record| (record.members.clone(), record.plain().to_vec()))
            }
        };
        let kind = header.kind;
        Ok(parsed.map(|(members, plain)| Found { offset, record_bytes, kind, members, plain }))
    }

    fn table_at(&self, offset: u64, header: &Header) -> Result<Result<Vec<Member>, Flaw>, Error> {
        let mut table = vec![0; usize::from(header.count) * ENTRY_BYTES];
        self.pack.read_at(offset + HEADER_BYTES as u64, &mut table)?;
        Ok(record::parse_table(&table, header.plain_bytes))
    }

    fn record_at(&self, offset: u64, record_bytes: u32) -> Result<Result<Record, Flaw>, Error> {
        let mut bytes = vec![0; record_bytes as usize];
        self.pack.read_at(offset, &mut bytes)?;
        Ok(Record::decode(bytes))
    }

    /// The first offset at or after `from` where a record's header checks.
    fn search(&self, mut from: u64) -> Result<Option<u64>, Error> {
        while from + HEADER_BYTES as u64 <= self.end {
            let mut window = vec![0; SEARCH_BYTES.min(self.end - from) as usize];
            self.pack.read_at(from, &mut window)?;
            let matches = window.windows(MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MAGIC);
            for (at, _) in matches {
                if self.header_at(from + at as u64)?.is_ok() {
                    return Ok(Some(from + at as u64));
                }
            }
            from += (window.len() - (MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Step, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        match self.step() {
            Err(Error::Io { .. } | Error::Corrupt { .. }) if self.past_unreadable => Some(Ok(self.pass_over())),
            Err(error) => {
                self.at = self.end;
                Some(Err(error))
            }
            step => Some(step),
        }
    }
}
