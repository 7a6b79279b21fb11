//! The node's home: `~/.grid`, or what `GRID_HOME` says.
//!
//! ```text
//! config.toml    settings (quota, copies), and the root of the symbol table; the user's comments are kept
//! cache/         the store (see store/FORMAT.md)
//! code/          compiled modules, local to this machine; may be deleted
//! keys/          private keys (0600)
//! peers/         peers and what they provide; may be deleted, but for those that were added by hand
//! syscalls       what the syscall tree has learnt; may be deleted
//! run/           socket of the daemon, its log
//! mnt/           the default mount point
//! ```
//! The home is the owner's alone (0700).

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytesize::ByteSize;
use gridfs_store::Cid;
use serde::Deserialize;
use toml_edit::DocumentMut;

use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::peers::Settings;
use crate::workload::MAX_RUNS;

const README: &str = "# gridfs node. `root` is the symbol table's newest root; gridfs writes it.\n";

/// The table `[peers]` of config.toml.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PeersTable {
    serve: bool,
    listen: Option<Vec<String>>,
    grid: Option<String>,
    allow: Option<Vec<String>>,
    mdns: bool,
    relay: bool,
    run: usize,
}

/// Paths of the home, and its configuration.
pub struct Home {
    directory: PathBuf,
    config: Mutex<DocumentMut>,
}

impl Home {
    /// The home that the environment names: `GRID_HOME`, else `~/.grid`.
    pub fn from_environment() -> Result<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("GRID_HOME").or_else(|| set("HOME").map(|home| home.join(".grid"))).ok_or_else(|| {
            Error::new(
                Code::Usage,
                "neither GRID_HOME nor HOME is set; set GRID_HOME to the node's directory, or mount with -o home=DIR",
            )
        })?;
        std::path::absolute(&home).map_err(|e| Error::caused(Code::Usage, format!("can't use {}", home.display()), e))
    }

    /// Opens the home, creating what is missing.
    pub fn open(directory: &Path) -> Result<Home> {
        for part in ["", "cache", "code", "keys", "run"] {
            create_private(&directory.join(part))?;
        }
        let path = directory.join("config.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => README.into(),
            Err(e) => return Err(failed("read", &path, e)),
        };
        let config = text.parse::<DocumentMut>().map_err(|e| {
            Error::new(Code::General, format!("{} is not valid TOML: {e}\ncorrect it and try again", path.display()))
        })?;
        Ok(Home { directory: directory.to_owned(), config: Mutex::new(config) })
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Directory of the store.
    pub fn store(&self) -> PathBuf {
        self.directory.join("cache")
    }

    /// Directory of private keys.
    pub fn keys(&self) -> PathBuf {
        self.directory.join("keys")
    }

    /// Directory of compiled modules.
    pub fn code(&self) -> PathBuf {
        self.directory.join("code")
    }

    /// Directory of what is known of peers.
    pub fn peers_directory(&self) -> PathBuf {
        self.directory.join("peers")
    }

    /// How this node deals with peers, the table `[peers]`:
    ///
    /// ```toml
    /// [peers]
    /// serve = true                          # listen whenever the daemon runs
    /// listen = ["/ip4/0.0.0.0/tcp/4747"]    # where
    /// grid = "office"                       # a grid of one's own
    /// allow = ["12D3KooW..."]               # no other peers than these
    /// mdns = true                           # look for peers on the local network
    /// relay = true                          # relay between peers that don't reach each other
    /// run = 2                               # so many calls at a time are run for peers
    /// ```
    pub fn peers(&self) -> Result<Settings> {
        let config = self.config.lock().expect("no panic while it is held");
        let Some(item) = config.get("peers") else { return Ok(Settings::default()) };
        let wrong = |why: String| {
            let path = self.directory.join("config.toml");
            Error::new(Code::General, format!("[peers] in {} is wrong: {why}", path.display()))
        };
        let table = item.as_table().ok_or_else(|| wrong("it is no table".into()))?;
        let table: PeersTable = toml_edit::de::from_document(DocumentMut::from(table.clone()))
            .map_err(|e| wrong(e.message().to_owned()))?;
        let address = |text: &String| text.parse().map_err(|e| wrong(format!("{text:?} is no address: {e}")));
        let listen =
            table.listen.as_deref().map(|texts| texts.iter().map(address).collect::<Result<_>>()).transpose()?;
        let peer = |text: &String| text.parse::<NodeId>().and_then(|node| crate::peers::peer_id(&node));
        let peer = |text: &String| peer(text).map_err(|_| wrong(format!("{text:?} is no peer's id")));
        let allow = table.allow.as_deref().map(|texts| texts.iter().map(peer).collect::<Result<_>>()).transpose()?;
        if table.run > MAX_RUNS {
            return Err(wrong(format!("run = {} is more than {MAX_RUNS}, the most that are run at a time", table.run)));
        }
        Ok(Settings {
            listen: listen.unwrap_or_else(Settings::default_listen),
            serve: table.serve,
            grid: table.grid,
            allow,
            mdns: table.mdns,
            relay: table.relay,
            run: table.run,
        })
    }

    /// File of the syscall tree.
    pub fn syscalls(&self) -> PathBuf {
        self.directory.join("syscalls")
    }

    /// A CID that the configuration holds under `key`.
    pub fn cid(&self, key: &str) -> Result<Option<Cid>> {
        let config = self.config.lock().expect("no panic while it is held");
        let Some(item) = config.get(key) else { return Ok(None) };
        let wrong = |why: String| {
            let path = self.directory.join("config.toml");
            Error::new(Code::General, format!("{} in {} is not a CID: {why}", key, path.display()))
        };
        let text = item.as_str().ok_or_else(|| wrong("it is not a string".into()))?;
        text.parse().map(Some).map_err(|e| wrong(format!("{e}")))
    }

    /// The store's quota, `quota = "10 GiB"` or a number of bytes.
    pub fn quota_bytes(&self) -> Result<Option<u64>> {
        self.size_bytes("quota")
    }

    /// What plain copies of large files may take, `copies = "2 GiB"` or a number of bytes; 0 for none.
    pub fn copies_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes("copies")?.unwrap_or(crate::copies::DEFAULT_BYTES))
    }

    fn size_bytes(&self, key: &str) -> Result<Option<u64>> {
        let config = self.config.lock().expect("no panic while it is held");
        let Some(item) = config.get(key) else { return Ok(None) };
        let number = item.as_integer().and_then(|bytes| u64::try_from(bytes).ok());
        let parsed = number.or_else(|| item.as_str()?.parse::<ByteSize>().ok().map(|size| size.as_u64()));
        parsed.map(Some).ok_or_else(|| {
            let path = self.directory.join("config.toml");
            let why = format!("{key} in {} is no size; write it like \"10 GiB\", or as bytes", path.display());
            Error::new(Code::General, why)
        })
    }

    /// All CIDs that the configuration holds, with their keys.
    pub fn cids(&self) -> Vec<(String, Cid)> {
        let config = self.config.lock().expect("no panic while it is held");
        config.iter().filter_map(|(key, item)| Some((key.to_owned(), item.as_str()?.parse().ok()?))).collect()
    }

    /// Durably replaces CIDs in the configuration: a new file, synced, takes the old one's place.
    pub fn set_cids(&self, values: &[(&str, Cid)]) -> Result<()> {
        let mut config = self.config.lock().expect("no panic while it is held");
        let mut changed = config.clone();
        for (key, cid) in values {
            changed[*key] = toml_edit::value(cid.to_string());
        }
        let path = self.directory.join("config.toml");
        replace_file(&path, changed.to_string().as_bytes()).map_err(|e| failed("write", &path, e))?;
        *config = changed;
        Ok(())
    }
}

/// The daemon's socket in a home.
pub fn socket(home: &Path) -> PathBuf {
    home.join("run/socket")
}

/// The daemon's log in a home.
pub fn daemon_log(home: &Path) -> PathBuf {
    home.join("run/daemon.log")
}

/// Where a home's node is mounted when nothing else is said.
pub fn default_mount(home: &Path) -> PathBuf {
    home.join("mnt")
}

/// Creates a directory for the owner alone; one that is there is left as it is.
pub fn create_private(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("create", path, e))
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("toml.new");
    let mut file = File::create(&unfinished)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().expect("a file in the home has a directory"))?.sync_all()
}

fn failed(what: &str, path: &Path, source: io::Error) -> Error {
    let code = if source.kind() == io::ErrorKind::StorageFull { Code::Full } else { Code::General };
    Error::caused(code, format!("can't {what} {}", path.display()), source)
}

#[cfg(test)]
mod tests {
    use gridfs_store::Codec;

    use super::*;

    #[test]
    fn roots_survive_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), "# mine\nroot = \"x\" # here\n").unwrap();
        let home = Home::open(directory.path()).unwrap();
        assert!(home.cid("root").unwrap_err().to_string().contains("root in "));
        let cid = Cid::of(Codec::Raw, b"x");
        home.set_cids(&[("root", cid)]).unwrap();
        let again = Home::open(directory.path()).unwrap();
        assert_eq!(again.cid("root").unwrap(), Some(cid));
        assert_eq!(again.cid("builtins").unwrap(), None);
        assert_eq!(again.cids(), [("root".to_owned(), cid)]);
        let text = fs::read_to_string(directory.path().join("config.toml")).unwrap();
        assert_eq!(text, format!("# mine\nroot = \"{cid}\"\n"));
    }

    #[test]
    fn a_quota_is_a_size() {
        let directory = tempfile::tempdir().unwrap();
        for (text, expected) in [("", None), ("quota = \"1.5 GiB\"", Some(3 << 29)), ("quota = 5000", Some(5000))] {
            fs::write(directory.path().join("config.toml"), text).unwrap();
            assert_eq!(Home::open(directory.path()).unwrap().quota_bytes().unwrap(), expected);
        }
        for text in ["quota = \"much\"", "quota = -1", "quota = true"] {
            fs::write(directory.path().join("config.toml"), text).unwrap();
            let error = Home::open(directory.path()).unwrap().quota_bytes().unwrap_err().to_string();
            assert!(error.contains("is no size; write it like"), "{error}");
        }
    }

    #[test]
    fn what_is_no_toml_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), "root = ").unwrap();
        let error = Home::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("config.toml is not valid TOML"), "{error}");
    }
}
