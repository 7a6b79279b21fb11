//! What libp2p does for a node, put together: transports, limits, discovery, and our streams.

use std::time::Duration;

use libp2p::connection_limits::ConnectionLimits;
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, allow_block_list, autonat, connection_limits, dcutr, identify, kad,
    mdns, memory_connection_limits, noise, ping, relay, tcp,
};

use crate::error::Error;
use crate::limits::Limits;
use crate::mux::{MAX_STREAMS, Mux};
use crate::network::Config;
use crate::providers::{Clock, Providers, Quota};
use crate::streams::Streams;
use crate::tls::Tls;

/// How long a connection on which nothing happens stays open.
const IDLE: Duration = Duration::from_secs(600);
/// Unread bytes of one stream and one connection over QUIC.
const QUIC_STREAM_BYTES: u32 = 4 << 20;
const QUIC_CONNECTION_BYTES: u32 = 16 << 20;

/// Names of the protocols; those of a named grid have the name in them.
pub struct Protocols {
    /// Kademlia.
    pub kad: StreamProtocol,
    /// Requests between nodes.
    pub streams: StreamProtocol,
    /// What `identify` says.
    pub identify: String,
}

impl Protocols {
    /// Of the grid of all, or one of this name.
    pub fn of(grid: Option<&str>) -> Protocols {
        let prefix = grid.map_or("/gridfs".to_owned(), |name| format!("/gridfs/grid/{name}"));
        let name = |rest| StreamProtocol::try_from_owned(format!("{prefix}/{rest}")).expect("it begins with a slash");
        Protocols { kad: name("kad/1"), streams: name("1"), identify: format!("{}/1", &prefix[1..]) }
    }
}

/// The behaviours. Limits and lists come first: what they refuse the others never see.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub memory: memory_connection_limits::Behaviour,
    pub banned: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub allowed: Toggle<allow_block_list::Behaviour<allow_block_list::AllowedPeers>>,
    pub kad: kad::Behaviour<Providers>,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub relay: relay::client::Behaviour,
    pub relays: Toggle<relay::Behaviour>,
    pub dcutr: dcutr::Behaviour,
    pub asks_reach: autonat::v2::client::Behaviour,
    pub tells_reach: Toggle<autonat::v2::server::Behaviour>,
    pub streams: Streams,
    /// Announcements; what others announce, `kad` takes.
    pub tells: Streams,
}

/// The swarm of a node.
pub async fn swarm(keys: Keypair, config: &Config, clock: Clock) -> Result<Swarm<Behaviour>, Error> {
    let security = (Tls::new, noise::Config::new);
    let quic = |mut quic: libp2p::quic::Config| {
        quic.max_concurrent_stream_limit = MAX_STREAMS as u32;
        quic.max_stream_data = QUIC_STREAM_BYTES;
        quic.max_connection_data = QUIC_CONNECTION_BYTES;
        quic
    };
    let builder = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), security, Mux::new)
        .map_err(start("make keys for TLS and Noise"))?
        .with_quic_config(quic)
        .with_dns()
        .map_err(start("read the configuration of DNS (/etc/resolv.conf)"))?
        .with_websocket(security, Mux::new)
        .await
        .map_err(start("set up WebSocket"))?
        .with_relay_client(security, Mux::new)
        .map_err(start("set up relaying"))?
        .with_behaviour(|keys, relay| behaviour(keys, relay, config, clock))
        .map_err(start("look for peers on the local network (mDNS)"))?;
    Ok(builder.with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE)).build())
}

fn start<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Start { what, source: source.into() }
}

fn behaviour(
    keys: &Keypair,
    relay: relay::client::Behaviour,
    config: &Config,
    clock: Clock,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let (id, protocols) = (keys.public().to_peer_id(), Protocols::of(config.grid.as_deref()));
    let serves = !config.listen.is_empty();
    let identify = identify::Config::new(protocols.identify, keys.public())
        .with_agent_version(format!("gridfs/{}", env!("CARGO_PKG_VERSION")))
        .with_push_listen_addr_updates(true);
    let mdns = match config.mdns {
        true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), id)?),
        false => None,
    };
    let allowed = config.allow.as_ref().map(|peers| {
        let mut list = allow_block_list::Behaviour::<allow_block_list::AllowedPeers>::default();
        for peer in peers {
            list.allow_peer(*peer);
        }
        list
    });
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(connections(&config.limits)),
        memory: memory_connection_limits::Behaviour::with_max_percentage(config.limits.memory_share),
        banned: allow_block_list::Behaviour::default(),
        allowed: allowed.into(),
        kad: kademlia(id, protocols.kad.clone(), &config.limits, serves, clock),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        mdns: mdns.into(),
        relay,
        relays: (serves && config.relay).then(|| relay::Behaviour::new(id, relay::Config::default())).into(),
        dcutr: dcutr::Behaviour::new(id),
        asks_reach: autonat::v2::client::Behaviour::default(),
        tells_reach: serves.then(autonat::v2::server::Behaviour::default).into(),
        streams: Streams::new(protocols.streams),
        tells: Streams::outbound(protocols.kad),
    })
}

fn connections(limits: &Limits) -> ConnectionLimits {
    // Half of what may be established may be coming or going.
    let pending = (limits.connections / 2).max(1);
    // However many strangers come, this node can still connect to whom it wants.
    let incoming = limits.connections - limits.connections / 4;
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(pending))
        .with_max_pending_outgoing(Some(pending))
        .with_max_established(Some(limits.connections))
        .with_max_established_incoming(Some(incoming))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
}

fn kademlia(
    id: PeerId,
    protocol: StreamProtocol,
    limits: &Limits,
    serves: bool,
    clock: Clock,
) -> kad::Behaviour<Providers> {
    let mut config = kad::Config::new(protocol);
    config
        .set_provider_record_ttl(Some(limits.announced_for))
        // Announced again by `announce.rs`.
        .set_provider_publication_interval(None)
        // There are no values.
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_query_timeout(limits.connect);
    let quota = Quota {
        records: limits.provider_records,
        records_per_peer: limits.provider_records_per_peer,
        announced: limits.announced_keys,
    };
    let mut kad = kad::Behaviour::with_config(id, Providers::new(id, quota, clock), config);
    // Left to itself it would wait until somebody confirms an address, which on a local network nobody does.
    kad.set_mode(Some(if serves { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}
