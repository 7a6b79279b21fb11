//! The file `syscalls` of the home: the nodes of the tree, version 1.
//!
//! ```text
//! {v: 1, nodes: [[prefix, [[id, answer, record]...]]...]}   deterministic CBOR, nodes in the order of their encoded prefixes
//!   prefix  [link or text...], as in Parms
//!   answer  null, or [accepts, time_ms]
//!   record  null, or [kept, broken, latency_us, loss, time_ms, null or [time_ms, reason]]
//! 32 bytes                                                  BLAKE3 of what precedes
//! ```
//! It is replaced as a whole, and not synced: what a power cut takes is learnt again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use gridfs_store::{Hash, cbor};
use serde::{Deserialize, Serialize};

use super::node::{
    Broken, MAX_BYTES, MAX_ID_BYTES, MAX_NODES, MAX_REASON_BYTES, MAX_STEPS, MAX_TRACKS, Prefix, Record, Track, WORST,
};
use crate::error::{Code, Error, Result};
use crate::parms::Value;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 2 * MAX_BYTES as u64;
const HASH_BYTES: usize = 32;

type Nodes = Vec<(Prefix, Vec<Track>)>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u64,
    nodes: Vec<(Vec<Value>, Vec<StoredTrack>)>,
}

#[derive(Serialize, Deserialize)]
struct StoredTrack(String, Option<(bool, u64)>, Option<StoredRecord>);

#[derive(Serialize, Deserialize)]
struct StoredRecord(u64, u64, u64, u32, u64, Option<(u64, String)>);

/// The nodes in the file; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Nodes> {
    let failed = |e| Error::caused(Code::General, format!("can't read {}", path.display()), e);
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Nodes::new()),
        opened => opened.and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?,
    };
    decode(&bytes).map_err(|e| e.during(path.display()))
}

/// Replaces the file.
pub(super) fn write(path: &Path, nodes: &Nodes) -> Result<()> {
    let unfinished = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let written = opened.and_then(|mut file| file.write_all(&encode(nodes)));
    written
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(|e| Error::caused(Code::General, format!("can't write {}", path.display()), e))
}

fn encode(nodes: &Nodes) -> Vec<u8> {
    let mut nodes: Vec<_> = nodes.iter().map(|(prefix, tracks)| (prefix.to_vec(), tracks)).collect();
    nodes.sort_by_cached_key(|(prefix, _)| cbor::to_vec(prefix));
    let nodes = nodes.into_iter().map(|(prefix, tracks)| (prefix, tracks.iter().map(stored).collect())).collect();
    let mut bytes = cbor::to_vec(&Stored { v: 1, nodes });
    let hash = Hash::of(&bytes);
    bytes.extend(hash.0);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Nodes> {
    let damaged = |why: &str| Error::new(Code::Corrupt, format!("this is no syscall tree: {why}"));
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(damaged("it is too large"));
    }
    let (body, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or_else(|| damaged("it is too short"))?;
    if Hash::of(body).0 != *hash {
        return Err(damaged("its checksum is wrong"));
    }
    let stored: Stored = cbor::from_slice(body).map_err(|e| damaged(&e.to_string()))?;
    if stored.v != 1 {
        return Err(damaged("this version of gridfs knows version 1 only"));
    }
    let within = |(prefix, tracks): &(Vec<Value>, Vec<StoredTrack>)| {
        prefix.len() <= MAX_STEPS && tracks.len() <= MAX_TRACKS && tracks.iter().all(is_within_limits)
    };
    if stored.nodes.len() > MAX_NODES || !stored.nodes.iter().all(within) {
        return Err(damaged("it is over the limits"));
    }
    let nodes = stored.nodes.into_iter();
    Ok(nodes.map(|(prefix, tracks)| (prefix.into(), tracks.into_iter().map(track).collect())).collect())
}

fn is_within_limits(StoredTrack(id, _, record): &StoredTrack) -> bool {
    let fits = |StoredRecord(.., loss, _, broken): &StoredRecord| {
        *loss <= WORST && broken.as_ref().is_none_or(|(_, reason)| reason.len() <= MAX_REASON_BYTES)
    };
    id.len() <= MAX_ID_BYTES && record.as_ref().is_none_or(fits)
}

fn stored(track: &Track) -> StoredTrack {
    let record = track.record.as_ref().map(|record| {
        let broken = record.last_broken.as_ref().map(|broken| (broken.time_ms, broken.reason.to_string()));
        StoredRecord(record.kept, record.broken, record.latency_us, record.loss, record.time_ms, broken)
    });
    StoredTrack(track.id.to_string(), track.answer, record)
}

fn track(StoredTrack(id, answer, record): StoredTrack) -> Track {
    let record = record.map(|StoredRecord(kept, broken, latency_us, loss, time_ms, last)| Record {
        kept,
        broken,
        latency_us,
        loss,
        time_ms,
        last_broken: last.map(|(time_ms, reason)| Broken { time_ms, reason: reason.into() }),
    });
    Track { id: id.into(), answer, record }
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Cid, Codec};

    use super::*;
    use crate::syscalls::Syscalls;

    fn sample() -> Nodes {
        let module = Value::Object(Cid::of(Codec::Raw, b"module"));
        let promise = Value::Object(Cid::of(Codec::DagCbor, b"promise"));
        let broken = Broken { time_ms: 1_700_000_000_000, reason: "no room".into() };
        let record = Record {
            kept: 3,
            broken: 1,
            latency_us: 1500,
            loss: 77,
            time_ms: 1_700_000_000_001,
            last_broken: Some(broken),
        };
        let cas = Track { id: "cas".into(), answer: Some((false, 1_700_000_000_002)), record: None };
        let wasm = Track { id: "wasm".into(), answer: Some((true, 1_700_000_000_003)), record: Some(record) };
        let far = Track { id: "peer/x".into(), answer: Some((true, 5)), record: None };
        let argument = Value::Text("-l".into());
        vec![
            ([promise.clone(), module.clone()].into(), vec![cas, wasm]),
            ([promise, module, argument].into(), vec![far]),
        ]
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&sample());
        assert_eq!(
            blake3::hash(&bytes).to_string(),
            "a506624c3f468f78c2754ef2d5810cfc59a2f158f35ba3f36cd4ba5f99352be8"
        );
        let start = "a2617601656e6f6465738282 82d82a58250001711e20".replace(' ', "");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with(&start), "{hex}");
        assert_eq!(decode(&bytes).unwrap(), sample());
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let bytes = encode(&sample());
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[position] ^= 1 << bit;
                assert_eq!(decode(&changed).unwrap_err().code, Code::Corrupt, "bit {bit} of byte {position}");
            }
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).unwrap_err().code, Code::Corrupt, "cut at {length}");
        }
        assert_eq!(decode(&[bytes, vec![0]].concat()).unwrap_err().code, Code::Corrupt);
    }

    #[test]
    fn what_is_over_the_limits_is_refused_though_its_checksum_is_right() {
        let track = |id: usize, reason: usize| {
            let broken = Broken { time_ms: 0, reason: "x".repeat(reason).into() };
            let record = Record { last_broken: Some(broken), ..Record::default() };
            Track { id: "m".repeat(id).into(), answer: None, record: Some(record) }
        };
        let prefix = |parms: usize| -> Prefix { vec![Value::Text(String::new()); parms].into() };
        let fits: Nodes = vec![(prefix(MAX_STEPS), vec![track(MAX_ID_BYTES, MAX_REASON_BYTES); MAX_TRACKS])];
        assert_eq!(decode(&encode(&fits)).unwrap(), fits);
        let worse = Record { loss: WORST + 1, ..Record::default() };
        for over in [
            vec![(prefix(MAX_STEPS + 1), vec![])],
            vec![(prefix(2), vec![track(1, 1); MAX_TRACKS + 1])],
            vec![(prefix(2), vec![track(MAX_ID_BYTES + 1, 1)])],
            vec![(prefix(2), vec![track(1, MAX_REASON_BYTES + 1)])],
            vec![(prefix(2), vec![Track { id: "m".into(), answer: None, record: Some(worse) }])],
            vec![(prefix(2), vec![]); MAX_NODES + 1],
        ] {
            let error = decode(&encode(&over)).unwrap_err();
            assert!(error.to_string().contains("over the limits"), "{error}");
        }
        let mut newer = cbor::to_vec(&Stored { v: 2, nodes: Vec::new() });
        newer.extend(Hash::of(&newer).0);
        assert!(decode(&newer).unwrap_err().to_string().contains("knows version 1 only"));
    }

    #[test]
    fn a_tree_survives_a_restart_and_one_that_is_damaged_starts_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("syscalls");
        let tree = Syscalls::open(&path);
        tree.save().unwrap();
        assert!(tree.all().is_empty() && !path.exists(), "nothing has changed");
        tree.nodes().restore(sample());
        tree.nodes().set_changed();
        tree.save().unwrap();
        assert_eq!(Syscalls::open(&path).all(), tree.all());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&path, b"what is this").unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("this is no syscall tree: it is too short"));
        let tree = Syscalls::open(&path);
        assert!(tree.all().is_empty());
        // What is learnt from then on is kept again.
        tree.nodes().restore(sample());
        tree.nodes().set_changed();
        tree.save().unwrap();
        assert_eq!(Syscalls::open(&path).all().len(), 2);
    }
}
