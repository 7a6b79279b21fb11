//! `gridfs peer`, `gridfs share`.

use std::io;

use clap::{Args, Subcommand};

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, PeerRow, PeersRow, Request};

#[derive(Subcommand)]
#[command(after_help = "\
A peer's address ends with its id, the key that signs what it claims; `gridfs peer list` on its machine prints both.

Examples:
  gridfs peer add /ip4/192.0.2.7/tcp/4747/p2p/12D3KooW...
  gridfs peer list
  gridfs peer ban 12D3KooW...            it is not talked to any more
  gridfs peer ban --lift 12D3KooW...")]
pub(crate) enum Peer {
    /// Remember a peer, and connect to it now and at every start
    Add {
        /// Its address
        address: String,
    },
    /// Show this node's addresses, and the peers that it knows
    List,
    /// Show one peer
    Show {
        /// Its id
        peer: String,
    },
    /// Keep a peer away
    Ban {
        /// Its id
        peer: String,
        /// Let it come again
        #[arg(long)]
        lift: bool,
    },
}

impl Peer {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let request = match self {
            Peer::Add { address } => Request::AddPeer { address },
            Peer::List => Request::Peers { peer: None },
            Peer::Show { peer } => Request::Peers { peer: Some(peer) },
            Peer::Ban { peer, lift } => Request::Ban { peer, banned: !lift },
        };
        let one = matches!(&request, Request::Peers { peer: Some(_) });
        match globals.request(request)? {
            Answer::Peers(row) if one => {
                print(globals.json, &row.peers, |out| row.peers.iter().try_for_each(|peer| write_peer(out, peer)))
            }
            Answer::Peers(row) => print(globals.json, &row, |out| write_peers(out, &row)),
            Answer::Text(peer) => {
                println!("{peer}");
                Ok(())
            }
            Answer::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

fn write_peers(out: &mut dyn io::Write, row: &PeersRow) -> io::Result<()> {
    writeln!(out, "this node  {}", row.node)?;
    match row.addresses.is_empty() {
        true => writeln!(out, "  does not listen; `gridfs serve` or `gridfs mount --serve` lets peers in")?,
        false => row.addresses.iter().try_for_each(|address| writeln!(out, "  {address}"))?,
    }
    writeln!(
        out,
        "  {} connected, {} keys announced, {} kept for others",
        row.connected, row.announced_keys, row.provider_records
    )?;
    writeln!(out, "  {} bytes sent, {} received", row.sent_bytes, row.received_bytes)?;
    row.peers.iter().try_for_each(|peer| write_peer(out, peer))
}

fn write_peer(out: &mut dyn io::Write, peer: &PeerRow) -> io::Result<()> {
    let state = match (peer.connected, peer.banned) {
        (_, true) => "banned",
        (true, _) => "connected",
        (false, _) => "away",
    };
    let seen = peer.seen.as_deref().unwrap_or("never");
    let named = if peer.named { ", added by hand" } else { "" };
    writeln!(out, "{}  {state}{named}; seen {seen}; {} kept, {} broken", peer.peer, peer.kept, peer.broken)?;
    peer.addresses.iter().try_for_each(|address| writeln!(out, "  {address}"))?;
    if peer.served + peer.failed > 0 {
        writeln!(out, "  run for it here: {} calls, and {} that failed", peer.served, peer.failed)?;
    }
    peer.evidence.iter().try_for_each(|why| writeln!(out, "  not believed: {why}"))
}

#[derive(Args)]
#[command(after_help = "\
The ticket names this node's addresses and what it shares. Whoever connects may read what is shared, ticket or not, until
`gridfs share --stop`. Sharing a call shares its result, its module and its inputs.

Examples:
  gridfs share war.txt                  a file, for `gridfs get TICKET` on another machine
  gridfs share /pub/wc/war.txt          a call, which the other machine runs for itself
  gridfs share --list
  gridfs share --stop CID")]
pub(crate) struct Share {
    /// List what is shared
    #[arg(long, conflicts_with = "what")]
    list: bool,
    /// Share it no longer
    #[arg(long, requires = "what")]
    stop: bool,
    /// A CID, a name or a path of the grid
    #[arg(required_unless_present = "list")]
    what: Option<String>,
}

impl Share {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let request = match (self.what, self.stop) {
            (None, _) => Request::Shares,
            (Some(what), true) => Request::Unshare { what },
            (Some(what), false) => Request::Share { what: super::object::spelled(what) },
        };
        match globals.request(request)? {
            Answer::Pins(shares) => print(globals.json, &shares, |out| {
                shares.iter().try_for_each(|share| writeln!(out, "{}  {}  {}", share.cid, share.time, share.note))
            }),
            Answer::Text(ticket) => {
                println!("{ticket}");
                Ok(())
            }
            Answer::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }
}
