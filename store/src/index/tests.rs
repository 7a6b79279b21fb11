use super::*;
use crate::dice::Dice;

fn memo(key: &[u8], label: &[u8], offset: u64) -> Entry {
    let location = Location { offset, ..object(b"").location };
    Entry { key: Hash::of(key), location, label: Some(label.to_vec()) }
}

fn forget(key: &[u8]) -> Entry {
    let entry = memo(key, b"", 0);
    Entry { location: Location { plain_bytes: 2, ..entry.location }, ..entry }
}

fn object(content: &[u8]) -> Entry {
    let location = Location {
        pack: 1,
        offset: 24,
        record_bytes: 100,
        plain_bytes: content.len() as u32,
        member: 0,
        manifest: false,
        whole: true,
    };
    Entry { key: Hash::of(content), location, label: None }
}

#[test]
fn counting_waits_for_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    index.apply(&[object(b"abc")], &[], Position::default(), Position::default()).unwrap();
    let _writing = index.lock();
    assert_eq!(index.counters().objects, 1);
}

#[test]
fn counters_count_distinct_keys_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let position = Position { sequence: 7, meta_id: 2, meta_end: 300, data_id: 1, data_end: 400 };
    let expected = Counters { objects: 2, chunks: 2, memos: 1, plain_bytes: 7 };
    {
        let index = Index::open(dir.path()).unwrap();
        assert_eq!(index.checkpoint(), Checkpoint::default());
        let entries = [object(b"abc"), object(b"abc"), object(b"four"), memo(b"k", b"x", 1), memo(b"k", b"y", 2)];
        index.apply(&entries, &[], position, Position::default()).unwrap();
        index.apply(&[object(b"abc")], &[], position, Position::default()).unwrap();
        assert_eq!(index.counters(), expected);
        index.flush().unwrap();
    }
    let index = Index::open(dir.path()).unwrap();
    assert_eq!((index.counters(), index.checkpoint().indexed), (expected, position));
    assert_eq!(index.get(&Hash::of(b"abc")).unwrap(), Some(object(b"abc").location));
    assert_eq!(index.memo(&Hash::of(b"k")).unwrap().unwrap().offset, 2);
    let labels: Vec<_> = index.labels(b"").unwrap().map(Result::unwrap).collect();
    assert_eq!(labels, [(b"y".to_vec(), Hash::of(b"k"))]);
}

/// One index takes a transaction for each step, the other when it has to; nobody can tell them apart.
#[test]
fn what_waits_for_a_transaction_is_seen_as_after_it() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [patient, eager] = dirs.each_ref().map(|dir| Index::open(dir.path()).unwrap());
    let mut dice = Dice::new(7);
    for step in 1..400u32 {
        let entry = |dice: &mut Dice| {
            let (key, offset) = ([dice.below(20) as u8], dice.below(1000));
            match dice.below(4) {
                0 => memo(&key, dice.pick::<&[u8]>(&[b"a", b"ab", b"b", b""]), offset),
                1 => forget(&key),
                2 => Entry { location: Location { whole: false, ..object(&key).location }, ..object(&key) },
                _ => object(&key),
            }
        };
        let entries: Vec<Entry> = (0..dice.below(12)).map(|_| entry(&mut dice)).collect();
        let position = Position { sequence: step.into(), ..Position::default() };
        for index in [&patient, &eager] {
            index.apply(&entries, &[], position, position).unwrap();
        }
        assert_eq!(eager.snapshot().unwrap().indexed(), position, "also if nothing but the position is new");
        if step % 90 == 0 {
            patient.flush().unwrap();
        }
        assert_eq!(patient.checkpoint(), eager.checkpoint(), "step {step}");
        for key in 0..20u8 {
            let key = Hash::of(&[key]);
            assert_eq!(patient.get(&key).unwrap(), eager.get(&key).unwrap(), "step {step}");
            assert_eq!(patient.memo(&key).unwrap(), eager.memo(&key).unwrap(), "step {step}");
        }
        for prefix in [b"".as_slice(), b"a", b"ab", b"c"] {
            let labels = |index: &Index| index.labels(prefix).unwrap().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(labels(&patient), labels(&eager), "step {step}");
        }
    }
    let before = patient.checkpoint();
    patient.snapshot().unwrap();
    assert_eq!(patient.checkpoint(), before, "counted as the transaction counts");
}

#[test]
fn labels_are_ordered_whatever_bytes_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    let mut labels: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0\0", b"a\0\x01", b"a\x01", b"ab", b"", b"\xff", b"b"];
    let entries: Vec<_> = labels.iter().map(|label| memo(label, label, 0)).collect();
    index.apply(&entries, &[], Position::default(), Position::default()).unwrap();
    labels.sort();
    let got = |prefix: &[u8]| index.labels(prefix).unwrap().map(|label| label.unwrap().0).collect::<Vec<_>>();
    assert_eq!(got(b""), labels);
    let with_zero: Vec<&[u8]> = vec![b"a\0", b"a\0\0", b"a\0\x01"];
    assert_eq!(got(b"a\0"), with_zero);
}
