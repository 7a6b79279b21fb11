//! Reading the middle of what is elsewhere.

use gridfs_p2p::Error;
use gridfs_store::{Cid, Codec};

use crate::node::{Node, random};

#[tokio::test(flavor = "multi_thread")]
async fn a_range_comes_alone_and_verified() {
    let (reader, provider) = (Node::start().await, Node::start().await);
    reader.meet(&provider).await;
    let bytes = random(1, 20_000_001);
    let cid = provider.put(&bytes);
    let len = bytes.len() as u64;
    let providers = [provider.id()];
    for (range, known) in [
        (0..10, None),
        (10_000_000..10_000_100, None),
        (len - 5..len + 5, Some(len)),
        (1_000_000..15_000_000, Some(len)),
        (len..len + 1, None),
        (5..5, None),
    ] {
        let part = reader.network.fetch_range(cid, range.clone(), known, &providers).await.unwrap();
        let expected = &bytes[range.start as usize..range.end.min(len) as usize];
        assert_eq!((part.size_bytes, part.offset, part.bytes.len()), (len, range.start, expected.len()));
        assert!(part.bytes == expected, "{range:?}");
    }
    let moved = reader.network.stats().received_bytes;
    assert!(moved < 18_000_000, "{moved} bytes came for parts of 14 MB");
    assert!(!reader.store.contains(&cid).unwrap());
    let wrong = reader.network.fetch_range(cid, 0..10, Some(len + 1), &providers).await.unwrap_err();
    assert!(matches!(wrong, Error::NoProvider { failures, .. } if failures[0].1.blame().is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_have_ranges_too_and_absent_ones_none() {
    let (reader, provider) = (Node::start().await, Node::start().await);
    reader.meet(&provider).await;
    for bytes in [&b""[..], b"x", &[7; 100_000]] {
        let cid = provider.put(bytes);
        let part = reader.network.fetch_range(cid, 0..1 << 20, None, &[provider.id()]).await.unwrap();
        assert!(part.bytes == bytes && part.size_bytes == bytes.len() as u64);
    }
    let absent = Cid::of(Codec::Raw, b"absent");
    assert!(reader.network.fetch_range(absent, 0..1, None, &[provider.id()]).await.is_err());
    let secret = provider.put(b"secret");
    provider.shares.secret.lock().unwrap().push(secret);
    assert!(reader.network.fetch_range(secret, 0..1, None, &[provider.id()]).await.is_err());
}
