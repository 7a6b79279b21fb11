//! Requests about names: the symbol table, and the names that this node and those that it follows publish.

use gridfs_p2p::{Multiaddr, PeerId, peer_key};
use gridfs_store::{Cid, Target};

use super::peers::parse_peer;
use super::{Answer, ChangeRow, FollowedRow, Service, blocking, rows};
use crate::error::{Code, Error, Result};
use crate::followed::{self, Followed};
use crate::identity::NodeId;
use crate::names::Change;
use crate::peers::split;
use crate::receipt::cid_of;
use crate::{published, time};

impl Service {
    pub(super) fn names(&self, at: Option<&str>) -> Result<Answer> {
        let names = &self.node.kernel.names;
        let table = match at {
            Some(root) => names.table_at(&parse_root(root)?)?,
            None => names.table(),
        };
        let (mut rows, published) = (rows(&table), self.node.kernel.published.names()?);
        rows.iter_mut().for_each(|row| row.published = published.contains(&row.name));
        Ok(Answer::Rows(rows))
    }

    pub(super) async fn set_name(&self, name: String, to: Option<String>) -> Result<Answer> {
        let names = &self.node.kernel.names;
        let target = match to {
            Some(what) => Some(self.target(&what).await?),
            None if names.get(&name).is_none() => {
                return Err(Error::new(Code::UnknownName, format!("there is no name {name:?}")));
            }
            None => None,
        };
        let _kept = match target.as_ref().and_then(cid_of) {
            Some(cid) => Some(self.hold(&cid)?),
            None => None,
        };
        if target.is_none() {
            // Whatever it is given to later was not meant to be published.
            self.node.kernel.published.remove(&name)?;
        }
        Ok(Answer::Root(names.change(&[(name, target)])?.to_string()))
    }

    pub(super) fn name_log(&self, limit: usize) -> Result<Answer> {
        let names = &self.node.kernel.names;
        let row = |(cid, root): (Cid, crate::names::Root)| {
            let time = time::text(root.time_ms);
            let changes = names.diff(&root)?.iter().map(change_line).collect();
            Ok(ChangeRow { root: cid.to_string(), time, changes })
        };
        Ok(Answer::Changes(names.history(limit)?.into_iter().map(row).collect::<Result<_>>()?))
    }

    pub(super) fn rollback(&self, to: &str) -> Result<Answer> {
        Ok(Answer::Root(self.node.kernel.names.rollback(&parse_root(to)?)?.to_string()))
    }

    pub(super) async fn publish(&self, names: Vec<String>, publish: bool) -> Result<Answer> {
        let kernel = self.node.kernel.clone();
        blocking(move || {
            if publish {
                return kernel.published.add(&names);
            }
            for name in &names {
                if !kernel.published.remove(name)? {
                    let why = format!("{name:?} is not published; `gridfs name list` shows what is");
                    return Err(Error::new(Code::UnknownName, why));
                }
            }
            Ok(())
        })
        .await?;
        self.announce().await?;
        Ok(Answer::Done)
    }

    /// Tells the hash table of what is published, if there is a network.
    async fn announce(&self) -> Result<()> {
        match self.node.kernel.peers.network() {
            Some(network) => published::announce(&self.node.kernel, network).await,
            None => Ok(()),
        }
    }

    pub(super) async fn follow(&self, peer: &str, name: Option<String>) -> Result<Answer> {
        let (peer, address) = peer_at(peer)?;
        let key = peer_key(&peer)
            .ok_or_else(|| Error::new(Code::Usage, format!("{peer} has no Ed25519 key, so it is no node of gridfs")))?;
        let network = self.node.network().await?;
        if let Some(address) = address
            && let Err(error) = network.add_peer(peer, &[address]).await
        {
            // Others may know its names.
            tracing::debug!(%peer, %error, "a peer to be followed is away");
        }
        let name = followed::follow(&self.node.kernel, network, NodeId(key), name).await?;
        self.follows(Some(&name))
    }

    pub(super) async fn unfollow(&self, name: String) -> Result<Answer> {
        let kernel = self.node.kernel.clone();
        blocking(move || followed::unfollow(&kernel, &name)).await?;
        Ok(Answer::Done)
    }

    /// Asks the node followed under this name, or all of them, what they publish now.
    pub(super) async fn update_names(&self, name: Option<&str>) -> Result<Answer> {
        let kernel = &self.node.kernel;
        let wanted = match name {
            Some(name) => vec![followed::named(&kernel.store, name)?],
            None => followed::all(&kernel.store)?,
        };
        let network = self.node.network().await?;
        let mut failed = None;
        for (node, followed) in wanted {
            if let Err(error) = followed::update(kernel, network, node).await {
                failed.get_or_insert(error.during(format!("can't update {:?}", followed.name)));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.follows(name),
        }
    }

    /// Who is followed; of a name, only who is under it.
    pub(super) fn follows(&self, name: Option<&str>) -> Result<Answer> {
        let all = followed::all(&self.node.kernel.store)?.into_iter();
        let wanted = all.filter(|(_, followed)| name.is_none_or(|name| followed.name == name));
        Ok(Answer::Followed(wanted.map(|(node, followed)| self.followed_row(&node, followed)).collect::<Result<_>>()?))
    }

    fn followed_row(&self, node: &NodeId, followed: Followed) -> Result<FollowedRow> {
        let (head, store) = (followed.head(node)?, &self.node.kernel.store);
        // It may have been collected, if the name was bound to something else.
        let names = store.tree(&head.table).map_or(0, |table| table.entries().len() as u64);
        Ok(FollowedRow {
            name: followed.name,
            node: node.to_string(),
            names,
            published: time::text(head.time_ms),
            since: time::text(followed.since_ms),
        })
    }
}

/// A peer, by its id or by an address that ends with it.
fn peer_at(text: &str) -> Result<(PeerId, Option<Multiaddr>)> {
    match text.contains('/') {
        true => split(text).map(|(peer, address)| (peer, Some(address))),
        false => Ok((parse_peer(text)?, None)),
    }
}

fn parse_root(text: &str) -> Result<Cid> {
    text.parse()
        .map_err(|e| Error::caused(Code::Usage, format!("{text:?} is not a root; `gridfs name log` lists them"), e))
}

fn change_line(change: &Change) -> String {
    let cid = |target: &Target| cid_of(target).map(|cid| cid.to_string()).unwrap_or_default();
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {} {}", change.name, cid(after)),
        (Some(before), None) => format!("- {} {}", change.name, cid(before)),
        (Some(before), Some(after)) => format!("~ {} {} -> {}", change.name, cid(before), cid(after)),
        (None, None) => String::new(),
    }
}
