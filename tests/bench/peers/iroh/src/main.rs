//! One blob from one process to another by iroh-blobs, which `tests/bench/peers/run` measures beside gridfs.
//!
//! Both ends keep it in a store on disk and meet on loopback, without relays or discovery.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, bail};
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, RelayMode};
use iroh_blobs::BlobsProtocol;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::ticket::BlobTicket;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["provide", file, store] => provide(file.as_ref(), store.as_ref()).await,
        ["get", ticket, store] => get(&ticket.parse()?, store.as_ref()).await,
        ["--version"] => {
            println!("iroh-blobs {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => bail!("usage: iroh-transfer provide FILE STORE | get TICKET STORE"),
    }
}

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_ip_transports();
    Ok(builder.bind_addr((Ipv4Addr::LOCALHOST, 0))?.bind().await?)
}

/// Prints a ticket and provides the file until the process is ended.
async fn provide(file: &Path, store: &Path) -> Result<()> {
    let (store, endpoint) = (FsStore::load(store).await?, endpoint().await?);
    let tag = store.blobs().add_path(std::path::absolute(file)?).await?;
    let _router = Router::builder(endpoint.clone()).accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None)).spawn();
    println!("{}", BlobTicket::new(endpoint.addr(), tag.hash, tag.format));
    std::future::pending().await
}

async fn get(ticket: &BlobTicket, store: &Path) -> Result<()> {
    let (store, endpoint) = (FsStore::load(store).await?, endpoint().await?);
    let connection = endpoint.connect(ticket.addr().clone(), iroh_blobs::ALPN).await?;
    store.remote().fetch(connection, ticket.hash_and_format()).await?;
    store.shutdown().await?;
    Ok(())
}
