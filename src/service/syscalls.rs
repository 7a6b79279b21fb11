//! Requests about the syscall tree, and the ledger of promises kept and broken, which is another view of it.

use std::collections::BTreeMap;

use gridfs_store::Cid;

use super::{Answer, BrokenRow, KeptRow, LedgerRow, NodeRow, Service, SyscallsRow, TrackRow};
use crate::names::Names;
use crate::parms::Value;
use crate::syscalls::{Broken, Record, Track, path};
use crate::time;

/// Most bytes of an answer, about; a frame takes twice as many.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Most modules that the ledger tells of, those first that broke most.
const MAX_LEDGER_ROWS: usize = 4096;

impl Service {
    pub(super) fn syscalls(&self) -> Answer {
        let kernel = &self.node.kernel;
        let (nodes, now_ms) = (kernel.syscalls.all(), time::now_ms());
        let mut row = SyscallsRow { nodes: Vec::new(), more: 0, remembered: kernel.syscalls.leaves() as u64 };
        let mut bytes = 0;
        for (prefix, tracks) in nodes {
            bytes += node_bytes(&prefix, &tracks);
            if bytes > MAX_ANSWER_BYTES {
                row.more += 1;
                continue;
            }
            let modules = tracks.iter().map(|track| track_row(track, now_ms)).collect();
            row.nodes.push(NodeRow { path: path(&prefix), named: named(&prefix, &kernel.names), modules });
        }
        Answer::Syscalls(row)
    }

    pub(super) fn ledger(&self) -> Answer {
        let kernel = &self.node.kernel;
        let mut called: BTreeMap<Cid, KeptRow> = BTreeMap::new();
        let mut consulted: BTreeMap<String, KeptRow> = BTreeMap::new();
        let mut row = LedgerRow::default();
        for (prefix, tracks) in kernel.syscalls.all() {
            let [_, Value::Object(module), ..] = &*prefix else { continue };
            for track in tracks {
                let Some(record) = &track.record else { continue };
                add(called.entry(*module).or_default(), record);
                add(consulted.entry(track.id.to_string()).or_default(), record);
            }
        }
        let name =
            |(cid, row): (Cid, KeptRow)| KeptRow { who: cid.to_string(), names: kernel.names.naming(&cid), ..row };
        row.called = sorted(called.into_iter().map(name).collect(), &mut row.more);
        row.consulted = sorted(consulted.into_iter().map(|(who, row)| KeptRow { who, ..row }).collect(), &mut row.more);
        Answer::Ledger(row)
    }
}

fn node_bytes(prefix: &[Value], tracks: &[Track]) -> usize {
    let path: usize = prefix.iter().map(|value| value.text().len()).sum();
    let reason = |track: &Track| track.record.as_ref()?.last_broken.as_ref().map(|broken| broken.reason.len());
    // Percent-encoding may take three bytes for one; the path stands there twice.
    200 + 6 * path + tracks.iter().map(|track| 400 + track.id.len() + reason(track).unwrap_or(0)).sum::<usize>()
}

/// The path of a prefix, by names where there are any.
fn named(prefix: &[Value], names: &Names) -> String {
    let text = |value: &Value| match value {
        Value::Object(cid) => names.naming(cid).into_iter().next().unwrap_or_else(|| cid.to_string()),
        Value::Text(text) => text.clone(),
    };
    path(&prefix.iter().map(|value| Value::Text(text(value))).collect::<Vec<_>>())
}

fn track_row(track: &Track, now_ms: u64) -> TrackRow {
    let record = track.record.clone().unwrap_or_default();
    TrackRow {
        id: track.id.to_string(),
        accepts: track.answer.map(|(accepts, _)| accepts),
        answered: track.answer.map(|(_, time_ms)| time::text(time_ms)),
        age_s: track.answer.map(|(_, time_ms)| now_ms.saturating_sub(time_ms) / 1000),
        kept: record.kept,
        broken: record.broken,
        latency_us: record.latency_us,
        loss: record.loss_at(now_ms),
        last_broken: record.last_broken.as_ref().map(broken_row),
    }
}

fn broken_row(broken: &Broken) -> BrokenRow {
    BrokenRow { time: time::text(broken.time_ms), reason: broken.reason.to_string() }
}

fn add(row: &mut KeptRow, record: &Record) {
    row.kept = row.kept.saturating_add(record.kept);
    row.broken = row.broken.saturating_add(record.broken);
    let last = record.last_broken.as_ref().map(broken_row);
    // Times in this form sort as they follow each other.
    if last.as_ref().map(|last| &last.time) > row.last_broken.as_ref().map(|last| &last.time) {
        row.last_broken = last;
    }
}

/// Who broke most first.
fn sorted(mut rows: Vec<KeptRow>, more: &mut u64) -> Vec<KeptRow> {
    rows.sort_by(|a, b| (b.broken, b.kept, &a.who).cmp(&(a.broken, a.kept, &b.who)));
    *more += rows.len().saturating_sub(MAX_LEDGER_ROWS) as u64;
    rows.truncate(MAX_LEDGER_ROWS);
    rows
}
