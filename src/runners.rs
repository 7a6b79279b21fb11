//! Peers that run calls for this node, as a module: it comes after all others, and asks the nodes whose claims the promise believes.
//!
//! What this node can have without burdening anybody, it has that way: its own run, and results that are remembered elsewhere. Under a
//! promise that lets both race, peers are asked at once. A call by the right of a token that holds at another node is not made here at
//! all: that node is asked, and no other. While a peer is asked it may read what the call is given (`lent.rs`). What comes back
//! is a claim, believed as all are (`claims.rs`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gridfs_p2p::{CallRequest, Code as Peer, Error as PeerError, Network, PeerId};
use gridfs_store::Hash;
use tokio::task::JoinSet;

use crate::authority::Authority;
use crate::claims::{self, Gathered};
use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::peers::MAX_ASKED;
use crate::promise::{Source, Trust};

/// What the syscall tree knows the module by.
pub const ID: &str = "runners";
/// How long a peer may take beyond the call's own time: to get what it needs, and to find room.
const GRACE: Duration = Duration::from_secs(60);

/// The module.
pub struct Runners;

impl Module for Runners {
    fn id(&self) -> &str {
        ID
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        if call.again || call.kernel.peers.network().is_none() {
            return Ok(Acceptance::of_call(false));
        }
        let promise = &call.promise;
        // Peers answer under promises that share, and their answers count where others are believed.
        let accepts = promise.source != Source::Local && promise.share && promise.trust != Trust::OWN;
        Ok(Acceptance { accepts, about: Some(1) })
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            let peers = &call.kernel.peers;
            let stopped = || Error::new(Code::Unavailable, "the network was stopped");
            let network = peers.network().ok_or_else(stopped)?;
            // Apart from what nobody claims, which is known under the key itself.
            let absent = Hash::of(&[b"run".as_slice(), &call.flight().0].concat());
            if let Some(error) = peers.absent(&absent) {
                return Err(error);
            }
            run(call, network).await.inspect_err(|error| peers.note_absent(&absent, error))
        })
    }
}

/// Asks as many peers at a time as must still agree, until their claims are believed or nobody is left.
async fn run(call: &Call, network: &Network) -> Result<Reply> {
    let (mut gathered, mut asking) = (Gathered::default(), JoinSet::new());
    let (mut loans, mut failure) = (Vec::new(), None);
    let mut waiting = runners(call, network).await?.into_iter();
    let request = request(call);
    while gathered.believed(call).is_none() {
        while asking.len() + gathered.agreeing(call) < call.promise.trust.agree()
            && let Some(peer) = waiting.next()
        {
            loans.push(call.kernel.peers.lent.lend(peer, call.parms.inputs().collect()));
            asking.spawn(ask(network.clone(), peer, request.clone()));
        }
        let Some(answer) = asking.join_next().await else { break };
        let Ok((peer, began, answer)) = answer else { continue };
        failure = answer.as_ref().err().map(|error| failed(call, error)).or(failure);
        // Not to take a call on breaks no promise.
        if !answer.as_ref().is_err_and(is_rejection) {
            claims::take(call, &mut gathered, peer, began, answer)?;
        }
    }
    // Whoever is still at it is not needed any more.
    drop(asking);
    match failure {
        Some(failure) if gathered.believed(call).is_none() => Err(failure),
        _ => claims::settle(call, network, gathered, JoinSet::new()).await,
    }
}

async fn ask(network: Network, peer: PeerId, request: CallRequest) -> claims::Answer {
    let began = Instant::now();
    let answer = network.call(peer, request).await;
    // Without a claim it is nobody's word.
    (peer, began, answer.map(|answer| if answer.claim.is_empty() { Vec::new() } else { vec![answer.claim] }))
}

fn request(call: &Call) -> CallRequest {
    let token = match &call.caller.authority {
        Authority::Elsewhere(elsewhere) => Some(elsewhere.token.clone()),
        _ => None,
    };
    let deadline = Duration::from_millis(call.limits.wall_ms) + GRACE;
    CallRequest { parms: call.parms.to_bytes(), promise: call.parms.promise, token, deadline }
}

/// Whom to ask: those that are connected first, the best of them before others.
async fn runners(call: &Call, network: &Network) -> Result<Vec<PeerId>> {
    let own = call.kernel.identity.id();
    let keys = match &call.caller.authority {
        Authority::Elsewhere(elsewhere) => std::slice::from_ref(&elsewhere.node),
        _ => call.promise.trust.keys(),
    };
    let may_help = keys.iter().filter(|key| **key != own && !call.kernel.peers.is_liar(key));
    let peers = may_help.filter_map(|key| gridfs_p2p::peer_id(&key.0)).collect();
    let connected: BTreeSet<PeerId> = network.connected().await?.into_iter().collect();
    let (mut near, far): (Vec<_>, Vec<_>) =
        claims::best_first(call, peers).into_iter().partition(|peer| connected.contains(peer));
    near.extend(far);
    near.truncate(2 * MAX_ASKED);
    Ok(near)
}

fn is_rejection(error: &PeerError) -> bool {
    let PeerError::Refused { refusal, .. } = error else { return false };
    !matches!(refusal.code, Peer::Limit | Peer::Failed | Peer::Internal)
}

fn failed(call: &Call, error: &PeerError) -> Error {
    let code = match error {
        PeerError::Refused { refusal, .. } => match refusal.code {
            Peer::NotAccepted | Peer::NoAuthority => Code::NotAccepted,
            Peer::Limit => Code::TimeLimit,
            Peer::Failed => Code::ModuleFailed,
            Peer::Busy => Code::Busy,
            _ => Code::Unavailable,
        },
        _ => Code::Unavailable,
    };
    // Where there are other ways, no peer has the last word.
    let is_only_way = matches!(call.caller.authority, Authority::Elsewhere(_));
    let code = if code.is_final() && !is_only_way { Code::Unavailable } else { code };
    Error::new(code, error.to_string())
}
