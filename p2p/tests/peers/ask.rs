//! Calls, claims, and who may connect at all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gridfs_p2p::wire::{MAX_HEAD_BYTES, MAX_TABLE_BYTES};
use gridfs_p2p::{CallRequest, Code, Error, Head, Kind, peer_id, peer_key};
use gridfs_store::{Cid, Codec, Hash};

use crate::node::{Node, eventually};

fn call(parms: &[u8]) -> CallRequest {
    let promise = Cid::of(Codec::DagCbor, b"promise");
    CallRequest { parms: parms.to_vec(), promise, token: Some(b"token".to_vec()), deadline: Duration::from_secs(60) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_refused_and_given_up() {
    let (asker, answerer) = (Node::start().await, Node::start().await);
    asker.meet(&answerer).await;
    let answer = asker.network.call(answerer.id(), call(b"parms")).await.unwrap();
    assert_eq!((answer.result, answer.kind, answer.size_bytes), (Cid::of(Codec::Raw, b"parms"), Kind::Executable, 5));
    assert_eq!(answer.claim, b"token");
    match asker.network.call(answerer.id(), call(b"no")).await.unwrap_err() {
        Error::Refused { peer, refusal } => {
            assert_eq!((peer, refusal.code, refusal.words.len()), (answerer.id(), Code::NotAccepted, 1024));
        }
        other => panic!("{other}"),
    }
    let waiting = tokio::spawn({
        let (network, peer) = (asker.network.clone(), answerer.id());
        async move { network.call(peer, call(b"wait")).await.map(drop) }
    });
    eventually("the call is under way", || answerer.shares.calling.load(Ordering::SeqCst) == 1).await;
    waiting.abort();
    eventually("the call was given up", || answerer.shares.calling.load(Ordering::SeqCst) == 0).await;
    let short = CallRequest { deadline: Duration::from_millis(50), ..call(b"wait") };
    match asker.network.call(answerer.id(), short).await.unwrap_err() {
        Error::Refused { refusal, .. } => assert_eq!(refusal.code, Code::Limit),
        other => panic!("{other}"),
    }
    assert_eq!(answerer.shares.calling.load(Ordering::SeqCst), 0);
    let long = asker.network.call(answerer.id(), call(&[0; 40_000])).await.unwrap_err();
    assert!(matches!(long, Error::Refused { refusal, .. } if refusal.code == Code::TooLarge));
    let known = asker.network.peers();
    assert_eq!((known.len(), known[0].1.kept, known[0].1.broken), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_asks_over_one_connection_though_only_one_listens() {
    let (quiet, open) = (Node::start_with(|config| config.listen.clear()).await, Node::start().await);
    assert!(quiet.addresses().is_empty());
    quiet.meet(&open).await;
    eventually("the other side has noticed", || open.network.stats().connected == 1).await;
    let answer = open.network.call(quiet.id(), call(b"back")).await.unwrap();
    assert_eq!(answer.result, Cid::of(Codec::Raw, b"back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_told_up_to_their_limits() {
    let (asker, answerer) = (Node::start().await, Node::start().await);
    asker.meet(&answerer).await;
    let key = Hash::of(b"key");
    assert_eq!(asker.network.claims(answerer.id(), key).await.unwrap(), Vec::<Vec<u8>>::new());
    let mut claims: Vec<Vec<u8>> = (0..40).map(|n| vec![n; 10]).collect();
    claims.insert(0, vec![0; (1 << 20) + 1]);
    answerer.shares.claims.lock().unwrap().insert(key, claims.clone());
    assert_eq!(asker.network.claims(answerer.id(), key).await.unwrap(), claims[1..17]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_told_with_its_table_unless_it_is_known() {
    let (asker, answerer) = (Node::start().await, Node::start().await);
    asker.meet(&answerer).await;
    let node = [7; 32];
    let ask = |known: Option<Hash>| asker.network.head(answerer.id(), node, known);
    assert!(matches!(ask(None).await, Err(Error::Refused { refusal, .. }) if refusal.code == Code::Unknown));
    let tell = |signed: usize, table: usize| {
        let head = Head { signed: vec![1; signed], table: vec![2; table] };
        answerer.shares.heads.lock().unwrap().insert(node, head.clone());
        head
    };
    let head = tell(200, MAX_TABLE_BYTES as usize);
    assert_eq!(ask(None).await.unwrap().as_ref(), Some(&head));
    assert_eq!(ask(Some(Hash::of(b"older"))).await.unwrap().as_ref(), Some(&head));
    assert_eq!(ask(Some(Hash::of(&head.signed))).await.unwrap(), None);
    for (signed, table) in [(MAX_HEAD_BYTES as usize + 1, 0), (200, MAX_TABLE_BYTES as usize + 1)] {
        tell(signed, table);
        assert!(ask(None).await.is_err(), "what is too long is not sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_a_time_are_all_answered() {
    let (asker, answerer) = (Node::start().await, Node::start().await);
    asker.meet(&answerer).await;
    let calls = (0..30u8).map(|n| {
        let (network, peer) = (asker.network.clone(), answerer.id());
        async move { network.call(peer, call(&[n])).await.unwrap().result == Cid::of(Codec::Raw, &[n]) }
    });
    assert!(futures::future::join_all(calls).await.into_iter().all(|right| right));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_stay_outside() {
    let (member, stranger) = (Node::start().await, Node::start().await);
    let id = member.id();
    let private = Node::start_with(|config| config.allow = Some(vec![id])).await;
    member.meet(&private).await;
    assert!(member.network.call(private.id(), call(b"in")).await.is_ok());
    let refused = stranger.network.connect(private.id(), &private.addresses()).await;
    // The handshake may end before the list is looked at; then the connection is closed at once.
    assert!(refused.is_err() || stranger.network.call(private.id(), call(b"out")).await.is_err());
    let other = Node::start_with(|config| config.grid = Some("other".into())).await;
    let unanswered = {
        stranger.meet(&other).await;
        stranger.network.call(other.id(), call(b"across")).await.unwrap_err()
    };
    assert!(matches!(unanswered, Error::Unreachable { .. }), "{unanswered}");
    private.network.ban(id, true).await.unwrap();
    let banned = || async { member.network.call(private.id(), call(b"banned")).await.is_err() };
    let mut is_out = false;
    for _ in 0..100 {
        is_out = is_out || banned().await;
    }
    assert!(is_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_in_anothers_place_is_not_taken_for_it() {
    let (asker, wanted) = (Node::start().await, Node::start().await);
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let another = Node::start_with(|config| config.listen = vec![listen.parse().unwrap()]).await;
        let place = &another.addresses()[0];
        match asker.network.connect(wanted.id(), &another.addresses()).await.unwrap_err() {
            Error::Unreachable { peer, why } => {
                assert_eq!(peer, wanted.id());
                let found = format!("{} at {place}", another.id());
                assert!(why.contains(&found), "{why:?} tells of {found:?}");
            }
            other => panic!("{other}"),
        }
        assert!(asker.network.connected().await.unwrap().is_empty());
        assert_eq!(another.network.stats().connected, 0);
    }
    // Where it was not found is not remembered.
    asker.meet(&wanted).await;
    let known = asker.network.peers().into_iter().find(|(id, _)| *id == wanted.id()).unwrap().1;
    assert!(wanted.addresses().iter().any(|address| known.addresses.contains(address)), "{known:?}");
    assert_eq!(known.addresses.len(), wanted.addresses().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_leaves_room_for_whom_the_node_calls_itself() {
    let node = Node::start_with(|config| config.limits.connections = 4).await;
    let mut crowd = Vec::new();
    for _ in 0..6 {
        let other = Node::start().await;
        // Whether it is let in it learns only when it asks.
        let _ = other.network.connect(node.id(), &node.addresses()).await;
        crowd.push(other);
    }
    eventually("three are let in", || node.network.stats().connected == 3).await;
    let friend = Node::start().await;
    node.meet(&friend).await;
    assert!(node.network.call(friend.id(), call(b"out")).await.is_ok());
}

#[test]
fn a_peer_is_known_by_the_key_that_signs() {
    let seed = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
    let key = seed.public().try_into_ed25519().unwrap().to_bytes();
    let id = peer_id(&key).unwrap();
    assert_eq!(id, seed.public().to_peer_id());
    assert_eq!(peer_key(&id), Some(key));
    assert_eq!(peer_key(&gridfs_p2p::PeerId::random()), None);
}
