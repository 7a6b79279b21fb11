//! Tokens against golden bytes, against every change of a bit, and random chains against a model of what they allow.

use std::collections::BTreeSet;

use gridfs_store::{Cid, Codec};

use super::*;
use crate::error::{Code, Error};
use crate::identity::Identity;

use crate::dice::Dice;

fn key(number: u8) -> Identity {
    Identity::of_seed([number; 32])
}

/// The node at which the tokens hold, and the first and second holder.
const NODE: u8 = 1;
const FIRST: u8 = 2;
const SECOND: u8 = 3;

fn promise() -> Cid {
    Cid::of(Codec::DagCbor, b"promise")
}

fn module() -> Cid {
    Cid::of(Codec::Raw, b"module")
}

fn prefix(arguments: &[&str]) -> Prefix {
    let objects = [Value::Object(promise()), Value::Object(module())];
    let texts = arguments.iter().map(|text| Value::Text((*text).into()));
    Prefix::new(objects.into_iter().chain(texts).collect()).unwrap()
}

fn parms(arguments: &[&str]) -> Parms {
    let arguments = arguments.iter().map(|text| Value::Text((*text).into())).collect();
    Parms { promise: promise(), module: module(), arguments }
}

/// What the node grants the first holder.
fn granted() -> Claims {
    Claims {
        issuer: key(NODE).id(),
        holder: key(FIRST).id(),
        audience: key(NODE).id(),
        expires_s: 2_000,
        begins_s: 1_000,
        issued_s: 999,
        id: *b"sixteen bytes id",
        prefix: prefix(&[]),
        limits: Limits { fuel: Some(1 << 32), wall_ms: Some(500), ..Limits::default() },
        delegable: 2,
    }
}

/// What the first holder hands on to the second.
fn handed_on() -> Claims {
    Claims {
        issuer: key(FIRST).id(),
        holder: key(SECOND).id(),
        expires_s: 1_500,
        prefix: prefix(&["-l"]),
        limits: Limits { fuel: Some(1 << 20), wall_ms: Some(500), memory_bytes: Some(1 << 16), ..Limits::default() },
        delegable: 0,
        ..granted()
    }
}

fn root() -> Chain {
    Chain::grant(granted(), &key(NODE)).unwrap()
}

fn child() -> Chain {
    root().attenuate(handed_on(), &key(FIRST)).unwrap()
}

fn packable() -> Claims {
    let limits = Limits { wall_ms: Some(500), memory_bytes: Some(1 << 20), ..Limits::default() };
    Claims { delegable: 0, limits, ..granted() }
}

fn packed() -> Packed {
    Packed::grant(&packable(), &key(NODE)).unwrap()
}

/// Verifies a token as the holder presents it at the node, at a second.
fn verify(token: &Token, holder: u8, now_s: u64) -> Result<Grant, Refusal> {
    let roots = BTreeSet::from([key(NODE).id()]);
    let presented = Presented { now_ms: now_s * 1000, node: key(NODE).id(), holder: key(holder).id(), roots: &roots };
    token.verify(&presented)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, code: Code, words: &str) {
    let error = Error::from(result.unwrap_err());
    assert!(error.code == code && error.to_string().contains(words), "{:?} {error}", error.code);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// [`child`], and in it [`root`], as RFC 8392 and RFC 9052 have them.
const LONG: &str = concat!(
    "d28443a10127a05902f3ac017834313244334b6f6f574a576f61715a6844616f454673684637526831627059396f68696846687a6357",
    "366436394c72324e41537571027834313244334b6f6f57526e645668565a504369517748424242646737363947797250555731337a78",
    "7771517966397233414e616261037834313244334b6f6f574b3939566f56784e4537587a79427758457a573778684b37477076383572",
    "394633563366794b53554b504835041905dc051903e8061903e707507369787465656e2062797465732069643a00010000013a000100",
    "0183d82a58250001711e2063e1d381fe6a159a50ae5c2de86625813330c8685bd6c4fc22607ee8c7fe0c6ed82a58250001551e20f425",
    "78c55d5c75569566e601ea5072c5a6d791e617aae2d1674ea29cc70fb37a622d6c3a00010002a3646675656c1a001000006777616c6c",
    "5f6d731901f46c6d656d6f72795f62797465731a000100003a00010003003a00010004590193d28443a10127a0590147ab0178343132",
    "44334b6f6f574b3939566f56784e4537587a79427758457a573778684b37477076383572394633563366794b53554b50483502783431",
    "3244334b6f6f574a576f61715a6844616f454673684637526831627059396f68696846687a6357366436394c72324e41537571037834",
    "313244334b6f6f574b3939566f56784e4537587a79427758457a573778684b37477076383572394633563366794b53554b5048350419",
    "07d0051903e8061903e707507369787465656e2062797465732069643a00010000013a0001000182d82a58250001711e2063e1d381fe",
    "6a159a50ae5c2de86625813330c8685bd6c4fc22607ee8c7fe0c6ed82a58250001551e20f42578c55d5c75569566e601ea5072c5a6d7",
    "91e617aae2d1674ea29cc70fb37a3a00010002a2646675656c1b00000001000000006777616c6c5f6d731901f43a0001000302584005",
    "37f94217caffc44c0211b5db71185e1c9a5c2f2712962e829c5985da02754594034329009a79ab75b56fb97d7bb32ae8144e10c3c784",
    "debbc2070e65a88004584072a9d2c3dcb5b89167c7fc08383dfd67ccc7bf7873923ff94e723d011d0e46f362078453d8a566b3913f58",
    "ccdb3be70193645a5d3524d1f88e1d4ab1accb990f",
);

/// [`packed`].
const SHORT: &str = concat!(
    "a8dc3f5a69606ab3735595d1062a57c31378ef40397bf221e81c74b5f37444370ae21b25908f68ada9aa42d77d7268dc286cda4b2039",
    "d2372d1f0a08c10c518e731b54415d00232cf5f152a1a0457230bb435c39fe19c19ddbee249445af19006d942fea3552fbd7c348fb1f",
    "d4d6bee200000000000003e800000000000007d0000001f400000400ffffffff",
);

#[test]
fn the_long_form_has_golden_bytes() {
    let token = Token::Chain(child());
    assert_eq!(hex(&token.to_bytes()), LONG);
    assert_eq!(Token::from_bytes(&token.to_bytes()).unwrap(), token);
    assert_eq!(Token::from_text(&token.to_text()).unwrap(), token);
}

#[test]
fn the_short_form_has_golden_bytes() {
    let token = Token::Packed(packed());
    assert_eq!(hex(&token.to_bytes()), SHORT);
    assert_eq!(Token::from_bytes(&token.to_bytes()).unwrap(), token);
    assert_eq!(Token::from_text(&token.to_text()).unwrap(), token);
}

#[test]
fn a_token_gives_what_it_says() {
    let grant = verify(&Token::Chain(child()), SECOND, 1_200).unwrap();
    grant.check(&parms(&["-l"]), None, 1_200_000).unwrap();
    grant.check(&parms(&["-l", "more"]), None, 1_499_999).unwrap();
    assert_eq!(*grant.limits(), handed_on().limits);
    refused(grant.check(&parms(&["-w"]), None, 1_200_000), Code::NotAccepted, "covers /bafyr");
    refused(
        grant.check(&parms(&[]), None, 1_200_000),
        Code::NotAccepted,
        "ask who granted it for one with that --prefix",
    );
    let other = Parms { module: Cid::of(Codec::Raw, b"other"), ..parms(&["-l"]) };
    refused(grant.check(&other, None, 1_200_000), Code::NotAccepted, "covers");
    refused(grant.check(&parms(&["-l"]), None, 1_500_000), Code::NotAccepted, "ended at 1970-01-01T00:25:00Z");
    let grant = verify(&Token::Packed(packed()), FIRST, 1_200).unwrap();
    grant.check(&parms(&["any"]), None, 1_200_000).unwrap();
    assert_eq!(*grant.limits(), packable().limits);
    refused(grant.check(&other, None, 1_200_000), Code::NotAccepted, "the prefix whose hash is");
}

#[test]
fn no_bit_of_a_token_can_be_changed_and_no_byte_left_out() {
    for (token, holder) in [(Token::Chain(child()), SECOND), (Token::Packed(packed()), FIRST)] {
        let bytes = token.to_bytes();
        verify(&token, holder, 1_200).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let verified = Token::from_bytes(&flipped).and_then(|token| verify(&token, holder, 1_200));
            assert!(verified.is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(Token::from_bytes(&bytes[..end]).and_then(|token| verify(&token, holder, 1_200)).is_err());
        }
        assert!(Token::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        let text = token.to_text();
        for wrong in ["", "u", "x", &text[1..], &text[..text.len() - 1], &format!("{text}="), &text.to_uppercase()] {
            assert!(Token::from_text(wrong).is_err(), "{wrong}");
        }
        refused(Token::from_text(&"u".repeat(MAX_BYTES * 2)), Code::Corrupt, "longer than 16384 bytes");
    }
}

#[test]
fn a_token_holds_in_its_time_at_its_place_for_its_holder() {
    let token = Token::Chain(root());
    verify(&token, FIRST, 1_000).unwrap();
    verify(&token, FIRST, 1_999).unwrap();
    refused(verify(&token, FIRST, 999), Code::NotAccepted, "holds only from 1970-01-01T00:16:40Z");
    refused(verify(&token, FIRST, 2_000), Code::NotAccepted, "ended at 1970-01-01T00:33:20Z; ask who granted it");
    refused(verify(&token, SECOND, 1_200), Code::NotAccepted, "was given to 12D3");
    let elsewhere = Chain::grant(Claims { audience: key(9).id(), ..granted() }, &key(NODE)).unwrap();
    refused(verify(&Token::Chain(elsewhere), FIRST, 1_200), Code::NotAccepted, "and this node is 12D3");
    let foreign = Chain::grant(granted(), &key(9)).unwrap();
    refused(verify(&Token::Chain(foreign), FIRST, 1_200), Code::NotAccepted, "who can grant nothing here");
    let token = Token::Packed(packed());
    refused(verify(&token, FIRST, 999), Code::NotAccepted, "holds only from");
    refused(verify(&token, FIRST, 2_000), Code::NotAccepted, "ended at");
    refused(verify(&token, SECOND, 1_200), Code::NotAccepted, "a packed token does not say which");
    let foreign = Packed::grant(&packable(), &key(9)).unwrap();
    refused(verify(&Token::Packed(foreign), FIRST, 1_200), Code::NotAccepted, "a packed token does not say which");
}

#[test]
fn the_issuer_of_a_promise_grants_calls_under_it_and_no_others() {
    let issuer = key(7);
    let claims = Claims { prefix: Prefix::default(), ..granted() };
    let chain = Token::Chain(Chain::grant(claims, &issuer).unwrap());
    let packed = Token::Packed(Packed::grant(&Claims { prefix: Prefix::default(), ..packable() }, &issuer).unwrap());
    let roots = BTreeSet::from([key(NODE).id(), issuer.id()]);
    for token in [chain, packed] {
        let (node, holder) = (key(NODE).id(), key(FIRST).id());
        let grant = token.verify(&Presented { now_ms: 1_200_000, node, holder, roots: &roots }).unwrap();
        grant.check(&parms(&[]), Some(issuer.id()), 1_200_000).unwrap();
        refused(grant.check(&parms(&[]), Some(key(8).id()), 1_200_000), Code::NotAccepted, "did not make this promise");
        refused(grant.check(&parms(&[]), None, 1_200_000), Code::NotAccepted, "did not make this promise");
    }
}

#[test]
fn nothing_is_wider_than_its_parent() {
    let attenuated = |claims: Claims, signer: u8| root().attenuate(claims, &key(signer));
    attenuated(handed_on(), FIRST).unwrap();
    let limits = |limits: Limits| Claims { limits, ..handed_on() };
    let same = granted().limits;
    let wider = [
        (Claims { audience: key(9).id(), ..handed_on() }, "but its parent at 12D3"),
        (Claims { begins_s: 999, ..handed_on() }, "earlier or longer than its parent"),
        (Claims { expires_s: 2_001, ..handed_on() }, "earlier or longer than its parent"),
        (Claims { prefix: Prefix::default(), ..handed_on() }, "covers /, but its parent only /bafyr"),
        (Claims { delegable: 2, ..handed_on() }, "handed on 2 more times, but its parent 2 times"),
        (limits(Limits { fuel: Some((1 << 32) + 1), ..same }), "limit on fuel is higher"),
        (limits(Limits { fuel: None, ..same }), "limit on fuel is higher"),
        (limits(Limits { wall_ms: Some(501), ..same }), "limit on wall_ms is higher"),
    ];
    for (claims, words) in wider {
        refused(attenuated(claims.clone(), FIRST), Code::NotAccepted, words);
        // Who signs it all the same is refused where it is presented.
        let forged = Chain::signed(claims, Some(Box::new(root())), &key(FIRST));
        refused(verify(&Token::Chain(forged), SECOND, 1_200), Code::NotAccepted, words);
    }
    refused(attenuated(handed_on(), SECOND), Code::NotAccepted, "handed on by 12D3");
    refused(child().attenuate(handed_on(), &key(SECOND)), Code::NotAccepted, "may not be handed on");
    refused(Chain::grant(Claims { expires_s: 1_000, ..granted() }, &key(NODE)), Code::Usage, "ends before it begins");
    refused(Chain::grant(Claims { expires_s: u64::MAX, ..granted() }, &key(NODE)), Code::Usage, "after the year 9999");
    for (memory, output) in [(Some(2), None), (None, Some(2))] {
        let most = Limits { memory_bytes: memory.map(|_| 1), output_bytes: output.map(|_| 1), ..Limits::default() };
        let parent = Chain::grant(Claims { limits: most, ..granted() }, &key(NODE)).unwrap();
        let wanted = Limits { memory_bytes: memory, output_bytes: output, ..Limits::default() };
        let name = if memory.is_some() { "limit on memory_bytes" } else { "limit on output_bytes" };
        refused(parent.attenuate(limits(wanted), &key(FIRST)), Code::NotAccepted, name);
    }
}

#[test]
fn a_chain_has_an_end() {
    let same = |number: u64| Claims { holder: key(NODE).id(), delegable: 20 - number, ..granted() };
    let mut chain = Chain::grant(same(0), &key(NODE)).unwrap();
    for number in 1..MAX_LINKS as u64 {
        chain = chain.attenuate(same(number), &key(NODE)).unwrap();
    }
    verify(&Token::Chain(chain.clone()), NODE, 1_200).unwrap();
    refused(chain.attenuate(same(19), &key(NODE)), Code::NotAccepted, "more than 8 links");
    let longer = Chain::signed(same(19), Some(Box::new(chain)), &key(NODE));
    refused(Token::from_bytes(&longer.to_bytes()), Code::NotAccepted, "more than 8 links");
    let long = Claims { prefix: prefix(&["x".repeat(MAX_BYTES).as_str()]), ..granted() };
    refused(Chain::grant(long, &key(NODE)), Code::Corrupt, "longer than 16384 bytes");
}

#[test]
fn what_does_not_fit_into_the_short_form_is_said() {
    let limits = |limits: Limits| Packed::grant(&Claims { limits, ..packable() }, &key(NODE));
    refused(limits(Limits { fuel: Some(1), ..Limits::default() }), Code::Usage, "no field for a limit on fuel");
    refused(limits(Limits { memory_bytes: Some(1_000), ..Limits::default() }), Code::Usage, "whole KiB");
    refused(
        limits(Limits { wall_ms: Some(u64::from(u32::MAX)), ..Limits::default() }),
        Code::Usage,
        "more than 32 bits",
    );
    limits(Limits { wall_ms: Some(u64::from(u32::MAX) - 1), ..Limits::default() }).unwrap();
    let arguments = |count: usize| Claims { prefix: prefix(&vec!["a"; count]), ..packable() };
    refused(Packed::grant(&arguments(17), &key(NODE)), Code::Usage, "at most 16 arguments");
    let grant = verify(&Token::Packed(Packed::grant(&arguments(16), &key(NODE)).unwrap()), FIRST, 1_200).unwrap();
    grant.check(&parms(&["a"; 20]), None, 1_200_000).unwrap();
    refused(grant.check(&parms(&["a"; 15]), None, 1_200_000), Code::NotAccepted, "the prefix whose hash is");
    refused(Packed::grant(&granted(), &key(NODE)), Code::Usage, "--delegable must be 0");
    refused(Packed::grant(&Claims { begins_s: 2_000, ..packable() }, &key(NODE)), Code::Usage, "ends before it begins");
}

#[test]
fn a_token_without_a_holder_is_none() {
    use coset::cbor::Value;
    use coset::{CborSerializable as _, CoseSign1, TaggedCborSerializable as _};
    let mut cose = CoseSign1::from_tagged_slice(&root().to_bytes()).unwrap();
    let payload = Value::from_slice(&cose.payload.unwrap()).unwrap();
    let claims = payload.into_map().unwrap().into_iter().filter(|(name, _)| *name != Value::from(2));
    cose.payload = Some(Value::Map(claims.collect()).to_vec().unwrap());
    refused(Token::from_bytes(&cose.to_tagged_vec().unwrap()), Code::Corrupt, "sub is missing or wrong");
}

/// All calls that a small world has.
fn world() -> Vec<Parms> {
    let letters = ["a", "b"];
    let mut arguments: Vec<Vec<&str>> = vec![vec![]];
    for _ in 0..3 {
        let longer = arguments.iter().flat_map(|a| letters.map(|letter| [a.as_slice(), &[letter]].concat()));
        arguments.extend(longer.collect::<Vec<_>>());
    }
    let named = |number: u8| (Cid::of(Codec::DagCbor, &[number / 2]), Cid::of(Codec::Raw, &[number % 2]));
    let call = |(promise, module), arguments: &Vec<&str>| Parms {
        promise,
        module,
        arguments: arguments.iter().map(|text| Value::Text((*text).into())).collect(),
    };
    (0..4).flat_map(|number| arguments.iter().map(move |a| call(named(number), a)).collect::<Vec<_>>()).collect()
}

/// Claims that are about as wide as `before`, often wider, sometimes by another or for elsewhere.
fn random_claims(dice: &mut Dice, before: &Claims, calls: &[Parms]) -> Claims {
    let other = |dice: &mut Dice, usual: NodeId| if dice.one_in(12) { key(dice.below(4) as u8).id() } else { usual };
    let values: Vec<Value> = values_of(dice.pick(calls)).collect();
    let length = dice.below(values.len().min(4) as u64 + 1) as usize;
    let longer = [before.prefix.values(), &values[..length.min(1)]].concat();
    let prefix = match dice.below(4) {
        0 => Prefix::new(values[..length].to_vec()),
        1 => Prefix::new(longer),
        _ => None,
    };
    let limit = |dice: &mut Dice, before: Option<u64>| match dice.below(8) {
        0 => None,
        1 => Some(dice.below(4)),
        _ => before,
    };
    let time = |dice: &mut Dice, before: u64| if dice.one_in(4) { dice.below(9) } else { before };
    Claims {
        issuer: other(dice, before.holder),
        holder: key(dice.below(4) as u8).id(),
        audience: other(dice, before.audience),
        expires_s: time(dice, before.expires_s),
        begins_s: time(dice, before.begins_s),
        issued_s: dice.below(9),
        id: [dice.roll() as u8; 16],
        prefix: prefix.unwrap_or_else(|| before.prefix.clone()),
        limits: Limits {
            fuel: limit(dice, before.limits.fuel),
            wall_ms: limit(dice, before.limits.wall_ms),
            memory_bytes: limit(dice, before.limits.memory_bytes),
            output_bytes: limit(dice, before.limits.output_bytes),
        },
        delegable: if dice.one_in(4) { dice.below(4) } else { before.delegable.saturating_sub(1) },
    }
}

/// What claims allow, written out: at which seconds which calls, with how much of each resource a promise of 0 to 5 gives.
fn allowed(claims: &Claims, calls: &[Parms]) -> (Vec<u64>, Vec<usize>, Vec<u64>) {
    let seconds = (0..10).filter(|second| (claims.begins_s..claims.expires_s).contains(second)).collect();
    let begins = |parms: &Parms| {
        let path = format!("{:?}", values_of(parms).collect::<Vec<_>>());
        let prefix = format!("{:?}", claims.prefix.values());
        path.starts_with(prefix.trim_end_matches(']'))
    };
    let covered = (0..calls.len()).filter(|index| begins(&calls[*index])).collect();
    let limits = [claims.limits.fuel, claims.limits.wall_ms, claims.limits.memory_bytes, claims.limits.output_bytes];
    let resources =
        limits.iter().flat_map(|limit| (0..6).map(move |most: u64| limit.map_or(most, |limit| most.min(limit))));
    (seconds, covered, resources.collect())
}

fn is_narrower(child: &Claims, parent: &Claims, calls: &[Parms]) -> bool {
    let (child_seconds, child_calls, child_resources) = allowed(child, calls);
    let (seconds, covered, resources) = allowed(parent, calls);
    child_seconds.iter().all(|second| seconds.contains(second))
        && child_calls.iter().all(|call| covered.contains(call))
        && child_resources.iter().zip(&resources).all(|(child, parent)| child <= parent)
        && child.issuer == parent.holder
        && child.audience == parent.audience
        && child.delegable < parent.delegable
}

/// A chain is believed exactly when each link allows nothing that its parent does not.
#[test]
fn random_chains_are_believed_as_the_model_says() {
    let calls = world();
    let mut believed = 0;
    for number in 0..2_000 {
        let mut dice = Dice::new(number);
        let first = Claims { expires_s: 8, begins_s: 1, prefix: Prefix::default(), delegable: 3, ..granted() };
        let mut links = vec![Claims { limits: Limits::default(), ..first }];
        for _ in 0..dice.below(4) {
            let claims = random_claims(&mut dice, links.last().unwrap(), &calls);
            links.push(claims);
        }
        let keys: Vec<Identity> = (0..10).map(key).collect();
        let signer = |claims: &Claims| keys.iter().find(|key| key.id() == claims.issuer).unwrap();
        let mut chain: Option<Chain> = None;
        for claims in &links {
            chain = Some(Chain::signed(claims.clone(), chain.map(Box::new), signer(claims)));
        }
        let last = links.last().unwrap();
        let roots = BTreeSet::from([key(NODE).id()]);
        let now_s = dice.below(9);
        let presented = Presented { now_ms: now_s * 1000, node: key(NODE).id(), holder: last.holder, roots: &roots };
        let expected = links.iter().all(|link| link.begins_s < link.expires_s)
            && links.windows(2).all(|pair| is_narrower(&pair[1], &pair[0], &calls))
            && last.audience == key(NODE).id()
            && allowed(last, &calls).0.contains(&now_s);
        let verified = Token::from_bytes(&chain.unwrap().to_bytes()).and_then(|token| token.verify(&presented));
        assert_eq!(verified.is_ok(), expected, "chain {number}: {verified:?} of {links:#?}");
        let Ok(grant) = verified else { continue };
        believed += 1;
        let covered = allowed(last, &calls).1;
        for (index, call) in calls.iter().enumerate() {
            assert_eq!(grant.check(call, None, now_s * 1000).is_ok(), covered.contains(&index), "chain {number}");
        }
    }
    assert!((200..1_800).contains(&believed), "{believed} of 2,000 chains are believed");
}
