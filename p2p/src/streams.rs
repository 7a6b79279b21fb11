//! Substreams of the stream protocol: opened to connected peers, taken from them.
//!
//! Of several connections to a peer the one over the fastest transport is used. A peer that opens more streams at a time than
//! are taken sees the surplus closed at once.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade};
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, UpgradeInfo};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::oneshot;

/// Streams of one connection that wait to be taken.
const MAX_WAITING: usize = 64;

/// Whoever wants a stream; told why there is none.
pub type Opened = oneshot::Sender<Result<Stream, String>>;

/// A stream that a peer opened.
#[derive(Debug)]
pub struct Inbound {
    /// Who opened it.
    pub peer: PeerId,
    /// The stream.
    pub stream: Stream,
}

/// The behaviour.
pub struct Streams {
    protocol: StreamProtocol,
    accepts: bool,
    connections: HashMap<PeerId, Vec<(ConnectionId, Rank)>>,
    events: VecDeque<ToSwarm<Inbound, Opened>>,
    waker: Option<Waker>,
}

/// Transports by how fast they are, the fastest first: measured on loopback, TCP moves a third more than QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// TCP.
    Tcp,
    /// WebSocket.
    WebSocket,
    /// QUIC.
    Quic,
    /// Through a relay.
    Relayed,
}

impl Rank {
    /// The transport of an address.
    pub fn of(address: &Multiaddr) -> Rank {
        let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|protocol| wanted(&protocol));
        if has(|protocol| matches!(protocol, Protocol::P2pCircuit)) {
            Rank::Relayed
        } else if has(|protocol| matches!(protocol, Protocol::Quic | Protocol::QuicV1)) {
            Rank::Quic
        } else if has(|protocol| matches!(protocol, Protocol::Ws(_) | Protocol::Wss(_))) {
            Rank::WebSocket
        } else {
            Rank::Tcp
        }
    }
}

impl Streams {
    /// Speaks `protocol`.
    pub fn new(protocol: StreamProtocol) -> Streams {
        Streams { protocol, accepts: true, connections: HashMap::new(), events: VecDeque::new(), waker: None }
    }

    /// Opens streams of `protocol`; those that peers open somebody else takes.
    pub fn outbound(protocol: StreamProtocol) -> Streams {
        Streams { accepts: false, ..Streams::new(protocol) }
    }

    /// Opens a stream to a connected peer.
    pub fn open(&mut self, peer: PeerId, opened: Opened) {
        let best = self.connections.get(&peer).and_then(|all| all.iter().min_by_key(|(_, rank)| *rank));
        let Some((connection, _)) = best else {
            // Whoever asked may have left.
            let _ = opened.send(Err("the connection is closed".into()));
            return;
        };
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(*connection),
            event: opened,
        });
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn connection(&self) -> Connection {
        let protocol = self.protocol.clone();
        let accepted = Accepted(self.accepts.then(|| protocol.clone()));
        Connection { protocol, accepted, wanted: VecDeque::new(), opening: VecDeque::new(), inbound: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Connection;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.connection())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.connection())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let address = match new.endpoint {
                    ConnectedPoint::Dialer { address, .. } => address,
                    ConnectedPoint::Listener { local_addr, .. } => local_addr,
                };
                self.connections.entry(new.peer_id).or_default().push((new.connection_id, Rank::of(address)));
            }
            FromSwarm::ConnectionClosed(closed) => {
                let Some(connections) = self.connections.get_mut(&closed.peer_id) else { return };
                connections.retain(|(connection, _)| *connection != closed.connection_id);
                if connections.is_empty() {
                    self.connections.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, stream: THandlerOutEvent<Self>) {
        self.events.push_back(ToSwarm::GenerateEvent(Inbound { peer, stream }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What happens on one connection.
pub struct Connection {
    protocol: StreamProtocol,
    accepted: Accepted,
    /// Streams to be opened.
    wanted: VecDeque<Opened>,
    /// Streams being opened; any that opens will do for the first of them.
    opening: VecDeque<Opened>,
    inbound: VecDeque<Stream>,
}

/// The protocol of streams that a peer may open, if any.
#[derive(Clone)]
pub struct Accepted(Option<StreamProtocol>);

impl UpgradeInfo for Accepted {
    type Info = StreamProtocol;
    type InfoIter = std::option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl<C> InboundUpgrade<C> for Accepted {
    type Output = C;
    type Error = Infallible;
    type Future = Ready<Result<C, Infallible>>;

    fn upgrade_inbound(self, stream: C, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl ConnectionHandler for Connection {
    type FromBehaviour = Opened;
    type ToBehaviour = Stream;
    type InboundProtocol = Accepted;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.accepted.clone(), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Stream>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        if let Some(opened) = self.wanted.pop_front() {
            self.opening.push_back(opened);
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, opened: Opened) {
        self.wanted.push_back(opened);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. })
                if self.inbound.len() < MAX_WAITING =>
            {
                self.inbound.push_back(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                if let Some(opened) = self.opening.pop_front() {
                    // Whoever asked may have left; then the stream closes.
                    let _ = opened.send(Ok(stream));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                if let Some(opened) = self.opening.pop_front() {
                    let _ = opened.send(Err(words(error)));
                }
            }
            _ => {}
        }
    }
}

fn words(error: StreamUpgradeError<Infallible>) -> String {
    match error {
        StreamUpgradeError::NegotiationFailed => {
            "the peer does not speak this protocol; is it of the same grid?".into()
        }
        other => other.to_string(),
    }
}
